//! The output's metadata: what hosts look for, what the inputs agree on, and the recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Input;
use super::naming::architecture_of;
use super::recipe::Recipe;
use crate::adapter::RECIPE_KEY;
use crate::model::Sureness;

type Metadata = BTreeMap<String, String>;

/// By this hosts know which model an adapter is for.
pub(super) const BASE_VERSION: &str = "ss_base_model_version";

/// Keys that are carried over where all inputs that have them agree.
const AGREED: [&str; 9] = [
    BASE_VERSION,
    "ss_v2",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_clip_skip",
    "modelspec.architecture",
    "modelspec.resolution",
    "modelspec.prediction_type",
    "modelspec.encoder_layer",
];

/// Keys whose values are lists of words, joined.
const JOINED: [&str; 4] = ["modelspec.trigger_phrase", "modelspec.tags", "ss_trigger_words", "trigger_words"];

/// What the stored layers tell: the families and the ranks.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) families: BTreeSet<&'static str>,
    pub(super) ranks: BTreeSet<usize>,
}

/// The metadata of the output, without the hashes, which the writer adds.
pub(super) fn metadata(
    inputs: &[Input],
    recipe: &Recipe,
    stored: &Stored,
    output: Option<&Path>,
) -> Metadata {
    let mut out = Metadata::new();
    let values = |key: &str| -> Vec<&String> {
        inputs.iter().filter_map(|input| input.adapter.metadata().get(key)).collect()
    };
    for key in AGREED {
        let values = values(key);
        if let Some(first) = values.first().filter(|first| values.iter().all(|value| value == *first)) {
            out.insert(key.to_owned(), (*first).clone());
        }
    }
    if values(BASE_VERSION).is_empty()
        && let Some((model, Sureness::Certain)) = architecture_of(inputs)
        && let Some(version) = model.base_version()
    {
        out.insert(BASE_VERSION.to_owned(), version.to_owned());
    }
    for key in JOINED {
        let words = distinct(values(key).into_iter().map(String::as_str));
        if !words.is_empty() {
            out.insert(key.to_owned(), words.join(", "));
        }
    }
    let tags = tag_frequency(&values("ss_tag_frequency"));
    if !tags.is_empty() {
        out.insert("ss_tag_frequency".to_owned(), Value::Object(tags).to_string());
    }
    let title = |input: &Input| {
        let metadata = input.adapter.metadata();
        let stem = input.adapter.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        metadata.get("modelspec.title").or_else(|| metadata.get("ss_output_name")).cloned().unwrap_or(stem)
    };
    let titles: Vec<String> = inputs.iter().map(title).collect();
    let name =
        output.and_then(Path::file_stem).map_or_else(|| "merged".into(), |stem| stem.to_string_lossy());
    for (key, value) in network(stored) {
        out.insert(key.to_owned(), value);
    }
    for (key, value) in [
        ("format", "pt".to_owned()),
        ("ss_output_name", name.to_string()),
        ("modelspec.sai_model_spec", "1.0.1".to_owned()),
        ("modelspec.title", name.into_owned()),
        ("modelspec.merged_from", titles.join(", ")),
        ("modelspec.implementation", "https://github.com/KohakuBlueleaf/LyCORIS".to_owned()),
        ("lycomerge_version", env!("CARGO_PKG_VERSION").to_owned()),
        (RECIPE_KEY, json!(recipe).to_string()),
    ] {
        out.insert(key.to_owned(), value);
    }
    out
}

/// That of an adapter whose tensors are stored as they are: its own, without what is no longer true.
pub(super) fn kept(input: &Input, recipe: &Recipe) -> Metadata {
    const STALE: [&str; 4] =
        ["sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "lora_adapter_metadata"];
    let mut out = input.adapter.metadata().clone();
    out.retain(|key, _| !STALE.contains(&key.as_str()));
    for (key, value) in [
        ("format", "pt".to_owned()),
        ("lycomerge_version", env!("CARGO_PKG_VERSION").to_owned()),
        (RECIPE_KEY, json!(recipe).to_string()),
    ] {
        out.insert(key.to_owned(), value);
    }
    out
}

/// `ss_network_*` as trainers would have written it for these layers.
pub(super) fn network(stored: &Stored) -> [(&'static str, String); 4] {
    let main: Vec<_> = stored.families.iter().copied().filter(|family| *family != "Norm").collect();
    let plain = main.iter().all(|family| *family == "LoRA") && !stored.families.contains("Norm");
    let algo = match main[..] {
        ["LoRA"] => "lora",
        ["LoHa"] => "loha",
        ["LoKr"] => "lokr",
        ["IA3"] => "ia3",
        ["GLoRA"] => "glora",
        ["Full"] | [] => "full",
        _ => "mixed",
    };
    let dim = match stored.ranks.iter().collect::<Vec<_>>()[..] {
        [rank] => rank.to_string(),
        [] => "None".to_owned(),
        _ => "Dynamic".to_owned(),
    };
    [
        ("ss_network_module", if plain { "networks.lora" } else { "lycoris.kohya" }.to_owned()),
        ("ss_network_dim", dim.clone()),
        // Stored factors carry their scale: alpha is the rank.
        ("ss_network_alpha", dim),
        ("ss_network_args", json!({ "algo": algo }).to_string()),
    ]
}

fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut words = Vec::new();
    for word in values.flat_map(|value| value.split(',')).map(str::trim) {
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// Tag counts by folder, added over the inputs.
fn tag_frequency(values: &[&String]) -> Map<String, Value> {
    let mut out = Map::new();
    let parsed = values.iter().filter_map(|value| serde_json::from_str::<Map<String, Value>>(value).ok());
    for (folder, tags) in parsed.flatten() {
        let Value::Object(tags) = tags else { continue };
        let sums = out.entry(folder).or_insert_with(|| Value::Object(Map::new()));
        for (tag, count) in tags {
            let sum = sums.get(&tag).and_then(Value::as_u64).unwrap_or(0) + count.as_u64().unwrap_or(0);
            sums[tag] = sum.into();
        }
    }
    out
}
