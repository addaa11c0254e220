//! The base model's parameter under a layer: what its shape is checked against, and what the effect of some families
//! is made from.

use faer::Mat;

use super::shape::WeightShape;
use super::{LayerId, Param, reshape};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Parameter, identify};
use crate::tensor::Real;

/// A parameter of the base model.
#[derive(Clone, Debug)]
pub(super) struct Base<'a> {
    parameter: Parameter<'a>,
    shape: WeightShape,
}

/// The parameter that a layer changes, a weight padded with zeros where the adapter does so; none where there is no base
/// model, or where it has no such parameter.
///
/// # Errors
/// One that is larger than what it is to be padded to, or than any model's.
pub(super) fn find<'a>(
    model: Option<&'a Checkpoint>,
    id: &LayerId,
    reshape: Option<&[usize]>,
) -> Result<Option<Base<'a>>> {
    let Some(model) = model else { return Ok(None) };
    let module = identify(&id.module);
    let parameter = match id.param {
        Param::Weight => model.weight(&module),
        Param::Bias => model.bias(&module),
    };
    let Some(parameter) = parameter else { return Ok(None) };
    let own = parameter.shape();
    let shape = match reshape.filter(|_| id.param == Param::Weight) {
        None => WeightShape::of_tensor(&own)?,
        Some(dims) if dims.len() == own.len() && dims.iter().zip(&own).all(|(new, old)| new >= old) => {
            WeightShape::of_tensor(dims)?
        }
        Some(dims) => {
            return Err(Error::mismatch(format!(
                "pads the weight to {dims:?}, but '{}' of the base model is {own:?} already",
                parameter.name
            )));
        }
    };
    Ok(Some(Base { parameter, shape }))
}

/// Refuses a module that the base model doesn't have, and says which `near` ones may be meant. A weight without a bias may
/// have one stored all the same: trainers write `b_norm` for norm layers of every kind.
pub(super) fn check_module(model: Option<&Checkpoint>, module: &str, near: usize) -> Result<()> {
    let Some(model) = model else { return Ok(()) };
    let identity = identify(module);
    if model.weight(&identity).or_else(|| model.bias(&identity)).is_some() {
        return Ok(());
    }
    let missing = format!("changes a module that the base model {} doesn't have", model.path().display());
    let near: Vec<_> = match near {
        0 => Vec::new(),
        _ => model.nearest(&identity, near).iter().map(|name| format!("'{name}'")).collect(),
    };
    Err(Error::mismatch(match near.is_empty() {
        true => missing,
        false => format!("{missing}; most like it are {}", near.join(", ")),
    }))
}

impl Base<'_> {
    pub(super) fn shape(&self) -> &WeightShape {
        &self.shape
    }

    /// Its entries; a vector is one column.
    pub(super) fn matrix<T: Real>(&self) -> Mat<T> {
        let stored = self.parameter.to_matrix();
        if stored.shape() == (self.shape.rows, self.shape.cols) {
            return stored;
        }
        reshape::pad(&stored, &self.parameter.shape(), &self.shape)
    }

    /// What a layer's shape and this one have in common.
    ///
    /// # Errors
    /// They are the shapes of different parameters.
    pub(super) fn join(&self, layer: &WeightShape) -> Result<WeightShape> {
        layer.join(&self.shape).map_err(|_| {
            Error::mismatch(format!(
                "changes a {layer} parameter, but '{}' of the base model is {}; was it trained on another model?",
                self.parameter.name, self.shape
            ))
        })
    }
}
