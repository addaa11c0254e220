//! PyTorch files are read as PyTorch reads them, and written so that PyTorch reads them (`tests/golden/make_torch.py`).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lycomerge::file::{Container, Writer};
use lycomerge::tensor::Dtype;
use lycomerge::{Adapter, ErrorKind, Merge};

fn golden(name: &str) -> PathBuf {
    Path::new("tests/golden/torch").join(name)
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(file: &Container) -> Tensors {
    let tensor = |name: &str| {
        let view = file.get(name).unwrap();
        (name.to_owned(), (view.dtype, view.shape.to_vec(), view.data.to_vec()))
    };
    file.names().map(tensor).collect()
}

fn read(path: &Path) -> Tensors {
    tensors(&Container::open(path).unwrap_or_else(|error| panic!("{error}")))
}

/// The bytes of a file of this name.
fn written(name: &str, tensors: &Tensors) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), name.into(), 0).unwrap();
    for (name, (dtype, shape, data)) in tensors {
        writer.push(name, *dtype, shape, data).unwrap();
    }
    let (sink, finished) = writer.finish(BTreeMap::new()).unwrap();
    assert_eq!(finished.byte_len, sink.get_ref().len() as u64);
    sink.into_inner()
}

#[test]
fn every_layout_holds_the_tensors_that_pytorch_saved() {
    let wanted = read(&golden("kinds.safetensors"));
    assert_eq!(wanted.len(), 35);
    for layout in ["zip", "legacy", "protocol4", "legacy4", "deflated", "unchecked"] {
        let path = golden(&format!("kinds.{layout}.pt"));
        let mapped = Container::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let memory = Container::from_bytes("x", fs::read(&path).unwrap()).unwrap();
        assert!(mapped.metadata().is_empty() && mapped.names().eq(wanted.keys()), "{layout}");
        for found in [tensors(&mapped), tensors(&memory)] {
            for (name, tensor) in &wanted {
                assert_eq!(&found[name], tensor, "{layout}: {name}");
            }
        }
    }
}

#[test]
fn what_lies_in_order_is_borrowed_from_the_file() {
    let borrowed = |layout: &str, name: &str| {
        let file = Container::open(&golden(&format!("kinds.{layout}.pt"))).unwrap();
        let inside = file.bytes().as_ptr_range();
        inside.contains(&file.get(name).unwrap().data.as_ptr())
    };
    for layout in ["zip", "legacy"] {
        for name in ["float.float16", "view.whole", "view.offset", "view.rows", "shape.scalar_of_many"] {
            assert!(borrowed(layout, name), "{layout}: {name}");
        }
        assert!(!borrowed(layout, "view.transposed"));
    }
    assert!(!borrowed("deflated", "float.float16"));
}

#[test]
fn a_checkpoint_s_state_dict_is_found_beside_other_things() {
    assert_eq!(read(&golden("nested.pt")), read(&golden("nested.safetensors")));
}

#[test]
fn numbers_under_a_parameter_s_name_are_scalars() {
    let file = Container::open(&golden("numbers.pt")).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a.alpha", "a.up", "b.alpha"]);
    let scalar = |name| file.get(name).unwrap().to_reals::<f64>();
    assert_eq!((scalar("a.alpha"), scalar("b.alpha")), (vec![4.0], vec![0.5]));
    assert!(file.get("a.alpha").unwrap().shape.is_empty());
}

#[test]
fn what_is_no_plain_state_dict_is_refused_for_what_it_is() {
    for (name, kind, says) in [
        ("negated", ErrorKind::Unsupported, "tensor 'a.b': its numbers are stored negated or conjugated"),
        ("complex", ErrorKind::Unsupported, "tensor 'a.b': its elements (ComplexFloatStorage) are of a kind"),
        ("fnuz", ErrorKind::Unsupported, "tensor 'a.b': its elements (float8_e4m3fnuz) are of a kind"),
        ("sparse", ErrorKind::Unsupported, "call torch.serialization._get_layout"),
        ("quantized", ErrorKind::Unsupported, "call torch._utils._rebuild_qtensor"),
        ("module", ErrorKind::Unsupported, "call torch.nn.modules.linear.Linear"),
        ("script", ErrorKind::Unsupported, "this is a TorchScript program"),
        ("big_endian", ErrorKind::Unsupported, "big-endian machine"),
        ("tensor", ErrorKind::Format, "something else than a dict of tensors"),
        ("no_tensors", ErrorKind::Format, "the file holds no tensors"),
        ("several", ErrorKind::Unsupported, "several sets of tensors ('first', 'second')"),
        (
            "mixed",
            ErrorKind::Unsupported,
            "several sets of tensors ('state_dict', beside tensors of its own)",
        ),
    ] {
        let path = golden(&format!("refused/{name}.pt"));
        let error = Container::open(&path).expect_err(name);
        assert!(error.message().contains(says), "{name}: {error}");
        assert_eq!((error.kind(), error.file()), (kind, Some(path.as_path())), "{name}");
    }
}

