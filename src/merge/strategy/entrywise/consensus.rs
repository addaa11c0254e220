//! Whose entries are added up, and what their sum is divided by.

use std::hint::select_unpredictable;
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
            merged.resize(models[0].len(), 0.0);
            wide(Count { ballot: &ballot, models, merged: &mut merged });
            take(rows, &merged);
        });
    }
}

/// Makes the merged entries of the models' tiles.
struct Count<'a> {
    ballot: &'a Ballot,
    models: &'a [Vec<f64>],
    merged: &'a mut [f64],
}

impl Wide for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Entries that are counted together: what is known of them stays in the fastest cache.
        const BLOCK: usize = 256;
        let (mut elected, mut divisors) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (block, sums) in self.merged.chunks_mut(BLOCK).enumerate() {
            let range = block * BLOCK..block * BLOCK + sums.len();
            let votes = self.models.iter().map(|tile| &tile[range.clone()]).zip(&self.ballot.voters);
            let (elected, divisors) = (&mut elected[..sums.len()], &mut divisors[..sums.len()]);
            self.ballot.count(votes, elected, divisors, sums);
        }
    }
}

impl Ballot {
    /// Makes `sums` the merged entries; the other two are places to work in.
    #[inline(always)]
    fn count<'a>(
        &self,
        votes: impl Iterator<Item = (&'a [f64], &'a Voter)> + Clone,
        elected: &mut [f64],
        divisors: &mut [f64],
        sums: &mut [f64],
    ) {
        sums.fill(0.0);
        let Some(elect) = self.elect else {
            for (entries, Voter { coefficient, .. }) in votes {
                sums.iter_mut().zip(entries).for_each(|(sum, x)| *sum += coefficient * x);
            }
            sums.iter_mut().for_each(|sum| *sum *= self.factor);
            return;
        };
        elected.fill(0.0);
        for (entries, Voter { vote, .. }) in votes.clone() {
            let all = elected.iter_mut().zip(entries);
            match elect {
                Elect::Total => all.for_each(|(sum, x)| *sum += vote * x),
                Elect::Frequency => all.for_each(|(sum, x)| *sum += sign(vote * x)),
            }
        }
        elected.iter_mut().for_each(|sum| *sum = if *sum >= 0.0 { 1.0 } else { -1.0 });
        divisors.fill(0.0);
        for (entries, Voter { coefficient, vote, share }) in votes {
            let all = sums.iter_mut().zip(&mut *divisors).zip(&*elected).zip(entries);
            for (((sum, divisor), elected), x) in all {
                let agrees = vote * x * elected > 0.0;
                *sum += select_unpredictable(agrees, coefficient * x, 0.0);
                *divisor += select_unpredictable(agrees, *share, 0.0);
            }
        }
        if self.divides {
            for (sum, divisor) in sums.iter_mut().zip(divisors) {
                let quotient = self.factor * *sum / *divisor;
                *sum = if *divisor > 0.0 { quotient } else { 0.0 };
            }
        } else {
            sums.iter_mut().for_each(|sum| *sum *= self.factor);
        }
    }
}

/// −1, 0 or 1.
#[inline(always)]
pub(super) fn sign(x: f64) -> f64 {
    (if x > 0.0 { 1.0 } else { 0.0 }) - (if x < 0.0 { 1.0 } else { 0.0 })
}
