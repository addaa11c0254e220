//! What PEFT and diffusers say beside the tensors: the configuration of an adapter, which has its alphas.
//!
//! PEFT writes a folder of `adapter_config.json` and `adapter_model.safetensors`; diffusers puts the same fields, each
//! after its component's name, into the file's metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::peft_oft::OftFlags;
use super::{Layer, LayerId};
use crate::error::{Error, Result};
use crate::file::Container;

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model";
/// diffusers' file.
const WEIGHTS: &str = "pytorch_lora_weights";
/// diffusers' key in a file's metadata.
const METADATA: &str = "lora_adapter_metadata";
/// What PEFT puts before the path of every module.
const WRAPPER: &str = "base_model.model.";

/// Kinds of adapters whose tensors say the rest themselves.
const KINDS: [&str; 6] = ["LORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3"];

/// Ways of beginning that take from the base model what they give to the adapter.
const CHANGING: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The alpha of a module that isn't in its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Given {
    alpha: f64,
    /// The rank that was asked for, where no tensor shows one.
    rank: f64,
    rslora: bool,
    pub(super) oft: OftFlags,
    /// Whether the model stores the module's weight inputs by outputs.
    pub(super) transposed: bool,
}

impl Given {
    /// What multiplies factors of this rank.
    pub(super) fn scale(&self, rank: Option<usize>) -> f64 {
        let rank = rank.map_or(self.rank, |rank| rank as f64);
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// The configurations of a file's components.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// With what stands before the paths of their modules.
    parts: Vec<(String, Config)>,
}

/// The fields that change numbers.
#[derive(Debug)]
struct Config {
    alpha: f64,
    alphas: Patterns,
    rank: f64,
    ranks: Patterns,
    rslora: bool,
    transposed: bool,
    oft: OftFlags,
    /// The way of beginning that changed the base model.
    changed: Option<String>,
}

/// Numbers for modules whose paths fit; the first that does counts.
#[derive(Debug, Default)]
struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    fn get(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, number)| *number)
    }
}

/// The tensors' file of an adapter at `path`, which may be the folder of PEFT or diffusers, or PEFT's configuration.
pub(super) fn tensors(path: &Path) -> Result<PathBuf> {
    let folder = match path.file_name() {
        Some(name) if name == CONFIG => path.parent().unwrap_or(path),
        _ if path.is_dir() => path,
        _ => return Ok(path.to_owned()),
    };
    let names = [MODEL, WEIGHTS].into_iter();
    let mut files =
        names.flat_map(|name| ["safetensors", "bin"].map(|end| folder.join(format!("{name}.{end}"))));
    files.find(|file| file.exists()).ok_or_else(|| {
        let message = match folder == path {
            true => {
                format!("this is a folder without {MODEL}.safetensors or .bin; name the adapter's file in it")
            }
            false => format!("there is no {MODEL}.safetensors or .bin beside it"),
        };
        Error::format(message).in_file(path)
    })
}

/// What a configuration says of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Configured {
    /// The module as the file spells it.
    pub(crate) module: String,
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    /// Whether a LoHa of a convolution has cores.
    pub(crate) has_cores: bool,
}

/// Whether an adapter written to `path` has its configuration beside it: under the name that PEFT looks for.
pub(crate) fn config_beside(path: &Path) -> Option<PathBuf> {
    path.file_stem().is_some_and(|stem| stem == MODEL).then(|| path.with_file_name(CONFIG))
}

/// PEFT's configuration of LoRA or LoHa layers.
pub(crate) fn config(is_loha: bool, layers: &[Configured]) -> String {
    let mut fields = fields(is_loha, layers, |module| module.strip_prefix(WRAPPER).unwrap_or(module));
    if layers.iter().any(|layer| layer.has_cores) {
        fields.insert("use_effective_conv2d".to_owned(), true.into());
    }
    format!("{:#}\n", Value::Object(fields))
}

