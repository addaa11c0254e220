//! The rules that bring a path into one vocabulary, and back out of it.
//!
//! The common vocabulary is diffusers' where modules correspond one to one. Where one side holds fused what the other
//! holds in parts (the queries, keys and values of an attention), it has a name of its own for the whole, and the
//! parts are rows of that. Paths have underscores for dots; `#` in a rule stands for a number.

use super::architecture::Architecture;
use super::name::{Component, Rows};

/// Whose words the paths of a file are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// That of the models' first authors: SGM for UNets; fused projections in transformers.
    Native,
    /// That of diffusers.
    Diffusers,
}

/// A module as its authors call it, and in the common vocabulary.
type Rule = (&'static str, &'static str);

const FLUX_BLOCKS: [Rule; 19] = [
    ("double_blocks.#.img_attn.qkv", "transformer_blocks.#.attn.qkv"),
    ("double_blocks.#.txt_attn.qkv", "transformer_blocks.#.attn.add_qkv"),
    ("double_blocks.#.img_attn.proj", "transformer_blocks.#.attn.to_out.0"),
    ("double_blocks.#.txt_attn.proj", "transformer_blocks.#.attn.to_add_out"),
    ("double_blocks.#.img_attn.norm.query_norm", "transformer_blocks.#.attn.norm_q"),
    ("double_blocks.#.img_attn.norm.key_norm", "transformer_blocks.#.attn.norm_k"),
    ("double_blocks.#.txt_attn.norm.query_norm", "transformer_blocks.#.attn.norm_added_q"),
    ("double_blocks.#.txt_attn.norm.key_norm", "transformer_blocks.#.attn.norm_added_k"),
    ("double_blocks.#.img_mlp.0", "transformer_blocks.#.ff.net.0.proj"),
    ("double_blocks.#.img_mlp.2", "transformer_blocks.#.ff.net.2"),
    ("double_blocks.#.txt_mlp.0", "transformer_blocks.#.ff_context.net.0.proj"),
    ("double_blocks.#.txt_mlp.2", "transformer_blocks.#.ff_context.net.2"),
    ("double_blocks.#.img_mod.lin", "transformer_blocks.#.norm1.linear"),
    ("double_blocks.#.txt_mod.lin", "transformer_blocks.#.norm1_context.linear"),
    ("single_blocks.#.linear1", "single_transformer_blocks.#.qkv_mlp"),
    ("single_blocks.#.linear2", "single_transformer_blocks.#.proj_out"),
    ("single_blocks.#.modulation.lin", "single_transformer_blocks.#.norm.linear"),
    ("single_blocks.#.norm.query_norm", "single_transformer_blocks.#.attn.norm_q"),
    ("single_blocks.#.norm.key_norm", "single_transformer_blocks.#.attn.norm_k"),
];

const FLUX_TOP: [Rule; 8] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
];

/// What Flux and SD3 call alike.
const FINAL: [Rule; 2] =
    [("final_layer.linear", "proj_out"), ("final_layer.adaLN_modulation.1", "norm_out.linear")];

/// Where Hunyuan Video's words aren't Flux's.
const HUNYUAN: [Rule; 7] = [
    ("double_blocks.#.img_mlp.fc1", "transformer_blocks.#.ff.net.0.proj"),
    ("double_blocks.#.img_mlp.fc2", "transformer_blocks.#.ff.net.2"),
    ("double_blocks.#.txt_mlp.fc1", "transformer_blocks.#.ff_context.net.0.proj"),
    ("double_blocks.#.txt_mlp.fc2", "transformer_blocks.#.ff_context.net.2"),
    ("double_blocks.#.img_mod.linear", "transformer_blocks.#.norm1.linear"),
    ("double_blocks.#.txt_mod.linear", "transformer_blocks.#.norm1_context.linear"),
    ("single_blocks.#.modulation.linear", "single_transformer_blocks.#.norm.linear"),
];

