//! What is stored is the merge: on trained adapters, for every family and every mix, against a dense sum in
//! float64, and every layer's certificate says the error that the dense sum shows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use faer::Mat;
use lycomerge::adapter::{LayerId, OpenOptions};
use lycomerge::model::Checkpoint;
use lycomerge::{Adapter, Merge, Report};

const ALGOS: [&str; 9] =
    ["lora", "loratucker", "loha", "lohatucker", "lokr4", "lokr4tucker", "lokr8both", "lokrfull", "full"];

type Dense = BTreeMap<LayerId, Mat<f64>>;

fn real(name: &str) -> Arc<Adapter> {
    static BASE: LazyLock<Arc<Checkpoint>> =
        LazyLock::new(|| Arc::new(Checkpoint::open("tests/data/real/base.safetensors").unwrap()));
    let path: PathBuf = ["tests/data/real/adapters", &format!("{name}.safetensors")].iter().collect();
    let options = OpenOptions { base: Some(Arc::clone(&BASE)), ..OpenOptions::default() };
    Arc::new(Adapter::open_with(path, &options).unwrap())
}

fn dense(adapter: &Adapter) -> Dense {
    adapter
        .layers()
        .iter()
        .map(|(id, layer)| (id.clone(), adapter.delta(id, layer).unwrap().to_full()))
        .collect()
}

fn dense_sum(inputs: &[(&str, f64)]) -> Dense {
    let mut sum = Dense::new();
    for (name, weight) in inputs {
        for (id, matrix) in dense(&real(name)) {
            let scaled = matrix * faer::Scale(*weight);
            sum.entry(id).and_modify(|total| *total += &scaled).or_insert(scaled);
        }
    }
    sum
}

fn merge(inputs: &[(&str, f64)], options: &[(&str, &str)]) -> (Adapter, Report) {
    let mut merge = Merge::new();
    for (name, weight) in inputs {
        merge.add(real(name), *weight).unwrap();
    }
    for (name, value) in options {
        merge.options.set(name, value).unwrap();
    }
    let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
    assert_eq!(report.bytes as usize, bytes.len());
    (Adapter::from_bytes("merged", bytes).unwrap(), report)
}

/// ‖stored − true‖ / ‖true‖ over the file, after checking every layer's certificate against its own.
fn checked_error(stored: &Adapter, report: &Report, truth: &Dense, what: &str) -> f64 {
    let stored = dense(stored);
    assert!(stored.keys().eq(truth.keys()), "{what}: the layers of the inputs and no others");
    assert_eq!(report.layers.len(), truth.len());
    let (mut lost, mut norm) = (0.0, 0.0);
    for (layer, (id, want)) in report.layers.iter().zip(truth) {
        assert_eq!((layer.name.as_str(), layer.param), (id.module.as_str(), id.param.name()));
        let distance = (&stored[id] - want).norm_l2();
        let error = if want.norm_l2() == 0.0 { 0.0 } else { distance / want.norm_l2() };
        let off = (layer.error - error).abs();
        assert!(
            off <= 0.01 * error || off <= 1e-7,
            "{what}: {id:?}: certified {:e}, true {error:e}",
            layer.error
        );
        lost += distance.powi(2);
        norm += want.norm_l2().powi(2);
    }
    let error = (lost / norm).sqrt();
    assert!((report.error - error).abs() <= 0.01 * error + 1e-7, "{what}: {} {error}", report.error);
    error
}

fn mixes() -> Vec<Vec<(String, f64)>> {
    let mut mixes = Vec::new();
    for algo in ALGOS {
        for weights in [[1.0, 1.0], [0.7, -0.4]] {
            mixes.push(vec![(format!("italic.{algo}"), weights[0]), (format!("invert.{algo}"), weights[1])]);
        }
    }
    for (a, b) in [
        ("italic.lokr4", "invert.loha"),
        ("italic.lora", "invert.lokrfull"),
        ("italic.loha", "invert.full"),
        ("italic.lokr4", "invert.lokr8both"),
        ("italic.lohatucker", "invert.lokr4tucker"),
        ("italic.doralora", "invert.doralokr"),
        ("italic.doralokr", "invert.lora"),
    ] {
        mixes.push(vec![(a.to_owned(), 1.0), (b.to_owned(), 1.0)]);
        mixes.push(vec![(a.to_owned(), 0.7), (b.to_owned(), -0.4)]);
    }
    for three in
        [["italic.lokr4", "invert.lokr4", "dots.lokr4"], ["italic.lora", "invert.loha", "dots.lokr4"]]
    {
        mixes.push(three.iter().zip([0.5, 0.8, -0.3]).map(|(name, w)| ((*name).to_owned(), w)).collect());
    }
    mixes
}

