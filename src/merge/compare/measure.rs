//! The sums that comparisons are quotients of, for one layer.

use std::ops::Range;

use faer::{Mat, MatRef};

use super::Square;
use crate::compute::linalg::{centred_uniform, columns_gram, dot, product};
use crate::compute::round::seed_of;
use crate::compute::simd::wide;
use crate::delta::dense::Rows;
use crate::delta::{Delta, gram};
use crate::error::Result;
use crate::merge::Input;
use crate::merge::plan::Target;

/// Columns of all factors together up to which overlaps are little work.
const EASY: usize = 768;

/// Entries of a layer that signs are counted on, at most.
const ENTRIES: usize = 1 << 18;

/// Rows that are looked at together: made at once, they cost little.
const ROWS: usize = 8;

/// One layer's sums, and how they were found.
pub(super) struct Measured {
    pub(super) sums: Sums,
    /// Entries that signs were counted on.
    pub(super) entries: usize,
    /// Whether overlaps are much work, and still to be measured.
    pub(super) is_dense: bool,
}

/// Sums over layers, with a row and a column for each input.
pub(super) struct Sums {
    /// ⟨Δᵢ, Δⱼ⟩
    gram: Mat<f64>,
    /// Σ |x| + |y| over entries of opposite signs.
    conflict: Mat<f64>,
    /// Σ |x| of each input.
    mass: Vec<f64>,
    overlaps: Overlaps,
}

/// What the deltas have in common on either side, and what they would have by chance.
pub(super) struct Overlaps {
    /// ‖ΔᵢᵀΔⱼ‖² = ⟨ΔᵢΔᵢᵀ, ΔⱼΔⱼᵀ⟩
    outputs: Mat<f64>,
    /// ‖ΔᵢΔⱼᵀ‖² = ⟨ΔᵢᵀΔᵢ, ΔⱼᵀΔⱼ⟩
    inputs: Mat<f64>,
    /// ‖Δᵢ‖² ‖Δⱼ‖² by the number of outputs: the mean over all rotations of one against the other.
    outputs_by_chance: Mat<f64>,
    /// The same by the number of inputs.
    inputs_by_chance: Mat<f64>,
}

impl Overlaps {
    fn zero(n: usize) -> Self {
        let zero = || Mat::zeros(n, n);
        Self { outputs: zero(), inputs: zero(), outputs_by_chance: zero(), inputs_by_chance: zero() }
    }

    /// Those of the inputs that are `present` among all `n`.
    fn spread(&self, present: &[usize], n: usize) -> Self {
        let spread = |small: &Mat<f64>| spread(small, present, n);
        Self {
            outputs: spread(&self.outputs),
            inputs: spread(&self.inputs),
            outputs_by_chance: spread(&self.outputs_by_chance),
            inputs_by_chance: spread(&self.inputs_by_chance),
        }
    }
}

impl Measured {
    /// Of one layer, at the inputs' weights.
    pub(super) fn of(inputs: &[Input], target: &Target<'_>) -> Result<Self> {
        let (present, deltas) = read(inputs, target)?;
        let n = inputs.len();
        let spread = |small: &Mat<f64>| spread(small, &present, n);
        let (conflict, mass, entries) = signs(&deltas, seed_of(&[target.id.module.as_bytes()]))?;
        let mut all_mass = vec![0.0; n];
        present.iter().zip(mass).for_each(|(input, mass)| all_mass[*input] = mass);
        let is_dense = deltas.iter().map(Delta::lifted_rank).sum::<usize>() > EASY;
        let overlaps = match is_dense {
            true => Overlaps::zero(n),
            false => overlaps_of(&deltas).spread(&present, n),
        };
        let gram = spread(&gram::gram(&deltas.iter().collect::<Vec<_>>()));
        let sums = Sums { gram, conflict: spread(&conflict), mass: all_mass, overlaps };
        Ok(Self { sums, entries, is_dense })
    }
}

/// The overlaps of one layer alone.
pub(super) fn overlaps(inputs: &[Input], target: &Target<'_>) -> Result<Overlaps> {
    let (present, deltas) = read(inputs, target)?;
    Ok(overlaps_of(&deltas).spread(&present, inputs.len()))
}

/// The inputs that have a layer, and what they do there at their weights.
fn read(inputs: &[Input], target: &Target<'_>) -> Result<(Vec<usize>, Vec<Delta<f64>>)> {
    let present = target.sources.iter().map(|source| source.input).collect();
    let deltas = target.sources.iter().map(|source| target.read_weighted(inputs, source));
    Ok((present, deltas.collect::<Result<_>>()?))
}

/// A table of the inputs that are `present` as one of all `n`.
fn spread(small: &Mat<f64>, present: &[usize], n: usize) -> Mat<f64> {
    let mut all = Mat::zeros(n, n);
    for (i, row) in present.iter().enumerate() {
        for (j, col) in present.iter().enumerate() {
            all[(*row, *col)] = small[(i, j)];
        }
    }
    all
}

