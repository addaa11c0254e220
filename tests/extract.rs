//! Extracting: what training put into a checkpoint comes back as an adapter, under the names that hosts know, as
//! exactly as is said, whatever the checkpoints call their parameters and hold them in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faer::Mat;
use lycomerge::adapter::{LayerId, Param};
use lycomerge::file::{Container, Writer};
use lycomerge::merge::bake::Rounding;
use lycomerge::merge::extract::ExtractReport;
use lycomerge::model::{Checkpoint, identify};
use lycomerge::tensor::{Dtype, encode};
use lycomerge::{Adapter, ErrorKind, Merge};
use tempfile::TempDir;

const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/real");

/// Shape and numbers by name.
type Model = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Numbers that look random, from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1 << 23) as f64 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }

    /// A matrix of this rank, row by row.
    fn low_rank(&mut self, rows: usize, cols: usize, rank: usize) -> Vec<f64> {
        let (left, right) = (self.numbers(rows * rank), self.numbers(rank * cols));
        let entry = |i: usize, j: usize| (0..rank).map(|k| left[i * rank + k] * right[k * cols + j]).sum();
        (0..rows * cols).map(|at| entry(at / cols, at % cols)).collect()
    }
}

fn write(path: &Path, model: &Model, dtype: Dtype) {
    let file = fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(file, path.to_owned(), 0).unwrap();
    for (name, (shape, numbers)) in model {
        let mut data = Vec::new();
        encode(numbers, dtype, &mut data).unwrap();
        writer.push(name, dtype, shape, &data).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap();
}

/// A few modules of SDXL as its checkpoints name them, small, each with the name that hosts know for it.
const SDXL: [(&str, &str, &[usize]); 9] = [
    ("model.diffusion_model.input_blocks.4.1.proj_in", "lora_unet_input_blocks_4_1_proj_in", &[24, 30]),
    (
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        &[24, 2048],
    ),
    (
        "model.diffusion_model.middle_block.0.in_layers.2",
        "lora_unet_middle_block_0_in_layers_2",
        &[16, 20, 3, 3],
    ),
    ("model.diffusion_model.output_blocks.2.2.conv", "lora_unet_output_blocks_2_2_conv", &[18, 16, 3, 3]),
    ("model.diffusion_model.time_embed.0", "lora_unet_time_embed_0", &[20, 8]),
    (
        "conditioner.embedders.0.transformer.text_model.encoder.layers.3.mlp.fc1",
        "lora_te1_text_model_encoder_layers_3_mlp_fc1",
        &[32, 16],
    ),
    (
        "conditioner.embedders.1.model.transformer.resblocks.5.mlp.c_proj",
        "lora_te2_text_model_encoder_layers_5_mlp_fc2",
        &[12, 40],
    ),
    ("model.diffusion_model.input_blocks.1.0.out_layers.3", "", &[8, 8, 3, 3]),
    ("conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.out_proj", "", &[8, 8]),
];
const RANK: usize = 3;

/// The base, the tuned model, and the difference by the names of the output. Those without a name stay as they are.
fn sdxl(size: f64) -> (Model, Model, BTreeMap<String, Vec<f64>>) {
    let mut random = Random(7);
    let (mut base, mut tuned, mut truth) = (Model::new(), Model::new(), BTreeMap::new());
    let mut add = |name: String, shape: &[usize], weight: Vec<f64>, delta: Option<&[f64]>| {
        let sum = |delta: &[f64]| weight.iter().zip(delta).map(|(w, d)| w + d).collect();
        tuned.insert(name.clone(), (shape.to_vec(), delta.map_or_else(|| weight.clone(), sum)));
        base.insert(name, (shape.to_vec(), weight));
    };
    for (module, name, shape) in SDXL {
        let (rows, cols) = (shape[0], shape[1..].iter().product());
        let delta: Vec<f64> = random.low_rank(rows, cols, RANK).iter().map(|x| size * x).collect();
        let weight = random.numbers(rows * cols);
        add(format!("{module}.weight"), shape, weight, (!name.is_empty()).then_some(&delta[..]));
        if !name.is_empty() {
            truth.insert(name.to_owned(), delta);
        }
    }
    // OpenCLIP holds queries, keys and values in one; only the keys are trained here.
    let (width, module) = (14, "conditioner.embedders.1.model.transformer.resblocks.5.attn");
    let keys: Vec<f64> = random.low_rank(width, width, RANK).iter().map(|x| size * x).collect();
    let delta: Vec<f64> = [vec![0.0; width * width], keys.clone(), vec![0.0; width * width]].concat();
    let weight = random.numbers(3 * width * width);
    add(format!("{module}.in_proj_weight"), &[3 * width, width], weight, Some(&delta));
    truth.insert("lora_te2_text_model_encoder_layers_5_self_attn_k_proj".to_owned(), keys);
    (base, tuned, truth)
}

fn extract(
    base: &Path,
    tuned: &Path,
    output: &Path,
    options: &[(&str, &str)],
) -> lycomerge::Result<ExtractReport> {
    let mut merge = Merge::new();
    for (name, value) in options {
        merge.options.set(name, value)?;
    }
    merge.extract(&Checkpoint::open(base)?, &Checkpoint::open(tuned)?, output, &mut |_| true)
}

fn dense(path: &Path) -> BTreeMap<LayerId, Mat<f64>> {
    let adapter = Adapter::open(path).unwrap();
    let delta = |(id, layer): (&LayerId, _)| (id.clone(), adapter.delta(id, layer).unwrap().to_full());
    adapter.layers().iter().map(delta).collect()
}

/// ‖found − true‖ / ‖true‖ of row-major numbers.
fn error(found: &Mat<f64>, truth: &[f64]) -> f64 {
    let cols = found.ncols();
    let norm: f64 = truth.iter().map(|x| x * x).sum();
    let wrong: f64 =
        truth.iter().enumerate().map(|(at, x)| (found[(at / cols, at % cols)] - x).powi(2)).sum();
    (wrong / norm).sqrt()
}

#[test]
fn a_known_low_rank_difference_comes_back_under_the_names_that_hosts_know() {
    // The rounding of W + ΔW to the checkpoint's dtype is part of the difference.
    for (dtype, size, allowed) in
        [(Dtype::F64, 1e-2, 2e-6), (Dtype::F32, 1e-2, 1e-5), (Dtype::F16, 1.0, 5e-3)]
    {
        let folder = TempDir::new().unwrap();
        let [base, tuned, output] =
            ["base", "tuned", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
        let (before, after, truth) = sdxl(size);
        write(&base, &before, dtype);
        write(&tuned, &after, dtype);
        let options = [("format", "lora"), ("rank", "3"), ("dtype", "float32")];
        let report = extract(&base, &tuned, &output, &options).unwrap();
        let found = dense(&output);
        assert_eq!(report.model, Some("SDXL"));
        let names: Vec<&str> = found.keys().map(|id| id.module.as_str()).collect();
        assert_eq!(names, truth.keys().map(String::as_str).collect::<Vec<_>>());
        for (layer, (id, matrix)) in report.layers.iter().zip(&found) {
            assert_eq!((layer.name.as_str(), layer.rank), (id.module.as_str(), Some(RANK)));
            let error = error(matrix, &truth[&id.module]);
            assert!(error <= allowed, "{dtype:?} {}: {error:e}", id.module);
        }
        // Queries and values, and the two modules that were not trained.
        assert_eq!(report.unchanged, 4);
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);

        // Baked into the base it is the tuned model again.
        let mut merge = Merge::new();
        merge.add(Arc::new(Adapter::open(&output).unwrap()), 1.0).unwrap();
        let baked = folder.path().join("baked.safetensors");
        merge.bake(&Checkpoint::open(&base).unwrap(), &baked, Rounding::Nearest, &mut |_| true).unwrap();
        let [baked, tuned] = [&baked, &tuned].map(|path| Container::open(path).unwrap());
        for name in tuned.names() {
            let [a, b] = [&baked, &tuned].map(|file| file.get(name).unwrap().to_reals::<f64>());
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 8.0 * allowed * size, "{dtype:?} {name}: {worst:e}");
        }
    }
}

