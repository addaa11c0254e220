//! Singular value calibration (arXiv 2602.05536) of the weighted sum: S = Σᵣ σᵣ uᵣ vᵣᵀ becomes Σᵣ γᵣ σᵣ uᵣ vᵣᵀ with
//! γᵣ = T / Σᵢ max(α, sᵢ), sᵢ = ⟨a, aᵢ⟩ / ‖aᵢ‖², aᵢ = uᵣᵀ Mᵢ and a = Σ aᵢ = uᵣᵀ S: how much of its effect in the output
//! direction uᵣ a model finds again in the sum. The same model T times becomes itself. α is 1/T unless it is set (1: values
//! are lowered only).
//!
//! A model that lacks the direction counts as sᵢ = 1, the limit of ever smaller effects that nothing overlaps, where the
//! authors' code divides by 1e-12 and arrives at α.

use faer::Mat;

use super::{ANY, Kind, NONE, Parameter, Row, Rule, Spectral, composed, sum, triplets};
use crate::compute::linalg::product;
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "svc",
    title: "Singular value calibration",
    help: "the weighted sum, weaker in the directions that several models push",
    whole_file: false,
    paper: "arXiv 2602.05536",
    inputs: ANY,
    parameters: &[Parameter {
        name: "alpha",
        kind: Kind::Number(0.0, f64::MAX),
        default: "0",
        help: "the least that a model counts in a direction; 0 is one over the number of models, 1 never raises",
    }],
    make: |settings| Rule::Spectral(Box::new(Svc { alpha: settings.number("alpha") })),
};

struct Svc {
    alpha: f64,
}

impl Spectral for Svc {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let count = models.len() as f64;
        let alpha = if self.alpha == 0.0 { 1.0 / count } else { self.alpha };
        let mut all = triplets(sum(models).as_ref())?;
        let mut counts = vec![0.0; all.sigma.len()];
        for model in models {
            // Columns aᵢ; a is σ v.
            let responses = product(model.transpose(), all.u.as_ref());
            let least = (NONE * model.norm_l2()).powi(2);
            for (r, count) in counts.iter_mut().enumerate() {
                let response = responses.col(r);
                let square: f64 = response.squared_norm_l2();
                let found = if square > least {
                    all.sigma[r] * (all.v.col(r).transpose() * response) / square
                } else {
                    1.0
                };
                *count += found.max(alpha);
            }
        }
        all.sigma.iter_mut().zip(&counts).for_each(|(sigma, counted)| *sigma *= count / counted);
        Ok(composed(all.u, &all.sigma, &all.v))
    }
}
