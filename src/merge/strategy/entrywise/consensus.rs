//! Whose entries are added up, and what their sum is divided by.

use std::ops::Range;

use super::sparsify::Masks;
use super::tiles::{Tiles, zero};
use crate::compute::cuda::{Ballot, Elect, Voter};
use crate::compute::simd::wide;

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
        let Ballot { voters, elect, factor, divides } = self.ballot(weights, &masks.scales);
        let (mut sums, mut elected, mut divisors) = (Vec::new(), Vec::new(), Vec::new());
        tiles.for_each(|rows, models| {
            masks.apply(rows.start, models);
            zero([&mut sums, &mut elected, &mut divisors], models[0].len());
            wide(|| match elect {
                None => {
                    for (tile, Voter { coefficient, .. }) in models.iter().zip(&voters) {
                        sums.iter_mut().zip(tile).for_each(|(sum, x)| *sum += coefficient * x);
                    }
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                }
                Some(elect) => {
                    for (tile, Voter { vote, .. }) in models.iter().zip(&voters) {
                        match elect {
                            Elect::Total => {
                                elected.iter_mut().zip(tile).for_each(|(sum, x)| *sum += vote * x)
                            }
                            Elect::Frequency => {
                                elected.iter_mut().zip(tile).for_each(|(sum, x)| *sum += sign(vote * x));
                            }
                        }
                    }
                    elected.iter_mut().for_each(|sum| *sum = if *sum >= 0.0 { 1.0 } else { -1.0 });
                    for (tile, Voter { coefficient, vote, share }) in models.iter().zip(&voters) {
                        let all = sums.iter_mut().zip(&mut divisors).zip(&elected).zip(tile);
                        for (((sum, divisor), elected), x) in all {
                            let agrees = vote * x * elected > 0.0;
                            *sum += if agrees { coefficient * x } else { 0.0 };
                            *divisor += if agrees { *share } else { 0.0 };
                        }
                    }
                    if divides {
                        for (sum, divisor) in sums.iter_mut().zip(&divisors) {
                            *sum = if *divisor > 0.0 { factor * *sum / *divisor } else { 0.0 };
                        }
                    } else {
                        sums.iter_mut().for_each(|sum| *sum *= factor);
                    }
                }
            });
            take(rows, &sums);
        });
    }
}

/// −1, 0 or 1.
#[inline(always)]
pub(super) fn sign(x: f64) -> f64 {
    f64::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}
