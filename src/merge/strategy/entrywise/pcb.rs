//! PCB-merging (arXiv 2410.02396): a mean of the models' entries, weighed by how much each matters within its model and
//! how well it goes with the others, of which the part `pcb_ratio` counts.
//!
//! As in the authors' `pcb-merging.py`: Δ̃ᵢ is Δᵢ with absolute entries clamped to their quantiles 0.0001 and 0.9999; the
//! score is exp(n · ‖|Δ̃ᵢ|‖²) · tanh(Δᵢ Σⱼ Δⱼ), ‖·‖ mapping onto 0…1; scores below their quantile 1 − `pcb_ratio` become that,
//! and are mapped onto 0…1 to sᵢ; the merge is λ Σ wᵢ sᵢ Δ̃ᵢ / Σ sᵢ. Quantiles are whole places of the sorted order, so that
//! the largest entry is always clamped to the next. (The paper has softmaxes for exp and tanh; tanh of entries as small as
//! weight changes is linear, so that their scale doesn't matter.) The code divides by nothing where all entries or scores
//! are the same: here they then count alike.

use std::ops::Range;

use super::super::{Entrywise, Kind, Parameter, Row, Sheets};
use super::consensus::sign;
use super::cut::cuts;
use super::tiles::Tiles;
use super::{LAMBDA, SPACE, entries, row};
use crate::error::Result;

pub(in super::super) const ROW: Row = row(
    "pcb",
    "PCB-merging",
    "arXiv 2410.02396",
    "a mean of the entries that matter most in their model and go best with the others",
    &[
        Parameter {
            name: "pcb_ratio",
            kind: Kind::Above(0.0, 1.0),
            default: "0.1",
            help: "the part of each model's entries that counts",
        },
        LAMBDA,
        SPACE,
    ],
    |settings| {
        entries(Pcb { ratio: settings.number("pcb_ratio"), lambda: settings.number("lambda") }, settings)
    },
);

/// The part of absolute entries that is clamped at either end.
const CLAMPED: f64 = 0.0001;

struct Pcb {
    ratio: f64,
    lambda: f64,
}

/// The least and the greatest of what stays unclamped.
#[derive(Clone, Copy)]
struct Span(f64, f64);

impl Span {
    /// From 0 at the least to 1 at the greatest.
    fn place(self, x: f64) -> f64 {
        if self.1 > self.0 { (x.clamp(self.0, self.1) - self.0) / (self.1 - self.0) } else { 1.0 }
    }
}

/// The spans between two places of every lane's ascending order.
fn spans(
    lanes: usize,
    entries: usize,
    low: f64,
    high: f64,
    visit: impl Fn(&mut dyn FnMut(usize, &[f64])),
) -> Vec<Span> {
    let place = |place: f64| (place as usize).min(entries - 1);
    let total = entries as f64;
    let ends = [place(total * low), place((total * (1.0 - high) - 1.0).max(0.0))];
    let wanted: Vec<(usize, u64)> =
        (0..lanes).flat_map(|lane| ends.map(|end| (lane, (entries - end) as u64))).collect();
    cuts(lanes, &wanted, visit).chunks(2).map(|ends| Span(ends[0].least, ends[1].least)).collect()
}

impl Entrywise for Pcb {
    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        _: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()> {
        let tiles = Tiles::new(models);
        let (lanes, entries) = (tiles.count(), tiles.entries());
        if entries == 0 {
            return Ok(());
        }
        let sizes = spans(lanes, entries, CLAMPED, CLAMPED, |take| {
            tiles.for_each(|_, models| {
                for (lane, tile) in models.iter_mut().enumerate() {
                    tile.iter_mut().for_each(|x| *x = x.abs());
                    take(lane, tile);
                }
            });
        });
        let score = |models: &[Vec<f64>], lane: usize, sums: &[f64], scores: &mut Vec<f64>| {
            scores.clear();
            scores.extend(models[lane].iter().zip(sums).map(|(x, sum)| {
                let place = sizes[lane].place(x.abs());
                (lanes as f64 * place * place).exp() * (x * sum).tanh()
            }));
        };
        let sum = |models: &[Vec<f64>]| {
            let mut sums = vec![0.0; models[0].len()];
            models.iter().for_each(|tile| sums.iter_mut().zip(tile).for_each(|(sum, x)| *sum += x));
            sums
        };
        let counted = spans(lanes, entries, 1.0 - self.ratio, 0.0, |take| {
            let mut scores = Vec::new();
            tiles.for_each(|_, models| {
                let sums = sum(models);
                for lane in 0..lanes {
                    score(models, lane, &sums, &mut scores);
                    take(lane, &scores);
                }
            });
        });
        let mut scores = Vec::new();
        tiles.for_each(|rows, models| {
            let sums = sum(models);
            let (mut merged, mut divisors) = (vec![0.0; sums.len()], vec![0.0; sums.len()]);
            for (lane, w) in weights.iter().enumerate() {
                score(models, lane, &sums, &mut scores);
                let all = merged.iter_mut().zip(&mut divisors).zip(&models[lane]).zip(&scores);
                for (((merged, divisor), x), score) in all {
                    let share = counted[lane].place(*score);
                    *merged += w * share * sign(*x) * x.abs().clamp(sizes[lane].0, sizes[lane].1);
                    *divisor += share;
                }
            }
            for (merged, divisor) in merged.iter_mut().zip(&divisors) {
                *merged = self.lambda * *merged / divisor.max(1e-12);
            }
            take(rows, &merged);
        });
        Ok(())
    }
}
