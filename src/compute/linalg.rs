//! The few matrix factorisations that merging needs, over faer, each sequential: layers are the unit of
//! parallel work, so the bytes of a result never depend on the number of threads.

use std::convert::Infallible;
use std::ops::Range;

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::ComputeSvdVectors;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par, Spec};

use super::simd::{Wide, wide};
use crate::error::{Error, Result};
use crate::tensor::Real;

const SEQ: Par = Par::Seq;

/// Rows and columns that a transposition takes at once.
const BLOCK: usize = 8;

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

/// `dst = lhs · rhs`
pub(crate) fn set_product<T: Real>(dst: MatMut<'_, T>, lhs: MatRef<'_, T>, rhs: MatRef<'_, T>) {
    matmul(dst, Accum::Replace, lhs, rhs, T::from_f64(1.0), SEQ);
}

/// The Gram matrix of `columns`: columnsᵀ · columns.
pub(crate) fn columns_gram<T: Real>(columns: MatRef<'_, T>) -> Mat<T> {
    // Below this half of the work is not worth the smaller blocks.
    const LARGE: usize = 160;
    let n = columns.ncols();
    if n < LARGE {
        return product(columns.transpose(), columns);
    }
    let mut out = Mat::zeros(n, n);
    triangular::matmul(
        out.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        columns.transpose(),
        BlockStructure::Rectangular,
        columns,
        BlockStructure::Rectangular,
        T::from_f64(1.0),
        SEQ,
    );
    for j in 0..n {
        for i in 0..j {
            out[(i, j)] = out[(j, i)];
        }
    }
    out
}

/// The upper triangle R with RᵀR = `gram`, where the columns that it is the Gram matrix of are far enough from
/// dependent for R to stand for them (a column's part that is new is at least the root of 1.5e4 roundoffs of it, so
/// that R's error stays below 1e-4 in float32).
pub(crate) fn triangle<T: Real>(gram: &Mat<T>) -> Option<Mat<T>> {
    let n = gram.nrows();
    let lengths: Vec<f64> = (0..n).map(|i| gram[(i, i)].to_f64().sqrt()).collect();
    if lengths.iter().any(|length| *length <= 0.0) {
        return None;
    }
    let inverses: Vec<T> = lengths.iter().map(|length| T::from_f64(1.0 / length)).collect();
    let mut unit = Mat::from_fn(n, n, |i, j| gram[(i, j)] * inverses[i] * inverses[j]);
    let stack = &mut MemBuffer::new(llt::factor::cholesky_in_place_scratch::<T>(n, SEQ, Spec::default()));
    let stack = MemStack::new(stack);
    llt::factor::cholesky_in_place(unit.as_mut(), Default::default(), SEQ, stack, Spec::default()).ok()?;
    let least = (1.5e4 * T::ROUNDOFF).sqrt();
    let independent = (0..n).all(|i| unit[(i, i)].to_f64() >= least);
    independent.then(|| {
        Mat::from_fn(
            n,
            n,
            |i, j| if i <= j { unit[(j, i)] * T::from_f64(lengths[j]) } else { T::from_f64(0.0) },
        )
    })
}

