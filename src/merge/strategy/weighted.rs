//! Σ wᵢ Δᵢ, with the weights as given; the average divides by Σ wᵢ when asked.

use super::{ANY, Facts, Kind, Parameter, Row, Rule, Weigh};

pub(super) const SUM: Row = Row {
    name: "weighted_sum",
    title: "Weighted sum",
    help: "the sum of weight times effect",
    whole_file: false,
    paper: "the definition",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Weights(Box::new(Weighted { normalize: false })),
};

pub(super) const AVERAGE: Row = Row {
    name: "weighted_average",
    title: "Weighted average",
    help: "the weighted sum with the weights exactly as given; --normalize divides them by their sum",
    whole_file: false,
    paper: "lycomerge's older scripts",
    inputs: ANY,
    parameters: &[Parameter {
        name: "normalize",
        kind: Kind::Flag,
        default: "false",
        help: "divide the weights by their sum",
    }],
    make: |settings| Rule::Weights(Box::new(Weighted { normalize: settings.flag("normalize") })),
};

struct Weighted {
    normalize: bool,
}

impl Weigh for Weighted {
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        let total = if self.normalize { facts.weights.iter().sum() } else { 1.0 };
        facts.weights.iter().map(|weight| weight / total).collect()
    }
}