fn every_mix_is_held(formats: &[&[(&str, &str)]], dtype: &str, tolerance: &str, allowed: f64) {
    for mix in mixes() {
        let inputs: Vec<(&str, f64)> = mix.iter().map(|(name, w)| (name.as_str(), *w)).collect();
        let truth = dense_sum(&inputs);
        for format in formats {
            let mut options = format.to_vec();
            options.push(("dtype", dtype));
            if !options.contains(&("format", "full")) {
                options.push(("tolerance", tolerance));
            }
            let (stored, report) = merge(&inputs, &options);
            let error = checked_error(&stored, &report, &truth, &format!("{inputs:?} {options:?}"));
            assert!(error <= allowed, "{inputs:?} {options:?}: {error:e}");
        }
    }
}

const EXACT_FORMATS: [&[(&str, &str)]; 4] = [
    &[("format", "auto")],
    &[("format", "lora")],
    &[("format", "lokr"), ("factor", "1")],
    &[("format", "full")],
];

#[test]
fn float16_outputs_are_within_a_thousandth() {
    every_mix_is_held(&EXACT_FORMATS, "float16", "0.001", 1e-3);
}

#[test]
fn float32_outputs_are_within_two_millionths() {
    every_mix_is_held(&EXACT_FORMATS, "float32", "0.000002", 2e-6);
}

#[test]
fn fixed_formats_without_a_limit_are_as_exact_as_their_dtype() {
    let inputs = [("italic.lokr4", 1.0), ("invert.lokr4", 1.0)];
    let truth = dense_sum(&inputs);
    for options in [vec![("format", "lora")], vec![("format", "lokr"), ("factor", "1")]] {
        let (stored, report) = merge(&inputs, &options);
        assert!(checked_error(&stored, &report, &truth, "no limit") <= 1e-3);
    }
}

#[test]
fn an_adapter_merged_with_itself_is_twice_its_effect_at_the_same_rank() {
    for algo in ALGOS {
        let name = format!("italic.{algo}");
        let inputs = [(name.as_str(), 1.0), (name.as_str(), 1.0)];
        let (stored, report) = merge(&inputs, &[]);
        let error = checked_error(&stored, &report, &dense_sum(&inputs), &name);
        // Folding a Tucker core, or w1 into one, rounds once; else only rebalanced subnormals can.
        let allowed = if algo.contains("tucker") || algo == "lokr8both" { 4e-4 } else { 1e-6 };
        assert!(error <= allowed, "{name}: {error:e}");
        let original = real(&name);
        for (id, layer) in stored.layers() {
            let before = &original.layers()[id];
            assert_eq!(layer.family, before.family, "{name}: {id:?}");
            if layer.rank.is_some() {
                // A factor wider than the matrix is long may shrink; none may grow.
                assert!(layer.rank <= before.rank, "{name}: {id:?}");
            }
        }
    }
}

#[test]
fn weights_that_cancel_leave_layers_without_effect() {
    let (stored, report) = merge(&[("italic.lora", 1.0), ("italic.lora", -1.0)], &[]);
    assert_eq!(report.error, 0.0);
    assert!(dense(&stored).values().all(|matrix| matrix.norm_l2() == 0.0));
    let (stored, report) = merge(&[("italic.lokr4", 0.0), ("invert.lokr4", 1.0)], &[]);
    checked_error(
        &stored,
        &report,
        &dense_sum(&[("italic.lokr4", 0.0), ("invert.lokr4", 1.0)]),
        "zero weight",
    );
}

/// ‖M‖² − σ₁² of the rearranged matrix, densely: what the best single Kronecker product leaves.
fn best_kron_error(matrix: &Mat<f64>, a: usize, c: usize) -> f64 {
    let (b, d) = (matrix.nrows() / a, matrix.ncols() / c);
    let rearranged = Mat::from_fn(a * c, b * d, |ij, pq| matrix[(ij / c * b + pq / d, ij % c * d + pq % d)]);
    let sigma = rearranged.singular_values().unwrap();
    let total: f64 = sigma.iter().map(|s| s * s).sum();
    (sigma[1..].iter().map(|s| s * s).sum::<f64>() / total).sqrt()
}

