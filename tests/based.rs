//! Adapters whose effect depends on the base model's weights: merged and baked with it, added up inside their own family
//! without it, and refused for what is wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faer::{Mat, Scale};
use lycomerge::adapter::{Family, LayerId, OpenOptions, Param};
use lycomerge::file::{Container, Writer};
use lycomerge::merge::bake::Rounding;
use lycomerge::model::Checkpoint;
use lycomerge::tensor::{Dtype, encode};
use lycomerge::{Adapter, ErrorKind, Merge, Result};
use proptest::prelude::*;
use tempfile::TempDir;

const REAL: &str = "tests/data/real";
const GOLDEN: &str = "tests/golden";

fn checkpoint(path: impl AsRef<Path>) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(path).unwrap())
}

fn with(base: &Arc<Checkpoint>) -> OpenOptions {
    OpenOptions { base: Some(Arc::clone(base)), ..OpenOptions::default() }
}

/// A tensor as rows × the rest.
fn matrix(file: &Container, name: &str) -> Mat<f64> {
    let view = file.get(name).unwrap();
    let (numbers, rows) = (view.to_reals::<f64>(), view.shape.first().copied().unwrap_or(1));
    let cols = numbers.len() / rows;
    Mat::from_fn(rows, cols, |i, j| numbers[i * cols + j])
}

fn error(got: &Mat<f64>, want: &Mat<f64>) -> f64 {
    (got - want).norm_l2() / want.norm_l2()
}

/// Numbers without a pattern, from [-1, 1).
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A checkpoint, or an adapter, of named tensors with these numbers; sizes are integers, whatever the rest is.
fn file(folder: &TempDir, name: &str, tensors: &[(&str, &[usize], Vec<f64>)], dtype: Dtype) -> PathBuf {
    let path = folder.path().join(name);
    let sorted: BTreeMap<_, _> =
        tensors.iter().map(|(name, shape, numbers)| (*name, (*shape, numbers))).collect();
    let mut writer = Writer::new(Cursor::new(Vec::new()), path.clone(), 1024).unwrap();
    for (name, (shape, numbers)) in sorted {
        let mut data = Vec::new();
        let dtype = match dtype {
            _ if name.ends_with(".reshape_weight") => Dtype::I64,
            Dtype::F8E4M3 if shape.is_empty() => Dtype::F32,
            dtype => dtype,
        };
        match dtype {
            Dtype::I64 => data.extend(numbers.iter().flat_map(|x| (*x as i64).to_le_bytes())),
            Dtype::F8E4M3 => data.extend(numbers.iter().map(|x| float8(*x))),
            _ => encode(numbers, dtype, &mut data).unwrap(),
        }
        writer.push(name, dtype, shape, &data).unwrap();
    }
    fs::write(&path, writer.finish(BTreeMap::new()).unwrap().0.into_inner()).unwrap();
    path
}

/// The few numbers that the tests want.
fn float8(number: f64) -> u8 {
    let magnitudes = [0x00, 0x38, 0x40, 0x44];
    magnitudes[number.abs() as usize] | if number < 0.0 { 0x80 } else { 0 }
}

fn random<'a>(seed: u64, tensors: &[(&'a str, &'a [usize])]) -> Vec<(&'a str, &'a [usize], Vec<f64>)> {
    let tensor = |(k, (name, shape)): (usize, &(&'a str, &'a [usize]))| {
        (*name, *shape, numbers(seed + k as u64, shape.iter().product()))
    };
    tensors.iter().enumerate().map(tensor).collect()
}

#[cfg(feature = "cli")]
mod command {
    use super::*;

    fn run(words: &[&str]) -> (Option<i32>, String) {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_lycomerge")).args(words).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains("panicked"), "{told}");
        (output.status.code(), told)
    }

    fn real(name: &str) -> String {
        format!("{REAL}/adapters/{name}.safetensors")
    }

    /// Σ weight · truth, for the layers that have one.
    fn truth(inputs: &[(&str, f64)]) -> BTreeMap<String, Mat<f64>> {
        let mut sum: BTreeMap<String, Mat<f64>> = BTreeMap::new();
        for (name, weight) in inputs {
            let file =
                Container::open(&PathBuf::from(format!("{REAL}/truth/{name}.delta.safetensors"))).unwrap();
            for name in file.names() {
                let part = matrix(&file, name) * Scale(*weight);
                sum.entry(name.to_owned()).and_modify(|sum| *sum += &part).or_insert(part);
            }
        }
        assert_eq!(sum.len(), 5);
        sum
    }

