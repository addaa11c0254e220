//! The strategies that need norms and angles alone: what other tools make of the same models
//! (`tests/golden/make_strategies_gram.py`), and the identities that define them, on random terms of every kind.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use lycomerge::delta::{Delta, Term};
use lycomerge::file::Container;
use lycomerge::merge::{MergedDelta, strategy};
use lycomerge::{Adapter, Merge, Report};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value;
use support::files;
use support::terms::{low_rank, shape, term, weight};

/// What every layer becomes, row-major, by its name.
type Deltas = BTreeMap<String, Vec<f64>>;

fn merge(inputs: &[(Arc<Adapter>, f64)], settings: &[(&str, &str)]) -> Merge {
    let mut merge = Merge::new();
    for (adapter, weight) in inputs {
        merge.add(Arc::clone(adapter), *weight).unwrap();
    }
    for (name, value) in [("dtype", "float64")].iter().chain(settings) {
        merge.options.set(name, value).unwrap();
    }
    merge
}

fn deltas(merge: &Merge) -> Result<Deltas, lycomerge::Error> {
    let mut found = Deltas::new();
    let take = |delta: MergedDelta| {
        let numbers = delta.data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
        found.insert(delta.id.module, numbers.collect());
        Ok(())
    };
    merge.deltas(&mut |_| true, take).map(|()| found)
}

/// The one layer of a merge.
fn one(inputs: &[(&Term<f64>, f64)], settings: &[(&str, &str)]) -> Vec<f64> {
    let inputs: Vec<_> = inputs.iter().map(|(term, weight)| (files::adapter(term), *weight)).collect();
    deltas(&merge(&inputs, settings)).unwrap().remove(files::MODULE).unwrap()
}

fn report(inputs: &[(&Term<f64>, f64)], settings: &[(&str, &str)]) -> Report {
    let inputs: Vec<_> = inputs.iter().map(|(term, weight)| (files::adapter(term), *weight)).collect();
    merge(&inputs, settings).run_in_memory(&mut |_| true).unwrap().1
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>())
}

fn cosine(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>() / norm(x) / norm(y)
}

fn entries(term: &Term<f64>) -> Vec<f64> {
    let full: Mat<f64> = Delta::of(1.0, term.clone()).to_full();
    (0..full.nrows()).flat_map(|i| (0..full.ncols()).map(move |j| (i, j))).map(|at| full[at]).collect()
}

#[test]
fn other_tools_make_the_same_of_the_same_models() {
    let folder = Path::new("tests/golden/strategies");
    let models: Vec<_> = (0..3)
        .map(|n| Arc::new(Adapter::open(folder.join(format!("gram.{n}.safetensors"))).unwrap()))
        .collect();
    let truth = Container::open(&folder.join("gram.safetensors")).unwrap();
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("gram.json")).unwrap()).unwrap();
    let mut compared = 0;
    for case in &cases {
        let text = |name: &str| case[name].as_str().unwrap();
        let weights = case["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap());
        let inputs: Vec<_> = models.iter().cloned().zip(weights).collect();
        let parameters = case["parameters"].as_object().unwrap().iter();
        let settings: Vec<_> = [("strategy", text("strategy"))]
            .into_iter()
            .chain(parameters.map(|(name, value)| (name.as_str(), value.as_str().unwrap())))
            .collect();
        let found = deltas(&merge(&inputs, &settings)).unwrap();
        let prefix = format!("{}/", text("name"));
        for name in truth.names().filter(|name| name.starts_with(&prefix)) {
            let want: Vec<f64> = truth.get(name).unwrap().to_reals();
            let got = &found[&format!("lora_unet_{}", &name[prefix.len()..])];
            let error = distance(got, &want) / norm(&want);
            assert!(error < 1e-7, "{name} of {case}: {error:e}");
            compared += 1;
        }
    }
    assert_eq!(compared, truth.names().count());
}

