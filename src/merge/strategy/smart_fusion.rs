//! Models weigh more in the layers that matter to them: with the importance sᵢ = ‖Δᵢ‖ / Σ_layers ‖Δᵢ‖,
//! bᵢ = wᵢ (1 + sᵢ), or wᵢ/2 where model i lacks the layer or sᵢ = 0; the final weight is wᵢ bᵢ / Σ b where
//! Σ b > 0, else wᵢ.

use super::{ANY, Facts, Row, Rule, Weigh};

pub(super) const ROW: Row = Row {
    name: "smart_fusion",
    title: "Smart fusion",
    help: "weights shift towards the models to which a layer matters more",
    whole_file: true,
    paper: "lycomerge's older scripts",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Weights(Box::new(SmartFusion)),
};

struct SmartFusion;

impl Weigh for SmartFusion {
    fn coefficients(&self, facts: &Facts<'_>) -> Vec<f64> {
        let blend =
            |(weight, share): (&f64, &f64)| if *share > 0.0 { weight * (1.0 + share) } else { weight / 2.0 };
        let blended: Vec<f64> = facts.weights.iter().zip(facts.shares).map(blend).collect();
        let total: f64 = blended.iter().sum();
        if total <= 0.0 {
            return facts.weights.to_vec();
        }
        facts.weights.iter().zip(blended).map(|(weight, b)| weight * b / total).collect()
    }
}
