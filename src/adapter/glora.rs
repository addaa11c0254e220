//! GLoRA of LyCORIS: ΔW = s · (W∘A + B), A = a1 a2 on the inputs, B = b1 b2, s = alpha/rank (arXiv 2306.07967).
//!
//! (W∘A)[o,j,κ] = Σᵢ W[o,i,κ] A[i,j], so a linear layer's is the low-rank [W a1 | b1] [a2 ; b2]. Old files name the
//! factors the other way round: A = a2 a1, B = b2 b1. The tensors tell the two apart by their shapes.

use faer::Mat;

use super::base::Base;
use super::family::{Checked, Family, Row};
use super::members::Members;
use super::own::Numbers;
use super::shape::{WeightShape, flat_cols};
use super::{Layer, Param};
use crate::compute::linalg::{product, row_major};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const A1: &str = ".a1.weight";
const A2: &str = ".a2.weight";
const B1: &str = ".b1.weight";
const B2: &str = ".b2.weight";

pub(super) static ROW: Row = Row {
    family: Family::Glora,
    param: Param::Weight,
    marks: &[A1, A2, B1, B2],
    others: &[".alpha"],
    inner: &[],
    applies: |_| true,
    check,
};

/// The names of the factors, left and right, and their sizes.
struct Layout {
    a: [&'static str; 2],
    b: [&'static str; 2],
    rank: usize,
    inputs: usize,
    outputs: usize,
    kernel: Vec<usize>,
}

fn layout(members: &Members<'_>) -> Result<Layout> {
    let make = |a: [&'static str; 2], b: [&'static str; 2]| -> Result<Option<Layout>> {
        let ((inputs, rank), (outputs, b_rank)) = (members.flat(a[0])?, members.flat(b[0])?);
        let shape = members.factor(b[1])?.shape;
        let (right, kernel) = (members.flat(a[1])?, shape.get(2..).unwrap_or(&[]).to_vec());
        let fits = right == (rank, inputs) && b_rank == rank && shape.get(..2) == Some(&[rank, inputs]);
        Ok(fits.then_some(Layout { a, b, rank, inputs, outputs, kernel }))
    };
    let (new, old) = (make([A1, A2], [B1, B2])?, make([A2, A1], [B2, B1])?);
    // A square weight's factors may fit both ways. Then the side that is the weight's is not the rank; where there is no
    // weight to ask, the smaller one is.
    let is_old = |old: &Layout, new: &Layout| match members.base() {
        Some(base) => base.shape().rows == old.outputs && base.shape().inputs() == old.inputs,
        None => old.rank < new.rank,
    };
    match (new, old) {
        (Some(new), Some(old)) => Ok(if is_old(&old, &new) { old } else { new }),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (None, None) => {
            let shapes: Vec<_> =
                members.iter().map(|(suffix, view)| format!("{suffix} {:?}", view.shape)).collect();
            Err(Error::format(format!("its factors don't fit together: {}", shapes.join(", "))))
        }
    }
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let Layout { rank, inputs, outputs, kernel, .. } = layout(members)?;
    let mut shape = WeightShape::with_kernel(outputs, inputs, kernel)?;
    if let Some(base) = members.base() {
        shape = base.join(&shape)?;
    }
    let (scale, warning) = members.scale(rank)?;
    // W∘A and B as one product.
    let most = rank
        .saturating_mul(shape.rows + shape.cols)
        .saturating_mul(1 + shape.kernel().iter().product::<usize>());
    let expanded = most.min(flat_cols(shape.rows, &[shape.cols]));
    Ok(Checked { shape, scale, rank: Some(rank), expanded, warning })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let base = members.base_for(Family::Glora)?;
    let Layout { a, b, inputs, outputs, rank, .. } = layout(members)?;
    let through_base = through(base, &members.matrix::<T>(a[0], inputs)?, &members.matrix::<T>(a[1], rank)?)?;
    let mut delta = Delta::of(layer.scale, Term::Plain(through_base));
    let direct = Factor::Product { left: members.matrix(b[0], outputs)?, right: members.matrix(b[1], rank)? };
    delta.add_scaled(layer.scale, &Delta::of(1.0, Term::Plain(direct)));
    Ok(delta)
}

/// W∘A. Every kernel position is a weight of its own, so a convolution's is low-rank with r columns for each.
fn through<T: Real>(base: &Base<'_>, a1: &Mat<T>, a2: &Mat<T>) -> Result<Factor<T>> {
    let (weight, rank) = (base.matrix::<T>()?, a1.ncols());
    let positions: usize = base.shape().kernel().iter().product();
    let mut left = Mat::zeros(weight.nrows(), rank * positions);
    let mut right = Mat::zeros(rank * positions, weight.ncols());
    for k in 0..positions {
        let at = Mat::from_fn(weight.nrows(), a1.nrows(), |o, i| weight[(o, i * positions + k)]);
        left.subcols_mut(k * rank, rank).copy_from(product(at.as_ref(), a1.as_ref()));
        for j in 0..a2.ncols() {
            for i in 0..rank {
                right[(k * rank + i, j * positions + k)] = a2[(i, j)];
            }
        }
    }
    Ok(Factor::Product { left, right })
}

/// The factors of all layers beside each other, weights and scales in the left ones: exactly Σ cᵢ Aᵢ and Σ cᵢ Bᵢ.
pub(super) fn combine(sources: &[(f64, Members<'_>)]) -> Result<Vec<Numbers>> {
    let layouts = sources.iter().map(|(_, members)| layout(members)).collect::<Result<Vec<_>>>()?;
    let Some(first) = layouts.first() else { return Ok(Vec::new()) };
    let rank: usize = layouts.iter().map(|layout| layout.rank).sum();
    let cols = flat_cols(first.inputs, &first.kernel);
    let (mut a1, mut a2) = (Mat::<f64>::zeros(first.inputs, rank), Mat::<f64>::zeros(rank, first.inputs));
    let (mut b1, mut b2) = (Mat::<f64>::zeros(first.outputs, rank), Mat::<f64>::zeros(rank, cols));
    let mut at = 0;
    for ((coefficient, members), layout) in sources.iter().zip(&layouts) {
        let Layout { a, b, rank, inputs, outputs, .. } = layout;
        if (*inputs, *outputs, &layout.kernel) != (first.inputs, first.outputs, &first.kernel) {
            return Err(Error::mismatch("changes a weight of another shape in an earlier input"));
        }
        let scale = faer::Scale(coefficient * members.scale(*rank)?.0);
        a1.subcols_mut(at, *rank).copy_from(members.matrix::<f64>(a[0], *inputs)? * scale);
        b1.subcols_mut(at, *rank).copy_from(members.matrix::<f64>(b[0], *outputs)? * scale);
        a2.subrows_mut(at, *rank).copy_from(members.matrix::<f64>(a[1], *rank)?);
        b2.subrows_mut(at, *rank).copy_from(members.matrix::<f64>(b[1], *rank)?);
        at += rank;
    }
    let ones = vec![1; first.kernel.len()];
    let tensor = |suffix, sides: [usize; 2], kernel: &[usize], matrix: &Mat<f64>| Numbers {
        suffix,
        shape: [&sides, kernel].concat(),
        numbers: row_major(matrix),
    };
    Ok(vec![
        tensor(A1, [first.inputs, rank], &ones, &a1),
        tensor(A2, [rank, first.inputs], &ones, &a2),
        Numbers { suffix: ".alpha", shape: Vec::new(), numbers: vec![rank as f64] },
        tensor(B1, [first.outputs, rank], &ones, &b1),
        tensor(B2, [rank, first.inputs], &first.kernel, &b2),
    ])
}