/// The strategies that give the models back where these are all the same, with parameters of every kind.
const MEANS: [&[(&str, &str)]; 9] = [
    &[("strategy", "linear")],
    &[("strategy", "slerp"), ("t", "0.3")],
    &[("strategy", "nuslerp")],
    &[("strategy", "nuslerp"), ("nuslerp_flatten", "false")],
    &[("strategy", "nuslerp"), ("nuslerp_flatten", "false"), ("nuslerp_row_wise", "true")],
    &[("strategy", "multislerp")],
    &[("strategy", "karcher")],
    &[("strategy", "geometric_median")],
    &[("strategy", "model_stock")],
];

/// Two terms of one shape.
fn pair() -> impl Strategy<Value = (Term<f64>, Term<f64>)> {
    shape().prop_flat_map(|shape| (term(shape), term(shape)))
}

fn three() -> impl Strategy<Value = [Term<f64>; 3]> {
    shape().prop_flat_map(|shape| (term(shape), term(shape), term(shape))).prop_map(|(x, y, z)| [x, y, z])
}

/// That two merges of models of size `size` are one.
fn same(x: &[f64], y: &[f64], size: f64, what: &str) -> Result<(), TestCaseError> {
    let apart = distance(x, y);
    prop_assert!(apart <= 1e-7 * size, "{what}: {apart:e} of {size:e}");
    Ok(())
}

