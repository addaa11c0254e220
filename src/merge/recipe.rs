//! The recipe: inputs and options as data. It travels in the output's metadata, so that anyone can make the same
//! bytes again from the same files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde_json::Value;

use super::options::{MatchNorm, Options, Space};
use super::{BlockWeights, Input, strategy};
use crate::adapter::Adapter;
use crate::error::{Error, Result};

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// The inputs in their order.
    pub inputs: Vec<RecipeInput>,
    /// The strategy's name.
    pub strategy: String,
    /// `delta` or `factor`.
    pub space: &'static str,
    /// The output's format.
    pub format: &'static str,
    /// The output's dtype.
    pub dtype: String,
    /// The other options that change the result and were set.
    pub options: BTreeMap<&'static str, String>,
}

/// One input of a recipe.
#[derive(Clone, Debug, Serialize)]
pub struct RecipeInput {
    /// The file's name, without its folder.
    pub name: String,
    /// SHA-256 of the whole file.
    pub sha256: String,
    /// The user's weight.
    pub weight: f64,
    /// The user's block weights, as a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_weights: Option<String>,
    /// The name of the model that it was opened with, where its effect depends on it: a checkpoint takes too long to
    /// hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

impl Recipe {
    /// Reads every input for its hash, unless `stop` says that it isn't wanted any more; what is made then is nobody's.
    pub(super) fn of(inputs: &[Input], options: &Options, stop: &AtomicBool) -> Self {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = |adapter: &Adapter| {
            let depends = adapter.layers().values().any(|layer| layer.family.needs_base());
            adapter.base().filter(|_| depends).cloned()
        };
        let input = |input: &Input| RecipeInput {
            name: name(input.adapter.path()),
            sha256: input.adapter.file().sha256(stop).unwrap_or_default(),
            weight: input.weight,
            block_weights: input.blocks.as_ref().map(|blocks| blocks.text().to_owned()),
            base: base(&input.adapter).map(|base| name(base.path())),
        };
        Self {
            inputs: inputs.iter().map(input).collect(),
            strategy: options.strategy.clone(),
            space: if options.space == Space::Delta { "delta" } else { "factor" },
            format: options.format_name(),
            dtype: options.dtype.to_string(),
            options: set(options),
        }
    }
}

/// The options that change the result and were set, besides those that a recipe has a place of its own for.
pub(super) fn set(options: &Options) -> BTreeMap<&'static str, String> {
    let parameters = strategy::by_name(&options.strategy).map_or(&[][..], |row| row.parameters);
    let parameters = parameters
        .iter()
        .filter_map(|parameter| Some((parameter.name, options.settings.get(parameter.name)?.clone())));
    let all = [
        ("quality", options.quality.map(|quality| quality.name().to_owned())),
        ("tolerance", options.tolerance.map(|x| x.to_string())),
        ("rank", options.rank.map(|x| x.to_string())),
        ("conv-rank", options.conv_rank.map(|x| x.to_string())),
        ("sv-ratio", options.sv_ratio.map(|x| x.to_string())),
        ("sv-cumulative", options.sv_cumulative.map(|x| x.to_string())),
        ("sv-fro", options.sv_fro.map(|x| x.to_string())),
        ("max-size", options.max_size.map(|x| x.to_string())),
        ("factor", options.factor.map(|x| x.to_string())),
        ("match-norm", (options.match_norm != MatchNorm::Off).then(|| options.match_norm.name().to_owned())),
        ("naming", options.naming.map(|naming| naming.name().to_owned())),
        ("skip-unknown", options.skip_unknown.then(|| "true".to_owned())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(parameters).collect()
}

/// The options of a recipe in JSON, the recipe itself or a report that has it, and the block weights of its inputs.
pub(super) fn parse(json: &str) -> Result<(Options, Vec<Option<BlockWeights>>)> {
    let not_one = |why: &str| Error::option(format!("this is no recipe of lycomerge: {why}"));
    let given: Value = serde_json::from_str(json).map_err(|error| not_one(&error.to_string()))?;
    let recipe = given.get("recipe").unwrap_or(&given);
    let mut options = Options::default();
    for name in ["strategy", "space", "format", "dtype"] {
        let value = recipe.get(name).and_then(Value::as_str);
        options.set(name, value.ok_or_else(|| not_one(&format!("it has no '{name}'")))?)?;
    }
    let others =
        recipe.get("options").and_then(Value::as_object).ok_or_else(|| not_one("it has no 'options'"))?;
    for (name, value) in others {
        let value = value.as_str().ok_or_else(|| not_one(&format!("the option '{name}' is no text")))?;
        options.set(name, value)?;
    }
    options.check()?;
    let blocks = |input: &Value| match input.get("block_weights") {
        None => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some),
        Some(_) => Err(not_one("the block weights of an input are no text")),
    };
    let inputs = recipe.get("inputs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Ok((options, inputs.iter().map(blocks).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_gives_its_options_back() {
        let mut asked = Options::default();
        let set =
            [("strategy", "min_max_norm"), ("norm-threshold", "0.1"), ("format", "lora"), ("rank", "8")];
        for (name, value) in set.into_iter().chain([("match-norm", "true"), ("dtype", "bfloat16")]) {
            asked.set(name, value).unwrap();
        }
        let recipe = Recipe::of(&[], &asked, &AtomicBool::new(false));
        let json = serde_json::to_string(&recipe).unwrap();
        for json in [json.clone(), format!("{{\"recipe\": {json}}}")] {
            let (found, _) = parse(&json).unwrap();
            assert_eq!(format!("{found:?}"), format!("{asked:?}"));
        }
    }

    #[test]
    fn what_is_no_recipe_is_refused_with_the_reason() {
        for (json, why) in [
            ("{", "EOF"),
            ("[]", "no 'strategy'"),
            (r#"{"strategy": "magic", "space": "delta", "format": "auto", "dtype": "float16"}"#, "magic"),
            (
                r#"{"strategy": "weighted_sum", "space": "delta", "format": "auto", "dtype": "float16"}"#,
                "no 'options'",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }
}
