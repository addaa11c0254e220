//! The nearest single Kronecker product: the best rank-one term of the rearranged matrix R(ΔW), whose rows are
//! the blocks of ΔW (Van Loan, Pitsianis, "Approximation with Kronecker products", 1993).
//!
//! For terms of one split R(Σ cᵢ Aᵢ ⊗ Bᵢ) = [cᵢ vec Aᵢ] [vec Bᵢ]ᵀ, so two k × k Gram matrices give it; a delta of
//! other terms is rearranged whole.

use std::cell::OnceCell;

use faer::Mat;

use super::budget::{Bound, Curve, Point, tails};
use super::{Fitter, Form};
use crate::compute::linalg::{Svd, independent, product, svd, symmetric_eigen};
use crate::delta::core::{Core, common_split};
use crate::delta::dense::Rows;
use crate::delta::{Delta, Factor, Kron, Split, Term, gram};
use crate::error::{Error, Result};
use crate::tensor::Real;

/// A ⊗ B nearest to a delta. B is kept as a delta of its own, so that its truncations are those of any other.
pub(super) struct Nearest<T: Real> {
    split: Split,
    a: Mat<T>,
    b: Delta<T>,
    spectrum: OnceCell<(Core<T>, Svd<T>)>,
    /// Relative error with the whole of B.
    error: f64,
}

/// The split of the Kronecker term with the largest norm.
pub(super) fn strongest_split(delta: &Delta<f64>) -> Option<Split> {
    let norm = |(scale, term): &(f64, std::sync::Arc<Term<f64>>)| match &**term {
        Term::Kron(kron) => Some((gram::norm(&Delta::of(*scale, Term::clone(term))), kron.split())),
        _ => None,
    };
    delta.terms().iter().filter_map(norm).max_by(|x, y| x.0.total_cmp(&y.0)).map(|(_, split)| split)
}

impl<T: Real> Fitter<'_, T> {
    pub(super) fn nearest_kron(&self) -> Result<&Nearest<T>> {
        if let Some(nearest) = self.nearest_kron.get() {
            return Ok(nearest);
        }
        let split = self.split().ok_or_else(|| Error::internal("a Kronecker fit without a split"))?;
        let nearest = Nearest::of(self.delta, self.exact, split)?;
        Ok(self.nearest_kron.get_or_init(|| nearest))
    }

    /// Size against error by w2's rank.
    pub(super) fn lokr_curve(&self, bound: Bound) -> Result<Curve> {
        let nearest = self.nearest_kron()?;
        let Split { a, c, b, d } = nearest.split;
        let point = |rank, error| Point { rank, error, numbers: a * c + product_numbers(rank, b, d) };
        if let Some(rank) =
            nearest.irreducible_rank().filter(|_| bound.tolerance == 0.0 && bound.rank.is_none())
        {
            return Ok(Curve::single(Form::Lokr, point(rank, nearest.error)));
        }
        let kept = 1.0 - nearest.error.powi(2);
        let tails = tails(&nearest.spectrum()?.1.sigma).into_iter().enumerate();
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
    fn of(delta: &Delta<T>, exact: &Delta<f64>, split: Split) -> Result<Self> {
        let (a, b, error) = match (common_split(exact), common_split(delta)) {
            (Some((common, exact)), Some((_, krons))) if common == split => of_one_split(&exact, &krons)?,
            _ => of_entries(delta, split)?,
        };
        Ok(Self { split, a, b, spectrum: OnceCell::new(), error })
    }

    fn spectrum(&self) -> Result<&(Core<T>, Svd<T>)> {
        if let Some(spectrum) = self.spectrum.get() {
            return Ok(spectrum);
        }
        let core = Core::of(&self.b);
        let svd = svd(core.matrix.as_ref())?;
        Ok(self.spectrum.get_or_init(|| (core, svd)))
    }

    /// The rank of B where its factors, side by side, are plainly of full rank: no other product is smaller then,
    /// and its spectrum need not be known to store all of it.
    fn irreducible_rank(&self) -> Option<usize> {
        let thin = |term: &Term<T>| matches!(term, Term::Plain(Factor::Product { .. }));
        if self.b.is_dense() || !self.b.terms().iter().all(|(_, term)| thin(term)) {
            return None;
        }
        let (left, right) = self.b.to_product();
        (independent(left.as_ref()) && independent(right.transpose())).then_some(left.ncols())
    }

    /// The product with w2 cut to `rank`.
    pub(super) fn at_rank(&self, rank: usize) -> Result<Kron<T>> {
        let Split { b, d, .. } = self.split;
        let whole = match self.spectrum.get() {
            None => true,
            Some((_, svd)) => rank * 2 >= b.max(d) && rank >= svd.sigma.len(),
        };
        let b = if whole && self.spectrum.get().is_none() && !self.b.is_dense() {
            let (left, right) = self.b.to_product();
            Factor::Product { left, right }
        } else if whole {
            Factor::Full(self.b.to_full())
        } else {
            let (core, svd) = self.spectrum()?;
            core.truncated(svd, rank)
        };
        Ok(Kron { a: Factor::Full(self.a.clone()), b })
    }
}

