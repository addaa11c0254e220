//! Spherical interpolation of two models by their weights: t = w₁/(w₀ + w₁), see [`slerp`](super::slerp) (mergekit's NuSLERP).
//! Only the weights' ratio counts; a negative one goes beyond the other model.
//!
//! Whole deltas are interpolated, or every row or column of them by itself. `nuslerp_row_wise` means what mergekit's
//! code does: false is each output's row, over its inputs, true is each input's column, over the outputs; a
//! convolution's kernel belongs to the inputs here, where mergekit takes its last extent alone. Weights that cancel are
//! refused; mergekit takes t = 1/2.

use super::slerp::between;
use super::{Facts, Kind, Lines, Parameter, Row, Rule, Weigh};
use crate::error::{Error, Result};

pub(super) const ROW: Row = Row {
    name: "nuslerp",
    title: "NuSLERP",
    help: "two models: the point of the sphere between them that their weights say",
    whole_file: false,
    paper: "mergekit",
    inputs: (2, 2),
    parameters: &[
        Parameter {
            name: "nuslerp_flatten",
            kind: Kind::Flag,
            default: "true",
            help: "take each layer as a whole, not row by row",
        },
        Parameter {
            name: "nuslerp_row_wise",
            kind: Kind::Flag,
            default: "false",
            help: "without nuslerp_flatten: each input's column, over the outputs, not each output's row",
        },
    ],
    make: |settings| match (settings.flag("nuslerp_flatten"), settings.flag("nuslerp_row_wise")) {
        (true, _) => Rule::Weights(Box::new(NuSlerp)),
        (false, false) => Rule::Lines(Box::new(NuSlerp), Lines::Rows),
        (false, true) => Rule::Lines(Box::new(NuSlerp), Lines::Columns),
    },
};

struct NuSlerp;

impl Weigh for NuSlerp {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let (total, size) = facts.weights.iter().fold((0.0, 0.0), |(sum, size), w| (sum + w, size + w.abs()));
        if size == 0.0 {
            return Ok(vec![0.0; 2]);
        }
        if f64::abs(total) < 1e-9 * size {
            return Err(Error::option("the weights of nuslerp sum to zero, so they say no point between"));
        }
        Ok(between(facts, facts.weights[1] / total, false).to_vec())
    }

    fn needs_gram(&self) -> bool {
        true
    }
}
