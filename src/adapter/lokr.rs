//! LoKr: ΔW = s · (w1 ⊗ w2), each of w1 and w2 stored whole or as a product (LyCORIS, arXiv 2309.14859).
//!
//! The scale is 1 where both are whole, whatever alpha says (trainers leave a number there that means nothing,
//! even infinity; only PEFT applies its own); else alpha/r with the rank of w2's product, or of w1's. With `lokr_t2` w2 is the Tucker
//! product T(t2; w2_a, w2_b), `w2_a` stored transposed.

use super::family::{Checked, Family, Row};
use super::lora::{fold_tucker, tucker_kernel};
use super::members::Members;
use super::shape::{Dims, WeightShape, flat_cols};
use super::{Layer, Param, dora};
use crate::delta::{Delta, Factor, Kron, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const W1: &str = ".lokr_w1";
const W1_A: &str = ".lokr_w1_a";
const W1_B: &str = ".lokr_w1_b";
const W2: &str = ".lokr_w2";
const W2_A: &str = ".lokr_w2_a";
const W2_B: &str = ".lokr_w2_b";
const T2: &str = ".lokr_t2";

pub(super) static ROW: Row = Row {
    family: Family::Lokr,
    param: Param::Weight,
    marks: &[W1, W1_A, W1_B, W2, W2_A, W2_B],
    others: &[T2, ".alpha"],
    inner: &[],
    applies: dora::is_absent,
    check,
};

/// A factor's shape, the rank it is stored at (none: whole), and what it says of the kernel.
struct Part {
    rows: usize,
    cols: usize,
    rank: Option<usize>,
    /// An upper bound on its rank as a matrix.
    inner: usize,
    dims: Dims,
}

fn part(members: &Members<'_>, whole: &str, a: &str, b: &str) -> Result<Part> {
    match (members.has(whole), members.has(a) || members.has(b)) {
        (true, true) => {
            Err(Error::format(format!("has both '{whole}' and its decomposition; loaders disagree about it")))
        }
        (true, false) => {
            let (rows, cols) = members.flat(whole)?;
            let kernel = members.factor(whole)?.shape[2..].to_vec();
            Ok(Part { rows, cols, rank: None, inner: rows.min(cols), dims: Dims::Kernel(kernel) })
        }
        (false, _) => {
            let ((rows, inner), (rank, cols)) = (members.flat(a)?, members.flat(b)?);
            if inner != rank {
                return Err(Error::format(format!(
                    "'{a}' has {inner} columns and '{b}' {rank} rows; both are the rank"
                )));
            }
            let dims = match members.factor(b)?.shape {
                [_, _, kernel @ ..] if !kernel.is_empty() => Dims::Kernel(kernel.to_vec()),
                _ => Dims::Unknown,
            };
            Ok(Part { rows, cols, rank: Some(rank), inner: rank.min(rows).min(cols), dims })
        }
    }
}

fn w2_part(members: &Members<'_>) -> Result<Part> {
    if !members.has(T2) {
        return part(members, W2, W2_A, W2_B);
    }
    if members.has(W2) {
        return Err(Error::format(format!("has both '{W2}' and '{T2}'; loaders disagree about it")));
    }
    let ((left, rows), (rank, cols)) = (members.flat(W2_A)?, members.flat(W2_B)?);
    let kernel = tucker_kernel(members, T2, left, rank)?;
    Ok(Part {
        rows,
        cols: flat_cols(cols, &kernel),
        rank: Some(rank),
        inner: left,
        dims: Dims::Kernel(kernel),
    })
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let (w1, w2) = (part(members, W1, W1_A, W1_B)?, w2_part(members)?);
    if members.is_given()
        && members.has(W2)
        && matches!(w2.dims, Dims::Kernel(ref kernel) if kernel.len() == 1)
    {
        return Err(Error::unsupported(
            "is a LoKr of PEFT on a 1-D convolution, whose factors PEFT puts together in another way than all others",
        ));
    }
    let (rows, cols) = (w1.rows.saturating_mul(w2.rows), w1.cols.saturating_mul(w2.cols));
    let shape = WeightShape::new(rows, cols, w2.dims)?;
    let lifted = w1.inner.saturating_mul(w2.inner).saturating_mul(rows + cols);
    // w1 is made whole wherever it is used, and a Tucker core is folded into w2_b.
    let folded = if members.has(T2) { w2.inner.saturating_mul(w2.cols) } else { 0 };
    let expanded = lifted.min(rows * cols).max(w1.rows * w1.cols).max(folded);
    let rank = w2.rank.or(w1.rank);
    let (scale, warning) = rank.map_or(Ok((members.scale_of_whole(), None)), |rank| members.scale(rank))?;
    Ok(Checked { shape, scale, rank, expanded, warning })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let matrix = |suffix: &str| members.matrix(suffix, members.flat(suffix)?.0);
    let product = |a: &str, b: &str| Ok(Factor::Product { left: matrix(a)?, right: matrix(b)? });
    let a = if members.has(W1) { Factor::Full(matrix(W1)?) } else { product(W1_A, W1_B)? };
    let b = if members.has(W2) {
        Factor::Full(matrix(W2)?)
    } else if members.has(T2) {
        let right = fold_tucker(&matrix(T2)?, &matrix(W2_B)?);
        Factor::Product { left: matrix(W2_A)?.transpose().to_owned(), right }
    } else {
        product(W2_A, W2_B)?
    };
    Ok(Delta::of(layer.scale, Term::Kron(Kron { a, b })))
}

/// The sides of w1 in a LoKr file that was trained with `factor`: (out_l, in_m) of F(out) and F(in).
pub(crate) fn split_of(rows: usize, inputs: usize, factor: usize) -> (usize, usize) {
    (factorize(rows, factor).0, factorize(inputs, factor).0)
}

/// LyCORIS' factorisation of a dimension: `factor` and n/factor where it divides n, else the largest divisor
/// not above `factor` whose partner is not smaller; the smaller number first.
fn factorize(n: usize, factor: usize) -> (usize, usize) {
    if factor > 0 && n.is_multiple_of(factor) {
        return (factor.min(n / factor), factor.max(n / factor));
    }
    let root = (1..=n).find(|q| n.is_multiple_of(*q) && q * q >= n).unwrap_or(n);
    let small = (1..=factor.min(root)).rev().find(|d| n.is_multiple_of(*d)).unwrap_or(1);
    (small.min(n / small), small.max(n / small))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_cut_as_lycoris_cuts_them() {
        for (n, factor, pair) in [
            (128, 64, (2, 64)),
            (250, 8, (5, 50)),
            (360, 16, (15, 24)),
            (1280, 8, (8, 160)),
            (7, 4, (1, 7)),
            (4, 0, (1, 4)),
        ] {
            assert_eq!(factorize(n, factor), pair, "F({n}, {factor})");
        }
    }
}
