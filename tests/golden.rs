//! Every family's delta equals what lycoris-lora's own forward pass does (`tests/golden/make_golden.py`), what the
//! formats' published test vectors say, and what trained adapters do (`tests/data/real`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use lycomerge::Adapter;
use lycomerge::adapter::{LayerId, OpenOptions, Param};
use lycomerge::file::{Container, Writer};
use lycomerge::model::Checkpoint;
use lycomerge::tensor::{Dtype, encode};

/// Deltas by layer, as stored: flattened to rows × the rest.
fn truth(path: &Path, module: impl Fn(&str) -> String) -> BTreeMap<LayerId, Mat<f64>> {
    let file = Container::open(path).unwrap();
    let mut deltas = BTreeMap::new();
    for name in file.names() {
        let (path, param) = name.rsplit_once('.').unwrap();
        let param = if param == "bias" { Param::Bias } else { Param::Weight };
        let view = file.get(name).unwrap();
        let numbers: Vec<f64> = view.to_reals();
        let rows = view.shape.first().copied().unwrap_or(1);
        let matrix = Mat::from_fn(rows, numbers.len() / rows, |i, j| numbers[i * (numbers.len() / rows) + j]);
        deltas.insert(LayerId { module: module(path), param }, matrix);
    }
    assert!(!deltas.is_empty());
    deltas
}

fn assert_deltas(adapter: &Path, truth: &BTreeMap<LayerId, Mat<f64>>, allowed: f64) {
    assert_deltas_of(&Adapter::open(adapter).unwrap(), truth, allowed);
}

fn assert_deltas_of(adapter: &Adapter, truth: &BTreeMap<LayerId, Mat<f64>>, allowed: f64) {
    for (id, want) in truth {
        let layer = adapter.layers().get(id).unwrap_or_else(|| panic!("{id:?} is missing"));
        let got = adapter.delta::<f64>(id, layer).unwrap().to_full();
        assert_eq!(got.shape(), want.shape(), "{id:?}");
        let error = (&got - want).norm_l2() / want.norm_l2();
        assert!(error <= allowed, "{}: {id:?}: {error:e}", adapter.path().display());
    }
}

#[test]
fn every_family_gives_the_delta_of_lycoris_loras_forward_pass() {
    let golden = Path::new("tests/golden");
    for group in ["lora", "loha", "lokr", "direct"] {
        let truth =
            truth(&golden.join(format!("{group}.delta.safetensors")), |case| format!("lora_unet_{case}"));
        let file = golden.join(format!("{group}.safetensors"));
        assert_eq!(
            Adapter::open(&file).unwrap().layers().len(),
            truth.len(),
            "{group}: every layer has a truth"
        );
        assert_deltas(&file, &truth, 1e-12);
    }
}

/// What `tests/golden/make_based.py` wrote.
#[test]
fn every_family_that_needs_the_base_gives_the_delta_of_its_library() {
    let golden = Path::new("tests/golden");
    let base = Arc::new(Checkpoint::open(golden.join("based.base.safetensors")).unwrap());
    let options = OpenOptions { base: Some(base), ..OpenOptions::default() };
    let oft = ["neumann_2", "neumann_3", "neumann_8", "exact", "coft"].map(|kind| format!("peft_oft_{kind}"));
    for group in ["based", "defined", "peft"].into_iter().chain(oft.iter().map(String::as_str)) {
        let adapter = Adapter::open_with(golden.join(format!("{group}.safetensors")), &options).unwrap();
        let truth = truth(&golden.join(format!("{group}.delta.safetensors")), |case| {
            format!("{}_unet_{case}", if case.starts_with("sd_") { "oft" } else { "lora" })
        });
        assert_eq!(adapter.layers().len(), truth.len(), "{group}: every layer has a truth");
        // sd-scripts' rotation by an alpha of 0 is one by 1e-9, of which W' − W keeps half the digits.
        assert_deltas_of(&adapter, &truth, if group == "defined" { 1e-7 } else { 1e-12 });
    }
}

/// The group `weak` of `tests/golden/make_based.py`.
#[test]
fn a_strength_does_what_it_does_in_the_library() {
    let golden = Path::new("tests/golden");
    let base = Some(Arc::new(Checkpoint::open(golden.join("based.base.safetensors")).unwrap()));
    let options = OpenOptions { base, ..OpenOptions::default() };
    let adapter = Adapter::open_with(golden.join("weak.safetensors"), &options).unwrap();
    let truth = truth(&golden.join("weak.delta.safetensors"), |case| format!("lora_unet_{case}"));
    assert_eq!(adapter.layers().len(), truth.len());
    for (id, want) in truth {
        let got = adapter.delta_at::<f64>(0.6, &id, &adapter.layers()[&id]).unwrap().to_full();
        let error = (&got - &want).norm_l2() / want.norm_l2();
        assert!(error < 1e-12, "{id:?}: {error:e}");
        let nothing = adapter.delta_at::<f64>(0.0, &id, &adapter.layers()[&id]).unwrap();
        assert_eq!(nothing.to_full().norm_l2(), 0.0, "{id:?}");
    }
}