/// `x = triangle⁻¹ x` for an upper triangle.
pub(crate) fn solve_upper<T: Real>(triangle: MatRef<'_, T>, x: MatMut<'_, T>) {
    solve_upper_triangular_in_place(triangle, x, SEQ);
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

impl<T: Real> Svd<T> {
    /// The leading `rank` of the triplets.
    fn cut(mut self, rank: usize) -> Self {
        self.sigma.truncate(rank);
        let leading = |vectors: &Mat<T>| vectors.get(.., ..rank).to_owned();
        Self { u: leading(&self.u), sigma: self.sigma, v: leading(&self.v) }
    }
}

/// faer checks this for singular values, but would look for eigenvalues of NaN for very long.
fn check_finite<T: Real>(matrix: MatRef<'_, T>) -> Result<()> {
    match matrix.is_all_finite() {
        true => Ok(()),
        false => Err(Error::value(
            "its numbers are so large that their products are infinite; smaller weights, or dtype float32, help",
        )),
    }
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
pub(crate) fn symmetric_eigenvalues<T: Real>(matrix: MatRef<'_, T>) -> Result<Vec<f64>> {
    check_finite(matrix)?;
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
    check_finite(matrix)?;
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
/// arXiv 0909.4061, algorithm 4.4), repeated until half a step improves the square of what is left out by less than
/// 0.25 %; on decaying spectra each half gains a third of what the one before did, which leaves it within 0.1 % of the
/// least. It begins from what `guess` knows of so many right vectors, else from a fixed start. Elsewhere it is the whole
/// decomposition, cut.
pub(crate) fn leading_svd<T: Real>(
    matrix: MatRef<'_, T>,
    rank: usize,
    guess: impl FnOnce(usize) -> Option<Mat<T>>,
) -> Result<Svd<T>> {
    let (m, n) = matrix.shape();
    let block = rank + (rank / 2).max(12);
    if block * 3 > m.min(n) {
        return cut_svd(matrix, rank.min(m).min(n));
    }
    let start = guess(block).unwrap_or_else(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        Mat::from_fn(n, block, |_, _| T::from_f64(centred_uniform(&mut state)))
    });
    let total: f64 = matrix.squared_norm_l2().to_f64();
    let energy = |sigma: &[f64]| sigma[..rank].iter().map(|sigma| sigma * sigma).sum::<f64>();
    let mut u = product(matrix, start.as_ref());
    for step in 1.. {
        // Within the span of `left`: A ≈ Q (Qᵀ A), whose right vectors are those of (Qᵀ A)ᵀ (Qᵀ A).
        let left = orthonormal(u);
        let image = product(matrix.transpose(), left.as_ref());
        let (squares, vectors) = symmetric_eigen(columns_gram(image.as_ref()).as_ref())?;
        let roots: Vec<f64> = squares.iter().rev().map(|square| square.max(0.0).sqrt()).collect();
        let mut v = product(image.as_ref(), vectors.as_ref().reverse_cols());
        unscale(&mut v, &roots);
        // Half a step further, A V Vᵀ is what is stored; what it gained tells how much is still to be gained.
        let sigma;
        (u, sigma) = directions(matrix, &v);
        let gained = energy(&sigma) - energy(&roots);
        if gained <= 2.5e-3 * (total - energy(&sigma)) + T::ROUNDOFF * total || step == 32 {
            return Ok(Svd { u, sigma, v }.cut(rank));
        }
    }
    unreachable!("the last step returns")
}

/// Multiplies every column by its factor.
pub(crate) fn scale_columns<T: Real>(matrix: &mut Mat<T>, factors: impl IntoIterator<Item = f64>) {
    for (j, factor) in factors.into_iter().enumerate() {
        let factor = T::from_f64(factor);
        matrix.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= factor);
    }
}

/// Divides every column by its singular value; one of nothing stays so.
fn unscale<T: Real>(vectors: &mut Mat<T>, sigma: &[f64]) {
    scale_columns(vectors, sigma.iter().map(|sigma| if *sigma > 0.0 { 1.0 / sigma } else { 1.0 }));
}

/// The columns of matrix · v as unit vectors, and their lengths.
fn directions<T: Real>(matrix: MatRef<'_, T>, v: &Mat<T>) -> (Mat<T>, Vec<f64>) {
    let mut u = product(matrix, v.as_ref());
    let lengths: Vec<f64> = u.col_iter().map(|column| column.norm_l2().to_f64()).collect();
    unscale(&mut u, &lengths);
    (u, lengths)
}

/// All singular triplets in half the time of [`svd`], from the eigenvectors of the smaller Gram matrix. That holds
/// squares, so values below the root of some roundoffs of the largest are lost in it; U Σ Vᵀ of any leading ones is
/// the matrix's projection on V all the same.
pub(crate) fn gram_svd<T: Real>(matrix: MatRef<'_, T>) -> Result<Svd<T>> {
    if matrix.nrows() < matrix.ncols() {
        let Svd { u, sigma, v } = gram_svd(matrix.transpose())?;
        return Ok(Svd { u: v, sigma, v: u });
    }
    let (_, vectors) = symmetric_eigen(columns_gram(matrix).as_ref())?;
    let v = vectors.as_ref().reverse_cols().to_owned();
    // The lengths of A v are truer than the roots of small eigenvalues.
    let (u, sigma) = directions(matrix, &v);
    Ok(Svd { u, sigma, v })
}

/// The leading singular triplets of a whole decomposition.
fn cut_svd<T: Real>(matrix: MatRef<'_, T>, rank: usize) -> Result<Svd<T>> {
    let rank = rank.max(1);
    let mut all = gram_svd(matrix)?;
    if all.sigma[rank - 1] <= (300.0 * T::ROUNDOFF).sqrt() * all.sigma[0] {
        all = svd(matrix)?;
    }
    Ok(all.cut(rank))
}

/// Orthonormal columns that span those of `block`, for an iteration that only needs the span: by Cholesky of the
/// Gram matrix, which is several times faster than Householder's QR, and by that where Cholesky fails.
fn orthonormal<T: Real>(mut block: Mat<T>) -> Mat<T> {
    let Some(triangle) = triangle(&columns_gram(block.as_ref())) else {
        return thin_qr(block.as_ref()).0;
    };
    // X with X R = block, from Rᵀ Xᵀ = blockᵀ.
    solve_lower_triangular_in_place(triangle.transpose(), block.as_mut().transpose_mut(), SEQ);
    block
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014) as a number in [-1/2, 1/2): a fixed start for iterations.
pub(crate) fn centred_uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
}

