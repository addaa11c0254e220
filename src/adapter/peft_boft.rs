//! BOFT of PEFT: butterflies of the inputs, W' = s ∘ (W · T₀ᵀ · T₁ᵀ ···), s one factor per output (arXiv 2311.06243).
//!
//! Stage i is Tᵢ = P · blockdiag(Rᵢ) · Pᵀ with R = (I − S)(I + S)⁻¹, S = (B − Bᵀ)/2. In every b·2ⁱ inputs, P lists the
//! half blocks of b/2 with even numbers first, then the odd ones.

use faer::Mat;

use super::boft::check_stages;
use super::family::{Checked, Family, Row};
use super::members::Members;
use super::orthogonal::{Blocks, block_shape, rotated};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const BLOCKS: &str = ".boft_R";
const FACTORS: &str = ".boft_s";

pub(super) static ROW: Row = Row {
    family: Family::PeftBoft,
    param: Param::Weight,
    marks: &[BLOCKS, FACTORS],
    others: &[],
    inner: &[],
    applies: |_| true,
    check,
};

fn check(members: &Members<'_>) -> Result<Checked> {
    let shape = members.base_for(Family::PeftBoft)?.shape().clone();
    let (leading, side) = block_shape(members, BLOCKS)?;
    let [stages, blocks] = leading else {
        let shape = members.factor(BLOCKS)?.shape;
        return Err(Error::format(format!(
            "'{BLOCKS}' has the shape {shape:?}; it should be [stages, n, b, b]"
        )));
    };
    let factors = members.factor(FACTORS)?.len();
    if (factors, blocks * side) != (shape.rows, shape.cols) {
        return Err(Error::mismatch(format!(
            "has {factors} factors and rotates {} inputs; the base model's weight is {shape}",
            blocks * side
        )));
    }
    // One stage moves nothing.
    if *stages > 1 {
        check_stages(*stages, *blocks, side)?;
    }
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, _: &Layer) -> Result<Delta<T>> {
    // Inputs are rows here, so that blocks of them lie together.
    let weight = members.base_for(Family::PeftBoft)?.matrix::<T>()?.transpose().to_owned();
    let mut skew = Blocks::read(members, BLOCKS)?.skew();
    // cayley(−S) is R − I.
    skew.scale(-0.5);
    let (side, rotations) = (skew.side, skew.rotations());
    let blocks = weight.nrows() / side;
    let mut delta = Mat::zeros(weight.nrows(), weight.ncols());
    for (stage, rotations) in rotations.chunks_exact(blocks).enumerate() {
        // perm[a]: P has its 1 of row a there.
        let perm = order(weight.nrows(), side, stage);
        let mut shuffled = Mat::zeros(weight.nrows(), weight.ncols());
        for (a, &place) in perm.iter().enumerate() {
            shuffled.row_mut(place).copy_from(weight.row(a) + delta.row(a));
        }
        let mut turned = Mat::zeros(weight.nrows(), weight.ncols());
        for (block, rotation) in rotations.iter().enumerate() {
            let rows = block * side..(block + 1) * side;
            turned.subrows_mut(rows.start, side).copy_from(rotated(rotation, false, &shuffled, rows.clone()));
        }
        for (a, &place) in perm.iter().enumerate() {
            let mut row = delta.row_mut(a);
            row += turned.row(place);
        }
    }
    let factors = members.matrix::<f64>(FACTORS, 1)?;
    let entry = |o, j| {
        let (factor, w, turned) = (factors[(0, o)], weight[(j, o)].to_f64(), delta[(j, o)].to_f64());
        T::from_f64((factor - 1.0) * w + factor * turned)
    };
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(Mat::from_fn(weight.ncols(), weight.nrows(), entry)))))
}

/// The inputs, in every group of b·2^stage the half blocks with even numbers first.
fn order(inputs: usize, side: usize, stage: usize) -> Vec<usize> {
    if stage == 0 {
        return (0..inputs).collect();
    }
    let (half, group) = (side / 2, side << stage);
    let source = |a: usize| {
        let (start, within) = (a / group * group, a % group);
        let (number, position) = (within / half, within % half);
        let evens = group / half / 2;
        let number = if number < evens { 2 * number } else { 2 * (number - evens) + 1 };
        start + number * half + position
    };
    (0..inputs).map(source).collect()
}
