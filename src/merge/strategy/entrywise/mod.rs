//! The rules on single entries: what of each model is kept ([`sparsify`]), whose sign counts ([`consensus`]), and the
//! methods that do it their own way ([`sce`], [`tall`], [`pcb`]).
//!
//! Everything is layer by layer and tile by tile: a rule reads the models as often as it needs ([`tiles`]), finds exact
//! thresholds without holding what it reads ([`cut`]), and draws random numbers by the entry's index. What a GPU has kernels
//! for is done there on whole models ([`on_gpu`]).

mod consensus;
mod cut;
mod generalized;
mod on_gpu;
mod pcb;
mod sce;
mod sparsify;
mod tall;
mod tiles;

use super::{ANY, Entrywise, Kind, MergeSpace, Parameter, Row, Rule, Settings};

pub(super) use generalized::{
    BREADCRUMBS, BREADCRUMBS_TIES, DARE_LINEAR, DARE_LINEAR_SVD, DARE_TIES, DARE_TIES_SVD, DELLA,
    DELLA_LINEAR, MAGNITUDE_PRUNE, MAGNITUDE_PRUNE_SVD, TIES, TIES_SVD,
};
pub use on_gpu::OnGpu;
pub(super) use pcb::ROW as PCB;
pub(super) use sce::ROW as SCE;
pub(super) use tall::ROW as CONSENSUS;

/// A row for any number of models.
const fn row(
    name: &'static str,
    title: &'static str,
    paper: &'static str,
    help: &'static str,
    parameters: &'static [Parameter],
    make: fn(&Settings<'_>) -> Rule,
) -> Row {
    Row { name, title, help, paper, whole_file: false, inputs: ANY, parameters, make }
}

/// Where entries are merged.
const fn merge_space(default: &'static str) -> Parameter {
    Parameter {
        name: "merge_space",
        kind: Kind::Word(&["auto", "full", "core", "knots"]),
        default,
        help: "the entries of the weight change itself (full), of the joint column and row spaces (core), or of the joint \
               column space (knots); auto: full for dense output, else core, which loses nothing at low rank",
    }
}

const SPACE: Parameter = merge_space("auto");

const LAMBDA: Parameter = Parameter {
    name: "lambda",
    kind: Kind::Number(f64::MIN, f64::MAX),
    default: "1",
    help: "what the result is multiplied with",
};

/// The rule in the space that is set.
fn entries(rule: impl Entrywise + 'static, settings: &Settings<'_>) -> Rule {
    let wanted = settings.word("merge_space");
    let space = MergeSpace::ALL.into_iter().find(|space| space.name() == wanted);
    Rule::Entries(Box::new(rule), space)
}
