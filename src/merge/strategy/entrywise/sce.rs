//! SCE (arXiv 2408.07990): select the part `select_topk` of the entries by their variance across the models, weigh every
//! model by its mean square there, erase entries that don't have the sign of the models' sum, and take the mean.
//!
//! As mergekit 0.1.5 does it, with the models scaled by the user's weights first, which it has none of. Otherwise than
//! there: it weighs all models alike where their mean squares sum to less than 1e-6, which a LoRA's easily do; and where
//! no entry varies, as with one model or with copies of one, it selects none and the merge is zero. Here there is no such
//! floor, and then all are selected.

use std::ops::Range;

use super::super::{Entrywise, Kind, Parameter, Row, Sheets};
use super::cut::cuts;
use super::sparsify::Edge;
use super::tiles::{Tiles, zero};
use super::{LAMBDA, SPACE, entries, row};
use crate::error::Result;

pub(in super::super) const ROW: Row = row(
    "sce",
    "SCE",
    "arXiv 2408.07990",
    "the entries on which the models differ most; of those, the mean weighed by the models' energy, without minority signs",
    &[
        Parameter {
            name: "select_topk",
            kind: Kind::Above(0.0, 1.0),
            default: "1",
            help: "the part of the entries that differ between models which is kept",
        },
        LAMBDA,
        SPACE,
    ],
    |settings| {
        let sce = Sce { select: settings.number("select_topk"), lambda: settings.number("lambda") };
        entries(sce, settings)
    },
);

struct Sce {
    select: f64,
    lambda: f64,
}

/// The variance of every entry across models, over `variances`. Differences to the first model, so that copies have none.
fn variances(models: &[Vec<f64>], weights: &[f64], variances: &mut Vec<f64>) {
    let n = weights.len() as f64;
    let first: Vec<f64> = models[0].iter().map(|x| weights[0] * x).collect();
    let mut means = vec![0.0; first.len()];
    for (tile, w) in models.iter().zip(weights) {
        means.iter_mut().zip(tile).zip(&first).for_each(|((mean, x), first)| *mean += (w * x - first) / n);
    }
    variances.clear();
    variances.resize(first.len(), 0.0);
    for (tile, w) in models.iter().zip(weights) {
        for (((variance, x), first), mean) in variances.iter_mut().zip(tile).zip(&first).zip(&means) {
            let off = w * x - first - mean;
            *variance += off * off / n;
        }
    }
}

impl Sce {
    /// Which entries vary enough; none where all are kept.
    fn selection(&self, tiles: &Tiles<'_>, weights: &[f64]) -> Option<Edge> {
        if self.select >= 1.0 {
            return None;
        }
        let visit = |take: &mut dyn FnMut(usize, &[f64])| {
            let mut numbers = Vec::new();
            tiles.for_each(|_, models| {
                variances(models, weights, &mut numbers);
                take(0, &numbers);
            });
        };
        let (mut squares, mut count) = (0.0, 0_usize);
        tiles.for_each(|_, models| {
            for (tile, w) in models.iter().zip(weights) {
                squares += tile.iter().map(|x| w * x * w * x).sum::<f64>();
                count += tile.len();
            }
        });
        // Copies of one model differ by rounding in a joint space.
        let floor = (1e-12_f64).powi(2) * squares / count.max(1) as f64;
        let mut varying = 0;
        visit(&mut |_, numbers| varying += numbers.iter().filter(|x| **x > floor).count());
        if varying == 0 {
            return None;
        }
        match (self.select * varying as f64) as u64 {
            0 => Some(Edge { least: f64::INFINITY, equals: 0 }),
            selected => Some(Edge::of(&cuts(1, &[(0, selected)], visit)[0])),
        }
    }
}

impl Entrywise for Sce {
    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        _: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()> {
        let tiles = Tiles::new(models);
        let selection = self.selection(&tiles, weights);
        // A clone of the selection begins at the top again.
        let select = |selection: &mut Option<Edge>, models: &mut [Vec<f64>], selected: &mut Vec<f64>| {
            if let Some(edge) = selection {
                variances(models, weights, selected);
                edge.drop_below(selected);
                for tile in models {
                    tile.iter_mut().zip(&*selected).for_each(|(x, v)| *x = if *v > 0.0 { *x } else { 0.0 });
                }
            }
        };
        let (mut of_pass, mut selected) = (selection.clone(), Vec::new());
        let mut energies = vec![0.0; weights.len()];
        tiles.for_each(|_, models| {
            select(&mut of_pass, models, &mut selected);
            for ((energy, tile), w) in energies.iter_mut().zip(&*models).zip(weights) {
                *energy += tile.iter().map(|x| w * x * w * x).sum::<f64>();
            }
        });
        let mut of_pass = selection;
        let (mut sums, mut divisors, mut elected) = (Vec::new(), Vec::new(), Vec::new());
        tiles.for_each(|rows, models| {
            select(&mut of_pass, models, &mut selected);
            zero([&mut sums, &mut divisors, &mut elected], models[0].len());
            for (tile, w) in models.iter().zip(weights) {
                elected.iter_mut().zip(tile).for_each(|(sum, x)| *sum += w * x);
            }
            for ((tile, w), energy) in models.iter().zip(weights).zip(&energies) {
                let all = sums.iter_mut().zip(&mut divisors).zip(&elected).zip(tile);
                for (((sum, divisor), elected), x) in all {
                    let x = w * x;
                    let agrees = (x > 0.0 && *elected >= 0.0) || (x < 0.0 && *elected < 0.0);
                    *sum += if agrees { energy * x } else { 0.0 };
                    *divisor += if agrees { *energy } else { 0.0 };
                }
            }
            for (sum, divisor) in sums.iter_mut().zip(&divisors) {
                *sum = if *divisor > 0.0 { self.lambda * *sum / *divisor } else { 0.0 };
            }
            take(rows, &sums);
        });
        Ok(())
    }
}
