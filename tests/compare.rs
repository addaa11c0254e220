//! Comparisons: every figure against what its definition says of dense matrices, the limits that it must reach, and
//! what it suggests.

mod support;

use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use lycomerge::adapter::OpenOptions;
use lycomerge::delta::{Factor, Term};
use lycomerge::model::Checkpoint;
use lycomerge::{Adapter, Comparison, ErrorKind, Merge};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use support::files;
use support::terms::{dense_term, shape, term, weight};

fn merge(inputs: &[(Arc<Adapter>, f64)]) -> Merge {
    let mut merge = Merge::new();
    inputs.iter().for_each(|(adapter, weight)| merge.add(Arc::clone(adapter), *weight).unwrap());
    merge
}

fn compare(merge: &Merge) -> Comparison {
    merge.compare(&mut |_| true).unwrap()
}

/// Of adapters with one layer.
fn of_terms(inputs: &[(&Term<f64>, f64)]) -> Comparison {
    let inputs: Vec<_> = inputs.iter().map(|(term, weight)| (files::adapter(term), *weight)).collect();
    compare(&merge(&inputs))
}

fn inner(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    (0..x.ncols()).flat_map(|j| (0..x.nrows()).map(move |i| (i, j))).map(|at| x[at] * y[at]).sum()
}

fn quotient(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let size = (inner(x, x) * inner(y, y)).sqrt();
    if size > 0.0 { inner(x, y) / size } else { 0.0 }
}

fn conflicts(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let (mut opposed, mut all) = (0.0, 0.0);
    for j in 0..x.ncols() {
        for i in 0..x.nrows() {
            let (x, y) = (x[(i, j)], y[(i, j)]);
            all += x.abs() + y.abs();
            opposed += if x * y < 0.0 { x.abs() + y.abs() } else { 0.0 };
        }
    }
    opposed / all
}

/// As the documentation defines it.
fn overlap(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let outputs = quotient(&(x * x.transpose()), &(y * y.transpose()));
    let inputs = quotient(&(x.transpose() * x), &(y.transpose() * y));
    (outputs * inputs).sqrt()
}

/// What the overlap is on average over rotations.
fn chance(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let side = |x: Mat<f64>, y: Mat<f64>| {
        let traces =
            (0..x.nrows()).map(|i| x[(i, i)]).sum::<f64>() * (0..y.nrows()).map(|i| y[(i, i)]).sum::<f64>();
        (traces / x.nrows() as f64 / (x.norm_l2() * y.norm_l2())).min(1.0)
    };
    let outputs = side(x * x.transpose(), y * y.transpose());
    (outputs * side(x.transpose() * x, y.transpose() * y)).sqrt()
}

fn near(got: f64, want: f64, within: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert!((got - want).abs() <= within, "{what}: {got} instead of {want}");
    Ok(())
}

fn low_rank(left: Mat<f64>, right: Mat<f64>) -> Term<f64> {
    Term::Plain(Factor::Product { left, right })
}

fn three() -> impl Strategy<Value = [Term<f64>; 3]> {
    shape().prop_flat_map(|shape| (term(shape), term(shape), term(shape))).prop_map(|(x, y, z)| [x, y, z])
}

