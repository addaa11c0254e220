//! LoHa fits by alternating least squares: with three of the four factors fixed, each row of the fourth is a
//! small linear least-squares problem, aᵢ = (B diag(hᵢ²) Bᵀ)⁻¹ B (hᵢ ∘ wᵢ) with h the other half's entries.
//!
//! The problem is not convex, so several starts compete: the strongest term, the average of the factors (what
//! naive merging would store, so the result is never worse), and the square-root SVD. What comes from another family
//! begins with its exact forms, too: U V = (U V) ∘ 1 and A ⊗ B = (A ⊗ 1) ∘ (1 ⊗ B).

use faer::{Mat, MatRef};

use super::budget::{Bound, Curve, Point};
use super::{Fitter, Form};
use crate::compute::linalg::{centred_uniform, leading_svd, product, scale_columns, solve_positive};
use crate::delta::{Delta, Factor, Hadamard, Kron, Term};
use crate::error::{Error, Result};
use crate::tensor::Real;

/// Sweeps that every start gets, and that the best one gets at most.
const TRIAL_SWEEPS: usize = 3;
const SWEEPS: usize = 10;

/// One half of the product: left (m × r) and right (r × n).
type Half<T> = (Mat<T>, Mat<T>);

impl<T: Real> Fitter<'_, T> {
    /// The one point that a fit at `rank` reaches.
    pub(super) fn loha_curve(&self, rank: usize) -> Result<Curve> {
        let (rank, _, error) = self.nearest_loha(rank)?;
        let numbers = 2 * rank * (self.shape.rows + self.shape.cols);
        Ok(Curve::single(Form::Loha, Point { rank: *rank, error: *error, numbers }))
    }

    pub(super) fn nearest_loha(&self, rank: usize) -> Result<&(usize, Hadamard<T>, f64)> {
        let rank = rank.clamp(1, self.shape.rows.min(self.shape.cols));
        if let Some(made) = self.nearest_loha.get() {
            debug_assert_eq!(made.0, rank, "one layer is fitted at one rank");
            return Ok(made);
        }
        let (hadamard, error) = nearest(self.delta(), rank)?;
        Ok(self.nearest_loha.get_or_init(|| (rank, hadamard, error)))
    }

    /// Whether the terms are so parallel that one LoHa could hold their sum: the part of the sum that is
    /// orthogonal to the strongest term is within reach of the tolerance.
    pub(super) fn may_be_one_loha(&self, bound: Bound) -> bool {
        let inner = self.joint.gram_of_terms();
        let n = inner.nrows();
        let strongest = (0..n).max_by(|&i, &j| inner[(i, i)].total_cmp(&inner[(j, j)])).unwrap_or(0);
        let total: f64 = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|at| inner[at]).sum();
        let along: f64 = (0..n).map(|j| inner[(strongest, j)]).sum();
        let residual = (total - along * along / inner[(strongest, strongest)]).max(0.0);
        residual <= (4.0 * bound.tolerance).powi(2) * total
    }
}

fn nearest<T: Real>(delta: &Delta<T>, rank: usize) -> Result<(Hadamard<T>, f64)> {
    delta.check_formable()?;
    let target = delta.to_full();
    let norm = target.norm_l2().to_f64();
    let whole = |[first, second]: [Half<T>; 2]| {
        let [first, second] = [first, second].map(|(left, right)| Factor::Product { left, right });
        Hadamard { first, second }
    };
    let mut best: Option<([Half<T>; 2], f64)> = None;
    for halves in lifted(delta, &target, rank)? {
        let error = distance(&target, &halves);
        if error <= 16.0 * T::ROUNDOFF * norm {
            return Ok((whole(halves), error / norm));
        }
        keep_better(&mut best, halves, error);
    }
    let lifted = best.iter().map(|(halves, _)| halves.clone()).collect::<Vec<_>>();
    for mut halves in lifted.into_iter().chain(starts(delta, &target, rank)?) {
        let mut error = f64::INFINITY;
        for _ in 0..TRIAL_SWEEPS {
            error = sweep(&target, &mut halves)?;
        }
        keep_better(&mut best, halves, error);
    }
    let (mut halves, mut error) = best.ok_or_else(|| Error::internal("a LoHa fit without a start"))?;
    for _ in TRIAL_SWEEPS..SWEEPS {
        let before = halves.clone();
        let next = sweep(&target, &mut halves)?;
        if next >= error {
            halves = before;
            break;
        }
        let settled = error - next < 1e-4 * error;
        error = next;
        if settled {
            break;
        }
    }
    Ok((whole(halves), error / norm))
}

