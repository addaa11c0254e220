//! LoHa: ΔW = s · (w1_a w1_b) ∘ (w2_a w2_b), s = alpha/rank, applied once (FedPara, arXiv 2108.06098).
//!
//! With Tucker cores each half is T(t; a, b)[o,c,κ] = Σᵢⱼ t[i,j,κ] a[i,o] b[j,c]; note that `a` is then stored
//! transposed.

use super::family::{Checked, Family, Row};
use super::lora::{fold_tucker, tucker_kernel};
use super::members::Members;
use super::shape::{Dims, WeightShape};
use super::{Layer, Param, dora};
use crate::delta::{Delta, Factor, Hadamard, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

/// One half of the product: the names of its factors and of its core.
struct Half {
    a: &'static str,
    b: &'static str,
    core: &'static str,
}

const FIRST: Half = Half { a: ".hada_w1_a", b: ".hada_w1_b", core: ".hada_t1" };
const SECOND: Half = Half { a: ".hada_w2_a", b: ".hada_w2_b", core: ".hada_t2" };

pub(super) static ROW: Row = Row {
    family: Family::Loha,
    param: Param::Weight,
    marks: &[FIRST.a, FIRST.b, SECOND.a, SECOND.b],
    others: &[FIRST.core, SECOND.core, ".alpha"],
    inner: &[],
    applies: dora::is_absent,
    check,
};

fn check(members: &Members<'_>) -> Result<Checked> {
    let (first, first_rank) = half_shape(members, &FIRST)?;
    let (second, second_rank) = half_shape(members, &SECOND)?;
    let shape = first.join(&second).map_err(|_| {
        Error::format(format!(
            "its halves don't fit together: w1 makes a {first} matrix and w2 a {second} one"
        ))
    })?;
    let rank = members.flat(FIRST.b)?.0;
    let (scale, warning) = members.scale(rank)?;
    let lifted = first_rank.saturating_mul(second_rank).saturating_mul(shape.rows + shape.cols);
    let folded = first_rank.max(second_rank).saturating_mul(shape.cols);
    let expanded = lifted.min(shape.rows * shape.cols).max(folded);
    Ok(Checked { shape, scale, rank: Some(rank), expanded, warning })
}

/// The shape of a half and its inner rank.
fn half_shape(members: &Members<'_>, half: &Half) -> Result<(WeightShape, usize)> {
    let ((a_rows, a_cols), (rank, cols)) = (members.flat(half.a)?, members.flat(half.b)?);
    if members.has(half.core) {
        let kernel = tucker_kernel(members, half.core, a_rows, rank)?;
        return Ok((WeightShape::with_kernel(a_cols, cols, kernel)?, a_rows));
    }
    if a_cols != rank {
        return Err(Error::format(format!(
            "'{}' has {a_cols} columns and '{}' {rank} rows; both are the rank",
            half.a, half.b
        )));
    }
    let dims = match members.factor(half.b)?.shape {
        [_, _, kernel @ ..] if !kernel.is_empty() => Dims::Kernel(kernel.to_vec()),
        _ => Dims::Unknown,
    };
    Ok((WeightShape::new(a_rows, cols, dims)?, rank))
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let half = |half: &Half| -> Result<Factor<T>> {
        let a = members.matrix(half.a, members.flat(half.a)?.0)?;
        let b = members.matrix(half.b, members.flat(half.b)?.0)?;
        Ok(match members.has(half.core) {
            true => {
                let core = members.matrix(half.core, a.nrows())?;
                Factor::Product { left: a.transpose().to_owned(), right: fold_tucker(&core, &b) }
            }
            false => Factor::Product { left: a, right: b },
        })
    };
    Ok(Delta::of(layer.scale, Term::Hadamard(Hadamard { first: half(&FIRST)?, second: half(&SECOND)? })))
}
