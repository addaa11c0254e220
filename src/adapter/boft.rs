//! BOFT of LyCORIS: OFT in stages, between which the outputs are shuffled as in a fast Fourier transform
//! (arXiv 2311.06243).
//!
//! With blocks of b = 2h, stage i swaps the order of (pair, position) in every 2ⁱ⁺¹h rows, multiplies the block j of
//! what is then in line by Rᵢⱼ, and swaps back. The limit of the rotation, its strength and `rescale` are
//! diag-OFT's.

use faer::{Mat, Scale};

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::oft::{self, BLOCKS, RESCALE};
use super::orthogonal::{Blocks, block_shape, rotated};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

pub(super) static ROW: Row = Row {
    family: Family::Boft,
    param: Param::Weight,
    marks: &[BLOCKS],
    others: &[RESCALE, ".alpha"],
    inner: &[],
    applies: |members| members.get(BLOCKS).is_some_and(|blocks| blocks.shape.len() == 4),
    check,
};

fn check(members: &Members<'_>) -> Result<Checked> {
    let shape = members.base_for(Family::Boft)?.shape().clone();
    let (leading, side) = block_shape(members, BLOCKS)?;
    let [stages, blocks] = leading else {
        return Err(Error::internal("a BOFT without stages"));
    };
    if blocks * side != shape.rows {
        let rows = blocks * side;
        return Err(Error::mismatch(format!(
            "rotates {rows} outputs; the base model's weight has {}",
            shape.rows
        )));
    }
    check_stages(*stages, *blocks, side)?;
    oft::check_rescale(members, shape.rows)?;
    oft::limit(members, shape.rows)?;
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

/// The last stage's groups, 2^(stages − 1) blocks each, must fill the blocks, and blocks must have halves.
pub(super) fn check_stages(stages: usize, blocks: usize, side: usize) -> Result<()> {
    let group = u32::try_from(stages - 1).ok().and_then(|last| 1_usize.checked_shl(last));
    let fits = group.is_some_and(|group| blocks.is_multiple_of(group));
    if !fits || side % 2 == 1 {
        return Err(Error::format(format!(
            "{stages} butterfly stages don't fit {blocks} blocks of {side}: stage i joins 2^i blocks by their halves"
        )));
    }
    Ok(())
}

pub(super) fn delta<T: Real>(members: &Members<'_>, _: &Layer) -> Result<Delta<T>> {
    let weight = members.base_for(Family::Boft)?.matrix::<T>()?;
    let mut q = Blocks::read(members, BLOCKS)?.skew();
    oft::shorten(&mut q, oft::limit(members, weight.nrows())?);
    let (side, rotations) = (q.side, q.rotations());
    let blocks = weight.nrows() / side;
    let mut delta = Mat::zeros(weight.nrows(), weight.ncols());
    for (stage, rotations) in rotations.chunks_exact(blocks).enumerate() {
        let width = (side << stage) / 2;
        // Where the row at `place` of the shuffled order comes from.
        let source = |place: usize| {
            let (group, position, half) = (place / (2 * width), place % (2 * width) / 2, place % 2);
            group * 2 * width + half * width + position
        };
        let shuffled = Mat::from_fn(weight.nrows(), weight.ncols(), |place, j| {
            weight[(source(place), j)] + delta[(source(place), j)]
        });
        for (block, rotation) in rotations.iter().enumerate() {
            let rotation = rotation * Scale(members.strength());
            let turned = rotated(&rotation, false, &shuffled, block * side..(block + 1) * side);
            for j in 0..turned.ncols() {
                for i in 0..side {
                    delta[(source(block * side + i), j)] += turned[(i, j)];
                }
            }
        }
    }
    oft::rescale(members, &weight, &mut delta)?;
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(delta))))
}
