//! Entries of a delta, a tile of rows at a time: for what needs entries (a range, a dense output), and never
//! more of ΔW than the tile that the caller hands in.

use std::borrow::Cow;
use std::ops::Range;

use faer::{Mat, MatMut, MatRef};

use super::{Delta, Factor, Term};
use crate::compute::cuda::{FactorRef, TermRef};
use crate::compute::linalg::{add_product, row_major, set_rows};
use crate::compute::simd::{Wide, wide};
use crate::tensor::Real;

/// Entries in a tile: 128 KiB of f32, so that a tile and what it is made from stay in a core's own cache.
const TILE: usize = 1 << 15;

/// A delta made ready to give rows: inner Kronecker factors are expanded, and right factors lie row by row.
pub struct Rows<'a, T: Real> {
    delta: &'a Delta<T>,
    terms: Vec<Ready<'a, T>>,
}

enum Ready<'a, T: Real> {
    Plain(ReadyFactor<'a, T>),
    /// A, and B row-major with its number of rows.
    Kron(Cow<'a, Mat<T>>, Vec<T>, usize),
    Hadamard(ReadyFactor<'a, T>, ReadyFactor<'a, T>),
}

enum ReadyFactor<'a, T: Real> {
    Full(&'a Mat<T>),
    /// The left factor, and the right one row-major with its number of columns: a product of few rows would spend half
    /// of its time on turning it.
    Product(&'a Mat<T>, Vec<T>, usize),
}

impl<'a, T: Real> ReadyFactor<'a, T> {
    fn new(factor: &'a Factor<T>) -> Self {
        match factor {
            Factor::Full(matrix) => Self::Full(matrix),
            Factor::Product { left, right } => Self::Product(left, row_major(right), right.ncols()),
        }
    }

    fn lent(&self) -> FactorRef<'_, T> {
        match self {
            Self::Full(matrix) => FactorRef::Full(matrix.as_ref()),
            Self::Product(left, right, cols) => {
                let right = MatRef::from_row_major_slice(right, left.ncols(), *cols);
                FactorRef::Product(left.as_ref(), right)
            }
        }
    }
}

impl<'a, T: Real> Rows<'a, T> {
    /// Makes `delta` ready.
    pub fn new(delta: &'a Delta<T>) -> Self {
        let ready = |term: &'a Term<T>| match term {
            Term::Plain(factor) => Ready::Plain(ReadyFactor::new(factor)),
            Term::Kron(kron) => {
                let b = kron.b.full();
                Ready::Kron(kron.a.full(), row_major(&b), b.nrows())
            }
            Term::Hadamard(hadamard) => {
                Ready::Hadamard(ReadyFactor::new(&hadamard.first), ReadyFactor::new(&hadamard.second))
            }
        };
        Self { delta, terms: delta.terms.iter().map(|(_, term)| ready(term)).collect() }
    }

    /// Adds the rows `range`, row-major, to `tile` (`range.len() · cols` numbers).
    pub fn add(&self, range: Range<usize>, tile: &mut [T]) {
        let cols = self.delta.cols;
        for ((scale, _), term) in self.delta.terms.iter().zip(&self.terms) {
            let scale = T::from_f64(*scale);
            match term {
                Ready::Plain(factor) => {
                    let out = MatMut::from_row_major_slice_mut(tile, range.len(), cols);
                    add_rows(out, scale, factor.lent(), range.clone());
                }
                Ready::Kron(a, b, b_rows) => {
                    wide(|| add_kron_rows(tile, scale, a, b, *b_rows, range.clone()));
                }
                Ready::Hadamard(first, second) => {
                    let half = |factor: &ReadyFactor<'_, T>| {
                        let mut out = vec![T::from_f64(0.0); range.len() * cols];
                        let rows = MatMut::from_row_major_slice_mut(&mut out, range.len(), cols);
                        add_rows(rows, T::from_f64(1.0), factor.lent(), range.clone());
                        out
                    };
                    let (first, second) = (half(first), half(second));
                    wide(|| {
                        for ((to, x), y) in tile.iter_mut().zip(&first).zip(&second) {
                            *to += scale * *x * *y;
                        }
                    });
                }
            }
        }
    }

    /// The terms with their coefficients, for a GPU to make the rows from.
    pub(crate) fn terms(&self) -> Vec<(f64, TermRef<'_, T>)> {
        let mut all = Vec::with_capacity(self.terms.len());
        for ((scale, _), ready) in self.delta.terms.iter().zip(&self.terms) {
            let term = match ready {
                Ready::Plain(factor) => TermRef::Plain(factor.lent()),
                Ready::Kron(a, b, b_rows) => TermRef::Kron(
                    a.as_ref().as_ref(),
                    MatRef::from_row_major_slice(b, *b_rows, b.len() / b_rows),
                ),
                Ready::Hadamard(first, second) => TermRef::Hadamard(first.lent(), second.lent()),
            };
            all.push((*scale, term));
        }
        all
    }

    /// Calls `use_tile` with every tile of whole rows, row-major, from the top.
    pub fn for_each_tile(&self, mut use_tile: impl FnMut(&[T])) {
        let (rows, cols) = (self.delta.rows, self.delta.cols);
        let height = (TILE / cols.max(1)).clamp(1, rows.max(1));
        let mut tile = vec![T::from_f64(0.0); height * cols];
        for top in (0..rows).step_by(height) {
            let range = top..rows.min(top + height);
            let tile = &mut tile[..range.len() * cols];
            tile.fill(T::from_f64(0.0));
            self.add(range, tile);
            use_tile(tile);
        }
    }
}

