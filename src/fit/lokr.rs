//! The nearest single Kronecker product: the best rank-one term of the rearranged matrix R(ΔW), whose rows are
//! the blocks of ΔW (Van Loan, Pitsianis, "Approximation with Kronecker products", 1993).
//!
//! For terms of one split R(Σ cᵢ Aᵢ ⊗ Bᵢ) = [cᵢ vec Aᵢ] [vec Bᵢ]ᵀ, so two k × k Gram matrices give it; a delta of
//! other terms is rearranged whole.

use std::cell::OnceCell;

use faer::Mat;

use super::budget::{Bound, Curve, Point, tails};
use super::{Fitter, Form};
use crate::compute::linalg::{Svd, dot, product, symmetric_eigen};
use crate::delta::core::Core;
use crate::delta::dense::Rows;
use crate::delta::joint::{Joint, Stack};
use crate::delta::{Delta, Factor, Kron, ScaledKrons, Split, Term, cast, gram};
use crate::error::{Error, Result};
use crate::tensor::Real;

/// A ⊗ B nearest to a delta. B is kept as a delta of its own, so that its truncations are those of any other.
pub(super) struct Nearest<T: Real> {
    split: Split,
    a: Mat<T>,
    b: Delta<T>,
    /// Whether B is one product that no smaller one equals: its spectrum need not be known to store all of it.
    irreducible: bool,
    spectrum: OnceCell<(Core<'static, T>, Svd<T>)>,
    /// Relative error with the whole of B.
    error: f64,
}

/// The split of the Kronecker term with the largest norm.
pub(super) fn strongest_split<T: Real>(delta: &Delta<T>) -> Option<Split> {
    let mut krons: Vec<(f64, &Kron<T>)> = Vec::new();
    for (scale, term) in delta.terms() {
        if let Term::Kron(kron) = &**term {
            krons.push((*scale, kron));
        }
    }
    let first = krons.first()?.1.split();
    if krons.iter().all(|(_, kron)| kron.split() == first) {
        return Some(first);
    }
    let norm =
        |(scale, kron): &(f64, &Kron<T>)| gram::norm(&Delta::of(*scale, Term::Kron(Kron::clone(kron))));
    krons.iter().max_by(|x, y| norm(x).total_cmp(&norm(y))).map(|(_, kron)| kron.split())
}

impl<T: Real> Fitter<'_, T> {
    pub(super) fn nearest_kron(&self) -> Result<&Nearest<T>> {
        if let Some(nearest) = self.nearest_kron.get() {
            return Ok(nearest);
        }
        let split = self.split().ok_or_else(|| Error::internal("a Kronecker fit without a split"))?;
        let nearest = Nearest::of(self.joint, split)?;
        Ok(self.nearest_kron.get_or_init(|| nearest))
    }

    /// Size against error by w2's rank.
    pub(super) fn lokr_curve(&self, bound: Bound) -> Result<Curve> {
        let nearest = self.nearest_kron()?;
        let Split { a, c, b, d } = nearest.split;
        let point = |rank, error| Point { rank, error, numbers: a * c + product_numbers(rank, b, d) };
        if nearest.irreducible && bound.tolerance == 0.0 && bound.rank.is_none() {
            return Ok(Curve::single(Form::Lokr, point(nearest.b.lifted_rank(), nearest.error)));
        }
        let kept = 1.0 - nearest.error.powi(2);
        let tails = tails(&nearest.spectrum()?.1.sigma, 0.0).into_iter().enumerate();
        let points =
            tails.map(|(i, tail)| point(i + 1, (nearest.error.powi(2) + kept * tail.powi(2)).sqrt()));
        Ok(Curve::new(Form::Lokr, points.collect()))
    }
}

/// The numbers that w2 (b × d) of this rank takes: it is written whole from rank max(b, d)/2 on.
pub(super) fn product_numbers(rank: usize, b: usize, d: usize) -> usize {
    if rank * 2 < b.max(d) { rank * (b + d) } else { b * d }
}

