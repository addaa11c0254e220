//! Entrywise strategies: what mergekit, PEFT and the authors' code make of the same weight changes
//! (`tests/golden/make_strategies_entries.py`), and the identities that hold whatever the numbers are.

mod support;

use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use lycomerge::delta::{Factor, Term};
use lycomerge::file::Container;
use lycomerge::fit::Format;
use lycomerge::merge::Options;
use lycomerge::merge::strategy::{self, Kind};
use lycomerge::tensor::Dtype;
use lycomerge::{Adapter, Merge};
use proptest::prelude::*;
use serde_json::Value;
use support::files;

/// Every strategy of this kind.
const ENTRYWISE: [&str; 15] = [
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "magnitude_prune",
    "sce",
    "consensus",
    "pcb",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune_svd",
];

type Settings<'a> = &'a [(&'a str, &'a str)];

fn merge(models: &[Arc<Adapter>], weights: &[f64], strategy: &str, settings: Settings<'_>) -> Merge {
    let mut merge = Merge::new();
    merge.options = Options { strategy: strategy.to_owned(), dtype: Dtype::F64, ..Options::default() };
    settings.iter().for_each(|(name, value)| merge.options.set_parameter(name, value));
    models.iter().zip(weights).for_each(|(model, weight)| merge.add(Arc::clone(model), *weight).unwrap());
    merge
}

/// The merged entries of the one layer.
fn entries(models: &[Arc<Adapter>], weights: &[f64], strategy: &str, settings: Settings<'_>) -> Mat<f64> {
    let mut merged = Mat::zeros(0, 0);
    let take = |delta: lycomerge::merge::MergedDelta| {
        let numbers: Vec<f64> =
            delta.data.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
        let cols = delta.shape.cols;
        merged = Mat::from_fn(delta.shape.rows, cols, |i, j| numbers[i * cols + j]);
        Ok(())
    };
    merge(models, weights, strategy, settings).deltas(&mut |_| true, take).unwrap();
    merged
}

fn error(models: &[Arc<Adapter>], strategy: &str, settings: Settings<'_>) -> String {
    let weights = vec![1.0; models.len()];
    let merged = merge(models, &weights, strategy, settings).deltas(&mut |_| true, |_| Ok(()));
    merged.unwrap_err().message().to_owned()
}

fn full(matrix: &Mat<f64>) -> Arc<Adapter> {
    files::adapter(&Term::Plain(Factor::Full(matrix.clone())))
}

fn product(left: &Mat<f64>, right: &Mat<f64>) -> Arc<Adapter> {
    files::adapter(&Term::Plain(Factor::Product { left: left.clone(), right: right.clone() }))
}

/// Numbers like normal ones.
fn random(rows: usize, cols: usize, state: &mut u64) -> Mat<f64> {
    let mut uniform = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    };
    Mat::from_fn(rows, cols, |_, _| (0..6).map(|_| uniform()).sum())
}

fn distance(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    (x - y).norm_l2() / y.norm_l2()
}

fn sum(models: &[Mat<f64>], weights: &[f64]) -> Mat<f64> {
    Mat::from_fn(models[0].nrows(), models[0].ncols(), |i, j| {
        models.iter().zip(weights).map(|(model, w)| w * model[(i, j)]).sum()
    })
}

/// TIES by its definition, with a sort: the part `density` of each, the sign of the sum, the mean of those that agree.
fn ties(models: &[Mat<f64>], weights: &[f64], density: f64) -> Mat<f64> {
    let (rows, cols) = models[0].shape();
    let trim = |model: &Mat<f64>| {
        let mut order: Vec<(usize, usize)> = (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).collect();
        // Stable, so that of equal entries the first are kept.
        order.sort_by(|x, y| model[*y].abs().total_cmp(&model[*x].abs()));
        let mut kept = Mat::zeros(rows, cols);
        let count = (density * (rows * cols) as f64) as usize;
        order[..count].iter().for_each(|at| kept[*at] = model[*at]);
        kept
    };
    let kept: Vec<Mat<f64>> = models.iter().map(trim).collect();
    let total = sum(&kept, weights);
    Mat::from_fn(rows, cols, |i, j| {
        let sign = if total[(i, j)] >= 0.0 { 1.0 } else { -1.0 };
        let agreeing = || kept.iter().zip(weights).filter(|(model, w)| *w * model[(i, j)] * sign > 0.0);
        let divisor: f64 = agreeing().map(|(_, w)| w.abs()).sum();
        if divisor > 0.0 {
            agreeing().map(|(model, w)| w * model[(i, j)]).sum::<f64>() / divisor
        } else {
            0.0
        }
    })
}

