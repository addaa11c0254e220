//! What one adapter file is: the facts that `inspect` shows, gathered from its layers, numbers and metadata.

use std::collections::{BTreeMap, BTreeSet};

use crate::adapter::{Adapter, Family, Layer, LayerId};
use crate::delta::gram;
use crate::model::{Architecture, Block, Dialect, Sureness, architecture, identify};
use rayon::prelude::*;
use serde::Serialize;

/// Metadata that tell where a file comes from, with the words for them.
const ORIGINS: [(&str, &str); 11] = [
    ("modelspec.title", "title"),
    ("ss_output_name", "name"),
    ("modelspec.architecture", "architecture"),
    ("ss_base_model_version", "base version"),
    ("ss_sd_model_name", "base model"),
    ("ss_network_module", "network"),
    ("ss_network_dim", "network dim"),
    ("ss_network_alpha", "network alpha"),
    ("ss_network_args", "network args"),
    ("modelspec.trigger_phrase", "trigger"),
    ("modelspec.merged_from", "merged from"),
];

/// What a file is.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// The file.
    pub file: String,
    /// Its family in one word.
    pub kind: &'static str,
    /// The model that it is for, by its modules' names and shapes.
    pub model: Option<&'static str>,
    /// Whether it can't be for another.
    pub model_certain: bool,
    /// How its modules are named: the option `naming` that comes nearest.
    pub naming: &'static str,
    /// Whose words the denoiser's names are made of, where it makes a difference.
    pub vocabulary: Option<&'static str>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The dtype that most of its numbers have.
    pub dtype: String,
    /// Modules with at least one layer.
    pub modules: usize,
    /// Layers by family.
    pub families: BTreeMap<&'static str, usize>,
    /// Layers by rank.
    pub ranks: BTreeMap<usize, usize>,
    /// Layers without a rank: differences, and LoKr layers with two full factors.
    pub without_rank: usize,
    /// The smallest and the largest alpha/rank of layers that have a rank.
    pub alpha_over_rank: Option<(f64, f64)>,
    /// The metadata that tell where it comes from, by their keys.
    pub metadata: BTreeMap<&'static str, String>,
    /// ‖ΔW‖ over all layers.
    pub norm: f64,
    /// ‖ΔW‖ by block of the model.
    pub blocks: Vec<BlockNorm>,
    /// Tensors that are no layers, such as embeddings.
    pub passengers: usize,
    /// Layers and tensors that were left out.
    pub skipped: usize,
    /// What is odd about the file, one sentence each.
    pub notes: Vec<String>,
}

/// A block of the model, as far as the file changes it.
#[derive(Clone, Debug, Serialize)]
pub struct BlockNorm {
    /// What block weights call it: `IN04`, `te1.3`.
    pub name: String,
    /// The layers in it.
    pub layers: usize,
    /// ‖ΔW‖ of the block.
    pub norm: f64,
    /// ‖ΔW‖² of the block in that of the file.
    pub share: f64,
}

impl Survey {
    /// Reads every layer of `adapter`.
    ///
    /// # Errors
    /// A stored number that is not finite.
    pub fn of(adapter: &Adapter) -> crate::Result<Self> {
        let layers = adapter.layers();
        let (mut families, mut ranks, mut without_rank) = (BTreeMap::new(), BTreeMap::new(), 0);
        let mut scales: Option<(f64, f64)> = None;
        for layer in layers.values() {
            *families.entry(layer.family.name()).or_default() += 1;
            let Some(rank) = layer.rank else {
                without_rank += 1;
                continue;
            };
            *ranks.entry(rank).or_default() += 1;
            let (low, high) = scales.unwrap_or((layer.scale, layer.scale));
            scales = Some((low.min(layer.scale), high.max(layer.scale)));
        }
        let modules: BTreeSet<&str> = layers.keys().map(|id| id.module.as_str()).collect();
        let metadata = ORIGINS.iter().filter_map(|(key, _)| {
            let value = adapter.metadata().get(*key)?.trim();
            (!matches!(value, "" | "None" | "null")).then(|| (*key, value.to_owned()))
        });
        let model = architecture(layers.iter().map(|(id, layer)| (id.module.as_str(), layer.shape.cols)));
        let names = layers.keys().map(|id| id.module.as_str());
        let dialect = Dialect::of(names, model.map(|(architecture, _)| architecture));
        let (norm, blocks) = blocks(adapter, model.map(|(model, _)| model))?;
        Ok(Self {
            file: adapter.path().display().to_string(),
            kind: adapter.kind(),
            model: model.map(|(architecture, _)| architecture.name()),
            model_certain: model.is_some_and(|(_, sureness)| sureness == Sureness::Certain),
            naming: dialect.naming().name(),
            vocabulary: dialect.vocabulary(),
            bytes: adapter.file().byte_len(),
            dtype: adapter.dtype().to_string(),
            modules: modules.len(),
            families,
            ranks,
            without_rank,
            alpha_over_rank: scales,
            metadata: metadata.collect(),
            norm,
            blocks,
            passengers: adapter.passengers().count(),
            skipped: adapter.skipped(),
            notes: adapter
                .warnings()
                .iter()
                .cloned()
                .chain(alphas(adapter))
                .chain(unknown(adapter))
                .collect(),
        })
    }