/// diffusers' metadata of LoRA layers; none where the ranks say it all.
pub(crate) fn metadata(layers: &[Configured]) -> Option<(&'static str, String)> {
    if layers.iter().all(|layer| layer.alpha == layer.rank as f64) {
        return None;
    }
    let component = |layer: &Configured| layer.module.split('.').next().unwrap_or_default().to_owned();
    let mut parts: BTreeMap<String, Vec<Configured>> = BTreeMap::new();
    for layer in layers {
        parts.entry(component(layer)).or_default().push(layer.clone());
    }
    let mut all = Map::new();
    for (part, layers) in parts {
        let prefix = format!("{part}.");
        let fields = fields(false, &layers, |module| module.strip_prefix(&prefix).unwrap_or(module));
        all.extend(fields.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    Some((METADATA, Value::Object(all).to_string()))
}

fn fields(is_loha: bool, layers: &[Configured], path: impl Fn(&str) -> &str) -> Map<String, Value> {
    // The first layer's numbers, and those of all that have others.
    let Some(Configured { rank, alpha, .. }) = layers.first() else { return Map::new() };
    let pattern = |layer: &Configured| format!("^{}", path(&layer.module).replace('.', "\\."));
    let ranks: Map<_, _> =
        layers.iter().filter(|l| l.rank != *rank).map(|l| (pattern(l), l.rank.into())).collect();
    let alphas: Map<_, _> =
        layers.iter().filter(|l| l.alpha != *alpha).map(|l| (pattern(l), l.alpha.into())).collect();
    let modules: Vec<_> = layers.iter().map(|layer| path(&layer.module)).collect();
    let (kind, name) = if is_loha { ("LOHA", "alpha") } else { ("LORA", "lora_alpha") };
    let fields = [
        ("peft_type", kind.into()),
        ("r", (*rank).into()),
        (name, (*alpha).into()),
        ("rank_pattern", ranks.into()),
        ("alpha_pattern", alphas.into()),
        ("target_modules", modules.into()),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Configs {
    /// What is said beside the tensors of `file`, in its folder or in its metadata.
    pub(super) fn of(file: &Container) -> Result<Self> {
        let path = file.path();
        let beside = path.with_file_name(CONFIG);
        if path.file_stem().is_some_and(|stem| stem == MODEL) && beside.exists() {
            let text =
                std::fs::read_to_string(&beside).map_err(|error| Error::io(&error, "read", &beside))?;
            let all = by_component(&text).and_then(|all| match all.get("") {
                Some(fields) => Config::read(fields),
                None => Err(Error::format("this is no configuration of an adapter: it is empty")),
            });
            return Ok(Self { parts: vec![(WRAPPER.to_owned(), all.map_err(|e| e.in_file(&beside))?)] });
        }
        let Some(text) = file.metadata().get(METADATA) else { return Ok(Self::default()) };
        let part = |(component, fields): (String, Fields)| {
            let prefix = if component.is_empty() { component } else { format!("{component}.") };
            Ok((prefix, Config::read(&fields)?))
        };
        let parts = by_component(text).and_then(|all| all.into_iter().map(part).collect::<Result<_>>());
        let named =
            |e: Error| Error::new(e.kind(), format!("metadata {METADATA}: {}", e.message())).in_file(path);
        Ok(Self { parts: parts.map_err(named)? })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn part(&self, module: &str) -> Option<(&Config, String)> {
        let (prefix, config) = self.parts.iter().find(|(prefix, _)| {
            module.starts_with(prefix.as_str()) || prefix == WRAPPER && self.parts.len() == 1
        })?;
        Some((config, module.strip_prefix(prefix.as_str()).unwrap_or(module).to_owned()))
    }

    /// What is said of a module's alpha.
    pub(super) fn given(&self, module: &str) -> Option<Given> {
        let (config, path) = self.part(module)?;
        Some(Given {
            alpha: config.alphas.get(&path).unwrap_or(config.alpha),
            rank: config.ranks.get(&path).unwrap_or(config.rank),
            rslora: config.rslora,
            oft: config.oft,
            transposed: config.transposed,
        })
    }

    /// Whether the model stores a module's weight inputs by outputs.
    pub(super) fn is_transposed(&self, module: &str) -> bool {
        self.part(module).is_some_and(|(config, _)| config.transposed)
    }

    /// What there is to know beyond numbers.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.parts.iter().filter_map(|(_, config)| config.changed.as_ref()).map(|how| {
            format!(
                "it was initialised by '{how}', which changed the base model; unless it was converted when it was saved, \
                 it is relative to that changed model"
            )
        })
    }
}

/// Whether a tensor of this name is a parameter itself and no change of it: PEFT stores trained biases and
/// `modules_to_save` so.
pub(super) fn is_absolute(name: &str, suffix: Option<&str>) -> bool {
    name.starts_with(WRAPPER)
        && matches!(suffix, None | Some(".weight"))
        && (name.ends_with(".weight") || name.ends_with(".bias"))
}

/// What there is to say of them.
pub(super) fn absolute_warning(names: &[String]) -> Option<String> {
    let first = names.first()?;
    let which = if names.len() == 1 {
        format!("'{first}'")
    } else {
        format!("{} tensors, such as '{first}',", names.len())
    };
    Some(format!(
        "{which} hold a parameter itself and not its change (bias, modules_to_save), so that nothing can be merged: they \
         are passed on as they are"
    ))
}

/// What there is to say where trainers leave alpha to a configuration, and there is none.
pub(super) fn missing_alphas(layers: &BTreeMap<LayerId, Layer>) -> Option<String> {
    let left = |layer: &&Layer| {
        let foreign = |name: &String| {
            name.starts_with(WRAPPER)
                || name.contains(".lora_A")
                || name.contains("lora.down")
                || name.contains("lora_linear_layer")
        };
        layer.rank.is_some() && !layer.tensors.contains_key(".alpha") && layer.tensors.values().any(foreign)
    };
    let count = layers.values().filter(left).count();
    (count > 0).then(|| {
        format!(
            "{count} layers have no alpha, and there is no {CONFIG} and no {METADATA} that says it; their scale is taken \
             as 1"
        )
    })
}

/// The fields of one configuration, each still as JSON.
type Fields = BTreeMap<String, Box<RawValue>>;

/// The fields of a configuration by component: `transformer.r` is `r` of `transformer`, and `r` is that of no name.
fn by_component(json: &str) -> Result<BTreeMap<String, Fields>> {
    let broken = |error| Error::format(format!("this is no configuration of an adapter: {error}"));
    let all: Fields = serde_json::from_str(json).map_err(broken)?;
    let mut parts: BTreeMap<String, Fields> = BTreeMap::new();
    for (key, value) in all {
        let (component, field) = key.rsplit_once('.').unwrap_or(("", &key));
        parts.entry(component.to_owned()).or_default().insert(field.to_owned(), value);
    }
    Ok(parts)
}

/// The value of a field, if it has one.
fn field<T: DeserializeOwned>(fields: &Fields, key: &str) -> Result<Option<T>> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    serde_json::from_str(value.get())
        .map_err(|error| Error::format(format!("'{key}' is {}: {error}", value.get())))
}

/// What there is to know of OFT beside its rotations.
fn oft(fields: &Fields) -> Result<OftFlags> {
    let series = field(fields, "use_cayley_neumann")?.unwrap_or(true);
    let terms = field(fields, "num_cayley_neumann_terms")?;
    /// Far more change nothing that a number can hold.
    const MOST: usize = 1000;
    if let Some(terms) = terms.filter(|terms| *terms > MOST) {
        return Err(Error::format(format!(
            "'num_cayley_neumann_terms' is {terms}; no more than {MOST} are believed"
        )));
    }
    let eps = field(fields, "eps")?.unwrap_or(6e-5);
    let limited = field(fields, "coft")?.unwrap_or(false);
    let default = OftFlags::default();
    Ok(OftFlags {
        neumann_terms: terms.or(default.neumann_terms).filter(|_| series),
        coft: limited.then_some(eps),
    })
}

impl Config {
    fn read(fields: &Fields) -> Result<Self> {
        let kind: String = field(fields, "peft_type")?.unwrap_or_else(|| "LORA".to_owned());
        if !KINDS.contains(&kind.as_str()) {
            let kinds = KINDS.join(", ");
            return Err(Error::unsupported(format!(
                "this is a PEFT adapter of the type {kind}; lycomerge knows {kinds}"
            )));
        }
        if !field::<Vec<String>>(fields, "target_parameters")?.unwrap_or_default().is_empty() {
            return Err(Error::unsupported(
                "it adapts parameters that belong to no layer (target_parameters), which lycomerge doesn't merge",
            ));
        }
        /// PEFT's own.
        const DEFAULT: f64 = 8.0;
        let alpha = if kind == "LORA" { "lora_alpha" } else { "alpha" };
        let initialised: Option<Value> = field(fields, "init_lora_weights")?;
        let initialised = initialised.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            alpha: field(fields, alpha)?.unwrap_or(DEFAULT),
            alphas: field(fields, "alpha_pattern")?.unwrap_or_default(),
            rank: field(fields, "r")?.unwrap_or(DEFAULT),
            ranks: field(fields, "rank_pattern")?.unwrap_or_default(),
            rslora: field(fields, "use_rslora")?.unwrap_or(false),
            transposed: field(fields, "fan_in_fan_out")?.unwrap_or(false),
            oft: oft(fields)?,
            changed: CHANGING.iter().any(|how| initialised.starts_with(how)).then_some(initialised),
        })
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of patterns and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Patterns, A::Error> {
                let mut all = Vec::new();
                while let Some((pattern, number)) = map.next_entry::<String, f64>()? {
                    let whole = Regex::new(&format!("^(.*\\.)?({pattern})$"));
                    all.push((whole.map_err(A::Error::custom)?, number));
                }
                Ok(Patterns(all))
            }
        }

        from.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(prefix: &str, json: &str) -> Result<Configs> {
        let part = |(_, fields): (String, Fields)| Ok((prefix.to_owned(), Config::read(&fields)?));
        Ok(Configs { parts: by_component(json)?.into_iter().map(part).collect::<Result<_>>()? })
    }

    #[test]
    fn the_first_pattern_that_fits_a_modules_path_says_its_alpha() {
        let json = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 2, "use_rslora": true,
            "alpha_pattern": {"^mid\\.to_q": 16, "to_q": 32, "layers\\.[0-1]\\.fc": 64}}"#;
        let configs = configs(WRAPPER, json).unwrap();
        for (module, alpha) in [
            ("base_model.model.mid.to_q", 16.0),
            ("base_model.model.up.mid.to_q", 32.0),
            ("base_model.model.up.layers.1.fc", 64.0),
            ("base_model.model.up.layers.2.fc", 2.0),
            ("base_model.model.xto_q", 2.0),
        ] {
            let given = configs.given(module).unwrap();
            assert_eq!(given.scale(Some(16)), alpha / 4.0, "{module}");
        }
    }

    #[test]
    fn the_rotations_of_an_oft_are_made_as_its_configuration_says() {
        for (json, neumann_terms, coft) in [
            (r#"{"peft_type": "OFT"}"#, Some(5), None),
            (r#"{"peft_type": "OFT", "num_cayley_neumann_terms": 3, "coft": true}"#, Some(3), Some(6e-5)),
            (
                r#"{"peft_type": "OFT", "use_cayley_neumann": false, "coft": true, "eps": 0.1}"#,
                None,
                Some(0.1),
            ),
        ] {
            let configs = configs(WRAPPER, json).unwrap();
            assert_eq!(configs.given("m").unwrap().oft, OftFlags { neumann_terms, coft }, "{json}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        for (json, says) in [
            (r#"{"peft_type": "VERA"}"#, "VERA"),
            (r#"{"peft_type": "LORA", "target_parameters": ["experts"]}"#, "target_parameters"),
            (r#"{"lora_alpha": "many"}"#, "'lora_alpha' is \"many\""),
            (r#"{"alpha_pattern": {"(": 1}}"#, "alpha_pattern"),
            ("[]", "no configuration"),
        ] {
            let error = configs("", json).err().unwrap();
            assert!(error.message().contains(says), "{error}");
        }
    }
}
