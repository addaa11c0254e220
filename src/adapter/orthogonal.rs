//! What the orthogonal families share: rotations from skew matrices, and blocks of them.
//!
//! A rotation R is kept as R − I, which the effect ΔW = (R − I) W is made from without cancelling.

use std::ops::Range;

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Scale};

use super::members::Members;
use crate::delta::cast;
use crate::error::{Error, Result};
use crate::tensor::Real;

/// Square blocks, as many as a tensor's leading sides say.
pub(super) struct Blocks {
    pub(super) side: usize,
    pub(super) matrices: Vec<Mat<f64>>,
}

/// The leading sides and the side of the blocks that a tensor […, b, b] has.
pub(super) fn block_shape<'a>(members: &Members<'a>, suffix: &str) -> Result<(&'a [usize], usize)> {
    match members.factor(suffix)?.shape {
        [leading @ .., a, b] if a == b => Ok((leading, *b)),
        shape => Err(Error::format(format!("'{suffix}' has the shape {shape:?}; its blocks are not square"))),
    }
}

impl Blocks {
    pub(super) fn read(members: &Members<'_>, suffix: &str) -> Result<Self> {
        let side = block_shape(members, suffix)?.1;
        let stacked = members.matrix::<f64>(suffix, members.factor(suffix)?.len() / side)?;
        let block = |k| stacked.subrows(k * side, side).to_owned();
        Ok(Self { side, matrices: (0..stacked.nrows() / side).map(block).collect() })
    }

    /// B − Bᵀ of every block.
    pub(super) fn skew(mut self) -> Self {
        self.matrices.iter_mut().for_each(|block| *block = &*block - block.transpose());
        self
    }

    /// The norm over all blocks together.
    pub(super) fn norm(&self) -> f64 {
        self.matrices.iter().map(|block| block.squared_norm_l2()).sum::<f64>().sqrt()
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.matrices.iter_mut().for_each(|block| *block *= Scale(factor));
    }

    /// R − I of every block: [`cayley`].
    pub(super) fn rotations(self) -> Vec<Mat<f64>> {
        self.matrices.iter().map(|block| cayley(block.as_ref())).collect()
    }
}

/// R − I of Cayley's map R = (I + Q)(I − Q)⁻¹ of a skew Q: 2 (I − Q)⁻¹ Q.
pub(super) fn cayley(q: MatRef<'_, f64>) -> Mat<f64> {
    let identity = Mat::<f64>::identity(q.nrows(), q.ncols());
    (identity - q).partial_piv_lu().solve(q) * Scale(2.0)
}

/// The rows `range` of a matrix, rotated: `rotation` · rows, or its transpose.
pub(super) fn rotated<T: Real>(
    rotation: &Mat<f64>,
    transposed: bool,
    matrix: &Mat<T>,
    range: Range<usize>,
) -> Mat<T> {
    let rotation = cast::<f64, T>(if transposed { rotation.transpose() } else { rotation.as_ref() });
    crate::compute::linalg::product(rotation.as_ref(), matrix.subrows(range.start, range.len()))
}
