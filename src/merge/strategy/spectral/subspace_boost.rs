//! Subspace boosting (arXiv 2506.16506): the singular values σ₁ ≥ σ₂ … of S are raised to at least σ_k, k the first
//! with σ₁ + … + σ_k ≥ β Σ σ. β = 1 is the weighted sum. The sum's leading value alone holds that share where β is at
//! most one over the rank, as with the default of 0.01 and any few LoRAs: then all become as large as the largest, and the
//! merge several times as strong as the sum. The authors' code also raises the values of null directions.

use faer::Mat;

use super::{ANY, Kind, Parameter, Row, Rule, Spectral, composed, sum, triplets};
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "subspace_boost",
    title: "Subspace boosting",
    help: "the weighted sum with its small singular values raised; strong, so lower the weights",
    whole_file: false,
    paper: "arXiv 2506.16506",
    inputs: ANY,
    parameters: &[Parameter {
        name: "beta",
        kind: Kind::Number(0.0, 1.0),
        default: "0.01",
        help: "the share of the singular values' sum that is left as it is",
    }],
    make: |settings| Rule::Spectral(Box::new(Boost { beta: settings.number("beta") })),
};

struct Boost {
    beta: f64,
}

impl Spectral for Boost {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let all = triplets(sum(models).as_ref())?;
        let share = self.beta * all.sigma.iter().sum::<f64>();
        let mut reached = 0.0;
        let floor = all.sigma.iter().find(|sigma| {
            reached += **sigma;
            reached >= share
        });
        let floor = floor.or(all.sigma.last()).copied().unwrap_or(0.0);
        let raised: Vec<f64> = all.sigma.iter().map(|sigma| sigma.max(floor)).collect();
        Ok(composed(all.u, &raised, &all.v))
    }
}
