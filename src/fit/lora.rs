//! Low-rank fits: the optimal truncation of the joint core, whose tail is exactly the error (Eckart, Young).

use super::budget::{Bound, Curve, Point, Purpose};
use super::lokr::product_numbers;
use super::{Fitter, Form, RankRule};
use crate::compute::linalg::Svd;
use crate::delta::Factor;
use crate::delta::core::Core;
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
            let rank = rank.min(most);
            let error = if bound.purpose == Purpose::Make { 0.0 } else { self.error_at(rank)? };
            return Ok(Curve::single(form, Point { rank, error, numbers: rank * side }));
        }
        let sigma = match bound.purpose {
            // Sizes that must be kept were surveyed with all digits.
            Purpose::Make if bound.within_size => self.svd(0.0)?.sigma.clone(),
            Purpose::Make => self.svd(bound.tolerance)?.sigma.clone(),
            Purpose::Survey => self.core().spectrum()?,
            Purpose::Estimate => self.core().spectrum_estimate()?,
        };
        let Self { shape, .. } = self;
        Ok(Curve::of_spectrum(form, &sigma, |rank| match form {
            Form::LokrUnit => product_numbers(rank, shape.rows, shape.cols),
            _ => rank * (shape.rows + shape.cols),
        }))
    }

    /// The one point that a rule on the singular values chooses.
    fn ruled_curve(&self, form: Form, rule: RankRule, bound: Bound) -> Result<Curve> {
        let estimated;
        let sigma = match (bound.purpose, bound.rank) {
            (Purpose::Make, Some(most)) if !rule.needs_all() => {
                &self.kept_svd(|core| core.leading(most))?.sigma
            }
            (Purpose::Make | Purpose::Survey, _) => &self.svd(0.0)?.sigma,
            (Purpose::Estimate, _) => {
                estimated = self.core().spectrum_estimate()?;
                &estimated
            }
        };
        let all = self.core().matrix.squared_norm_l2().to_f64();
        let rank = rule.rank(sigma, all).min(bound.rank.unwrap_or(usize::MAX));
        let kept: f64 = sigma[..rank].iter().map(|sigma| sigma * sigma).sum();
        let numbers = rank * (self.shape.rows + self.shape.cols);
        Ok(Curve::single(form, Point { rank, error: (1.0 - kept / all).max(0.0).sqrt(), numbers }))
    }

    /// What the best fit of a rank leaves.
    fn error_at(&self, rank: usize) -> Result<f64> {
        let kept: f64 = self.core().leading(rank)?.sigma.iter().map(|sigma| sigma * sigma).sum();
        let all = self.core().matrix.squared_norm_l2().to_f64();
        Ok((1.0 - kept / all).max(0.0).sqrt())
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