proptest! {
    #[test]
    fn equal_models_stay_what_they_are((x, _) in pair()) {
        let want = entries(&x);
        for settings in MEANS {
            let got = one(&[(&x, 1.0), (&x, 1.0)], settings);
            same(&got, &want, norm(&want), settings[0].1)?;
        }
    }

    #[test]
    fn slerp_begins_with_the_first_model_and_ends_with_the_second((x, y) in pair(), t in 0.0_f64..1.0) {
        let at = |t: f64| one(&[(&x, 1.0), (&y, 1.0)], &[("strategy", "slerp"), ("t", &t.to_string())]);
        let (first, second) = (entries(&x), entries(&y));
        let size = norm(&first).max(norm(&second));
        same(&at(0.0), &first, size, "first")?;
        same(&at(1.0), &second, size, "second")?;
        // In the weights' words it is nuslerp's.
        let weighed = one(&[(&x, 1.0 - t), (&y, t)], &[("strategy", "nuslerp")]);
        same(&at(t), &weighed, size, "nuslerp")?;
        // Of models of one norm, the points between have it, too, and divide the angle.
        let angle = cosine(&first, &second).clamp(-1.0, 1.0).acos();
        if angle > 1e-3 && angle < 3.0 {
            let scaled = [(&x, size / norm(&first)), (&y, size / norm(&second))];
            let got = one(&scaled, &[("strategy", "slerp"), ("t", &t.to_string())]);
            prop_assert!((norm(&got) / size - 1.0).abs() < 1e-6);
            let passed = cosine(&got, &first).clamp(-1.0, 1.0).acos();
            prop_assert!((passed - t * angle).abs() < 1e-5, "{passed} of {angle}, {t}");
        }
    }

    #[test]
    fn a_model_of_weight_zero_is_not_there([x, y, z] in three()) {
        for settings in MEANS.iter().filter(|settings| !["slerp", "nuslerp"].contains(&settings[0].1)) {
            let with = one(&[(&x, 0.7), (&y, 0.4), (&z, 0.0)], settings);
            let without = one(&[(&x, 0.7), (&y, 0.4)], settings);
            same(&with, &without, norm(&entries(&x)) + norm(&entries(&y)), settings[0].1)?;
        }
    }

    #[test]
    fn the_karcher_mean_is_where_the_directions_pull_to_no_side([x, y, z] in three()) {
        let models = [&x, &y, &z].map(entries);
        let weights = [0.5, 1.3, 0.8];
        prop_assume!(models.iter().all(|model| norm(model) > 1e-3));
        // Directions that are far apart have several means.
        prop_assume!(cosine(&models[0], &models[1]).min(cosine(&models[0], &models[2])).min(cosine(&models[1], &models[2])) > -0.4);
        let inputs = [(&x, weights[0]), (&y, weights[1]), (&z, weights[2])];
        let got = one(&inputs, &[("strategy", "karcher"), ("max_iter", "1000"), ("tol", "1e-9")]);
        let mean: f64 = models.iter().zip(weights).map(|(model, w)| norm(model) * w).sum::<f64>() / weights.iter().sum::<f64>();
        prop_assert!((norm(&got) / mean - 1.0).abs() < 1e-6);
        let mut pull = vec![0.0; got.len()];
        for (model, w) in models.iter().zip(weights) {
            let c = cosine(model, &got).clamp(-1.0, 1.0);
            let stretch = if c > 1.0 - 1e-12 { 1.0 } else { c.acos() / (1.0 - c * c).sqrt() };
            for ((p, x), m) in pull.iter_mut().zip(model).zip(&got) {
                *p += w * stretch * (x / norm(model) - c * m / norm(&got));
            }
        }
        prop_assert!(norm(&pull) < 1e-6, "{:e}", norm(&pull));
    }

    #[test]
    fn no_point_is_nearer_to_the_models_than_their_median([x, y, z] in three(), steps in prop::collection::vec(-1.0_f64..1.0, 30)) {
        let models = [&x, &y, &z].map(entries);
        let weights = [0.5, 1.3, 0.9];
        let inputs = [(&x, weights[0]), (&y, weights[1]), (&z, weights[2])];
        let got = one(&inputs, &[("strategy", "geometric_median"), ("max_iter", "20000"), ("tol", "1e-12")]);
        let cost = |point: &[f64]| -> f64 { models.iter().zip(weights).map(|(m, w)| w * distance(m, point)).sum() };
        let least = cost(&got);
        prop_assert!(models.iter().all(|model| cost(model) >= least * (1.0 - 1e-7)));
        for step in steps.chunks_exact(3) {
            let mut other = got.clone();
            for (model, s) in models.iter().zip(step) {
                other.iter_mut().zip(model).for_each(|(o, m)| *o += 0.1 * s * m);
            }
            prop_assert!(cost(&other) >= least * (1.0 - 1e-7), "{} {least}", cost(&other));
        }
    }

    #[test]
    fn model_stock_is_the_mean_weakened_by_the_papers_share([x, y, z] in three()) {
        let models = [&x, &y, &z].map(entries);
        prop_assume!(models.iter().all(|model| norm(model) > 1e-3));
        let got = one(&[(&x, 1.0), (&y, 1.0), (&z, 1.0)], &[("strategy", "model_stock")]);
        let c = (cosine(&models[0], &models[1]) + cosine(&models[0], &models[2]) + cosine(&models[1], &models[2])) / 3.0;
        let t = (3.0 * c / (1.0 + 2.0 * c)).clamp(0.0, 1.0);
        let t = if c <= 0.0 { 0.0 } else { t };
        let want: Vec<f64> = (0..got.len()).map(|i| t * models.iter().map(|m| m[i]).sum::<f64>() / 3.0).collect();
        same(&got, &want, models.iter().map(|m| norm(m)).fold(0.0, f64::max), "model_stock")?;
    }

    #[test]
    fn norms_are_matched_whatever_the_rule((x, y) in pair(), (v, w) in (weight(), weight())) {
        let models = [&x, &y].map(entries);
        let want = (v.abs() * norm(&models[0]) + w.abs() * norm(&models[1])) / (v.abs() + w.abs());
        for row in strategy::ALL.iter().filter(|row| row.inputs.0 <= 2) {
            let settings = [("strategy", row.name), ("match_norm", "inputs")];
            let inputs = [(files::adapter(&x), v), (files::adapter(&y), w)];
            // Not every rule takes every weight.
            let Ok(mut found) = deltas(&merge(&inputs, &settings)) else { continue };
            let Ok(mut plain) = deltas(&merge(&inputs, &settings[..1])) else { continue };
            let (got, plain) = (found.remove(files::MODULE).unwrap(), plain.remove(files::MODULE).unwrap());
            if norm(&plain) > 1e-6 * want {
                prop_assert!((norm(&got) / want - 1.0).abs() < 1e-6, "{}: {} {want}", row.name, norm(&got));
                prop_assert!(cosine(&got, &plain) > 1.0 - 1e-6, "{}", row.name);
            }
        }
    }

    #[test]
    fn a_matched_norm_is_that_of_what_is_stored(
        (x, y) in shape().prop_flat_map(|shape| (low_rank(shape), low_rank(shape))),
    ) {
        let want = f64::midpoint(norm(&entries(&x)), norm(&entries(&y)));
        let found = report(&[(&x, 1.0), (&y, 1.0)], &[("format", "lora"), ("rank", "1"), ("match_norm", "inputs")]);
        let (layer, stored) = (&found.layers[0], found.norm_ratio.unwrap());
        prop_assert!((layer.norm / want - 1.0).abs() < 1e-6, "{} {want}", layer.norm);
        prop_assert!((stored - 1.0).abs() < 1e-6, "{stored}");
        prop_assert!((layer.coefficients[0] - layer.matched.unwrap()).abs() < 1e-12);
    }
}

