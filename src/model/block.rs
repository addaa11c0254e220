//! Blocks: the parts of a model that people weigh apart, by the names that block-weight extensions gave them.
//!
//! A module's identity goes in, its block comes out, the same for every spelling. UNets have IN00 to IN11, M00 and
//! OUT00 to OUT11, counted as the original implementation counts its `input_blocks` and `output_blocks`; Flux has D00…
//! and S00… (double and single blocks), SD3 J00… (joint blocks), which have one vocabulary for both; text encoders have
//! te1.0, te2.0, t5.0, …; what a model has before and after its blocks is IN, TIME and OUT. The blocks of any other
//! architecture are called as its own names call them up to their number: blocks.7.

use std::cmp::Ordering;

use super::architecture::Architecture;
use super::name::{Component, Identity};

/// A part of a model. The order is that of the model: text encoders first, and what comes out last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    place: usize,
    stem: String,
    number: Option<u32>,
}

/// The stems that have a place of their own, in the order of the model, each with other names that people give it.
/// Other stems stand at [`OTHERS`].
const STEMS: [(&str, &[&str]); 10] = [
    ("te1", &["clip_l"]),
    ("te2", &["clip_g"]),
    ("t5", &["t5xxl", "te3"]),
    ("TIME", &["time_embed"]),
    ("IN", &["input_blocks"]),
    ("D", &["J", "double_blocks", "joint_blocks", "transformer_blocks"]),
    ("S", &["single_blocks", "single_transformer_blocks"]),
    ("", &[]),
    ("M", &["MID", "middle_block", "mid_block"]),
    ("OUT", &["output_blocks"]),
];
const TEXT: usize = 3;
/// Blocks with two streams, which every architecture calls otherwise.
const DOUBLE: usize = 5;
const OTHERS: usize = 7;
const MIDDLE: usize = 8;
const LAST: usize = 9;

/// What stands before and after the blocks of a denoiser, and at which number.
const ENDS: [(&str, &str, Option<u32>); 13] = [
    ("mid_block", "M", Some(0)),
    ("conv_in", "IN", Some(0)),
    ("conv_norm_out", "OUT", None),
    ("conv_out", "OUT", None),
    ("norm_out", "OUT", None),
    ("proj_out", "OUT", None),
    ("final_layer", "OUT", None),
    ("time_embedding", "TIME", None),
    ("add_embedding", "TIME", None),
    ("x_embedder", "IN", None),
    ("context_embedder", "IN", None),
    ("time_text_embed", "IN", None),
    ("pos_embed", "IN", None),
];

impl Block {
    /// The block that a module stands in.
    pub fn of(module: &Identity) -> Self {
        let path = &module.path;
        let text = |stem| Self::new(stem, first_number(path).map(|(_, number)| number));
        match module.component {
            Component::ClipL => text("te1"),
            Component::ClipG => text("te2"),
            Component::T5 => text("t5"),
            Component::Denoiser | Component::Other => Self::of_denoiser(path),
        }
    }

    fn of_denoiser(path: &str) -> Self {
        // Three places for each level of a UNet: two or three layers, then a change of resolution.
        let level = |stem, first: u32, level, change| {
            let (level, inner) = numbered(path, level)?;
            let place = match numbered(inner, "resnets").or_else(|| numbered(inner, "attentions")) {
                Some((layer, _)) => layer,
                None => numbered(inner, change).map(|_| 2)?,
            };
            Some(Self::new(stem, Some(level.saturating_mul(3).saturating_add(place).saturating_add(first))))
        };
        let unet = || {
            level("IN", 1, "down_blocks", "downsamplers")
                .or_else(|| level("OUT", 0, "up_blocks", "upsamplers"))
        };
        let listed = || {
            let names =
                STEMS[TEXT..].iter().flat_map(|(stem, names)| names.iter().map(move |name| (stem, name)));
            names.into_iter().find_map(|(stem, name)| Some(Self::new(stem, Some(numbered(path, name)?.0))))
        };
        let end = || {
            let is_at = |name: &str| {
                path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            };
            let (_, stem, number) = ENDS.iter().find(|(name, ..)| is_at(name))?;
            Some(Self::new(stem, *number))
        };
        unet().or_else(end).or_else(listed).unwrap_or_else(|| match first_number(path) {
            Some((stem, number)) => Self::new(stem, Some(number)),
            None => Self::new(path, None),
        })
    }

