//! Model Stock (arXiv 2403.19522): t · mean, with t = N cos θ / (1 + (N − 1) cos θ) and cos θ the mean cosine of two deltas.
//! Where models agree little of them is taken for noise; unrelated adapters give t ≈ 0, and that is warned of.
//!
//! N and the mean are of the models that do something in the layer; one alone stays as it is. t is between 0 and 1
//! (mergekit's may be negative, which turns the models around). The weights are those of the mean and, in pairs, of the
//! cosine: equal ones make the paper's rule, which has none. `filter_wise` takes every output's row by itself.

use super::sphere::Sphere;
use super::{Facts, Kind, Lines, Parameter, Row, Rule, Weigh, shares};
use crate::error::Result;

pub(super) const ROW: Row = Row {
    name: "model_stock",
    title: "Model Stock",
    help: "the weighted mean, weaker in layers where the models' directions differ",
    whole_file: false,
    paper: "arXiv 2403.19522",
    inputs: (2, usize::MAX),
    parameters: &[Parameter {
        name: "filter_wise",
        kind: Kind::Flag,
        default: "false",
        help: "take every output's row by itself, not each layer as a whole",
    }],
    make: |settings| match settings.flag("filter_wise") {
        false => Rule::Weights(Box::new(ModelStock)),
        true => Rule::Lines(Box::new(ModelStock), Lines::Rows),
    },
};

struct ModelStock;

/// A t below which little is left of the models.
const LITTLE: f64 = 0.1;

impl Weigh for ModelStock {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let portions = facts.portions("model_stock")?;
        let sphere = Sphere::of(facts.gram());
        let own = facts.present.iter().zip(&sphere.norms);
        let own: Vec<f64> =
            own.map(|(index, norm)| if *norm > 0.0 { portions[*index] } else { 0.0 }).collect();
        let (mut sum, mut total) = (0.0, 0.0);
        for j in 0..own.len() {
            for i in 0..j {
                sum += own[i] * own[j] * sphere.cosine(i, j);
                total += own[i] * own[j];
            }
        }
        let count = own.iter().filter(|portion| **portion > 0.0).count() as f64;
        let cosine = sum / total;
        let t = match total {
            0.0 => 1.0,
            _ if cosine <= 0.0 => 0.0,
            _ => (count * cosine / (1.0 + (count - 1.0) * cosine)).min(1.0),
        };
        if t < LITTLE {
            (facts.warn)(
                "the models' changes are nearly unrelated, so model_stock keeps less than a tenth of their mean; it is \
                 for trainings of one subject",
            );
        }
        let mut all = vec![0.0; portions.len()];
        facts.present.iter().zip(shares(&own)).for_each(|(index, share)| all[*index] = t * share);
        Ok(all)
    }

    fn needs_gram(&self) -> bool {
        true
    }
}