#[test]
fn the_single_lokr_is_the_true_optimum_and_beats_factor_averaging() {
    for algo in ["lokr4", "lokrfull", "lokr8both", "lokr4tucker"] {
        let names = [format!("italic.{algo}"), format!("invert.{algo}")];
        let inputs = [(names[0].as_str(), 1.0), (names[1].as_str(), 1.0)];
        let truth = dense_sum(&inputs);
        let (stored, report) = merge(&inputs, &[("format", "lokr")]);
        checked_error(&stored, &report, &truth, algo);
        let (_, averaged) = merge(&inputs, &[("space", "factor")]);
        for ((layer, naive), (id, want)) in report.layers.iter().zip(&averaged.layers).zip(&truth) {
            let w1 = layer.tensors.iter().find(|tensor| tensor.suffix == ".lokr_w1").unwrap();
            let best = best_kron_error(want, w1.shape[0], w1.shape[1]);
            let same = (layer.error - best).abs() <= 2e-3 * best + 5e-4;
            assert!(same, "{algo}: {id:?}: stored {}, best {best}", layer.error);
            assert!(layer.error <= naive.error + 1e-3, "{algo}: {id:?}: {} {}", layer.error, naive.error);
        }
    }
}

#[test]
fn a_single_kronecker_product_of_other_families_is_the_optimum_too() {
    let inputs = [("italic.lokr4", 1.0), ("invert.loha", 1.0)];
    let truth = dense_sum(&inputs);
    let (stored, report) = merge(&inputs, &[("format", "lokr")]);
    checked_error(&stored, &report, &truth, "lokr4 + loha");
    for (layer, want) in report.layers.iter().zip(truth.values()) {
        let w1 = layer.tensors.iter().find(|tensor| tensor.suffix == ".lokr_w1").unwrap();
        let best = best_kron_error(want, w1.shape[0], w1.shape[1]);
        assert!((layer.error - best).abs() <= 2e-3 * best + 5e-4, "{}: {} {best}", layer.name, layer.error);
    }
}

#[test]
fn a_rank_is_kept_and_its_fit_is_the_optimal_one() {
    let inputs = [("italic.lokr4", 1.0), ("invert.loha", 1.0)];
    let truth = dense_sum(&inputs);
    let (stored, report) = merge(&inputs, &[("format", "lora"), ("rank", "6")]);
    checked_error(&stored, &report, &truth, "rank 6");
    for (layer, want) in report.layers.iter().zip(truth.values()) {
        assert!(layer.rank.is_none_or(|rank| rank <= 6));
        let sigma = want.singular_values().unwrap();
        let total: f64 = sigma.iter().map(|s| s * s).sum();
        let tail: f64 = sigma.iter().skip(6).map(|s| s * s).sum();
        let best = (tail / total).sqrt();
        assert!(layer.error <= 1.001 * best + 5e-4, "{}: {} {best}", layer.name, layer.error);
    }
}

#[test]
fn max_size_is_kept_and_used() {
    let inputs = [("italic.lokr4", 1.0), ("invert.lokr4", 1.0)];
    let truth = dense_sum(&inputs);
    let mut errors = Vec::new();
    for limit in [250_000_u64, 500_000, 1_000_000] {
        let (stored, report) = merge(&inputs, &[("max-size", &limit.to_string())]);
        errors.push(checked_error(&stored, &report, &truth, "max-size"));
        assert!(report.bytes <= limit && report.bytes > limit * 8 / 10, "{} of {limit}", report.bytes);
        let tolerance = report.tolerance.unwrap();
        assert!(report.layers.iter().all(|layer| layer.error <= tolerance + 1e-3));
    }
    assert!(errors[0] > errors[1] && errors[1] > errors[2], "{errors:?}");
}

#[test]
fn qualities_are_the_points_that_they_name() {
    for algo in ["lokr4", "lokrfull", "loha", "lora"] {
        let names = [format!("italic.{algo}"), format!("invert.{algo}")];
        let inputs = [(names[0].as_str(), 0.7), (names[1].as_str(), 0.7)];
        let truth = dense_sum(&inputs);
        let largest = names.iter().map(|name| real(name).file().byte_len()).max().unwrap();
        let run = |quality| {
            let (stored, report) = merge(&inputs, &[("quality", quality)]);
            checked_error(&stored, &report, &truth, quality);
            report
        };
        let (exact, good, compact) = (run("exact"), run("good"), run("compact"));
        assert!(exact.layers.iter().all(|layer| layer.error <= 0.01), "{algo}");
        assert!(good.layers.iter().all(|layer| layer.error <= 0.2), "{algo}");
        assert!(good.bytes <= exact.bytes, "{algo}");
        assert!(compact.bytes <= largest, "{algo}: {} of {largest}", compact.bytes);
        assert!((compact.norm_ratio.unwrap() - 1.0).abs() < 2e-3, "{algo}: {:?}", compact.norm_ratio);
    }
}