impl<T: Real> Nearest<T> {
    fn of(joint: &Joint<'_, T>, split: Split) -> Result<Self> {
        if let Some(stack) = joint.stack().filter(|stack| stack.split == split) {
            let outer: Vec<_> = stack.terms.iter().map(|term| (term.scale, &*term.outer)).collect();
            let inner = |i: usize, j: usize| {
                let (i, j) = (&stack.terms[i], &stack.terms[j]);
                let left = Stack::block(stack.inner.left_gram(), i, j);
                dot(left, Stack::block(stack.inner.right_gram(), i, j)).0
            };
            let (a, weights, error) = of_terms(&outer, &square(outer.len(), inner))?;
            let b = Delta::of(1.0, Term::Plain(stack.mix(&weights)));
            let irreducible = stack.inner.is_irreducible();
            return Ok(Self { split, a, b, irreducible, spectrum: OnceCell::new(), error });
        }
        let (a, b, error) = match common_split(joint.delta()) {
            Some((common, krons)) if common == split => of_krons(&krons)?,
            _ => of_entries(joint.delta(), split)?,
        };
        Ok(Self { split, a, b, irreducible: false, spectrum: OnceCell::new(), error })
    }

    fn spectrum(&self) -> Result<&(Core<'static, T>, Svd<T>)> {
        if let Some(spectrum) = self.spectrum.get() {
            return Ok(spectrum);
        }
        let core = Core::of(&self.b);
        let svd = core.svd(0.0)?;
        Ok(self.spectrum.get_or_init(|| (core, svd)))
    }

    /// The product with w2 cut to `rank`.
    pub(super) fn at_rank(&self, rank: usize) -> Result<Kron<T>> {
        let Split { b, d, .. } = self.split;
        let b = match (self.spectrum.get(), self.b.terms()) {
            (None, [(_, term)]) if self.irreducible => match &**term {
                Term::Plain(factor) if rank * 2 < b.max(d) => factor.clone(),
                Term::Plain(factor) => Factor::Full(factor.to_full()),
                _ => unreachable!("w2 is a matrix"),
            },
            (Some((core, svd)), _) if rank * 2 < b.max(d) || rank < svd.sigma.len() => {
                core.truncated(svd, rank)
            }
            _ => Factor::Full(self.b.to_full()),
        };
        Ok(Kron { a: Factor::Full(self.a.clone()), b })
    }
}

/// The symmetric matrix with these entries.
fn square(k: usize, entry: impl Fn(usize, usize) -> f64) -> Mat<f64> {
    let mut out = Mat::zeros(k, k);
    for i in 0..k {
        for j in 0..=i {
            let value = entry(i, j);
            (out[(i, j)], out[(j, i)]) = (value, value);
        }
    }
    out
}

/// A with unit norm, the weights of B = Σ wᵢ Bᵢ, and the relative error, from Aᵢ with their coefficients and the
/// inner products of the Bᵢ.
///
/// With X = [cᵢ vec Aᵢ] and Y = [vec Bᵢ] the squared singular values of X Yᵀ are the eigenvalues of Sᵀ XᵀX S, where
/// YᵀY = S Sᵀ. Gram matrices are enough where the terms don't cancel: an error of 1e-6 in A moves the optimum by
/// its square.
fn of_terms<T: Real>(outer: &[(f64, &Mat<T>)], inner: &Mat<f64>) -> Result<(Mat<T>, Vec<f64>, f64)> {
    let k = outer.len();
    let outers = square(k, |i, j| outer[i].0 * outer[j].0 * dot(outer[i].1.as_ref(), outer[j].1.as_ref()).0);
    let (values, vectors) = symmetric_eigen(inner.as_ref())?;
    let root = Mat::from_fn(k, k, |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt());
    let core = product(root.transpose(), product(outers.as_ref(), root.as_ref()).as_ref());
    let (squares, mixes) = symmetric_eigen(core.as_ref())?;
    let mix = product(root.as_ref(), mixes.get(.., k - 1..));
    let total: f64 = squares.iter().sum();
    let error = (squares[..k - 1].iter().sum::<f64>() / total).max(0.0).sqrt();

    let mut a = Mat::<f64>::zeros(outer[0].1.nrows(), outer[0].1.ncols());
    for (i, (scale, outer)) in outer.iter().enumerate() {
        a += cast::<T, f64>(outer.as_ref()) * faer::Scale(scale * mix[(i, 0)]);
    }
    let a = &a * faer::Scale(1.0 / a.norm_l2());
    // B = R(ΔW)ᵀ vec(A) = Σ cᵢ ⟨Aᵢ, A⟩ Bᵢ: no inverse, so parallel terms do no harm.
    let weight = |(scale, outer): &(f64, &Mat<T>)| scale * dot(cast(outer.as_ref()).as_ref(), a.as_ref()).0;
    Ok((cast(a.as_ref()), outer.iter().map(weight).collect(), error))
}