const SD3: [Rule; 17] = [
    ("joint_blocks.#.x_block.attn.qkv", "transformer_blocks.#.attn.qkv"),
    ("joint_blocks.#.context_block.attn.qkv", "transformer_blocks.#.attn.add_qkv"),
    ("joint_blocks.#.x_block.attn2.qkv", "transformer_blocks.#.attn2.qkv"),
    ("joint_blocks.#.x_block.attn.proj", "transformer_blocks.#.attn.to_out.0"),
    ("joint_blocks.#.x_block.attn2.proj", "transformer_blocks.#.attn2.to_out.0"),
    ("joint_blocks.#.context_block.attn.proj", "transformer_blocks.#.attn.to_add_out"),
    ("joint_blocks.#.x_block.mlp.fc1", "transformer_blocks.#.ff.net.0.proj"),
    ("joint_blocks.#.x_block.mlp.fc2", "transformer_blocks.#.ff.net.2"),
    ("joint_blocks.#.context_block.mlp.fc1", "transformer_blocks.#.ff_context.net.0.proj"),
    ("joint_blocks.#.context_block.mlp.fc2", "transformer_blocks.#.ff_context.net.2"),
    ("joint_blocks.#.x_block.adaLN_modulation.1", "transformer_blocks.#.norm1.linear"),
    ("joint_blocks.#.context_block.adaLN_modulation.1", "transformer_blocks.#.norm1_context.linear"),
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
];

/// What OpenCLIP calls its modules, and transformers.
const OPEN_CLIP: [Rule; 8] = [
    ("transformer.resblocks.#.attn.in_proj", "encoder.layers.#.self_attn.in_proj"),
    ("transformer.resblocks.#.attn.out_proj", "encoder.layers.#.self_attn.out_proj"),
    ("transformer.resblocks.#.ln_1", "encoder.layers.#.layer_norm1"),
    ("transformer.resblocks.#.ln_2", "encoder.layers.#.layer_norm2"),
    ("transformer.resblocks.#.mlp.c_fc", "encoder.layers.#.mlp.fc1"),
    ("transformer.resblocks.#.mlp.c_proj", "encoder.layers.#.mlp.fc2"),
    ("token_embedding", "embeddings.token_embedding"),
    ("ln_final", "final_layer_norm"),
];

/// A part of a module that others hold whole, or turned around.
type Part = (&'static str, &'static str, Rows);

const fn third(which: usize) -> Rows {
    Rows::part(which, 1, 3)
}

/// What diffusers holds in parts, with the words of its own for them.
const PARTS: [Part; 14] = [
    ("transformer_blocks.#.attn.to_q", "transformer_blocks.#.attn.qkv", third(0)),
    ("transformer_blocks.#.attn.to_k", "transformer_blocks.#.attn.qkv", third(1)),
    ("transformer_blocks.#.attn.to_v", "transformer_blocks.#.attn.qkv", third(2)),
    ("transformer_blocks.#.attn.add_q_proj", "transformer_blocks.#.attn.add_qkv", third(0)),
    ("transformer_blocks.#.attn.add_k_proj", "transformer_blocks.#.attn.add_qkv", third(1)),
    ("transformer_blocks.#.attn.add_v_proj", "transformer_blocks.#.attn.add_qkv", third(2)),
    ("transformer_blocks.#.attn2.to_q", "transformer_blocks.#.attn2.qkv", third(0)),
    ("transformer_blocks.#.attn2.to_k", "transformer_blocks.#.attn2.qkv", third(1)),
    ("transformer_blocks.#.attn2.to_v", "transformer_blocks.#.attn2.qkv", third(2)),
    ("single_transformer_blocks.#.attn.to_q", "single_transformer_blocks.#.qkv_mlp", Rows::part(0, 1, 7)),
    ("single_transformer_blocks.#.attn.to_k", "single_transformer_blocks.#.qkv_mlp", Rows::part(1, 1, 7)),
    ("single_transformer_blocks.#.attn.to_v", "single_transformer_blocks.#.qkv_mlp", Rows::part(2, 1, 7)),
    ("single_transformer_blocks.#.proj_mlp", "single_transformer_blocks.#.qkv_mlp", Rows::part(3, 4, 7)),
    ("norm_out.linear", "norm_out.linear", Rows::SWAPPED),
];

