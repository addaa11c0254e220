//! The few matrix factorisations that merging needs, over faer, each sequential: layers are the unit of
//! parallel work, so the bytes of a result never depend on the number of threads.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::ComputeSvdVectors;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par, Spec};

use crate::error::{Error, Result};
use crate::tensor::Real;

const SEQ: Par = Par::Seq;

/// Rows or columns that a transposition takes at once.
const BLOCK: usize = 16;

/// `dst += scale · lhs · rhs`
pub(crate) fn add_product<T: Real>(dst: MatMut<'_, T>, scale: T, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>) {
    matmul(dst, Accum::Add, lhs, rhs, scale, SEQ);
}

/// `lhs · rhs`
pub(crate) fn product<T: Real>(lhs: MatRef<'_, T>, rhs: MatRef<'_, T>) -> Mat<T> {
    let mut out = Mat::zeros(lhs.nrows(), rhs.ncols());
    matmul(out.as_mut(), Accum::Replace, lhs, rhs, T::from_f64(1.0), SEQ);
    out
}

/// The thin QR factorisation: Q (m × min(m, n)) with orthonormal columns, and R (min(m, n) × n).
pub(crate) fn thin_qr<T: Real>(matrix: MatRef<'_, T>) -> (Mat<T>, Mat<T>) {
    let (m, n) = matrix.shape();
    let size = m.min(n);
    let block = qr::recommended_block_size::<T>(m, n);
    let (mut basis, mut coefficients) = (matrix.to_owned(), Mat::zeros(block, size));
    let scratch = qr::qr_in_place_scratch::<T>(m, n, block, SEQ, Spec::default());
    qr::qr_in_place(
        basis.as_mut(),
        coefficients.as_mut(),
        SEQ,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Spec::default(),
    );
    let r = Mat::from_fn(size, n, |i, j| if i <= j { basis[(i, j)] } else { T::from_f64(0.0) });
    let mut q = Mat::identity(m, size);
    let scratch = apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, size);
    apply_block_householder_sequence_on_the_left_in_place_with_conj(
        basis.get(.., ..size),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        SEQ,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    (q, r)
}

/// A (possibly truncated) singular value decomposition U diag(sigma) Vᵀ.
pub(crate) struct Svd<T> {
    /// Left vectors, one column per value.
    pub(crate) u: Mat<T>,
    /// Singular values, largest first.
    pub(crate) sigma: Vec<f64>,
    /// Right vectors, one column per value.
    pub(crate) v: Mat<T>,
}

fn no_convergence<E: std::fmt::Debug>(error: E) -> Error {
    Error::value(format!(
        "a singular value decomposition did not converge ({error:?}); are the values finite?"
    ))
}

/// All singular values and vectors of `matrix`.
pub(crate) fn svd<T: Real>(matrix: MatRef<'_, T>) -> Result<Svd<T>> {
    let (m, n) = matrix.shape();
    let size = m.min(n);
    let (mut u, mut sigma, mut v) = (Mat::zeros(m, size), Diag::zeros(size), Mat::zeros(n, size));
    let (thin, spec) = (ComputeSvdVectors::Thin, Spec::default());
    let scratch = faer::linalg::svd::svd_scratch::<T>(m, n, thin, thin, SEQ, spec);
    let (left, right) = (Some(u.as_mut()), Some(v.as_mut()));
    faer::linalg::svd::svd(
        matrix,
        sigma.as_mut(),
        left,
        right,
        SEQ,
        MemStack::new(&mut MemBuffer::new(scratch)),
        spec,
    )
    .map_err(no_convergence)?;
    Ok(Svd { u, sigma: to_vec(&sigma), v })
}

/// The singular values of `matrix` alone, largest first.
pub(crate) fn singular_values<T: Real>(matrix: MatRef<'_, T>) -> Result<Vec<f64>> {
    let (m, n) = matrix.shape();
    let mut sigma = Diag::zeros(m.min(n));
    let (no, spec) = (ComputeSvdVectors::No, Spec::default());
    let scratch = faer::linalg::svd::svd_scratch::<T>(m, n, no, no, SEQ, spec);
    faer::linalg::svd::svd(
        matrix,
        sigma.as_mut(),
        None,
        None,
        SEQ,
        MemStack::new(&mut MemBuffer::new(scratch)),
        spec,
    )
    .map_err(no_convergence)?;
    Ok(to_vec(&sigma))
}

/// The eigenvalues of a symmetric matrix, smallest first.
fn symmetric_eigenvalues<T: Real>(matrix: MatRef<'_, T>) -> Result<Vec<f64>> {
    let n = matrix.nrows();
    let (mut values, spec) = (Diag::zeros(n), Spec::default());
    let scratch = self_adjoint_evd_scratch::<T>(n, ComputeEigenvectors::No, SEQ, spec);
    let stack = &mut MemBuffer::new(scratch);
    self_adjoint_evd(matrix, values.as_mut(), None, SEQ, MemStack::new(stack), spec)
        .map_err(no_convergence)?;
    Ok(to_vec(&values))
}

