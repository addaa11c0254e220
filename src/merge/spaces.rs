//! The spaces that the deltas of one layer share: ΔWᵢ = L Mᵢ Rᵀ with orthonormal columns in L and R.
//!
//! Columns are the singular vectors of the deltas side by side (L) and below each other (R), so the matrices don't depend
//! on how a delta happens to be factored (core space, arXiv 2509.17786; with R the identity, KnOTS, arXiv 2410.19735). A
//! side whose space is all there is stays as it is.

use faer::{Mat, MatRef};

use crate::compute::linalg::{
    add_product, columns_gram, product, solve_upper, symmetric_eigen, thin_qr, triangle,
};
use crate::delta::{Delta, Factor, Term, cast};
use crate::error::Result;
use crate::tensor::Real;

/// Where entries are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeSpace {
    /// The entries of ΔW themselves.
    Full,
    /// The joint column and row spaces.
    Core,
    /// The joint column space; rows as they are.
    Knots,
}

impl MergeSpace {
    pub(super) const ALL: [Self; 3] = [Self::Full, Self::Core, Self::Knots];

    /// The name that options spell.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Core => "core",
            Self::Knots => "knots",
        }
    }
}

/// Joint spaces, and every delta's matrix in them.
pub(super) struct Spaces {
    left: Side,
    right: Side,
    pub(super) matrices: Vec<Mat<f64>>,
}

/// Orthonormal columns, as what they are made from; none stands for the identity.
struct Side(Option<Basis>);

/// The orthonormal columns `columns · turn`. The product is tall, and most of what is asked of it needs it not.
struct Basis {
    columns: Mat<f64>,
    turn: Mat<f64>,
}

impl Spaces {
    /// The spaces of deltas of one shape.
    pub(super) fn of<T: Real>(deltas: &[Delta<T>], space: MergeSpace) -> Result<Self> {
        Self::unordered(deltas, space)?.turned()
    }

    /// The same with any orthonormal columns, for rules that only see what doesn't depend on them.
    pub(super) fn unordered<T: Real>(deltas: &[Delta<T>], space: MergeSpace) -> Result<Self> {
        let Some(first) = deltas.first() else {
            return Ok(Self { left: Side(None), right: Side(None), matrices: Vec::new() });
        };
        let (rows, cols) = (first.rows(), first.cols());
        let rank: usize = deltas.iter().map(Delta::lifted_rank).sum();
        let reduce = |wanted: bool, extent: usize| wanted && rank < extent;
        let (is_left, is_right) =
            (reduce(space != MergeSpace::Full, rows), reduce(space == MergeSpace::Core, cols));
        if !is_left && !is_right {
            deltas.iter().try_for_each(Delta::check_formable)?;
            let matrices = deltas.iter().map(|delta| delta.cast().to_full()).collect();
            return Ok(Self { left: Side(None), right: Side(None), matrices });
        }
        let products: Vec<(Mat<f64>, Mat<f64>)> =
            deltas.iter().map(|delta| delta.cast().to_product()).collect();
        let (left, lefts) = Side::of(is_left, rows, products.iter().map(|(left, _)| left.as_ref()));
        let (right, rights) = Side::of(is_right, cols, products.iter().map(|(_, right)| right.transpose()));
        let matrices = lefts.iter().zip(&rights).map(|(l, r)| product(l.as_ref(), r.transpose())).collect();
        Ok(Self { left, right, matrices })
    }

    /// The same in the singular vectors' order and directions: those of the matrices' summed Gram matrices.
    fn turned(mut self) -> Result<Self> {
        let Some((rows, cols)) = self.matrices.first().map(Mat::shape) else { return Ok(self) };
        if let Some(basis) = &mut self.left.0 {
            let mut gram = Mat::zeros(rows, rows);
            self.matrices.iter().for_each(|m| add_product(gram.as_mut(), 1.0, m.as_ref(), m.transpose()));
            let turn = directions(&gram)?;
            basis.turn = product(basis.turn.as_ref(), turn.as_ref());
            self.matrices.iter_mut().for_each(|matrix| *matrix = product(turn.transpose(), matrix.as_ref()));
        }
        if let Some(basis) = &mut self.right.0 {
            let mut gram = Mat::zeros(cols, cols);
            self.matrices.iter().for_each(|m| add_product(gram.as_mut(), 1.0, m.transpose(), m.as_ref()));
            let turn = directions(&gram)?;
            basis.turn = product(basis.turn.as_ref(), turn.as_ref());
            self.matrices.iter_mut().for_each(|matrix| *matrix = product(matrix.as_ref(), turn.as_ref()));
        }
        Ok(self)
    }

    /// The delta whose matrix in these spaces this is.
    pub(super) fn delta<T: Real>(&self, matrix: &Mat<f64>) -> Delta<T> {
        let turned = |basis: &Basis| product(basis.columns.as_ref(), basis.turn.as_ref());
        let factor = match (&self.left.0, &self.right.0) {
            (None, None) => Factor::Full(cast(matrix.as_ref())),
            (Some(left), None) => {
                Factor::Product { left: cast(turned(left).as_ref()), right: cast(matrix.as_ref()) }
            }
            (None, Some(right)) => {
                Factor::Product { left: cast(matrix.as_ref()), right: cast(turned(right).transpose()) }
            }
            (Some(left), Some(right)) => {
                let inner =
                    product(product(left.turn.as_ref(), matrix.as_ref()).as_ref(), right.turn.transpose());
                // The one product of a tall matrix goes where that is less tall.
                let (left, right) = (left.columns.as_ref(), right.columns.as_ref());
                match left.nrows() <= right.nrows() {
                    true => Factor::Product {
                        left: cast(product(left, inner.as_ref()).as_ref()),
                        right: cast(right.transpose()),
                    },
                    false => Factor::Product {
                        left: cast(left),
                        right: cast(product(inner.as_ref(), right.transpose()).as_ref()),
                    },
                }
            }
        };
        Delta::of(1.0, Term::Plain(factor))
    }