    /// A block by the name that people give it, in any case: `IN04`, `te1.3`, `double_blocks.7`; without a number it
    /// stands for all blocks of its stem.
    pub fn named(name: &str) -> Self {
        let whole = Self::new(name, None);
        if whole.place != OTHERS {
            return whole;
        }
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        match name[stem.len()..].parse() {
            Ok(number) => Self::new(stem.trim_end_matches(['.', '_']), Some(number)),
            Err(_) => whole,
        }
    }

    fn new(stem: &str, number: Option<u32>) -> Self {
        let is = |name: &&str| name.eq_ignore_ascii_case(stem);
        let mut rows = STEMS.iter();
        let known = rows.position(|(short, names)| !short.is_empty() && (is(short) || names.iter().any(is)));
        match known {
            // There is but one in the middle.
            Some(MIDDLE) => Self { place: MIDDLE, stem: "M".to_owned(), number: number.or(Some(0)) },
            Some(place) => Self { place, stem: STEMS[place].0.to_owned(), number },
            None => Self { place: OTHERS, stem: stem.replace('.', "_"), number },
        }
    }

    /// Whether it is part of a text encoder.
    pub fn is_text(&self) -> bool {
        self.place < TEXT
    }

    /// Its name without the number.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Its number among those of its stem.
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    /// What people call it in a model of this architecture.
    pub fn name(&self, architecture: Option<Architecture>) -> String {
        let (stem, wide) = match (self.place, architecture) {
            (DOUBLE, Some(Architecture::Sd3)) => ("J", true),
            (DOUBLE, Some(Architecture::Flux | Architecture::HunyuanVideo)) => ("D", true),
            (DOUBLE, _) => ("transformer_blocks", false),
            (place, _) => (self.stem.as_str(), place >= TEXT && place != OTHERS),
        };
        match self.number {
            Some(number) if wide => format!("{stem}{number:02}"),
            Some(number) => format!("{stem}.{number}"),
            None => stem.to_owned(),
        }
    }

    /// Blocks as people read them: neighbours as one range.
    pub fn list<'b>(
        blocks: impl IntoIterator<Item = &'b Self>,
        architecture: Option<Architecture>,
    ) -> String {
        let mut ranges: Vec<(&Self, &Self)> = Vec::new();
        for block in blocks {
            let follows = |last: &Self| {
                last.stem == block.stem
                    && last.number.is_some_and(|number| number.checked_add(1) == block.number)
            };
            match ranges.last_mut() {
                Some((_, last)) if follows(last) => *last = block,
                _ => ranges.push((block, block)),
            }
        }
        let range = |(first, last): (&Self, &Self)| match first == last {
            true => first.name(architecture),
            false => format!("{}-{}", first.name(architecture), last.name(architecture)),
        };
        ranges.into_iter().map(range).collect::<Vec<_>>().join(", ")
    }
}

impl Ord for Block {
    fn cmp(&self, other: &Self) -> Ordering {
        // What has no number stands before the blocks, but for the model's end.
        let order = |block: &Self| match block.number {
            None if block.place == LAST => u64::MAX,
            None => 0,
            Some(number) => u64::from(number) + 1,
        };
        (self.place, &self.stem, order(self)).cmp(&(other.place, &other.stem, order(other)))
    }
}

impl PartialOrd for Block {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The number behind `stem` at the start of a path, and what follows it.
fn numbered<'p>(path: &'p str, stem: &str) -> Option<(u32, &'p str)> {
    let rest = path.strip_prefix(stem)?.strip_prefix('_')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number = rest[..digits].parse().ok()?;
    let rest = &rest[digits..];
    (rest.is_empty() || rest.starts_with('_')).then(|| (number, rest.trim_start_matches('_')))
}

