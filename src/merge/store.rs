//! One delta as the tensors that store it, certified, and what is said of it.

use crate::adapter::{Family, LayerId, NewTensor, Param, WeightShape, stored_delta, write};
use crate::delta::joint::Joint;
use crate::error::Result;
use crate::fit::certificate::Certificate;
use crate::fit::{Bound, Choice, FitOptions, Fitter, Inherited};
use crate::report::{LayerReport, TensorReport};
use crate::tensor::Real;

/// How a parameter is stored, and how exactly.
pub(super) type Stored = (Family, Vec<NewTensor>, Certificate);

/// The parameter that a delta is for.
pub(super) struct Place<'a> {
    pub(super) shape: &'a WeightShape,
    pub(super) param: Param,
    /// Whether it is a norm layer's.
    pub(super) norm: bool,
}

/// The tensors that store a delta within `bound`, certified. A tolerance is kept by what was stored, not by what
/// was foretold: a layer that misses it by the arithmetic's rounding is made again, a little better.
pub(super) fn fit<T: Real>(
    options: &FitOptions,
    place: &Place<'_>,
    joint: &Joint<'_, T>,
    inherited: Option<Inherited>,
    bound: Bound,
) -> Result<Stored> {
    let fitter = Fitter::new(joint, place.shape, options).inherit(inherited);
    let mut choice = fitter.choose(bound)?;
    let mut tolerance = bound.tolerance;
    loop {
        let stored = make(options, place, joint, &fitter, choice)?;
        let error = stored.2.error();
        let missed = error > bound.tolerance && choice.point.error <= bound.tolerance;
        if !missed || bound.tolerance == 0.0 || bound.within_size || options.match_norm {
            return Ok(stored);
        }
        tolerance *= 0.99 * bound.tolerance / error;
        let better = fitter.choose(Bound { tolerance, ..bound })?;
        if better == choice {
            return Ok(stored);
        }
        choice = better;
    }
}

/// The tensors of a choice, certified.
pub(super) fn make<T: Real>(
    options: &FitOptions,
    place: &Place<'_>,
    joint: &Joint<'_, T>,
    fitter: &Fitter<'_, T>,
    choice: Choice,
) -> Result<Stored> {
    let (term, scale) = fitter.make(choice)?;
    let (family, tensors) = write(&term, scale, place.shape, place.param, place.norm, options.dtype)?;
    let certificate = Certificate::of(&stored_delta(&tensors)?, joint);
    Ok((family, tensors, certificate))
}

/// What is said of a stored layer, besides where it comes from.
pub(super) fn report(
    id: &LayerId,
    family: Family,
    shape: &WeightShape,
    tensors: &[NewTensor],
    certificate: &Certificate,
) -> LayerReport {
    let down = ["lora_down.weight", "lora_A.weight", "lokr_w2_b", "hada_w1_b", ".a2.weight"];
    let rank = tensors.iter().find(|t| down.iter().any(|name| t.suffix.ends_with(name))).map(|t| t.shape[0]);
    LayerReport {
        name: id.module.clone(),
        param: id.param.name(),
        family: family.name(),
        shape: shape.full(),
        rank,
        inputs: Vec::new(),
        coefficients: Vec::new(),
        space: None,
        norm: certificate.norm,
        error: certificate.error(),
        direction_error: certificate.direction_error(),
        tensors: tensors.iter().map(TensorReport::of).collect(),
    }
}
