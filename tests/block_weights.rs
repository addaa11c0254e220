//! Block weights: every layer's delta is scaled by what its block's weight says, whatever the file calls the layer.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use lycomerge::adapter::LayerId;
use lycomerge::merge::blocks::{BlockWeights, Presets};
use lycomerge::tensor::Dtype;
use lycomerge::{Adapter, ErrorKind, Merge, Survey};
use support::files::safetensors;

const SIDE: usize = 6;
const RANK: usize = 2;

fn real(name: &str) -> Arc<Adapter> {
    let path = format!("{}/tests/data/real/adapters/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    Arc::new(Adapter::open(path).unwrap())
}

/// A LoRA with a small layer of random numbers for each of these modules.
fn synthetic(modules: &[String]) -> Arc<Adapter> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64 - 0.5
    };
    let mut owned = Vec::new();
    for module in modules {
        for (suffix, shape) in [("lora_down.weight", [RANK, SIDE]), ("lora_up.weight", [SIDE, RANK])] {
            let numbers: Vec<f64> = (0..RANK * SIDE).map(|_| next()).collect();
            owned.push((format!("{module}.{suffix}"), shape, numbers));
        }
    }
    let tensors: Vec<_> = owned.iter().map(|(name, shape, x)| (name.as_str(), &shape[..], &x[..])).collect();
    Arc::new(Adapter::from_bytes("synthetic", safetensors(&tensors, Dtype::F64)).unwrap())
}

/// The modules of a list of the benches, as kohya's trainers would name them, and text encoders.
fn kohya(list: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new("benches/shapes").join(format!("{list}.tsv"))).unwrap();
    let names = text.lines().skip(1).map(|line| line.split('\t').next().unwrap());
    names
        .filter_map(|name| name.strip_prefix("unet."))
        .map(|path| format!("lora_unet_{}", path.replace('.', "_")))
        .chain((0..12).map(|n| format!("lora_te1_text_model_encoder_layers_{n}_mlp_fc1")))
        .collect()
}

fn merged(inputs: &[(Arc<Adapter>, f64, Option<&str>)]) -> BTreeMap<LayerId, Vec<f64>> {
    let mut merge = Merge::new();
    for (index, (adapter, weight, blocks)) in inputs.iter().enumerate() {
        merge.add(Arc::clone(adapter), *weight).unwrap();
        merge.set_block_weights(index, blocks.map(|text| text.parse().unwrap())).unwrap();
    }
    merge.options.set("dtype", "float64").unwrap();
    let mut found = BTreeMap::new();
    let take = |delta: lycomerge::merge::MergedDelta| {
        let numbers = delta.data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        found.insert(delta.id, numbers.collect());
        Ok(())
    };
    merge.deltas(&mut |_| true, take).unwrap();
    found
}

fn dense(adapter: &Adapter) -> BTreeMap<LayerId, Mat<f64>> {
    let delta = |(id, layer): (&LayerId, _)| (id.clone(), adapter.delta(id, layer).unwrap().to_full());
    adapter.layers().iter().map(delta).collect()
}

/// That the merge is Σ weight · factor(module) · ΔW, entry by entry; says how many layers had each factor.
fn check(
    inputs: &[(Arc<Adapter>, f64, Option<&str>)],
    factors: &[&dyn Fn(&str) -> f64],
) -> Vec<BTreeMap<String, usize>> {
    let mut truth: BTreeMap<LayerId, Vec<f64>> = BTreeMap::new();
    let mut counts = vec![BTreeMap::new(); inputs.len()];
    for (index, ((adapter, weight, _), factor)) in inputs.iter().zip(factors).enumerate() {
        for (id, matrix) in dense(adapter) {
            let factor = factor(&id.module);
            *counts[index].entry(factor.to_string()).or_insert(0) += 1;
            let (rows, cols) = matrix.shape();
            let sum = truth.entry(id).or_insert_with(|| vec![0.0; rows * cols]);
            (0..rows * cols).for_each(|at| sum[at] += weight * factor * matrix[(at / cols, at % cols)]);
        }
    }
    let found = merged(inputs);
    assert!(found.keys().eq(truth.keys()));
    for (id, truth) in truth {
        let norm = truth.iter().map(|x| x * x).sum::<f64>().sqrt();
        let wrong = truth.iter().zip(&found[&id]).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        assert!(wrong <= 1e-12 * norm.max(1e-3), "{id:?}: {wrong:e} of {norm:e}");
    }
    counts
}

/// The number behind a word of a name.
fn after(module: &str, word: &str) -> Option<usize> {
    module.split_once(word)?.1.split('_').next()?.parse().ok()
}