/// The same for Kronecker products of one split of any inner factors.
fn of_krons<T: Real>(krons: &[(f64, &Kron<T>)]) -> Result<(Mat<T>, Delta<T>, f64)> {
    let inner: Vec<_> = krons.iter().map(|(_, kron)| Delta::of(1.0, Term::Plain(kron.b.clone()))).collect();
    let outer: Vec<_> = krons.iter().map(|(scale, kron)| (*scale, kron.a.full())).collect();
    let outer: Vec<_> = outer.iter().map(|(scale, outer)| (*scale, &**outer)).collect();
    let (a, weights, error) = of_terms(&outer, &gram::gram(&inner.iter().collect::<Vec<_>>()))?;
    let mut b = Delta::zero(inner[0].rows(), inner[0].cols());
    inner.iter().zip(weights).for_each(|(inner, weight)| b.add_scaled(weight, inner));
    Ok((a, b, error))
}

/// The split that all terms share, and the terms, if all are Kronecker products of one split.
pub(super) fn common_split<T: Real>(delta: &Delta<T>) -> Option<(Split, ScaledKrons<'_, T>)> {
    let mut krons = Vec::with_capacity(delta.terms().len());
    for (scale, term) in delta.terms() {
        let Term::Kron(kron) = &**term else { return None };
        krons.push((*scale, kron));
    }
    let split = krons.first()?.1.split();
    krons.iter().all(|(_, kron)| kron.split() == split).then_some((split, krons))
}

/// The same from the entries of any delta: the leading eigenvector of the smaller Gram matrix of R(ΔW).
fn of_entries<T: Real>(delta: &Delta<T>, split: Split) -> Result<(Mat<T>, Delta<T>, f64)> {
    delta.check_formable()?;
    let Split { a, c, b, d } = split;
    let rows = Rows::new(delta);
    let mut blocks = Mat::zeros(a * c, b * d);
    let mut strip = vec![T::from_f64(0.0); b * delta.cols()];
    for i in 0..a {
        strip.fill(T::from_f64(0.0));
        rows.add(i * b..(i + 1) * b, &mut strip);
        for (p, row) in strip.chunks_exact(c * d).enumerate() {
            for (column, value) in row.iter().enumerate() {
                blocks[(i * c + column / d, p * d + column % d)] = *value;
            }
        }
    }
    let wide = a * c <= b * d;
    let side = if wide { blocks.as_ref() } else { blocks.transpose() };
    let gram = product(side, side.transpose());
    let gram = cast::<T, f64>(gram.as_ref());
    let (values, vectors) = symmetric_eigen(gram.as_ref())?;
    let last = values.len() - 1;
    let total: f64 = values.iter().sum();
    let leading = Mat::from_fn(side.nrows(), 1, |i, _| T::from_f64(vectors[(i, last)]));
    let partner = product(side.transpose(), leading.as_ref());
    let (vec_a, vec_b) = if wide { (leading, partner) } else { (partner, leading) };
    let nearest = Mat::from_fn(a, c, |i, j| vec_a[(i * c + j, 0)]);
    let inner = Mat::from_fn(b, d, |i, j| vec_b[(i * d + j, 0)]);
    let error = (1.0 - values[last] / total).max(0.0).sqrt();
    Ok((nearest, Delta::of(1.0, Term::Plain(Factor::Full(inner))), error))
}
