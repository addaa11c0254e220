//! Hadamard terms: (A1 B1) ∘ (A2 B2) is the product of the row-wise and column-wise Khatri-Rao products of
//! its factors, of rank r1·r2.

use faer::Mat;

use super::Factor;
use crate::tensor::Real;

/// first ∘ second, entry by entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Hadamard<T: Real> {
    /// LoHa's w1_a w1_b.
    pub first: Factor<T>,
    /// LoHa's w2_a w2_b.
    pub second: Factor<T>,
}

impl<T: Real> Hadamard<T> {
    pub(super) fn lifted_rank(&self) -> usize {
        (self.first.rank() * self.second.rank()).min(self.first.rows().min(self.first.cols()))
    }

    /// U[i,(p,q)] = A1[i,p] A2[i,q] and V[(p,q),j] = B1[p,j] B2[q,j].
    pub(super) fn to_product(&self) -> (Mat<T>, Mat<T>) {
        let (a1, b1) = self.first.to_product();
        let (a2, b2) = self.second.to_product();
        let (r1, r2) = (a1.ncols(), a2.ncols());
        if r1 * r2 > self.lifted_rank() {
            return Factor::Full(self.to_full()).to_product();
        }
        (
            Mat::from_fn(a1.nrows(), r1 * r2, |i, k| a1[(i, k / r2)] * a2[(i, k % r2)]),
            Mat::from_fn(r1 * r2, b1.ncols(), |k, j| b1[(k / r2, j)] * b2[(k % r2, j)]),
        )
    }

    fn to_full(&self) -> Mat<T> {
        let (first, second) = (self.first.to_full(), self.second.to_full());
        Mat::from_fn(first.nrows(), first.ncols(), |i, j| first[(i, j)] * second[(i, j)])
    }
}