/// From the factors Δᵢ = LᵢRᵢ: ⟨RᵢRᵢᵀ LᵢᵀLⱼ, LᵢᵀLⱼ RⱼRⱼᵀ⟩ and the same with sides changed.
fn overlaps_of(deltas: &[Delta<f64>]) -> Overlaps {
    let products: Vec<_> = deltas.iter().map(Delta::to_product).collect();
    let mut at = 0;
    let ranges: Vec<Range<usize>> = products
        .iter()
        .map(|(left, _)| {
            at += left.ncols();
            at - left.ncols()..at
        })
        .collect();
    let side_by_side = |columns: &[MatRef<'_, f64>]| {
        let mut all = Mat::zeros(columns.first().map_or(0, MatRef::nrows), at);
        ranges.iter().zip(columns).for_each(|(range, own)| all.get_mut(.., range.clone()).copy_from(own));
        columns_gram(all.as_ref())
    };
    let left = side_by_side(&products.iter().map(|(left, _)| left.as_ref()).collect::<Vec<_>>());
    let right = side_by_side(&products.iter().map(|(_, right)| right.transpose()).collect::<Vec<_>>());
    let between = |outer: &Mat<f64>, inner: &Mat<f64>| {
        let block =
            |of: &Mat<f64>, i: usize, j: usize| of.get(ranges[i].clone(), ranges[j].clone()).to_owned();
        let pair = |i: usize, j: usize| {
            let cross = block(outer, i, j);
            let first = product(block(inner, i, i).as_ref(), cross.as_ref());
            dot(first.as_ref(), product(cross.as_ref(), block(inner, j, j).as_ref()).as_ref()).0
        };
        let mut all = Mat::zeros(ranges.len(), ranges.len());
        for i in 0..ranges.len() {
            for j in 0..=i {
                let value = pair(i, j).max(0.0);
                (all[(i, j)], all[(j, i)]) = (value, value);
            }
        }
        all
    };
    let square = |i: usize| {
        let range = ranges[i].clone();
        dot(left.get(range.clone(), range.clone()), right.get(range.clone(), range)).0
    };
    let squares: Vec<f64> = (0..ranges.len()).map(square).collect();
    let by_chance = |extent: usize| {
        Mat::from_fn(squares.len(), squares.len(), |i, j| squares[i] * squares[j] / extent.max(1) as f64)
    };
    let (rows, cols) = deltas.first().map_or((0, 0), |delta| (delta.rows(), delta.cols()));
    Overlaps {
        outputs: between(&left, &right),
        inputs: between(&right, &left),
        outputs_by_chance: by_chance(rows),
        inputs_by_chance: by_chance(cols),
    }
}

/// Σ |x| + |y| where signs differ and Σ |x| of the whole layer, and the entries that were looked at: all of a small layer,
/// and rows at random places, evenly spread, of a large one.
fn signs(deltas: &[Delta<f64>], seed: u64) -> Result<(Mat<f64>, Vec<f64>, usize)> {
    let n = deltas.len();
    let (mut conflict, mut mass) = (Mat::zeros(n, n), vec![0.0; n]);
    let Some(first) = deltas.first() else { return Ok((conflict, mass, 0)) };
    let (rows, cols) = (first.rows(), first.cols());
    deltas.iter().try_for_each(Delta::check_formable)?;
    let deltas: Vec<Delta<f32>> = deltas.iter().map(Delta::cast).collect();
    let models: Vec<Rows<'_, f32>> = deltas.iter().map(Rows::new).collect();
    let (mut tiles, mut looked_at) = (vec![Vec::new(); n], 0);
    for range in looked_at_rows(rows, cols, seed) {
        for (model, tile) in models.iter().zip(&mut tiles) {
            tile.clear();
            tile.resize(range.len() * cols, 0.0_f32);
            model.add(range.clone(), tile);
        }
        looked_at += range.len();
        for i in 0..n {
            mass[i] += wide(|| sizes(&tiles[i]));
            for j in 0..i {
                conflict[(i, j)] += wide(|| opposed(&tiles[i], &tiles[j]));
            }
        }
    }
    let scale = rows as f64 / looked_at.max(1) as f64;
    mass.iter_mut().for_each(|mass| *mass *= scale);
    for i in 0..n {
        for j in 0..i {
            conflict[(i, j)] *= scale;
            conflict[(j, i)] = conflict[(i, j)];
        }
    }
    Ok((conflict, mass, looked_at * cols))
}

