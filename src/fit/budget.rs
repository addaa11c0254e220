//! Size against error: the curves of a layer's forms, the choice under a tolerance or a rank, and the tolerance
//! whose file fits a number of bytes.

use super::{Choice, Form, RankRule};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// The tolerance of `quality exact`, and of `auto` unless another is given.
pub const EXACT: f64 = 0.01;

/// One way to store a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The inner rank; 0 where the form has none.
    pub rank: usize,
    /// ‖stored − true‖ / ‖true‖ before rounding to the dtype.
    pub error: f64,
    /// Stored numbers.
    pub numbers: usize,
}

/// The points of one form, by rank: the larger the better.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The form.
    pub form: Form,
    points: Vec<Point>,
}

impl Curve {
    pub(super) fn single(form: Form, point: Point) -> Self {
        Self { form, points: vec![point] }
    }

    pub(super) fn new(form: Form, points: Vec<Point>) -> Self {
        Self { form, points }
    }

    /// From singular values: rank r leaves the tail √(Σ_{t>r} σ²), relative to the whole. `beyond` are the squares of
    /// those that aren't given.
    pub(super) fn of_spectrum(
        form: Form,
        sigma: &[f64],
        beyond: f64,
        numbers: impl Fn(usize) -> usize,
    ) -> Self {
        let point = |(i, error)| Point { rank: i + 1, error, numbers: numbers(i + 1) };
        Self { form, points: tails(sigma, beyond).into_iter().enumerate().map(point).collect() }
    }

    /// The smallest point within `bound`.
    pub(super) fn smallest(&self, bound: Bound) -> Option<Point> {
        let truncation = bound.truncation();
        self.points.get(self.points.partition_point(|point| point.error > truncation)).copied()
    }

    /// The point of least error; of points that differ by less than the dtype's rounding, the smallest.
    fn best(&self, bound: Bound) -> Point {
        let least = self.points.last().expect("a form has a point");
        let close = least.error.hypot(bound.floor());
        *self.points.get(self.points.partition_point(|point| point.error > close)).unwrap_or(least)
    }

    /// The largest rank that it has.
    fn largest_rank(&self) -> usize {
        self.points.last().map_or(0, |point| point.rank)
    }

    /// Without the points above a rank; the smallest stays in any case.
    #[must_use]
    pub(super) fn up_to(mut self, rank: Option<usize>) -> Self {
        let within = |point: &Point| rank.is_none_or(|limit| point.rank <= limit);
        self.points.truncate(self.points.partition_point(within).max(1));
        self
    }
}

/// √(Σ_{t>r} σ² / Σ σ²) for r = 1, 2, …, with the squares of those beyond.
pub(super) fn tails(sigma: &[f64], beyond: f64) -> Vec<f64> {
    let mut tail = beyond;
    let mut tails: Vec<f64> = sigma
        .iter()
        .rev()
        .map(|s| {
            let beyond = tail;
            tail += s * s;
            beyond
        })
        .collect();
    tails.reverse();
    tails.into_iter().map(|beyond| if tail > 0.0 { (beyond / tail).sqrt() } else { 0.0 }).collect()
}

/// What curves are wanted for: what need not be known isn't computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To choose a form and to make it.
    Make,
    /// To choose; nothing will be made, so singular values are enough.
    Survey,
    /// To tell a user what to expect.
    Estimate,
}

/// What a layer's fit must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The relative error that is allowed, rounding included.
    pub tolerance: f64,
    /// The largest inner rank.
    pub rank: Option<usize>,
    /// The largest inner rank of convolutions with more than one position, where it isn't [`rank`](Self::rank).
    pub conv_rank: Option<usize>,
    /// Take the rank as it is, without asking what it costs.
    pub rank_only: bool,
    /// The rule that chooses the rank of a low-rank fit, up to the limit.
    pub rule: Option<RankRule>,
    /// What the curves are wanted for.
    pub purpose: Purpose,
    /// The tolerance comes from a size that must be kept; it is no promise of its own.
    pub within_size: bool,
    /// The output's dtype, which takes its own part of the tolerance.
    pub dtype: Dtype,
}

