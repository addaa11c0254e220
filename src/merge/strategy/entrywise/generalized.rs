//! TIES, DARE, DELLA, Model Breadcrumbs and magnitude pruning, in mergekit's form and PEFT's: one method, of which they are
//! rows. λ · Σ_agreeing cᵢ mᵢ∘Δᵢ / divisor, with masks mᵢ that keep the part `density` of the entries.
//!
//! - TIES (arXiv 2306.01708): mᵢ the largest entries; only entries of the elected sign count, the sign of Σ wᵢ mᵢ∘Δᵢ.
//! - DARE (2311.03099): mᵢ random; DELLA (2406.11617): random, with a chance from density − epsilon to density + epsilon that
//!   grows with the entry's rank in its row; Breadcrumbs (2312.06795): the largest entries but for the part `gamma` at the
//!   top.
//! - mergekit's names follow mergekit 0.1.5: signs are elected after the weights, `normalize` divides by the weights of the
//!   agreeing models, `rescale` l1 (there: true) keeps Σ|x|. The papers of DARE and DELLA divide by the chance instead:
//!   `rescale` density, the same on average. PEFT's names follow PEFT 0.21: signs are elected before the weights, the sum
//!   is divided by the number of agreeing models, DARE rescales by 1/density, and entries are those of ΔW.
//!
//! Otherwise than there: PEFT's `ties`, `dare_*` and `magnitude_prune` work on A and B apart, which is no merge of ΔW; the
//! names here mean ΔW. mergekit divides by Σ wᵢ, which with negative weights flips or explodes: here Σ |wᵢ|, the same for
//! positive ones. It doesn't rescale tensors whose Σ|x| is below 1e-7, which a LoRA's may well be: here all are. DELLA's
//! ranks are undefined there in rows of one entry: here such an entry has the chance `density`.

use std::ops::Range;

use super::super::{Entrywise, Kind, Parameter, Row, Rule, Settings, Sheets};
use super::consensus::{Consensus, Divide};
use super::on_gpu::{Keep, OnGpu};
use super::sparsify::{Masks, Rescale, Sparsifier};
use super::tiles::Tiles;
use super::{LAMBDA, SPACE, entries, merge_space, row};
use crate::compute::cuda::Elect;
use crate::compute::round::scrambled;
use crate::error::{Error, Result};

const fn density(default: &'static str) -> Parameter {
    Parameter {
        name: "density",
        kind: Kind::Above(0.0, 1.0),
        default,
        help: "the part of each model's entries that is kept",
    }
}

const fn normalize(default: &'static str) -> Parameter {
    Parameter {
        name: "normalize",
        kind: Kind::Flag,
        default,
        help: "divide every entry by the weights of the models that it is added up from",
    }
}

const fn rescale(default: &'static str) -> Parameter {
    Parameter {
        name: "rescale",
        kind: Kind::Word(&["none", "density", "l1", "true", "false"]),
        default,
        help: "make up for what is dropped: divide by the chance to be kept (density), or keep the sum of absolute entries \
               (l1, which mergekit calls true)",
    }
}

const ELECT: Parameter = Parameter {
    name: "majority_sign_method",
    kind: Kind::Word(&["total", "frequency", "sum", "count"]),
    default: "total",
    help: "elect an entry's sign by the sum of the models' entries (total, or sum) or by their number (frequency, or count)",
};

const SEED: Parameter = Parameter {
    name: "seed",
    kind: Kind::Count(0, u64::MAX),
    default: "0",
    help: "another seed keeps other entries",
};

const EPSILON: Parameter = Parameter {
    name: "epsilon",
    kind: Kind::Number(0.0, 0.5),
    default: "0.15",
    help: "chances go from density − epsilon for the smallest entry of a row to density + epsilon for its largest",
};

const GAMMA: Parameter = Parameter {
    name: "gamma",
    kind: Kind::Number(0.0, 1.0),
    default: "0.01",
    help: "the part of the entries that is dropped because they are the largest",
};

/// PEFT merges the entries of ΔW.
const PEFT_SPACE: Parameter = merge_space("full");

