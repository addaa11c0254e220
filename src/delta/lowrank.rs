//! A whole delta lifted to one product U V: every family is a sum of products after expansion.

use faer::Mat;

use super::Delta;
use crate::tensor::Real;

impl<T: Real> Delta<T> {
    /// U (m × K) and V (K × n) with U V = ΔW, exactly; K is [`lifted_rank`](Self::lifted_rank). The
    /// coefficients, and with them the signs, stand in U.
    pub fn to_product(&self) -> (Mat<T>, Mat<T>) {
        let rank = self.lifted_rank();
        let (mut u, mut v) = (Mat::zeros(self.rows(), rank), Mat::zeros(rank, self.cols()));
        let mut at = 0;
        for (scale, term) in self.terms() {
            let (left, right) = term.to_product();
            let width = left.ncols();
            let scale = T::from_f64(*scale);
            for j in 0..width {
                for i in 0..left.nrows() {
                    u[(i, at + j)] = scale * left[(i, j)];
                }
            }
            v.get_mut(at..at + width, ..).copy_from(&right);
            at += width;
        }
        (u, v)
    }
}
