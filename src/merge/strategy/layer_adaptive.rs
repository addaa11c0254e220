//! Layers on which the models agree weigh more: Σ wᵢ a Δᵢ with a = 1/(1 + ρ), ρ the mean elementwise variance
//! across models over their mean elementwise second moment. Never normalised; alone, a = 1.

use super::{ANY, Facts, Row, Rule, Weigh};

pub(super) const ROW: Row = Row {
    name: "layer_adaptive",
    title: "Layer-adaptive",
    help: "the weighted sum, weaker in layers on which the models disagree",
    whole_file: false,
    paper: "lycomerge's older scripts",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Weights(Box::new(LayerAdaptive)),
};

struct LayerAdaptive;

fn scaled(facts: &Facts<'_>, disagreement: f64) -> Vec<f64> {
    facts.weights.iter().map(|weight| weight / (1.0 + disagreement)).collect()
}

impl Weigh for LayerAdaptive {
    fn needs_gram(&self) -> bool {
        true
    }

    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        let (second_moment, variance) = facts.moments();
        scaled(facts, if second_moment > 0.0 { variance / second_moment } else { 0.0 })
    }

    /// The older scripts' rule has no scale of its own: 1/(1 + variance).
    fn factor_coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        scaled(facts, facts.moments().1)
    }
}
