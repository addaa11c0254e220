//! Every module of SDXL's UNet in both vocabularies, made from how the models are built, to test the rules with.

use std::collections::BTreeSet;

use super::architecture::{Architecture, Sureness, architecture};
use super::name::{Component, Identity, Rows, identify};
use super::rules::{Vocabulary, spelled};
use super::words::dotted;

/// A level of a UNet: blocks with an attention of so many transformer blocks, or none.
struct Shape {
    down: &'static [usize],
    middle: usize,
    up: &'static [usize],
    /// Whether there is a second embedding.
    added: bool,
}

const SDXL: Shape = Shape { down: &[0, 2, 10], middle: 10, up: &[10, 2, 0], added: true };
const SD1: Shape = Shape { down: &[1, 1, 1, 0], middle: 1, up: &[0, 1, 1, 1], added: false };

/// Pairs of SGM's name and diffusers'.
fn modules(shape: &Shape) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |sgm: &str, diffusers: &str| all.push((sgm.to_owned(), diffusers.to_owned()));
    add("input_blocks.0.0", "conv_in");
    add("out.0", "conv_norm_out");
    add("out.2", "conv_out");
    for (at, n) in [(0, 1), (2, 2)] {
        add(&format!("time_embed.{at}"), &format!("time_embedding.linear_{n}"));
        if shape.added {
            add(&format!("label_emb.0.{at}"), &format!("add_embedding.linear_{n}"));
        }
    }
    let mut resnet = |sgm: &str, diffusers: &str, shortcut: bool| {
        let inner = [("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj")];
        let inner = inner.into_iter().chain([("out_layers.0", "norm2"), ("out_layers.3", "conv2")]);
        for (a, b) in inner.chain(shortcut.then_some(("skip_connection", "conv_shortcut"))) {
            add(&format!("{sgm}.{a}"), &format!("{diffusers}.{b}"));
        }
    };
    let levels = shape.down.len();
    for i in 0..levels {
        for j in 0..2 {
            let shortcut = j == 0 && i > 0 && i < 3;
            resnet(
                &format!("input_blocks.{}.0", 1 + 3 * i + j),
                &format!("down_blocks.{i}.resnets.{j}"),
                shortcut,
            );
        }
        for j in 0..3 {
            resnet(&format!("output_blocks.{}.0", 3 * i + j), &format!("up_blocks.{i}.resnets.{j}"), true);
        }
    }
    for j in 0..2 {
        resnet(&format!("middle_block.{}", 2 * j), &format!("mid_block.resnets.{j}"), false);
    }
    let mut attention = |sgm: String, diffusers: String, depth: usize| {
        let mut inner = Vec::new();
        for t in 0..depth {
            for attn in ["attn1", "attn2"] {
                inner.extend(
                    ["to_q", "to_k", "to_v", "to_out.0"]
                        .map(|to| format!("transformer_blocks.{t}.{attn}.{to}")),
                );
            }
            let rest = ["ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"];
            inner.extend(rest.map(|name| format!("transformer_blocks.{t}.{name}")));
        }
        if depth > 0 {
            inner.extend(["norm", "proj_in", "proj_out"].map(str::to_owned));
        }
        inner.iter().for_each(|name| all.push((format!("{sgm}.{name}"), format!("{diffusers}.{name}"))));
    };
    for i in 0..levels {
        for j in 0..2 {
            let sgm = format!("input_blocks.{}.1", 1 + 3 * i + j);
            attention(sgm, format!("down_blocks.{i}.attentions.{j}"), shape.down[i]);
        }
        for j in 0..3 {
            let sgm = format!("output_blocks.{}.1", 3 * i + j);
            attention(sgm, format!("up_blocks.{i}.attentions.{j}"), shape.up[i]);
        }
    }
    attention("middle_block.1".to_owned(), "mid_block.attentions.0".to_owned(), shape.middle);
    for i in 0..levels - 1 {
        let down = format!("down_blocks.{i}.downsamplers.0.conv");
        all.push((format!("input_blocks.{}.0.op", 3 + 3 * i), down));
        let k = if shape.up[i] == 0 { 1 } else { 2 };
        all.push((
            format!("output_blocks.{}.{k}.conv", 2 + 3 * i),
            format!("up_blocks.{i}.upsamplers.0.conv"),
        ));
    }
    all
}

#[test]
fn every_module_of_a_unet_has_one_identity_in_both_vocabularies_and_no_two_have_the_same() {
    for (shape, count, architecture) in [(SDXL, 1050, Architecture::Sdxl), (SD1, 391, Architecture::Sd1)] {
        let modules = modules(&shape);
        let mut identities = BTreeSet::new();
        for (sgm, diffusers) in &modules {
            let identity = identify(&format!("unet.{diffusers}"));
            for prefix in ["lora_unet_", "diffusion_model_"] {
                assert_eq!(identify(&format!("{prefix}{}", sgm.replace('.', "_"))), identity, "{sgm}");
            }
            for (vocabulary, name) in [(Vocabulary::Native, sgm), (Vocabulary::Diffusers, diffusers)] {
                let back = spelled(Component::Denoiser, &identity.path, vocabulary, Some(architecture));
                assert_eq!(back, [(name.replace('.', "_"), Rows::WHOLE)]);
                assert_eq!(dotted(&back[0].0).as_ref(), Some(name));
            }
            identities.insert(identity);
        }
        let leaves = identities.len();
        assert_eq!(leaves, modules.len());
        assert_eq!(leaves, count);
    }
}

/// The modules that the benches' workloads have, with their inputs.
fn listed(file: &str) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(format!("benches/shapes/{file}.tsv")).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields[0].to_owned(), fields[2].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn real_models_modules_are_told_apart_and_recognised() {
    for (file, architecture_of) in
        [("sdxl", Architecture::Sdxl), ("sd15", Architecture::Sd1), ("flux", Architecture::Flux)]
    {
        let modules = listed(file);
        let identities: BTreeSet<Identity> = modules.iter().map(|(name, _)| identify(name)).collect();
        assert_eq!(identities.len(), modules.len(), "{file}");
        let found = architecture(modules.iter().map(|(name, cols)| (name.as_str(), *cols)));
        assert_eq!(found, Some((architecture_of, Sureness::Certain)), "{file}");
        for (name, _) in &modules {
            let dots = name.split_once('.').unwrap().1;
            assert_eq!(dotted(&dots.replace('.', "_")).as_deref(), Some(dots));
        }
    }
}

#[test]
fn a_transformers_modules_come_back_from_both_vocabularies() {
    for (name, _) in listed("flux") {
        if !name.starts_with("unet.") {
            continue;
        }
        let identity = identify(&name);
        let native =
            spelled(identity.component, &identity.path, Vocabulary::Native, Some(Architecture::Flux));
        assert_eq!(native, [(name["unet.".len()..].replace('.', "_"), Rows::WHOLE)]);
        let parts = spelled(identity.component, &identity.path, Vocabulary::Diffusers, None);
        let units: usize = parts.iter().map(|(_, rows)| rows.len).sum();
        assert_eq!(units, parts[0].1.of);
        for (part, rows) in parts {
            assert_eq!(identify(&format!("transformer.{part}")), Identity { rows, ..identity.clone() });
            assert!(dotted(&part).is_some(), "{part}");
        }
    }
}
