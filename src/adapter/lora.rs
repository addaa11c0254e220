//! LoRA and its relatives: ΔW = s · up · down, s = alpha/rank (formats of kohya and LyCORIS).
//!
//! LoCon is the same on convolutions; with `lora_mid` (Tucker, CP) ΔW[o,c,κ] = s Σᵢⱼ up[o,i] mid[i,j,κ]
//! down[j,c]. DyLoRA and rs-LoRA files are stored as ordinary ones. LyCORIS' extraction may add the largest
//! entries of the residual as a sparse matrix (`bias_indices`, `bias_values`, `bias_size`).

use faer::Mat;

use super::family::{Checked, Family, Row};
use super::members::{Members, check_finite};
use super::shape::{Dims, WeightShape};
use super::{Layer, Param, dora};
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

pub(super) const UP: &str = ".lora_up.weight";
pub(super) const DOWN: &str = ".lora_down.weight";
pub(super) const MID: &str = ".lora_mid.weight";
/// The bias of `up`.
pub(super) const BIAS: &str = ".lora_B.bias";
/// The factors of a weight that is stored inputs by outputs: an embedding's, or one with fan_in_fan_out.
pub(super) const TRANSPOSED_FACTORS: [&str; 2] = [".lora_embedding_A", ".lora_embedding_B"];
const INDICES: &str = ".bias_indices";
const VALUES: &str = ".bias_values";
const SIZE: &str = ".bias_size";

pub(super) static ROW: Row = Row {
    family: Family::Lora,
    param: Param::Weight,
    marks: &[UP, DOWN],
    others: &[MID, ".alpha", INDICES, VALUES, SIZE],
    inner: &[],
    applies: dora::is_absent,
    check,
};

pub(super) static TRANSPOSED: Row = Row {
    family: Family::Lora,
    param: Param::Weight,
    marks: &TRANSPOSED_FACTORS,
    others: &[".alpha"],
    inner: &[],
    applies: dora::is_absent,
    check: check_transposed,
};

pub(super) static BIAS_ROW: Row = Row {
    family: Family::Full,
    param: Param::Bias,
    marks: &[BIAS],
    others: &[DOWN, ".alpha"],
    inner: &[],
    applies: |_| true,
    check: check_bias,
};

