//! λ Σ wᵢ Δᵢ, over Σ wᵢ where the weights are normalised; a model that lacks a layer has Δ = 0 there.
//!
//! - task arithmetic (arXiv 2212.04089): as is;
//! - `linear` (model soups, arXiv 2203.05482): normalised unless told otherwise, as mergekit has it;
//! - PEFT's `cat` and `svd`: the sum. PEFT's `linear` is not here: it adds A and B separately, each with √w, and is twice
//!   as strong on two equal models at a half each.
//!
//! Weights that sum to zero can't be normalised, and are refused; mergekit divides by them (`linear`), or doesn't
//! (`task_arithmetic`).

use super::{ANY, Facts, Kind, Parameter, Row, Rule, Settings, Weigh};
use crate::error::{Error, Result};

pub(super) const SUM: Row = Row {
    name: "weighted_sum",
    title: "Weighted sum",
    help: "the sum of weight times effect",
    whole_file: false,
    paper: "the definition",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Weights(Box::new(Weighted { lambda: 1.0, normalize: false, older: true })),
};

pub(super) const AVERAGE: Row = Row {
    name: "weighted_average",
    title: "Weighted average",
    help: "the weighted sum with the weights exactly as given; --normalize divides them by their sum",
    whole_file: false,
    paper: "lycomerge's older scripts",
    inputs: ANY,
    parameters: &[normalize("false")],
    make: |settings| {
        let normalize = settings.flag("normalize");
        Rule::Weights(Box::new(Weighted { lambda: 1.0, normalize, older: true }))
    },
};

pub(super) const LINEAR: Row = Row {
    name: "linear",
    title: "Linear",
    help: "the weighted mean",
    whole_file: false,
    paper: "arXiv 2203.05482",
    inputs: ANY,
    parameters: &[normalize("true")],
    make: |settings| {
        let normalize = settings.flag("normalize");
        Rule::Weights(Box::new(Weighted { lambda: 1.0, normalize, older: false }))
    },
};

pub(super) const TASK_ARITHMETIC: Row = Row {
    name: "task_arithmetic",
    title: "Task arithmetic",
    help: "the weighted sum times lambda",
    whole_file: false,
    paper: "arXiv 2212.04089",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "lambda",
            kind: Kind::Number(f64::MIN, f64::MAX),
            default: "1",
            help: "what the sum is multiplied by",
        },
        normalize("false"),
    ],
    make: |settings| {
        let (lambda, normalize) = (settings.number("lambda"), settings.flag("normalize"));
        Rule::Weights(Box::new(Weighted { lambda, normalize, older: false }))
    },
};

pub(super) const CAT: Row = Row {
    name: "cat",
    title: "Concatenation",
    help: "PEFT's name for the weighted sum, whose factors it puts side by side: the rank is the sum of the ranks",
    whole_file: false,
    paper: "PEFT",
    inputs: ANY,
    parameters: &[],
    make: sum,
};

pub(super) const SVD: Row = Row {
    name: "svd",
    title: "SVD",
    help: "PEFT's name for the weighted sum, cut to a rank: with --format lora --rank N",
    whole_file: false,
    paper: "PEFT",
    inputs: ANY,
    parameters: &[],
    make: sum,
};

fn sum(_: &Settings<'_>) -> Rule {
    Rule::Weights(Box::new(Weighted { lambda: 1.0, normalize: false, older: false }))
}

const fn normalize(default: &'static str) -> Parameter {
    Parameter { name: "normalize", kind: Kind::Flag, default, help: "divide the weights by their sum" }
}

struct Weighted {
    lambda: f64,
    normalize: bool,
    /// Whether it is older than block weights.
    older: bool,
}

impl Weigh for Weighted {
    fn coefficients(&self, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let (total, size) = facts.weights.iter().fold((0.0, 0.0), |(sum, size), w| (sum + w, size + w.abs()));
        if !self.normalize || size == 0.0 {
            return Ok(facts.weights.iter().map(|weight| weight * self.lambda).collect());
        }
        if f64::abs(total) < 1e-9 * size {
            return Err(Error::option("the weights sum to zero, so they can't be divided by their sum"));
        }
        Ok(facts.weights.iter().map(|weight| weight * self.lambda / total).collect())
    }

    fn takes_blocks(&self) -> bool {
        !self.older
    }
}