#[test]
fn a_merge_row_by_row_has_the_rank_of_its_models() {
    let files = ["italic", "invert"].map(|name| {
        let path = format!("tests/data/real/adapters/{name}.lora.safetensors");
        (Arc::new(Adapter::open(path).unwrap()), 1.0)
    });
    for settings in [
        &[("strategy", "nuslerp"), ("nuslerp_flatten", "false")][..],
        &[("strategy", "nuslerp"), ("nuslerp_flatten", "false"), ("nuslerp_row_wise", "true")],
        &[("strategy", "model_stock"), ("filter_wise", "true")],
    ] {
        let size = |settings| merge(&files, settings).run_in_memory(&mut |_| true).unwrap().1.bytes;
        let (by_line, whole) = (size(settings), size(&[("strategy", "linear")]));
        assert!((by_line as f64) < 1.2 * whole as f64, "{settings:?}: {by_line} {whole}");
    }
}

/// Models of different layers, in the names of a file.
fn of_layers(layers: &[(&str, f64)]) -> Arc<Adapter> {
    let owned: Vec<(String, Vec<f64>)> = layers
        .iter()
        .map(|(name, x)| (format!("lora_unet_{name}.diff"), vec![*x, 2.0 * x, 0.0, *x, 1.0, 0.5]))
        .collect();
    let tensors: Vec<files::Tensor<'_>> =
        owned.iter().map(|(name, x)| (&name[..], &[2, 3][..], &x[..])).collect();
    let bytes = files::safetensors(&tensors, lycomerge::tensor::Dtype::F64);
    Arc::new(Adapter::from_bytes("memory", bytes).unwrap())
}

#[test]
fn a_layer_that_one_model_lacks_is_zero_there() {
    let (both, one) = (of_layers(&[("a", 1.0), ("b", 3.0)]), of_layers(&[("a", -2.0)]));
    let inputs = [(Arc::clone(&both), 1.0), (Arc::clone(&one), 3.0)];
    let alone = deltas(&merge(&[(both, 1.0)], &[])).unwrap()["lora_unet_b"].clone();
    for (settings, share) in [
        (&[("strategy", "linear")][..], 0.25),
        (&[("strategy", "slerp"), ("t", "0.2")], 0.8),
        (&[("strategy", "nuslerp")], 0.25),
        (&[("strategy", "nuslerp"), ("nuslerp_flatten", "false")], 0.25),
        (&[("strategy", "nuslerp"), ("nuslerp_flatten", "false"), ("nuslerp_row_wise", "true")], 0.25),
        (&[("strategy", "multislerp")], 0.25),
        (&[("strategy", "karcher")], 0.25),
        // The heavier model does nothing, and one alone has no angle.
        (&[("strategy", "geometric_median")], 0.0),
        (&[("strategy", "model_stock")], 1.0),
        // The norm of the models that have the layer.
        (&[("strategy", "linear"), ("match_norm", "inputs")], 1.0),
    ] {
        let got = &deltas(&merge(&inputs, settings)).unwrap()["lora_unet_b"];
        let want: Vec<f64> = alone.iter().map(|x| share * x).collect();
        assert!(distance(got, &want) < 1e-12, "{settings:?}: {got:?} {want:?}");
    }
}

