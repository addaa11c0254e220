//! Baking: what a checkpoint becomes is W + ΔW to its dtype's rounding, and everything else stays as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lycomerge::adapter::Param;
use lycomerge::file::{Container, Writer};
use lycomerge::merge::bake::{BakeReport, Rounding};
use lycomerge::model::Checkpoint;
use lycomerge::tensor::{Dtype, encode};
use lycomerge::{Adapter, ErrorKind, Merge};
use tempfile::TempDir;

const ADAPTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/real/adapters");

fn adapter(name: &str) -> Arc<Adapter> {
    Arc::new(Adapter::open(Path::new(ADAPTERS).join(format!("{name}.safetensors"))).unwrap())
}

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Numbers that look random, from -.1 to .1.
fn numbers(seed: &str, count: usize) -> Vec<f64> {
    let mut state = seed.bytes().fold(1_u64, |x, b| x.wrapping_mul(31).wrapping_add(b.into()));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64 - 0.5
    };
    (0..count).map(|_| 0.2 * next()).collect()
}

/// The bytes of numbers in any float dtype that is tested here.
fn bytes(numbers: &[f64], dtype: Dtype) -> Vec<u8> {
    let mut data = Vec::new();
    if dtype == Dtype::F8E4M3 {
        // Every number is 2^(e-10) (8+m): e.g. the byte 0x30 + m is .5 + m/16.
        return numbers.iter().map(|x| 0x30 | (x.to_bits() >> 40) as u8 & 0x87).collect();
    }
    encode(numbers, dtype, &mut data).unwrap();
    data
}

/// Tensors of a model that has every module of these adapters, and some that they don't know.
fn model(adapters: &[&Adapter], dtype: Dtype) -> Tensors {
    let mut all = BTreeMap::new();
    for (id, layer) in adapters.iter().flat_map(|adapter| adapter.layers()) {
        let module = id.module.strip_prefix("lora_unet_").unwrap();
        for param in [Param::Weight, Param::Bias] {
            let shape = match param {
                Param::Weight if id.param == Param::Weight => layer.shape.full(),
                _ => vec![layer.shape.rows],
            };
            let name = format!("model.diffusion_model.{module}.{}", param.name());
            let data = bytes(&numbers(&name, shape.iter().product()), dtype);
            let fits = param == id.param || !all.contains_key(&name);
            if fits {
                all.insert(name, (dtype, shape, data));
            }
        }
    }
    all.insert("first_stage_model.decoder.weight".to_owned(), (Dtype::F32, vec![3], vec![7; 12]));
    all.insert("steps".to_owned(), (Dtype::I64, vec![], vec![1; 8]));
    all
}

fn write(path: &Path, tensors: &Tensors) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(file, path.to_owned(), 0).unwrap();
    for (name, (dtype, shape, data)) in tensors {
        writer.push(name, *dtype, shape, data).unwrap();
    }
    writer.finish([("modelspec.title".to_owned(), "a model".to_owned())].into()).unwrap();
}

struct Baked {
    base: Container,
    output: Container,
    report: BakeReport,
    _folder: TempDir,
}

/// ΔW of the merge of weighted adapters, by the tensor that it is added to.
fn deltas(inputs: &[(Arc<Adapter>, f64)]) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (adapter, weight) in inputs {
        for (id, layer) in adapter.layers() {
            let module = id.module.strip_prefix("lora_unet_").unwrap();
            let full = adapter.delta::<f64>(id, layer).unwrap().to_full();
            let sum = all.entry(format!("model.diffusion_model.{module}.{}", id.param.name())).or_default();
            sum.resize(full.nrows() * full.ncols(), 0.0);
            for i in 0..full.nrows() {
                for j in 0..full.ncols() {
                    sum[i * full.ncols() + j] += weight * full[(i, j)];
                }
            }
        }
    }
    all
}