#[test]
fn trained_adapters_do_what_their_trainer_measured() {
    let real = Path::new("tests/data/real");
    let base = Some(Arc::new(Checkpoint::open(real.join("base.safetensors")).unwrap()));
    let options = OpenOptions { base, ..OpenOptions::default() };
    let mut files = 0;
    for entry in std::fs::read_dir(real.join("truth")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().replace(".delta", "");
        let truth = truth(&path, |module| format!("lora_unet_{}", module.replace('.', "_")));
        let adapter = Adapter::open_with(real.join("adapters").join(name), &options).unwrap();
        assert_deltas_of(&adapter, &truth, 1e-6);
        files += 1;
    }
    assert_eq!(files, 12);
}

/// The vectors' number generator: exact in 16-bit floats.
fn vector_tensor(seed: u64, shape: &[usize]) -> Vec<f64> {
    let count: usize = shape.iter().product();
    (0..count as u64).map(|i| (((73 * i + 31 * seed + 17) % 101) as f64 - 50.0) / 64.0).collect()
}

#[test]
fn the_published_test_vectors_hold() {
    let vectors: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string("tests/golden/vectors.json").unwrap()).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let mut tensors = BTreeMap::new();
        for (suffix, tensor) in vector["tensors"].as_object().unwrap() {
            let shape: Vec<usize> =
                tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            let numbers = vector_tensor(tensor["seed"].as_u64().unwrap(), &shape);
            tensors.insert(format!("m.{}", suffix.trim_start_matches('.')), (shape, numbers));
        }
        tensors.insert("m.alpha".to_owned(), (Vec::new(), vec![vector["alpha"].as_f64().unwrap()]));
        let mut writer = Writer::new(std::io::Cursor::new(Vec::new()), "vector".into(), 1024).unwrap();
        for (name, (shape, numbers)) in &tensors {
            let mut data = Vec::new();
            encode(numbers, Dtype::F32, &mut data).unwrap();
            writer.push(name, Dtype::F32, shape, &data).unwrap();
        }
        let bytes = writer.finish(BTreeMap::new()).unwrap().0.into_inner();
        let adapter = Adapter::from_bytes("vector", bytes).unwrap();
        let (id, layer) = adapter.layers().iter().next().unwrap();
        let delta = adapter.delta::<f64>(id, layer).unwrap().to_full();
        let name = &vector["name"];
        let close = |got: f64, want: &serde_json::Value| (got - want.as_f64().unwrap()).abs() < 2e-8;
        assert!(close(delta.sum(), &vector["sum"]), "{name}: {}", delta.sum());
        assert!(close(delta.norm_l2(), &vector["norm"]), "{name}: {}", delta.norm_l2());
        for (j, want) in vector["first"].as_array().unwrap().iter().enumerate() {
            let got = delta[(j / delta.ncols(), j % delta.ncols())];
            assert!(close(got, want), "{name}: entry {j} is {got}, not {want}");
        }
    }
}

/// The change of every module that PEFT or diffusers makes, as this library reads it.
fn assert_as_written(adapter: &Path, truth_file: &Path, prefix: &str) {
    let opened = Adapter::open(adapter).unwrap_or_else(|e| panic!("{e}"));
    let truth = truth(truth_file, |path| format!("{prefix}{path}"));
    assert_eq!(opened.layers().len(), truth.len(), "{}", adapter.display());
    assert_deltas(adapter, &truth, 1e-6);
}

#[test]
fn folders_of_peft_do_what_peft_does() {
    let mut folders = 0;
    for entry in std::fs::read_dir("tests/golden/names").unwrap() {
        let folder = entry.unwrap().path();
        let Some(model) = ["adapter_model.safetensors", "adapter_model.bin"]
            .iter()
            .map(|name| folder.join(name))
            .find(|file| file.exists())
        else {
            continue;
        };
        for path in [&folder, &model, &folder.join("adapter_config.json")] {
            assert_as_written(path, &folder.join("delta.safetensors"), "base_model.model.");
        }
        folders += 1;
    }
    assert_eq!(folders, 10);
}

#[test]
fn files_of_diffusers_do_what_diffusers_does_in_every_generation() {
    for generation in ["metadata", "old", "oldest"] {
        let file =
            |ending: &str| Path::new("tests/golden/names/diffusers").join(format!("{generation}{ending}"));
        assert_as_written(&file(".safetensors"), &file(".delta.safetensors"), "");
        let warnings = Adapter::open(file(".safetensors")).unwrap().warnings().join("\n");
        assert_eq!(warnings.contains("their scale is taken as 1"), generation != "metadata", "{warnings}");
    }
}

#[test]
fn parameters_that_peft_stores_whole_are_passed_on_and_said() {
    let adapter = Adapter::open("tests/golden/names/saved").unwrap();
    let names: Vec<&str> = adapter.passengers().map(|(name, _)| name).collect();
    assert!(names.contains(&"base_model.model.norm.weight"), "{names:?}");
    assert!(names.contains(&"base_model.model.mid.to_q.base_layer.bias"), "{names:?}");
    assert!(adapter.warnings().iter().any(|warning| warning.contains("hold a parameter itself")));
}