#[test]
fn trained_adapters_are_weighed_block_by_block_each_by_its_own() {
    // Diffusers' words: block i, layer j, and the sampler behind the layers, counted as the authors counted them.
    let place = |module: &str, side: &str, first: usize| {
        let layer = after(module, "_resnets_").or_else(|| after(module, "_attentions_")).unwrap_or(2);
        Some(3 * after(module, side)? + layer + first)
    };
    let first = |module: &str| match (place(module, "_down_blocks_", 1), place(module, "_up_blocks_", 0)) {
        (Some(3..=5), _) => 0.25,
        (_, Some(n)) => n as f64 / 8.0,
        _ if module.contains("_mid_block_") => -2.0,
        _ => 1.0,
    };
    let second = |module: &str| match module.contains("_attn") {
        true => 0.5 * 0.1,
        false if module.contains("_mid_block_") => 0.5 * 3.0,
        false => 0.0,
    };
    for (a, b) in
        [("italic.lokr4", "invert.lora"), ("italic.loha", "invert.full"), ("italic.lokrfull", "invert.lora")]
    {
        let counts = check(
            &[
                (real(a), 0.7, Some("IN03-IN05=0.25, OUT00-OUT08=0..1 M00=-2")),
                (real(b), -0.4, Some("*=0 mid=3 unet=0.5 *_attn*=0.1")),
            ],
            &[&first, &second],
        );
        assert!(counts[0].len() >= 6 && counts[1].len() >= 2, "{counts:?}");
    }
}

#[test]
fn sdxl_is_weighed_by_ranges_and_by_lists() {
    let (input, output) = ("_input_blocks_", "_output_blocks_");
    let adapter = synthetic(&kohya("sdxl"));
    let ranges = |module: &str| match (after(module, input), after(module, output)) {
        (Some(4..=8), _) => 0.5,
        (_, Some(n @ 0..=5)) => 1.0 - n as f64 / 5.0,
        _ if module.starts_with("lora_te1") => 0.25,
        _ => 1.0,
    };
    let text = "IN04-08=0.5 OUT00-OUT05=1..0 te=0.25";
    let counts = check(&[(Arc::clone(&adapter), 1.0, Some(text))], &[&ranges]);
    assert!(
        ["0.5", "0.8", "0", "0.25", "1"].iter().all(|factor| counts[0].contains_key(*factor)),
        "{counts:?}"
    );

    // BASE, IN00 to IN08, M00, OUT00 to OUT08.
    let list = (0..20).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let listed = |module: &str| match (after(module, input), after(module, output)) {
        (Some(n), _) => (1 + n) as f64,
        (_, Some(n)) => (11 + n) as f64,
        _ if module.contains("_middle_block_") => 10.0,
        _ if module.starts_with("lora_te1") => 0.0,
        // What stands in no block: embeddings and the end.
        _ => 1.0,
    };
    let counts = check(&[(adapter, 1.0, Some(&list))], &[&listed]);
    assert_eq!(counts[0].len(), 20, "{counts:?}");
}

#[test]
fn flux_and_sd3_are_weighed_in_both_vocabularies() {
    let flux = |module: &str| match (after(module, "_double_blocks_"), after(module, "_single_blocks_")) {
        (Some(n @ 5..=10), _) => 0.2 * (n - 5) as f64,
        (_, Some(_)) => 0.5,
        _ if module.starts_with("lora_te1") => 0.0,
        _ => 1.0,
    };
    let text = "D05-D10=0..1 S=0.5 te1=0";
    let counts = check(&[(synthetic(&kohya("flux")), 1.0, Some(text))], &[&flux]);
    assert!(counts[0].len() >= 7, "{counts:?}");

    let parts = ["attn.to_q", "attn.to_k", "ff.net.0.proj", "norm1.linear"];
    let module = |n: usize, part: &&str| format!("transformer.transformer_blocks.{n}.{part}");
    let diffusers: Vec<String> = (0..24)
        .flat_map(|n| parts.iter().map(move |part| module(n, part)))
        .chain(["transformer.proj_out".into()])
        .collect();
    let number = |module: &str| module.split('.').nth(2).and_then(|n| n.parse::<usize>().ok());
    let sd3 = |module: &str| match number(module) {
        Some(12..=23) => 0.0,
        None => 0.75,
        _ => 1.0,
    };
    for text in
        ["J12-J23=0 OUT=0.75", "joint_blocks.12-23=0 OUT=0.75", "transformer_blocks.12-23=0 *.proj_out=0.75"]
    {
        let counts = check(&[(synthetic(&diffusers), 1.0, Some(text))], &[&sd3]);
        assert_eq!(counts[0].len(), 3);
    }
}