    /// What the trainer measured is what the command merges, converts and bakes.
    #[test]
    fn trained_doras_are_merged_converted_and_baked_as_their_trainer_measured_them() {
        let folder = TempDir::new().unwrap();
        let (base, out) = (format!("{REAL}/base.safetensors"), folder.path().join("out.safetensors"));
        let out = out.to_str().unwrap();
        let (lora, lokr) = (real("italic.doralora"), real("italic.doralokr"));
        let both = truth(&[("italic.doralora", 0.7), ("italic.doralokr", -0.4)]);
        let one = truth(&[("italic.doralokr", 1.0)]);
        let merge = ["merge", &lora, &lokr, "-w", "0.7", "-0.4"];
        for (words, says, allowed, truth) in [
            (&merge[..], &["--format", "full", "--dtype", "float32"][..], 1e-6, &both),
            (&merge, &["--tolerance", "0.001"], 1.1e-3, &both),
            (&["convert", &lokr], &["--tolerance", "0.01"], 1.1e-2, &one),
        ] {
            let words = [words, says, &["--base", &base, "-q", "-o", out]].concat();
            assert_eq!(run(&words), (Some(0), String::new()), "{words:?}");
            let stored = Adapter::open(out).unwrap();
            for (name, want) in truth {
                let module = format!("lora_unet_{}", name.trim_end_matches(".weight").replace('.', "_"));
                let id = LayerId { module, param: Param::Weight };
                let got = stored.delta::<f64>(&id, &stored.layers()[&id]).unwrap().to_full();
                assert!(error(&got, want) < allowed, "{words:?} {name}: {:e}", error(&got, want));
            }
        }
        let weighted = format!("{lokr}:-0.4");
        assert_eq!(run(&["bake", &base, &format!("{lora}:0.7"), &weighted, "-q", "-o", out]).0, Some(0));
        let (before, after) =
            (Container::open(base.as_ref()).unwrap(), Container::open(out.as_ref()).unwrap());
        for (name, want) in &both {
            let got = matrix(&after, name) - matrix(&before, name);
            // The model's weights are float32.
            assert!(error(&got, want) < 1e-5, "{name}: {:e}", error(&got, want));
        }
    }

    #[test]
    fn what_needs_the_base_model_says_so_and_another_model_is_refused() {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out.safetensors");
        let out = out.to_str().unwrap();
        let dora = real("italic.doralora");
        let fails = |words: &[&str], says: &[&str]| {
            let (code, told) = run(words);
            assert_eq!(code, Some(1), "{words:?}: {told}");
            assert!(
                told.lines().any(|line| says.iter().all(|text| line.contains(text))),
                "{words:?}: {told}"
            );
        };
        let needs = [dora.as_str(), "layer lora_unet_", "is DoRA", "--base"];
        fails(&["merge", &dora, &real("italic.lora"), "-o", out], &needs);
        fails(&["convert", &dora, "-o", out], &needs);
        fails(&["inspect", &dora], &needs);
        let other = format!("{GOLDEN}/based.base.safetensors");
        let strange = [dora.as_str(), "layer lora_unet_", "has no such module", "trained on", other.as_str()];
        fails(&["merge", &dora, "--base", &other, "-o", out], &strange);
        fails(&["bake", &other, &dora, "-o", out], &strange);
        fails(&["inspect", &dora, "--base", "nowhere"], &["Model file not found: nowhere"]);
        assert!(!Path::new(out).exists());
        assert_eq!(
            run(&["inspect", "--type", &dora, "--base", &format!("{REAL}/base.safetensors")]).0,
            Some(0)
        );
    }
}

