//! Σ wᵢ Δᵢ, with the weights as given; the average divides by Σ wᵢ when asked.

use super::{Facts, Row, Strategy};

pub(super) const SUM: Row = Row {
    name: "weighted_sum",
    title: "Weighted sum",
    help: "the sum of weight times effect",
    whole_file: false,
    options: &[],
    make: |_| Box::new(Weighted { normalize: false }),
};

pub(super) const AVERAGE: Row = Row {
    name: "weighted_average",
    title: "Weighted average",
    help: "the weighted sum with the weights exactly as given; --normalize divides them by their sum",
    whole_file: false,
    options: &["normalize"],
    make: |options| Box::new(Weighted { normalize: options.normalize }),
};

struct Weighted {
    normalize: bool,
}

impl Strategy for Weighted {
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        let total = if self.normalize { facts.weights.iter().sum() } else { 1.0 };
        facts.weights.iter().map(|weight| weight / total).collect()
    }
}
