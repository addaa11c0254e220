//! What of each model is kept: the largest entries, a band below the very largest, or a random part, and how the rest is
//! made up for.

use super::cut::{Cut, cuts};
use super::tiles::Tiles;
use crate::compute::round::{scrambled, uniform};
use crate::compute::simd::{Wide, wide};

/// Which entries are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sparsifier {
    /// The largest, and so many at least.
    Magnitude {
        /// 1 for mergekit, 0 for PEFT.
        least: usize,
    },
    /// The largest but for the part `gamma` of the very largest.
    Band {
        /// What is dropped at the top, as long as enough is left.
        gamma: f64,
    },
    /// Each with the same chance.
    Random,
    /// Each with a chance that grows with its rank in its row, from density − epsilon to density + epsilon.
    Ranked {
        /// Half of what the chances differ by.
        epsilon: f64,
    },
}

/// How what is kept makes up for what is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rescale {
    /// Not at all.
    No,
    /// Each entry is divided by the chance that it had.
    Density,
    /// The sum of absolute entries stays.
    L1,
}

/// How many of the largest entries are kept, at least so many, and after how many: the part `gamma` of all, if there is one.
pub(super) fn kept(entries: usize, density: f64, least: usize, gamma: Option<f64>) -> (usize, usize) {
    let share = |part: f64| (part * entries as f64) as usize;
    let kept = share(density).max(least);
    // What is too large goes only as far as the density allows.
    (kept, gamma.map_or(0, |gamma| share(gamma).min(entries - kept.min(entries))))
}

/// What makes up for the part of Σ|x| that isn't kept.
pub(super) fn l1_scale(all: f64, kept: f64) -> f64 {
    if kept > 0.0 { all / kept } else { 1.0 }
}

/// One model's mask, in a pass from the top.
#[derive(Clone)]
enum Mask {
    All,
    Nothing,
    /// The entries in the first cut and not in the second.
    Between(Edge, Option<Edge>),
    Random {
        stream: u64,
        chance: f64,
    },
    Ranked {
        stream: u64,
        least: f64,
        spread: f64,
        divide: bool,
    },
}

/// A cut, and how many equal entries are still in.
#[derive(Clone)]
pub(super) struct Edge {
    pub(super) least: f64,
    pub(super) equals: u64,
}

/// All models' masks, and what each is multiplied with. A clone begins at the top again.
#[derive(Clone)]
pub(super) struct Masks {
    masks: Vec<Mask>,
    row_length: usize,
    /// One factor per model.
    pub(super) scales: Vec<f64>,
}

impl Masks {
    /// Reads the models as often as their masks need.
    pub(super) fn new(
        tiles: &Tiles<'_>,
        kind: Sparsifier,
        density: f64,
        rescale: Rescale,
        seed: u64,
    ) -> Self {
        let count = tiles.count();
        let mut masks =
            Self { masks: vec![Mask::All; count], row_length: tiles.row_length(), scales: vec![1.0; count] };
        if density >= 1.0 {
            return masks;
        }
        masks.masks = match kind {
            Sparsifier::Random => {
                let mask = |model| Mask::Random { stream: scrambled(seed, model), chance: density };
                (0..count as u64).map(mask).collect()
            }
            Sparsifier::Ranked { epsilon } => {
                let mask = |model| Mask::Ranked {
                    stream: scrambled(seed, model),
                    least: density - epsilon,
                    spread: 2.0 * epsilon,
                    divide: rescale == Rescale::Density,
                };
                (0..count as u64).map(mask).collect()
            }
            Sparsifier::Magnitude { least } => by_magnitude(tiles, density, least, None),
            Sparsifier::Band { gamma } => by_magnitude(tiles, density, 0, Some(gamma)),
        };
        match rescale {
            Rescale::Density if !matches!(kind, Sparsifier::Ranked { .. }) => {
                masks.scales.fill(1.0 / density);
            }
            Rescale::L1 => masks.scales = masks.l1_scales(tiles),
            _ => {}
        }
        masks
    }

    /// Σ|x| / Σ|x| of what is kept.
    fn l1_scales(&self, tiles: &Tiles<'_>) -> Vec<f64> {
        let mut masks = self.clone();
        let mut sums = vec![(0.0, 0.0); self.masks.len()];
        tiles.for_each(|rows, models| {
            for (sums, tile) in sums.iter_mut().zip(&*models) {
                sums.0 += tile.iter().map(|x| x.abs()).sum::<f64>();
            }
            masks.apply(rows.start, models);
            for (sums, tile) in sums.iter_mut().zip(&*models) {
                sums.1 += tile.iter().map(|x| x.abs()).sum::<f64>();
            }
        });
        sums.into_iter().map(|(all, kept)| l1_scale(all, kept)).collect()
    }