/// Every layer of the golden files, whose effects are not all linear in the strength.
#[test]
fn merges_add_what_every_input_does_at_its_coefficient() {
    let base = checkpoint(format!("{GOLDEN}/based.base.safetensors"));
    let adapter = Arc::new(Adapter::open_with(format!("{GOLDEN}/weak.safetensors"), &with(&base)).unwrap());
    let truth = Container::open(format!("{GOLDEN}/weak.delta.safetensors").as_ref()).unwrap();
    for strategy in ["weighted_sum", "layer_adaptive"] {
        let mut merge = Merge::new();
        merge.add(Arc::clone(&adapter), 0.6).unwrap();
        for (name, value) in [("format", "full"), ("dtype", "float64"), ("strategy", strategy)] {
            merge.options.set(name, value).unwrap();
        }
        let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
        assert!(
            report.layers.iter().all(|layer| layer.coefficients == [0.6]),
            "one input has nothing to agree with"
        );
        let stored = Adapter::from_bytes("stored", bytes).unwrap();
        assert_eq!(stored.layers().len(), 13);
        for (id, layer) in stored.layers() {
            let want = matrix(&truth, &format!("{}.weight", id.module.trim_start_matches("lora_unet_")));
            let got = stored.delta::<f64>(id, layer).unwrap().to_full();
            assert!(error(&got, &want) < 1e-12, "{id:?}: {:e}", error(&got, &want));
        }
    }
}

const IA3: [(&str, &[usize]); 5] = [
    ("lora_unet_a.weight", &[6]),
    ("lora_unet_a.on_input", &[]),
    ("lora_unet_b.weight", &[1, 4, 1, 1]),
    ("lora_unet_b.on_input", &[]),
    ("lora_unet_p.ia3_l", &[6, 1]),
];
const GLORA: [(&str, &[usize]); 8] = [
    ("lora_unet_c.a1.weight", &[4, 2, 1, 1]),
    ("lora_unet_c.a2.weight", &[2, 4, 1, 1]),
    ("lora_unet_c.b1.weight", &[6, 2, 1, 1]),
    ("lora_unet_c.b2.weight", &[2, 4, 3, 2]),
    ("lora_unet_d.a1.weight", &[2, 4]),
    ("lora_unet_d.a2.weight", &[4, 2]),
    ("lora_unet_d.b1.weight", &[2, 4]),
    ("lora_unet_d.b2.weight", &[6, 2]),
];
const MODEL: [(&str, &[usize]); 5] = [
    ("a.weight", &[6, 4]),
    ("b.weight", &[6, 4, 3, 2]),
    ("c.weight", &[6, 4, 3, 2]),
    ("d.weight", &[6, 4]),
    ("p.weight", &[6, 4]),
];

/// An adapter of (IA)³ and GLoRA layers; `skewed` has (IA)³ on the other side and GLoRA of another rank.
fn own(folder: &TempDir, name: &str, seed: u64) -> PathBuf {
    let mut tensors = random(seed, &IA3);
    tensors.extend(random(seed + 100, &GLORA));
    for (name, _, numbers) in &mut tensors {
        if name.ends_with(".on_input") {
            numbers[0] = if name.contains("_b.") { 1.0 } else { 0.0 };
        }
    }
    let alphas = [("lora_unet_c.alpha", 1.0 + seed as f64), ("lora_unet_d.alpha", 3.0)];
    tensors.extend(alphas.map(|(name, alpha)| (name, &[][..], vec![alpha])));
    file(folder, name, &tensors, Dtype::F32)
}

#[test]
fn without_the_base_model_ia3_and_glora_are_added_inside_their_own_family() {
    let folder = TempDir::new().unwrap();
    let base = checkpoint(file(&folder, "base.safetensors", &random(7, &MODEL), Dtype::F32));
    let paths = [own(&folder, "x.safetensors", 1), own(&folder, "y.safetensors", 2)];
    for (dtype, allowed) in [("float64", 1e-13), ("float16", 2e-3)] {
        for (strategy, weights) in [("weighted_sum", [0.7, -0.4]), ("weighted_average", [3.0, 1.0])] {
            let mut merge = Merge::new();
            for (path, weight) in paths.iter().zip(weights) {
                merge.add(Arc::new(Adapter::open(path).unwrap()), weight).unwrap();
            }
            merge.options.set("dtype", dtype).unwrap();
            merge.options.set("strategy", strategy).unwrap();
            let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
            assert!(report.error < allowed, "{}", report.error);
            let stored = Adapter::from_bytes_with("stored", bytes, &with(&base)).unwrap();
            let families: Vec<Family> = stored.layers().values().map(|layer| layer.family).collect();
            assert_eq!(families, [Family::Ia3, Family::Ia3, Family::Glora, Family::Glora, Family::Ia3]);
            let inputs = paths.each_ref().map(|path| Adapter::open_with(path, &with(&base)).unwrap());
            for (layer, told) in stored.layers().iter().zip(&report.layers) {
                let (id, layer) = layer;
                let delta =
                    |adapter: &Adapter| adapter.delta::<f64>(id, &adapter.layers()[id]).unwrap().to_full();
                let [x, y] = inputs.each_ref().map(delta);
                let want = x * Scale(told.coefficients[0]) + y * Scale(told.coefficients[1]);
                let got = stored.delta::<f64>(id, layer).unwrap().to_full();
                assert!(error(&got, &want) < allowed, "{dtype} {id:?}: {:e}", error(&got, &want));
            }
        }
    }
}