/// The same, and the vectors.
pub(crate) fn symmetric_eigen<T: Real>(matrix: MatRef<'_, T>) -> Result<(Vec<f64>, Mat<T>)> {
    let n = matrix.nrows();
    let (mut values, mut vectors, spec) = (Diag::zeros(n), Mat::zeros(n, n), Spec::default());
    let scratch = self_adjoint_evd_scratch::<T>(n, ComputeEigenvectors::Yes, SEQ, spec);
    let (stack, into) = (&mut MemBuffer::new(scratch), Some(vectors.as_mut()));
    self_adjoint_evd(matrix, values.as_mut(), into, SEQ, MemStack::new(stack), spec)
        .map_err(no_convergence)?;
    Ok((to_vec(&values), vectors))
}

/// Solves `matrix · x = side` for a symmetric positive definite matrix, over `side`; false where it is not.
pub(crate) fn solve_positive(mut matrix: MatMut<'_, f64>, side: MatMut<'_, f64>) -> bool {
    let n = matrix.nrows();
    let spec = Spec::default();
    let scratch = llt::factor::cholesky_in_place_scratch::<f64>(n, SEQ, spec);
    let factored = llt::factor::cholesky_in_place(
        matrix.as_mut(),
        Default::default(),
        SEQ,
        MemStack::new(&mut MemBuffer::new(scratch)),
        spec,
    )
    .is_ok();
    if factored {
        let scratch = llt::solve::solve_in_place_scratch::<f64>(n, side.ncols(), SEQ);
        llt::solve::solve_in_place(matrix.as_ref(), side, SEQ, MemStack::new(&mut MemBuffer::new(scratch)));
    }
    factored
}

fn to_vec<T: Real>(diagonal: &Diag<T>) -> Vec<f64> {
    diagonal.column_vector().iter().map(|x| x.to_f64()).collect()
}

/// The `rank` leading singular triplets of `matrix`.
///
/// Where `rank` is a small part of the matrix this is block subspace iteration (Halko, Martinsson, Tropp,
/// arXiv 0909.4061, algorithm 4.4) from a fixed start, repeated until a step improves the square of what is
/// left out by less than 0.4 %, which on decaying spectra leaves it within 0.05 %
/// of the least; else the whole decomposition, cut.
pub(crate) fn leading_svd<T: Real>(matrix: MatRef<'_, T>, rank: usize) -> Result<Svd<T>> {
    let (m, n) = matrix.shape();
    let block = rank + (rank / 2).max(12);
    if block * 3 > m.min(n) {
        let mut all = svd(matrix)?;
        let keep = rank.min(all.sigma.len());
        all.sigma.truncate(keep);
        return Ok(Svd {
            u: all.u.get(.., ..keep).to_owned(),
            sigma: all.sigma,
            v: all.v.get(.., ..keep).to_owned(),
        });
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let start = Mat::from_fn(n, block, |_, _| T::from_f64(centred_uniform(&mut state)));
    let total: f64 = matrix.squared_norm_l2().to_f64();
    let mut left = orthonormal(product(matrix, start.as_ref()), None);
    let mut captured = 0.0;
    for step in 1..=16 {
        let right = orthonormal(product(matrix.transpose(), left.as_ref()), None);
        let image = product(matrix, right.as_ref());
        let gram = product(image.transpose(), image.as_ref());
        let mut still = false;
        if step > 1 {
            // The leading `rank` values, not the whole block, must stand still: the rest never do.
            let energy: f64 = symmetric_eigenvalues(gram.as_ref())?.iter().rev().take(rank).sum();
            still = energy - captured <= 4e-3 * (total - energy) + 1e-10 * total;
            captured = energy;
        }
        left = orthonormal(image, Some(gram));
        if still {
            break;
        }
    }
    // Within the span: A ≈ Q (Qᵀ A), whose left vectors are those of (Qᵀ A)(Qᵀ A)ᵀ.
    let small = product(matrix.transpose(), left.as_ref());
    let (squares, vectors) = symmetric_eigen(product(small.transpose(), small.as_ref()).as_ref())?;
    let last = vectors.ncols() - 1;
    let leading = Mat::from_fn(vectors.nrows(), rank, |i, j| vectors[(i, last - j)]);
    let mut v = product(small.as_ref(), leading.as_ref());
    let sigma: Vec<f64> = (0..rank).map(|j| squares[last - j].max(0.0).sqrt()).collect();
    for (j, sigma) in sigma.iter().enumerate().filter(|(_, sigma)| **sigma > 0.0) {
        v.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= T::from_f64(1.0 / sigma));
    }
    Ok(Svd { u: product(left.as_ref(), leading.as_ref()), sigma, v })
}