proptest! {
    #[test]
    fn figures_are_those_of_the_dense_matrices(terms in three(), weights in [weight(), weight(), weight()]) {
        let inputs: Vec<_> = terms.iter().zip(weights).collect();
        let got = of_terms(&inputs);
        let dense: Vec<Mat<f64>> =
            inputs.iter().map(|(term, weight)| dense_term(term) * faer::Scale(*weight)).collect();
        prop_assume!(dense.iter().all(|x| x.norm_l2() > 1e-3));
        let mut sum = Mat::zeros(dense[0].nrows(), dense[0].ncols());
        dense.iter().for_each(|x| sum += x);
        let apart = dense.iter().map(|x| x.squared_norm_l2()).sum::<f64>().sqrt();
        near(got.kept, sum.norm_l2() / apart, 1e-6, "kept")?;
        for (i, x) in dense.iter().enumerate() {
            near(got.inputs[i].norm / x.norm_l2(), 1.0, 1e-9, "norm")?;
            for (j, y) in dense.iter().enumerate() {
                near(got.cosines[i][j], quotient(x, y), 1e-9, "cosine")?;
                near(got.overlaps[i][j], overlap(x, y), 1e-7, "overlap")?;
                near(got.chance_overlaps[i][j], chance(x, y), 1e-7, "chance")?;
                // Signs are those of float32.
                near(got.sign_conflicts[i][j], conflicts(x, y), 1e-5, "conflicts")?;
            }
        }
        prop_assert_eq!(got.blocks.len(), 1);
        prop_assert_eq!(&got.blocks[0].cosines, &got.cosines);
        prop_assert_eq!(&got.layers[0].norms, &got.blocks[0].norms);
        prop_assert_eq!((got.overlap_layers, got.sign_entries), (1, 1.0));
    }

    #[test]
    fn copies_are_one_and_their_negatives_cancel(x in shape().prop_flat_map(term), weight in weight()) {
        prop_assume!(dense_term(&x).norm_l2() > 1e-3);
        let same = of_terms(&[(&x, weight), (&x, weight)]);
        for (got, want, what) in [
            (same.cosines[0][1], 1.0, "cosine"),
            (same.overlaps[0][1], 1.0, "overlap"),
            (same.sign_conflicts[0][1], 0.0, "conflicts"),
            (same.kept, 2_f64.sqrt(), "kept"),
        ] {
            near(got, want, 1e-9, what)?;
        }
        let opposed = of_terms(&[(&x, weight), (&x, -weight)]);
        for (got, want, what) in [
            (opposed.cosines[0][1], -1.0, "cosine"),
            (opposed.overlaps[0][1], 1.0, "overlap"),
            (opposed.sign_conflicts[0][1], 1.0, "conflicts"),
            (opposed.kept, 0.0, "kept"),
        ] {
            near(got, want, 1e-7, what)?;
        }
    }
}

/// Columns of the identity.
fn unit(n: usize, columns: std::ops::Range<usize>) -> Mat<f64> {
    Mat::from_fn(n, columns.len(), |i, j| f64::from(u8::from(i == columns.start + j)))
}

#[test]
fn adapters_in_spaces_of_their_own_have_nothing_in_common() {
    let apart = |at: usize| low_rank(unit(12, at..at + 3), unit(10, at..at + 3).transpose().to_owned());
    let got = of_terms(&[(&apart(0), 1.0), (&apart(5), 2.0)]);
    assert_eq!((got.cosines[0][1], got.overlaps[0][1], got.sign_conflicts[0][1]), (0.0, 0.0, 0.0));
    assert!((got.kept - 1.0).abs() < 1e-12);
    assert!(got.advice.iter().any(|sentence| sentence.contains("orthogonal")), "{:?}", got.advice);
}

#[test]
fn signs_of_a_large_layer_are_counted_on_a_sample_that_tells_of_all() {
    let mut seed = 5_u64;
    let mut random = |rows: usize, cols: usize| {
        Mat::from_fn(rows, cols, |_, _| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        })
    };
    let (left, right) = (random(1500, 6), random(6, 700));
    let x = low_rank(left.clone(), right.clone());
    let y = low_rank(left + random(1500, 6), right);
    let got = of_terms(&[(&x, 1.0), (&y, 0.5)]);
    assert!(got.sign_entries > 0.1 && got.sign_entries < 0.3, "{}", got.sign_entries);
    let truth = conflicts(&dense_term(&x), &(dense_term(&y) * faer::Scale(0.5)));
    assert!((got.sign_conflicts[0][1] - truth).abs() < 0.01, "{} {truth}", got.sign_conflicts[0][1]);
}

#[test]
fn layers_without_low_rank_have_their_overlaps_too() {
    let mut seed = 9_u64;
    let mut full = || {
        let random = Mat::from_fn(420, 430, |_, _| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        });
        Term::Plain(Factor::Full(random))
    };
    let (x, y) = (full(), full());
    let got = of_terms(&[(&x, 1.0), (&y, 1.0)]);
    assert_eq!(got.overlap_layers, 1);
    let truth = overlap(&dense_term(&x), &dense_term(&y));
    assert!((got.overlaps[0][1] - truth).abs() < 1e-9, "{} {truth}", got.overlaps[0][1]);
    // Independent entries meet as often as chance says.
    assert!((got.chance_overlaps[0][1] - truth).abs() < 0.01, "{truth} {:?}", got.chance_overlaps);
}

fn real(name: &str) -> Arc<Adapter> {
    Arc::new(Adapter::open(Path::new("tests/data/real/adapters").join(name)).unwrap())
}

