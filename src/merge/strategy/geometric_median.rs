//! The geometric median: the Δ with the least Σ wᵢ‖Δ − Δᵢ‖, by Weiszfeld's iteration from the weighted mean, which gives
//! models far from the others little weight. A model that lacks the layer has Δ = 0 there, and votes for it.
//!
//! Everything is in the coefficients of Δ = Σ cᵢΔᵢ and the Gram matrix. Whether a model is the median itself is asked
//! first, because the iteration creeps up to it: it is where the pull Σ wᵢ(Δᵢ − Δₖ)/‖Δᵢ − Δₖ‖ of the others is weaker than
//! wₖ. On a model that isn't the median the step is Vardi's and Zhang's (2000).

use faer::Mat;

use super::{ANY, Facts, Kind, Parameter, Row, Rule, Weigh};
use crate::error::Result;

pub(super) const ROW: Row = Row {
    name: "geometric_median",
    title: "Geometric median",
    help: "the point with the least sum of distances to the models; one that is far from all others counts little",
    whole_file: false,
    paper: "Weiszfeld 1937",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "max_iter",
            kind: Kind::Count(1, u64::MAX),
            default: "100",
            help: "how many steps at most",
        },
        Parameter {
            name: "tol",
            kind: Kind::Above(0.0, 1.0),
            default: "1e-6",
            help: "the step, relative to the largest norm, below which there are no more",
        },
    ],
    make: |settings| {
        let (most, tolerance) = (settings.count("max_iter"), settings.number("tol"));
        Rule::Weights(Box::new(GeometricMedian { most, tolerance }))
    },
};

struct GeometricMedian {
    most: u64,
    tolerance: f64,
}

impl Weigh for GeometricMedian {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let portions = facts.portions("geometric_median")?;
        let gram = facts.gram();
        let present = facts.present.len();
        let mut weights: Vec<f64> = facts.present.iter().map(|index| portions[*index]).collect();
        // The models that lack the layer are one point, at 0.
        weights.push(portions.iter().sum::<f64>() - weights.iter().sum::<f64>());
        let entry = |i: usize, j: usize| if i < present && j < present { gram[(i, j)] } else { 0.0 };
        let points = Points::new(Mat::from_fn(present + 1, present + 1, entry), weights);
        let median = match points.median_itself() {
            Some(k) => points.unit(k),
            None => self.search(&points).unwrap_or_else(|last| {
                (facts.warn)(
                    "geometric_median came to no end within max_iter steps; more of them make it exact",
                );
                last
            }),
        };
        let mut all = vec![0.0; portions.len()];
        facts.present.iter().zip(median).for_each(|(index, c)| all[*index] = c);
        Ok(all)
    }

    fn needs_gram(&self) -> bool {
        true
    }
}

impl GeometricMedian {
    /// The median, or where the steps ended before it.
    fn search(&self, points: &Points) -> std::result::Result<Vec<f64>, Vec<f64>> {
        let mut at = points.weights.clone();
        for _ in 0..self.most {
            let next = points.step(&at);
            let moved: Vec<f64> = next.iter().zip(&at).map(|(x, y)| x - y).collect();
            at = next;
            if points.norm(&moved) <= self.tolerance * points.size {
                return Ok(at);
            }
        }
        Err(at)
    }
}

/// Points with weights that sum to 1, by the Gram matrix of their vectors; a place is its coefficients.
struct Points {
    gram: Mat<f64>,
    weights: Vec<f64>,
    /// The largest norm.
    size: f64,
}

impl Points {
    fn new(gram: Mat<f64>, weights: Vec<f64>) -> Self {
        let size = (0..gram.nrows()).map(|i| gram[(i, i)].max(0.0).sqrt()).fold(0.0, f64::max);
        Self { gram, weights, size }
    }

    fn unit(&self, k: usize) -> Vec<f64> {
        (0..self.weights.len()).map(|i| f64::from(u8::from(i == k))).collect()
    }

    fn norm(&self, place: &[f64]) -> f64 {
        let row = |i: usize| place.iter().enumerate().map(|(j, c)| c * self.gram[(i, j)]).sum::<f64>();
        place.iter().enumerate().map(|(i, c)| c * row(i)).sum::<f64>().max(0.0).sqrt()
    }

    /// The weight of the points at a place, the others' pull Σ wᵢ(xᵢ − y)/‖xᵢ − y‖, and Σ wᵢ/‖xᵢ − y‖.
    fn forces(&self, place: &[f64]) -> (f64, Vec<f64>, f64) {
        /// Points at less than this part of the largest norm from each other are one.
        const SAME: f64 = 1e-9;
        let (mut here, mut pull, mut sum) = (0.0, vec![0.0; place.len()], 0.0);
        for (i, weight) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            let mut way: Vec<f64> = place.iter().map(|c| -c).collect();
            way[i] += 1.0;
            let distance = self.norm(&way);
            if distance <= SAME * self.size {
                here += weight;
                continue;
            }
            sum += weight / distance;
            pull.iter_mut().zip(&way).for_each(|(p, w)| *p += weight / distance * w);
        }
        (here, pull, sum)
    }

    /// The point that is the median, and the only one.
    fn median_itself(&self) -> Option<usize> {
        let wins = |k: &usize| {
            let (here, pull, _) = self.forces(&self.unit(*k));
            self.norm(&pull) < here * (1.0 - 1e-9)
        };
        (0..self.weights.len()).filter(|k| self.weights[*k] > 0.0).find(wins)
    }

    fn step(&self, at: &[f64]) -> Vec<f64> {
        let (here, pull, sum) = self.forces(at);
        let strength = self.norm(&pull);
        if sum == 0.0 || strength <= here {
            return at.to_vec();
        }
        let part = (1.0 - here / strength) / sum;
        at.iter().zip(&pull).map(|(c, p)| c + part * p).collect()
    }
}