/// The first number in a path, and what stands before it.
fn first_number(path: &str) -> Option<(&str, u32)> {
    let mut at = 0;
    for part in path.split('_') {
        if let Ok(number) = part.parse() {
            return Some((path[..at].trim_end_matches('_'), number));
        }
        at += part.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::identify;
    use super::*;

    #[test]
    fn modules_are_in_the_blocks_that_extensions_count() {
        for (module, block) in [
            ("lora_unet_conv_in", "IN00"),
            ("lora_unet_down_blocks_0_resnets_0_conv1", "IN01"),
            ("lora_unet_down_blocks_1_attentions_0_proj_in", "IN04"),
            ("lora_unet_down_blocks_1_downsamplers_0_conv", "IN06"),
            ("lora_unet_input_blocks_4_1_proj_in", "IN04"),
            ("lora_unet_mid_block_attentions_0_proj_in", "M00"),
            ("lora_unet_middle_block_1_proj_in", "M00"),
            ("lora_unet_up_blocks_1_attentions_2_proj_in", "OUT05"),
            ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
            ("lora_unet_output_blocks_11_0_in_layers_2", "OUT11"),
            ("lora_unet_conv_out", "OUT"),
            ("lora_unet_out_2", "OUT"),
            ("lora_unet_time_embedding_linear_1", "TIME"),
            ("lora_te_text_model_encoder_layers_11_mlp_fc1", "te1.11"),
            ("lora_te2_text_model_encoder_layers_3_mlp_fc1", "te2.3"),
            ("lora_te1_text_projection", "te1"),
            ("diffusion_model.blocks.7.self_attn.q", "blocks.7"),
            ("lora_unet_emb", "emb"),
        ] {
            assert_eq!(Block::of(&identify(module)).name(None), block, "{module}");
        }
        let (flux, sd3) = (Some(Architecture::Flux), Some(Architecture::Sd3));
        for (module, architecture, block) in [
            ("diffusion_model.double_blocks.7.img_attn.qkv", flux, "D07"),
            ("transformer.transformer_blocks.7.attn.to_k", flux, "D07"),
            ("transformer.transformer_blocks.7.attn.to_k", sd3, "J07"),
            ("transformer.transformer_blocks.7.attn.to_k", None, "transformer_blocks.7"),
            ("diffusion_model.joint_blocks.3.x_block.attn.qkv", sd3, "J03"),
            ("lora_unet_single_blocks_37_linear1", flux, "S37"),
            ("transformer.single_transformer_blocks.37.attn.to_q", flux, "S37"),
            ("lora_unet_final_layer_linear", flux, "OUT"),
            ("lora_unet_final_layer_linear", sd3, "OUT"),
            ("lora_unet_img_in", flux, "IN"),
            ("lora_unet_guidance_in_in_layer", flux, "IN"),
            ("diffusion_model.x_embedder.proj", sd3, "IN"),
            ("lora_te2_encoder_block_4_layer_1_DenseReluDense_wi_0", flux, "t5.4"),
        ] {
            assert_eq!(Block::of(&identify(module)).name(architecture), block, "{module}");
        }
    }

    #[test]
    fn blocks_are_found_by_their_names_and_listed_as_ranges() {
        for (name, block) in [
            ("in4", "IN04"),
            ("MID", "M00"),
            ("m", "M00"),
            ("double_blocks.7", "D07"),
            ("D007", "D07"),
            ("joint_blocks_7", "D07"),
            ("transformer_blocks.7", "D07"),
            ("te1.3", "te1.3"),
            ("te1", "te1"),
            ("t5.2", "t5.2"),
            ("OUT", "OUT"),
            ("blocks.7", "blocks.7"),
        ] {
            assert_eq!(Block::named(name).name(Some(Architecture::Flux)), block, "{name}");
        }
        let mut blocks =
            ["OUT", "OUT03", "te1.1", "IN04", "te1.0", "IN05", "IN07", "M00", "TIME"].map(Block::named);
        blocks.sort();
        assert_eq!(Block::list(&blocks, None), "te1.0-te1.1, TIME, IN04-IN05, IN07, M00, OUT03, OUT");
    }
}
