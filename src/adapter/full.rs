//! Differences stored as they are: `diff` and `diff_b`, and `w_norm` and `b_norm` of norm layers.

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::shape::{Dims, WeightShape};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::Result;
use crate::tensor::Real;

macro_rules! difference {
    ($name:ident, $family:ident, $param:ident, $suffix:literal) => {
        pub(super) static $name: Row = Row {
            family: Family::$family,
            param: Param::$param,
            marks: &[$suffix],
            others: &[],
            inner: &[],
            applies: |_| true,
            check: |members| check(members, $suffix, Param::$param),
        };
    };
}

difference!(DIFF, Full, Weight, ".diff");
difference!(DIFF_BIAS, Full, Bias, ".diff_b");
difference!(NORM, Norm, Weight, ".w_norm");
difference!(NORM_BIAS, Norm, Bias, ".b_norm");

/// The suffix of a difference by family and parameter.
pub fn norm_names(norm: bool, param: Param) -> &'static str {
    match (norm, param) {
        (false, Param::Weight) => ".diff",
        (false, Param::Bias) => ".diff_b",
        (true, Param::Weight) => ".w_norm",
        (true, Param::Bias) => ".b_norm",
    }
}

fn check(members: &Members<'_>, suffix: &str, param: Param) -> Result<Checked> {
    let view = members.factor(suffix)?;
    let shape = match param {
        Param::Weight => WeightShape::of_tensor(view.shape)?,
        Param::Bias => WeightShape::new(view.len(), 1, Dims::Vector)?,
    };
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: view.len(), warning: None })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, suffix: &str, layer: &Layer) -> Result<Delta<T>> {
    Ok(Delta::of(layer.scale, Term::Plain(Factor::Full(members.matrix(suffix, layer.shape.rows)?))))
}