/// All rows, some at a time, or as many at random places, one in each of equal parts.
fn looked_at_rows(rows: usize, cols: usize, seed: u64) -> Vec<Range<usize>> {
    let height = (ENTRIES / cols.max(1)).clamp(1, ROWS);
    if rows.saturating_mul(cols) <= ENTRIES || rows <= height {
        return (0..rows).step_by(height).map(|top| top..rows.min(top + height)).collect();
    }
    let parts = (ENTRIES / (cols * height)).clamp(1, rows / height);
    let mut state = seed;
    let place = |part: usize| {
        let (start, end) = (part * rows / parts, (part + 1) * rows / parts);
        let at = (centred_uniform(&mut state) + 0.5) * (end - start - height + 1) as f64;
        let top = start + (at as usize).min(end - start - height);
        top..top + height
    };
    (0..parts).map(place).collect()
}

/// Independent sums, so that the additions need not wait for each other.
const LANES: usize = 16;

/// Σ |x|
#[inline(always)]
fn sizes(x: &[f32]) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        (0..LANES).for_each(|lane| sums[lane] += f64::from(block[lane].abs()));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x.abs())).sum::<f64>()
}

/// Σ |x| + |y| where one is above zero and the other below.
#[inline(always)]
fn opposed(x: &[f32], y: &[f32]) -> f64 {
    let size = |x: f32, y: f32| {
        let opposed = (x > 0.0) & (y < 0.0) | (x < 0.0) & (y > 0.0);
        if opposed { x.abs() + y.abs() } else { 0.0 }
    };
    let mut sums = [0.0_f64; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        (0..LANES).for_each(|lane| sums[lane] += f64::from(size(x[lane], y[lane])));
    }
    let rest = x_rest.iter().zip(y_rest).map(|(x, y)| f64::from(size(*x, *y)));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

impl Sums {
    pub(super) fn zero(n: usize) -> Self {
        let zero = || Mat::zeros(n, n);
        Self { gram: zero(), conflict: zero(), mass: vec![0.0; n], overlaps: Overlaps::zero(n) }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.gram += &other.gram;
        self.conflict += &other.conflict;
        self.mass.iter_mut().zip(&other.mass).for_each(|(mass, more)| *mass += more);
        self.add_overlaps(&other.overlaps, 1.0);
    }

    pub(super) fn add_overlaps(&mut self, other: &Overlaps, count: f64) {
        let own = &mut self.overlaps;
        own.outputs += &other.outputs * faer::Scale(count);
        own.inputs += &other.inputs * faer::Scale(count);
        own.outputs_by_chance += &other.outputs_by_chance * faer::Scale(count);
        own.inputs_by_chance += &other.inputs_by_chance * faer::Scale(count);
    }

    /// ‖Δᵢ‖
    pub(super) fn norms(&self) -> Vec<f64> {
        (0..self.mass.len()).map(|i| self.gram[(i, i)].max(0.0).sqrt()).collect()
    }

    pub(super) fn cosines(&self) -> Square {
        square(self.mass.len(), |i, j| cosine(&self.gram, i, j))
    }

    /// The overlaps, and those of adapters with the same singular values in spaces of chance.
    pub(super) fn overlaps(&self) -> [Square; 2] {
        let Overlaps { outputs, inputs, outputs_by_chance, inputs_by_chance } = &self.overlaps;
        let n = self.mass.len();
        let quotient = |of: &Mat<f64>, all: &Mat<f64>, i: usize, j: usize| {
            let size = (all[(i, i)] * all[(j, j)]).sqrt();
            if size > 0.0 { (of[(i, j)] / size).min(1.0) } else { 0.0 }
        };
        let chance = |i, j| {
            (quotient(outputs_by_chance, outputs, i, j) * quotient(inputs_by_chance, inputs, i, j)).sqrt()
        };
        let found = |i, j| (cosine(outputs, i, j) * cosine(inputs, i, j)).max(0.0).sqrt();
        [square(n, found), square(n, chance)]
    }

    pub(super) fn sign_conflicts(&self) -> Square {
        square(self.mass.len(), |i, j| {
            let mass = self.mass[i] + self.mass[j];
            if mass > 0.0 { (self.conflict[(i, j)] / mass).min(1.0) } else { 0.0 }
        })
    }

    /// ‖ΣΔᵢ‖ / √(Σ‖Δᵢ‖²); 1 where there is nothing to keep.
    pub(super) fn kept(&self) -> f64 {
        let apart: f64 = (0..self.mass.len()).map(|i| self.gram[(i, i)]).sum();
        let together: f64 = self.gram.col_iter().map(|column| column.iter().sum::<f64>()).sum();
        if apart > 0.0 { (together / apart).max(0.0).sqrt() } else { 1.0 }
    }
}

/// The cosine that a table of inner products says; 0 where there is no direction.
fn cosine(inner: &Mat<f64>, i: usize, j: usize) -> f64 {
    let size = (inner[(i, i)] * inner[(j, j)]).sqrt();
    match (i == j, size > 0.0) {
        (_, false) => 0.0,
        (true, true) => 1.0,
        (false, true) => (inner[(i, j)] / size).clamp(-1.0, 1.0),
    }
}

fn square(n: usize, entry: impl Fn(usize, usize) -> f64) -> Square {
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}