pub(in super::super) const TIES: Row = row(
    "ties",
    "TIES",
    "arXiv 2306.01708",
    "each model's largest entries; of those, the mean of the ones that have the elected sign",
    &[density("0.2"), normalize("true"), rescale("none"), ELECT, LAMBDA, SPACE],
    |settings| mergekit(settings, Sparsifier::Magnitude { least: 1 }, true),
);

pub(in super::super) const DARE_LINEAR: Row = row(
    "dare_linear",
    "DARE, linear",
    "arXiv 2311.03099",
    "the weighted sum of a random part of each model's entries, made as strong as all of them",
    &[density("0.5"), normalize("false"), rescale("l1"), SEED, LAMBDA, SPACE],
    |settings| mergekit(settings, Sparsifier::Random, false),
);

pub(in super::super) const DARE_TIES: Row = row(
    "dare_ties",
    "DARE, TIES",
    "arXiv 2311.03099",
    "a random part of each model's entries, made as strong as all; those that have the elected sign are added up",
    &[density("0.5"), normalize("false"), rescale("l1"), ELECT, SEED, LAMBDA, SPACE],
    |settings| mergekit(settings, Sparsifier::Random, true),
);

pub(in super::super) const DELLA: Row = row(
    "della",
    "DELLA",
    "arXiv 2406.11617",
    "a random part of each model's entries, larger ones more likely; the mean of those that have the elected sign",
    &[density("0.5"), EPSILON, normalize("true"), rescale("l1"), ELECT, SEED, LAMBDA, SPACE],
    |settings| mergekit(settings, ranked(settings), true),
);

pub(in super::super) const DELLA_LINEAR: Row = row(
    "della_linear",
    "DELLA, linear",
    "arXiv 2406.11617",
    "the weighted sum of a random part of each model's entries, larger ones more likely",
    &[density("0.5"), EPSILON, normalize("false"), rescale("l1"), SEED, LAMBDA, SPACE],
    |settings| mergekit(settings, ranked(settings), false),
);

pub(in super::super) const BREADCRUMBS: Row = row(
    "breadcrumbs",
    "Model Breadcrumbs",
    "arXiv 2312.06795",
    "the weighted sum of each model's entries without the smallest and the very largest",
    &[density("0.9"), GAMMA, normalize("false"), rescale("none"), LAMBDA, SPACE],
    |settings| mergekit(settings, band(settings), false),
);

pub(in super::super) const BREADCRUMBS_TIES: Row = row(
    "breadcrumbs_ties",
    "Model Breadcrumbs, TIES",
    "arXiv 2312.06795",
    "each model's entries without the smallest and the very largest; those that have the elected sign are added up",
    &[density("0.9"), GAMMA, normalize("false"), rescale("none"), ELECT, LAMBDA, SPACE],
    |settings| mergekit(settings, band(settings), true),
);

pub(in super::super) const MAGNITUDE_PRUNE: Row = row(
    "magnitude_prune",
    "Magnitude pruning",
    "PEFT",
    "the weighted sum of each model's largest entries",
    &[density("0.5"), normalize("false"), rescale("none"), LAMBDA, SPACE],
    |settings| mergekit(settings, Sparsifier::Magnitude { least: 0 }, false),
);

pub(in super::super) const TIES_SVD: Row = row(
    "ties_svd",
    "TIES as in PEFT",
    "arXiv 2306.01708",
    "PEFT's ties_svd: signs are elected before the weights, and the sum is divided by the number of agreeing models",
    &[density("0.2"), ELECT, PEFT_SPACE],
    |settings| peft(settings, Sparsifier::Magnitude { least: 0 }, true),
);

pub(in super::super) const DARE_LINEAR_SVD: Row = row(
    "dare_linear_svd",
    "DARE, linear as in PEFT",
    "arXiv 2311.03099",
    "PEFT's dare_linear_svd: the weighted sum of a random part of each model's entries, divided by the density",
    &[density("0.5"), SEED, PEFT_SPACE],
    |settings| peft(settings, Sparsifier::Random, false),
);

pub(in super::super) const DARE_TIES_SVD: Row = row(
    "dare_ties_svd",
    "DARE, TIES as in PEFT",
    "arXiv 2311.03099",
    "PEFT's dare_ties_svd: a random part of each model's entries, divided by the density; signs are elected before the \
     weights, and the sum is divided by the number of agreeing models",
    &[density("0.5"), ELECT, SEED, PEFT_SPACE],
    |settings| peft(settings, Sparsifier::Random, true),
);