    /// The space that the matrices are in after all.
    pub(super) fn kind(&self) -> MergeSpace {
        match (&self.left.0, &self.right.0) {
            (None, None) => MergeSpace::Full,
            (Some(_), None) => MergeSpace::Knots,
            _ => MergeSpace::Core,
        }
    }
}

/// Singular vectors by decreasing value, from the Gram matrix.
fn directions(gram: &Mat<f64>) -> Result<Mat<f64>> {
    Ok(symmetric_eigen(gram.as_ref())?.1.reverse_cols().to_owned())
}

impl Side {
    /// The joint space of columns, and their coordinates in it; the identity, and the columns, if it isn't to be
    /// `reduced`.
    fn of<'m>(
        reduced: bool,
        extent: usize,
        columns: impl Iterator<Item = MatRef<'m, f64>>,
    ) -> (Self, Vec<Mat<f64>>) {
        let parts: Vec<_> = columns.collect();
        if !reduced {
            return (Self(None), parts.iter().map(|part| part.to_owned()).collect());
        }
        let mut all = Mat::zeros(extent, parts.iter().map(MatRef::ncols).sum());
        let mut first = 0;
        for part in &parts {
            all.subcols_mut(first, part.ncols()).copy_from(part);
            first += part.ncols();
        }
        let (basis, triangle) = Basis::of(all);
        let mut first = 0;
        let coordinates = parts.iter().map(|part| {
            let own = triangle.subcols(first, part.ncols()).to_owned();
            first += part.ncols();
            own
        });
        let coordinates = coordinates.collect();
        (Self(Some(basis)), coordinates)
    }
}

impl Basis {
    /// An orthonormal basis of columns, and their coordinates in it: by Cholesky's triangle of their Gram matrix, which
    /// is several times faster than Householder's reflections, where the columns are far enough from dependent.
    fn of(columns: Mat<f64>) -> (Self, Mat<f64>) {
        /// The least part of a column that is new. The basis is then orthonormal to about its inverse square in
        /// roundoffs, 1e-12, and numbers lose no more than two digits between `columns` and the basis.
        const LEAST: f64 = 1e-2;
        let gram = columns_gram(columns.as_ref());
        let independent = |triangle: &Mat<f64>| {
            (0..triangle.ncols()).all(|i| triangle[(i, i)] >= LEAST * triangle.col(i).norm_l2())
        };
        if let Some(triangle) = triangle(&gram).filter(independent) {
            let mut turn = Mat::identity(triangle.nrows(), triangle.ncols());
            solve_upper(triangle.as_ref(), turn.as_mut());
            return (Self { columns, turn }, triangle);
        }
        let (columns, triangle) = thin_qr(columns.as_ref());
        let turn = Mat::identity(columns.ncols(), columns.ncols());
        (Self { columns, turn }, triangle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, cols: usize, seed: &mut u64) -> Mat<f64> {
        Mat::from_fn(rows, cols, |_, _| crate::compute::linalg::centred_uniform(seed))
    }

    #[test]
    fn deltas_are_their_matrices_between_the_bases_whatever_their_factors() {
        let mut seed = 3;
        for space in [MergeSpace::Core, MergeSpace::Knots, MergeSpace::Full] {
            let low = |seed: &mut u64| {
                let (left, right) = (random(20, 3, seed), random(3, 15, seed));
                Delta::of(1.0, Term::Plain(Factor::Product { left, right }))
            };
            let deltas = [low(&mut seed), low(&mut seed)];
            let gauge = random(3, 3, &mut seed);
            let mixed: Vec<Delta<f64>> = deltas
                .iter()
                .map(|delta| {
                    let (left, right) = delta.to_product();
                    let inverse = faer::prelude::Solve::solve(&gauge.partial_piv_lu(), &right);
                    Delta::of(1.0, Term::Plain(Factor::Product { left: left * &gauge, right: inverse }))
                })
                .collect();
            let spaces = Spaces::of(&deltas, space).unwrap();
            assert_eq!(spaces.kind(), space);
            for (delta, matrix) in deltas.iter().zip(&spaces.matrices) {
                let back: Delta<f64> = spaces.delta(matrix);
                assert!((back.to_full() - delta.to_full()).norm_l2() < 1e-12 * delta.to_full().norm_l2());
            }
            let other = Spaces::of(&mixed, space).unwrap();
            for (one, two) in spaces.matrices.iter().zip(&other.matrices) {
                // Vectors have a direction, but no sense.
                let size = |m: &Mat<f64>| Mat::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)].abs());
                assert!((size(one) - size(two)).norm_l2() < 1e-9 * one.norm_l2(), "{space:?}");
            }
        }
    }
}
