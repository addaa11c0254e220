//! Low-rank fits: the optimal truncation of the joint core, whose tail is exactly the error (Eckart, Young).

use super::budget::{Bound, Curve, Point, Purpose};
use super::lokr::product_numbers;
use super::{Fitter, Form, RankRule};
use crate::compute::linalg::Svd;
use crate::delta::core::Core;
use crate::delta::{Factor, Term};
use crate::error::Result;
use crate::tensor::Real;

impl<T: Real> Fitter<'_, T> {
    fn core(&self) -> &Core<'_, T> {
        self.core.get_or_init(|| Core::of_joint(self.joint))
    }

    /// Size against error by rank. A rank that is given and isn't to be judged needs no spectrum.
    pub(super) fn lora_curve(&self, form: Form, bound: Bound) -> Result<Curve> {
        if let Some(rule) = bound.rule {
            return self.ruled_curve(form, rule, bound);
        }
        let side = self.shape.rows + self.shape.cols;
        let most = self.shape.rows.min(self.shape.cols).min(self.delta().lifted_rank());
        if let (Some(rank), true) = (bound.rank, bound.rank_only) {
            let rank = match (self.is_difference(), bound.purpose) {
                (true, Purpose::Make) => self.useful_rank(rank.min(most), bound)?,
                _ => rank.min(most),
            };
            let error = if bound.purpose == Purpose::Make { 0.0 } else { self.error_at(rank)? };
            return Ok(Curve::single(form, Point { rank, error, numbers: rank * side }));
        }
        let truncation = bound.truncation().powi(2);
        let enough = |sigma: &[f64], all: f64| all - squares(sigma) <= 0.9 * truncation * all;
        if bound.purpose == Purpose::Make
            && truncation > 300.0 * T::ROUNDOFF
            && let Some(svd) = self.svd_until(enough)?
        {
            let all = self.core().matrix.squared_norm_l2().to_f64();
            return Ok(self.curve_of(form, &svd.sigma, (all - squares(&svd.sigma)).max(0.0)));
        }
        let sigma = match bound.purpose {
            // Sizes that must be kept were surveyed with all digits.
            Purpose::Make if bound.within_size => self.svd(0.0)?.sigma.clone(),
            Purpose::Make => self.svd(bound.tolerance)?.sigma.clone(),
            Purpose::Survey => self.core().spectrum()?,
            Purpose::Estimate => self.spectrum_estimate()?.to_vec(),
        };
        Ok(self.curve_of(form, &sigma, 0.0))
    }

    fn curve_of(&self, form: Form, sigma: &[f64], beyond: f64) -> Curve {
        let Self { shape, .. } = self;
        Curve::of_spectrum(form, sigma, beyond, |rank| match form {
            Form::LokrUnit => product_numbers(rank, shape.rows, shape.cols),
            _ => rank * (shape.rows + shape.cols),
        })
    }

    /// Whether the delta is a matrix of which nothing is known, such as the difference of two checkpoints.
    fn is_difference(&self) -> bool {
        matches!(self.delta().terms(), [(_, term)] if matches!(**term, Term::Plain(Factor::Full(_))))
    }

    /// Of the leading `rank` singular values those that the dtype's rounding doesn't drown.
    fn useful_rank(&self, rank: usize, bound: Bound) -> Result<usize> {
        let sigma = &self.kept_svd(|core| core.leading(rank))?.sigma;
        let all = self.core().matrix.squared_norm_l2().to_f64();
        let drowned = bound.floor().powi(2) * all;
        let mut tail = 0.0;
        let beyond = sigma.iter().rev().take_while(|sigma| {
            tail += sigma.powi(2);
            tail <= drowned
        });
        Ok((sigma.len() - beyond.count()).max(1))
    }

    /// The leading singular triplets, as few as are `enough` given their values and the squares of all: a large matrix
    /// of which nothing is known often has most of it in a few, which are found in a fraction of the time of all.
    fn svd_until(&self, enough: impl Fn(&[f64], f64) -> bool) -> Result<Option<&Svd<T>>> {
        /// What is tried, where it is so small a part of the matrix.
        const RANKS: [usize; 2] = [32, 128];
        const PART: usize = 8;
        if self.svd.get().is_none() && self.is_difference() {
            let matrix = &self.core().matrix;
            let (short, all) = (matrix.nrows().min(matrix.ncols()), matrix.squared_norm_l2().to_f64());
            for rank in RANKS.into_iter().filter(|rank| rank * PART <= short) {
                let found = self.core().leading(rank)?;
                if enough(&found.sigma, all) {
                    return self.kept_svd(|_| Ok(found)).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// The one point that a rule on the singular values chooses.
    fn ruled_curve(&self, form: Form, rule: RankRule, bound: Bound) -> Result<Curve> {
        let some = match (bound.purpose, rule.left_out()) {
            (Purpose::Make, Some(left)) if left > 300.0 * T::ROUNDOFF => {
                self.svd_until(|sigma, all| rule.rank(sigma, all) < sigma.len())?
            }
            _ => None,
        };
        let sigma = match (bound.purpose, bound.rank) {
            (Purpose::Make, _) if let Some(svd) = some => &svd.sigma,
            (Purpose::Make, Some(most)) if !rule.needs_all() => {
                &self.kept_svd(|core| core.leading(most))?.sigma
            }
            (Purpose::Make | Purpose::Survey, _) => &self.svd(0.0)?.sigma[..],
            (Purpose::Estimate, _) => self.spectrum_estimate()?,
        };
        let all = self.core().matrix.squared_norm_l2().to_f64();
        let rank = rule.rank(sigma, all).min(bound.rank.unwrap_or(usize::MAX));
        let kept = squares(&sigma[..rank]);
        let numbers = rank * (self.shape.rows + self.shape.cols);
        Ok(Curve::single(form, Point { rank, error: (1.0 - kept / all).max(0.0).sqrt(), numbers }))
    }

    /// What the best fit of a rank leaves.
    fn error_at(&self, rank: usize) -> Result<f64> {
        let kept = squares(&self.core().leading(rank)?.sigma);
        let all = self.core().matrix.squared_norm_l2().to_f64();
        Ok((1.0 - kept / all).max(0.0).sqrt())
    }

    fn spectrum_estimate(&self) -> Result<&[f64]> {
        if let Some(sigma) = self.spectrum_estimate.get() {
            return Ok(sigma);
        }
        let sigma = self.core().spectrum_estimate()?;
        Ok(self.spectrum_estimate.get_or_init(|| sigma))
    }

    fn svd(&self, tolerance: f64) -> Result<&Svd<T>> {
        self.kept_svd(|core| core.svd(tolerance))
    }

    fn kept_svd(&self, make: impl FnOnce(&Core<'_, T>) -> Result<Svd<T>>) -> Result<&Svd<T>> {
        if let Some(svd) = self.svd.get() {
            return Ok(svd);
        }
        let made = make(self.core())?;
        Ok(self.svd.get_or_init(|| made))
    }

    /// U √Σ and √Σ Vᵀ at `rank`.
    pub(super) fn low_rank(&self, rank: usize) -> Result<Factor<T>> {
        let made;
        let svd = match self.svd.get() {
            Some(svd) => svd,
            None => {
                made = self.core().leading(rank)?;
                &made
            }
        };
        Ok(self.core().truncated(svd, rank))
    }
}

/// Σσ²
fn squares(sigma: &[f64]) -> f64 {
    sigma.iter().map(|sigma| sigma * sigma).sum()
}
