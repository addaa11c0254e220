//! Every method against dense float64 computations of its formula (`tests/golden/make_strategies_spectral.py`), and what
//! must hold for any models.

use std::collections::BTreeMap;
use std::path::Path;

use faer::{Mat, Scale};
use proptest::prelude::*;

use super::super::{ALL, Given, Rule, Spectral, by_name};
use super::tsv;
use crate::compute::linalg::{centred_uniform, singular_values};
use crate::delta::{Delta, Factor, Term};
use crate::file::Container;
use crate::merge::rule::spectral;

fn method(name: &str, given: &[(&str, &str)], count: usize) -> Box<dyn Spectral> {
    let given: Given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    match by_name(name).unwrap().rule(&given, count).unwrap() {
        Rule::Spectral(rule) => rule,
        _ => panic!("{name} is not a spectral method"),
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    let is_spectral = |row: &&&super::Row| matches!(row.rule(&Given::new(), 2).unwrap(), Rule::Spectral(_));
    ALL.iter().filter(is_spectral).map(|row| row.name)
}

/// The merge as a matrix.
fn merged(name: &str, given: &[(&str, &str)], deltas: &[Delta<f64>], weights: &[f64]) -> Mat<f64> {
    let rule = method(name, given, deltas.len());
    spectral(deltas, weights, &*rule).unwrap().to_full()
}

fn distance(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    assert_eq!(x.shape(), y.shape());
    (x - y).norm_l2() / y.norm_l2()
}

fn random(rows: usize, cols: usize, seed: &mut u64) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| centred_uniform(seed))
}

fn low(left: Mat<f64>, right: Mat<f64>) -> Delta<f64> {
    Delta::of(1.0, Term::Plain(Factor::Product { left, right }))
}

fn lora(rows: usize, cols: usize, rank: usize, seed: &mut u64) -> Delta<f64> {
    low(random(rows, rank, seed), random(rank, cols, seed))
}

fn sum(deltas: &[Delta<f64>], weights: &[f64]) -> Mat<f64> {
    let mut sum = Delta::zero(deltas[0].rows(), deltas[0].cols());
    deltas.iter().zip(weights).for_each(|(delta, weight)| sum.add_scaled(*weight, delta));
    sum.to_full()
}

fn rank(matrix: &Mat<f64>) -> usize {
    let sigma = singular_values(matrix.as_ref()).unwrap();
    sigma.iter().filter(|value| **value > 1e-9 * sigma[0]).count()
}

#[test]
fn every_method_is_its_formula_on_dense_matrices() {
    let file = Container::open(Path::new("tests/golden/strategies/spectral.safetensors")).unwrap();
    let read = |name: &str| {
        let view = file.get(name)?;
        let (rows, cols) = (view.shape[0], view.shape[1]);
        let numbers: Vec<f64> = view.to_reals();
        Some(Mat::from_fn(rows, cols, |i, j| numbers[i * cols + j]))
    };
    let cases: BTreeMap<String, Vec<f64>> = serde_json::from_str(&file.metadata()["cases"]).unwrap();
    let methods: Vec<(String, String, Given)> = serde_json::from_str(&file.metadata()["methods"]).unwrap();
    for (case, weights) in cases {
        let delta = |i: usize| match read(&format!("{case}.{i}.full")) {
            Some(full) => Delta::of(1.0, Term::Plain(Factor::Full(full))),
            None => {
                low(read(&format!("{case}.{i}.left")).unwrap(), read(&format!("{case}.{i}.right")).unwrap())
            }
        };
        let deltas: Vec<_> = (0..weights.len()).map(delta).collect();
        for (key, name, given) in &methods {
            let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let error =
                distance(&merged(name, &given, &deltas, &weights), &read(&format!("{case}.{key}")).unwrap());
            assert!(error < 1e-10, "{key} of {case}: {error:e}");
        }
    }
}

