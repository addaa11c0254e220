//! The effect of an adapter layer, ΔW, as a sum of scaled terms over one matrix shape.
//!
//! A merge is defined on deltas and on nothing else: the same ΔW has infinitely many factorisations, so a
//! rule on factors would give a different answer for each. What is linear, or depends only on inner products
//! and joint spaces, is computed from the factors ([`gram`], [`core`]); only what needs entries asks for
//! tiles ([`dense`]). A convolution's ΔW (out, in, k…) is the matrix (out, in·Πk), row-major.

pub mod core;
pub mod dense;
pub mod gram;
mod hadamard;
mod inner;
pub mod joint;
mod kron;
mod lowrank;
mod place;

use std::borrow::Cow;
use std::sync::Arc;

use faer::{Mat, MatRef};

use crate::compute::linalg::{product, same};
use crate::error::{Error, Result};
use crate::tensor::Real;

pub use hadamard::Hadamard;
pub(crate) use kron::ScaledKrons;
pub use kron::{Kron, Split};
pub use place::Window;

/// Entries of a matrix that is formed from fewer numbers, at most: more than twice what the largest layers of image
/// models have. Factors of a few kB could ask for terabytes otherwise.
pub(crate) const MOST_FORMED: usize = 1 << 28;

/// A matrix that is held whole or as a product of two thin ones.
#[derive(Clone, Debug)]
pub enum Factor<T> {
    /// The matrix itself.
    Full(Mat<T>),
    /// `left` (m × r) times `right` (r × n).
    Product {
        /// m × r
        left: Mat<T>,
        /// r × n
        right: Mat<T>,
    },
}

/// Equal as stored: the same matrix factored differently is another factor.
impl<T: Real> PartialEq for Factor<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(x), Self::Full(y)) => same(x, y),
            (Self::Product { left: a, right: b }, Self::Product { left: c, right: d }) => {
                same(a, c) && same(b, d)
            }
            _ => false,
        }
    }
}

/// One term of a delta.
#[derive(Clone, Debug, PartialEq)]
pub enum Term<T: Real> {
    /// A low-rank (product) or dense (full) matrix.
    Plain(Factor<T>),
    /// A ⊗ B, as LoKr stores it.
    Kron(Kron<T>),
    /// (A1 B1) ∘ (A2 B2), as LoHa stores it.
    Hadamard(Hadamard<T>),
}

/// ΔW = Σ coefficient · term, a `rows` × `cols` matrix.
#[derive(Clone, Debug)]
pub struct Delta<T: Real> {
    rows: usize,
    cols: usize,
    terms: Vec<(f64, Arc<Term<T>>)>,
}

impl<T: Real> Factor<T> {
    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        match self {
            Self::Full(matrix) => matrix.nrows(),
            Self::Product { left, .. } => left.nrows(),
        }
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        match self {
            Self::Full(matrix) => matrix.ncols(),
            Self::Product { right, .. } => right.ncols(),
        }
    }

    /// An upper bound on the rank, from the shapes alone.
    pub fn rank(&self) -> usize {
        let full = self.rows().min(self.cols());
        match self {
            Self::Full(_) => full,
            Self::Product { left, .. } => left.ncols().min(full),
        }
    }

    /// The numbers that it holds.
    pub fn numbers(&self) -> usize {
        match self {
            Self::Full(_) => self.rows() * self.cols(),
            Self::Product { left, .. } => left.ncols() * (self.rows() + self.cols()),
        }
    }

    /// Whether they are all finite.
    pub(crate) fn is_finite(&self) -> bool {
        let finite =
            |matrix: &Mat<T>| matrix.col_iter().all(|column| column.iter().all(|x| x.to_f64().is_finite()));
        match self {
            Self::Full(matrix) => finite(matrix),
            Self::Product { left, right } => finite(left) && finite(right),
        }
    }

    /// The matrix itself.
    pub fn to_full(&self) -> Mat<T> {
        self.full().into_owned()
    }

    /// The matrix itself, borrowed where it is held whole.
    pub(crate) fn full(&self) -> Cow<'_, Mat<T>> {
        match self {
            Self::Full(matrix) => Cow::Borrowed(matrix),
            Self::Product { left, right } => Cow::Owned(product(left.as_ref(), right.as_ref())),
        }
    }

    /// The matrix as a product of [`rank`](Self::rank) columns and rows.
    pub(crate) fn to_product(&self) -> (Mat<T>, Mat<T>) {
        let (left, right) = self.product();
        (left.into_owned(), right.into_owned())
    }

    /// The same, borrowed where it is held so.
    pub(crate) fn product(&self) -> (Cow<'_, Mat<T>>, Cow<'_, Mat<T>>) {
        match self {
            Self::Product { left, right } if left.ncols() <= self.rows().min(self.cols()) => {
                (Cow::Borrowed(left), Cow::Borrowed(right))
            }
            _ => {
                let full = self.full();
                let identity = Cow::Owned(Mat::identity(self.rank(), self.rank()));
                if full.nrows() <= full.ncols() { (identity, full) } else { (full, identity) }
            }
        }
    }

    fn cast<U: Real>(&self) -> Factor<U> {
        match self {
            Self::Full(matrix) => Factor::Full(cast(matrix.as_ref())),
            Self::Product { left, right } => {
                Factor::Product { left: cast(left.as_ref()), right: cast(right.as_ref()) }
            }
        }
    }
}