#[test]
fn a_loha_fit_beats_factor_averaging() {
    let inputs = [("italic.loha", 1.0), ("invert.loha", 1.0)];
    let truth = dense_sum(&inputs);
    let (stored, fitted) = merge(&inputs, &[("format", "loha")]);
    let error = checked_error(&stored, &fitted, &truth, "loha");
    let (_, averaged) = merge(&inputs, &[("space", "factor")]);
    assert!(error < 0.9 && error < averaged.error, "{error} {}", averaged.error);
    for layer in &fitted.layers {
        assert_eq!(layer.family, "LoHa");
    }
}

#[test]
fn strategies_merge_deltas_as_documented() {
    check_strategies([("italic.lokr4", 0.6), ("invert.loha", 1.1)]);
}

#[test]
fn strategies_see_what_needs_the_base_model_as_any_other() {
    check_strategies([("italic.doralora", 0.6), ("invert.doralokr", 1.1)]);
}

fn check_strategies(inputs: [(&str, f64); 2]) {
    for strategy in ["weighted_average", "layer_adaptive", "smart_fusion", "min_max_norm"] {
        let options = [
            ("strategy", strategy),
            ("dtype", "float32"),
            ("tolerance", "0.000002"),
            ("norm-threshold", "0.25"),
        ];
        let (stored, report) = merge(&inputs, &options);
        let parts = [dense(&real(inputs[0].0)), dense(&real(inputs[1].0))];
        let norms: [f64; 2] = [0, 1].map(|k: usize| parts[k].values().map(Mat::norm_l2).sum());
        let stored = dense(&stored);
        for (id, got) in &stored {
            let (x, y) = (&parts[0][id], &parts[1][id]);
            let (w, n) = ([0.6, 1.1], (x.nrows() * x.ncols()) as f64);
            let sum = |c: [f64; 2]| x * faer::Scale(c[0]) + y * faer::Scale(c[1]);
            let want = match strategy {
                "layer_adaptive" => {
                    let mean = (x + y) * faer::Scale(0.5);
                    let variance = ((x - &mean).squared_norm_l2() + (y - &mean).squared_norm_l2()) / n;
                    let second = (x.squared_norm_l2() + y.squared_norm_l2()) / 2.0 / n;
                    let a = 1.0 / (1.0 + variance / second);
                    sum(w.map(|w| w * a))
                }
                "smart_fusion" => {
                    let b = [w[0] * (1.0 + x.norm_l2() / norms[0]), w[1] * (1.0 + y.norm_l2() / norms[1])];
                    sum([w[0] * b[0] / (b[0] + b[1]), w[1] * b[1] / (b[0] + b[1])])
                }
                "min_max_norm" => {
                    let merged = sum(w);
                    let peak = merged.norm_max();
                    merged * faer::Scale(0.25 / peak)
                }
                _ => sum(w),
            };
            let error = (got - &want).norm_l2() / want.norm_l2();
            assert!(error < 4e-6, "{strategy}: {id:?}: {error:e}");
        }
        assert!(report.error < 3e-6);
    }
}

#[test]
fn layers_that_are_made_much_louder_are_told_of_in_one_warning() {
    let inputs = [("italic.lokr4", 1.0), ("invert.lokr4", 1.0)];
    let warnings = |threshold| {
        let (_, report) = merge(&inputs, &[("strategy", "min_max_norm"), ("norm-threshold", threshold)]);
        report.warnings
    };
    let loud = warnings("100");
    assert!(matches!(&loud[..], [one] if one.contains("97 layers are scaled up")), "{loud:?}");
    assert!(warnings("0.001").is_empty());
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_memory() {
    let run = |options: &[(&str, &str)]| {
        let mut merge = Merge::new();
        for name in ["italic.lokr4", "invert.loha", "italic.full"] {
            merge.add(real(name), 0.8).unwrap();
        }
        merge.options.set("strategy", "smart_fusion").unwrap();
        options.iter().for_each(|(name, value)| merge.options.set(name, value).unwrap());
        merge.run_in_memory(&mut |_| true).unwrap().0
    };
    let one = run(&[("threads", "1")]);
    assert!(one == run(&[("threads", "5")]));
    assert!(one == run(&[("threads", "3"), ("memory", "1")]));
}

#[test]
fn a_host_can_stop_a_run() {
    let mut merge = Merge::new();
    merge.add(real("italic.lokr4"), 1.0).unwrap();
    merge.add(real("invert.lokr4"), 1.0).unwrap();
    let error = merge.run_in_memory(&mut |progress| progress.done < 10).unwrap_err();
    assert_eq!(error.kind(), lycomerge::ErrorKind::Cancelled);
}
