//! Layers whose convolution's kernel a file doesn't tell are stored so that hosts can load them whatever it is.

mod support;

use lycomerge::adapter::LayerId;
use lycomerge::tensor::Dtype;
use lycomerge::{Adapter, Merge};
use support::files::{MODULE, safetensors};

const KERNEL: [usize; 2] = [3, 3];

/// A LoKr of a 3×3 convolution with 8 outputs and 4 inputs, w2 decomposed (flat, as trainers store it) or whole.
fn convolution(decomposed: bool, seed: usize) -> Adapter {
    let numbers = |n: usize, from: usize| -> Vec<f64> {
        (0..n).map(|i| (((i + 3) * (i + from) * 7 + 13 * seed) % 31) as f64 / 16.0 - 1.0).collect()
    };
    let name = |suffix: &str| format!("{MODULE}.{suffix}");
    let w1 = (name("lokr_w1"), vec![2, 2], numbers(4, 1));
    let w2 = if decomposed {
        vec![
            (name("lokr_w2_a"), vec![4, 4], numbers(16, 2)),
            (name("lokr_w2_b"), vec![4, 18], numbers(72, 3)),
        ]
    } else {
        vec![(name("lokr_w2"), [&[4, 2], &KERNEL[..]].concat(), numbers(72, 4))]
    };
    let tensors: Vec<_> = [w1].into_iter().chain(w2).collect();
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, shape, numbers)| (name.as_str(), shape.as_slice(), numbers.as_slice()))
        .collect();
    Adapter::from_bytes("memory", safetensors(&views, Dtype::F32)).unwrap()
}

fn delta(adapter: &Adapter) -> faer::Mat<f64> {
    let (id, layer): (&LayerId, _) = adapter.layers().first_key_value().unwrap();
    adapter.delta(id, layer).unwrap().to_full()
}

/// What two of them, whose sum has full rank, are stored as: suffixes with shapes, and the warnings.
fn merged(decomposed: bool, format: &str) -> (Vec<(String, Vec<usize>)>, Vec<String>) {
    let inputs = [1, 2].map(|seed| convolution(decomposed, seed));
    let want = delta(&inputs[0]) + delta(&inputs[1]);
    let mut merge = Merge::new();
    inputs.into_iter().for_each(|adapter| merge.add(adapter.into(), 1.0).unwrap());
    merge.options.set("format", format).unwrap();
    let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
    let stored = Adapter::from_bytes("memory", bytes).unwrap();
    assert!((delta(&stored) - &want).norm_l2() < 1e-3 * want.norm_l2());
    let tensors =
        report.layers[0].tensors.iter().map(|tensor| (tensor.suffix.to_owned(), tensor.shape.clone()));
    (tensors.filter(|(suffix, _)| suffix != ".alpha").collect(), report.warnings)
}

fn named(expected: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    expected.iter().map(|(suffix, shape)| ((*suffix).to_owned(), shape.to_vec())).collect()
}

#[test]
fn all_entries_of_a_layer_of_unknown_kernel_are_a_lokr_which_hosts_reshape() {
    let (tensors, warnings) = merged(true, "auto");
    assert_eq!(tensors, named(&[(".lokr_w1", &[1, 1]), (".lokr_w2", &[8, 36])]));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_flat_difference_is_stored_only_on_request_and_with_a_warning() {
    let (tensors, warnings) = merged(true, "full");
    assert_eq!(tensors, named(&[(".diff", &[8, 36])]));
    assert!(warnings[0].contains("kernel of 1 layer is not known"), "{warnings:?}");
}

#[test]
fn a_known_kernel_is_that_of_the_difference() {
    let (tensors, warnings) = merged(false, "auto");
    assert_eq!(tensors, named(&[(".diff", &[8, 4, 3, 3])]));
    assert!(warnings.is_empty(), "{warnings:?}");
}
