//! WUDI (arXiv 2503.08099): the M with the least Σᵢ ‖(M − Mᵢ) Mᵢᵀ‖² / ‖Mᵢ‖², that is, for the inputs that a model
//! reacts to, the merge does what the model does. Its gradient is zero where M C = D, C = Σ Mᵢᵀ Mᵢ / ‖Mᵢ‖² and
//! D = Σ Mᵢ Mᵢᵀ Mᵢ / ‖Mᵢ‖²; of the solutions D C⁺ is the smallest, zero on inputs that no model reacts to. With
//! Y = U Σ Vᵀ the matrices Mᵢ/‖Mᵢ‖ below each other, C = Yᵀ Y, and D C⁺ = Σ Mᵢ (Mᵢ/‖Mᵢ‖)ᵀ Uᵢ Σ⁻¹ Vᵀ without squares.
//!
//! Models that react to different inputs are added up, and the same model T times stays itself. The authors run 300 steps
//! of Adam from the sum, which stops on the way to this.

use faer::{Mat, Scale};

use super::{ANY, Row, Rule, Spectral, beside, composed, sum, triplets};
use crate::compute::linalg::{add_product, product};
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "wudi",
    title: "WUDI",
    help: "what disturbs each model least on the inputs that it reacts to",
    whole_file: false,
    paper: "arXiv 2503.08099",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Spectral(Box::new(Wudi)),
};

struct Wudi;

impl Spectral for Wudi {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let units: Vec<Mat<f64>> = models
            .iter()
            .filter(|model| model.norm_l2() > 0.0)
            .map(|model| Scale(1.0 / model.norm_l2()) * model)
            .collect();
        if units.is_empty() {
            return Ok(sum(models));
        }
        let below = beside(units.iter().map(|unit| unit.transpose()));
        let all = triplets(below.transpose())?;
        let rows = models[0].nrows();
        let mut left = Mat::zeros(rows, all.sigma.len());
        let effects = models.iter().filter(|model| model.norm_l2() > 0.0);
        for (i, (model, unit)) in effects.zip(&units).enumerate() {
            let back = product(unit.transpose(), all.u.subrows(i * rows, rows));
            add_product(left.as_mut(), 1.0, model.as_ref(), back.as_ref());
        }
        let inverse: Vec<f64> = all.sigma.iter().map(|sigma| 1.0 / sigma).collect();
        Ok(composed(left, &inverse, &all.v))
    }
}
