//! The joint row and column spaces of a delta's terms, and the small matrix between them.
//!
//! ΔW = L C Rᵀ with orthonormal columns in L and R, so every question about singular values and every
//! truncation is answered by C alone: K × K for low-rank terms of joint rank K, and for LoKr terms of one
//! split, whose column spaces all lie in I ⊗ span(w2_a₁ … w2_a_k), a·Σr × c·Σr.
//!
//! The orthonormal columns themselves are never formed: L = U T⁻¹ with the triangle T of UᵀU = TᵀT, which costs a
//! fifth of Householder's QR. Where the columns are too near to dependent for that, QR it is.

use std::borrow::Cow;

use faer::{Mat, MatRef};

use super::joint::{Joint, Stack, Thin};
use super::kron::add_kron;
use super::{Delta, Factor};
use crate::compute::linalg::{
    Svd, columns_gram, gram_svd, leading_svd, product, scale_columns, set_product, singular_values,
    solve_upper, svd, symmetric_eigenvalues, thin_qr, triangle,
};
use crate::error::Result;
use crate::tensor::Real;

/// ΔW = left · matrix · rightᵀ.
pub struct Core<'a, T: Real> {
    left: Basis<'a, T>,
    /// The matrix between the bases.
    pub matrix: Cow<'a, Mat<T>>,
    right: Basis<'a, T>,
    terms: Vec<KronTerm<T>>,
}

/// Orthonormal columns I ⊗ Q with Q = columns · triangle⁻¹.
struct Basis<'a, T: Real> {
    copies: usize,
    /// None stands for the identity.
    columns: Option<Columns<'a, T>>,
    /// None stands for the identity.
    triangle: Option<Mat<T>>,
}

/// The columns of a basis, or the rows of a right factor in their place.
enum Columns<'a, T: Real> {
    Upright(Cow<'a, Mat<T>>),
    Lying(Cow<'a, Mat<T>>),
}

impl<T: Real> Columns<'_, T> {
    fn as_ref(&self) -> MatRef<'_, T> {
        match self {
            Self::Upright(matrix) => (**matrix).as_ref(),
            Self::Lying(matrix) => matrix.transpose(),
        }
    }
}

/// A term A ⊗ (left rightᵀ) of a core made of Kronecker products: where the search for its leading vectors begins.
struct KronTerm<T> {
    outer: Mat<T>,
    left: Mat<T>,
    right: Mat<T>,
}

impl<'a, T: Real> Basis<'a, T> {
    fn of_left(copies: usize, thin: &'a Thin<T>) -> (Self, Mat<T>) {
        Self::of(copies, Columns::Upright(Cow::Borrowed(&thin.left)), thin.left_gram())
    }

    fn of_right(copies: usize, thin: &'a Thin<T>) -> (Self, Mat<T>) {
        Self::of(copies, Columns::Lying(Cow::Borrowed(&thin.right)), thin.right_gram())
    }