impl Bound {
    /// To make a layer's best fit within `tolerance`, or up to `rank`.
    pub fn new(tolerance: f64, rank: Option<usize>, dtype: Dtype) -> Self {
        Self {
            tolerance,
            rank,
            conv_rank: None,
            rank_only: false,
            rule: None,
            purpose: Purpose::Make,
            within_size: false,
            dtype,
        }
    }

    /// The bound of a layer with this kernel.
    pub(super) fn of_kernel(self, kernel: &[usize]) -> Self {
        let positions: usize = kernel.iter().product();
        let rank = if positions > 1 { self.conv_rank.or(self.rank) } else { self.rank };
        Self { rank, conv_rank: None, ..self }
    }

    /// What truncation may cost when rounding two factors to the dtype takes its part (uniformly distributed
    /// mantissas give .59 u; measured .6).
    pub(super) fn truncation(&self) -> f64 {
        let rounding = 0.7 * self.dtype.unit_roundoff();
        (self.tolerance.powi(2) - rounding.powi(2)).max(self.floor().powi(2)).sqrt()
    }

    /// What is lost in the rounding to the dtype whatever else is done.
    pub(super) fn floor(&self) -> f64 {
        0.1 * self.dtype.unit_roundoff()
    }
}

/// The curves that are left where nothing but a rank is asked for: low rank is stored at just that one, and what is
/// already there only if it needs no more.
pub fn at_rank(curves: &[Curve], rank: usize) -> Vec<Curve> {
    let limited = |curve: &Curve| {
        let curve = curve.clone().up_to(Some(rank));
        match curve.form {
            Form::Own => (curve.largest_rank() <= rank).then_some(curve),
            Form::Lora | Form::LokrUnit => {
                Some(Curve { points: curve.points.last().copied().into_iter().collect(), ..curve })
            }
            _ => Some(curve),
        }
    };
    curves.iter().filter_map(limited).collect()
}

/// The smallest form within the bound, or the best there is.
pub fn choose(curves: &[Curve], bound: Bound) -> Choice {
    let within =
        curves.iter().filter_map(|curve| Some(Choice { form: curve.form, point: curve.smallest(bound)? }));
    within.min_by_key(|choice| choice.point.numbers).unwrap_or_else(|| {
        let best = curves.iter().map(|curve| Choice { form: curve.form, point: curve.best(bound) });
        best.min_by(|a, b| a.point.error.total_cmp(&b.point.error)).expect("every layer has a form")
    })
}

/// The smallest tolerance at which all layers together take at most `numbers` stored numbers. Each comes with how
/// many it stands for.
///
/// # Errors
/// Nothing fits: says how little would.
pub fn tolerance_for_size<'c>(
    layers: impl Iterator<Item = (&'c [Curve], usize)> + Clone,
    numbers: usize,
    bound: Bound,
) -> Result<f64> {
    let size = |tolerance: f64| -> usize {
        let bound = Bound { tolerance, ..bound };
        layers.clone().map(|(curves, count)| choose(curves, bound).point.numbers * count).sum()
    };
    if size(0.0) <= numbers {
        return Ok(0.0);
    }
    let least = size(1.0);
    if least > numbers {
        let bytes = |numbers: usize| crate::file::human_size((numbers * bound.dtype.size()) as u64);
        return Err(Error::option(format!(
            "nothing that small holds this merge: the factors alone take {} at the least, and max-size leaves {} for \
             them",
            bytes(least),
            bytes(numbers)
        )));
    }
    // Bisection on the logarithm: the interesting tolerances span five decades.
    let (mut low, mut high) = (1e-6_f64.ln(), 0.0_f64);
    for _ in 0..48 {
        let middle = f64::midpoint(low, high);
        if size(middle.exp()) <= numbers { high = middle } else { low = middle }
    }
    Ok(high.exp())
}
