//! Layer names: which part of a model they speak of, and what a UNet's own naming tells about a kernel.

/// Tensors that live in adapter files without being layers: packed textual-inversion vectors and a marker.
pub(super) fn is_passenger(name: &str) -> bool {
    name.starts_with("bundle_emb.") || name == "lora_controlnet"
}

/// The block of the model that a module stands in, for summaries: its name up to the first number, so
/// `lora_unet_down_blocks_1_attentions_0_proj_in` is in `unet_down_blocks_1`.
pub fn block(module: &str) -> String {
    let path =
        module.strip_prefix("base_model.model.").or_else(|| module.strip_prefix("lora_")).unwrap_or(module);
    let mut parts = Vec::new();
    for part in path.split(['_', '.']) {
        parts.push(part);
        if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            return parts.join("_");
        }
    }
    parts.first().map_or_else(String::new, |&component| component.to_owned())
}

/// The kernel of a UNet's convolution by its name (both the diffusers and the SGM vocabulary), for flat
/// factors, which don't tell. Only what those UNets fix: attention projections are linear in some of them and
/// convolutions in others, so nothing is said of them.
pub fn unet_kernel(module: &str, cols: usize) -> Option<Vec<usize>> {
    const SPATIAL: [&str; 7] =
        ["conv1", "conv2", "conv_in", "conv_out", "samplers_0_conv", "in_layers_2", "out_layers_3"];
    const POINTWISE: [&str; 2] = ["conv_shortcut", "skip_connection"];
    let path = module.replace('.', "_");
    if !path.contains("unet") {
        return None;
    }
    let ends = |names: &[&str]| {
        names.iter().any(|name| {
            path.ends_with(&format!("_{name}")) || path.ends_with(name) && name.starts_with("samplers")
        })
    };
    if ends(&SPATIAL) && cols.is_multiple_of(9) {
        return Some(vec![3, 3]);
    }
    ends(&POINTWISE).then(|| vec![1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_names_up_to_their_number() {
        assert_eq!(block("lora_unet_down_blocks_1_attentions_0_proj_in"), "unet_down_blocks_1");
        assert_eq!(
            block("lora_te1_text_model_encoder_layers_11_mlp_fc1"),
            "te1_text_model_encoder_layers_11"
        );
        assert_eq!(block("diffusion_model.double_blocks.7.img_attn.qkv"), "diffusion_model_double_blocks_7");
        assert_eq!(block("lora_unet_conv_in"), "unet");
    }

    #[test]
    fn unet_convolutions_are_known_by_name() {
        let kernel = |name| unet_kernel(name, 288);
        assert_eq!(kernel("lora_unet_down_blocks_0_resnets_0_conv1"), Some(vec![3, 3]));
        assert_eq!(kernel("lora_unet_up_blocks_0_upsamplers_0_conv"), Some(vec![3, 3]));
        assert_eq!(kernel("lora_unet_input_blocks_4_0_skip_connection"), Some(vec![1, 1]));
        assert_eq!(kernel("lora_unet_mid_block_attentions_0_proj_in"), None);
        assert_eq!(kernel("lora_te_text_model_encoder_layers_0_conv1"), None);
        assert_eq!(unet_kernel("lora_unet_down_blocks_0_resnets_0_conv1", 32), None);
    }
}