    /// All of it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// What the metadata tell, with the words for it.
    pub fn origin(&self) -> impl Iterator<Item = (&'static str, &str)> {
        ORIGINS.iter().filter_map(|(key, word)| Some((*word, self.metadata.get(key)?.as_str())))
    }
}

/// ‖ΔW‖ of the file, and of every block in the model's order.
fn blocks(adapter: &Adapter, model: Option<Architecture>) -> crate::Result<(f64, Vec<BlockNorm>)> {
    let layers: Vec<(&LayerId, &Layer)> = adapter.layers().iter().collect();
    let squares: Vec<(&LayerId, f64)> = layers
        .par_iter()
        .map(|(id, layer)| match adapter.lacks_base(layer) {
            true => Ok((*id, 0.0)),
            false => Ok((*id, gram::norm(&adapter.delta::<f32>(id, layer)?).powi(2))),
        })
        .collect::<crate::Result<_>>()?;
    let mut sums: BTreeMap<Block, (usize, f64)> = BTreeMap::new();
    for (id, square) in &squares {
        let (layers, sum) = sums.entry(Block::of(&identify(&id.module))).or_default();
        *layers += 1;
        *sum += square;
    }
    let total: f64 = sums.values().map(|(_, sum)| sum).sum();
    let share = |sum: f64| if total > 0.0 { sum / total } else { 0.0 };
    let norm = |(block, (layers, sum)): (Block, (usize, f64))| BlockNorm {
        name: block.name(model),
        layers,
        norm: sum.sqrt(),
        share: share(sum),
    };
    Ok((total.sqrt(), sums.into_iter().map(norm).collect()))
}

/// How many layers have no effect by themselves.
fn unknown(adapter: &Adapter) -> Option<String> {
    let count = adapter.layers().values().filter(|layer| adapter.lacks_base(layer)).count();
    let what = if count == 1 {
        "the effect of 1 layer depends"
    } else {
        &format!("the effect of {count} layers depends")
    };
    (count > 0).then(|| format!("{what} on the base model, which wasn't named; their norms are not counted"))
}

/// What is odd about the alphas.
fn alphas(adapter: &Adapter) -> Vec<String> {
    let (mut missing, mut infinite, mut negative, mut large) = (0, 0, 0, 0);
    for layer in adapter.layers().values() {
        let alpha = adapter.members(layer).get(".alpha").map(|view| view.to_reals::<f64>());
        let factored = matches!(layer.family, Family::Lora | Family::Loha | Family::Lokr);
        match alpha.as_deref() {
            None => missing += usize::from(factored && layer.rank.is_some()),
            Some(alpha) => infinite += usize::from(alpha.iter().any(|x| !x.is_finite())),
        }
        negative += usize::from(layer.scale < 0.0);
        large += usize::from(layer.scale > 4.0);
    }
    let found = [
        (if adapter.has_letters() == Some(true) { 0 } else { missing }, "have no alpha; their scale is 1"),
        (
            infinite,
            "have an alpha that is not finite, which has no meaning there: both of their factors are full",
        ),
        (negative, "have a negative alpha, which turns their effect around"),
        (large, "have an alpha of more than four times their rank; is that meant?"),
    ];
    found.into_iter().filter(|(n, _)| *n > 0).map(|(n, text)| format!("{n} layers {text}")).collect()
}
