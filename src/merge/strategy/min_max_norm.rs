//! The weighted sum, then each layer scaled so that its largest absolute entry is `norm_threshold`. One scalar
//! per layer, so the merge stays factored; only its range is read entry by entry.

use super::{ANY, Facts, Kind, Parameter, Row, Rule, Weigh};

pub(super) const ROW: Row = Row {
    name: "min_max_norm",
    title: "Min-max norm",
    help: "the weighted sum, each layer scaled so that its largest entry is --norm-threshold",
    whole_file: false,
    paper: "lycomerge's older scripts",
    inputs: ANY,
    parameters: &[Parameter {
        name: "norm_threshold",
        kind: Kind::Above(0.0, f64::MAX),
        default: "1",
        help: "the largest entry of each layer",
    }],
    make: |settings| Rule::Weights(Box::new(MinMaxNorm { threshold: settings.number("norm_threshold") })),
};

struct MinMaxNorm {
    threshold: f64,
}

impl Weigh for MinMaxNorm {
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        facts.weights.to_vec()
    }

    fn peak(&self) -> Option<f64> {
        Some(self.threshold)
    }
}
