//! PyTorch files are read as PyTorch reads them (`tests/golden/make_torch.py`).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lycomerge::file::Container;
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