/// The same numbers in another type.
pub(crate) fn cast<T: Real, U: Real>(matrix: MatRef<'_, T>) -> Mat<U> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| U::from_f64(matrix[(i, j)].to_f64()))
}

impl<T: Real> Term<T> {
    /// Rows and columns of the matrix.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(factor) => (factor.rows(), factor.cols()),
            Self::Kron(kron) => (kron.rows(), kron.cols()),
            Self::Hadamard(hadamard) => (hadamard.first.rows(), hadamard.first.cols()),
        }
    }

    /// An upper bound on the rank, from the shapes alone: the rank of the product that holds
    /// the term.
    pub fn rank(&self) -> usize {
        match self {
            Self::Plain(factor) => factor.rank(),
            Self::Kron(kron) => kron.a.rank() * kron.b.rank(),
            Self::Hadamard(hadamard) => hadamard.lifted_rank(),
        }
    }

    /// Whether it is a matrix of entries.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Plain(Factor::Full(_)))
    }

    /// The numbers that it holds.
    pub fn numbers(&self) -> usize {
        match self {
            Self::Plain(factor) => factor.numbers(),
            Self::Kron(kron) => kron.a.numbers() + kron.b.numbers(),
            Self::Hadamard(hadamard) => hadamard.first.numbers() + hadamard.second.numbers(),
        }
    }

    /// The term as U V with [`rank`](Self::rank) columns and rows, exactly.
    pub(crate) fn product(&self) -> (Cow<'_, Mat<T>>, Cow<'_, Mat<T>>) {
        let owned = |(left, right)| (Cow::Owned(left), Cow::Owned(right));
        match self {
            Self::Plain(factor) => factor.product(),
            Self::Kron(kron) => owned(kron.to_product()),
            Self::Hadamard(hadamard) => owned(hadamard.to_product()),
        }
    }

    /// The same term in another number type.
    pub fn cast<U: Real>(&self) -> Term<U> {
        match self {
            Self::Plain(factor) => Term::Plain(factor.cast()),
            Self::Kron(kron) => Term::Kron(Kron { a: kron.a.cast(), b: kron.b.cast() }),
            Self::Hadamard(hadamard) => {
                Term::Hadamard(Hadamard { first: hadamard.first.cast(), second: hadamard.second.cast() })
            }
        }
    }
}

impl<T: Real> Delta<T> {
    /// The zero delta.
    pub fn zero(rows: usize, cols: usize) -> Self {
        Self { rows, cols, terms: Vec::new() }
    }

    /// `scale · term`
    pub fn of(scale: f64, term: Term<T>) -> Self {
        Self::shared(scale, &Arc::new(term))
    }

    /// The same with a term that another delta has, too.
    pub(crate) fn shared(scale: f64, term: &Arc<Term<T>>) -> Self {
        let (rows, cols) = term.shape();
        let mut delta = Self::zero(rows, cols);
        delta.add(scale, Arc::clone(term));
        delta
    }

    /// Rows of ΔW: the layer's outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of ΔW: the layer's inputs times the kernel's extents.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The scaled terms; no two are equal and no coefficient is zero.
    pub fn terms(&self) -> &[(f64, Arc<Term<T>>)] {
        &self.terms
    }

    /// Whether there is nothing in it.
    pub fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// Adds `scale · term`. An equal term's coefficient grows instead, so that an adapter merged with itself
    /// stays as small as it was.
    fn add(&mut self, scale: f64, term: Arc<Term<T>>) {
        debug_assert_eq!(term.shape(), (self.rows, self.cols));
        let equal = |other: &Arc<Term<T>>| Arc::ptr_eq(other, &term) || **other == *term;
        match self.terms.iter().position(|(_, other)| equal(other)) {
            Some(i) => self.terms[i].0 += scale,
            None => self.terms.push((scale, term)),
        }
        self.terms.retain(|(coefficient, _)| *coefficient != 0.0);
    }