#[test]
fn merges_are_those_of_mergekit_peft_and_the_authors() {
    let folder = Path::new("tests/golden/strategies");
    let read = |file: &Container, name: &str| {
        let view = file.get(name).unwrap();
        let (numbers, cols) = (view.to_reals::<f64>(), view.shape[1]);
        Mat::from_fn(view.shape[0], cols, |i, j| numbers[i * cols + j])
    };
    let models = Container::open(&folder.join("entries.models.safetensors")).unwrap();
    let models: Vec<Arc<Adapter>> = (0..3).map(|i| full(&read(&models, &format!("model{i}")))).collect();
    let merges = Container::open(&folder.join("entries.safetensors")).unwrap();
    let table = std::fs::read_to_string(folder.join("entries.json")).unwrap();
    let table: Vec<Value> = serde_json::from_str(&table).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for case in &table {
        let (name, strategy) = (case["name"].as_str().unwrap(), case["strategy"].as_str().unwrap());
        let weights: Vec<f64> =
            case["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
        let settings = case["settings"].as_object().unwrap();
        let mut settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        settings.push(("merge_space", "full"));
        let (got, want) = (entries(&models, &weights, strategy, &settings), read(&merges, name));
        assert!(distance(&got, &want) < 1e-6, "{name} {settings:?}: {:e}", distance(&got, &want));
        seen.insert(strategy);
    }
    assert_eq!(seen.len(), ENTRYWISE.len(), "{seen:?}");
}

#[test]
fn thresholds_are_exact_over_many_tiles_and_among_equal_entries() {
    let mut state = 11;
    // Rounded, so that many entries are equal; several tiles high.
    let coarse = |state: &mut u64| {
        let exact = random(700, 130, state);
        Mat::from_fn(700, 130, |i, j| (exact[(i, j)] * 8.0).round() / 8.0)
    };
    let models = [coarse(&mut state), coarse(&mut state)];
    let adapters = [full(&models[0]), full(&models[1])];
    for (density, given) in [(0.01, "0.01"), (0.37, "0.37"), (0.9, "0.9")] {
        let got = entries(&adapters, &[1.0, 0.5], "ties", &[("density", given), ("merge_space", "full")]);
        assert!(distance(&got, &ties(&models, &[1.0, 0.5], density)) < 1e-12, "{density}");
    }
}

#[test]
fn a_merge_in_the_core_is_the_dense_computation() {
    let mut state = 5;
    let factors: Vec<_> = (0..3).map(|_| (random(40, 3, &mut state), random(3, 31, &mut state))).collect();
    let models: Vec<Mat<f64>> = factors.iter().map(|(left, right)| left * right).collect();
    let adapters: Vec<_> = factors.iter().map(|(left, right)| product(left, right)).collect();
    // The spaces from dense decompositions of the models side by side and below each other.
    let beside = Mat::from_fn(40, 93, |i, j| models[j / 31][(i, j % 31)]);
    let below = Mat::from_fn(120, 31, |i, j| models[i / 40][(i % 40, j)]);
    let left = beside.thin_svd().unwrap().U().get(.., ..9).to_owned();
    let right = below.thin_svd().unwrap().V().get(.., ..9).to_owned();
    let weights = [0.8, -1.1, 0.6];

    let cores: Vec<Mat<f64>> = models.iter().map(|model| left.transpose() * model * &right).collect();
    let want = &left * ties(&cores, &weights, 0.3) * right.transpose();
    let got = entries(&adapters, &weights, "ties", &[("density", "0.3"), ("merge_space", "core")]);
    assert!(distance(&got, &want) < 1e-10, "core: {:e}", distance(&got, &want));

    let rows: Vec<Mat<f64>> = models.iter().map(|model| left.transpose() * model).collect();
    let want = &left * ties(&rows, &weights, 0.3);
    let got = entries(&adapters, &weights, "ties", &[("density", "0.3"), ("merge_space", "knots")]);
    assert!(distance(&got, &want) < 1e-10, "knots: {:e}", distance(&got, &want));
}

#[test]
fn the_report_says_what_low_rank_cost_where_entries_were_merged_in_full() {
    let mut state = 8;
    let mut low = || product(&random(40, 3, &mut state), &random(3, 31, &mut state));
    let adapters = [low(), low(), low()];
    let report = |space| {
        let mut merge = merge(&adapters, &[1.0; 3], "ties", &[("density", "0.3"), ("merge_space", space)]);
        (merge.options.format, merge.options.rank) = (Format::Lora, Some(9));
        merge.run_in_memory(&mut |_| true).unwrap().1
    };
    let full = report("full");
    assert!(full.truncation.is_some_and(|cost| cost > 0.1 && (cost - full.error).abs() < 1e-12), "{full:?}");
    let core = report("core");
    assert!(core.truncation.is_none() && core.error < 1e-9, "{}", core.error);
}

#[test]
fn columns_that_nearly_depend_on_each_other_keep_their_merge_exact() {
    let mut state = 3;
    let (left, right) = (random(40, 4, &mut state), random(4, 31, &mut state));
    let near = &left + 1e-7 * &random(40, 4, &mut state);
    let models = [&left * &right, &near * &right, &left * &right];
    let adapters = [product(&left, &right), product(&near, &right), product(&left, &right)];
    for space in ["core", "knots"] {
        let settings = [("density", "1"), ("merge_space", space)];
        let got = entries(&adapters, &[1.0, 2.0, -0.5], "magnitude_prune", &settings);
        assert!(distance(&got, &sum(&models, &[1.0, 2.0, -0.5])) < 1e-12, "{space}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn at_density_1_a_method_is_linear_in_every_space(
        seed in 1_u64.., weights in prop::array::uniform3(-2.0..2.0_f64), space in 0_usize..3,
    ) {
        let mut state = seed;
        let factors: Vec<_> = (0..3).map(|_| (random(19, 2, &mut state), random(2, 23, &mut state))).collect();
        let models: Vec<Mat<f64>> = factors.iter().map(|(left, right)| left * right).collect();
        let adapters: Vec<_> = factors.iter().map(|(left, right)| product(left, right)).collect();
        let space = ["full", "core", "knots"][space];
        let linear = sum(&models, &weights);
        for strategy in ["dare_linear", "della_linear", "breadcrumbs", "magnitude_prune", "dare_linear_svd"] {
            let got = entries(&adapters, &weights, strategy, &[("density", "1"), ("merge_space", space)]);
            prop_assert!((&got - &linear).norm_l2() < 1e-12 * models[0].norm_l2(), "{} in {}", strategy, space);
        }
        let settings = [("prun_thre_k", "0"), ("merge_space", space)];
        let got = entries(&adapters, &weights, "consensus", &settings);
        prop_assert!((&got - &linear).norm_l2() < 1e-12 * models[0].norm_l2(), "consensus in {}", space);

        let settings = [("density", "1"), ("normalize", "true"), ("merge_space", space)];
        let got = entries(&adapters, &weights, "dare_linear", &settings);
        let total: f64 = weights.iter().map(|w| w.abs()).sum();
        let scaled = Mat::from_fn(19, 23, |i, j| linear[(i, j)] / total);
        prop_assert!((&got - &scaled).norm_l2() < 1e-12 * models[0].norm_l2(), "normalised in {}", space);
    }

    #[test]
    fn identical_models_stay_themselves(seed in 1_u64.., space in 0_usize..3) {
        let mut state = seed;
        let (left, right) = (random(19, 3, &mut state), random(3, 23, &mut state));
        let (model, space) = (&left * &right, ["full", "core", "knots"][space]);
        let adapters = vec![product(&left, &right); 3];
        for (strategy, set) in [
            ("ties", ("density", "1")),
            ("della", ("density", "1")),
            ("ties_svd", ("density", "1")),
            ("dare_ties_svd", ("density", "1")),
            ("sce", ("select_topk", "1")),
            ("sce", ("select_topk", "0.3")),
        ] {
            let got = entries(&adapters, &[1.0; 3], strategy, &[set, ("merge_space", space)]);
            prop_assert!(distance(&got, &model) < 1e-12, "{} in {}: {:e}", strategy, space, distance(&got, &model));
        }
    }

    #[test]
    fn what_is_kept_is_as_much_as_was_asked_and_scaled_as_said(seed in 1_u64.., density in 0.05..0.95_f64) {
        let mut state = seed;
        let model = random(31, 37, &mut state);
        let adapters = [full(&model)];
        let given = density.to_string();
        let settings = [("density", given.as_str()), ("merge_space", "full")];
        let got = entries(&adapters, &[1.0], "magnitude_prune", &settings);
        let kept = |got: &Mat<f64>| got.col_iter().flat_map(|column| column.iter()).filter(|x| **x != 0.0).count();
        prop_assert_eq!(kept(&got), (density * 31.0 * 37.0) as usize);

        let size = |matrix: &Mat<f64>| matrix.norm_l1();
        let got = entries(&adapters, &[1.0], "dare_linear", &settings);
        prop_assert!((size(&got) / size(&model) - 1.0).abs() < 1e-12);
        let by_density = [settings[0], settings[1], ("rescale", "density")];
        let got = entries(&adapters, &[1.0], "dare_linear", &by_density);
        for j in 0..37 {
            for i in 0..31 {
                let ratio = got[(i, j)] / model[(i, j)];
                prop_assert!(ratio == 0.0 || (ratio * density - 1.0).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn over_many_seeds_random_masks_leave_every_entry_as_it_is_on_average() {
    let mut state = 17;
    let models = [random(9, 11, &mut state), random(9, 11, &mut state)];
    let adapters = [full(&models[0]), full(&models[1])];
    let want = sum(&models, &[1.0, -0.7]);
    const SEEDS: usize = 3000;
    for (strategy, deviation) in [("dare_linear", 1.23), ("della_linear", 1.6)] {
        let mut mean = Mat::<f64>::zeros(9, 11);
        for seed in 0..SEEDS {
            let seed = seed.to_string();
            let settings =
                [("density", "0.4"), ("rescale", "density"), ("seed", &seed), ("merge_space", "full")];
            mean += entries(&adapters, &[1.0, -0.7], strategy, &settings);
        }
        mean *= faer::Scale(1.0 / SEEDS as f64);
        for j in 0..11 {
            for i in 0..9 {
                let size = models[0][(i, j)].hypot(0.7 * models[1][(i, j)]);
                let allowed = 5.0 * deviation * size / (SEEDS as f64).sqrt();
                assert!((mean[(i, j)] - want[(i, j)]).abs() < allowed, "{strategy} at {i}, {j}");
            }
        }
    }
}

#[test]
fn bytes_depend_on_the_seed_and_on_no_number_of_threads() {
    let mut state = 23;
    let mut layers = || {
        let tensors: Vec<(String, Vec<usize>, Vec<f64>)> = (0..12)
            .flat_map(|i| {
                let (rows, cols, rank) = (24 + 8 * (i % 3), 30, 3);
                let mut numbers =
                    |m, n| random(m, n, &mut state).col_iter().flat_map(|c| c.iter().copied()).collect();
                [
                    (format!("lora_unet_layer_{i}.lora_up.weight"), vec![rows, rank], numbers(rows, rank)),
                    (format!("lora_unet_layer_{i}.lora_down.weight"), vec![rank, cols], numbers(rank, cols)),
                ]
            })
            .collect();
        let tensors: Vec<files::Tensor<'_>> =
            tensors.iter().map(|(name, shape, numbers)| (name.as_str(), &shape[..], &numbers[..])).collect();
        Arc::new(Adapter::from_bytes("memory", files::safetensors(&tensors, Dtype::F16)).unwrap())
    };
    let models = [layers(), layers(), layers()];
    for strategy in ENTRYWISE {
        let bytes = |threads, settings: Settings<'_>| {
            let mut merge = merge(&models, &[1.0, 0.8, 0.5], strategy, settings);
            merge.options.threads = Some(threads);
            let (file, report) = merge.run_in_memory(&mut |_| true).unwrap();
            let is_svd = strategy.ends_with("_svd");
            assert!(
                report.layers.iter().all(|layer| layer.space == Some(if is_svd { "full" } else { "core" }))
            );
            file
        };
        let one = bytes(1, &[]);
        assert!(one == bytes(4, &[]), "{strategy}");
        let row = strategy::by_name(strategy).unwrap();
        if row.parameters.iter().any(|parameter| parameter.name == "seed") {
            let other = |seed: &str| {
                let merged = entries(&models[..2], &[1.0, 1.0], strategy, &[("seed", seed)]);
                merged.col_iter().flat_map(|column| column.iter().copied()).collect::<Vec<f64>>()
            };
            assert_ne!(other("1"), other("2"), "{strategy}");
        }
    }
}

#[test]
fn a_layer_that_one_model_has_and_a_bias_are_merged_too() {
    let mut state = 29;
    let numbers = |matrix: &Mat<f64>| -> Vec<f64> {
        (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)])).collect()
    };
    let (weight, bias) = (random(12, 10, &mut state), random(12, 1, &mut state));
    let both: [files::Tensor<'_>; 2] = [
        ("lora_unet_layer.diff", &[12, 10], &numbers(&weight)),
        ("lora_unet_layer.diff_b", &[12], &numbers(&bias)),
    ];
    let alone: [files::Tensor<'_>; 1] = [("lora_unet_layer.diff_b", &[12], &numbers(&bias))];
    let open = |tensors: &[files::Tensor<'_>]| {
        Arc::new(Adapter::from_bytes("memory", files::safetensors(tensors, Dtype::F64)).unwrap())
    };
    let models = [open(&both), open(&alone)];
    for strategy in ENTRYWISE {
        let (report, mut kept) = (merge(&models, &[1.0, 1.0], strategy, &[]), Vec::new());
        report
            .deltas(&mut |_| true, |delta| {
                let any = delta.data.chunks_exact(8).any(|x| x != [0; 8]);
                kept.push((delta.shape.rows, delta.shape.cols, any));
                Ok(())
            })
            .unwrap();
        kept.sort_unstable();
        assert_eq!(kept, [(12, 1, true), (12, 10, true)], "{strategy}");
    }
}

#[test]
fn settings_that_mean_nothing_are_refused_in_words() {
    let mut state = 31;
    let models = [full(&random(5, 5, &mut state))];
    for (strategy, settings, says) in [
        ("ties", ("density", "0"), "density of ties: '0' is not a number above 0, up to 1"),
        ("ties", ("epsilon", "0.1"), "ties has no parameter 'epsilon'; it has density, normalize"),
        ("della", ("density", "0.9"), "epsilon below 0.100"),
        ("dare_ties", ("rescale", "maybe"), "none, density, l1"),
        ("sce", ("merge_space", "half"), "auto, full, core, knots"),
    ] {
        let message = error(&models, strategy, &[settings]);
        assert!(message.contains(says), "{message}");
    }
    for name in ENTRYWISE {
        let space = strategy::by_name(name).unwrap().parameters.iter().find(|p| p.name == "merge_space");
        assert!(matches!(space.unwrap().kind, Kind::Word(_)), "{name}");
    }
}
