//! How trainers spell what one suffix means: a tensor's name as a module and the suffix that the families know.
//!
//! The families know kohya's and LyCORIS' suffixes. PEFT, the several generations of diffusers, and trainers that go
//! by them have their own for low-rank factors, and PEFT may leave an adapter's name in the middle.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::family;
use super::lora::{BIAS, DOWN, MID, TRANSPOSED_FACTORS, UP};
use super::write::NewTensor;
use super::{Layer, Members};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, TensorView, encode};

/// Other spellings of low-rank factors.
const SPELLINGS: [(&str, &str); 12] = [
    (LETTERS[0], DOWN),
    (LETTERS[1], UP),
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

/// PEFT's, and diffusers' today.
const LETTERS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

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

/// A layer's tensors as PEFT, diffusers and others spell them: `lora_A` and `lora_B`, and no alpha where the scale is 1,
/// which it is for all readers then.
pub(crate) fn with_letters(tensors: Vec<NewTensor>) -> Vec<NewTensor> {
    let down = tensors.iter().find(|tensor| tensor.suffix == DOWN);
    let rank = down.map(|down| (down.shape[0], down.dtype));
    // Any other than this library would write back is kept, to be the same again under other names.
    let says_nothing = |tensor: &NewTensor| {
        let view = TensorView { dtype: tensor.dtype, shape: &tensor.shape, data: &tensor.data };
        tensor.suffix == ".alpha"
            && tensor.shape.is_empty()
            && rank
                .is_some_and(|(rank, dtype)| tensor.dtype == dtype && view.to_reals::<f64>() == [rank as f64])
    };
    let respelled = |tensor: NewTensor| NewTensor { suffix: lettered(tensor.suffix), ..tensor };
    tensors.into_iter().filter(|tensor| !says_nothing(tensor)).map(respelled).collect()
}

/// The alpha that a layer needs if its tensors are stored as they are: what a configuration says, or the rank for readers
/// that want one.
///
/// # Errors
/// A layer whose tensors alone don't say what it does.
pub(crate) fn kept_alpha(layer: &Layer, members: &Members<'_>, letters: bool) -> Result<Option<NewTensor>> {
    let lost = |what: &str| {
        Err(Error::unsupported(format!(
            "{what}; it can be stored in another format (--format lora, lokr, …)"
        )))
    };
    if TRANSPOSED_FACTORS.iter().any(|suffix| members.has(suffix)) {
        return lost("is of a weight that is stored inputs by outputs, which only its configuration says");
    }
    // A bias has that of its weight.
    if members.has(".alpha") || members.has(BIAS) {
        return Ok(None);
    }
    let Some(rank) = layer.rank else {
        return match layer.scale == 1.0 {
            true => Ok(None),
            false => lost("has a scale that only its configuration says"),
        };
    };
    let Some((_, factor)) = members.iter().find(|(_, view)| view.dtype.is_float()) else { return Ok(None) };
    if letters && layer.scale == 1.0 {
        return Ok(None);
    }
    let alpha = layer.scale * rank as f64;
    let mut data = Vec::new();
    let fits = encode(&[alpha], factor.dtype, &mut data).is_ok()
        && TensorView { dtype: factor.dtype, shape: &[], data: &data }.to_reals::<f64>() == [alpha];
    let dtype = if fits { factor.dtype } else { Dtype::F32 };
    if !fits {
        data.clear();
        encode(&[alpha], dtype, &mut data)?;
    }
    Ok(Some(NewTensor { suffix: ".alpha", shape: Vec::new(), dtype, data }))
}

/// A suffix as PEFT and diffusers spell it.
pub(crate) fn lettered(suffix: &'static str) -> &'static str {
    match suffix {
        DOWN => LETTERS[0],
        UP => LETTERS[1],
        _ => suffix,
    }
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