    /// `self += scale · other`
    ///
    /// # Panics
    /// If the shapes differ; layers are matched before they are added.
    pub fn add_scaled(&mut self, scale: f64, other: &Self) {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "deltas of different shapes");
        for (coefficient, term) in &other.terms {
            self.add(scale * coefficient, Arc::clone(term));
        }
    }

    /// Multiplies every coefficient.
    pub fn scale(&mut self, factor: f64) {
        self.terms.iter_mut().for_each(|(coefficient, _)| *coefficient *= factor);
        self.terms.retain(|(coefficient, _)| *coefficient != 0.0);
    }

    /// The same delta in another number type.
    pub fn cast<U: Real>(&self) -> Delta<U> {
        let terms = self.terms.iter().map(|(scale, term)| (*scale, Arc::new(term.cast()))).collect();
        Delta { rows: self.rows, cols: self.cols, terms }
    }

    /// The rank at which one product holds the whole sum exactly.
    pub fn lifted_rank(&self) -> usize {
        self.terms.iter().map(|(_, term)| term.rank()).sum()
    }

    /// The numbers that the terms hold.
    fn numbers(&self) -> usize {
        self.terms.iter().map(|(_, term)| term.numbers()).sum()
    }

    /// Whether the terms are so many that their entries are the smaller thing to keep and to work on. A whole matrix takes
    /// some more before it is formed again.
    pub(crate) fn is_crowded(&self) -> bool {
        /// Pairs of terms are looked at one by one; so many are no work yet.
        const FEW: usize = 256;
        let (whole, rest): (Vec<_>, Vec<_>) =
            self.terms.iter().map(|(_, term)| term).partition(|term| term.is_whole());
        let numbers: usize = rest.iter().map(|term| term.numbers()).sum();
        whole.len() > 1
            || self.terms.len() > 1 && numbers > self.rows * self.cols
            || rest.len() > FEW && self.is_dense()
    }

    /// Whether there is a whole matrix that could hold the other terms, too.
    pub(crate) fn is_mixed(&self) -> bool {
        self.terms.len() > 1 && self.terms.iter().any(|(_, term)| term.is_whole())
    }

    /// Puts the entries of ΔW in the place of the terms.
    ///
    /// # Errors
    /// As [`check_formable`](Self::check_formable).
    pub(crate) fn condense(&mut self) -> Result<()> {
        self.check_formable()?;
        let whole = Term::Plain(Factor::Full(self.to_full()));
        self.terms = vec![(1.0, Arc::new(whole))];
        Ok(())
    }

    /// Asked before ΔW is formed whole.
    ///
    /// # Errors
    /// It is larger than any model's layer, and far larger than its factors.
    pub(crate) fn check_formable(&self) -> Result<()> {
        if self.rows * self.cols <= MOST_FORMED.max(self.numbers()) {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "this {}×{} matrix would have to be formed whole, and no image model has a layer that large; format lora \
             and strategies other than min_max_norm don't need that",
            self.rows, self.cols
        )))
    }

    /// Whether one product of two factors is no smaller than the matrix: K ≥ mn/(m+n).
    pub(crate) fn is_dense(&self) -> bool {
        self.lifted_rank() * (self.rows + self.cols) >= self.rows * self.cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::linalg::centred_uniform;

    #[test]
    fn very_many_terms_become_entries_now_and_then_and_stay_the_same_sum() {
        const TERMS: usize = 1000;
        let mut state = 11;
        let mut random = |rows, cols| Mat::from_fn(rows, cols, |_, _| centred_uniform(&mut state));
        let mut delta = Delta::<f64>::zero(48, 60);
        let (mut truth, mut formed) = (Mat::zeros(48, 60), 0);
        for _ in 0..TERMS {
            let (a, b) = (random(4, 4), Factor::Product { left: random(12, 1), right: random(1, 15) });
            let term = Term::Kron(Kron { a: Factor::Full(a), b });
            truth += Delta::of(0.5, term.clone()).to_full();
            delta.add_scaled(0.5, &Delta::of(1.0, term));
            if delta.is_crowded() {
                delta.condense().unwrap();
                formed += 1;
            }
        }
        assert!((1..=TERMS / 60).contains(&formed), "{formed} times");
        assert!(delta.is_mixed());
        delta.condense().unwrap();
        assert!(!delta.is_mixed() && !delta.is_crowded() && delta.terms().len() == 1);
        let wrong = (delta.to_full() - &truth).norm_l2() / truth.norm_l2();
        assert!(wrong < 1e-13, "{wrong}");
    }
}