#[test]
fn block_weights_are_part_of_the_weights() {
    let (x, y) = (of_layers(&[("a", 1.0)]), of_layers(&[("a", -2.0)]));
    let run = |inputs: [(f64, Option<&str>); 2], settings: &[(&str, &str)]| {
        let mut merge = merge(&[(Arc::clone(&x), inputs[0].0), (Arc::clone(&y), inputs[1].0)], settings);
        for (index, (_, blocks)) in inputs.iter().enumerate() {
            merge.set_block_weights(index, blocks.map(|text| text.parse().unwrap())).unwrap();
        }
        deltas(&merge).unwrap().remove("lora_unet_a").unwrap()
    };
    for settings in MEANS.iter().chain([&[("strategy", "task_arithmetic"), ("lambda", "0.3")][..]].iter()) {
        let by_block = run([(0.8, Some("*a*=0.5")), (3.0, Some("*a*=0.1"))], settings);
        let by_weight = run([(0.4, None), (0.3, None)], settings);
        assert!(distance(&by_block, &by_weight) < 1e-12 * (1.0 + norm(&by_weight)), "{settings:?}");
    }
    let plain =
        |index: usize| deltas(&merge(&[([&x, &y][index].clone(), 1.0)], &[])).unwrap()["lora_unet_a"].clone();
    // Half of each, at half strength; and a model that is off doesn't count.
    let halves = run([(1.0, Some("*a*=0.5")), (1.0, Some("*a*=0.5"))], &[("match_norm", "inputs")]);
    assert!((norm(&halves) - (norm(&plain(0)) + norm(&plain(1))) / 4.0).abs() < 1e-12);
    let alone = run([(1.0, None), (1.0, Some("*a*=0"))], &[("match_norm", "inputs")]);
    assert!(distance(&alone, &plain(0)) < 1e-12);
}

#[test]
fn weights_that_mean_nothing_are_refused() {
    let (x, y) = (of_layers(&[("a", 1.0)]), of_layers(&[("a", -2.0)]));
    let refused = |weights: &[f64], settings: &[(&str, &str)]| {
        let inputs: Vec<_> = [&x, &y, &x].into_iter().cloned().zip(weights.iter().copied()).collect();
        deltas(&merge(&inputs, settings)).unwrap_err().to_string()
    };
    for name in ["karcher", "multislerp", "geometric_median", "model_stock"] {
        let error = refused(&[1.0, -0.5], &[("strategy", name)]);
        assert!(error.contains(&format!("{name} takes weights of 0 or more, and one is -0.5")), "{error}");
    }
    for name in ["linear", "nuslerp"] {
        assert!(refused(&[1.0, -1.0], &[("strategy", name)]).contains("sum to zero"));
    }
    for name in ["slerp", "nuslerp"] {
        let error = refused(&[1.0, 1.0, 1.0], &[("strategy", name)]);
        assert!(error.contains(&format!("{name} takes 2 models, and there are 3")), "{error}");
    }
    assert!(refused(&[1.0], &[("strategy", "model_stock")]).contains("takes 2 or more models"));
    let error = refused(&[1.0, 1.0], &[("strategy", "karcher"), ("space", "factor")]);
    assert!(error.contains("space factor and strategy karcher"), "{error}");
}

#[test]
fn what_a_method_makes_little_of_is_warned_of() {
    let files = [of_layers(&[("a", 1.0), ("b", 1.0)]), of_layers(&[("a", -2.0), ("b", -2.0)])];
    let inputs: Vec<_> = files.iter().map(|file| (Arc::clone(file), 1.0)).collect();
    let warnings =
        |settings: &[(&str, &str)]| merge(&inputs, settings).run_in_memory(&mut |_| true).unwrap().1.warnings;
    let found = warnings(&[("strategy", "model_stock")]);
    assert!(
        found.iter().any(|text| text.starts_with("2 layers (lora_unet_a, …): the models' changes")),
        "{found:?}"
    );
    assert_eq!(warnings(&[("strategy", "linear")]), Vec::<String>::new());
    let found = warnings(&[("strategy", "geometric_median"), ("max_iter", "1"), ("tol", "1e-15")]);
    assert!(found.is_empty() || found[0].contains("max_iter"), "{found:?}");
}
