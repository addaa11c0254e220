//! The base model's parameter under a layer: what its shape is checked against, and what the effect of some families
//! is made from.

use faer::Mat;

use super::shape::WeightShape;
use super::{LayerId, Param, reshape};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Parameter, identify, identify_shaped, nearest};
use crate::tensor::Real;

/// A parameter of the base model.
#[derive(Clone, Debug)]
pub(super) struct Base<'a> {
    /// Whole, or in the parts that the checkpoint has it in, outputs below each other.
    parts: Vec<Parameter<'a>>,
    /// Its own extents.
    dims: Vec<usize>,
    /// Its shape for the layer.
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
    let parts = match id.param {
        Param::Weight => shaped(model, &id.module, model.weight_parts(&module)),
        Param::Bias => model.bias_parts(&module),
    };
    let Some(dims) = extents(&parts)? else { return Ok(None) };
    let shape = match reshape.filter(|_| id.param == Param::Weight) {
        None => WeightShape::of_tensor(&dims)?,
        Some(new) if new.len() == dims.len() && new.iter().zip(&dims).all(|(new, old)| new >= old) => {
            WeightShape::of_tensor(new)?
        }
        Some(new) => {
            return Err(Error::mismatch(format!(
                "pads the weight to {new:?}, but '{}' of the base model is {dims:?} already",
                parts[0].name
            )));
        }
    };
    Ok(Some(Base { parts, dims, shape }))
}

/// The same weight as its shape has the module's name understood.
fn shaped<'a>(model: &'a Checkpoint, module: &str, parts: Vec<Parameter<'a>>) -> Vec<Parameter<'a>> {
    match parts.as_slice() {
        [whole] => {
            let dims = whole.shape();
            let cols = dims.iter().skip(1).product();
            model.weight_parts(&identify_shaped(module, whole.rows.len(), cols))
        }
        _ => parts,
    }
}

/// The extents of parts below each other.
fn extents(parts: &[Parameter<'_>]) -> Result<Option<Vec<usize>>> {
    let Some(first) = parts.first() else { return Ok(None) };
    let mut dims = first.shape();
    for part in &parts[1..] {
        let other = part.shape();
        if other.get(1..) != dims.get(1..) {
            return Err(Error::mismatch(format!(
                "joins '{}' and '{}' of the base model, whose shapes {:?} and {other:?} don't fit together",
                first.name,
                part.name,
                first.shape()
            )));
        }
        dims.iter_mut().take(1).for_each(|rows| *rows += part.rows.len());
    }
    Ok(Some(dims))
}

/// Refuses a module that the base model doesn't have, and says which one may be meant if there is time to `search`. A weight
/// without a bias may have one stored all the same: trainers write `b_norm` for norm layers of every kind.
pub(super) fn check_module(model: Option<&Checkpoint>, module: &str, search: bool) -> Result<()> {
    let Some(model) = model else { return Ok(()) };
    let identity = identify(module);
    if !model.weight_parts(&identity).is_empty() || !model.bias_parts(&identity).is_empty() {
        return Ok(());
    }
    let near = match search.then(|| nearest(module, model.modules())).flatten() {
        Some(near) => format!(" (the most similar is '{near}')"),
        None => String::new(),
    };
    Err(Error::mismatch(format!(
        "the checkpoint {} has no such module{near}; is it the model that the adapter was trained on?",
        model.path().display()
    )))
}

impl Base<'_> {
    pub(super) fn shape(&self) -> &WeightShape {
        &self.shape
    }

    /// Its entries; a vector is one column.
    ///
    /// # Errors
    /// Numbers that are not finite, or whose meaning isn't known.
    pub(super) fn matrix<T: Real>(&self) -> Result<Mat<T>> {
        let read = |part: &Parameter<'_>| {
            part.to_matrix::<T>().map_err(|e| e.in_layer(part.name).in_file(part.file.path()))
        };
        let stored = match &self.parts[..] {
            [whole] => read(whole)?,
            parts => {
                let mut joined = Mat::zeros(self.dims[0], self.dims.iter().skip(1).product());
                let mut row = 0;
                for part in parts {
                    let (part, rows) = (read(part)?, part.rows.len());
                    joined.subrows_mut(row, rows).copy_from(part);
                    row += rows;
                }
                joined
            }
        };
        Ok(match stored.shape() == (self.shape.rows, self.shape.cols) {
            true => stored,
            false => reshape::pad(&stored, &self.dims, &self.shape),
        })
    }

    /// What a layer's shape and this one have in common.
    ///
    /// # Errors
    /// They are the shapes of different parameters.
    pub(super) fn join(&self, layer: &WeightShape) -> Result<WeightShape> {
        layer.join(&self.shape).map_err(|_| {
            Error::mismatch(format!(
                "changes a {layer} parameter, but '{}' of the base model is {}; was it trained on another model?",
                self.parts[0].name, self.shape
            ))
        })
    }
}