    /// Zeroes what is dropped of the next tile, whose first row this is.
    pub(super) fn apply(&mut self, top: usize, models: &mut [Vec<f64>]) {
        let row_length = self.row_length;
        for (mask, tile) in self.masks.iter_mut().zip(models) {
            mask.apply(top * row_length, row_length, tile);
        }
    }
}

/// Masks by exact thresholds of the absolute entries: at least so many, below the part `gamma` of all if there is one.
fn by_magnitude(tiles: &Tiles<'_>, density: f64, least: usize, gamma: Option<f64>) -> Vec<Mask> {
    let (count, entries) = (tiles.count(), tiles.entries());
    let (kept, skipped) = kept(entries, density, least, gamma);
    if kept == 0 || entries == 0 {
        return vec![Mask::Nothing; count];
    }
    let counts = [kept + skipped, skipped];
    let wanted: Vec<(usize, u64)> = (0..count)
        .flat_map(|lane| counts.iter().filter(|n| **n > 0).map(move |n| (lane, *n as u64)))
        .collect();
    let found = cuts(count, &wanted, |take| {
        tiles.for_each(|_, models| {
            for (lane, tile) in models.iter_mut().enumerate() {
                tile.iter_mut().for_each(|x| *x = x.abs());
                take(lane, tile);
            }
        });
    });
    let mask = |cuts: &[Cut]| Mask::Between(Edge::of(&cuts[0]), cuts.get(1).map(Edge::of));
    found.chunks(wanted.len() / count).map(mask).collect()
}

impl Mask {
    /// Zeroes what is dropped of the entries from index `first` on.
    fn apply(&mut self, first: usize, row_length: usize, tile: &mut [f64]) {
        match self {
            Self::All => {}
            Self::Nothing => tile.fill(0.0),
            Self::Between(low, None) => low.drop_below(tile),
            Self::Between(low, Some(high)) => {
                // Which of several equal entries are above an edge is decided by their places, for both alike.
                let mut top = tile.to_vec();
                high.drop_below(&mut top);
                low.drop_below(tile);
                tile.iter_mut().zip(&top).for_each(|(x, top)| *x = if *top == 0.0 { *x } else { 0.0 });
            }
            Self::Random { stream, chance } => {
                for (i, x) in tile.iter_mut().enumerate() {
                    let kept = uniform(*stream, (first + i) as u64) < *chance;
                    *x = if kept { *x } else { 0.0 };
                }
            }
            Self::Ranked { stream, least, spread, divide } => {
                let mut order: Vec<u32> = Vec::new();
                for (k, row) in tile.chunks_mut(row_length).enumerate() {
                    order.clear();
                    order.extend(0..row.len() as u32);
                    order.sort_unstable_by(|i, j| {
                        row[*i as usize].abs().total_cmp(&row[*j as usize].abs()).then(i.cmp(j))
                    });
                    let last = row.len() - 1;
                    for (rank, at) in order.iter().enumerate() {
                        let place = if last == 0 { 0.5 } else { rank as f64 / last as f64 };
                        let chance = *least + *spread * place;
                        let index = first + k * row_length + *at as usize;
                        let kept = uniform(*stream, index as u64) < chance;
                        let x = &mut row[*at as usize];
                        *x = match (kept, *divide) {
                            (false, _) => 0.0,
                            (true, false) => *x,
                            (true, true) => *x / chance,
                        };
                    }
                }
            }
        }
    }
}

impl Edge {
    pub(super) fn of(cut: &Cut) -> Self {
        Self { least: cut.least, equals: cut.equals }
    }

    /// Zeroes entries below the cut, and those equal to its least that are one too many.
    pub(super) fn drop_below(&mut self, tile: &mut [f64]) {
        let least = self.least;
        let equal = wide(Drop { least, tile });
        if equal > self.equals {
            let mut left = self.equals;
            for x in tile.iter_mut().filter(|x| x.abs() == least) {
                *x = if left > 0 { *x } else { 0.0 };
                left = left.saturating_sub(1);
            }
        }
        self.equals = self.equals.saturating_sub(equal);
    }
}

/// Zeroes entries below `least`, and counts those that are equal to it.
struct Drop<'a> {
    least: f64,
    tile: &'a mut [f64],
}

impl Wide for Drop<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut equal = 0;
        for x in self.tile.iter_mut() {
            let size = x.abs();
            equal += u64::from(size == self.least);
            *x = if size < self.least { 0.0 } else { *x };
        }
        equal
    }
}
