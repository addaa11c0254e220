//! `reshape_weight`: before a layer is applied, the model's weight is padded with zeros to the shape that it names
//! (ComfyUI, for control LoRAs whose first layer has more inputs than the model's).

use faer::Mat;

use super::members::Members;
use super::shape::WeightShape;
use crate::delta::MOST_FORMED;
use crate::error::{Error, Result};
use crate::tensor::Real;

pub(crate) const SUFFIX: &str = ".reshape_weight";

/// The shape that a module's weight is padded to.
pub(super) fn of(members: &Members<'_>) -> Result<Option<Vec<usize>>> {
    if !members.has(SUFFIX) {
        return Ok(None);
    }
    let dims = members.integers(SUFFIX)?;
    let entries = dims.iter().fold(1, |product: usize, extent| product.saturating_mul(*extent));
    match !dims.is_empty() && (1..=MOST_FORMED).contains(&entries) {
        true => Ok(Some(dims)),
        false => Err(Error::format(format!("'{SUFFIX}' is {dims:?}, which is no weight's shape"))),
    }
}

pub(super) fn differs(dims: &[usize], layer: &WeightShape) -> Error {
    Error::format(format!("'{SUFFIX}' is {dims:?}, but its tensors change a {layer} parameter"))
}

/// The bytes of a tensor of the shape `own` in the corner of one of `dims`, of numbers whose zero is all zero bits.
pub(crate) fn pad_bytes(data: &[u8], size: usize, own: &[usize], dims: &[usize]) -> Vec<u8> {
    let mut padded = vec![0; dims.iter().product::<usize>() * size];
    let run = own.last().copied().unwrap_or(1) * size;
    for (index, numbers) in data.chunks_exact(run.max(1)).enumerate() {
        // The run's position in all extents but the last, and its place in the new ones.
        let (mut rest, mut place, mut stride) = (index, 0, dims.last().copied().unwrap_or(1));
        for (old, new) in own.iter().zip(dims).rev().skip(1) {
            place += rest % old * stride;
            rest /= old;
            stride *= new;
        }
        padded[place * size..][..run].copy_from_slice(numbers);
    }
    padded
}

/// A weight of the shape `own` in the corner of one of `shape`.
pub(super) fn pad<T: Real>(weight: &Mat<T>, own: &[usize], shape: &WeightShape) -> Mat<T> {
    let dims = shape.full();
    let mut padded = Mat::zeros(shape.rows, shape.cols);
    for column in 0..weight.ncols() {
        // The column's position in the own extents, and its place in the new ones.
        let (mut rest, mut place, mut stride) = (column, 0, 1);
        for (old, new) in own.iter().zip(&dims).skip(1).rev() {
            place += rest % old * stride;
            rest /= old;
            stride *= new;
        }
        padded.col_mut(place).subrows_mut(0, weight.nrows()).copy_from(weight.col(column));
    }
    padded
}
