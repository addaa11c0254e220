//! Merges of entries in the steps that a GPU has kernels for: what masks and elections do tile by tile on the CPU, on whole
//! models.

use super::consensus::Consensus;
use super::sparsify::{Rescale, kept, l1_scale};
use crate::compute::cuda::{Entries, Fault};
use crate::compute::round::scrambled;
use crate::tensor::Real;

/// What of each model is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Keep {
    All,
    /// The largest entries, and so many at least, without the part `gamma` of all that is larger still.
    Largest {
        least: usize,
        gamma: Option<f64>,
    },
    /// Each with the same chance.
    Random,
}

/// A rule on entries as a GPU does it.
#[derive(Clone, Copy, Debug)]
pub struct OnGpu {
    pub(super) keep: Keep,
    pub(super) density: f64,
    pub(super) rescale: Rescale,
    pub(super) consensus: Consensus,
    pub(super) seed: u64,
}

impl OnGpu {
    /// Merges the models in the first one's place. `seed` is the layer's own.
    pub(in crate::merge) fn merge<T: Real>(
        &self,
        models: &mut Entries<'_, T>,
        weights: &[f64],
        seed: u64,
    ) -> Result<(), Fault> {
        let seed = scrambled(seed, self.seed);
        let mut scales = vec![1.0; weights.len()];
        for (model, scale) in scales.iter_mut().enumerate().filter(|_| self.keep != Keep::All) {
            let all = if self.rescale == Rescale::L1 { models.magnitudes(model)? } else { 0.0 };
            match self.keep {
                Keep::All => {}
                Keep::Largest { least, gamma } => {
                    let (kept, skipped) = kept(models.count(), self.density, least, gamma);
                    models.keep_largest(model, kept + skipped)?;
                    models.drop_largest(model, skipped)?;
                }
                Keep::Random => {
                    models.keep_at_random(model, scrambled(seed, model as u64), self.density)?;
                }
            }
            *scale = match self.rescale {
                Rescale::No => 1.0,
                Rescale::Density => 1.0 / self.density,
                Rescale::L1 => l1_scale(all, models.magnitudes(model)?),
            };
        }
        models.merge(&self.consensus.ballot(weights, &scales))
    }
}