fn add_rows<T: Real>(mut out: MatMut<'_, T>, scale: T, factor: FactorRef<'_, T>, range: Range<usize>) {
    match factor {
        FactorRef::Full(matrix) => {
            /// Columns that are read side by side, since neither order is the other's.
            const SIDE: usize = 16;
            let rows: MatRef<'_, T> = matrix.get(range, ..);
            for left in (0..rows.ncols()).step_by(SIDE) {
                for i in 0..rows.nrows() {
                    for j in left..rows.ncols().min(left + SIDE) {
                        out[(i, j)] += scale * rows[(i, j)];
                    }
                }
            }
        }
        FactorRef::Product(left, right) => add_product(out, scale, left.get(range, ..), right),
    }
}

#[inline(always)]
fn add_kron_rows<T: Real>(tile: &mut [T], scale: T, a: &Mat<T>, b: &[T], b_rows: usize, range: Range<usize>) {
    let d = b.len() / b_rows;
    for (row, to) in range.zip(tile.chunks_exact_mut(a.ncols() * d)) {
        let (i, p) = (row / b_rows, row % b_rows);
        let from = &b[p * d..(p + 1) * d];
        for (j, block) in to.chunks_exact_mut(d).enumerate() {
            let factor = scale * a[(i, j)];
            block.iter_mut().zip(from).for_each(|(x, y)| *x += factor * *y);
        }
    }
}

/// Raises `peaks` to |x|, lane by lane.
struct Raise<'a, T> {
    peaks: &'a mut [T; LANES],
    tile: &'a [T],
}

/// Independent maxima, so that the comparisons need not wait for each other.
const LANES: usize = 16;

impl<T: Real> Wide for Raise<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut raise = |numbers: &[T]| {
            for (peak, x) in self.peaks.iter_mut().zip(numbers) {
                let magnitude = if *x > -*x { *x } else { -*x };
                *peak = if magnitude > *peak { magnitude } else { *peak };
            }
        };
        let (blocks, rest) = self.tile.as_chunks::<LANES>();
        blocks.iter().for_each(|block| raise(block));
        raise(rest);
    }
}

impl<T: Real> Delta<T> {
    /// ΔW, whole. Only for what can't do without; see [`Rows`].
    pub fn to_full(&self) -> Mat<T> {
        let mut out = Mat::zeros(self.rows, self.cols);
        let mut at = 0;
        Rows::new(self).for_each_tile(|tile| {
            let height = tile.len() / self.cols;
            set_rows(&mut out, at..at + height, tile);
            at += height;
        });
        out
    }

    /// max |ΔWᵢⱼ|
    pub fn peak(&self) -> f64 {
        let mut peaks = [T::from_f64(0.0); LANES];
        Rows::new(self).for_each_tile(|tile| wide(Raise { peaks: &mut peaks, tile }));
        peaks.iter().fold(0.0, |peak, x| peak.max(x.to_f64()))
    }
}