fn keep_better<T: Real>(best: &mut Option<([Half<T>; 2], f64)>, halves: [Half<T>; 2], error: f64) {
    if best.as_ref().is_none_or(|(_, least)| error < *least) {
        *best = Some((halves, error));
    }
}

/// What terms of other families are as LoHas of `rank`: low rank times ones, and Kronecker products.
fn lifted<T: Real>(delta: &Delta<T>, target: &Mat<T>, rank: usize) -> Result<Vec<[Half<T>; 2]>> {
    let mut lifted = Vec::new();
    if delta.terms().iter().all(|(_, term)| matches!(**term, Term::Hadamard(_))) {
        return Ok(lifted);
    }
    if let [(scale, term)] = delta.terms()
        && let Term::Kron(kron) = &**term
        && kron.a.rank().max(kron.b.rank()) <= rank
    {
        lifted.push(of_kron(*scale, kron, rank));
    }
    let (left, right) = match delta.terms() {
        [(scale, term)] if term.rank() <= rank => {
            let (left, right) = term.product();
            (&*left * faer::Scale(T::from_f64(*scale)), right.into_owned())
        }
        _ => {
            let svd = leading_svd(target.as_ref(), rank, |_| None)?;
            let mut left = svd.u;
            scale_columns(&mut left, svd.sigma.iter().copied());
            (left, svd.v.transpose().to_owned())
        }
    };
    let ones =
        (Mat::full(target.nrows(), 1, T::from_f64(1.0)), Mat::full(1, target.ncols(), T::from_f64(1.0)));
    lifted.push([padded((left, right), rank), padded(ones, rank)]);
    Ok(lifted)
}

/// A ⊗ B = (A ⊗ 1) ∘ (1 ⊗ B): the factors of A stretched, those of B repeated.
fn of_kron<T: Real>(scale: f64, kron: &Kron<T>, rank: usize) -> [Half<T>; 2] {
    let (rows, cols) = (kron.b.rows(), kron.b.cols());
    let ((a_left, a_right), (b_left, b_right)) = (kron.a.to_product(), kron.b.to_product());
    let scale = T::from_f64(scale);
    let stretched = (
        Mat::from_fn(kron.rows(), a_left.ncols(), |i, k| scale * a_left[(i / rows, k)]),
        Mat::from_fn(a_right.nrows(), kron.cols(), |k, j| a_right[(k, j / cols)]),
    );
    let repeated = (
        Mat::from_fn(kron.rows(), b_left.ncols(), |i, k| b_left[(i % rows, k)]),
        Mat::from_fn(b_right.nrows(), kron.cols(), |k, j| b_right[(k, j % cols)]),
    );
    [padded(stretched, rank), padded(repeated, rank)]
}

/// The same product with more columns and rows: columns of zeros, and rows of anything, because least squares could
/// make nothing of two zeros.
fn padded<T: Real>((left, right): Half<T>, rank: usize) -> Half<T> {
    let mut state = 0x10a;
    let own = left.ncols();
    let zero = T::from_f64(0.0);
    (
        Mat::from_fn(left.nrows(), rank, |i, k| if k < own { left[(i, k)] } else { zero }),
        Mat::from_fn(rank, right.ncols(), |k, j| match k < own {
            true => right[(k, j)],
            false => T::from_f64(centred_uniform(&mut state)),
        }),
    )
}