#[test]
fn the_difference_itself_is_stored_to_the_bit_where_the_dtype_holds_it() {
    let folder = TempDir::new().unwrap();
    let [base, tuned, output] =
        ["base", "tuned", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    let (before, after, _) = sdxl(0.5);
    write(&base, &before, Dtype::F16);
    write(&tuned, &after, Dtype::F16);
    let report = extract(&base, &tuned, &output, &[("format", "full"), ("dtype", "float32")]).unwrap();
    assert_eq!(report.error, 0.0);
    let (base, tuned) = (Checkpoint::open(&base).unwrap(), Checkpoint::open(&tuned).unwrap());
    for (id, found) in dense(&output) {
        let part = identify(&id.module);
        let [before, after] =
            [&base, &tuned].map(|model| model.weight_parts(&part).remove(0).to_matrix::<f64>());
        assert!((after.unwrap() - before.unwrap()) == found, "{}", id.module);
    }
}

#[test]
fn trained_adapters_come_back_from_the_model_that_they_were_baked_into() {
    let base = PathBuf::from(REAL).join("base.safetensors");
    for (algo, options, allowed) in [
        ("lora", &[("format", "lora"), ("rank", "8")][..], 1e-3),
        ("lora", &[("format", "auto")][..], 1e-2),
        ("lokr4", &[("format", "lokr"), ("factor", "4")][..], 1e-3),
        ("lokr4", &[("format", "lora"), ("tolerance", "0.1")][..], 0.1),
        ("loha", &[("format", "lora"), ("rank", "16")][..], 1e-3),
        ("loha", &[("format", "loha"), ("rank", "4")][..], 0.6),
        ("full", &[("format", "full")][..], 1e-3),
    ] {
        let folder = TempDir::new().unwrap();
        let [tuned, output] = ["tuned", "out"].map(|name| folder.path().join(format!("{name}.safetensors")));
        let adapter = format!("{REAL}/adapters/italic.{algo}.safetensors");
        let mut merge = Merge::new();
        merge.add(Arc::new(Adapter::open(&adapter).unwrap()), 1.0).unwrap();
        merge.bake(&Checkpoint::open(&base).unwrap(), &tuned, Rounding::Nearest, &mut |_| true).unwrap();
        let report = extract(&base, &tuned, &output, options).unwrap();
        let truth: BTreeMap<_, _> = dense(Path::new(&adapter))
            .into_iter()
            .filter(|(_, matrix)| matrix.norm_l2() > 0.0)
            .map(|(id, matrix)| ((identify(&id.module), id.param), matrix))
            .collect();
        let found = dense(&output);
        assert_eq!(found.len(), truth.len(), "{algo}");
        let (mut wrong, mut norm) = (0.0, 0.0);
        for layer in &report.layers {
            let param = if layer.param == "bias" { Param::Bias } else { Param::Weight };
            let id = LayerId { module: layer.name.clone(), param };
            let truth = &truth[&(identify(&layer.name), param)];
            let distance = (&found[&id] - truth).norm_l2();
            let error = distance / truth.norm_l2();
            assert!(
                (layer.error - error).abs() <= 0.01 * error + 2e-6,
                "{algo} {id:?}: {} {error}",
                layer.error
            );
            wrong += distance.powi(2);
            norm += truth.norm_l2().powi(2);
        }
        let error = (wrong / norm).sqrt();
        assert!((report.error - error).abs() <= 0.01 * error + 2e-6, "{algo}: {} {error}", report.error);
        assert!(error <= allowed, "{algo} {options:?}: {error}");
    }
}

/// One layer of a UNet with a decaying spectrum, and the difference.
fn one_layer(folder: &Path, rows: usize, cols: usize) -> ([PathBuf; 2], Mat<f64>) {
    let mut random = Random(11);
    let mut delta = vec![0.0; rows * cols];
    for k in 0..12 {
        let part = random.low_rank(rows, cols, 20);
        delta.iter_mut().zip(part).for_each(|(sum, x)| *sum += x / (1 << k) as f64);
    }
    let weight = random.numbers(rows * cols);
    let sum: Vec<f64> = weight.iter().zip(&delta).map(|(w, d)| w + d).collect();
    let paths = ["base", "tuned"].map(|name| folder.join(format!("{name}.safetensors")));
    for (path, numbers) in paths.iter().zip([&weight, &sum]) {
        let name = "model.diffusion_model.middle_block.1.proj_in.weight".to_owned();
        write(path, &[(name, (vec![rows, cols], numbers.clone()))].into(), Dtype::F64);
    }
    (paths, Mat::from_fn(rows, cols, |i, j| delta[i * cols + j]))
}

#[test]
fn the_randomised_decomposition_is_as_good_as_the_whole_one_and_says_how_good() {
    let folder = TempDir::new().unwrap();
    let ([base, tuned], delta) = one_layer(folder.path(), 420, 380);
    let sigma = delta.singular_values().unwrap();
    let all: f64 = sigma.iter().map(|x| x * x).sum();
    let best = |rank: usize| (sigma[rank..].iter().map(|x| x * x).sum::<f64>() / all).sqrt();
    let output = folder.path().join("out.safetensors");
    for rank in [4, 20, 64] {
        let text = rank.to_string();
        let options = [("format", "lora"), ("rank", text.as_str()), ("dtype", "float32")];
        let report = extract(&base, &tuned, &output, &options).unwrap();
        let found = dense(&output).into_values().next().unwrap();
        let error = (&found - &delta).norm_l2() / delta.norm_l2();
        assert!((report.error - error).abs() < 0.01 * error, "{} {error}", report.error);
        assert!(error < 1.002 * best(rank), "rank {rank}: {error} is not {}", best(rank));
    }
    // What a tolerance and the rules ask for, at no more rank than the whole decomposition would take.
    let fewest = |enough: &dyn Fn(usize) -> bool| (1..=sigma.len()).find(|rank| enough(*rank)).unwrap();
    let ratio = fewest(&|rank| sigma.get(rank).is_none_or(|next| *next <= sigma[0] / 5.0));
    let sum: f64 = sigma.iter().sum();
    for (name, value, wanted) in [
        ("tolerance", "0.3", fewest(&|rank| best(rank) <= 0.3)),
        ("tolerance", "0.05", fewest(&|rank| best(rank) <= 0.05)),
        ("sv-ratio", "5", ratio),
        ("sv-fro", "0.8", fewest(&|rank| best(rank).powi(2) <= 1.0 - 0.64)),
        ("sv-cumulative", "0.7", fewest(&|rank| sigma[..rank].iter().sum::<f64>() >= 0.7 * sum)),
    ] {
        let options = [("format", "lora"), (name, value), ("dtype", "float32")];
        let report = extract(&base, &tuned, &output, &options).unwrap();
        let rank = report.layers[0].rank.unwrap();
        assert!(rank.abs_diff(wanted) <= 1, "{name} {value}: rank {rank}, not {wanted}");
        if name == "tolerance" {
            assert!(report.error <= value.parse().unwrap(), "{name} {value}: {}", report.error);
        }
    }
}

#[test]
fn sizes_are_kept_convolutions_have_their_own_rank_and_threads_change_no_byte() {
    let folder = TempDir::new().unwrap();
    let [base, tuned, output] =
        ["base", "tuned", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    let (before, mut after, _) = sdxl(0.1);
    let mut random = Random(5);
    after.values_mut().for_each(|(_, numbers)| numbers.iter_mut().for_each(|x| *x += 0.01 * random.next()));
    write(&base, &before, Dtype::F32);
    write(&tuned, &after, Dtype::F32);
    for limit in [25_000_u64, 40_000, 80_000] {
        let text = limit.to_string();
        let report = extract(&base, &tuned, &output, &[("format", "lora"), ("max-size", &text)]).unwrap();
        assert_eq!(report.bytes, fs::metadata(&output).unwrap().len());
        assert!(report.bytes <= limit && report.bytes > limit / 2, "{} of {limit}", report.bytes);
        assert!(report.tolerance.is_some());
    }
    let report =
        extract(&base, &tuned, &output, &[("format", "lora"), ("rank", "6"), ("conv-rank", "2")]).unwrap();
    assert!(report.layers.iter().all(|layer| layer.rank == Some(if layer.shape.len() == 4 { 2 } else { 6 })));
    let bytes = |threads: &str| {
        extract(&base, &tuned, &output, &[("format", "auto"), ("threads", threads)]).unwrap();
        fs::read(&output).unwrap()
    };
    assert!(bytes("1") == bytes("3"));
}

#[test]
fn checkpoints_in_other_words_and_parts_are_paired() {
    // Flux as its authors hold it, and as diffusers does: in parts, and the last modulation's halves swapped.
    let (width, mut random) = (8, Random(3));
    let qkv: Vec<Vec<f64>> = (0..3).map(|_| random.numbers(width * width)).collect();
    let halves: Vec<Vec<f64>> = (0..2).map(|_| random.numbers(width * width)).collect();
    let tensor = |rows: usize, numbers: Vec<f64>| (vec![rows, width], numbers);
    let native: Model = [
        ("double_blocks.0.img_attn.qkv.weight".to_owned(), tensor(3 * width, qkv.concat())),
        ("final_layer.adaLN_modulation.1.weight".to_owned(), tensor(2 * width, halves.concat())),
        ("single_blocks.0.modulation.lin.weight".to_owned(), tensor(width, qkv[0].clone())),
    ]
    .into();
    let change = |numbers: &[f64]| -> Vec<f64> { numbers.iter().map(|x| x * 1.5 + 0.25).collect() };
    let mut diffusers: Model = [(
        "norm_out.linear.weight".to_owned(),
        tensor(2 * width, [change(&halves[1]), change(&halves[0])].concat()),
    )]
    .into();
    for (part, numbers) in ["to_q", "to_k", "to_v"].into_iter().zip(&qkv) {
        diffusers.insert(format!("transformer_blocks.0.attn.{part}.weight"), tensor(width, change(numbers)));
    }
    diffusers
        .insert("single_transformer_blocks.0.norm.linear.weight".to_owned(), tensor(width, change(&qkv[0])));
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    write(&path("native"), &native, Dtype::F32);
    write(&path("diffusers"), &diffusers, Dtype::F32);
    let output = path("out");
    for (base, tuned, sign) in [("native", "diffusers", 1.0), ("diffusers", "native", -1.0)] {
        let options = [("format", "full"), ("dtype", "float32")];
        extract(&path(base), &path(tuned), &output, &options).unwrap();
        let found = dense(&output);
        let modules: Vec<&str> = found.keys().map(|id| id.module.as_str()).collect();
        assert_eq!(
            modules,
            [
                "lora_unet_double_blocks_0_img_attn_qkv",
                "lora_unet_final_layer_adaLN_modulation_1",
                "lora_unet_single_blocks_0_modulation_lin"
            ]
        );
        for (matrix, (_, (_, before))) in found.values().zip(&native) {
            let truth: Vec<f64> = before.iter().zip(change(before)).map(|(w, t)| sign * (t - w)).collect();
            assert!(error(matrix, &truth) < 1e-6);
        }
    }
}

#[test]
fn a_conversion_between_dtypes_is_no_training() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let (before, after, truth) = sdxl(0.5);
    write(&path("base"), &before, Dtype::F32);
    write(&path("same"), &before, Dtype::F16);
    write(&path("tuned"), &after, Dtype::BF16);
    for (one, other) in [("base", "same"), ("same", "base")] {
        let error = extract(&path(one), &path(other), &path("out"), &[("format", "lora")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.message().contains("there is nothing to extract"), "{error}");
        assert!(!path("out").exists());
    }
    let report = extract(&path("base"), &path("tuned"), &path("out"), &[("format", "lora")]).unwrap();
    assert_eq!((report.layers.len(), report.unchanged), (truth.len(), 4));
}

#[test]
fn what_does_not_fit_together_is_said_by_name() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let (before, after, truth) = sdxl(0.5);
    write(&path("base"), &before, Dtype::F32);
    let shaped = "model.diffusion_model.time_embed.0.weight";
    let mut other = after.clone();
    other.insert(shaped.to_owned(), (vec![20, 9], vec![0.5; 180]));
    write(&path("shaped"), &other, Dtype::F32);
    let fails = |tuned: &str, options: &[(&str, &str)]| {
        extract(&path("base"), &path(tuned), &path("out"), options).unwrap_err()
    };
    let error = fails("shaped", &[("format", "lora")]);
    assert_eq!((error.kind(), error.layer()), (ErrorKind::Mismatch, Some(shaped)));
    assert!(error.message().contains("is 20×9 here") && error.message().contains("20×8 in"), "{error}");
    let options = [("format", "lora"), ("skip-unknown", "true")];
    let report = extract(&path("base"), &path("shaped"), &path("out"), &options).unwrap();
    assert_eq!(report.layers.len(), truth.len() - 1);
    assert!(report.warnings[0].contains(shaped), "{:?}", report.warnings);

    // A module that is missing, a network that is missing, and what no host lets an adapter change.
    let mut other = after.clone();
    other.remove(shaped);
    other.retain(|name, _| !name.starts_with("conditioner.embedders.1."));
    let embedding = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight";
    let mut base = before.clone();
    base.insert(embedding.to_owned(), (vec![4, 3], vec![0.5; 12]));
    base.insert("first_stage_model.decoder.conv_in.weight".to_owned(), (vec![2, 2], vec![0.5; 4]));
    base.insert("logit_scale".to_owned(), (vec![1], vec![0.5]));
    for (name, (shape, numbers)) in &base {
        if !before.contains_key(name) {
            other.insert(name.clone(), (shape.clone(), numbers.iter().map(|x| x + 1.0).collect()));
        }
    }
    write(&path("more"), &base, Dtype::F32);
    write(&path("less"), &other, Dtype::F32);
    let report = extract(&path("more"), &path("less"), &path("out"), &[("format", "lora")]).unwrap();
    let told = |text: &str| report.warnings.iter().any(|warning| warning.contains(text));
    assert!(told("1 module is not in") && told("time_embedding_linear_1"), "{:?}", report.warnings);
    assert!(told("has CLIP-G, which is left out"), "{:?}", report.warnings);
    assert!(
        told("3 tensors changed that no adapter") && told(embedding) && told("logit_scale"),
        "{:?}",
        report.warnings
    );

    let strange = [("something.weight".to_owned(), (vec![2, 2], vec![1.0; 4]))].into();
    write(&path("strange"), &strange, Dtype::F32);
    assert!(fails("strange", &[]).message().contains("no parameter in common"));
    let mut broken = after.clone();
    broken.get_mut("model.diffusion_model.time_embed.0.weight").unwrap().1[3] = f64::NAN;
    write_raw(&path("broken"), &broken);
    let error = fails("broken", &[("format", "lora")]);
    assert!(error.message().contains("not finite"), "{error}");
    assert_eq!(error.layer(), Some(shaped));
    for (options, says) in [
        (&[("format", "lokr")][..], "needs the option factor"),
        (&[("quality", "compact")][..], "use max-size or rank"),
        (&[("format", "lora"), ("max-size", "5kB")][..], "nothing that small"),
    ] {
        let error = fails("less", options);
        assert!(error.message().contains(says), "{error}");
    }
    let mut merge = Merge::new();
    merge
        .add(Arc::new(Adapter::open(format!("{REAL}/adapters/italic.lora.safetensors")).unwrap()), 1.0)
        .unwrap();
    let [base, tuned] = ["base", "less"].map(|name| Checkpoint::open(path(name)).unwrap());
    let error = merge.extract(&base, &tuned, &path("never"), &mut |_| true).unwrap_err();
    assert!(error.message().contains("two checkpoints"), "{error}");
    let error = Merge::new().extract(&base, &tuned, &path("never"), &mut |_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!path("never").exists());
}

/// float32 without a look at the numbers.
fn write_raw(path: &Path, model: &Model) {
    let file = fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(file, path.to_owned(), 0).unwrap();
    for (name, (shape, numbers)) in model {
        let data: Vec<u8> = numbers.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        writer.push(name, Dtype::F32, shape, &data).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap();
}

#[test]
fn other_namings_hold_the_same() {
    let folder = TempDir::new().unwrap();
    let [base, tuned, output] =
        ["base", "tuned", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    let (before, after, truth) = sdxl(0.5);
    write(&base, &before, Dtype::F32);
    write(&tuned, &after, Dtype::F32);
    let truth: BTreeMap<_, _> = truth.iter().map(|(name, delta)| (identify(name), delta)).collect();
    for (naming, name, down) in [
        ("diffusers", "unet.down_blocks.1.attentions.0.proj_in", "lora_A"),
        ("peft", "base_model.model.down_blocks.1.attentions.0.proj_in", "lora_A"),
        ("comfy", "diffusion_model.input_blocks.4.1.proj_in", "lora_A"),
        ("kohya", "lora_unet_input_blocks_4_1_proj_in", "lora_down"),
    ] {
        let options = [("format", "lora"), ("rank", "3"), ("dtype", "float32"), ("naming", naming)];
        extract(&base, &tuned, &output, &options).unwrap();
        let file = Container::open(&output).unwrap();
        assert!(file.get(&format!("{name}.{down}.weight")).is_some(), "{naming}");
        let found = dense(&output);
        assert_eq!(found.len(), truth.len());
        for (id, matrix) in found {
            let error = error(&matrix, truth[&identify(&id.module)]);
            assert!(error < 1e-5, "{naming} {}: {error:e}", id.module);
        }
    }
}

#[test]
fn norms_and_biases_are_stored_as_what_they_are() {
    let folder = TempDir::new().unwrap();
    let [base, tuned, output] =
        ["base", "tuned", "out"].map(|n| folder.path().join(format!("{n}.safetensors")));
    let (mut before, mut after, _) = sdxl(0.5);
    for (name, changed) in [
        ("model.diffusion_model.out.0.weight", true),
        ("model.diffusion_model.out.0.bias", true),
        ("model.diffusion_model.time_embed.0.bias", true),
        ("model.diffusion_model.middle_block.0.in_layers.2.bias", false),
    ] {
        before.insert(name.to_owned(), (vec![6], vec![0.5; 6]));
        let number = if changed { 0.75 } else { 0.5 };
        after.insert(name.to_owned(), (vec![6], vec![number; 6]));
    }
    write(&base, &before, Dtype::F16);
    write(&tuned, &after, Dtype::F16);
    extract(&base, &tuned, &output, &[("format", "lora")]).unwrap();
    let file = Container::open(&output).unwrap();
    for name in ["lora_unet_out_0.w_norm", "lora_unet_out_0.b_norm", "lora_unet_time_embed_0.diff_b"] {
        assert_eq!(file.get(name).unwrap().to_reals::<f64>(), [0.25; 6], "{name}");
    }
    assert!(file.get("lora_unet_middle_block_0_in_layers_2.diff_b").is_none());
    assert_eq!(file.metadata()["ss_base_model_version"], "sdxl_base_v1-0");
}