pub(in super::super) const MAGNITUDE_PRUNE_SVD: Row = row(
    "magnitude_prune_svd",
    "Magnitude pruning as in PEFT",
    "PEFT",
    "PEFT's magnitude_prune_svd: the weighted sum of each model's largest entries",
    &[density("0.5"), PEFT_SPACE],
    |settings| peft(settings, Sparsifier::Magnitude { least: 0 }, false),
);

fn ranked(settings: &Settings<'_>) -> Sparsifier {
    Sparsifier::Ranked { epsilon: settings.number("epsilon") }
}

fn band(settings: &Settings<'_>) -> Sparsifier {
    Sparsifier::Band { gamma: settings.number("gamma") }
}

fn elected(settings: &Settings<'_>, elects: bool) -> Option<Elect> {
    elects.then(|| match settings.word("majority_sign_method") {
        "frequency" | "count" => Elect::Frequency,
        _ => Elect::Total,
    })
}

fn mergekit(settings: &Settings<'_>, sparsifier: Sparsifier, elects: bool) -> Rule {
    let rescale = match settings.word("rescale") {
        "density" => Rescale::Density,
        "l1" | "true" => Rescale::L1,
        _ => Rescale::No,
    };
    let divide = if settings.flag("normalize") { Divide::Weights } else { Divide::No };
    let consensus = Consensus {
        elect: elected(settings, elects),
        unweighted: false,
        divide,
        lambda: settings.number("lambda"),
    };
    generalized(settings, sparsifier, rescale, consensus)
}

fn peft(settings: &Settings<'_>, sparsifier: Sparsifier, elects: bool) -> Rule {
    let rescale = if sparsifier == Sparsifier::Random { Rescale::Density } else { Rescale::No };
    let divide = if elects { Divide::Count } else { Divide::No };
    let consensus = Consensus { elect: elected(settings, elects), unweighted: true, divide, lambda: 1.0 };
    generalized(settings, sparsifier, rescale, consensus)
}

fn generalized(
    settings: &Settings<'_>,
    sparsifier: Sparsifier,
    rescale: Rescale,
    consensus: Consensus,
) -> Rule {
    let (density, seed) = (settings.number("density"), settings.count("seed"));
    entries(Generalized { sparsifier, density, rescale, consensus, seed }, settings)
}

struct Generalized {
    sparsifier: Sparsifier,
    density: f64,
    rescale: Rescale,
    consensus: Consensus,
    seed: u64,
}

impl Entrywise for Generalized {
    fn check(&self) -> Result<()> {
        match self.sparsifier {
            Sparsifier::Ranked { epsilon }
                if self.density < 1.0 && !(self.density > epsilon && self.density + epsilon < 1.0) =>
            {
                Err(Error::option(format!(
                    "density {0} and epsilon {epsilon} give chances from {1:.3} to {2:.3}; they must be between 0 and 1, so \
                     epsilon below {3:.3} is needed with this density",
                    self.density,
                    self.density - epsilon,
                    self.density + epsilon,
                    self.density.min(1.0 - self.density)
                )))
            }
            _ => Ok(()),
        }
    }

    fn merge(
        &self,
        models: &dyn Sheets,
        weights: &[f64],
        seed: u64,
        take: &mut dyn FnMut(Range<usize>, &[f64]),
    ) -> Result<()> {
        let tiles = Tiles::new(models);
        let seed = scrambled(seed, self.seed);
        let masks = Masks::new(&tiles, self.sparsifier, self.density, self.rescale, seed);
        self.consensus.merge(&tiles, masks, weights, take);
        Ok(())
    }

    fn on_gpu(&self) -> Option<OnGpu> {
        let Self { density, rescale, consensus, seed, .. } = *self;
        let keep = match self.sparsifier {
            _ if density >= 1.0 => Keep::All,
            Sparsifier::Magnitude { least } => Keep::Largest { least, gamma: None },
            Sparsifier::Band { gamma } => Keep::Largest { least: 0, gamma: Some(gamma) },
            Sparsifier::Random => Keep::Random,
            Sparsifier::Ranked { .. } => return None,
        };
        Some(OnGpu { keep, density, rescale, consensus, seed })
    }
}