#[test]
fn parts_of_a_fused_weight_are_weighed_apart() {
    let names = ["to_q", "to_k", "to_v"].map(|part| format!("transformer.transformer_blocks.2.attn.{part}"));
    // Only Flux has single blocks.
    let single = "transformer.single_transformer_blocks.0.proj_out".to_owned();
    let parts = synthetic(&[&names[..], &[single]].concat());
    let mut merge = Merge::new();
    merge.add(Arc::clone(&parts), 1.0).unwrap();
    merge.options.set("naming", "kohya").unwrap();
    merge.options.set("dtype", "float64").unwrap();
    merge.options.set("format", "full").unwrap();
    merge.set_block_weights(0, Some("D02=3 *to_k=0.5 transformer=2".parse().unwrap())).unwrap();
    let (bytes, _) = merge.run_in_memory(&mut |_| true).unwrap();
    let fused = Adapter::from_bytes("fused", bytes).unwrap();
    let fused = dense(&fused);
    let modules: Vec<&str> = fused.keys().map(|id| id.module.as_str()).collect();
    assert_eq!(modules, ["lora_unet_double_blocks_2_img_attn_qkv", "lora_unet_single_blocks_0_linear2"]);
    let whole = fused.values().next().unwrap();
    for (part, matrix) in dense(&parts).into_iter().filter(|(id, _)| names.contains(&id.module)) {
        let (place, factor) = match part.module.rsplit('_').next().unwrap() {
            "q" => (0, 6.0),
            "k" => (1, 1.0),
            _ => (2, 6.0),
        };
        let found = whole.get(place * SIDE..(place + 1) * SIDE, ..);
        assert!((found - faer::Scale(factor) * matrix).norm_l2() < 1e-12, "{}", part.module);
    }
    merge.options.set("format", "keep").unwrap();
    let error = merge.run_in_memory(&mut |_| true).unwrap_err();
    assert!(error.message().contains("block weights and format keep can't be used together"), "{error}");
}

#[test]
fn names_that_a_file_does_not_have_are_refused_with_those_that_it_has() {
    let mut merge = Merge::new();
    merge.add(real("italic.lora"), 1.0).unwrap();
    let survey = Survey::of(&real("italic.lora")).unwrap();
    assert!(survey.blocks.iter().any(|block| block.name == "M00"));
    for (text, says) in [
        ("D00=0", "no layer is in 'D00'; the blocks are TIME, IN00-IN0"),
        ("IN40=1", "no layer is in 'IN40'"),
        ("*atn*=0", "no layer is in '*atn*'"),
        ("te1.3=0", "no layer is in 'te1.3'"),
    ] {
        let error = merge.set_block_weights(0, Some(text.parse().unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Option);
        assert!(error.message().contains(says), "{text}: {error}");
        assert_eq!(error.file(), Some(real("italic.lora").path()));
    }
    // A strength of a network that the file lacks is no error: presets say te=… for every file.
    merge.set_block_weights(0, Some("te=0 IN=1".parse().unwrap())).unwrap();
    let mut flux = Merge::new();
    flux.add(synthetic(&kohya("flux")), 1.0).unwrap();
    let list: BlockWeights = ["1"; 12].join(",").parse().unwrap();
    let error = flux.set_block_weights(0, Some(list)).unwrap_err();
    assert!(
        error.message().contains("say nothing of D00-D18, S00-S37; a list of 61 values has them"),
        "{error}"
    );
    assert!(flux.set_block_weights(1, None).unwrap_err().message().contains("no input 1"));
}

#[test]
fn a_recipe_brings_the_block_weights_back() {
    let folder = tempfile::TempDir::new().unwrap();
    let presets = folder.path().join("presets.txt");
    std::fs::write(&presets, "# the extension's form\nOUTER:IN00-IN03=0,OUT06-OUT08=0\n").unwrap();
    let presets = Presets::read(&presets).unwrap();
    let mut first = Merge::new();
    first.add(real("italic.lora"), 0.5).unwrap();
    first.add(real("invert.loha"), 1.0).unwrap();
    first.set_block_weights(1, Some(BlockWeights::parse("OUTER M00=2", &presets).unwrap())).unwrap();
    let (bytes, report) = first.run_in_memory(&mut |_| true).unwrap();
    for before in [true, false] {
        let mut again = Merge::new();
        let add = |merge: &mut Merge| {
            merge.add(real("italic.lora"), 0.5).unwrap();
            merge.add(real("invert.loha"), 1.0).unwrap();
        };
        if before {
            add(&mut again);
        }
        again.set_recipe(&report.to_json()).unwrap();
        if !before {
            let error = again.clone().run_in_memory(&mut |_| true).unwrap_err();
            assert!(error.message().contains("nothing to merge"), "{error}");
            add(&mut again);
        }
        assert!(again.run_in_memory(&mut |_| true).unwrap().0 == bytes);
    }
    let mut plain = Merge::new();
    plain.add(real("italic.lora"), 0.5).unwrap();
    plain.add(real("invert.loha"), 1.0).unwrap();
    assert!(plain.run_in_memory(&mut |_| true).unwrap().0 != bytes);
}
