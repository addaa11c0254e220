//! The terms of one delta side by side: where inner products, joint spaces and Kronecker fits all start.
//!
//! A [`Delta`] goes in; a few parts come out, one per kind: everything of low rank as one product, Kronecker
//! products of one split as one stack. The one idea: the Gram matrices of the factors that stand side by side
//! are made once, and answer for norms, cosines, conditioning, cores and certificates alike.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use faer::{Mat, MatRef};

use super::inner::Inner;
use super::kron::{ScaledKrons, Split};
use super::{Delta, Factor, Kron, Term};
use crate::compute::linalg::{columns_gram, product, same, scale_columns, triangle};
use crate::tensor::Real;

/// A delta whose terms are grouped by kind.
pub struct Joint<'a, T: Real> {
    delta: &'a Delta<T>,
    parts: Vec<Part<'a, T>>,
    /// What the squares of terms that were added up entry by entry came to before they cancelled.
    pub(super) hidden: f64,
    pub(super) squared: OnceCell<Inner>,
}

/// The terms of one kind.
pub(super) enum Part<'a, T: Real> {
    /// All low-rank terms as one product, coefficients in the left factor.
    Thin(Thin<T>),
    /// Kronecker products of one split whose inner factors are thin.
    Stack(Stack<'a, T>),
    /// A Kronecker product whose inner factor is not thin.
    Kron(f64, &'a Kron<T>),
    /// A dense term.
    Full(f64, Cow<'a, Mat<T>>),
}

/// left (m × K) times right (K × n), and the Gram matrices of both.
pub(crate) struct Thin<T> {
    pub(crate) left: Mat<T>,
    pub(crate) right: Mat<T>,
    left_gram: OnceCell<Mat<T>>,
    right_gram: OnceCell<Mat<T>>,
}

impl<T: Real> Thin<T> {
    pub(crate) fn new(left: Mat<T>, right: Mat<T>) -> Self {
        Self { left, right, left_gram: OnceCell::new(), right_gram: OnceCell::new() }
    }

    /// leftᵀ left
    pub(crate) fn left_gram(&self) -> &Mat<T> {
        self.left_gram.get_or_init(|| columns_gram(self.left.as_ref()))
    }

    /// right rightᵀ
    pub(crate) fn right_gram(&self) -> &Mat<T> {
        self.right_gram.get_or_init(|| columns_gram(self.right.transpose()))
    }

    /// Whether no product of fewer columns is the same: both factors are plainly of full rank.
    pub(crate) fn is_irreducible(&self) -> bool {
        triangle(self.left_gram()).is_some() && triangle(self.right_gram()).is_some()
    }

    /// leftᵀ · other's left, and right · other's rightᵀ. A fit often keeps a factor as it was; then the Gram matrix
    /// is known.
    pub(super) fn cross(&self, other: &Self) -> [Cow<'_, Mat<T>>; 2] {
        let left = match same(&self.left, &other.left) {
            true => Cow::Borrowed(self.left_gram()),
            false => Cow::Owned(product(self.left.transpose(), other.left.as_ref())),
        };
        let right = match same(&self.right, &other.right) {
            true => Cow::Borrowed(self.right_gram()),
            false => Cow::Owned(product(self.right.as_ref(), other.right.transpose())),
        };
        [left, right]
    }
}

/// Σ cᵢ Aᵢ ⊗ (Lᵢ Rᵢ) of one split, with [L₁ … L_k] and [R₁; …; R_k] as one thin product.
pub(crate) struct Stack<'a, T: Real> {
    pub(crate) split: Split,
    pub(crate) terms: Vec<StackTerm<'a, T>>,
    pub(crate) inner: Thin<T>,
}

/// One term of a stack.
pub(crate) struct StackTerm<'a, T: Real> {
    pub(crate) scale: f64,
    pub(super) kron: &'a Kron<T>,
    /// A, whole.
    pub(crate) outer: Cow<'a, Mat<T>>,
    /// Its columns in L and its rows in R.
    pub(crate) range: Range<usize>,
}

