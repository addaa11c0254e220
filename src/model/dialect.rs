//! How a file names its modules, so that others can be named alike.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::architecture::Architecture;
use super::name::{Component, Identity, Rows, parse};
use super::rules::{self, Vocabulary};
use super::words;
use crate::error::{Error, Result};

/// The ways of naming that hosts know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `lora_unet_…` with underscores, as kohya's trainers write it for each architecture.
    Kohya,
    /// `unet.…` or `transformer.…`, in diffusers' words.
    Diffusers,
    /// `base_model.model.…`, in diffusers' words.
    Peft,
    /// `diffusion_model.…`, in the words of the models' authors.
    Comfy,
}

impl Naming {
    /// Every naming with its name.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Kohya, "kohya"),
        (Self::Diffusers, "diffusers"),
        (Self::Peft, "peft"),
        (Self::Comfy, "comfy"),
    ];

    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(naming, _)| *naming == self).map_or("", |(_, name)| name)
    }

    /// Whether low-rank factors are called `lora_A` and `lora_B`, not down and up.
    pub fn has_letters(self) -> bool {
        self != Self::Kohya
    }

    fn vocabulary(self, architecture: Option<Architecture>) -> Vocabulary {
        match (self, architecture) {
            (Self::Kohya, Some(Architecture::Sd1 | Architecture::Sd2)) => Vocabulary::Diffusers,
            (Self::Kohya | Self::Comfy, _) => Vocabulary::Native,
            (Self::Diffusers | Self::Peft, _) => Vocabulary::Diffusers,
        }
    }

    /// What stands before the path of a module.
    fn prefix(self, component: Component, architecture: Option<Architecture>) -> &'static str {
        use Component::{ClipG, ClipL, Denoiser, Other, T5};
        let older = matches!(architecture, Some(Architecture::Sd1 | Architecture::Sd2));
        let unet = architecture.is_some_and(Architecture::is_unet);
        match (self, component) {
            (Self::Kohya, Denoiser) => "lora_unet_",
            (Self::Kohya, ClipL) if older => "lora_te_text_model_",
            (Self::Kohya, ClipL) => "lora_te1_text_model_",
            (Self::Kohya, ClipG) => "lora_te2_text_model_",
            (Self::Kohya, T5) => "lora_te3_",
            (Self::Diffusers, Denoiser) if unet => "unet.",
            (Self::Diffusers, Denoiser) => "transformer.",
            (Self::Diffusers, ClipL) => "text_encoder.text_model.",
            (Self::Diffusers, ClipG) => "text_encoder_2.text_model.",
            // SD3 has two CLIPs before it, Flux one.
            (Self::Diffusers, T5) if architecture == Some(Architecture::Sd3) => "text_encoder_3.",
            (Self::Diffusers, T5) => "text_encoder_2.",
            (Self::Peft, Denoiser) => "base_model.model.",
            (Self::Peft, ClipL) => "text_encoder.base_model.model.text_model.",
            (Self::Peft, ClipG) => "text_encoder_2.base_model.model.text_model.",
            (Self::Peft, T5) => "text_encoder_3.base_model.model.",
            (Self::Comfy, Denoiser) => "diffusion_model.",
            (Self::Comfy, ClipL) => "text_encoders.clip_l.transformer.text_model.",
            (Self::Comfy, ClipG) => "text_encoders.clip_g.transformer.text_model.",
            (Self::Comfy, T5) => "text_encoders.t5xxl.transformer.",
            (_, Other) => "",
        }
    }
}

impl FromStr for Naming {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(naming, _)| *naming).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::option(format!("unknown naming '{s}'; use one of {}", names.join(", ")))
        })
    }
}

/// How modules are to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    naming: Naming,
    dotted: bool,
    vocabulary: Vocabulary,
    /// Whether names told the vocabulary.
    is_told: bool,
    architecture: Option<Architecture>,
    /// Prefixes that aren't the naming's own.
    prefixes: BTreeMap<Component, String>,
}

impl Dialect {
    /// That of a naming, for an architecture.
    pub fn new(naming: Naming, architecture: Option<Architecture>) -> Self {
        Self {
            naming,
            dotted: naming != Naming::Kohya,
            vocabulary: naming.vocabulary(architecture),
            is_told: false,
            architecture,
            prefixes: BTreeMap::new(),
        }
    }

