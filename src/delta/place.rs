//! Rows of a delta in another place: parts of fused weights cut out or put together, and halves that change sides.
//!
//! Every kind of term can be cut by rows exactly, in factors: only the factor that has the rows is touched. A Kronecker
//! product keeps its form where the cuts fall between blocks.

use std::borrow::Cow;
use std::sync::Arc;

use faer::Mat;

use super::{Delta, Factor, Hadamard, Kron, Term};
use crate::tensor::Real;

/// Rows that go from one matrix to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first row in the matrix that they come from.
    pub from: usize,
    /// The first row in that where they go.
    pub to: usize,
    /// How many.
    pub len: usize,
}

impl<T: Real> Delta<T> {
    /// A delta of `rows` rows: those of `windows` are this one's, the others zero.
    #[must_use]
    pub fn placed(&self, windows: &[Window], rows: usize) -> Self {
        let terms = self.terms.iter().map(|(scale, term)| (*scale, Arc::new(term.placed(windows, rows))));
        Self { rows, cols: self.cols, terms: terms.collect() }
    }
}

impl<T: Real> Term<T> {
    fn placed(&self, windows: &[Window], rows: usize) -> Self {
        match self {
            Self::Plain(factor) => Self::Plain(factor.placed(windows, rows)),
            Self::Hadamard(Hadamard { first, second }) => Self::Hadamard(Hadamard {
                first: first.placed(windows, rows),
                second: second.placed(windows, rows),
            }),
            Self::Kron(Kron { a, b }) => {
                let block = b.rows();
                let between = |w: &Window| [w.from, w.to, w.len].iter().all(|n| n.is_multiple_of(block));
                if rows.is_multiple_of(block) && windows.iter().all(between) {
                    let blocks =
                        |w: &Window| Window { from: w.from / block, to: w.to / block, len: w.len / block };
                    let windows: Vec<Window> = windows.iter().map(blocks).collect();
                    return Self::Kron(Kron { a: a.placed(&windows, rows / block), b: b.clone() });
                }
                let (left, right) = self.product();
                Self::Plain(product(&left, right, windows, rows))
            }
        }
    }
}

impl<T: Real> Factor<T> {
    fn placed(&self, windows: &[Window], rows: usize) -> Self {
        match self {
            Self::Full(matrix) => Self::Full(placed(matrix, windows, rows)),
            Self::Product { left, right } => product(left, Cow::Borrowed(right), windows, rows),
        }
    }
}

/// Without the columns of `left` of which nothing is left: a fused LoRA that was put together from parts has those.
fn product<T: Real>(left: &Mat<T>, right: Cow<'_, Mat<T>>, windows: &[Window], rows: usize) -> Factor<T> {
    let left = placed(left, windows, rows);
    let zero = T::from_f64(0.0);
    let mut kept: Vec<usize> =
        (0..left.ncols()).filter(|&j| left.col_as_slice(j).iter().any(|x| *x != zero)).collect();
    if kept.is_empty() {
        kept.extend((left.ncols() > 0).then_some(0));
    }
    if kept.len() == left.ncols() {
        return Factor::Product { left, right: right.into_owned() };
    }
    Factor::Product {
        left: Mat::from_fn(left.nrows(), kept.len(), |i, j| left[(i, kept[j])]),
        right: Mat::from_fn(kept.len(), right.ncols(), |i, j| right[(kept[i], j)]),
    }
}

fn placed<T: Real>(matrix: &Mat<T>, windows: &[Window], rows: usize) -> Mat<T> {
    let mut out = Mat::zeros(rows, matrix.ncols());
    for window in windows {
        out.subrows_mut(window.to, window.len).copy_from(matrix.subrows(window.from, window.len));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, cols: usize, seed: usize) -> Mat<f64> {
        Mat::from_fn(rows, cols, |i, j| ((i * 31 + j * 17 + seed * 13) % 23) as f64 / 11.0 - 1.0)
    }

    #[test]
    fn rows_of_every_kind_of_term_are_cut_and_joined_exactly() {
        let thin =
            |rows, seed| Factor::Product { left: random(rows, 2, seed), right: random(2, 5, seed + 1) };
        let terms = [
            Term::Plain(Factor::Full(random(12, 5, 1))),
            Term::Plain(thin(12, 2)),
            Term::Hadamard(Hadamard { first: thin(12, 3), second: thin(12, 4) }),
            Term::Kron(Kron { a: Factor::Full(random(6, 1, 5)), b: Factor::Full(random(2, 5, 6)) }),
            Term::Kron(Kron { a: Factor::Full(random(2, 1, 7)), b: Factor::Full(random(6, 5, 8)) }),
        ];
        let all = [
            (vec![Window { from: 4, to: 0, len: 4 }], 4),
            (vec![Window { from: 0, to: 12, len: 12 }], 36),
            (vec![Window { from: 6, to: 0, len: 6 }, Window { from: 0, to: 6, len: 6 }], 12),
            (vec![Window { from: 1, to: 2, len: 3 }], 7),
        ];
        for term in terms {
            let delta = Delta::of(1.5, term);
            for (windows, rows) in &all {
                let got = delta.placed(windows, *rows).to_full();
                let want = placed(&delta.to_full(), windows, *rows);
                assert!((&got - &want).norm_max() < 1e-12, "{windows:?}: {delta:?}");
            }
        }
    }

    #[test]
    fn a_part_of_a_joined_product_is_as_small_as_it_was() {
        let part = |seed| {
            Delta::of(
                1.0,
                Term::Plain(Factor::Product { left: random(4, 2, seed), right: random(2, 5, seed) }),
            )
        };
        let mut left = Mat::zeros(8, 4);
        left.submatrix_mut(0, 0, 4, 2).copy_from(random(4, 2, 1));
        left.submatrix_mut(4, 2, 4, 2).copy_from(random(4, 2, 2));
        let right = Mat::from_fn(4, 5, |i, j| random(2, 5, 1 + i / 2)[(i % 2, j)]);
        let whole = Delta::of(1.0, Term::Plain(Factor::Product { left, right }));
        for k in 0..2 {
            let window = Window { from: 4 * k, to: 0, len: 4 };
            assert_eq!(whole.placed(&[window], 4).terms(), part(k + 1).terms());
        }
    }
}