impl<'a, T: Real> Stack<'a, T> {
    fn new(split: Split, krons: &[(f64, &'a Kron<T>)]) -> Self {
        let joint = krons.iter().map(|(_, kron)| kron.b.rank()).sum();
        let (mut left, mut right) = (Mat::zeros(split.b, joint), Mat::zeros(joint, split.d));
        let mut terms = Vec::with_capacity(krons.len());
        let mut at = 0;
        for (scale, kron) in krons {
            let Factor::Product { left: own_left, right: own_right } = &kron.b else {
                unreachable!("a stack is made of thin factors")
            };
            let range = at..at + own_left.ncols();
            left.get_mut(.., range.clone()).copy_from(own_left);
            right.get_mut(range.clone(), ..).copy_from(own_right);
            at = range.end;
            terms.push(StackTerm { scale: *scale, kron, outer: kron.a.full(), range });
        }
        Self { split, terms, inner: Thin::new(left, right) }
    }

    /// Σ tᵢ Lᵢ Rᵢ as one product: the inner factor of A ⊗ B for any weights of the terms.
    pub(crate) fn mix(&self, weights: &[f64]) -> Factor<T> {
        let mut left = self.inner.left.clone();
        let of_columns =
            |(term, weight): (&StackTerm<'_, T>, &f64)| std::iter::repeat_n(*weight, term.range.len());
        scale_columns(&mut left, self.terms.iter().zip(weights).flat_map(of_columns));
        Factor::Product { left, right: self.inner.right.clone() }
    }

    /// The block of a matrix between the joint spaces that belongs to two terms.
    pub(crate) fn block<'m>(matrix: &'m Mat<T>, i: &StackTerm<'_, T>, j: &StackTerm<'_, T>) -> MatRef<'m, T> {
        matrix.get(i.range.clone(), j.range.clone())
    }
}

impl<'a, T: Real> Joint<'a, T> {
    /// Groups the terms of `delta`.
    pub fn new(delta: &'a Delta<T>) -> Self {
        let mut parts = Vec::new();
        let mut thin = Vec::new();
        let mut stacks: Vec<(Split, ScaledKrons<'a, T>)> = Vec::new();
        for (scale, term) in delta.terms() {
            match &**term {
                Term::Plain(Factor::Full(matrix)) => parts.push(Part::Full(*scale, Cow::Borrowed(matrix))),
                Term::Kron(kron) if is_thin(&kron.b) => {
                    let split = kron.split();
                    match stacks.iter_mut().find(|(other, _)| *other == split) {
                        Some((_, krons)) => krons.push((*scale, kron)),
                        None => stacks.push((split, vec![(*scale, kron)])),
                    }
                }
                Term::Kron(kron) => parts.push(Part::Kron(*scale, kron)),
                _ => thin.push((*scale, term)),
            }
        }
        for (split, krons) in stacks {
            let joint: usize = krons.iter().map(|(_, kron)| kron.b.rank()).sum();
            if joint < split.b.min(split.d) {
                parts.push(Part::Stack(Stack::new(split, &krons)));
            } else {
                parts.extend(krons.into_iter().map(|(scale, kron)| Part::Kron(scale, kron)));
            }
        }
        let mut hidden = 0.0;
        if !thin.is_empty() {
            parts.push(Self::of_thin(delta, &thin, &mut hidden));
        }
        Self { delta, parts, hidden, squared: OnceCell::new() }
    }

    /// Low-rank terms as one product or, where that is no smaller, dense.
    fn of_thin(delta: &'a Delta<T>, terms: &[(f64, &'a Arc<Term<T>>)], hidden: &mut f64) -> Part<'a, T> {
        let mut sum = Delta::zero(delta.rows(), delta.cols());
        terms.iter().for_each(|(scale, term)| sum.add(*scale, Arc::clone(term)));
        if sum.is_dense() {
            if terms.len() > 1 {
                let gross = |(scale, term): &(f64, &Arc<Term<T>>)| {
                    Joint::new(&Delta::shared(*scale, term)).squared().gross
                };
                *hidden = terms.iter().map(gross).sum();
            }
            return Part::Full(1.0, Cow::Owned(sum.to_full()));
        }
        let (left, right) = sum.to_product();
        Part::Thin(Thin::new(left, right))
    }

    /// Whether nothing is left: no terms, or only terms with a factor of zeros.
    pub(crate) fn is_zero(&self) -> bool {
        self.delta.is_zero() || self.squared().gross == 0.0
    }

    /// The delta.
    pub(crate) fn delta(&self) -> &'a Delta<T> {
        self.delta
    }

    /// The delta's entries, if it stands there as one matrix.
    pub(super) fn whole(&self) -> Option<&Mat<T>> {
        match &self.parts[..] {
            [Part::Full(1.0, matrix)] => Some(matrix),
            _ => None,
        }
    }

    pub(super) fn parts(&self) -> &[Part<'a, T>] {
        &self.parts
    }

    /// The whole delta as one low-rank product, if it is one.
    pub(super) fn thin(&self) -> Option<&Thin<T>> {
        match &self.parts[..] {
            [Part::Thin(thin)] => Some(thin),
            _ => None,
        }
    }

    /// The whole delta as one stack, if it is one.
    pub(crate) fn stack(&self) -> Option<&Stack<'a, T>> {
        match &self.parts[..] {
            [Part::Stack(stack)] => Some(stack),
            _ => None,
        }
    }
}

/// Whether a factor is a product that is smaller than the matrix is wide.
fn is_thin<T: Real>(factor: &Factor<T>) -> bool {
    matches!(factor, Factor::Product { left, .. } if left.ncols() < factor.rows().min(factor.cols()))
}