fn bake(inputs: &[(Arc<Adapter>, f64)], base_name: &str, dtype: Dtype, rounding: Rounding) -> Baked {
    let folder = TempDir::new().unwrap();
    let (base, output) = (folder.path().join(base_name), folder.path().join("baked.safetensors"));
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    write(&base, &model(&adapters, dtype));
    let report =
        merge(inputs).bake(&Checkpoint::open(&base).unwrap(), &output, rounding, &mut |_| true).unwrap();
    let open = |path: &PathBuf| Container::open(path).unwrap();
    Baked { base: open(&base), output: open(&output), report, _folder: folder }
}

fn merge(inputs: &[(Arc<Adapter>, f64)]) -> Merge {
    let mut merge = Merge::new();
    inputs.iter().for_each(|(adapter, weight)| merge.add(Arc::clone(adapter), *weight).unwrap());
    merge
}

fn two() -> Vec<(Arc<Adapter>, f64)> {
    vec![(adapter("italic.lora"), 0.7), (adapter("invert.lokr4"), -0.4)]
}

/// Compares with W + ΔW in float64, and the report with what was found.
fn check(baked: &Baked, inputs: &[(Arc<Adapter>, f64)], rounding: f64) {
    let deltas = deltas(inputs);
    let (mut wrong, mut along, mut norm) = (0.0, 0.0, 0.0);
    for name in baked.base.names() {
        let (before, after) = (baked.base.get(name).unwrap(), baked.output.get(name).unwrap());
        assert_eq!((before.dtype, before.shape), (after.dtype, after.shape));
        let Some(delta) = deltas.get(name) else {
            assert!(before.data == after.data, "{name} was to stay as it is");
            continue;
        };
        let numbers = before.to_reals::<f64>().into_iter().zip(after.to_reals::<f64>()).zip(delta);
        for ((before, after), delta) in numbers {
            let sum = before + delta;
            assert!((after - sum).abs() <= rounding * sum.abs().max(1e-4), "{name}: {after} for {sum}");
            wrong += (after - sum).powi(2);
            along += (after - before) * delta;
            norm += delta.powi(2);
        }
    }
    assert_eq!(baked.output.len(), baked.base.len());
    assert_eq!(baked.report.tensors.len(), deltas.len());
    assert_eq!(baked.report.copied, baked.base.len() - deltas.len());
    assert!((baked.report.error - (wrong / norm).sqrt()).abs() <= 1e-5 * baked.report.error + 1e-12);
    assert!((baked.report.kept - along / norm).abs() < 1e-6);
}

#[test]
fn weights_become_the_sum_to_the_rounding_of_their_dtype() {
    for (dtype, rounding) in
        [(Dtype::F32, 6e-8), (Dtype::F16, 4.9e-4), (Dtype::BF16, 3.95e-3), (Dtype::F64, 1e-13)]
    {
        let baked = bake(&two(), "base.safetensors", dtype, Rounding::Nearest);
        check(&baked, &two(), rounding);
    }
}

#[test]
fn biases_and_norms_are_baked_too() {
    let inputs = [(adapter("italic.full"), 1.5)];
    let baked = bake(&inputs, "base.safetensors", Dtype::F32, Rounding::Nearest);
    check(&baked, &inputs, 6e-8);
    assert!(baked.report.tensors.iter().any(|tensor| tensor.name.ends_with(".bias")));
}

#[test]
fn pytorch_checkpoints_are_read_and_become_safetensors() {
    let baked = bake(&two(), "base.ckpt", Dtype::F16, Rounding::Nearest);
    check(&baked, &two(), 4.9e-4);
}

#[test]
fn block_weights_count_for_baking_too() {
    let folder = TempDir::new().unwrap();
    let (base, output) = (folder.path().join("base.safetensors"), folder.path().join("baked.safetensors"));
    let lora = adapter("italic.lora");
    write(&base, &model(&[&lora], Dtype::F32));
    let mut merge = Merge::new();
    merge.add(Arc::clone(&lora), 0.5).unwrap();
    merge.set_block_weights(0, Some("*=0 M00=-2".parse().unwrap())).unwrap();
    let checkpoint = Checkpoint::open(&base).unwrap();
    merge.bake(&checkpoint, &output, Rounding::Nearest, &mut |_| true).unwrap();
    let [base, baked] = [base, output].map(|path| Container::open(&path).unwrap());
    let mut changed = 0;
    for (name, delta) in deltas(&[(lora, 0.5 * -2.0)]) {
        let factor = f64::from(u8::from(name.contains("mid_block_")));
        let [before, after] = [&base, &baked].map(|file| file.get(&name).unwrap().to_reals::<f64>());
        for ((before, after), delta) in before.iter().zip(&after).zip(delta) {
            assert!((after - before - factor * delta).abs() < 1e-7, "{name}");
        }
        changed += usize::from(before != after);
    }
    assert!(changed > 5);
}

