//! Spherical interpolation of two models: s₀ w₀Δ₀ + s₁ w₁Δ₁ with s₀ = sin((1−t)θ)/sin θ, s₁ = sin(tθ)/sin θ and θ the angle
//! between w₀Δ₀ and w₁Δ₁ (Shoemake 1985, as mergekit has it).
//!
//! mergekit interpolates whole models, whose angle says little of two adapters; here it is what the adapters do. A weight
//! is how strong its model is, `t` alone is where between. Where one model does nothing the way is straight, so that
//! t = 0 is the first model and t = 1 the second in every layer; mergekit copies a tensor that only one model has.

use super::sphere::{Sphere, arc};
use super::{Facts, Kind, Parameter, Row, Rule, Weigh};
use crate::error::Result;

pub(super) const ROW: Row = Row {
    name: "slerp",
    title: "SLERP",
    help: "two models: from the first (t = 0) to the second (t = 1) along the sphere, which keeps the norm",
    whole_file: false,
    paper: "Shoemake 1985; mergekit",
    inputs: (2, 2),
    parameters: &[Parameter {
        name: "t",
        kind: Kind::Number(0.0, 1.0),
        default: "0.5",
        help: "where between the models: 0 is the first, 1 the second",
    }],
    make: |settings| Rule::Weights(Box::new(Slerp { t: settings.number("t") })),
};

struct Slerp {
    t: f64,
}

impl Weigh for Slerp {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let [first, second] = between(facts, self.t, facts.weights[0] * facts.weights[1] < 0.0);
        Ok(vec![first * facts.weights[0], second * facts.weights[1]])
    }

    fn needs_gram(&self) -> bool {
        true
    }
}

/// What the point after the share `t` of the way has of two models, of which one may be turned around.
pub(super) fn between(facts: &Facts<'_>, t: f64, turned: bool) -> [f64; 2] {
    let both = || {
        let sphere = Sphere::of(facts.gram());
        let cosine = sphere.cosine(0, 1);
        sphere.norms.iter().all(|norm| *norm > 0.0).then_some(if turned { -cosine } else { cosine })
    };
    arc(t, (facts.present.len() == 2).then(both).flatten())
}
