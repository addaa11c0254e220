//! Hadamard terms: (A1 B1) ∘ (A2 B2) is the product of the row-wise and column-wise Khatri-Rao products of
//! its factors, of rank r1·r2.

use faer::Mat;

use super::Factor;
use crate::compute::simd::wide;
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
        let (a1, b1) = self.first.product();
        let (a2, b2) = self.second.product();
        let (r1, r2) = (a1.ncols(), a2.ncols());
        if r1 * r2 > self.lifted_rank() {
            return Factor::Full(self.to_full()).to_product();
        }
        let (mut u, mut v) = (Mat::zeros(a1.nrows(), r1 * r2), Mat::zeros(r1 * r2, b1.ncols()));
        wide(|| {
            for k in 0..r1 * r2 {
                let pair = a1.col_as_slice(k / r2).iter().zip(a2.col_as_slice(k % r2));
                u.col_as_slice_mut(k).iter_mut().zip(pair).for_each(|(to, (x, y))| *to = *x * *y);
            }
            for j in 0..b1.ncols() {
                let (x, y) = (b1.col_as_slice(j), b2.col_as_slice(j));
                for (block, x) in v.col_as_slice_mut(j).chunks_exact_mut(r2).zip(x) {
                    block.iter_mut().zip(y).for_each(|(to, y)| *to = *x * *y);
                }
            }
        });
        (u, v)
    }

    fn to_full(&self) -> Mat<T> {
        let (mut first, second) = (self.first.to_full(), self.second.full());
        for j in 0..first.ncols() {
            first.col_as_slice_mut(j).iter_mut().zip(second.col_as_slice(j)).for_each(|(x, y)| *x *= *y);
        }
        first
    }
}