/// The rows of a matrix, some at a time: few enough that their entries stay in a core's cache while they are turned
/// from or into rows one after the other.
pub(crate) fn row_blocks(rows: usize, cols: usize) -> impl Iterator<Item = Range<usize>> {
    const ENTRIES: usize = 1 << 14;
    const LEAST: usize = 64;
    let height = (ENTRIES / cols.max(1)).max(LEAST);
    (0..rows).step_by(height).map(move |top| top..rows.min(top + height))
}

/// Calls `take` with the entries of every block of rows, row by row.
pub(crate) fn for_each_rows<T: Real, E>(
    matrix: &Mat<T>,
    mut take: impl FnMut(&[T]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let (rows, cols) = matrix.shape();
    let mut block = Vec::new();
    for range in row_blocks(rows, cols).filter(|_| cols > 0) {
        let columns: Vec<&[T]> = (0..cols).map(|j| &matrix.col_as_slice(j)[range.clone()]).collect();
        block.resize(range.len() * cols, T::from_f64(0.0));
        let mut lines: Vec<&mut [T]> = block.chunks_exact_mut(cols).collect();
        wide(Transpose { from: &columns, to: &mut lines });
        take(&block)?;
    }
    Ok(())
}

/// The entries row by row.
pub(crate) fn row_major<T: Real>(matrix: &Mat<T>) -> Vec<T> {
    let mut out = Vec::with_capacity(matrix.nrows() * matrix.ncols());
    let done: std::result::Result<(), Infallible> = for_each_rows(matrix, |block| {
        out.extend_from_slice(block);
        Ok(())
    });
    let Ok(()) = done;
    out
}

/// Puts `entries`, row by row, into the rows `range`.
pub(crate) fn set_rows<T: Real>(matrix: &mut Mat<T>, range: Range<usize>, entries: &[T]) {
    let cols = matrix.ncols();
    if cols == 0 {
        return;
    }
    let lines: Vec<&[T]> = entries.chunks_exact(cols).collect();
    let mut columns: Vec<&mut [T]> = matrix
        .col_iter_mut()
        .map(|column| {
            let column = column.try_as_col_major_mut().expect("columns of a matrix of our own");
            &mut column.as_slice_mut()[range.clone()]
        })
        .collect();
    wide(Transpose { from: &lines, to: &mut columns });
}

/// `to[j][i] = from[i][j]`, in blocks that stay in registers.
struct Transpose<'a, 'b, T> {
    from: &'a [&'b [T]],
    to: &'a mut [&'b mut [T]],
}