/// What transformers' CLIP holds in parts.
const CLIP_PARTS: [Part; 3] = [
    ("encoder.layers.#.self_attn.q_proj", "encoder.layers.#.self_attn.in_proj", third(0)),
    ("encoder.layers.#.self_attn.k_proj", "encoder.layers.#.self_attn.in_proj", third(1)),
    ("encoder.layers.#.self_attn.v_proj", "encoder.layers.#.self_attn.in_proj", third(2)),
];

/// What XLabs' trainer calls the projections of Flux; only read.
const XLABS: [Part; 8] = [
    ("double_blocks.#.qkv_lora1", "transformer_blocks.#.attn.qkv", Rows::WHOLE),
    ("double_blocks.#.qkv_lora2", "transformer_blocks.#.attn.add_qkv", Rows::WHOLE),
    ("double_blocks.#.proj_lora1", "transformer_blocks.#.attn.to_out.0", Rows::WHOLE),
    ("double_blocks.#.proj_lora2", "transformer_blocks.#.attn.to_add_out", Rows::WHOLE),
    ("single_blocks.#.qkv_lora", "single_transformer_blocks.#.qkv_mlp", Rows::part(0, 3, 7)),
    ("single_blocks.#.qkv", "single_transformer_blocks.#.qkv_mlp", Rows::part(0, 3, 7)),
    ("single_blocks.#.proj_lora", "single_transformer_blocks.#.proj_out", Rows::WHOLE),
    ("single_blocks.#.proj", "single_transformer_blocks.#.proj_out", Rows::WHOLE),
];

/// Whether a path is one of T5's.
pub(super) fn is_t5(path: &str) -> bool {
    path.starts_with("encoder_block_") || matches!(path, "encoder_final_layer_norm" | "shared")
}

/// Whether a path without a component's name is one of CLIP's.
pub(super) fn is_clip(path: &str) -> bool {
    path.starts_with("text_model_")
}

/// Whether it is the norm of the second stream that SD3's last block has smaller, as diffusers calls it.
pub(super) fn is_final_context(path: &str) -> bool {
    rewrite(path, "transformer_blocks.#.norm1_context.linear", "").is_some()
}

/// `path` in the common vocabulary, and which rows of that it is.
pub(super) fn canonical(component: Component, path: String) -> (String, Rows) {
    let one = |rule: &Rule| Some((rewrite(&path, rule.0, rule.1)?, Rows::WHOLE));
    let part = |part: &Part| Some((rewrite(&path, part.0, part.1)?, part.2));
    let found = match component {
        Component::Denoiser => sgm_to_diffusers(&path).map(|path| (path, Rows::WHOLE)).or_else(|| {
            let native = [&FLUX_BLOCKS[..], &FLUX_TOP, &FINAL, &HUNYUAN, &SD3];
            let native = native.into_iter().flatten().find_map(one);
            native.or_else(|| PARTS.iter().chain(&XLABS).find_map(part))
        }),
        Component::ClipL | Component::ClipG => {
            OPEN_CLIP.iter().find_map(one).or_else(|| CLIP_PARTS.iter().find_map(part))
        }
        Component::T5 | Component::Other => None,
    };
    found.unwrap_or((path, Rows::WHOLE))
}

/// Whose words a path in a file's own spelling is made of, if that makes a difference.
pub(super) fn vocabulary(
    component: Component,
    own: &str,
    architecture: Option<Architecture>,
) -> Option<Vocabulary> {
    let (path, rows) = canonical(component, own.to_owned());
    let is =
        |vocabulary| spelled(component, &path, vocabulary, architecture).contains(&(own.to_owned(), rows));
    match (component, is(Vocabulary::Native), is(Vocabulary::Diffusers)) {
        (Component::Denoiser, true, false) => Some(Vocabulary::Native),
        (Component::Denoiser, false, true) => Some(Vocabulary::Diffusers),
        _ => None,
    }
}