#[test]
fn what_has_no_sum_in_its_family_needs_the_base_model() {
    let folder = TempDir::new().unwrap();
    let open = |path: PathBuf| Arc::new(Adapter::open(path).unwrap());
    let ia3 = |name: &str, on_input: f64, count: usize| {
        let (weight, side) = (vec![1.0; count], vec![on_input]);
        let tensors: [(&str, &[usize], Vec<f64>); 2] =
            [("lora_unet_a.weight", &[count], weight), ("lora_unet_a.on_input", &[], side)];
        open(file(&folder, name, &tensors, Dtype::F32))
    };
    let first = ia3("first.safetensors", 0.0, 6);
    let lora: [(&str, &[usize]); 2] =
        [("lora_unet_a.lora_down.weight", &[2, 4]), ("lora_unet_a.lora_up.weight", &[6, 2])];
    let lora = open(file(&folder, "lora.safetensors", &random(3, &lora), Dtype::F32));
    let fails = |second: &Arc<Adapter>, options: &[(&str, &str)], says: &[&str]| {
        let mut merge = Merge::new();
        merge.add(Arc::clone(&first), 1.0).unwrap();
        merge.add(Arc::clone(second), 1.0).unwrap();
        options.iter().for_each(|(name, value)| merge.options.set(name, value).unwrap());
        let error = merge.run_in_memory(&mut |_| true).unwrap_err().to_string();
        assert!(says.iter().all(|text| error.contains(text)) && error.contains("lora_unet_a"), "{error}");
    };
    fails(&lora, &[], &["lora.safetensors", "is LoRA here and IA3 in an earlier input", "--base"]);
    fails(&ia3("side.safetensors", 1.0, 6), &[], &["another kind", "--base"]);
    fails(&ia3("count.safetensors", 0.0, 5), &[], &["count.safetensors", "5"]);
    for options in [
        ("strategy", "layer_adaptive"),
        ("strategy", "min_max_norm"),
        ("format", "lora"),
        ("max-size", "1MB"),
    ] {
        fails(&first, &[options], &["first.safetensors", "is IA3", "--base"]);
    }
}