fn starts<T: Real>(delta: &Delta<T>, target: &Mat<T>, rank: usize) -> Result<Vec<[Half<T>; 2]>> {
    let mut starts = Vec::new();
    let of_rank = |hadamard: &Hadamard<T>| {
        let halves = [hadamard.first.to_product(), hadamard.second.to_product()];
        halves.iter().all(|(left, _)| left.ncols() == rank).then_some(halves)
    };
    let terms: Vec<(f64, [Half<T>; 2])> = delta
        .terms()
        .iter()
        .filter_map(|(scale, term)| match &**term {
            Term::Hadamard(hadamard) => Some((*scale, of_rank(hadamard)?)),
            _ => None,
        })
        .collect();
    let scaled = |scale: f64, [(left, right), second]: [Half<T>; 2]| {
        [(&left * faer::Scale(T::from_f64(scale)), right), second]
    };
    let strength = |(scale, [(a, b), (c, d)]): &(f64, [Half<T>; 2])| {
        [a, b, c, d].iter().fold(scale.abs(), |product, factor| product * factor.norm_l2().to_f64())
    };
    if let Some((scale, halves)) = terms.iter().max_by(|x, y| strength(x).total_cmp(&strength(y))) {
        starts.push(scaled(*scale, halves.clone()));
    }
    if let [(_, first), rest @ ..] = &terms[..]
        && !rest.is_empty()
    {
        let mut sum = first.clone();
        for (_, halves) in rest {
            for ((left, right), (more_left, more_right)) in sum.iter_mut().zip(halves) {
                *left += more_left;
                *right += more_right;
            }
        }
        // The average of every factor, at the average scale of the sum.
        let scale: f64 = terms.iter().map(|(scale, _)| scale).sum();
        let share = (1.0 / terms.len() as f64).powi(4);
        starts.push(scaled(scale * share, sum));
    }
    let root = |signed: bool| {
        let entry = |x: f64| if signed { x.signum() * x.abs().sqrt() } else { x.abs().sqrt() };
        let matrix =
            Mat::from_fn(target.nrows(), target.ncols(), |i, j| T::from_f64(entry(target[(i, j)].to_f64())));
        let svd = leading_svd(matrix.as_ref(), rank, |_| None)?;
        let half = |vectors: MatRef<'_, T>| {
            Mat::from_fn(vectors.nrows(), rank, |i, j| vectors[(i, j)] * T::from_f64(svd.sigma[j].sqrt()))
        };
        Ok((half(svd.u.as_ref()), half(svd.v.as_ref()).transpose().to_owned()))
    };
    starts.push([root(true)?, root(false)?]);
    Ok(starts)
}

/// Solves for each of the four factors once; gives ‖target − fit‖.
fn sweep<T: Real>(target: &Mat<T>, halves: &mut [Half<T>; 2]) -> Result<f64> {
    for turn in 0..2 {
        let other = product(halves[1 - turn].0.as_ref(), halves[1 - turn].1.as_ref());
        let (left, right) = &mut halves[turn];
        *left = solve_rows(target.as_ref(), other.as_ref(), right.as_ref())?;
        let columns = solve_rows(target.transpose(), other.transpose(), left.transpose())?;
        *right = columns.transpose().to_owned();
    }
    Ok(distance(target, halves))
}

/// ‖target − fit‖
fn distance<T: Real>(target: &Mat<T>, [(a1, b1), (a2, b2)]: &[Half<T>; 2]) -> f64 {
    let (first, second) = (product(a1.as_ref(), b1.as_ref()), product(a2.as_ref(), b2.as_ref()));
    let square = |i, j| (target[(i, j)] - first[(i, j)] * second[(i, j)]).to_f64().powi(2);
    (0..target.ncols()).map(|j| (0..target.nrows()).map(|i| square(i, j)).sum::<f64>()).sum::<f64>().sqrt()
}

/// Row i of the result minimises ‖wᵢ − (xᵢ B) ∘ hᵢ‖.
fn solve_rows<T: Real>(w: MatRef<'_, T>, h: MatRef<'_, T>, b: MatRef<'_, T>) -> Result<Mat<T>> {
    let (rows, cols, rank) = (w.nrows(), w.ncols(), b.nrows());
    let pairs: Vec<(usize, usize)> = (0..rank).flat_map(|p| (0..=p).map(move |q| (p, q))).collect();
    // All normal matrices at once: column (p, q) of (h ∘ h) · [b_p ∘ b_q].
    let squares = Mat::from_fn(rows, cols, |i, j| h[(i, j)] * h[(i, j)]);
    let products = Mat::from_fn(cols, pairs.len(), |j, k| b[(pairs[k].0, j)] * b[(pairs[k].1, j)]);
    let normal = product(squares.as_ref(), products.as_ref());
    let weighted = Mat::from_fn(rows, cols, |i, j| h[(i, j)] * w[(i, j)]);
    let right_sides = product(weighted.as_ref(), b.transpose());
    let mut out = Mat::zeros(rows, rank);
    for i in 0..rows {
        let mut matrix = Mat::<f64>::zeros(rank, rank);
        for (k, &(p, q)) in pairs.iter().enumerate() {
            let value = normal[(i, k)].to_f64();
            (matrix[(p, q)], matrix[(q, p)]) = (value, value);
        }
        // A ridge far below what the factors' dtype can show keeps dead directions solvable.
        let ridge = 1e-7 * (0..rank).map(|p| matrix[(p, p)]).sum::<f64>() / rank as f64;
        (0..rank).for_each(|p| matrix[(p, p)] += ridge.max(f64::MIN_POSITIVE));
        let mut x = Mat::from_fn(rank, 1, |p, _| right_sides[(i, p)].to_f64());
        if solve_positive(matrix.as_mut(), x.as_mut()) {
            (0..rank).for_each(|p| out[(i, p)] = T::from_f64(x[(p, 0)]));
        }
    }
    Ok(out)
}
