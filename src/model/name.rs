//! What a module's name means: which part of which component of a model.
//!
//! A name is wrappers, a prefix that says the component, and a path: `base_model.model.`, `lora_te1_`, `text_model.…`.
//! The path is looked at with underscores for dots, so that dotted spellings and those of kohya's trainers agree, and
//! [`rules`](super::rules) bring it into one vocabulary.

use super::rules;

/// The network of a model that a module belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The network that denoises: a UNet, or a transformer.
    Denoiser,
    /// CLIP-L, or the only text encoder.
    ClipL,
    /// CLIP-G.
    ClipG,
    /// T5.
    T5,
    /// Anything else, such as a VAE.
    Other,
}

/// Which outputs of a fused weight a module stands for, in units that all parts of it are multiples of: the queries of
/// a fused attention are unit 0 of 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rows {
    /// The first unit.
    pub start: usize,
    /// How many units.
    pub len: usize,
    /// The units of the whole weight.
    pub of: usize,
    /// Whether the two halves of the outputs stand in the other order.
    pub swapped: bool,
}

impl Rows {
    /// All of a weight.
    pub const WHOLE: Self = Self { start: 0, len: 1, of: 1, swapped: false };
    /// All of a weight, the halves of its outputs in the other order.
    pub const SWAPPED: Self = Self { swapped: true, ..Self::WHOLE };

    /// Units that every part is made of: those of fused weights in three and in seven parts.
    pub(crate) const UNITS: usize = 21;

    /// Whether one of [`UNITS`](Self::UNITS) equal parts of the weight is among them.
    pub(crate) fn has(self, unit: usize) -> bool {
        (self.start * Self::UNITS..(self.start + self.len) * Self::UNITS).contains(&(unit * self.of))
    }

    /// Whether they have outputs in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start * other.of < (other.start + other.len) * self.of
            && other.start * self.of < (self.start + self.len) * other.of
    }

    /// `len` units from `start` of `of`.
    pub(super) const fn part(start: usize, len: usize, of: usize) -> Self {
        Self { start, len, of, swapped: false }
    }
}

/// One module of a model, whatever a file calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The network.
    pub component: Component,
    /// Its path in the network's own vocabulary, with underscores for dots.
    pub path: String,
    /// Which outputs of it.
    pub rows: Rows,
}

/// What a prefix says of the component.
#[derive(Clone, Copy)]
enum Says {
    This(Component),
    /// A text encoder: T5 if the path is one of T5's, whatever its number.
    Text(Component),
    /// Nothing: a trainer's or a library's wrapper, and the path tells.
    Nothing,
}

use Says::{Nothing, Text, This};

/// Beginnings of names, with underscores for dots. The longest that fits counts, and another may follow a wrapper.
const PREFIXES: [(&str, Says); 37] = [
    ("base_model_model_", Nothing),
    ("module_", Nothing),
    ("lycoris_", Nothing),
    ("lora_unet_", This(Component::Denoiser)),
    ("lora_unet__", This(Component::Denoiser)),
    ("lora_transformer_", This(Component::Denoiser)),
    ("lora_prior_unet_", This(Component::Denoiser)),
    ("oft_unet_", This(Component::Denoiser)),
    ("unet_", This(Component::Denoiser)),
    ("transformer_", This(Component::Denoiser)),
    ("prior_", This(Component::Denoiser)),
    // Wan's second network.
    ("transformer_2_", This(Component::Other)),
    ("diffusion_model_", This(Component::Denoiser)),
    ("model_diffusion_model_", This(Component::Denoiser)),
    ("lora_te_", Text(Component::ClipL)),
    ("lora_te1_", Text(Component::ClipL)),
    ("lora_te2_", Text(Component::ClipG)),
    ("lora_te3_", Text(Component::T5)),
    ("lora_prior_te_", Text(Component::ClipG)),
    ("oft_te_", Text(Component::ClipL)),
    ("oft_te1_", Text(Component::ClipL)),
    ("oft_te2_", Text(Component::ClipG)),
    ("text_encoder_", Text(Component::ClipL)),
    ("text_encoder_2_", Text(Component::ClipG)),
    ("text_encoder_3_", Text(Component::T5)),
    ("text_encoders_", This(Component::Other)),
    ("text_encoders_clip_l_transformer_", Text(Component::ClipL)),
    ("text_encoders_clip_g_transformer_", Text(Component::ClipG)),
    ("text_encoders_t5xxl_transformer_", Text(Component::T5)),
    ("text_encoders_t5base_transformer_", Text(Component::T5)),
    ("cond_stage_model_transformer_", Text(Component::ClipL)),
    ("cond_stage_model_model_", Text(Component::ClipL)),
    ("conditioner_embedders_0_transformer_", Text(Component::ClipL)),
    // The refiner has CLIP-G alone.
    ("conditioner_embedders_0_model_", Text(Component::ClipG)),
    ("conditioner_embedders_1_model_", Text(Component::ClipG)),
    ("first_stage_model_", This(Component::Other)),
    ("vae_", This(Component::Other)),
];