/// Weights that the model has in another form than the adapter speaks of.
#[test]
fn fused_split_and_scaled_models_are_the_same_model() {
    let folder = TempDir::new().unwrap();
    let numbers = numbers(5, 6 * 4);
    let fused: [(&str, &[usize], Vec<f64>); 1] =
        [("double_blocks.0.img_attn.qkv.weight", &[6, 4], numbers.clone())];
    let parts = ["to_q", "to_k", "to_v"].map(|part| format!("transformer_blocks.0.attn.{part}.weight"));
    let split: Vec<(&str, &[usize], Vec<f64>)> = parts
        .iter()
        .zip(numbers.chunks(8))
        .map(|(name, part)| (name.as_str(), &[2, 4][..], part.to_vec()))
        .collect();
    let dora: [(&str, &[usize]); 3] = [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", &[2, 4]),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", &[6, 2]),
        ("lora_unet_double_blocks_0_img_attn_qkv.dora_scale", &[1, 4]),
    ];
    let dora = file(&folder, "dora.safetensors", &random(9, &dora), Dtype::F32);
    let delta = |base: PathBuf| {
        let adapter = Adapter::open_with(&dora, &with(&checkpoint(base))).unwrap();
        let (id, layer) = adapter.layers().iter().next().unwrap();
        adapter.delta::<f64>(id, layer).unwrap().to_full()
    };
    let whole = delta(file(&folder, "fused.safetensors", &fused, Dtype::F64));
    assert_eq!(whole, delta(file(&folder, "split.safetensors", &split, Dtype::F64)));

    // Numbers of three bits, so that float8 has them.
    let few: Vec<f64> = (0..24).map(|i| f64::from(i % 7) - 3.0).collect();
    let plain: [(&str, &[usize], Vec<f64>); 1] =
        [("double_blocks.0.img_attn.qkv.weight", &[6, 4], few.iter().map(|x| x * 0.5).collect())];
    let scaled: [(&str, &[usize], Vec<f64>); 2] = [
        ("double_blocks.0.img_attn.qkv.weight", &[6, 4], few),
        ("double_blocks.0.img_attn.qkv.scale_weight", &[], vec![0.5]),
    ];
    let plain = delta(file(&folder, "plain.safetensors", &plain, Dtype::F64));
    assert_eq!(plain, delta(file(&folder, "scaled.safetensors", &scaled, Dtype::F8E4M3)));
    assert!(plain != whole);
}

/// `set_weight`, and a weight that is padded first, among others.
#[test]
fn weights_are_replaced_and_padded_where_the_adapter_says_so() {
    let folder = TempDir::new().unwrap();
    let base = checkpoint(format!("{GOLDEN}/based.base.safetensors"));
    let adapter =
        Arc::new(Adapter::open_with(format!("{GOLDEN}/defined.safetensors"), &with(&base)).unwrap());
    let truth = Container::open(format!("{GOLDEN}/defined.delta.safetensors").as_ref()).unwrap();
    let mut merge = Merge::new();
    merge.add(adapter, 1.0).unwrap();
    let path = folder.path().join("baked.safetensors");
    merge.bake(&base, &path, Rounding::Nearest, &mut |_| true).unwrap();
    let (before, after) = (&base.files()[0], Container::open(&path).unwrap());
    let mut padded = 0;
    for name in truth.names() {
        let (old, new, delta) =
            (before.get(name).unwrap(), after.get(name).unwrap(), truth.get(name).unwrap());
        assert_eq!(new.shape, delta.shape, "{name}");
        let (new, delta) = (matrix(&after, name), matrix(&truth, name));
        let old = if old.shape == truth.get(name).unwrap().shape {
            matrix(before, name)
        } else {
            padded += 1;
            // 5×3×2×2 in the corner of 6×4×2×3.
            let small = matrix(before, name);
            Mat::from_fn(6, 24, |o, column| {
                let (c, y, x) = (column / 6, column / 3 % 2, column % 3);
                if o < 5 && c < 3 && x < 2 { small[(o, c * 4 + y * 2 + x)] } else { 0.0 }
            })
        };
        assert!(error(&new, &(old + delta)) < 1e-7, "{name}");
    }
    assert_eq!(padded, 1);

    // Merged into an adapter, the new shape stays with what is to be added.
    let (bytes, _) = merge.run_in_memory(&mut |_| true).unwrap();
    let merged = Arc::new(Adapter::from_bytes("merged", bytes).unwrap());
    let id = LayerId { module: "lora_unet_padded".to_owned(), param: Param::Weight };
    assert_eq!(merged.layers()[&id].reshape.as_deref(), Some(&[6, 4, 2, 3][..]));
}