#[test]
fn the_metadata_stay_and_the_recipe_is_added() {
    let baked = bake(&two(), "base.safetensors", Dtype::F16, Rounding::Nearest);
    let metadata = baked.output.metadata();
    assert_eq!(metadata["modelspec.title"], "a model");
    assert!(metadata["lycomerge_recipe"].contains("italic.lora"));
    assert!(
        baked.base.metadata().contains_key("sshs_model_hash") && !metadata.contains_key("sshs_model_hash")
    );
}

#[test]
fn eight_bit_weights_keep_little_when_rounded_to_the_nearest_and_nearly_all_on_average() {
    let inputs = two();
    let nearest = bake(&inputs, "base.safetensors", Dtype::F8E4M3, Rounding::Nearest);
    let random = bake(&inputs, "base.safetensors", Dtype::F8E4M3, Rounding::Stochastic(3));
    check(&nearest, &inputs, 0.0626);
    check(&random, &inputs, 0.126);
    assert!((random.report.kept - 1.0).abs() < 0.02, "{}", random.report.kept);
    assert!(random.report.error > nearest.report.error);
}

#[test]
fn scaled_weights_are_scaled_back() {
    let folder = TempDir::new().unwrap();
    let (base, output) = (folder.path().join("base.safetensors"), folder.path().join("baked.safetensors"));
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    let mut tensors = model(&adapters, Dtype::F8E4M3);
    let weights: Vec<String> = tensors
        .keys()
        .filter(|name| name.starts_with("model") && name.ends_with("weight"))
        .cloned()
        .collect();
    for name in &weights {
        let scale = name.replace(".weight", ".scale_weight");
        tensors.insert(scale, (Dtype::F32, vec![1], 0.125_f32.to_le_bytes().to_vec()));
    }
    write(&base, &tensors);
    let report = merge(&inputs)
        .bake(&Checkpoint::open(&base).unwrap(), &output, Rounding::Stochastic(0), &mut |_| true)
        .unwrap();
    assert!((report.kept - 1.0).abs() < 0.02);
    let (before, after) = (Container::open(&base).unwrap(), Container::open(&output).unwrap());
    for (name, delta) in deltas(&inputs) {
        let real = |file: &Container| file.get(&name).unwrap().to_reals::<f64>();
        let numbers = real(&before).into_iter().zip(real(&after)).zip(delta);
        for ((before, after), delta) in numbers {
            let sum = before + 8.0 * delta;
            assert!((after - sum).abs() <= 0.126 * sum.abs().max(0.02), "{name}: {after} for {sum}");
        }
        let scale = name.replace(".weight", ".scale_weight");
        assert_eq!(before.get(&scale).unwrap().data, after.get(&scale).unwrap().data);
    }
}

#[test]
fn shards_become_one_file() {
    let folder = TempDir::new().unwrap();
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    let tensors = model(&adapters, Dtype::F16);
    let (mut map, mut shards) = (serde_json::Map::new(), [BTreeMap::new(), BTreeMap::new()]);
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        map.insert(name.clone(), format!("shard-{}.safetensors", i % 2).into());
        shards[i % 2].insert(name.clone(), tensor.clone());
    }
    for (i, shard) in shards.iter().enumerate() {
        write(&folder.path().join(format!("shard-{i}.safetensors")), shard);
    }
    let index = serde_json::json!({ "weight_map": map });
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let output = folder.path().join("baked.safetensors");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    merge(&inputs).bake(&checkpoint, &output, Rounding::Nearest, &mut |_| true).unwrap();

    let single = bake(&inputs, "base.safetensors", Dtype::F16, Rounding::Nearest);
    let output = Container::open(&output).unwrap();
    assert!(output.names().eq(single.output.names()));
    assert!(
        output.names().all(|name| output.get(name).unwrap().data == single.output.get(name).unwrap().data)
    );
}