#[test]
fn a_written_file_is_the_one_that_pytorch_loads() {
    let wanted = read(&golden("kinds.safetensors"));
    let bytes = written("written.pt", &wanted);
    // What is to be checked by make_torch.py and committed if it differs from the golden file for a reason.
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("written.pt"), &bytes).unwrap();
    assert_eq!(tensors(&Container::from_bytes("x", bytes.clone()).unwrap()), wanted);
    assert!(
        bytes == fs::read(golden("written.pt")).unwrap(),
        "other bytes than those that PyTorch was shown"
    );
}

#[test]
fn a_file_without_tensors_is_written_and_says_so() {
    let error = Container::from_bytes("x", written("none.pt", &Tensors::new())).unwrap_err();
    assert!(error.message().contains("holds no tensors"), "{error}");
}

#[test]
fn saving_turns_one_format_into_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (torch, safe) = (folder.path().join("a.ckpt"), folder.path().join("a.safetensors"));
    let original = Container::open(&golden("kinds.safetensors")).unwrap();
    original.save(&torch).unwrap();
    Container::open(&torch).unwrap().save(&safe).unwrap();
    assert_eq!((read(&torch), read(&safe)), (tensors(&original), tensors(&original)));
    original.save(&safe).unwrap();
    assert!(fs::read(&safe).unwrap() == original.bytes(), "the same format is copied");
}

fn open(path: impl AsRef<Path>) -> Arc<Adapter> {
    Arc::new(Adapter::open(path).unwrap())
}

fn real(name: &str) -> PathBuf {
    Path::new("tests/data/real/adapters").join(name)
}

#[test]
fn an_adapter_means_the_same_in_either_format() {
    let (torch, safe) = (open(golden("adapter.pt")), open(real("invert.lokr8both.safetensors")));
    assert_eq!((torch.kind(), torch.dtype()), (safe.kind(), safe.dtype()));
    assert!(torch.layers().keys().eq(safe.layers().keys()) && torch.layers().len() > 50);
    let merged = |invert: Arc<Adapter>| {
        let mut merge = Merge::new();
        merge.add(open(real("italic.lokr8both.safetensors")), 0.5).unwrap();
        merge.add(invert, 0.7).unwrap();
        let (bytes, _) = merge.run_in_memory(&mut |_| true).unwrap();
        tensors(&Container::from_bytes("merged", bytes).unwrap())
    };
    assert!(merged(torch) == merged(safe));
}

#[test]
fn a_merge_into_a_pytorch_file_has_the_same_tensors_and_keeps_to_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let merged = |name: &str, max_size: Option<&str>| {
        let path = folder.path().join(name);
        let mut merge = Merge::new();
        merge.add(open(golden("adapter.pt")), 1.0).unwrap();
        merge.add(open(real("italic.lokr8both.safetensors")), 1.0).unwrap();
        if let Some(size) = max_size {
            merge.options.set("max-size", size).unwrap();
        }
        let report = merge.run_to(&path, &mut |_| true).unwrap();
        assert_eq!(report.bytes, fs::metadata(&path).unwrap().len());
        assert_eq!(report.recipe.inputs[0].name, "adapter.pt");
        path
    };
    let (torch, safe) = (merged("a.pt", None), merged("a.safetensors", None));
    assert!(read(&torch) == read(&safe));
    assert!(
        fs::read(&torch).unwrap() == fs::read(merged("b.pt", None)).unwrap(),
        "the same bytes every time"
    );
    assert!(fs::metadata(merged("c.pt", Some("300kB"))).unwrap().len() <= 300_000);
}
