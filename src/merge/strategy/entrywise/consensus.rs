//! Whose entries are added up, and what their sum is divided by.

use std::ops::Range;

use super::sparsify::Masks;
use super::tiles::Tiles;
use crate::compute::cuda::{Ballot, Elect, Voter};
use crate::compute::simd::{Wide, wide};

/// What the sum of entries is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Divide {
    /// Nothing.
    No,
    /// The absolute weights of the models that are added up.
    Weights,
    /// Their number.
    Count,
}

/// How entries of all models become one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consensus {
    /// Only entries of the elected sign are added up, if one is elected.
    pub(super) elect: Option<Elect>,
    /// Whether the election is before the weights.
    pub(super) unweighted: bool,
    pub(super) divide: Divide,
    pub(super) lambda: f64,
}

impl Consensus {
    /// How it counts models with these weights, whose entries masks have left and scaled.
    pub(super) fn ballot(self, weights: &[f64], scales: &[f64]) -> Ballot {
        let voter = |(weight, scale): (&f64, &f64)| Voter {
            coefficient: weight * scale,
            vote: if self.unweighted { *scale } else { weight * scale },
            share: if self.divide == Divide::Count { 1.0 } else { weight.abs() },
        };
        let voters: Vec<Voter> = weights.iter().zip(scales).map(voter).collect();
        let divides = self.divide != Divide::No;
        let total: f64 = voters.iter().map(|voter| voter.share).sum();
        // Where all entries are added up, all sums have one divisor.
        let (factor, divides) = match self.elect {
            None if divides && total > 0.0 => (self.lambda / total, false),
            None if divides => (0.0, false),
            _ => (self.lambda, divides),
        };
        Ballot { voters, elect: self.elect, factor, divides }
    }

    /// Merges what the masks leave of the models.
    pub(super) fn merge(
        self,
        tiles: &Tiles<'_>,
        mut masks: Masks,
        weights: &[f64],
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) {
        let ballot = self.ballot(weights, &masks.scales);
        let mut merged = Vec::new();
        tiles.for_each(|rows, models| {
            masks.apply(rows.start, models);
            merged.clear();
            wide(Count { ballot: &ballot, models, merged: &mut merged });
            take(rows, &merged);
        });
    }
}

/// Appends the merged entries of the models' tiles.
struct Count<'a> {
    ballot: &'a Ballot,
    models: &'a [Vec<f64>],
    merged: &'a mut Vec<f64>,
}

impl Wide for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Entries that are counted side by side; their sums stay in registers.
        const LANES: usize = 8;
        let count = self.models[0].len();
        let whole = count - count % LANES;
        for at in (0..whole).step_by(LANES) {
            self.merged.extend(self.ballot.count::<LANES>(self.models, at));
        }
        (whole..count).for_each(|at| self.merged.extend(self.ballot.count::<1>(self.models, at)));
    }
}

impl Ballot {
    /// The merged entries from index `at` on.
    #[inline(always)]
    fn count<const LANES: usize>(&self, models: &[Vec<f64>], at: usize) -> [f64; LANES] {
        let entries = || {
            let of_model = |tile: &Vec<f64>| *tile[at..].first_chunk::<LANES>().expect("tiles are alike");
            models.iter().map(of_model).zip(&self.voters)
        };
        let (mut elected, mut sums, mut divisors) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let Some(elect) = self.elect else {
            for (x, voter) in entries() {
                (0..LANES).for_each(|lane| sums[lane] += voter.coefficient * x[lane]);
            }
            return sums.map(|sum| sum * self.factor);
        };
        for (x, voter) in entries() {
            for lane in 0..LANES {
                let own = voter.vote * x[lane];
                elected[lane] += if elect == Elect::Total { own } else { sign(own) };
            }
        }
        elected = elected.map(|sum| if sum >= 0.0 { 1.0 } else { -1.0 });
        for (x, voter) in entries() {
            for lane in 0..LANES {
                let agrees = voter.vote * x[lane] * elected[lane] > 0.0;
                sums[lane] += if agrees { voter.coefficient * x[lane] } else { 0.0 };
                divisors[lane] += if agrees { voter.share } else { 0.0 };
            }
        }
        let divided = |lane: usize| match divisors[lane] > 0.0 {
            true => self.factor * sums[lane] / divisors[lane],
            false => 0.0,
        };
        if self.divides { std::array::from_fn(divided) } else { sums.map(|sum| sum * self.factor) }
    }
}

/// −1, 0 or 1.
#[inline(always)]
pub(super) fn sign(x: f64) -> f64 {
    (if x > 0.0 { 1.0 } else { 0.0 }) - (if x < 0.0 { 1.0 } else { 0.0 })
}
