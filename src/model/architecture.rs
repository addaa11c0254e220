//! Which model a file is for, from its modules' names and shapes.

use std::collections::BTreeSet;

use super::name::{Component, Identity, identify, parse};
use super::rules;

/// A model that many adapters are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Stable Diffusion 1.
    Sd1,
    /// Stable Diffusion 2.
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// Flux.1.
    Flux,
    /// Hunyuan Video.
    HunyuanVideo,
    /// Qwen-Image.
    QwenImage,
    /// Wan.
    Wan,
    /// AuraFlow.
    AuraFlow,
    /// Stable Cascade's prior.
    Cascade,
}

/// How well an architecture is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sureness {
    /// Something in the file is in no other model.
    Certain,
    /// The file fits others, too.
    Likely,
}

impl Architecture {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd1 => "SD1.5",
            Self::Sd2 => "SD2",
            Self::Sdxl => "SDXL",
            Self::Sd3 => "SD3",
            Self::Flux => "Flux",
            Self::HunyuanVideo => "Hunyuan Video",
            Self::QwenImage => "Qwen-Image",
            Self::Wan => "Wan",
            Self::AuraFlow => "AuraFlow",
            Self::Cascade => "Stable Cascade",
        }
    }

    /// What trainers write as `ss_base_model_version`, for those that hosts know by it.
    pub fn base_version(self) -> Option<&'static str> {
        match self {
            Self::Sd1 => Some("sd_v1"),
            Self::Sd2 => Some("sd_v2"),
            Self::Sdxl => Some("sdxl_base_v1-0"),
            Self::Sd3 => Some("sd3"),
            Self::Flux => Some("flux1"),
            _ => None,
        }
    }

    /// Whether its denoiser is a UNet of Stable Diffusion.
    pub(super) fn is_unet(self) -> bool {
        matches!(self, Self::Sd1 | Self::Sd2 | Self::Sdxl)
    }
}

/// What is looked for in the modules of a file.
#[derive(Default)]
struct Evidence {
    components: BTreeSet<Component>,
    unet: bool,
    sgm: bool,
    prior: bool,
    /// The largest number of a transformer block in a UNet's attention.
    depth: Option<usize>,
    /// The largest number of a level of blocks.
    level: Option<usize>,
    /// Inputs of a UNet's cross attention.
    context: Option<usize>,
    /// Inputs of a text encoder's attention.
    text: Option<usize>,
    /// The largest number of a block with two streams, and with one.
    double: Option<usize>,
    single: Option<usize>,
    /// Inputs of a block with two streams.
    width: Option<usize>,
    /// Words that only one architecture has.
    words: Option<Architecture>,
}

/// The architecture that modules with these weights' columns are from.
pub fn architecture<'a>(
    modules: impl IntoIterator<Item = (&'a str, usize)>,
) -> Option<(Architecture, Sureness)> {
    let mut evidence = Evidence::default();
    for (module, cols) in modules {
        evidence.add(module, cols);
    }
    evidence.judge()
}

impl Evidence {
    fn add(&mut self, module: &str, cols: usize) {
        let own = parse(module).path;
        let Identity { component, path, .. } = identify(module);
        self.components.insert(component);
        if component != Component::Denoiser {
            if component == Component::ClipL && path.ends_with("_self_attn_in_proj") {
                self.text = Some(cols);
            }
            return;
        }
        self.prior |= module.starts_with("lora_prior_") || module.starts_with("prior.");
        let begins = |words: &[&str]| words.iter().any(|word| own.starts_with(word));
        self.sgm |= begins(&["input_blocks_", "middle_block_", "output_blocks_"]);
        if rules::is_unet(&path) {
            self.unet = true;
            let levels = ["down_blocks_", "up_blocks_"].into_iter();
            self.level = self.level.max(levels.filter_map(|word| number(path.strip_prefix(word)?)).max());
            if let Some((_, rest)) = path.split_once("_transformer_blocks_") {
                self.depth = self.depth.max(number(rest));
                if rest.ends_with("_attn2_to_k") || rest.ends_with("_attn2_to_v") {
                    self.context = Some(cols);
                }
            }
            return;
        }
        if let Some(rest) = path.strip_prefix("transformer_blocks_") {
            self.double = self.double.max(number(rest));
            if rest.ends_with("_attn_qkv") {
                self.width = Some(cols);
            }
        } else if let Some(rest) = path.strip_prefix("single_transformer_blocks_") {
            self.single = self.single.max(number(rest));
        }
        let telling = [
            (begins(&["joint_blocks_"]), Architecture::Sd3),
            (own.ends_with("_modulation_lin") || own.ends_with("_mod_lin"), Architecture::Flux),
            (begins(&["vector_in_in_layer", "time_text_embed_guidance_embedder"]), Architecture::Flux),
            (own.ends_with("_mod_linear") || own.ends_with("_modulation_linear"), Architecture::HunyuanVideo),
            (own.contains("individual_token_refiner"), Architecture::HunyuanVideo),
            (begins(&["transformer_blocks_"]) && own.contains("_img_m"), Architecture::QwenImage),
            (begins(&["blocks_"]) && own.contains("_cross_attn_"), Architecture::Wan),
            (begins(&["blocks_"]) && own.contains("_ffn_"), Architecture::Wan),
            (begins(&["joint_transformer_blocks_"]), Architecture::AuraFlow),
        ];
        self.words = self.words.or(telling.into_iter().find_map(|(found, which)| found.then_some(which)));
    }

    fn judge(&self) -> Option<(Architecture, Sureness)> {
        use Architecture::{Cascade, Flux, HunyuanVideo, QwenImage, Sd1, Sd2, Sd3, Sdxl};
        use Sureness::{Certain, Likely};
        /// The blocks of Flux.
        const FLUX: (usize, usize) = (19, 38);

        let has = |component| self.components.contains(&component);
        if self.prior {
            return Some((Cascade, Certain));
        }
        if self.unet {
            return Some(match (self.depth, self.context) {
                _ if has(Component::ClipG) => (Sdxl, Certain),
                (Some(2..), _) | (_, Some(2048)) => (Sdxl, Certain),
                (_, Some(768)) => (Sd1, Certain),
                (_, Some(1024)) => (Sd2, Certain),
                // SDXL has fewer levels, and more in each attention.
                _ if self.level >= Some(3) || self.depth == Some(0) => (Sd1, Likely),
                // Trainers of SD1 and SD2 use diffusers' words.
                _ if self.sgm => (Sdxl, Likely),
                _ => (Sd1, Likely),
            });
        }
        if let Some(words) = self.words {
            return Some((words, Certain));
        }
        if self.single.is_some() {
            let longer = self.double >= Some(FLUX.0) || self.single >= Some(FLUX.1);
            return Some(if longer { (HunyuanVideo, Certain) } else { (Flux, Likely) });
        }
        if self.double.is_some() {
            return match self.width {
                Some(1536 | 2432) => Some((Sd3, Certain)),
                Some(3072) if self.double >= Some(FLUX.0) => Some((QwenImage, Likely)),
                Some(3072) => Some((Flux, Likely)),
                Some(_) => Some((Sd3, Likely)),
                None => None,
            };
        }
        match (has(Component::ClipL), has(Component::ClipG), self.text) {
            (_, true, _) => Some((Sdxl, Likely)),
            (true, _, Some(768)) => Some((Sd1, Likely)),
            (true, _, Some(1024)) => Some((Sd2, Certain)),
            _ => None,
        }
    }
}

/// The number that a path begins with.
fn number(path: &str) -> Option<usize> {
    path.split('_').next()?.parse().ok()
}
