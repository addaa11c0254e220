//! The weighted Karcher mean (arXiv 2603.04972): the direction with the least Σ αᵢ angle(uᵢ, m)², found by
//! m ← exp_m(Σ αᵢ log_m uᵢ) until the step is shorter than `tol`, at the norm Σ αᵢ‖Δᵢ‖; uᵢ = Δᵢ/‖Δᵢ‖ and α the weights over
//! their sum. A model that does nothing in a layer has no direction there, and weakens the norm.
//!
//! mergekit has the same iteration, for equal weights alone: it ignores what is set.

use super::sphere::Sphere;
use super::{ANY, Facts, Kind, Parameter, Row, Rule, Weigh, shares};
use crate::error::Result;

pub(super) const ROW: Row = Row {
    name: "karcher",
    title: "Karcher mean",
    help: "the mean direction on the sphere, at the mean norm",
    whole_file: false,
    paper: "arXiv 2603.04972",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "max_iter",
            kind: Kind::Count(1, u64::MAX),
            default: "10",
            help: "how many steps at most",
        },
        Parameter {
            name: "tol",
            kind: Kind::Above(0.0, 1.0),
            default: "1e-5",
            help: "the step, in radians, below which there are no more",
        },
    ],
    make: |settings| {
        let (most, tolerance) = (settings.count("max_iter"), settings.number("tol"));
        Rule::Weights(Box::new(Karcher { most, tolerance }))
    },
};

struct Karcher {
    most: u64,
    tolerance: f64,
}

impl Weigh for Karcher {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let portions = facts.portions("karcher")?;
        let sphere = Sphere::of(facts.gram());
        let own: Vec<f64> = facts.present.iter().map(|index| portions[*index]).collect();
        let scale: f64 = own.iter().zip(&sphere.norms).map(|(portion, norm)| portion * norm).sum();
        if scale == 0.0 {
            return Ok(vec![0.0; portions.len()]);
        }
        let has_direction = |(portion, norm): (&f64, &f64)| if *norm > 0.0 { *portion } else { 0.0 };
        let own = shares(&own.iter().zip(&sphere.norms).map(has_direction).collect::<Vec<_>>());
        let mut point = self.begin(&sphere, &own);
        let mut arrived = false;
        for _ in 0..self.most {
            let step = sphere.toward(&point, &own);
            arrived = sphere.norm(&step) < self.tolerance;
            if arrived {
                break;
            }
            point = sphere.walk(&point, &step);
            let length = sphere.norm(&point);
            point.iter_mut().for_each(|c| *c /= length);
        }
        if !arrived {
            (facts.warn)("karcher came to no end within max_iter steps; more of them make it exact");
        }
        Ok(sphere.of_deltas(&point, scale, facts.present, portions.len()))
    }

    fn needs_gram(&self) -> bool {
        true
    }
}

impl Karcher {
    /// The straight mean's direction; where it has none, the first model's.
    fn begin(&self, sphere: &Sphere, own: &[f64]) -> Vec<f64> {
        let length = sphere.norm(own);
        if length >= self.tolerance {
            return own.iter().map(|c| c / length).collect();
        }
        let first = own.iter().position(|portion| *portion > 0.0);
        (0..own.len()).map(|i| f64::from(u8::from(Some(i) == first))).collect()
    }
}