#[test]
fn bytes_depend_on_the_seed_and_not_on_threads() {
    let folder = TempDir::new().unwrap();
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    let base = folder.path().join("base.safetensors");
    write(&base, &model(&adapters, Dtype::BF16));
    let checkpoint = Checkpoint::open(&base).unwrap();
    let bytes = |seed: u64, threads: &str| {
        let mut merge = merge(&inputs);
        merge.options.set("threads", threads).unwrap();
        let output = folder.path().join("baked.safetensors");
        merge.bake(&checkpoint, &output, Rounding::Stochastic(seed), &mut |_| true).unwrap();
        fs::read(output).unwrap()
    };
    let one = bytes(1, "1");
    assert!(one == bytes(1, "3"));
    assert!(one != bytes(2, "1"));
}

#[test]
fn the_checkpoint_may_be_the_output_and_a_stop_leaves_it_alone() {
    let folder = TempDir::new().unwrap();
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    let base = folder.path().join("base.safetensors");
    write(&base, &model(&adapters, Dtype::F16));
    let before = fs::read(&base).unwrap();
    let bake = |go_on: bool| {
        let checkpoint = Checkpoint::open(&base).unwrap();
        merge(&inputs).bake(&checkpoint, &base, Rounding::Nearest, &mut |_| go_on)
    };
    assert_eq!(bake(false).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(fs::read(&base).unwrap() == before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    bake(true).unwrap();
    assert!(fs::read(&base).unwrap() != before);
}

#[test]
fn modules_that_the_checkpoint_lacks_or_has_otherwise_are_errors_that_name_them() {
    let folder = TempDir::new().unwrap();
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    let says = |name: &str, change: &dyn Fn(&mut Tensors), words: &[&str]| {
        let base = folder.path().join(format!("{name}.safetensors"));
        let mut tensors = model(&adapters, Dtype::F16);
        change(&mut tensors);
        write(&base, &tensors);
        let output = folder.path().join("baked.safetensors");
        let error = merge(&inputs)
            .bake(&Checkpoint::open(&base).unwrap(), &output, Rounding::Nearest, &mut |_| true)
            .unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!output.exists());
    };
    let conv = "model.diffusion_model.conv_in.weight".to_owned();
    says(
        "missing",
        &|tensors| drop(tensors.remove(&conv)),
        &["lora_unet_conv_in", "has no weight of this module"],
    );
    says(
        "other",
        &|tensors| drop(tensors.insert(conv.clone(), (Dtype::F16, vec![2, 2], vec![0; 8]))),
        &["lora_unet_conv_in", "2×2", "conv_in.weight"],
    );
    says(
        "quantised",
        &|tensors| {
            let (_, shape, _) = tensors[&conv].clone();
            let size = shape.iter().product();
            tensors.insert(conv.clone(), (Dtype::I8, shape, vec![0; size]));
        },
        &["conv_in.weight", "quantised"],
    );
}

/// Weights of ones, with a difference baked into them, as numbers by tensor.
fn baked_difference(module: &str, rows: usize, checkpoint: &[(&str, usize)]) -> Vec<Vec<f64>> {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let count = |n: usize| (0..n).map(|i| i as f64).collect::<Vec<_>>();
    let difference = (Dtype::F32, vec![rows, 1], bytes(&count(rows), Dtype::F32));
    write(&file("adapter.safetensors"), &[(format!("{module}.diff"), difference)].into());
    let ones = |(name, rows): &(&str, usize)| {
        (format!("{name}.weight"), (Dtype::F32, vec![*rows, 1], bytes(&vec![1.0; *rows], Dtype::F32)))
    };
    write(&file("base.safetensors"), &checkpoint.iter().map(ones).collect());
    let adapter = Arc::new(Adapter::open(file("adapter.safetensors")).unwrap());
    let base = Checkpoint::open(file("base.safetensors")).unwrap();
    let output = file("baked.safetensors");
    merge(&[(adapter, 2.0)]).bake(&base, &output, Rounding::Nearest, &mut |_| true).unwrap();
    let output = Container::open(&output).unwrap();
    checkpoint.iter().map(|(name, _)| output.get(&format!("{name}.weight")).unwrap().to_reals()).collect()
}

#[test]
fn fused_and_split_weights_and_swapped_halves_meet() {
    let attention = ["to_q", "to_k", "to_v"].map(|part| format!("transformer_blocks.0.attn.{part}"));
    let split: Vec<(&str, usize)> = attention.iter().map(|name| (name.as_str(), 2)).collect();
    let qkv = "lora_unet_double_blocks_0_img_attn_qkv";
    assert_eq!(baked_difference(qkv, 6, &split), [[1.0, 3.0], [5.0, 7.0], [9.0, 11.0]]);

    let fused = [("model.diffusion_model.double_blocks.0.img_attn.qkv", 6)];
    let to_k = "lora_transformer_transformer_blocks_0_attn_to_k";
    assert_eq!(baked_difference(to_k, 2, &fused), [[1.0, 1.0, 1.0, 3.0, 1.0, 1.0]]);

    // diffusers has (scale, shift) where the model's own code has (shift, scale).
    let last =
        [("model.diffusion_model.final_layer.adaLN_modulation.1", 4), ("double_blocks.0.img_attn.proj", 1)];
    let swapped = baked_difference("transformer.norm_out.linear", 4, &last);
    assert_eq!(swapped[0], [5.0, 7.0, 1.0, 3.0]);
    assert_eq!(
        baked_difference("lora_unet_final_layer_adaLN_modulation_1", 4, &last)[0],
        [1.0, 3.0, 5.0, 7.0]
    );
}

#[cfg(feature = "cli")]
#[test]
fn the_command_takes_weights_behind_colons_and_says_what_is_left() {
    let folder = TempDir::new().unwrap();
    let inputs = two();
    let adapters: Vec<&Adapter> = inputs.iter().map(|(adapter, _)| &**adapter).collect();
    write(&folder.path().join("base.safetensors"), &model(&adapters, Dtype::F8E4M3));
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lycomerge"));
        let output = command.args(words).current_dir(folder.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let weighted = |name: &str, weight: &str| format!("{ADAPTERS}/{name}.safetensors{weight}");
    let (italic, invert) = (weighted("italic.lora", ":0.7"), weighted("invert.lokr4", ":-0.4"));
    let (code, said, warned) = run(&["bake", "base.safetensors", &italic, &invert, "-o", "out.safetensors"]);
    assert_eq!(code, Some(0), "{warned}");
    assert!(said.contains("97 tensors changed") && said.contains("of ΔW is in it"), "{said}");
    assert!(warned.contains("--stochastic keeps it on average"), "{warned}");
    let (base, output) = (
        Checkpoint::open(folder.path().join("base.safetensors")).unwrap(),
        folder.path().join("other.safetensors"),
    );
    merge(&inputs).bake(&base, &output, Rounding::Nearest, &mut |_| true).unwrap();
    assert!(fs::read(output).unwrap() == fs::read(folder.path().join("out.safetensors")).unwrap());

    let (code, _, told) = run(&["bake", "nowhere.safetensors", &italic, "-o", "x.safetensors"]);
    assert_eq!((code, told.as_str()), (Some(1), "Error: Model file not found: nowhere.safetensors\n"));
    let (code, _, told) = run(&["bake", "base.safetensors", &weighted("none", ":2"), "-o", "x.safetensors"]);
    assert!(
        code == Some(1) && told.contains("Model file not found: ") && told.contains("none.safetensors\n"),
        "{told}"
    );
    let (code, _, told) = run(&["bake", "base.safetensors", &italic, "-o", "x.safetensors", "--seed", "1"]);
    assert!(code == Some(2) && told.contains("--stochastic"), "{told}");
    assert!(!folder.path().join("x.safetensors").exists());
}
