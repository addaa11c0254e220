//! `set_weight`: a new weight in the place of the base model's (ComfyUI), ΔW = new − W.

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::shape::WeightShape;
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::Result;
use crate::tensor::Real;

const NEW: &str = ".set_weight";

pub(super) static ROW: Row = Row {
    family: Family::Replace,
    param: Param::Weight,
    marks: &[NEW],
    others: &[],
    inner: &[],
    applies: |_| true,
    check,
};

fn check(members: &Members<'_>) -> Result<Checked> {
    let base = members.base_for(Family::Replace)?;
    let shape = base.join(&WeightShape::of_tensor(members.factor(NEW)?.shape)?)?;
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let old = members.base_for(Family::Replace)?.matrix::<T>()?;
    let new = members.matrix::<T>(NEW, layer.shape.rows)?;
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(new - old))))
}