/// A with unit norm, B, and the relative error, from the factors of terms of the same split.
///
/// With X = [cᵢ vec Aᵢ] and Y = [vec Bᵢ] the squared singular values of X Yᵀ are the eigenvalues of Sᵀ XᵀX S, where
/// YᵀY = S Sᵀ. Float64 Gram matrices are enough: an error of 1e-8 in A moves the optimum by its square.
fn of_one_split<T: Real>(
    exact: &[(f64, &Kron<f64>)],
    krons: &[(f64, &Kron<T>)],
) -> Result<(Mat<T>, Delta<T>, f64)> {
    let k = exact.len();
    let gram = |of: &dyn Fn(usize, usize) -> f64| {
        let mut out = Mat::zeros(k, k);
        for i in 0..k {
            for j in 0..=i {
                let value = of(i, j);
                (out[(i, j)], out[(j, i)]) = (value, value);
            }
        }
        out
    };
    let outer = gram(&|i, j| exact[i].0 * exact[j].0 * gram::plain_plain(&exact[i].1.a, &exact[j].1.a));
    let inner = gram(&|i, j| gram::plain_plain(&exact[i].1.b, &exact[j].1.b));
    let (values, vectors) = symmetric_eigen(inner.as_ref())?;
    let root = Mat::from_fn(k, k, |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt());
    let core = product(root.transpose(), product(outer.as_ref(), root.as_ref()).as_ref());
    let (squares, mixes) = symmetric_eigen(core.as_ref())?;
    let mix = product(root.as_ref(), mixes.get(.., k - 1..));
    let total: f64 = squares.iter().sum();
    let error = (squares[..k - 1].iter().sum::<f64>() / total).max(0.0).sqrt();

    let split = exact[0].1.split();
    let mut a = Mat::<f64>::zeros(split.a, split.c);
    for (i, (scale, kron)) in exact.iter().enumerate() {
        a += kron.a.to_full() * faer::Scale(scale * mix[(i, 0)]);
    }
    let a = &a * faer::Scale(1.0 / a.norm_l2());
    // B = R(ΔW)ᵀ vec(A) = Σ cᵢ ⟨Aᵢ, A⟩ Bᵢ: no inverse, so parallel terms do no harm.
    let mut sum = Delta::zero(split.b, split.d);
    let whole = Factor::Full(a.clone());
    for ((scale, outer), (_, kron)) in exact.iter().zip(krons) {
        let weight = scale * gram::plain_plain(&outer.a, &whole);
        sum.add_scaled(1.0, &Delta::of(weight, Term::Plain(kron.b.clone())));
    }
    Ok((Mat::from_fn(split.a, split.c, |i, j| T::from_f64(a[(i, j)])), sum, error))
}

/// The same from the entries of any delta: the leading eigenvector of the smaller Gram matrix of R(ΔW).
fn of_entries<T: Real>(delta: &Delta<T>, split: Split) -> Result<(Mat<T>, Delta<T>, f64)> {
    let Split { a, c, b, d } = split;
    let rows = Rows::new(delta);
    let mut blocks = Mat::zeros(a * c, b * d);
    let mut strip = vec![T::from_f64(0.0); b * delta.cols()];
    for i in 0..a {
        rows.write(i * b..(i + 1) * b, &mut strip);
        for (p, row) in strip.chunks_exact(c * d).enumerate() {
            for (column, value) in row.iter().enumerate() {
                blocks[(i * c + column / d, p * d + column % d)] = *value;
            }
        }
    }
    let wide = a * c <= b * d;
    let side = if wide { blocks.as_ref() } else { blocks.transpose() };
    let gram = product(side, side.transpose());
    let gram = Mat::from_fn(gram.nrows(), gram.ncols(), |i, j| gram[(i, j)].to_f64());
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