#[test]
fn the_file_is_its_blocks_and_its_layers_together() {
    let inputs = [(real("italic.lokr4.safetensors"), 0.7), (real("invert.loha.safetensors"), -1.2)];
    let got = compare(&merge(&inputs));
    for (k, input) in got.inputs.iter().enumerate() {
        let of_blocks = got.blocks.iter().map(|block| block.norms[k].powi(2)).sum::<f64>().sqrt();
        let of_layers = got.layers.iter().map(|layer| layer.norms[k].powi(2)).sum::<f64>().sqrt();
        assert!((of_blocks / input.norm - 1.0).abs() < 1e-12 && (of_layers / input.norm - 1.0).abs() < 1e-12);
    }
    let dot = |layer: &lycomerge::merge::compare::ComparedLayer| {
        layer.cosines[0][1] * layer.norms[0] * layer.norms[1]
    };
    let cosine = got.layers.iter().map(dot).sum::<f64>() / got.inputs[0].norm / got.inputs[1].norm;
    assert!((cosine - got.cosines[0][1]).abs() < 1e-12);
    assert_eq!(got.blocks.iter().map(|block| block.layers).sum::<usize>(), got.layers.len());
    assert_eq!(got.inputs[1].weight, -1.2);
}

#[test]
fn block_weights_count_as_they_do_in_a_merge() {
    let lokr = real("italic.lokr4.safetensors");
    let mut half = merge(&[(Arc::clone(&lokr), 1.0), (lokr, 1.0)]);
    half.set_block_weights(1, Some("*=0 M00=-1".parse().unwrap())).unwrap();
    let got = compare(&half);
    for block in &got.blocks {
        let (kept, cosine) = if block.block == "M00" { (0.0, -1.0) } else { (1.0, 0.0) };
        assert!(
            (block.kept - kept).abs() < 1e-6 && (block.cosines[0][1] - cosine).abs() < 1e-9,
            "{}",
            block.block
        );
    }
    assert!(got.cancelling().iter().all(|layer| layer.kept < 1e-6));
    assert!(got.advice.iter().any(|sentence| sentence.contains("cancel to less")), "{:?}", got.advice);
}

#[test]
fn the_same_figures_come_of_any_number_of_threads() {
    let mut all = merge(&[
        (real("italic.lokr4.safetensors"), 1.0),
        (real("invert.full.safetensors"), 0.5),
        (real("invert.lora.safetensors"), 0.3),
    ]);
    let jsons: Vec<String> = ["1", "2", "5"]
        .iter()
        .map(|threads| {
            all.options.set("threads", threads).unwrap();
            compare(&all).to_json()
        })
        .collect();
    assert!(jsons.iter().all(|json| *json == jsons[0]));
}

#[test]
fn the_advice_follows_from_the_figures() {
    let lora = real("italic.lora.safetensors");
    let said = |inputs: &[(Arc<Adapter>, f64)], word: &str| {
        let advice = compare(&merge(inputs)).advice;
        assert!(advice.iter().any(|sentence| sentence.contains(word)), "{word}: {advice:?}");
    };
    said(&[(Arc::clone(&lora), 1.0), (Arc::clone(&lora), 1.0)], "nearly the same");
    said(&[(Arc::clone(&lora), 1.0), (Arc::clone(&lora), -1.0)], "opposite directions");
    said(&[(Arc::clone(&lora), 1.0), (real("invert.lora.safetensors"), 0.05)], "times as strong");
}

#[test]
fn what_cannot_be_compared_is_an_error_that_says_why() {
    let one = merge(&[(real("italic.lora.safetensors"), 1.0)]);
    let error = one.compare(&mut |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert!(error.to_string().contains("two adapters or more"), "{error}");
    let lora = real("italic.lora.safetensors");
    let stopped = merge(&[(Arc::clone(&lora), 1.0), (lora, 1.0)]).compare(&mut |_| false).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
}

#[test]
fn adapters_over_a_base_compare_by_what_they_do_to_it() {
    let base = Some(Arc::new(Checkpoint::open(Path::new("tests/data/real/base.safetensors")).unwrap()));
    let path = Path::new("tests/data/real/adapters/italic.doralokr.safetensors");
    let dora = Arc::new(Adapter::open_with(path, &OpenOptions { base, ..OpenOptions::default() }).unwrap());
    let got = compare(&merge(&[(Arc::clone(&dora), 1.0), (dora, 1.0)]));
    assert!((got.cosines[0][1] - 1.0).abs() < 1e-12 && got.inputs[0].norm > 0.0);
}
