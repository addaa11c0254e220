//! Barycentric interpolation on the sphere (mergekit's Multi-SLERP): from the direction m of Σ αᵢuᵢ, with uᵢ = Δᵢ/‖Δᵢ‖ and
//! α the weights over their sum, one step exp_m(Σ αᵢ log_m uᵢ), at the norm Σ αᵢ‖Δᵢ‖.
//!
//! mergekit steps by Σ αᵢ(uᵢ − ⟨uᵢ, m⟩m) instead, which is zero because m is the direction of Σ αᵢuᵢ; its result is m. The
//! step here is the first of [`karcher`](super::karcher). A model that does nothing in a layer has no direction there, and
//! weakens the norm.

use super::sphere::Sphere;
use super::{ANY, Facts, Kind, Parameter, Row, Rule, Weigh, shares};
use crate::error::{Error, Result};

pub(super) const ROW: Row = Row {
    name: "multislerp",
    title: "Multi-SLERP",
    help: "the mean direction on the sphere, by one step from the straight mean, at the mean norm",
    whole_file: false,
    paper: "mergekit",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "normalize_weights",
            kind: Kind::Flag,
            default: "true",
            help: "divide the weights by their sum",
        },
        Parameter {
            name: "eps",
            kind: Kind::Above(0.0, 1.0),
            default: "1e-8",
            help: "a mean direction shorter than this is none",
        },
    ],
    make: |settings| {
        let (normalize, eps) = (settings.flag("normalize_weights"), settings.number("eps"));
        Rule::Weights(Box::new(MultiSlerp { normalize, eps }))
    },
};

struct MultiSlerp {
    normalize: bool,
    eps: f64,
}

impl Weigh for MultiSlerp {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let portions = facts.portions("multislerp")?;
        let weights = if self.normalize { &portions } else { facts.weights };
        let sphere = Sphere::of(facts.gram());
        let mut own: Vec<f64> = facts.present.iter().map(|index| weights[*index]).collect();
        own.iter_mut().zip(&sphere.norms).for_each(|(w, norm)| *w *= f64::from(u8::from(*norm > 0.0)));
        let scale = facts.present.iter().zip(&sphere.norms).map(|(index, norm)| weights[*index] * norm).sum();
        if scale == 0.0 {
            return Ok(vec![0.0; weights.len()]);
        }
        if self.normalize {
            own = shares(&own);
        }
        let length = sphere.norm(&own);
        if length < self.eps {
            // Straight on between two that are opposite, as mergekit does it.
            return match facts.present.len() {
                2 => Ok(weights.to_vec()),
                _ => Err(Error::option(
                    "the models' directions cancel here, so they have no mean on the sphere; other weights, or \
                     strategy linear, have one",
                )),
            };
        }
        let mean: Vec<f64> = own.iter().map(|c| c / length).collect();
        let point = sphere.walk(&mean, &sphere.toward(&mean, &own));
        Ok(sphere.of_deltas(&point, scale, facts.present, weights.len()))
    }

    fn needs_gram(&self) -> bool {
        true
    }
}
