//! What a module's name means: which part of which component of a model.

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

/// Prefixes of modules, and the component that they stand for; the longest that fits counts.
const PREFIXES: [(&str, Component); 13] = [
    ("lora_unet_", Component::Denoiser),
    ("oft_unet_", Component::Denoiser),
    ("model_diffusion_model_", Component::Denoiser),
    ("diffusion_model_", Component::Denoiser),
    ("unet_", Component::Denoiser),
    ("transformer_", Component::Denoiser),
    ("lora_te1_", Component::ClipL),
    ("lora_te_", Component::ClipL),
    ("lora_te2_", Component::ClipG),
    ("cond_stage_model_transformer_", Component::ClipL),
    ("conditioner_embedders_0_transformer_", Component::ClipL),
    ("conditioner_embedders_1_model_", Component::ClipG),
    ("first_stage_model_", Component::Other),
];

/// The module that a name stands for: of an adapter's layer, or a checkpoint's parameter without `.weight`.
pub fn identify(module: &str) -> Identity {
    let name = module.replace('.', "_");
    let fitting = PREFIXES.iter().filter(|(prefix, _)| name.starts_with(prefix));
    let (prefix, component) =
        fitting.max_by_key(|(prefix, _)| prefix.len()).copied().unwrap_or(("", Component::Denoiser));
    Identity { component, path: name[prefix.len()..].to_owned(), rows: Rows::WHOLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_module_have_one_identity() {
        let kohya = identify("lora_unet_down_blocks_1_attentions_0_proj_in");
        assert_eq!(kohya, identify("down_blocks.1.attentions.0.proj_in"));
        assert_eq!(kohya, identify("unet.down_blocks.1.attentions.0.proj_in"));
        assert_ne!(kohya, identify("lora_te_down_blocks_1_attentions_0_proj_in"));
    }
}
