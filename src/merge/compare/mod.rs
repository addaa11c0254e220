//! What adapters have to do with each other before they are merged: how aligned they are, whether they work in the same
//! spaces, where they pull in opposite directions, and how much of them a plain sum keeps.
//!
//! Every figure is about what would be added up, the deltas at their weights. Each is a quotient of sums over layers, so
//! that a block or the whole file is a matrix with its layers' matrices on the diagonal, and a layer that one input lacks
//! is zero there.

mod advice;
mod measure;

use std::collections::BTreeMap;

use serde::Serialize;

use super::naming::architecture_of;
use super::plan::{Site, Target};
use super::sampling::evenly;
use super::{Input, Merge, Watch, engine};
use crate::adapter::Param;
use crate::error::{Error, Result};
use crate::model::Block;

pub use advice::{THRESHOLDS, Threshold};
use measure::{Measured, Sums, overlaps};

/// How many of the layers whose joint spaces are no smaller than they are have their overlaps measured.
const DENSE_SAMPLE: usize = 24;

/// The kept share of a layer from which it is not said to cancel: what independent adapters keep by chance.
const KEPT: f64 = 0.95;

/// A symmetric table with a row and a column for each input.
pub type Square = Vec<Vec<f64>>;

/// How adapters compare.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The inputs in their order.
    pub inputs: Vec<ComparedInput>,
    /// ⟨Δᵢ, Δⱼ⟩ / (‖Δᵢ‖ ‖Δⱼ‖)
    pub cosines: Square,
    /// How much of their spaces they share, 0 to 1: the geometric mean of ⟨ΔᵢΔᵢᵀ, ΔⱼΔⱼᵀ⟩ / (‖ΔᵢΔᵢᵀ‖ ‖ΔⱼΔⱼᵀ‖) and the same of
    /// ΔᵀΔ.
    pub overlaps: Square,
    /// What the overlaps would be by chance, of the same singular values in spaces that have nothing to do with each other.
    pub chance_overlaps: Square,
    /// Σ (|x| + |y|) over entries of opposite signs, in that over all entries.
    pub sign_conflicts: Square,
    /// ‖ΣΔᵢ‖ / √(Σ‖Δᵢ‖²): below 1 they cancel, above they reinforce each other.
    pub kept: f64,
    /// Layers that the overlaps are measured on.
    pub overlap_layers: usize,
    /// The share of all entries that the sign conflicts are counted on.
    pub sign_entries: f64,
    /// The same by block of the model.
    pub blocks: Vec<ComparedBlock>,
    /// And by layer.
    pub layers: Vec<ComparedLayer>,
    /// What it suggests, one sentence each.
    pub advice: Vec<String>,
}

/// An input of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedInput {
    /// Its file's name.
    pub name: String,
    /// ‖Δ‖ at its weight.
    pub norm: f64,
    /// Layers that it has.
    pub layers: usize,
    /// Its weight.
    pub weight: f64,
}

/// A block of the model.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedBlock {
    /// What block weights call it.
    pub block: String,
    /// The layers in it.
    pub layers: usize,
    /// ‖Δ‖ of every input.
    pub norms: Vec<f64>,
    /// As for the whole file.
    pub cosines: Square,
    /// As for the whole file.
    pub sign_conflicts: Square,
    /// As for the whole file.
    pub kept: f64,
}

/// A layer.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedLayer {
    /// Its module's name.
    pub name: String,
    /// ‖Δ‖ of every input.
    pub norms: Vec<f64>,
    /// As for the whole file.
    pub cosines: Square,
    /// As for the whole file.
    pub kept: f64,
}

impl Comparison {
    /// All of it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The layers that cancel noticeably, those first whose sum loses most of the inputs' squares.
    pub fn cancelling(&self) -> Vec<&ComparedLayer> {
        let mut layers: Vec<_> = self.layers.iter().filter(|layer| layer.kept < KEPT).collect();
        layers.sort_by(|x, y| y.lost().total_cmp(&x.lost()).then_with(|| x.name.cmp(&y.name)));
        layers
    }
}

impl ComparedLayer {
    /// Σ‖Δᵢ‖² − ‖ΣΔᵢ‖²
    fn lost(&self) -> f64 {
        self.norms.iter().map(|norm| norm * norm).sum::<f64>() * (1.0 - self.kept * self.kept)
    }
}

impl Merge {
    /// How the inputs compare, at their weights. The strategy and what is stored count for nothing.
    ///
    /// # Errors
    /// Whatever is wrong with the inputs, and fewer than two of them.
    pub fn compare(&self, watch: Watch<'_>) -> Result<Comparison> {
        let n = self.inputs.len();
        if n < 2 {
            return Err(Error::option(format!(
                "there is nothing to compare: it takes two adapters or more, not {n}"
            )));
        }
        let mut run = engine::Run::new(self.options.threads, self.options.memory, watch)?;
        let sites = self.sites()?;
        self.check_known(&sites)?;
        run.stage("comparing");
        let measured = run.map(&sites, |site| {
            let targets = site.targets.iter();
            targets.map(|target| Measured::of(&self.inputs, target)).collect::<Result<Vec<_>>>()
        })?;
        let targets: Vec<(&Site<'_>, &Target<'_>)> =
            sites.iter().flat_map(|site| site.targets.iter().map(move |target| (site, target))).collect();
        let mut measured: Vec<Measured> = measured.into_iter().flatten().collect();
        let overlap_layers = self.add_dense_overlaps(&mut run, &targets, &mut measured)?;
        Ok(self.comparison(&targets, &measured, overlap_layers))
    }

