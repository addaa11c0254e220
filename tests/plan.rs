//! Plans: their rows against the merges that they foretell.

use std::path::Path;
use std::sync::Arc;

use lycomerge::merge::trade::TradePoint;
use lycomerge::{Adapter, ErrorKind, Merge, Plan};

fn real(name: &str) -> Arc<Adapter> {
    Arc::new(Adapter::open(Path::new("tests/data/real/adapters").join(name)).unwrap())
}

fn merge(names: &[&str]) -> Merge {
    let mut merge = Merge::new();
    names.iter().for_each(|name| merge.add(real(&format!("{name}.safetensors")), 0.8).unwrap());
    merge
}

fn plan(merge: &Merge) -> Plan {
    merge.plan(&mut |_| true).unwrap()
}

/// The merge that the options of a row ask for: its size and its error.
fn made(mut merge: Merge, options: &str) -> (f64, f64) {
    let words: Vec<&str> = options.split_whitespace().collect();
    for pair in words.chunks(2) {
        merge.options.set(pair[0].strip_prefix("--").unwrap(), pair[1]).unwrap();
    }
    let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
    (bytes.len() as f64, report.error)
}

/// Sizes to 4 %, and errors to 15 %, as far as the dtype's rounding can be told at all.
fn is_kept(merge: &Merge, options: &str, bytes: u64, error: f64) {
    let (size, found) = made(merge.clone(), options);
    assert!((bytes as f64 / size - 1.0).abs() < 0.04, "{options}: {bytes} bytes foretold, {size} made");
    let floor = if options.contains("bfloat16") { 2e-3 } else { 3e-4 };
    assert!((error - found).abs() < 0.15 * found + floor, "{options}: error {error} foretold, {found} made");
}

#[test]
fn every_row_is_what_the_merge_with_its_options_comes_to() {
    for names in [
        &["italic.lokr4", "invert.loha"][..],
        &["italic.lora", "invert.lora", "dots.lokr4"],
        &["italic.lokr4", "invert.lokr4"],
        &["italic.loha", "invert.loha"],
        &["italic.full", "invert.lokrfull"],
    ] {
        let merge = merge(names);
        let plan = plan(&merge);
        assert_eq!(plan.qualities.len(), 3, "{names:?}");
        for way in &plan.qualities {
            is_kept(&merge, &way.options, way.bytes, way.error);
        }
        for curve in &plan.curves {
            // A few of each: the ends and what is between.
            let count = curve.points.len();
            let mut some = vec![0, count / 3, 2 * count / 3, count - 1];
            some.dedup();
            for TradePoint { options, bytes, error, .. } in some.into_iter().map(|k| &curve.points[k]) {
                is_kept(&merge, options, *bytes, *error);
            }
        }
    }
}

#[test]
fn more_bytes_are_less_error_in_every_format() {
    let plan = plan(&merge(&["italic.lokr4", "invert.lora"]));
    let formats: Vec<&str> = plan.curves.iter().map(|curve| curve.format).collect();
    assert_eq!(formats, ["auto", "lora", "lokr", "full"].repeat(3));
    for curve in &plan.curves {
        assert!(!curve.points.is_empty());
        for pair in curve.points.windows(2) {
            assert!(pair[0].bytes < pair[1].bytes, "{pair:?}");
            assert!(pair[0].error >= pair[1].error * (1.0 - 1e-9), "{pair:?}");
        }
    }
    assert_eq!(plan.curves[0].dtype, "float16");
    assert!(plan.curves[0].points.iter().all(|point| point.options.starts_with("--format auto --tolerance")));
}

#[test]
fn what_the_options_say_of_the_stored_form_counts_for_nothing() {
    let free = plan(&merge(&["italic.lokr4", "invert.lokr4"]));
    let mut limited = merge(&["italic.lokr4", "invert.lokr4"]);
    for (name, value) in [("format", "lora"), ("rank", "4"), ("quality", "compact"), ("match-norm", "true")] {
        limited.options.set(name, value).unwrap();
    }
    assert_eq!(plan(&limited).to_json(), free.to_json());
}

#[test]
fn the_dtype_strategy_and_weights_of_the_merge_count() {
    let mut merge = merge(&["italic.lora", "invert.lora"]);
    merge.options.set("dtype", "bfloat16").unwrap();
    merge.options.set("strategy", "ties").unwrap();
    let plan = plan(&merge);
    assert_eq!(plan.curves[0].dtype, "bfloat16");
    let point = &plan.curves[0].points[0];
    assert!(point.options.ends_with("--dtype bfloat16"), "{}", point.options);
    let other = self::plan(&self::merge(&["italic.lora", "invert.lora"]));
    assert!((plan.norm / other.norm - 1.0).abs() > 0.01);
}

#[test]
fn the_same_plan_comes_of_any_number_of_threads() {
    let mut merge = merge(&["italic.lokr4", "invert.loha"]);
    let jsons: Vec<String> = ["1", "3"]
        .iter()
        .map(|threads| {
            merge.options.set("threads", threads).unwrap();
            plan(&merge).to_json()
        })
        .collect();
    assert_eq!(jsons[0], jsons[1]);
}

#[test]
fn what_cannot_be_planned_is_an_error_that_says_why() {
    let error = Merge::new().plan(&mut |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    let mut factors = merge(&["italic.lora", "invert.lora"]);
    factors.options.set("space", "factor").unwrap();
    let error = factors.plan(&mut |_| true).unwrap_err();
    assert!(error.to_string().contains("space factor"), "{error}");
}