    /// That in which a file names these modules.
    pub fn of<'a>(modules: impl IntoIterator<Item = &'a str>, architecture: Option<Architecture>) -> Self {
        let mut prefixes: BTreeMap<Component, String> = BTreeMap::new();
        let (mut native, mut diffusers, mut dotted, mut all) = (0, 0, 0, 0);
        for module in modules {
            let parsed = parse(module);
            match rules::vocabulary(parsed.component, &parsed.path, architecture) {
                Some(Vocabulary::Native) => native += 1,
                Some(Vocabulary::Diffusers) => diffusers += 1,
                None => {}
            }
            (dotted, all) = (dotted + usize::from(module.contains('.')), all + 1);
            // What stands before a text encoder's other modules isn't what stands before its layers.
            let clip = matches!(parsed.component, Component::ClipL | Component::ClipG);
            if let Some(at) = parsed.prefix.filter(|_| !clip || parsed.path.starts_with("encoder_")) {
                prefixes.entry(parsed.component).or_insert_with(|| module[..at].to_owned());
            }
        }
        let dotted = 2 * dotted > all;
        let begins = |word: &str| prefixes.values().any(|prefix| prefix.contains(word));
        let naming = match dotted {
            false => Naming::Kohya,
            true if begins("base_model.model.") => Naming::Peft,
            true if begins("diffusion_model.") || begins("text_encoders.") => Naming::Comfy,
            true => Naming::Diffusers,
        };
        let vocabulary = match native.cmp(&diffusers) {
            std::cmp::Ordering::Greater => Vocabulary::Native,
            std::cmp::Ordering::Less => Vocabulary::Diffusers,
            std::cmp::Ordering::Equal => naming.vocabulary(architecture),
        };
        Self { naming, dotted, vocabulary, is_told: native != diffusers, architecture, prefixes }
    }

    /// The naming that it is, or is most like.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// Whose words the denoiser's names are made of, if that is known: `native` or `diffusers`.
    pub fn vocabulary(&self) -> Option<&'static str> {
        self.is_told.then_some(match self.vocabulary {
            Vocabulary::Native => "native",
            Vocabulary::Diffusers => "diffusers",
        })
    }

    /// The names of the modules that make up the weight that `module`, which another file calls `given`, is or is a
    /// part of, and which rows of it each is. None where nobody knows how to spell it.
    pub fn names(&self, module: &Identity, given: &str) -> Option<Vec<(String, Rows)>> {
        let Identity { component, path, .. } = module;
        if *component == Component::Other {
            return None;
        }
        let prefix = match self.prefixes.get(component) {
            Some(prefix) => prefix,
            None => self.naming.prefix(*component, self.architecture),
        };
        let prefix = match path.starts_with("text_projection") {
            true => prefix.trim_end_matches("text_model.").trim_end_matches("text_model_"),
            false => prefix,
        };
        let name = |(path, rows): (String, Rows)| {
            let path = match self.dotted {
                true => words::dotted(&path).or_else(|| as_given(&path, given))?,
                false => path,
            };
            Some((format!("{prefix}{path}"), rows))
        };
        let spelled = rules::spelled(*component, path, self.vocabulary, self.architecture);
        spelled.into_iter().map(name).collect()
    }
}

/// `path` with the dots that it has at the end of `given`.
fn as_given(path: &str, given: &str) -> Option<String> {
    let at = parse(given).prefix?;
    let own = &given[at..];
    (own.contains('.') && own.replace('.', "_") == path).then(|| own.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identify;

    fn names(dialect: &Dialect, module: &str) -> Vec<String> {
        dialect.names(&identify(module), module).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_module_is_named_as_every_host_names_it() {
        let sdxl = |naming| Dialect::new(naming, Some(Architecture::Sdxl));
        let proj = "unet.down_blocks.1.attentions.0.proj_in";
        let clip = "lora_te1_text_model_encoder_layers_0_mlp_fc1";
        for (naming, unet, text) in [
            (Naming::Kohya, "lora_unet_input_blocks_4_1_proj_in", clip),
            (Naming::Diffusers, proj, "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
            (
                Naming::Peft,
                "base_model.model.down_blocks.1.attentions.0.proj_in",
                "text_encoder.base_model.model.text_model.encoder.layers.0.mlp.fc1",
            ),
            (
                Naming::Comfy,
                "diffusion_model.input_blocks.4.1.proj_in",
                "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
            ),
        ] {
            assert_eq!(names(&sdxl(naming), proj), [unet]);
            assert_eq!(names(&sdxl(naming), clip), [text]);
            assert_eq!(identify(unet), identify(proj));
            assert_eq!(identify(text), identify(clip));
        }
        let sd1 = Dialect::new(Naming::Kohya, Some(Architecture::Sd1));
        assert_eq!(names(&sd1, proj), ["lora_unet_down_blocks_1_attentions_0_proj_in"]);
        assert_eq!(names(&sd1, clip), ["lora_te_text_model_encoder_layers_0_mlp_fc1"]);
    }

    #[test]
    fn what_is_fused_in_one_dialect_is_in_parts_in_another() {
        let flux = |naming| Dialect::new(naming, Some(Architecture::Flux));
        let linear1 = "lora_unet_single_blocks_3_linear1";
        let parts = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]
            .map(|part| format!("transformer.single_transformer_blocks.3.{part}"));
        assert_eq!(names(&flux(Naming::Diffusers), linear1), parts);
        for part in &parts {
            assert_eq!(names(&flux(Naming::Kohya), part), [linear1]);
        }
    }

    #[test]
    fn a_files_own_dialect_is_continued() {
        let files: [(&[&str], &str, &str); 4] = [
            (
                &["lycoris_down_blocks_0_resnets_0_conv1"],
                "lora_unet_output_blocks_3_1_proj_in",
                "lycoris_up_blocks_1_attentions_0_proj_in",
            ),
            (
                &["lora_unet_input_blocks_1_0_in_layers_2"],
                "unet.mid_block.attentions.0.proj_in",
                "lora_unet_middle_block_1_proj_in",
            ),
            (
                &["unet.conv_in", "text_encoder.encoder.layers.0.mlp.fc1"],
                "lora_te1_text_model_encoder_layers_1_mlp_fc2",
                "text_encoder.encoder.layers.1.mlp.fc2",
            ),
            (
                &["some.new.model_part.q"],
                "lora_unet_down_blocks_0_resnets_0_conv1",
                "down_blocks.0.resnets.0.conv1",
            ),
        ];
        for (own, other, name) in files {
            let dialect = Dialect::of(own.iter().copied(), Some(Architecture::Sdxl));
            assert_eq!(names(&dialect, other), [name]);
            for module in own {
                assert_eq!(names(&dialect, module), [*module]);
            }
        }
        let dotted = Dialect::of(["unet.conv_in"], None);
        assert_eq!(dotted.names(&identify("lora_unet_some_new_part"), "lora_unet_some_new_part"), None);
    }
}