    /// Measures the overlaps of a sample of the layers for which that is much work, each for those that it stands for.
    /// Says how many layers have them now.
    fn add_dense_overlaps(
        &self,
        run: &mut engine::Run<'_>,
        targets: &[(&Site<'_>, &Target<'_>)],
        measured: &mut [Measured],
    ) -> Result<usize> {
        let mut dense: Vec<usize> = (0..targets.len()).filter(|k| measured[*k].is_dense).collect();
        dense.sort_by_key(|k| targets[*k].1.shape.rows * targets[*k].1.shape.cols);
        let easy = targets.len() - dense.len();
        let chosen: Vec<(usize, usize)> =
            evenly(dense.len(), DENSE_SAMPLE).map(|(index, count)| (dense[index], count)).collect();
        run.stage("overlaps");
        let sites: Vec<&Site<'_>> = chosen.iter().map(|(k, _)| targets[*k].0).collect();
        let all: Vec<Alone<'_, '_>> =
            sites.into_iter().zip(&chosen).map(|(site, (k, _))| Alone(site, targets[*k].1)).collect();
        let found = run.map(&all, |Alone(_, target)| overlaps(&self.inputs, target))?;
        for ((k, count), found) in chosen.iter().zip(found) {
            measured[*k].sums.add_overlaps(&found, *count as f64);
        }
        Ok(easy + chosen.len())
    }

    fn comparison(
        &self,
        targets: &[(&Site<'_>, &Target<'_>)],
        measured: &[Measured],
        overlap_layers: usize,
    ) -> Comparison {
        let n = self.inputs.len();
        let architecture = architecture_of(&self.inputs).map(|(found, _)| found);
        let mut whole = Sums::zero(n);
        let mut blocks: BTreeMap<Block, (usize, Sums)> = BTreeMap::new();
        let mut layers = Vec::with_capacity(targets.len());
        let (mut entries, mut looked_at) = (0, 0);
        for ((site, target), measured) in targets.iter().zip(measured) {
            let sums = &measured.sums;
            whole.add(sums);
            let (count, of_block) =
                blocks.entry(Block::of(&site.identity())).or_insert_with(|| (0, Sums::zero(n)));
            *count += 1;
            of_block.add(sums);
            entries += target.shape.rows * target.shape.cols;
            looked_at += measured.entries;
            let name = match target.id.param {
                Param::Weight => site.module.clone(),
                Param::Bias => format!("{}.bias", site.module),
            };
            layers.push(ComparedLayer {
                name,
                norms: sums.norms(),
                cosines: sums.cosines(),
                kept: sums.kept(),
            });
        }
        let norms = whole.norms();
        let [overlaps, chance_overlaps] = whole.overlaps();
        let has = |input: usize| {
            let has = |target: &Target<'_>| target.sources.iter().any(|source| source.input == input);
            targets.iter().filter(|(_, target)| has(target)).count()
        };
        let inputs = self.inputs.iter().enumerate().map(|(k, input)| ComparedInput {
            name: input.name(),
            norm: norms[k],
            layers: has(k),
            weight: input.weight,
        });
        let block = |(block, (layers, sums)): (Block, (usize, Sums))| ComparedBlock {
            block: block.name(architecture),
            layers,
            norms: sums.norms(),
            cosines: sums.cosines(),
            sign_conflicts: sums.sign_conflicts(),
            kept: sums.kept(),
        };
        let mut comparison = Comparison {
            inputs: inputs.collect(),
            cosines: whole.cosines(),
            overlaps,
            chance_overlaps,
            sign_conflicts: whole.sign_conflicts(),
            kept: whole.kept(),
            overlap_layers,
            sign_entries: if entries > 0 { looked_at as f64 / entries as f64 } else { 1.0 },
            blocks: blocks.into_iter().map(block).collect(),
            layers,
            advice: Vec::new(),
        };
        comparison.advice = advice::of(&comparison);
        comparison
    }

    /// Refuses layers of which nothing can be said without the base model.
    pub(super) fn check_known(&self, sites: &[Site<'_>]) -> Result<()> {
        let unknown = |target: &&Target<'_>| target.needs_base;
        match sites.iter().flat_map(|site| &site.targets).find(unknown) {
            None => Ok(()),
            Some(target) => Err(Error::unsupported(
                "what this layer does depends on the weights of the base model, so nothing can be said of it without; \
                 name that checkpoint (--base)",
            )
            .in_layer(&target.id.module)
            .in_file(self.inputs[target.sources[0].input].adapter.path())),
        }
    }
}

/// A target as a piece of work of its own.
struct Alone<'s, 'a>(&'s Site<'a>, &'s Target<'a>);

impl engine::Work for Alone<'_, '_> {
    fn name(&self) -> &str {
        &self.0.module
    }

    fn working_set(&self) -> u64 {
        self.0.working_set()
    }
}

impl Input {
    /// The name of its file, without the folders.
    pub(super) fn name(&self) -> String {
        let path = self.adapter.path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}