impl<T: Real> Wide for Transpose<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (top, lines) in self.from.chunks(BLOCK).enumerate() {
            let top = top * BLOCK;
            for (left, columns) in self.to.chunks_mut(BLOCK).enumerate() {
                let left = left * BLOCK;
                if let (Ok(lines), BLOCK) = (<&[&[T]; BLOCK]>::try_from(lines), columns.len()) {
                    let block: [&[T; BLOCK]; BLOCK] =
                        lines.map(|line| line[left..left + BLOCK].try_into().expect("a whole block"));
                    for (j, column) in columns.iter_mut().enumerate() {
                        let column: &mut [T; BLOCK] =
                            (&mut column[top..top + BLOCK]).try_into().expect("a whole block");
                        *column = std::array::from_fn(|i| block[i][j]);
                    }
                } else {
                    for (j, column) in columns.iter_mut().enumerate() {
                        column[top..].iter_mut().zip(lines).for_each(|(to, line)| *to = line[left + j]);
                    }
                }
            }
        }
    }
}

/// Σ xᵢⱼ yᵢⱼ and Σ |xᵢⱼ yᵢⱼ|, added up in float64.
pub(crate) fn dot<T: Real>(x: MatRef<'_, T>, y: MatRef<'_, T>) -> (f64, f64) {
    debug_assert_eq!(x.shape(), y.shape());
    wide(Dot { x, y })
}

struct Dot<'a, T> {
    x: MatRef<'a, T>,
    y: MatRef<'a, T>,
}

impl<T: Real> Wide for Dot<'_, T> {
    type Output = (f64, f64);

    #[inline(always)]
    fn call(self) -> (f64, f64) {
        /// Independent sums, so that the additions need not wait for each other.
        const LANES: usize = 8;
        let Self { x, y } = self;
        let (mut values, mut gross) = ([0.0; LANES], [0.0; LANES]);
        let mut add = |lane: usize, x: T, y: T| {
            let product = x.to_f64() * y.to_f64();
            values[lane] += product;
            gross[lane] += product.abs();
        };
        for j in 0..x.ncols() {
            match (x.col(j).try_as_col_major(), y.col(j).try_as_col_major()) {
                (Some(x), Some(y)) => {
                    let (x, x_rest) = x.as_slice().as_chunks::<LANES>();
                    let (y, y_rest) = y.as_slice().as_chunks::<LANES>();
                    for (x, y) in x.iter().zip(y) {
                        for lane in 0..LANES {
                            add(lane, x[lane], y[lane]);
                        }
                    }
                    x_rest.iter().zip(y_rest).enumerate().for_each(|(lane, (x, y))| add(lane, *x, *y));
                }
                _ => x.col(j).iter().zip(y.col(j).iter()).for_each(|(x, y)| add(0, *x, *y)),
            }
        }
        (values.iter().sum(), gross.iter().sum())
    }
}

/// Whether two matrices hold the same numbers.
pub(crate) fn same<T: Real>(x: &Mat<T>, y: &Mat<T>) -> bool {
    const LANES: usize = 16;
    let equal = |x: &[T], y: &[T]| x.iter().zip(y).fold(true, |equal, (x, y)| equal & (x == y));
    x.shape() == y.shape()
        && (0..x.ncols()).all(|j| {
            let ((x, x_rest), (y, y_rest)) =
                (x.col_as_slice(j).as_chunks::<LANES>(), y.col_as_slice(j).as_chunks::<LANES>());
            x.iter().zip(y).all(|(x, y)| equal(x, y)) && equal(x_rest, y_rest)
        })
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
                let got = leading_svd(matrix.as_ref(), rank, |_| None).unwrap();
                let kept: f64 = got.sigma.iter().map(|s| s * s).sum();
                let all: f64 = matrix.squared_norm_l2();
                assert!(
                    (best - kept) < 1e-2 * (all - best) + 1e-9 * all,
                    "{m}x{n} rank {rank}: {kept} of {best}"
                );
                // What is stored is A V Vᵀ, whether or not the iteration has settled.
                let projected = product(matrix.as_ref(), got.v.as_ref());
                let stored = Mat::from_fn(m, rank, |i, j| got.u[(i, j)] * got.sigma[j]);
                assert!((&stored - &projected).norm_l2() < 1e-9 * projected.norm_l2());
                let gram = product(got.v.transpose(), got.v.as_ref());
                assert!((gram - Mat::<f64>::identity(rank, rank)).norm_l2() < 1e-9);
            }
        }
    }
}