/// Whether a path of the common vocabulary is in a UNet of Stable Diffusion.
pub(super) fn is_unet(path: &str) -> bool {
    ["down_blocks_", "mid_block_", "up_blocks_"].iter().any(|word| path.starts_with(word))
        || TOP.iter().any(|(_, diffusers)| *diffusers == path)
}

/// The names of the modules that make up `path` of the common vocabulary, and which rows of it each is.
pub(super) fn spelled(
    component: Component,
    path: &str,
    vocabulary: Vocabulary,
    architecture: Option<Architecture>,
) -> Vec<(String, Rows)> {
    let parts = |parts: &[Part]| -> Vec<(String, Rows)> {
        parts.iter().filter_map(|part| Some((rewrite(path, part.1, part.0)?, part.2))).collect()
    };
    let one = |rule: &Rule| rewrite(path, rule.1, rule.0);
    let found = match (component, vocabulary) {
        (Component::Denoiser, Vocabulary::Diffusers) => parts(&PARTS),
        (Component::Denoiser, Vocabulary::Native) => {
            let native: &[&[Rule]] = match architecture {
                Some(Architecture::Flux) => &[&FLUX_BLOCKS, &FLUX_TOP, &FINAL],
                // Its words first; the others are Flux's.
                Some(Architecture::HunyuanVideo) => &[&HUNYUAN, &FLUX_BLOCKS],
                Some(Architecture::Sd3) => &[&SD3, &FINAL],
                _ => &[],
            };
            let native = native.iter().copied().flatten().find_map(one);
            let native = native.or_else(|| diffusers_to_sgm(path, architecture));
            // Where the authors use diffusers' words, they have its parts, too.
            native.map_or_else(|| parts(&PARTS), |path| vec![(path, Rows::WHOLE)])
        }
        (Component::ClipL | Component::ClipG, _) => parts(&CLIP_PARTS),
        (Component::T5 | Component::Other, _) => Vec::new(),
    };
    if found.is_empty() { vec![(path.to_owned(), Rows::WHOLE)] } else { found }
}