    fn into_owned(self) -> Basis<'static, T> {
        let columns = self.columns.map(|columns| match columns {
            Columns::Upright(matrix) => Columns::Upright(Cow::Owned(matrix.into_owned())),
            Columns::Lying(matrix) => Columns::Lying(Cow::Owned(matrix.into_owned())),
        });
        Basis { copies: self.copies, columns, triangle: self.triangle }
    }

    fn identity() -> Self {
        Self { copies: 1, columns: None, triangle: None }
    }

    /// The basis I ⊗ Q of the span of `columns`, whose Gram matrix is `gram`, and R with Q R = columns.
    fn of(copies: usize, columns: Columns<'a, T>, gram: &Mat<T>) -> (Self, Mat<T>) {
        match triangle(gram) {
            Some(r) => (Self { copies, columns: Some(columns), triangle: Some(r.clone()) }, r),
            None => {
                let (q, r) = thin_qr(columns.as_ref());
                (Self { copies, columns: Some(Columns::Upright(Cow::Owned(q))), triangle: None }, r)
            }
        }
    }

    /// (I ⊗ Q) x
    fn apply(&self, x: Mat<T>) -> Mat<T> {
        let Some(columns) = self.columns.as_ref().map(Columns::as_ref) else { return x };
        let (x, short, tall) = (self.solved(x), columns.ncols(), columns.nrows());
        let mut out = Mat::zeros(self.copies * tall, x.ncols());
        for i in 0..self.copies {
            let part = out.get_mut(i * tall..(i + 1) * tall, ..);
            set_product(part, columns, x.get(i * short..(i + 1) * short, ..));
        }
        out
    }

    /// ((I ⊗ Q) x)ᵀ
    fn apply_lying(&self, x: Mat<T>) -> Mat<T> {
        let Some(columns) = self.columns.as_ref().map(Columns::as_ref) else {
            return x.transpose().to_owned();
        };
        let (x, short, tall) = (self.solved(x), columns.ncols(), columns.nrows());
        let mut out = Mat::zeros(x.ncols(), self.copies * tall);
        for i in 0..self.copies {
            let part = out.get_mut(.., i * tall..(i + 1) * tall);
            set_product(part, x.get(i * short..(i + 1) * short, ..).transpose(), columns.transpose());
        }
        out
    }

    /// (I ⊗ triangle⁻¹) x
    fn solved(&self, mut x: Mat<T>) -> Mat<T> {
        if let Some(triangle) = &self.triangle {
            for i in 0..self.copies {
                let part = x.get_mut(i * triangle.nrows()..(i + 1) * triangle.nrows(), ..);
                solve_upper(triangle.as_ref(), part);
            }
        }
        x
    }
}

impl<T: Real> Core<'static, T> {
    /// The core of `delta`.
    pub fn of(delta: &Delta<T>) -> Self {
        Core::of_joint(&Joint::new(delta)).into_owned()
    }
}

impl<'a, T: Real> Core<'a, T> {
    /// The core of a delta whose terms stand side by side already, by whichever way gives the smallest one.
    pub(crate) fn of_joint(joint: &'a Joint<'_, T>) -> Self {
        let delta = joint.delta();
        let dense = if delta.is_dense() { delta.rows().min(delta.cols()) } else { delta.lifted_rank() };
        match (joint.stack(), joint.thin()) {
            (Some(stack), _) if core_size(stack) <= dense => Self::of_stack(stack),
            (_, Some(thin)) => Self::of_thin(thin),
            _ if delta.is_dense() => Self {
                left: Basis::identity(),
                matrix: joint.whole().map_or_else(|| Cow::Owned(delta.to_full()), Cow::Borrowed),
                right: Basis::identity(),
                terms: Vec::new(),
            },
            _ => {
                let (left, right) = delta.to_product();
                Core::of_thin(&Thin::new(left, right)).into_owned()
            }
        }
    }