/// What a suffix means where a weight is stored inputs by outputs.
pub(super) fn transposed(suffix: &'static str) -> &'static str {
    match suffix {
        DOWN => TRANSPOSED_FACTORS[0],
        UP => TRANSPOSED_FACTORS[1],
        _ => suffix,
    }
}

fn check_transposed(members: &Members<'_>) -> Result<Checked> {
    let [a, b] = TRANSPOSED_FACTORS;
    let ((rank, rows), (cols, width)) = (members.flat(a)?, members.flat(b)?);
    if width != rank {
        return Err(Error::format(format!(
            "'{b}' has {width} columns and '{a}' {rank} rows; both are the rank"
        )));
    }
    let (scale, warning) = members.scale(rank)?;
    let shape = WeightShape::of_tensor(&[rows, cols])?;
    Ok(Checked { shape, scale, rank: Some(rank), expanded: 0, warning })
}

fn check_bias(members: &Members<'_>) -> Result<Checked> {
    let view = members.factor(BIAS)?;
    let (scale, warning) = members.scale(members.flat(DOWN)?.0)?;
    let shape = WeightShape::new(view.len(), 1, Dims::Vector)?;
    Ok(Checked { shape, scale, rank: None, expanded: view.len(), warning })
}

fn check(members: &Members<'_>) -> Result<Checked> {
    let (rank, down_cols) = members.flat(DOWN)?;
    let (rows, up_cols) = members.flat(UP)?;
    if up_cols != rank {
        return Err(Error::format(format!(
            "'{UP}' has {up_cols} columns and '{DOWN}' {rank} rows; both are the rank"
        )));
    }
    let shape = match members.get(MID) {
        None => WeightShape::of_tensor(&[&[rows], &members.factor(DOWN)?.shape[1..]].concat())?,
        Some(_) => WeightShape::with_kernel(rows, down_cols, tucker_kernel(members, MID, rank, rank)?)?,
    };
    let mut expanded = if members.has(MID) { rank.saturating_mul(shape.cols) } else { 0 };
    if [INDICES, VALUES, SIZE].iter().any(|suffix| members.has(suffix)) {
        sparse::<f32>(members, &shape)?;
        expanded = expanded.max(shape.rows * shape.cols);
    }
    let (scale, warning) = members.scale(rank)?;
    Ok(Checked { shape, scale, rank: Some(rank), expanded, warning })
}

pub(super) fn delta<T: Real>(members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
    let [a, b] = TRANSPOSED_FACTORS;
    if members.has(a) {
        let turned =
            |suffix| Ok(members.matrix::<T>(suffix, members.flat(suffix)?.0)?.transpose().to_owned());
        let term = Term::Plain(Factor::Product { left: turned(a)?, right: turned(b)? });
        return Ok(Delta::of(layer.scale, term));
    }
    let rank = members.flat(DOWN)?.0;
    let left = members.matrix(UP, layer.shape.rows)?;
    let down = members.matrix(DOWN, rank)?;
    let right = if members.has(MID) { fold_tucker(&members.matrix(MID, rank)?, &down) } else { down };
    let mut delta = Delta::of(layer.scale, Term::Plain(Factor::Product { left, right }));
    if members.has(VALUES) {
        let mut residual = Mat::zeros(layer.shape.rows, layer.shape.cols);
        for (i, j, value) in sparse::<T>(members, &layer.shape)? {
            residual[(i, j)] += value;
        }
        delta.add_scaled(1.0, &Delta::of(1.0, Term::Plain(Factor::Full(residual))));
    }
    Ok(delta)
}

/// The kernel of a core [i, j, k…], whose two leading sides must be the ranks of its factors.
pub(super) fn tucker_kernel(members: &Members<'_>, core: &str, i: usize, j: usize) -> Result<Vec<usize>> {
    match members.factor(core)?.shape {
        [a, b, kernel @ ..] if (*a, *b) == (i, j) => Ok(kernel.to_vec()),
        shape => {
            Err(Error::format(format!("'{core}' has the shape {shape:?}; it should begin with [{i}, {j}]")))
        }
    }
}

/// right[i, c, κ] = Σⱼ core[i, j, κ] · down[j, c], so that a Tucker product becomes a plain one, exactly.
pub(super) fn fold_tucker<T: Real>(core: &Mat<T>, down: &Mat<T>) -> Mat<T> {
    let (inner, inputs) = down.shape();
    let kernel = core.ncols() / inner;
    Mat::from_fn(core.nrows(), inputs * kernel, |i, column| {
        let (c, k) = (column / kernel, column % kernel);
        let sum = (0..inner).map(|j| core[(i, j * kernel + k)].to_f64() * down[(j, c)].to_f64()).sum();
        T::from_f64(sum)
    })
}

/// The entries of the residual: row, column, value.
fn sparse<T: Real>(members: &Members<'_>, shape: &WeightShape) -> Result<Vec<(usize, usize, T)>> {
    if members.integers(SIZE)? != [shape.rows, shape.cols] {
        return Err(Error::format(format!(
            "'{SIZE}' is not [{}, {}], the size of the layer",
            shape.rows, shape.cols
        )));
    }
    let values: Vec<T> = members.factor(VALUES)?.to_reals();
    check_finite(VALUES, &values)?;
    let indices = members.integers(INDICES)?;
    if indices.len() != 2 * values.len() {
        return Err(Error::format(format!(
            "'{INDICES}' has {} numbers for {} values",
            indices.len(),
            values.len()
        )));
    }
    let (rows, cols) = indices.split_at(values.len());
    let entries: Vec<_> = rows.iter().zip(cols).zip(values).map(|((&i, &j), value)| (i, j, value)).collect();
    match entries.iter().find(|(i, j, _)| *i >= shape.rows || *j >= shape.cols) {
        Some((i, j, _)) => {
            Err(Error::format(format!("'{INDICES}' names the entry ({i}, {j}), outside the layer")))
        }
        None => Ok(entries),
    }
}