/// `path` by the pattern `to`, if it fits the pattern `from`.
fn rewrite(path: &str, from: &str, to: &str) -> Option<String> {
    let (from, to) = (from.replace('.', "_"), to.replace('.', "_"));
    let Some((start, end)) = from.split_once('#') else {
        return (path == from).then_some(to);
    };
    let number = path.strip_prefix(start)?.strip_suffix(end)?;
    is_number(number).then(|| to.replace('#', number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Modules of a UNet that stand in no block: SGM's name and diffusers'.
const TOP: [(&str, &str); 7] = [
    ("input_blocks_0_0", "conv_in"),
    ("out_0", "conv_norm_out"),
    ("out_2", "conv_out"),
    ("time_embed_0", "time_embedding_linear_1"),
    ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"),
    ("label_emb_0_2", "add_embedding_linear_2"),
];

/// Modules of a residual block: SGM's name and diffusers'. All others have the same name in both.
const RESNET: [(&str, &str); 6] = [
    ("in_layers_0", "norm1"),
    ("in_layers_2", "conv1"),
    ("emb_layers_1", "time_emb_proj"),
    ("out_layers_0", "norm2"),
    ("out_layers_3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// SD's UNets have two residual blocks, each with an attention or without, and a sampler to a level.
const LEVEL: usize = 3;

/// A UNet's module in diffusers' words, if it is in SGM's.
fn sgm_to_diffusers(path: &str) -> Option<String> {
    if let Some((_, diffusers)) = TOP.iter().find(|(sgm, _)| *sgm == path) {
        return Some((*diffusers).to_owned());
    }
    let resnet =
        |rest: &str| RESNET.iter().find(|(sgm, _)| *sgm == rest).map_or(rest.to_owned(), |r| r.1.to_owned());
    let inner = |block: &str, j: usize, k: usize, rest: &str| match k {
        0 => format!("{block}_resnets_{j}_{}", resnet(rest)),
        _ => format!("{block}_attentions_{j}_{rest}"),
    };
    if let Some((n, k, rest)) = path.strip_prefix("input_blocks_").and_then(two_numbers) {
        let (i, j) = ((n.checked_sub(1)?) / LEVEL, (n - 1) % LEVEL);
        return match (j, k, rest) {
            (2, 0, "op") => Some(format!("down_blocks_{i}_downsamplers_0_conv")),
            (0 | 1, 0 | 1, _) => Some(inner(&format!("down_blocks_{i}"), j, k, rest)),
            _ => None,
        };
    }
    if let Some((n, k, rest)) = path.strip_prefix("output_blocks_").and_then(two_numbers) {
        let (i, j) = (n / LEVEL, n % LEVEL);
        return match (j, k, rest) {
            (2, 1 | 2, "conv") => Some(format!("up_blocks_{i}_upsamplers_0_conv")),
            (_, 0 | 1, _) => Some(inner(&format!("up_blocks_{i}"), j, k, rest)),
            _ => None,
        };
    }
    let (k, rest) = one_number(path.strip_prefix("middle_block_")?)?;
    match k {
        0 | 2 => Some(inner("mid_block", k / 2, 0, rest)),
        1 => Some(inner("mid_block", 0, 1, rest)),
        _ => None,
    }
}

/// A UNet's module in SGM's words, if it is one in diffusers'.
fn diffusers_to_sgm(path: &str, architecture: Option<Architecture>) -> Option<String> {
    if let Some((sgm, _)) = TOP.iter().find(|(_, diffusers)| *diffusers == path) {
        return Some((*sgm).to_owned());
    }
    let resnet =
        |rest: &str| RESNET.iter().find(|(_, d)| *d == rest).map_or(rest.to_owned(), |r| r.0.to_owned());
    if let Some((i, rest)) = path.strip_prefix("down_blocks_").and_then(one_number) {
        if rest == "downsamplers_0_conv" {
            return Some(format!("input_blocks_{}_0_op", LEVEL * i + LEVEL));
        }
        let (kind, j, rest) = block(rest)?;
        let n = LEVEL * i + j + 1;
        return Some(match kind {
            0 => format!("input_blocks_{n}_0_{}", resnet(rest)),
            _ => format!("input_blocks_{n}_1_{rest}"),
        });
    }
    if let Some((i, rest)) = path.strip_prefix("up_blocks_").and_then(one_number) {
        if rest == "upsamplers_0_conv" {
            // It stands after the attention, which the lowest level of the older models hasn't.
            let older = matches!(architecture, Some(Architecture::Sd1 | Architecture::Sd2));
            let k = if older && i == 0 { 1 } else { 2 };
            return Some(format!("output_blocks_{}_{k}_conv", LEVEL * i + LEVEL - 1));
        }
        let (kind, j, rest) = block(rest)?;
        let n = LEVEL * i + j;
        return Some(match kind {
            0 => format!("output_blocks_{n}_0_{}", resnet(rest)),
            _ => format!("output_blocks_{n}_1_{rest}"),
        });
    }
    let (kind, j, rest) = block(path.strip_prefix("mid_block_")?)?;
    Some(match kind {
        0 => format!("middle_block_{}_{}", 2 * j, resnet(rest)),
        _ => format!("middle_block_1_{rest}"),
    })
}

/// Residual block (0) or attention (1), its number, and what is inside.
fn block(path: &str) -> Option<(usize, usize, &str)> {
    let (kind, rest) = [(0, "resnets_"), (1, "attentions_")]
        .into_iter()
        .find_map(|(kind, word)| Some((kind, path.strip_prefix(word)?)))?;
    let (j, rest) = one_number(rest)?;
    Some((kind, j, rest))
}

/// `4_rest`
fn one_number(path: &str) -> Option<(usize, &str)> {
    let (number, rest) = path.split_once('_')?;
    // No model has as many blocks as would overflow anything here.
    Some((number.parse::<u16>().ok()?.into(), rest))
}

/// `4_1_rest`
fn two_numbers(path: &str) -> Option<(usize, usize, &str)> {
    let (n, rest) = one_number(path)?;
    let (k, rest) = one_number(rest)?;
    Some((n, k, rest))
}
