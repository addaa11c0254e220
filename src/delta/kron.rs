//! Kronecker terms: A ⊗ B with A (a × c), B (b × d) is the (ab × cd) matrix whose block (i, j) is A[i,j]·B.

use faer::Mat;

use super::Factor;
use crate::compute::simd::wide;
use crate::tensor::Real;

/// A ⊗ B.
#[derive(Clone, Debug, PartialEq)]
pub struct Kron<T: Real> {
    /// The outer factor, LoKr's w1.
    pub a: Factor<T>,
    /// The inner factor, LoKr's w2, kernel flattened into its columns.
    pub b: Factor<T>,
}

/// Kronecker products with their coefficients.
pub(crate) type ScaledKrons<'a, T> = Vec<(f64, &'a Kron<T>)>;

/// How a matrix is cut for a Kronecker product: the shapes of A and of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows of A.
    pub a: usize,
    /// Columns of A.
    pub c: usize,
    /// Rows of B.
    pub b: usize,
    /// Columns of B.
    pub d: usize,
}

impl<T: Real> Kron<T> {
    /// Rows of the product.
    pub fn rows(&self) -> usize {
        self.a.rows() * self.b.rows()
    }

    /// Columns of the product.
    pub fn cols(&self) -> usize {
        self.a.cols() * self.b.cols()
    }

    /// How the matrix is cut.
    pub fn split(&self) -> Split {
        Split { a: self.a.rows(), c: self.a.cols(), b: self.b.rows(), d: self.b.cols() }
    }

    /// (C E) ⊗ (P Q) = (C ⊗ P)(E ⊗ Q)
    pub(super) fn to_product(&self) -> (Mat<T>, Mat<T>) {
        let (c, e) = self.a.to_product();
        let (p, q) = self.b.to_product();
        (kron(&c, &p), kron(&e, &q))
    }
}

/// A ⊗ B, whole.
pub(crate) fn kron<T: Real>(a: &Mat<T>, b: &Mat<T>) -> Mat<T> {
    let mut out = Mat::zeros(a.nrows() * b.nrows(), a.ncols() * b.ncols());
    add_kron(&mut out, a, b);
    out
}

/// `out += A ⊗ B`
pub(crate) fn add_kron<T: Real>(out: &mut Mat<T>, a: &Mat<T>, b: &Mat<T>) {
    wide(|| {
        for j in 0..a.ncols() {
            for q in 0..b.ncols() {
                let column = out.col_as_slice_mut(j * b.ncols() + q);
                for (block, outer) in column.chunks_exact_mut(b.nrows()).zip(a.col_as_slice(j)) {
                    block.iter_mut().zip(b.col_as_slice(q)).for_each(|(to, from)| *to += *outer * *from);
                }
            }
        }
    });
}
