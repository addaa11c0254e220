//! DoRA: a LoRA, LoHa or LoKr whose rows or columns are given lengths (arXiv 2402.09353, and LyCORIS for the input axis).
//!
//! With V = W + ΔW₀, where ΔW₀ is what the factors do with their scale, W' = V ∘ g with g = magnitude / ‖V‖, the norm of
//! each output's row, or of each input over all outputs and kernel positions. It is of V: some loaders take that of W on
//! the output axis, which is another picture than what was trained. ΔW = (g − 1) ∘ W + g ∘ ΔW₀, which cancels nothing.

use faer::Mat;

use super::base::Base;
use super::family::{Checked, Family, Row};
use super::members::Members;
use super::{Layer, Param, loha, lokr, lora};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const SCALE: &str = ".dora_scale";
/// PEFT's spellings, always of outputs.
const VECTORS: [&str; 2] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight"];
const MARKS: [&str; 3] = [SCALE, VECTORS[0], VECTORS[1]];

/// What it stands on.
static INNER: [&Row; 3] = [&lora::ROW, &loha::ROW, &lokr::ROW];

pub(super) static ROW: Row = Row {
    family: Family::Dora,
    param: Param::Weight,
    marks: &MARKS,
    others: &[],
    inner: &INNER,
    applies: |_| true,
    check,
};

/// Whether factors are a family of their own, and not what a magnitude stands on.
pub(super) fn is_absent(members: &Members<'_>) -> bool {
    !MARKS.iter().any(|mark| members.has(mark))
}

fn inner(members: &Members<'_>) -> Result<&'static Row> {
    let mut found = INNER.iter().filter(|row| row.marks.iter().any(|mark| members.has(mark)));
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(row),
        (None, _) => Err(Error::format("has a magnitude without the factors of a LoRA, LoHa or LoKr")),
        (Some(a), Some(b)) => {
            let (a, b) = (a.family, b.family);
            Err(Error::format(format!(
                "has a magnitude over both a {a} and a {b}; loaders disagree about it"
            )))
        }
    }
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let base = members.base_for(Family::Dora)?;
    let mut checked = (inner(members)?.check)(members)?;
    checked.shape = base.join(&checked.shape)?;
    axis(members, base)?;
    Ok(checked)
}

/// What has a magnitude each.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Outputs,
    Inputs,
}

/// The magnitude's tensor and its axis. `dora_scale` has the weight's number of dimensions and is 1 along the others; one
/// dimension alone is that of the outputs.
fn axis(members: &Members<'_>, base: &Base<'_>) -> Result<(&'static str, Axis)> {
    let mark = MARKS.into_iter().find(|mark| members.has(mark)).unwrap_or(SCALE);
    let (view, shape) = (members.factor(mark)?, base.shape());
    let outputs = match view.shape {
        [first, _, ..] if mark == SCALE => *first == shape.rows && (*first > 1 || view.len() == 1),
        _ => true,
    };
    let (axis, wanted) = if outputs { (Axis::Outputs, shape.rows) } else { (Axis::Inputs, shape.inputs()) };
    match view.len() == wanted {
        true => Ok((mark, axis)),
        false => Err(Error::format(format!(
            "'{mark}' has the shape {:?}; a {shape} weight has {} outputs and {} inputs",
            view.shape,
            shape.rows,
            shape.inputs()
        ))),
    }
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let base = members.base_for(Family::Dora)?;
    let (mark, axis) = axis(members, base)?;
    let magnitude = members.matrix::<f64>(mark, 1)?;
    let (weight, inner) = (base.matrix::<T>()?, inner(members)?.delta::<T>(members, layer)?.to_full());

    let positions: usize = base.shape().kernel().iter().product();
    let index = |i: usize, j: usize| if axis == Axis::Outputs { i } else { j / positions };
    let mut squares = vec![0.0; magnitude.ncols()];
    for j in 0..weight.ncols() {
        for i in 0..weight.nrows() {
            squares[index(i, j)] += (weight[(i, j)].to_f64() + inner[(i, j)].to_f64()).powi(2);
        }
    }
    // What is nothing has no direction to be given a length in.
    let gain =
        |(k, square): (usize, &f64)| if *square > 0.0 { magnitude[(0, k)] / square.sqrt() } else { 1.0 };
    let gains: Vec<f64> = squares.iter().enumerate().map(gain).collect();
    let entry = |i, j| {
        let gain = gains[index(i, j)];
        T::from_f64((gain - 1.0) * weight[(i, j)].to_f64() + gain * inner[(i, j)].to_f64())
    };
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(Mat::from_fn(weight.nrows(), weight.ncols(), entry)))))
}