/// Parts of names that libraries put around modules.
const WRAPPERS: [&str; 4] = ["_orig_mod.", "_fsdp_wrapped_module.", "processor.", "base_layer."];

/// A name taken apart.
pub(super) struct Parsed {
    pub(super) component: Component,
    /// The path in the file's own vocabulary, with underscores for dots.
    pub(super) path: String,
    /// How much of the name stands before the path, if the path is the end of the name.
    pub(super) prefix: Option<usize>,
}

/// Takes a name apart.
pub(super) fn parse(module: &str) -> Parsed {
    let mut name = format!("{module}.");
    for wrapper in WRAPPERS {
        name = name.replace(&format!(".{wrapper}"), ".");
        name = name.strip_prefix(wrapper).map_or(name.clone(), str::to_owned);
    }
    name.pop();
    let name = name.replace('.', "_").replace("_processor_", "_");
    let (mut rest, mut says) = (name.as_str(), Nothing);
    while let Nothing = says {
        // A model's own `transformer_blocks` is no prefix.
        let fits = |prefix: &str| rest.starts_with(prefix) && !rest.starts_with("transformer_blocks_");
        let fitting = PREFIXES.iter().filter(|(prefix, _)| fits(prefix));
        let Some((prefix, found)) = fitting.max_by_key(|(prefix, _)| prefix.len()) else { break };
        (rest, says) = (&rest[prefix.len()..], *found);
    }
    // Some wrap the model that a component holds.
    rest = rest.strip_prefix("base_model_model_").unwrap_or(rest);
    let component = match says {
        This(component) => component,
        Text(_) if rules::is_t5(rest) => Component::T5,
        Text(component) => component,
        Nothing if rules::is_t5(rest) => Component::T5,
        Nothing if rules::is_clip(rest) => Component::ClipL,
        Nothing => Component::Denoiser,
    };
    if matches!(component, Component::ClipL | Component::ClipG) {
        // Newer versions of the encoders' library have one level less.
        rest = rest.strip_prefix("text_model_").unwrap_or(rest);
    }
    let is_end = module.len() >= rest.len() && module.is_char_boundary(module.len() - rest.len());
    let prefix = is_end.then(|| module.len() - rest.len());
    let prefix = prefix.filter(|at| module[*at..].replace('.', "_") == rest);
    Parsed { component, path: rest.to_owned(), prefix }
}

/// The module that a name stands for: of an adapter's layer, or a checkpoint's parameter without `.weight`.
pub fn identify(module: &str) -> Identity {
    let Parsed { component, path, .. } = parse(module);
    let (path, rows) = rules::canonical(component, path);
    Identity { component, path, rows }
}

