//! Layer names: what is no layer, and what a UNet's own naming tells about a kernel.

/// Tensors that live in adapter files without being layers: packed textual-inversion vectors and a marker.
pub(super) fn is_passenger(name: &str) -> bool {
    name.starts_with("bundle_emb.") || name == "lora_controlnet"
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
