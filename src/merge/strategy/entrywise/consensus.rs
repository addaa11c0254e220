//! Whose entries are added up, and what their sum is divided by.

use super::sparsify::Masks;
use super::tiles::{Tiles, zero};
use crate::compute::simd::wide;
use std::ops::Range;

/// How the sign of an entry is elected; 0 elects plus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Elect {
    /// By the sum of the entries.
    Total,
    /// By the number of models.
    Frequency,
}

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
    /// Merges what the masks leave of the models.
    pub(super) fn merge(
        self,
        tiles: &Tiles<'_>,
        mut masks: Masks,
        weights: &[f64],
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) {
        let coefficients: Vec<f64> = weights.iter().zip(&masks.scales).map(|(w, scale)| w * scale).collect();
        let votes = if self.unweighted { masks.scales.clone() } else { coefficients.clone() };
        let shares: Vec<f64> = match self.divide {
            Divide::Count => vec![1.0; weights.len()],
            _ => weights.iter().map(|w| w.abs()).collect(),
        };
        let total: f64 = match self.divide {
            Divide::No => 1.0,
            _ => shares.iter().sum(),
        };
        let (mut sums, mut elected, mut divisors) = (Vec::new(), Vec::new(), Vec::new());
        tiles.for_each(|rows, models| {
            masks.apply(rows.start, models);
            zero([&mut sums, &mut elected, &mut divisors], models[0].len());
            wide(|| match self.elect {
                None => {
                    for (tile, c) in models.iter().zip(&coefficients) {
                        sums.iter_mut().zip(tile).for_each(|(sum, x)| *sum += c * x);
                    }
                    let factor = if total > 0.0 { self.lambda / total } else { 0.0 };
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                }
                Some(elect) => {
                    for (tile, vote) in models.iter().zip(&votes) {
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
                    for (((tile, c), vote), share) in
                        models.iter().zip(&coefficients).zip(&votes).zip(&shares)
                    {
                        let all = sums.iter_mut().zip(&mut divisors).zip(&elected).zip(tile);
                        for (((sum, divisor), elected), x) in all {
                            let agrees = vote * x * elected > 0.0;
                            *sum += if agrees { c * x } else { 0.0 };
                            *divisor += if agrees { *share } else { 0.0 };
                        }
                    }
                    if self.divide == Divide::No {
                        sums.iter_mut().for_each(|sum| *sum *= self.lambda);
                    } else {
                        for (sum, divisor) in sums.iter_mut().zip(&divisors) {
                            *sum = if *divisor > 0.0 { self.lambda * *sum / *divisor } else { 0.0 };
                        }
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
