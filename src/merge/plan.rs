//! Which layers there are, over all inputs, and what each of them becomes: its merged delta.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::strategy::{Facts, Strategy};
use super::{Input, engine};
use crate::adapter::{Dims, Family, Layer, LayerId, Param, WeightShape};
use crate::delta::{Delta, gram};
use crate::error::{Error, Result};
use crate::fit::Inherited;
use crate::tensor::Real;

/// One parameter of the model and the inputs that change it.
pub(super) struct Target<'a> {
    pub(super) id: &'a LayerId,
    /// What the inputs' shapes have in common.
    pub(super) shape: WeightShape,
    /// Whether an input stores it as a norm layer's difference.
    pub(super) norm: bool,
    /// Input and layer, in the order of the inputs.
    pub(super) sources: Vec<(usize, &'a Layer)>,
}

/// All targets of one module: what one worker does at a time, and what stands together in the file.
pub(super) struct Site<'a> {
    pub(super) module: &'a str,
    pub(super) targets: Vec<Target<'a>>,
}

/// The merged delta of a target, and how it came about.
pub(super) struct Merged<T: Real> {
    pub(super) delta: Delta<T>,
    /// What a fit in the inputs' own family keeps of them, where the delta's terms don't show it any more.
    pub(super) inherited: Option<Inherited>,
    /// One coefficient per source.
    pub(super) coefficients: Vec<f64>,
    /// What the strategy scaled the sum by, beyond its coefficients.
    pub(super) scaled: f64,
}

/// The sites of all inputs, in the order in which their tensors stand in a file.
pub(super) fn sites<'a>(inputs: &'a [Input]) -> Result<Vec<Site<'a>>> {
    let mut targets: BTreeMap<&LayerId, Target<'a>> = BTreeMap::new();
    for (index, input) in inputs.iter().enumerate() {
        for (id, layer) in input.adapter.layers() {
            let norm = layer.family == Family::Norm;
            let target = targets.entry(id).or_insert_with(|| Target {
                id,
                shape: layer.shape.clone(),
                norm,
                sources: Vec::new(),
            });
            target.shape = target
                .shape
                .join(&layer.shape)
                .map_err(|e| e.in_layer(&id.module).in_file(input.adapter.path()))?;
            target.norm |= norm;
            target.sources.push((index, layer));
        }
    }
    let mut sites: BTreeMap<String, Site<'a>> = BTreeMap::new();
    for (id, target) in targets {
        // Tensor names are the module's with a dot and a suffix, and sort so.
        let site = sites
            .entry(format!("{}.", id.module))
            .or_insert_with(|| Site { module: &id.module, targets: Vec::new() });
        site.targets.push(target);
    }
    Ok(sites.into_values().collect())
}

/// ‖Δᵢ‖ / Σ_layers ‖Δᵢ‖ of every target and input.
pub(super) type Shares<'a> = BTreeMap<&'a LayerId, Vec<f64>>;

/// Gathers the shares of all targets: the first pass of the strategies that need the whole file.
pub(super) fn shares<'a>(run: &engine::Run<'_>, inputs: &[Input], sites: &[Site<'a>]) -> Result<Shares<'a>> {
    let norms = run.map(sites, |site| {
        let norm = |target: &Target<'a>| -> Result<(&'a LayerId, Vec<f64>)> {
            let mut norms = vec![0.0; inputs.len()];
            for (index, layer) in &target.sources {
                norms[*index] = gram::norm(&inputs[*index].adapter.delta::<f32>(target.id, layer)?);
            }
            Ok((target.id, norms))
        };
        site.targets.iter().map(norm).collect::<Result<Vec<_>>>()
    })?;
    let mut shares: Shares<'a> = norms.into_iter().flatten().collect();
    for input in 0..inputs.len() {
        let total: f64 = shares.values().map(|norms| norms[input]).sum();
        if total > 0.0 {
            shares.values_mut().for_each(|norms| norms[input] /= total);
        }
    }
    Ok(shares)
}

impl Target<'_> {
    /// The merged delta by `strategy`.
    pub(super) fn merge<T: Real>(
        &self,
        inputs: &[Input],
        strategy: &dyn Strategy,
        shares: &Shares<'_>,
    ) -> Result<Merged<T>> {
        let weights: Vec<f64> = inputs.iter().map(|input| input.weight).collect();
        let present: Vec<usize> = self.sources.iter().map(|(index, _)| *index).collect();
        let read = |(index, layer): &(usize, &Layer)| inputs[*index].adapter.delta::<T>(self.id, layer);
        // All at once only where they are looked at together; memory doesn't grow with the inputs otherwise.
        let deltas: Vec<Delta<T>> = match strategy.needs_gram() {
            true => self.sources.iter().map(read).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let facts = Facts {
            weights: &weights,
            present: &present,
            entries: self.shape.rows * self.shape.cols,
            shares: shares.get(self.id).map_or(&[], Vec::as_slice),
            make_gram: &|| gram::gram(&deltas.iter().collect::<Vec<_>>()),
            gram: OnceCell::new(),
        };
        let all = strategy.coefficients(&facts);
        let mut coefficients: Vec<f64> =
            present.iter().map(|index| all[*index] * inputs[*index].block_factor(&self.id.module)).collect();
        if let Some(bad) = coefficients.iter().find(|c| !c.is_finite()) {
            let message = format!("the strategy gives the coefficient {bad}; are the weights' sums zero?");
            return Err(Error::value(message).in_layer(&self.id.module));
        }
        let mut delta = Delta::zero(self.shape.rows, self.shape.cols);
        let mut inherited = None;
        for (k, (coefficient, source)) in coefficients.iter().zip(&self.sources).enumerate() {
            match deltas.get(k) {
                Some(part) => delta.add_scaled(*coefficient, part),
                None => delta.add_scaled(*coefficient, &read(source)?),
            }
            if delta.is_crowded() {
                inherited = inherited.or_else(|| Some(Inherited::of(&delta).summed()));
                delta.condense()?;
            }
        }
        let scaled = scale_to_peak(&mut delta, &mut coefficients, strategy)?;
        Ok(Merged { delta, inherited, coefficients, scaled })
    }

    /// What is said where flat factors hide a convolution's kernel and the output needs it.
    pub(super) fn has_unknown_kernel(&self) -> bool {
        self.shape.dims == Dims::Unknown && self.id.param == Param::Weight
    }
}

/// Scales a merged delta to the largest entry that the strategy wants, and says by how much.
fn scale_to_peak<T: Real>(
    delta: &mut Delta<T>,
    coefficients: &mut [f64],
    strategy: &dyn Strategy,
) -> Result<f64> {
    let Some(wanted) = strategy.peak() else { return Ok(1.0) };
    delta.check_formable()?;
    let peak = delta.peak();
    if peak == 0.0 {
        return Ok(1.0);
    }
    let factor = wanted / peak;
    delta.scale(factor);
    coefficients.iter_mut().for_each(|c| *c *= factor);
    Ok(factor)
}
