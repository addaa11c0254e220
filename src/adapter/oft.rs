//! OFT on the outputs: diag-OFT of LyCORIS, OFT of sd-scripts, and LyCORIS' oldest, `oft_diag` (arXiv 2306.07280).
//!
//! Block n of the rows becomes Rₙᵀ Wₙ. R is Cayley's map of Q = B − Bᵀ, of all blocks together no longer than
//! c = alpha · outputs; LyCORIS knows no such limit where alpha is 0, sd-scripts no rotation. `oft_diag` holds R itself.
//! At strength m, R is I + m (R − I), and ΔW is not m times what it is at strength 1 unless there is no rescale.
//! A `rescale` multiplies the rotated rows. sd-scripts' files are known by their modules' prefix; there, a fused
//! projection has one tensor of blocks for each of its parts, each with a limit of its own.

use faer::{Mat, MatMut, Scale};

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::orthogonal::{Blocks, block_shape, rotated};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

pub(super) const BLOCKS: &str = ".oft_blocks";
pub(super) const RESCALE: &str = ".rescale";
const DIAG: &str = ".oft_diag";
const PARTS: [&str; 4] = [".oft_blocks.0", ".oft_blocks.1", ".oft_blocks.2", ".oft_blocks.3"];

pub(super) static ROW: Row = Row {
    family: Family::Oft,
    param: Param::Weight,
    marks: &[BLOCKS, DIAG, PARTS[0], PARTS[1], PARTS[2], PARTS[3]],
    others: &[RESCALE, ".alpha"],
    inner: &[],
    applies: |members| members.get(BLOCKS).is_none_or(|blocks| blocks.shape.len() != 4),
    check,
};

/// The prefix of sd-scripts' modules.
const SD_SCRIPTS: &str = "oft_unet_";

/// The tensors of blocks, in the order of their rows.
fn tensors(members: &Members<'_>) -> impl Iterator<Item = &'static str> {
    [BLOCKS, DIAG].into_iter().chain(PARTS).filter(|suffix| members.has(suffix))
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let shape = members.base_for(Family::Oft)?.shape().clone();
    let mut rows = 0;
    for suffix in tensors(members) {
        let (leading, side) = block_shape(members, suffix)?;
        let [blocks] = leading else {
            let shape = members.factor(suffix)?.shape;
            return Err(Error::format(format!("'{suffix}' has the shape {shape:?}; it should be [n, b, b]")));
        };
        rows += blocks * side;
    }
    if rows != shape.rows {
        return Err(Error::mismatch(format!(
            "rotates {rows} outputs; the base model's weight has {}",
            shape.rows
        )));
    }
    check_rescale(members, rows)?;
    if members.module().starts_with(SD_SCRIPTS) && members.alpha()?.is_none() {
        return Err(Error::format("has no alpha, which limits the rotation in files of sd-scripts"));
    }
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

/// One factor per output, where there are any.
pub(super) fn check_rescale(members: &Members<'_>, rows: usize) -> Result<()> {
    match members.get(RESCALE) {
        Some(view) if view.len() != rows => {
            Err(Error::format(format!("'{RESCALE}' has {} numbers for {rows} outputs", view.len())))
        }
        _ => Ok(()),
    }
}

/// What a rotation may not exceed: alpha as LyCORIS reads it, and no limit where it is 0 or not there.
pub(super) fn limit(members: &Members<'_>, rows: usize) -> Result<Option<f64>> {
    let alpha = members.alpha()?.unwrap_or(0.0);
    if !alpha.is_finite() {
        return Err(Error::value(format!("alpha is {alpha}; as the limit of a rotation it must be finite")));
    }
    Ok((alpha > 0.0).then_some(alpha * rows as f64))
}

/// Q, made as short as the limit says; the 1e-8 is LyCORIS'.
pub(super) fn shorten(q: &mut Blocks, limit: Option<f64>) {
    let norm = q.norm() + 1e-8;
    if let Some(limit) = limit.filter(|limit| norm > *limit) {
        q.scale(limit / norm);
    }
}

/// R − I of every block of a tensor.
fn rotations(members: &Members<'_>, suffix: &str) -> Result<(usize, Vec<Mat<f64>>)> {
    let blocks = Blocks::read(members, suffix)?;
    let side = blocks.side;
    if suffix == DIAG {
        let identity = Mat::<f64>::identity(side, side);
        return Ok((side, blocks.matrices.iter().map(|r| r - &identity).collect()));
    }
    let (mut q, rows) = (blocks.skew(), members.factor(suffix)?.len() / side);
    let limit = limit(members, rows)?;
    match members.module().starts_with(SD_SCRIPTS) {
        true => {
            let norm = q.norm();
            q.scale((norm.min(limit.unwrap_or(0.0)) + 1e-8) / (norm + 1e-8));
        }
        false => shorten(&mut q, limit),
    }
    Ok((side, q.rotations()))
}

pub(super) fn delta<T: Real>(members: &Members<'_>, _: &Layer) -> Result<Delta<T>> {
    let weight = members.base_for(Family::Oft)?.matrix::<T>()?;
    let mut delta = Mat::zeros(weight.nrows(), weight.ncols());
    let mut row = 0;
    for suffix in tensors(members) {
        let (side, rotations) = rotations(members, suffix)?;
        for rotation in &rotations {
            let part: MatMut<'_, T> = delta.subrows_mut(row, side);
            { part }.copy_from(rotated(
                &(rotation * Scale(members.strength())),
                true,
                &weight,
                row..row + side,
            ));
            row += side;
        }
    }
    rescale(members, &weight, &mut delta)?;
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(delta))))
}

/// `delta` becomes r ∘ (W + delta) − W.
pub(super) fn rescale<T: Real>(members: &Members<'_>, weight: &Mat<T>, delta: &mut Mat<T>) -> Result<()> {
    if members.has(RESCALE) {
        let factors = members.matrix::<f64>(RESCALE, 1)?;
        for j in 0..delta.ncols() {
            for i in 0..delta.nrows() {
                let (factor, w) = (factors[(0, i)], weight[(i, j)].to_f64());
                delta[(i, j)] = T::from_f64((factor - 1.0) * w + factor * delta[(i, j)].to_f64());
            }
        }
    }
    Ok(())
}
