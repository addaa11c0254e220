//! T-LoRA of LyCORIS 4: ΔW = s · (P diag(λ) Q − U diag(σ) Vᵀ), s = alpha/rank (arXiv 2507.05964).
//!
//! Training begins at the leading singular triplets U, σ, V of W, which the file doesn't hold: they are found again. Files
//! that began elsewhere (`sig_type`) don't say so.

use faer::{Mat, concat};

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::shape::WeightShape;
use super::{Layer, Param};
use crate::compute::linalg::{scale_columns, svd};
use crate::delta::{Delta, Factor, Term, cast};
use crate::error::{Error, Result};
use crate::tensor::Real;

const P: &str = ".p_layer.weight";
const Q: &str = ".q_layer.weight";
const LAMBDA: &str = ".lambda_layer";

pub(super) static ROW: Row = Row {
    family: Family::Tlora,
    param: Param::Weight,
    marks: &[LAMBDA, P, Q],
    others: &[".alpha"],
    inner: &[],
    applies: |_| true,
    check,
};

fn check(members: &Members<'_>) -> Result<Checked> {
    let base = members.base_for(Family::Tlora)?;
    let ((rank, inputs), (outputs, p_rank)) = (members.flat(Q)?, members.flat(P)?);
    let values = members.factor(LAMBDA)?.len();
    if (p_rank, values) != (rank, rank) {
        return Err(Error::format(format!(
            "'{P}' has {p_rank} columns, '{LAMBDA}' {values} numbers and '{Q}' {rank} rows; all are the rank"
        )));
    }
    if base.shape().kernel().iter().any(|extent| *extent != 1) {
        return Err(Error::unsupported(format!(
            "is a T-LoRA of the {} convolution; LyCORIS itself can't apply these, so nobody knows what it does",
            base.shape()
        )));
    }
    let shape = base.join(&WeightShape::with_kernel(outputs, inputs, Vec::new())?)?;
    if rank > shape.rows.min(shape.cols) {
        return Err(Error::format(format!("has the rank {rank}, more than the {shape} weight can have")));
    }
    let (scale, warning) = members.scale(rank)?;
    // LyCORIS reads an alpha of 0 as the rank.
    Ok(match scale == 0.0 {
        true => Checked { shape, scale: 1.0, rank: Some(rank), expanded: 0, warning: None },
        false => Checked { shape, scale, rank: Some(rank), expanded: 0, warning },
    })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let weight = members.base_for(Family::Tlora)?.matrix::<f64>()?;
    let rank = members.flat(Q)?.0;
    let (mut p, q) = (members.matrix::<f64>(P, layer.shape.rows)?, members.matrix::<f64>(Q, rank)?);
    scale_columns(&mut p, members.matrix::<f64>(LAMBDA, 1)?.row(0).iter().copied());
    // LyCORIS has this in float32; that is as far as a file can be from its training.
    let start = svd(weight.as_ref())?;
    let mut u = start.u.subcols(0, rank).to_owned();
    scale_columns(&mut u, start.sigma.iter().take(rank).map(|sigma| -sigma));
    let left: Mat<f64> = concat![[p, u]];
    let right: Mat<f64> = concat![[q], [start.v.subcols(0, rank).transpose()]];
    let term = Term::Plain(Factor::Product { left: cast(left.as_ref()), right: cast(right.as_ref()) });
    Ok(Delta::of(layer.scale, term))
}
