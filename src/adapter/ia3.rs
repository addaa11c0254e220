//! (IA)³: one factor for each output, or each input (arXiv 2205.05638).
//!
//! LyCORIS stores w of ΔW = w ∘ W, and on which side; PEFT stores l = 1 + w, whose shape tells the side, and scales the
//! bias with the outputs.

use super::base::Base;
use super::family::{Checked, Family, Row};
use super::members::Members;
use super::own::Numbers;
use super::shape::{Dims, WeightShape};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const SIDE: &str = ".on_input";
const LYCORIS: &str = ".weight";
const PEFT: &str = ".ia3_l";

pub(super) static ROW: Row = Row {
    family: Family::Ia3,
    param: Param::Weight,
    marks: &[SIDE, PEFT],
    others: &[LYCORIS],
    inner: &[],
    applies: |_| true,
    check,
};

pub(super) static BIAS: Row = Row {
    family: Family::Ia3,
    param: Param::Bias,
    marks: &[PEFT],
    others: &[],
    inner: &[],
    applies: |members| members.base().is_some() && matches!(side(members), Ok(Side::Outputs)),
    check,
};

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Outputs,
    Inputs,
}

/// Which side is scaled. PEFT's vectors lie along it in linear layers; those of convolutions don't tell, and are taken
/// for the outputs', which is PEFT's default, wherever there are so many.
fn side(members: &Members<'_>) -> Result<Side> {
    if members.has(PEFT) {
        let outputs = match members.factor(PEFT)?.shape {
            [_, 1] => true,
            [1, _] => false,
            shape => {
                let n: usize = shape.iter().product();
                members.base().is_none_or(|base| base.shape().rows == n)
            }
        };
        return Ok(if outputs { Side::Outputs } else { Side::Inputs });
    }
    let view = members.get(SIDE).filter(|view| view.len() == 1);
    match view.map(|view| view.to_reals::<f64>()[0]) {
        Some(0.0) => Ok(Side::Outputs),
        Some(1.0) => Ok(Side::Inputs),
        _ => Err(Error::format(format!("'{SIDE}' is not 0 or 1"))),
    }
}

fn vector(members: &Members<'_>) -> &'static str {
    if members.has(PEFT) { PEFT } else { LYCORIS }
}

fn check(members: &Members<'_>) -> Result<Checked> {
    if members.has(PEFT) && (members.has(SIDE) || members.has(LYCORIS)) {
        return Err(Error::format(format!(
            "has both '{PEFT}' and LyCORIS' tensors; loaders disagree about it"
        )));
    }
    let (view, side) = (members.factor(vector(members))?, side(members)?);
    let shape = match members.base() {
        Some(base) if count(base, side) == view.len() => base.shape().clone(),
        Some(base) => {
            let (stored, side) = (view.len(), if side == Side::Outputs { "outputs" } else { "inputs" });
            return Err(Error::mismatch(format!(
                "scales {stored} {side}; the base model's weight is {}",
                base.shape()
            )));
        }
        // The factors themselves, which is all that can be merged.
        None => WeightShape::new(view.len(), 1, Dims::Vector)?,
    };
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

fn count(base: &Base<'_>, side: Side) -> usize {
    if side == Side::Outputs { base.shape().rows } else { base.shape().inputs() }
}

pub(super) fn delta<T: Real>(members: &Members<'_>, _: &Layer) -> Result<Delta<T>> {
    let base = members.base_for(Family::Ia3)?;
    let (mut delta, side) = (base.matrix::<T>()?, side(members)?);
    let factors = factors(members)?;
    let positions: usize = base.shape().kernel().iter().product();
    for j in 0..delta.ncols() {
        for i in 0..delta.nrows() {
            let k = if side == Side::Outputs { i } else { j / positions };
            delta[(i, j)] = T::from_f64(factors[k] * delta[(i, j)].to_f64());
        }
    }
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(delta))))
}

/// w
fn factors(members: &Members<'_>) -> Result<Vec<f64>> {
    let stored = members.matrix::<f64>(vector(members), 1)?;
    let one = if members.has(PEFT) { 1.0 } else { 0.0 };
    Ok(stored.row(0).iter().map(|x| x - one).collect())
}

/// Σ cᵢ wᵢ of layers that scale the same side in the same spelling.
pub(super) fn combine(sources: &[(f64, Members<'_>)]) -> Result<Vec<Numbers>> {
    let Some((_, first)) = sources.first() else { return Ok(Vec::new()) };
    let (mark, axis) = (vector(first), side(first)?);
    let mut sum = vec![if mark == PEFT { 1.0 } else { 0.0 }; first.factor(mark)?.len()];
    let shape = first.factor(mark)?.shape;
    for (coefficient, members) in sources {
        if vector(members) != mark || side(members)? != axis || members.factor(mark)?.shape != shape {
            return Err(Error::mismatch(
                "is an (IA)³ of another kind in an earlier input; these can only be merged with the base model (--base)",
            ));
        }
        sum.iter_mut().zip(factors(members)?).for_each(|(to, w)| *to += coefficient * w);
    }
    let mut out = vec![Numbers { suffix: mark, shape: shape.to_vec(), numbers: sum }];
    if mark == LYCORIS {
        let on_input = if axis == Side::Inputs { 1.0 } else { 0.0 };
        out.push(Numbers { suffix: SIDE, shape: Vec::new(), numbers: vec![on_input] });
    }
    Ok(out)
}