/// Layers of one module each that are wrong in one way, and what the error says.
#[test]
fn broken_layers_are_errors_that_name_file_and_layer() {
    let folder = TempDir::new().unwrap();
    let model: [(&str, &[usize], Vec<f64>); 3] = [
        ("x.weight", &[6, 4], numbers(1, 24)),
        ("c.weight", &[6, 4, 3], numbers(2, 72)),
        ("bad.weight", &[6, 4], vec![f64::NAN; 24]),
    ];
    let base = checkpoint(file(&folder, "base.safetensors", &model, Dtype::F32));
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    type Broken<'a> = (&'a str, Vec<(&'a str, &'a [usize], f64)>, &'a str);
    let lora = |module: &'static str| {
        let [down, up]: [(&str, &[usize]); 2] = match module {
            "x" => [("x.lora_down.weight", &[2, 4]), ("x.lora_up.weight", &[6, 2])],
            _ => [("bad.lora_down.weight", &[2, 4]), ("bad.lora_up.weight", &[6, 2])],
        };
        vec![(down.0, down.1, 0.5), (up.0, up.1, 0.5)]
    };
    let dora =
        |name: &'static str, shape: &'static [usize], value| [lora("x"), vec![(name, shape, value)]].concat();
    let glora: [(&str, &[usize], f64); 4] = [
        ("x.a1.weight", &[4, 2], 1.0),
        ("x.a2.weight", &[2, 4], 1.0),
        ("x.b1.weight", &[6, 2], 1.0),
        ("x.b2.weight", &[2, 4], 1.0),
    ];
    let all: Vec<Broken<'_>> = vec![
        ("a magnitude alone", vec![("x.dora_scale", &[6, 1], 1.0)], "without the factors"),
        ("a magnitude of another size", dora("x.dora_scale", &[5, 1], 1.0), "6 outputs and 4 inputs"),
        ("a PEFT magnitude of inputs", dora("x.lora_magnitude_vector", &[4], 1.0), "6 outputs and 4 inputs"),
        ("a magnitude that is not finite", dora("x.dora_scale", &[6, 1], nan), "not finite"),
        ("an empty magnitude", dora("x.dora_scale", &[0, 1], 1.0), "is empty"),
        (
            "an infinite alpha",
            [dora("x.dora_scale", &[6, 1], 1.0), vec![("x.alpha", &[], inf)]].concat(),
            "alpha is inf",
        ),
        (
            "a DoRA without its up",
            vec![("x.dora_scale", &[6, 1], 1.0), ("x.lora_down.weight", &[2, 4], 1.0)],
            "lora_up",
        ),
        (
            "a DoRA of another shape",
            vec![
                ("x.dora_scale", &[6, 1], 1.0),
                ("x.lora_down.weight", &[2, 5], 1.0),
                ("x.lora_up.weight", &[6, 2], 1.0),
            ],
            "trained on another model",
        ),
        (
            "a model with NaN",
            [lora("bad"), vec![("bad.dora_scale", &[6, 1], 1.0)]].concat(),
            "holds numbers that are not finite",
        ),
        ("too few blocks", vec![("x.oft_blocks", &[1, 4, 4], 0.1)], "rotates 4 outputs"),
        ("blocks that are not square", vec![("x.oft_blocks", &[2, 3, 2], 0.1)], "not square"),
        ("blocks in two dimensions", vec![("x.oft_blocks", &[6, 6], 0.1)], "[n, b, b]"),
        ("blocks of NaN", vec![("x.oft_blocks", &[2, 3, 3], nan)], "not finite"),
        (
            "a rotation's alpha of NaN",
            vec![("x.oft_blocks", &[2, 3, 3], 0.1), ("x.alpha", &[], nan)],
            "must be finite",
        ),
        (
            "a rescale of another size",
            vec![("x.oft_blocks", &[2, 3, 3], 0.1), ("x.rescale", &[5, 1], 1.0)],
            "6 outputs",
        ),
        ("a rescale alone", vec![("x.rescale", &[6, 1], 1.0)], ".rescale"),
        ("sd-scripts' OFT without alpha", vec![("oft_unet_x.oft_blocks", &[2, 3, 3], 0.1)], "no alpha"),
        (
            "parts of blocks with a gap",
            vec![("x.oft_blocks.0", &[1, 3, 3], 0.1), ("x.alpha", &[], 1.0)],
            "rotates 3",
        ),
        ("odd butterflies", vec![("x.oft_blocks", &[1, 2, 3, 3], 0.1)], "butterfly stages"),
        ("too many butterflies", vec![("x.oft_blocks", &[70, 3, 2, 2], 0.1)], "70 butterfly stages"),
        ("columns of no triangle", vec![("x.oft_R.weight", &[1, 4], 0.1)], "upper triangle"),
        ("a PEFT rotation of another size", vec![("x.oft_R.weight", &[3, 1], 0.1)], "has 4 inputs"),
        ("a PEFT rotation beyond numbers", vec![("x.oft_R.weight", &[2, 1], 3e38)], "not finite"),
        ("butterflies without factors", vec![("x.boft_R", &[1, 2, 2, 2], 0.1)], "boft_s"),
        ("factors without butterflies", vec![("x.boft_s", &[6, 1], 0.1)], "boft_R"),
        (
            "butterflies of another size",
            vec![("x.boft_R", &[1, 3, 2, 2], 0.1), ("x.boft_s", &[6, 1], 1.0)],
            "6 inputs",
        ),
        ("(IA)³ of half a side", vec![("x.weight", &[6], 1.0), ("x.on_input", &[], 0.5)], "not 0 or 1"),
        (
            "(IA)³ of another size",
            vec![("x.weight", &[5], 1.0), ("x.on_input", &[], 0.0)],
            "scales 5 outputs",
        ),
        ("(IA)³ without numbers", vec![("x.on_input", &[], 0.0)], "'.weight' is missing"),
        ("(IA)³ of NaN", vec![("x.ia3_l", &[6, 1], nan)], "not finite"),
        ("GLoRA without b2", glora[..3].to_vec(), "b2"),
        (
            "GLoRA that doesn't fit",
            [glora[..3].to_vec(), vec![("x.b2.weight", &[3, 4], 1.0)]].concat(),
            "don't fit together",
        ),
        (
            "GLoRA with a scalar",
            [glora[..3].to_vec(), vec![("x.b2.weight", &[], 1.0)]].concat(),
            "single number",
        ),
        ("GLoRA of a huge alpha", [glora.to_vec(), vec![("x.alpha", &[], inf)]].concat(), "alpha is inf"),
        (
            "T-LoRA without λ",
            vec![("x.q_layer.weight", &[2, 4], 1.0), ("x.p_layer.weight", &[6, 2], 1.0)],
            "lambda_layer",
        ),
        (
            "T-LoRA of too high a rank",
            vec![
                ("x.q_layer.weight", &[5, 4], 1.0),
                ("x.p_layer.weight", &[6, 5], 1.0),
                ("x.lambda_layer", &[1, 5], 1.0),
            ],
            "more than the 6×4 weight",
        ),
        (
            "T-LoRA of a convolution",
            vec![
                ("c.q_layer.weight", &[2, 4, 1], 1.0),
                ("c.p_layer.weight", &[6, 2, 1], 1.0),
                ("c.lambda_layer", &[1, 2], 1.0),
            ],
            "can't apply",
        ),
        ("a new weight of another shape", vec![("x.set_weight", &[6, 5], 1.0)], "trained on another model"),
        ("a new weight of NaN", vec![("x.set_weight", &[6, 4], nan)], "not finite"),
        (
            "a difference beside a new weight",
            vec![("x.set_weight", &[6, 4], 1.0), ("x.diff", &[6, 4], 1.0)],
            "stored twice",
        ),
        ("a module that the model lacks", vec![("y.set_weight", &[6, 4], 1.0)], "has no such module"),
    ];
    for (what, tensors, says) in all {
        let named =
            |name: &str| if name.starts_with("oft_") { name.to_owned() } else { format!("lora_unet_{name}") };
        let names: Vec<String> = tensors.iter().map(|(name, ..)| named(name)).collect();
        let tensors: Vec<(&str, &[usize], Vec<f64>)> = names
            .iter()
            .zip(&tensors)
            .map(|(name, (_, shape, value))| (name.as_str(), *shape, vec![*value; shape.iter().product()]))
            .collect();
        let mut tensors = tensors;
        if what.contains("beyond numbers") {
            // Both triangles of a block would cancel otherwise.
            tensors[0].2[1] = -3e38;
        }
        let path = file(&folder, "broken.safetensors", &tensors, Dtype::F64);
        let error = all_deltas(Adapter::open_with(&path, &with(&base))).expect_err(what);
        let says_it = error.message().contains(says);
        assert!(says_it && error.kind() != ErrorKind::Internal, "{what}: {error}");
        let text = error.to_string();
        let file = if what == "a model with NaN" { "base.safetensors" } else { "broken.safetensors" };
        assert!(text.contains(file) && error.layer().is_some(), "{what}: {text}");
    }
}