/// The same, of a module whose weight is known to be `rows` × `cols`: there are names that don't tell it all.
pub fn identify_shaped(module: &str, rows: usize, cols: usize) -> Identity {
    let mut found = identify(module);
    // The last block of SD3 has a shift and a scale only, in diffusers' order where diffusers names it.
    if rows == 2 * cols && rules::is_final_context(&parse(module).path) {
        found.rows = Rows::SWAPPED;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(names: &[&str]) -> Identity {
        let first = identify(names[0]);
        for name in names {
            assert_eq!(identify(name), first, "{name} and {}", names[0]);
        }
        first
    }

    #[test]
    fn spellings_of_one_module_have_one_identity() {
        let kohya = same(&[
            "lora_unet_down_blocks_1_attentions_0_proj_in",
            "lora_unet_input_blocks_4_1_proj_in",
            "down_blocks.1.attentions.0.proj_in",
            "unet.down_blocks.1.attentions.0.proj_in",
            "lycoris_down_blocks_1_attentions_0_proj_in",
            "oft_unet_down_blocks_1_attentions_0_proj_in",
            "base_model.model.down_blocks.1.attentions.0.proj_in",
            "unet.base_model.model.down_blocks.1.attentions.0.proj_in",
            "base_model.model._orig_mod.down_blocks.1.attentions.0.proj_in.base_layer",
            "diffusion_model.input_blocks.4.1.proj_in",
            "model.diffusion_model.input_blocks.4.1.proj_in",
        ]);
        assert_eq!(kohya.path, "down_blocks_1_attentions_0_proj_in");
        assert_ne!(kohya, identify("lora_te_down_blocks_1_attentions_0_proj_in"));
    }

    #[test]
    fn text_encoders_are_told_by_their_paths_and_not_by_their_numbers() {
        let clip = same(&[
            "lora_te_text_model_encoder_layers_3_self_attn_k_proj",
            "lora_te1_text_model_encoder_layers_3_self_attn_k_proj",
            "text_encoder.text_model.encoder.layers.3.self_attn.k_proj",
            "text_encoder.encoder.layers.3.self_attn.k_proj",
            "base_model.model.text_model.encoder.layers.3.self_attn.k_proj",
            "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.k_proj",
            "cond_stage_model.transformer.text_model.encoder.layers.3.self_attn.k_proj",
            "conditioner.embedders.0.transformer.text_model.encoder.layers.3.self_attn.k_proj",
        ]);
        assert_eq!((clip.component, clip.rows), (Component::ClipL, Rows::part(1, 1, 3)));
        let fused = same(&[
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj",
            "conditioner.embedders.0.model.transformer.resblocks.3.attn.in_proj",
        ]);
        let part = identify("lora_te2_text_model_encoder_layers_3_self_attn_k_proj");
        assert_eq!(Identity { rows: Rows::WHOLE, ..part }, fused);
        same(&[
            "conditioner.embedders.1.model.transformer.resblocks.3.mlp.c_proj",
            "text_encoder_2.text_model.encoder.layers.3.mlp.fc2",
        ]);
        let t5 = same(&[
            "lora_te2_encoder_block_4_layer_1_DenseReluDense_wi_0",
            "lora_te3_encoder_block_4_layer_1_DenseReluDense_wi_0",
            "text_encoder_2.encoder.block.4.layer.1.DenseReluDense.wi_0",
            "text_encoders.t5xxl.transformer.encoder.block.4.layer.1.DenseReluDense.wi_0",
        ]);
        assert_eq!(t5.component, Component::T5);
    }

    #[test]
    fn transformers_have_one_identity_in_both_vocabularies() {
        same(&[
            "lora_unet_double_blocks_7_img_mlp_0",
            "transformer.transformer_blocks.7.ff.net.0.proj",
            "transformer_blocks.7.ff.net.0.proj",
            "lora_transformer_transformer_blocks_7_ff_net_0_proj",
            "lora_unet_double_blocks_7_img_mlp_fc1",
            "joint_blocks.7.x_block.mlp.fc1",
        ]);
        let whole = same(&["lora_unet_single_blocks_7_linear1", "diffusion_model.single_blocks.7.linear1"]);
        for (name, rows) in [
            ("transformer.single_transformer_blocks.7.attn.to_k", Rows::part(1, 1, 7)),
            ("transformer.single_transformer_blocks.7.proj_mlp", Rows::part(3, 4, 7)),
            ("single_blocks.7.processor.qkv_lora", Rows::part(0, 3, 7)),
            ("single_blocks.7.qkv", Rows::part(0, 3, 7)),
        ] {
            assert_eq!(identify(name), Identity { rows, ..whole.clone() }, "{name}");
        }
        same(&["double_blocks.7.processor.proj_lora2", "transformer.transformer_blocks.7.attn.to_add_out"]);
        let native = identify("lora_unet_final_layer_adaLN_modulation_1");
        assert_eq!(identify("transformer.norm_out.linear"), Identity { rows: Rows::SWAPPED, ..native });
        let context = "transformer.transformer_blocks.23.norm1_context.linear";
        assert_eq!(identify_shaped(context, 3072, 1536).rows, Rows::SWAPPED);
        assert_eq!(identify_shaped(context, 9216, 1536).rows, Rows::WHOLE);
        assert_eq!(
            identify_shaped("joint_blocks.23.context_block.adaLN_modulation.1", 3072, 1536).rows,
            Rows::WHOLE
        );
    }

    #[test]
    fn names_without_a_rule_are_their_paths() {
        same(&[
            "lora_unet_blocks_0_self_attn_q",
            "diffusion_model.blocks.0.self_attn.q",
            "lora_unet__blocks_0_self_attn_q",
        ]);
        assert_eq!(identify("lora_unet_blocks_0_self_attn_q").path, "blocks_0_self_attn_q");
    }
}