/// Orthonormal columns that span those of `block`, for an iteration that only needs the span: by Cholesky of the
/// Gram matrix, which is several times faster than Householder's QR, and by that where Cholesky fails.
fn orthonormal<T: Real>(mut block: Mat<T>, gram: Option<Mat<T>>) -> Mat<T> {
    let mut gram = gram.unwrap_or_else(|| product(block.transpose(), block.as_ref()));
    let n = gram.nrows();
    let scratch = llt::factor::cholesky_in_place_scratch::<T>(n, SEQ, Spec::default());
    let stack = &mut MemBuffer::new(scratch);
    let factored = llt::factor::cholesky_in_place(
        gram.as_mut(),
        Default::default(),
        SEQ,
        MemStack::new(stack),
        Spec::default(),
    );
    let largest = (0..n).map(|i| gram[(i, i)].to_f64()).fold(0.0, f64::max);
    let smallest = (0..n).map(|i| gram[(i, i)].to_f64()).fold(f64::INFINITY, f64::min);
    // Half the digits must be left in the smallest pivot.
    if factored.is_err() || smallest < largest * (1e3 * T::ROUNDOFF).sqrt() {
        return thin_qr(block.as_ref()).0;
    }
    solve_lower_triangular_in_place(gram.as_ref(), block.as_mut().transpose_mut(), SEQ);
    block
}

/// Whether the columns are plainly independent: the pivots of their Gram matrix, scaled to unit columns, stay far
/// above float64's rounding.
pub(crate) fn independent<T: Real>(columns: MatRef<'_, T>) -> bool {
    let columns = Mat::from_fn(columns.nrows(), columns.ncols(), |i, j| columns[(i, j)].to_f64());
    let gram = product(columns.transpose(), columns.as_ref());
    let length = |i| f64::sqrt(gram[(i, i)]);
    let n = gram.nrows();
    let mut gram = Mat::from_fn(n, n, |i, j| gram[(i, j)] / (length(i) * length(j)));
    let spec = Spec::default();
    let stack = &mut MemBuffer::new(llt::factor::cholesky_in_place_scratch::<f64>(n, SEQ, spec));
    llt::factor::cholesky_in_place(gram.as_mut(), Default::default(), SEQ, MemStack::new(stack), spec).is_ok()
        && (0..n).all(|i| gram[(i, i)] > 1e-4)
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014) as a number in [-1/2, 1/2): a fixed start for iterations.
pub(crate) fn centred_uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
}

/// The entries row by row.
pub(crate) fn row_major<T: Real>(matrix: &Mat<T>) -> Vec<T> {
    let (rows, cols) = matrix.shape();
    let mut out = vec![T::from_f64(0.0); rows * cols];
    // A few columns at a time, so that both sides stay in cache.
    for left in (0..cols).step_by(BLOCK) {
        let block: Vec<&[T]> = (left..cols.min(left + BLOCK)).map(|j| matrix.col_as_slice(j)).collect();
        for (i, row) in out.chunks_exact_mut(cols).enumerate() {
            row[left..].iter_mut().zip(&block).for_each(|(to, column)| *to = column[i]);
        }
    }
    out
}

/// The matrix of so many rows whose entries these are, row by row.
pub(crate) fn from_row_major<T: Real>(entries: &[T], rows: usize) -> Mat<T> {
    let cols = entries.len() / rows;
    let mut out = Mat::zeros(rows, cols);
    for top in (0..rows).step_by(BLOCK) {
        let block: Vec<&[T]> = entries[top * cols..].chunks_exact(cols).take(BLOCK).collect();
        for j in 0..cols {
            let column = &mut out.col_as_slice_mut(j)[top..];
            column.iter_mut().zip(&block).for_each(|(to, row)| *to = row[j]);
        }
    }
    out
}

/// Σ xᵢⱼ yᵢⱼ
pub(crate) fn dot(x: MatRef<'_, f64>, y: MatRef<'_, f64>) -> f64 {
    debug_assert_eq!(x.shape(), y.shape());
    (0..x.ncols()).map(|j| x.col(j).transpose() * y.col(j)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(m: usize, n: usize, seed: u64) -> Mat<f64> {
        let mut state = seed;
        Mat::from_fn(m, n, |_, _| centred_uniform(&mut state))
    }

    #[test]
    fn the_leading_svd_is_as_good_as_the_whole_one_cut() {
        for (m, n, rank) in [(200, 150, 10), (90, 240, 5), (40, 30, 8)] {
            let decaying = Mat::from_fn(m, n, |i, j| if i == j { 1.0 / (1 + i) as f64 } else { 0.0 });
            let flat = random(m, n, 3);
            for matrix in [product(thin_qr(random(m, m, 1).as_ref()).0.as_ref(), decaying.as_ref()), flat] {
                let best: f64 = svd(matrix.as_ref()).unwrap().sigma[..rank].iter().map(|s| s * s).sum();
                let got = leading_svd(matrix.as_ref(), rank).unwrap();
                let kept: f64 = got.sigma.iter().map(|s| s * s).sum();
                let all: f64 = matrix.squared_norm_l2();
                assert!(
                    (best - kept) < 1e-2 * (all - best) + 1e-9 * all,
                    "{m}x{n} rank {rank}: {kept} of {best}"
                );
                // What is stored is U Uᵀ A, whether or not the iteration has settled.
                let projected = product(got.u.transpose(), matrix.as_ref());
                let stored = Mat::from_fn(rank, n, |i, j| got.sigma[i] * got.v[(j, i)]);
                assert!((&stored - &projected).norm_l2() < 1e-9 * projected.norm_l2());
            }
        }
    }
}
