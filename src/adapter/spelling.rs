//! How trainers spell what one suffix means: a tensor's name as a module and the suffix that the families know.
//!
//! The families know kohya's and LyCORIS' suffixes. PEFT, the several generations of diffusers, and trainers that go
//! by them have their own for low-rank factors, and PEFT may leave an adapter's name in the middle.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::family;
use super::lora::{BIAS, DOWN, MID, UP};

/// Other spellings of low-rank factors.
const SPELLINGS: [(&str, &str); 12] = [
    (".lora_A.weight", DOWN),
    (".lora_B.weight", UP),
    (".lora_A", DOWN),
    (".lora_B", UP),
    (".lora_B.bias", BIAS),
    (".lora.down.weight", DOWN),
    (".lora.mid.weight", MID),
    (".lora.up.weight", UP),
    (".lora_linear_layer.down.weight", DOWN),
    (".lora_linear_layer.up.weight", UP),
    (OLDEST[0], DOWN),
    (OLDEST[1], UP),
];

/// Those of diffusers' first attention processors.
const OLDEST: [&str; 2] = ["_lora.down.weight", "_lora.up.weight"];

/// XLabs' processors number the stream that a projection is of, which the module's name keeps.
const NUMBERED: [&str; 2] = ["_lora1", "_lora2"];

/// Module and suffix of a tensor's name.
pub(super) fn split(name: &str) -> Option<(String, &'static str)> {
    let whole = numbered(name).or_else(|| known(name));
    match whole {
        // The least that an ending can say.
        None | Some((_, ".weight")) => without_adapter(name).and_then(|name| known(&name)).or(whole),
        found => found,
    }
}

/// By the longest ending that is known.
fn known(name: &str) -> Option<(String, &'static str)> {
    static KNOWN: LazyLock<HashMap<&'static str, &'static str>> =
        LazyLock::new(|| family::suffixes().map(|suffix| (suffix, suffix)).chain(SPELLINGS).collect());
    // Every ending begins with a dot or with `_lora.`; the leftmost that is known is the longest.
    let begins = |at: &usize| name[*at..].starts_with('.') || name[*at..].starts_with("_lora.");
    let mut starts = name.char_indices().map(|(at, _)| at).filter(|at| *at > 0 && begins(at));
    starts.find_map(|at| Some((tidy(&name[..at], OLDEST.contains(&&name[at..])), *KNOWN.get(&name[at..])?)))
}

fn numbered(name: &str) -> Option<(String, &'static str)> {
    let (module, suffix) = [(".down.weight", DOWN), (".up.weight", UP)]
        .iter()
        .find_map(|(end, suffix)| Some((name.strip_suffix(end)?, *suffix)))?;
    NUMBERED.iter().any(|end| module.ends_with(end)).then(|| (tidy(module, false), suffix))
}

/// A name without the adapter's that PEFT's own state has: `….lora_A.default.weight`, `….hada_w1_a.default`.
fn without_adapter(name: &str) -> Option<String> {
    let (rest, end) =
        [".weight", ".bias", ""].iter().find_map(|end| Some((name.strip_suffix(end)?, *end)))?;
    let (rest, adapter) = rest.rsplit_once('.')?;
    let (_, factor) = rest.rsplit_once('.')?;
    let is_factor =
        ["lora_", "hada_", "lokr_", "oft_", "boft_", "ia3_"].iter().any(|word| factor.starts_with(word));
    (is_factor && !adapter.is_empty()).then(|| format!("{rest}{end}"))
}

/// A module without the processor that held its factors, and by the name that it has had since.
fn tidy(module: &str, oldest: bool) -> String {
    /// What the processors called the projections, and the model.
    const PROJECTIONS: [(&str, &str); 5] = [
        ("self_attn.to_q", "self_attn.q_proj"),
        ("self_attn.to_k", "self_attn.k_proj"),
        ("self_attn.to_v", "self_attn.v_proj"),
        ("self_attn.to_out", "self_attn.out_proj"),
        (".to_out", ".to_out.0"),
    ];
    let module = module.replace(".processor.", ".");
    let renamed =
        PROJECTIONS.iter().find_map(|(old, new)| Some(format!("{}{new}", module.strip_suffix(old)?)));
    renamed.filter(|_| oldest).unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_low_rank_factor_is_known() {
        for (name, module, suffix) in [
            ("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in", DOWN),
            ("unet.mid.attn1.to_q.lora_A.weight", "unet.mid.attn1.to_q", DOWN),
            ("unet.mid.attn1.to_q.lora_B.default.weight", "unet.mid.attn1.to_q", UP),
            ("blocks.0.attn.qkv.lora_A", "blocks.0.attn.qkv", DOWN),
            ("unet.mid.attn1.to_q.lora.up.weight", "unet.mid.attn1.to_q", UP),
            ("mid.attn1.processor.to_out_lora.down.weight", "mid.attn1.to_out.0", DOWN),
            (
                "text_encoder.layers.0.self_attn.to_out_lora.up.weight",
                "text_encoder.layers.0.self_attn.out_proj",
                UP,
            ),
            ("text_encoder.fc1.lora_linear_layer.down.weight", "text_encoder.fc1", DOWN),
            ("double_blocks.0.processor.qkv_lora2.up.weight", "double_blocks.0.qkv_lora2", UP),
            ("single_blocks.0.processor.qkv_lora.up.weight", "single_blocks.0.qkv", UP),
            ("base_model.model.fc.lora_B.style.bias", "base_model.model.fc", BIAS),
            ("base_model.model.fc.hada_w1_a.default", "base_model.model.fc", ".hada_w1_a"),
            ("base_model.model.fc.lokr_w2.default", "base_model.model.fc", ".lokr_w2"),
        ] {
            assert_eq!(split(name), Some((module.to_owned(), suffix)), "{name}");
        }
        for name in ["model.down.weight", "img_mlp.up.bias", "a.lora_C.weight"] {
            assert!(split(name).is_none_or(|(_, suffix)| suffix == ".weight"), "{name}");
        }
    }
}