/// Every delta of an adapter, all finite and of the shapes that were told.
fn all_deltas(adapter: Result<Adapter>) -> Result<usize> {
    let adapter = adapter?;
    for (id, layer) in adapter.layers() {
        let delta = adapter.delta::<f32>(id, layer)?.to_full();
        assert_eq!(delta.shape(), (layer.shape.rows, layer.shape.cols), "{id:?}");
        assert!(delta.norm_l2().is_finite(), "{id:?}");
    }
    Ok(adapter.layers().len())
}

/// Weights without a length in some outputs and inputs have no direction to keep.
#[test]
fn magnitudes_of_what_is_nothing_do_nothing() {
    let folder = TempDir::new().unwrap();
    let model: [(&str, &[usize], Vec<f64>); 1] = [("x.weight", &[3, 2], vec![1.0, 2.0, 0.0, 0.0, 2.0, 1.0])];
    let base = checkpoint(file(&folder, "base.safetensors", &model, Dtype::F32));
    let dora: [(&str, &[usize], Vec<f64>); 3] = [
        ("lora_unet_x.lora_down.weight", &[1, 2], vec![0.0, 0.0]),
        ("lora_unet_x.lora_up.weight", &[3, 1], vec![1.0; 3]),
        ("lora_unet_x.dora_scale", &[3, 1], vec![5.0_f64.sqrt(), 3.0, 0.0]),
    ];
    let path = file(&folder, "dora.safetensors", &dora, Dtype::F64);
    let adapter = Adapter::open_with(path, &with(&base)).unwrap();
    let (id, layer) = adapter.layers().iter().next().unwrap();
    let delta = adapter.delta::<f64>(id, layer).unwrap().to_full();
    let want = faer::mat![[0.0, 0.0], [0.0, 0.0], [-2.0, -1.0]];
    assert!((delta - want).norm_l2() < 1e-15);
}