    fn into_owned(self) -> Core<'static, T> {
        let Self { left, matrix, right, terms } = self;
        let matrix = Cow::Owned(matrix.into_owned());
        Core { left: left.into_owned(), matrix, right: right.into_owned(), terms }
    }

    fn of_thin(thin: &'a Thin<T>) -> Self {
        let (left, r_left) = Basis::of_left(1, thin);
        let (right, r_right) = Basis::of_right(1, thin);
        let matrix = Cow::Owned(product(r_left.as_ref(), r_right.transpose()));
        Self { left, matrix, right, terms: Vec::new() }
    }

    fn of_stack(stack: &'a Stack<'_, T>) -> Self {
        let (a, c) = (stack.split.a, stack.split.c);
        let (left, r_left) = Basis::of_left(a, &stack.inner);
        let (right, r_right) = Basis::of_right(c, &stack.inner);
        let mut matrix = Mat::zeros(a * r_left.nrows(), c * r_right.nrows());
        let mut terms = Vec::with_capacity(stack.terms.len());
        for term in &stack.terms {
            let inner_left = r_left.get(.., term.range.clone()).to_owned();
            let inner_right = r_right.get(.., term.range.clone()).to_owned();
            let inner = product(inner_left.as_ref(), inner_right.transpose());
            let outer = &*term.outer * faer::Scale(T::from_f64(term.scale));
            add_kron(&mut matrix, &outer, &inner);
            terms.push(KronTerm { outer, left: inner_left, right: inner_right });
        }
        Self { left, matrix: Cow::Owned(matrix), right, terms }
    }

    /// All singular values.
    pub(crate) fn spectrum(&self) -> Result<Vec<f64>> {
        singular_values((*self.matrix).as_ref())
    }

    /// The singular values, in half the time: the roots of the Gram matrix's eigenvalues. Those below about a
    /// thousandth of the largest drown in its rounding and are given as zero.
    pub(crate) fn spectrum_estimate(&self) -> Result<Vec<f64>> {
        let wide = self.matrix.nrows() < self.matrix.ncols();
        let columns = if wide { self.matrix.transpose() } else { (*self.matrix).as_ref() };
        let squares = symmetric_eigenvalues(columns_gram(columns).as_ref())?;
        let noise = 16.0 * T::ROUNDOFF * squares.last().copied().unwrap_or(0.0);
        let root = |square: &f64| if *square > noise { square.sqrt() } else { 0.0 };
        Ok(squares.iter().rev().map(root).collect())
    }

    /// All singular values and vectors, for a choice within `tolerance`.
    pub(crate) fn svd(&self, tolerance: f64) -> Result<Svd<T>> {
        match tolerance.powi(2) > 300.0 * T::ROUNDOFF {
            true => gram_svd((*self.matrix).as_ref()),
            false => svd((*self.matrix).as_ref()),
        }
    }

    /// The leading `rank` of them.
    pub(crate) fn leading(&self, rank: usize) -> Result<Svd<T>> {
        leading_svd((*self.matrix).as_ref(), rank, |width| self.guess(width))
    }

    /// U √Σ and √Σ Vᵀ of the leading `rank` of the core's singular triplets, in ΔW's spaces: of all matrices of
    /// that rank the nearest to ΔW.
    pub(crate) fn truncated(&self, svd: &Svd<T>, rank: usize) -> Factor<T> {
        let rank = rank.min(svd.sigma.len());
        let half = |vectors: &Mat<T>| {
            let mut half = vectors.get(.., ..rank).to_owned();
            scale_columns(&mut half, svd.sigma[..rank].iter().map(|sigma| sigma.sqrt()));
            half
        };
        Factor::Product { left: self.left.apply(half(&svd.u)), right: self.right.apply_lying(half(&svd.v)) }
    }

    /// The leading right singular vectors of the single terms, `width` in all: near those of their sum, because
    /// adapters that were trained apart hardly overlap.
    fn guess(&self, width: usize) -> Option<Mat<T>> {
        let mut candidates = Vec::new();
        for term in &self.terms {
            let outer = svd(term.outer.as_ref()).ok()?;
            // With leftᵀ left = X Xᵀ, the right vectors of left rightᵀ are the left ones of right X.
            let x = triangle(&columns_gram(term.left.as_ref()))?;
            let inner = gram_svd(product(term.right.as_ref(), x.transpose()).as_ref()).ok()?;
            for i in 0..outer.sigma.len() {
                for j in 0..inner.sigma.len() {
                    candidates.push((
                        outer.sigma[i] * inner.sigma[j],
                        outer.v.col(i).to_owned(),
                        inner.u.col(j).to_owned(),
                    ));
                }
            }
        }
        if candidates.len() < width {
            return None;
        }
        candidates.sort_by(|x, y| y.0.total_cmp(&x.0));
        let mut out = Mat::zeros(self.matrix.ncols(), width);
        for (k, (_, outer, inner)) in candidates.iter().take(width).enumerate() {
            let column = out.col_as_slice_mut(k);
            for (block, x) in column.chunks_exact_mut(inner.nrows()).zip(outer.iter()) {
                block.iter_mut().zip(inner.iter()).for_each(|(to, y)| *to = *x * *y);
            }
        }
        Some(out)
    }
}

fn core_size<T: Real>(stack: &Stack<'_, T>) -> usize {
    stack.split.a.min(stack.split.c) * stack.inner.left.ncols()
}
