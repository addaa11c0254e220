//! The weighted sum, then each layer scaled so that its largest absolute entry is `norm_threshold`. One scalar
//! per layer, so the merge stays factored; only its range is read entry by entry.

use super::{Facts, Row, Strategy};

pub(super) const ROW: Row = Row {
    name: "min_max_norm",
    title: "Min-max norm",
    help: "the weighted sum, each layer scaled so that its largest entry is --norm-threshold",
    whole_file: false,
    options: &["norm-threshold"],
    make: |options| Box::new(MinMaxNorm { threshold: options.norm_threshold }),
};

struct MinMaxNorm {
    threshold: f64,
}

impl Strategy for MinMaxNorm {
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        facts.weights.to_vec()
    }

    fn peak(&self) -> Option<f64> {
        Some(self.threshold)
    }
}