/// Suffixes of all families that need the base model, and of what they stand on.
const SUFFIXES: [&str; 30] = [
    "dora_scale",
    "lora_magnitude_vector",
    "lora_down.weight",
    "lora_up.weight",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "lokr_w1",
    "lokr_w2",
    "alpha",
    "oft_blocks",
    "oft_blocks.0",
    "oft_diag",
    "rescale",
    "oft_R.weight",
    "boft_R",
    "boft_s",
    "weight",
    "on_input",
    "ia3_l",
    "a1.weight",
    "a2.weight",
    "b1.weight",
    "b2.weight",
    "lambda_layer",
    "p_layer.weight",
    "q_layer.weight",
    "set_weight",
    "reshape_weight",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn random_layers_never_panic(
        tensors in proptest::collection::btree_map(
            proptest::sample::select(SUFFIXES.to_vec()),
            (proptest::collection::vec(0_usize..5, 0..5), prop_oneof![3 => -2.0..2.0, 1 => Just(f64::NAN), 1 => Just(1e300)]),
            1..6,
        ),
    ) {
        let folder = TempDir::new().unwrap();
        let model: [(&str, &[usize], Vec<f64>); 2] =
            [("x.weight", &[4, 2, 2], numbers(1, 16)), ("x.bias", &[4], numbers(2, 4))];
        let base = checkpoint(file(&folder, "base.safetensors", &model, Dtype::F32));
        let names: Vec<String> = tensors.keys().map(|suffix| format!("lora_unet_x.{suffix}")).collect();
        let tensors: Vec<(&str, &[usize], Vec<f64>)> = names
            .iter()
            .zip(tensors.values())
            .map(|(name, (shape, value))| (name.as_str(), shape.as_slice(), vec![*value; shape.iter().product()]))
            .collect();
        let path = file(&folder, "random.safetensors", &tensors, Dtype::F64);
        for options in [OpenOptions::default(), with(&base)] {
            match Adapter::open_with(&path, &options) {
                Ok(adapter) if options.base.is_some() => {
                    let _ = all_deltas(Ok(adapter));
                }
                Ok(adapter) => {
                    let mut merge = Merge::new();
                    merge.add(Arc::new(adapter), 0.5).unwrap();
                    let _ = merge.run_in_memory(&mut |_| true);
                }
                Err(error) => prop_assert!(error.kind() != ErrorKind::Internal, "{error}"),
            }
        }
    }
}
