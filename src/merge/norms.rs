//! `match-norm inputs`: the merge of every layer is scaled, as it is factored, to the mean norm of what the inputs do there.
//!
//! ‖Δ‖ ← Σ|wᵢ|‖Δᵢ‖ / Σ|wᵢ| over the models that have the layer; with block weights, wᵢ is the product of both and Δᵢ is as
//! strong as its block weight makes it, so that a block at half strength stays at half, and a model that is off in a
//! block doesn't count there. A sum of models that don't agree is shorter than they are, and one of many models that do
//! is longer: published scores tune a factor for that, which this takes the place of.

use super::Context;
use super::plan::{Merged, Target};
use crate::delta::gram;
use crate::error::Result;
use crate::tensor::Real;

impl Context<'_> {
    /// Scales a merge to the norm of its inputs. One that is zero stays so.
    pub(super) fn match_norm<T: Real>(&self, target: &Target<'_>, merged: &mut Merged<T>) -> Result<()> {
        let (mut sum, mut total) = (0.0, 0.0);
        for source in &target.sources {
            let block = target.block_weight(self.inputs, source.input);
            let weight = (self.inputs[source.input].weight * block).abs();
            if weight > 0.0 {
                let norm = gram::norm(&target.read_by_weight::<T>(self.inputs, source)?);
                sum += weight * block.abs() * norm;
                total += weight;
            }
        }
        let norm = gram::norm(&merged.delta);
        if total > 0.0 && norm > 0.0 {
            let factor = sum / total / norm;
            merged.delta.scale(factor);
            merged.matched = Some(factor);
            merged.scaled = merged.scaled.max(factor);
            if self.rule.weighs().is_some() {
                merged.coefficients.iter_mut().for_each(|c| *c *= factor);
            }
        }
        Ok(())
    }
}
