//! A whole delta lifted to one product U V: every family is a sum of products after expansion.

use faer::{Mat, Scale};

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
            let (left, right) = term.product();
            let width = left.ncols();
            let mut own = u.get_mut(.., at..at + width);
            own.copy_from(left.as_ref());
            own *= Scale(T::from_f64(*scale));
            v.get_mut(at..at + width, ..).copy_from(right.as_ref());
            at += width;
        }
        (u, v)
    }
}