#[test]
fn a_model_that_comes_several_times_counts_once_where_the_method_says_so() {
    let delta = lora(20, 30, 4, &mut 5);
    let three = vec![delta.clone(); 3];
    for name in ["tsv", "svc", "wudi"] {
        let error = distance(&merged(name, &[], &three, &[1.0; 3]), &delta.to_full());
        assert!(error < 1e-10, "{name}: {error:e}");
    }
    // It holds all of the sum, and does no more.
    let error = distance(&merged("ctm", &[], &three, &[1.0; 3]), &sum(&three, &[1.0; 3]));
    assert!(error < 1e-10, "ctm: {error:e}");
}

#[test]
fn effects_that_cancel_are_nothing_afterwards() {
    let (one, mut two) = (lora(20, 30, 4, &mut 5), Delta::zero(20, 30));
    // The same effect by other factors.
    let (left, right) = one.to_product();
    two.add_scaled(1.0, &low(Scale(3.0) * left, Scale(1.0 / 3.0) * right));
    for name in names() {
        let left = merged(name, &[], &[one.clone(), two.clone()], &[1.0, -1.0]).norm_l2();
        assert!(left < 1e-12 * one.to_full().norm_l2(), "{name}: {left:e}");
    }
}

#[test]
fn nothing_comes_of_models_that_weigh_or_do_nothing() {
    let (one, other) = (lora(12, 9, 3, &mut 1), lora(12, 9, 2, &mut 2));
    let nothing = low(Mat::zeros(12, 2), random(2, 9, &mut 3));
    for name in names() {
        assert_eq!(merged(name, &[], &[one.clone(), other.clone()], &[0.0, 0.0]).norm_l2(), 0.0, "{name}");
        let alone = merged(name, &[], std::slice::from_ref(&one), &[0.5]);
        let beside = merged(name, &[], &[one.clone(), other.clone()], &[0.5, 0.0]);
        assert!(distance(&beside, &alone) < 1e-10, "{name}");
        assert_eq!(merged(name, &[], &vec![nothing.clone(); 2], &[1.0, 1.0]).norm_l2(), 0.0, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn only_effects_count_and_their_scale_and_no_order(mut seed in any::<u64>(), first in 1_usize..6, second in 1_usize..6) {
        let deltas = [lora(24, 19, first, &mut seed), lora(24, 19, second, &mut seed), lora(24, 19, 3, &mut seed)];
        let weights = [1.0, -0.6, 0.8];
        for name in names() {
            let want = merged(name, &[], &deltas, &weights);
            // B → B G, A → G⁻¹ A
            let gauged: Vec<_> = deltas.iter().map(|delta| {
                let (left, right) = delta.to_product();
                let size = left.ncols();
                let gauge = Mat::<f64>::identity(size, size) + Scale(0.7) * random(size, size, &mut seed);
                let inverse = faer::prelude::Solve::solve(&gauge.partial_piv_lu(), &right);
                low(Scale(20.0) * left * &gauge, Scale(0.05) * inverse)
            }).collect();
            prop_assert!(distance(&merged(name, &[], &gauged, &weights), &want) < 1e-7, "{} by other factors", name);
            let turned: Vec<_> = deltas.iter().rev().cloned().collect();
            let found = merged(name, &[], &turned, &[0.8, -0.6, 1.0]);
            prop_assert!(distance(&found, &want) < 1e-7, "{} in another order", name);
            for scale in [0.3, -2.0] {
                let found = merged(name, &[], &deltas, &weights.map(|weight| scale * weight));
                prop_assert!(distance(&found, &(Scale(scale) * &want)) < 1e-7, "{} times {}", name, scale);
            }
        }
    }

    #[test]
    fn task_singular_vectors_are_orthogonal(mut seed in any::<u64>(), ranks in prop::collection::vec(1_usize..6, 2..5)) {
        let models: Vec<_> = ranks.iter().map(|rank| lora(30, 24, *rank, &mut seed).to_full()).collect();
        let (left, sigma, right) = tsv::factors(&models, 24).unwrap();
        prop_assert_eq!(sigma.len(), ranks.iter().sum::<usize>());
        for side in [left, right] {
            let gram = side.transpose() * &side;
            prop_assert!((gram - Mat::<f64>::identity(sigma.len(), sigma.len())).norm_max() < 1e-11);
        }
    }

    #[test]
    fn isotropic_merges_are_flat_over_their_rank_and_fill_nothing(mut seed in any::<u64>(), same in any::<bool>()) {
        let one = lora(30, 24, 5, &mut seed);
        let other = if same { one.clone() } else { lora(30, 24, 6, &mut seed) };
        let deltas = [one, other];
        let held = rank(&sum(&deltas, &[1.0, 0.5]));
        for name in ["iso_c", "iso_cts"] {
            let merged = merged(name, &[], &deltas, &[1.0, 0.5]);
            let sigma = singular_values(merged.as_ref()).unwrap();
            prop_assert_eq!(rank(&merged), held);
            prop_assert!(sigma[..held].iter().all(|value| (value / sigma[0] - 1.0).abs() < 1e-9), "{}: {:?}", name, sigma);
        }
        // All of the rank in common is Iso-C, and so is a single model.
        let common = merged("iso_cts", &[("common_space_fraction", "1")], &deltas, &[1.0, 0.5]);
        prop_assert!(distance(&common, &merged("iso_c", &[], &deltas, &[1.0, 0.5])) < 1e-9);
        let single = merged("iso_cts", &[], &deltas[..1], &[1.0]);
        prop_assert!(distance(&single, &merged("iso_c", &[], &deltas[..1], &[1.0])) < 1e-9);
    }

    #[test]
    fn methods_end_in_the_weighted_sum(mut seed in any::<u64>()) {
        let deltas = [lora(26, 31, 4, &mut seed), lora(26, 31, 3, &mut seed)];
        let weights = [1.0, 0.7];
        let linear = sum(&deltas, &weights);
        for (name, given) in [("subspace_boost", ("beta", "1")), ("ctm", ("subspace_rank", "7")), ("ctm", ("subspace_rank", "100"))] {
            prop_assert!(distance(&merged(name, &[given], &deltas, &weights), &linear) < 1e-9, "{}", name);
        }
        // Models of separate inputs and outputs have nothing to be settled between them.
        let pad = |matrix: &Mat<f64>, rows, cols, top, left| {
            let mut all = Mat::zeros(rows, cols);
            all.submatrix_mut(top, left, matrix.nrows(), matrix.ncols()).copy_from(matrix);
            all
        };
        let (a, b) = (deltas[0].to_product(), deltas[1].to_product());
        let apart = [
            low(pad(&a.0, 52, 4, 0, 0), pad(&a.1, 4, 62, 0, 0)),
            low(pad(&b.0, 52, 3, 26, 0), pad(&b.1, 3, 62, 0, 31)),
        ];
        let linear = sum(&apart, &weights);
        for name in ["tsv", "svc", "wudi"] {
            prop_assert!(distance(&merged(name, &[], &apart, &weights), &linear) < 1e-9, "{}", name);
        }
        // One model is what it is.
        for name in ["tsv", "svc", "wudi", "pico", "ctm"] {
            let alone = merged(name, &[], &deltas[..1], &[0.7]);
            prop_assert!(distance(&alone, &sum(&deltas[..1], &[0.7])) < 1e-9, "{} of one model", name);
        }
    }

    #[test]
    fn the_rank_of_compressed_merges_is_what_was_asked(mut seed in any::<u64>(), wanted in 1_usize..8) {
        let deltas: Vec<_> = (0..5).map(|_| lora(26, 31, 4, &mut seed)).collect();
        let text = wanted.to_string();
        prop_assert_eq!(rank(&merged("ctm", &[("subspace_rank", &text)], &deltas, &[1.0; 5])), wanted);
        prop_assert_eq!(rank(&merged("ctm", &[], &deltas, &[1.0; 5])), 4);
    }

    #[test]
    fn pico_is_as_strong_as_its_models_on_average(mut seed in any::<u64>()) {
        let deltas = [lora(26, 31, 4, &mut seed), lora(26, 31, 3, &mut seed)];
        let norm: f64 = merged("pico", &[], &deltas, &[1.0, -0.5]).norm_l2();
        let want = (deltas[0].to_full().norm_l2() + 0.5 * deltas[1].to_full().norm_l2()) / 2.0;
        prop_assert!((norm / want - 1.0).abs() < 1e-9);
    }
}
