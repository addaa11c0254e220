//! OFT of PEFT ("OFT v2"): rotations of the inputs, W' = W · blockdiag(R)ᵀ.
//!
//! A row of `oft_R` is a skew Q's upper triangle, row by row; one row for all blocks where there is only one. R is a
//! Neumann series for (I + Q)(I − Q)⁻¹, or exactly the inverse rotation (I − Q)(I + Q)⁻¹, as the configuration says.

use faer::{Mat, Scale};

use super::family::{Checked, Family, Row};
use super::members::Members;
use super::orthogonal::{cayley, rotated};
use super::{Layer, Param};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

const MARKS: [&str; 2] = [".oft_R.weight", ".oft_R"];

pub(super) static ROW: Row = Row {
    family: Family::PeftOft,
    param: Param::Weight,
    marks: &MARKS,
    others: &[],
    inner: &[],
    applies: |_| true,
    check,
};

/// What PEFT's configuration says of OFT; the default is PEFT's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OftFlags {
    /// `num_cayley_neumann_terms` where `use_cayley_neumann` is set, none where it isn't.
    pub(super) neumann_terms: Option<usize>,
    /// `eps` where `coft` is set: with N stored blocks, none is longer than eps/√N.
    pub(super) coft: Option<f64>,
}

impl Default for OftFlags {
    fn default() -> Self {
        Self { neumann_terms: Some(5), coft: None }
    }
}

/// The tensor, how many blocks it stores, and their side.
fn blocks(members: &Members<'_>) -> Result<(&'static str, usize, usize)> {
    let mark = MARKS.into_iter().find(|mark| members.has(mark)).unwrap_or(MARKS[0]);
    let (stored, numbers) = members.flat(mark)?;
    // b (b − 1) / 2 = numbers
    let side = (1 + 8 * numbers).isqrt().div_ceil(2);
    match side * (side - 1) / 2 == numbers {
        true => Ok((mark, stored, side)),
        false => Err(Error::format(format!(
            "'{mark}' has {numbers} columns, which are no block's upper triangle (b (b − 1) / 2)"
        ))),
    }
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let shape = members.base_for(Family::PeftOft)?.shape().clone();
    let (mark, stored, side) = blocks(members)?;
    if stored * side != shape.cols && (stored != 1 || !shape.cols.is_multiple_of(side)) {
        return Err(Error::mismatch(format!(
            "'{mark}' holds {stored} blocks of {side}; the base model's weight has {} inputs",
            shape.cols
        )));
    }
    Ok(Checked { shape, scale: 1.0, rank: None, expanded: 0, warning: None })
}

/// Q of one block: its upper triangle, and the negative below.
fn skew(triangle: &[f64], side: usize) -> Mat<f64> {
    let at = |i: usize, j: usize| triangle[i * (2 * side - i - 1) / 2 + j - i - 1];
    Mat::from_fn(side, side, |i, j| match i.cmp(&j) {
        std::cmp::Ordering::Less => at(i, j),
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Greater => -at(j, i),
    })
}

/// R − I of one of `stored` blocks.
fn rotation(mut q: Mat<f64>, stored: usize, flags: OftFlags) -> Mat<f64> {
    if let Some(eps) = flags.coft {
        let (norm, most) = (q.norm_l2(), eps / (stored as f64).sqrt());
        if norm > most {
            q *= Scale(most / norm);
        }
    }
    let Some(terms) = flags.neumann_terms else {
        q *= Scale(-1.0);
        return cayley(q.as_ref());
    };
    // 2 (Q + … + Q^(T−2)) + Q^(T−1) for T of four or more; PEFT's loop takes no other turn for three than for four.
    let whole = match terms {
        0 | 1 => 0,
        2 => 1,
        _ => terms.max(4) - 2,
    };
    let (mut sum, mut power) = (Mat::zeros(q.nrows(), q.ncols()), Mat::identity(q.nrows(), q.ncols()));
    for _ in 0..whole {
        power = &power * &q;
        sum += &power * Scale(2.0);
    }
    if terms > 2 { sum + &power * &q } else { sum }
}

pub(super) fn delta<T: Real>(members: &Members<'_>, _: &Layer) -> Result<Delta<T>> {
    let weight = members.base_for(Family::PeftOft)?.matrix::<T>()?.transpose().to_owned();
    let (mark, stored, side) = blocks(members)?;
    let triangles = members.matrix::<f64>(mark, stored)?;
    let rotations: Vec<_> = (0..stored)
        .map(|k| {
            rotation(skew(&triangles.row(k).iter().copied().collect::<Vec<_>>(), side), stored, members.oft())
        })
        .collect();
    let mut delta = Mat::zeros(weight.ncols(), weight.nrows());
    for block in 0..weight.nrows() / side {
        let columns = block * side..(block + 1) * side;
        let turned = rotated(&rotations[block % stored], false, &weight, columns.clone());
        delta.subcols_mut(columns.start, side).copy_from(turned.transpose());
    }
    Ok(Delta::of(1.0, Term::Plain(Factor::Full(delta))))
}
