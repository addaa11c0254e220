//! The command as people and scripts meet it: what it says, how it exits, and that a run that fails or is stopped
//! leaves everything as it was.
#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use lycomerge::file::{AtomicFile, Container, Writer};
use lycomerge::tensor::Dtype;
use serde_json::Value;
use support::broken;
use tempfile::TempDir;

const ADAPTERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/real/adapters");
const MERGE: &str = "merge italic.safetensors invert.safetensors -o out.safetensors";

/// A convolution that every trained adapter has, and a linear layer whose stored form always has a rank.
const CONVOLUTION: &str = "lora_unet_down_blocks_0_resnets_0_conv1";
const LINEAR: &str = "lora_unet_down_blocks_2_attentions_0_proj_in";

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The command with these words behind it, started in `folder`.
fn command(folder: &TempDir, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lycomerge"));
    command.args(words.split_whitespace()).current_dir(folder.path());
    command
}

fn run(folder: &TempDir, words: &str) -> Ran {
    let output = command(folder, words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!ran.stderr.contains("panicked"), "{words}: {}", ran.stderr);
    ran
}

/// Runs what must succeed.
fn done(folder: &TempDir, words: &str) -> Ran {
    let ran = run(folder, words);
    assert_eq!(ran.code, Some(0), "{words}: {}", ran.stderr);
    ran
}

/// Runs what must fail with this exit code, an error that says all of this, and no change to the folder.
fn fails(folder: &TempDir, words: &str, code: i32, says: &[&str]) {
    let before = content(folder);
    let Ran { code: found, stdout, stderr } = run(folder, words);
    assert_eq!(found, Some(code), "{words}: {stderr}");
    let told = |line: &str| line.starts_with("Error: ") && says.iter().all(|text| line.contains(text));
    assert!(stderr.lines().any(told), "{words}: {says:?} is not in {stderr}");
    assert_eq!(stdout, "", "{words}");
    assert!(content(folder) == before, "{words} left {:?}", names(folder));
}

fn content(folder: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    // A folder has no bytes.
    files.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap_or_default())).collect()
}

fn names(folder: &TempDir) -> Vec<String> {
    content(folder).into_keys().collect()
}

/// A folder with `italic.safetensors` and `invert.safetensors`, two adapters that were trained as `algo`.
fn two(algo: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for style in ["italic", "invert"] {
        let trained = format!("{ADAPTERS}/{style}.{algo}.safetensors");
        fs::copy(trained, folder.path().join(format!("{style}.safetensors"))).unwrap();
    }
    folder
}

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(folder: &TempDir, name: &str) -> Tensors {
    let file = Container::open(&folder.path().join(name)).unwrap();
    let tensor = |name: &str| {
        let view = file.get(name).unwrap();
        (name.to_owned(), (view.dtype, view.shape.to_vec(), view.data.to_vec()))
    };
    file.names().map(tensor).collect()
}

fn write(folder: &TempDir, name: &str, tensors: &Tensors) {
    let path = folder.path().join(name);
    let mut writer = Writer::new(AtomicFile::create(&path).unwrap(), path, 0).unwrap();
    for (name, (dtype, shape, data)) in tensors {
        writer.push(name, *dtype, shape, data).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap().0.commit().unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn two_adapters_are_merged_and_one_line_says_what_came_of_it() {
    let folder = two("lokr4");
    let ran = done(&folder, MERGE);
    assert!(ran.stdout.starts_with("out.safetensors: 97 layers ("), "{}", ran.stdout);
    assert!(ran.stdout.contains(" MB, error 0.") && ran.stdout.lines().count() == 1, "{}", ran.stdout);
    assert!(ran.stderr.starts_with("Forecast: about "), "{}", ran.stderr);
    assert_eq!(names(&folder), ["invert.safetensors", "italic.safetensors", "out.safetensors"]);
    assert_eq!(done(&folder, "inspect --type out.safetensors").stdout, "Mixed\n");
}

#[test]
fn the_output_has_a_name_even_if_none_is_given() {
    let folder = two("lora");
    done(&folder, "merge italic.safetensors invert.safetensors");
    assert!(folder.path().join("merged_lycoris.safetensors").exists());
}

#[test]
fn an_adapter_is_converted_into_every_form_that_holds_it() {
    for (algo, format, kind) in [
        ("lokr4", "lora", "LoRA"),
        ("loha", "lora", "LoRA"),
        ("loratucker", "lora", "LoRA"),
        ("lora", "loha", "LoHa"),
        ("lokr8both", "loha", "LoHa"),
        ("lora", "lokr --factor 1", "LoKr"),
        ("lokr4", "full", "Full"),
    ] {
        let folder = two(algo);
        let ran =
            done(&folder, &format!("convert italic.safetensors --format {format} --metadata report.json"));
        let name = format!("italic.{}.safetensors", format.split(' ').next().unwrap());
        assert!(ran.stdout.starts_with(&format!("{name}: 97 layers (")), "{algo} {format}: {}", ran.stdout);
        assert_eq!(
            done(&folder, &format!("inspect --type {name}")).stdout,
            format!("{kind}\n"),
            "{algo} {format}"
        );
        let error = json(&folder.path().join("report.json"))["error"].as_f64().unwrap();
        assert!(error < 2e-3, "{algo} {format}: {error}");
    }
    let folder = two("loha");
    done(&folder, "convert italic.safetensors");
    assert_eq!(done(&folder, "inspect --type italic.lora.safetensors").stdout, "LoRA\n");
    fails(&folder, "convert italic.safetensors invert.safetensors", 2, &["unexpected argument"]);
    fails(&folder, "convert italic.safetensors --format lokr", 2, &["no split to keep", "--factor 1"]);
    fails(&folder, "convert italic.safetensors --strategy smart_fusion", 2, &["--strategy"]);
}

#[test]
fn block_weights_are_for_all_models_or_for_one() {
    let folder = two("lora");
    fs::write(folder.path().join("presets.txt"), "# outer\nOUTER:IN=0,OUT=0\n").unwrap();
    let norm = |words: &str| {
        done(
            &folder,
            &format!(
                "merge italic.safetensors invert.safetensors {words} --metadata r.json -o out.safetensors"
            ),
        );
        let report = json(&folder.path().join("r.json"));
        let layers = report["layers"].as_array().unwrap();
        let square = |layer: &Value| layer["norm"].as_f64().unwrap().powi(2);
        layers.iter().map(square).sum::<f64>().sqrt()
    };
    let plain = norm("--weights 1 0");
    let of_one = norm("--weights 1 0 --block-weights 1:unet=0.5 --block-weights *=0");
    assert!((of_one / plain - 0.5).abs() < 1e-6, "{of_one} {plain}");
    let outer = norm("--weights 1 0 --block-weights OUTER --block-presets presets.txt");
    assert!(outer > 0.1 * plain && outer < 0.9 * plain, "{outer} {plain}");
    for (words, code, says) in [
        ("--block-weights 3:IN=0", 2, "there is no model 3, only 2 models"),
        ("--block-weights IN=0 --block-weights OUT=0", 2, "says twice what holds for all models"),
        ("--block-weights D00=0", 2, "no layer is in 'D00'; the blocks are TIME, IN00"),
        ("--block-weights INNER --block-presets presets.txt", 2, "there are OUTER"),
        ("--block-weights OUTER --block-presets nowhere.txt", 1, "nowhere.txt"),
    ] {
        let words = format!("merge italic.safetensors invert.safetensors {words} -o other.safetensors");
        fails(&folder, &words, code, &[says]);
    }
    let page = done(&folder, "inspect italic.safetensors").stdout;
    assert!(page.contains("\n  IN00 ") && page.contains("\n  M00 ") && page.contains("\n  OUT07 "), "{page}");
}

#[test]
fn what_was_baked_is_extracted() {
    let folder = two("lora");
    fs::copy(format!("{ADAPTERS}/../base.safetensors"), folder.path().join("base.safetensors")).unwrap();
    done(&folder, "bake base.safetensors italic.safetensors:0.5 -o tuned.safetensors");
    let words = "extract base.safetensors tuned.safetensors --rank 8 -o taken.safetensors --metadata r.json";
    let ran = done(&folder, words);
    assert!(
        ran.stdout.starts_with("taken.safetensors: 97 layers (LoRA), 151 unchanged and left out, "),
        "{}",
        ran.stdout
    );
    let report = json(&folder.path().join("r.json"));
    assert!(report["error"].as_f64().unwrap() < 1e-3);
    // Half of the style, taken away from it.
    done(
        &folder,
        "merge italic.safetensors taken.safetensors --weights 0.5 -1 -o out.safetensors --metadata d.json -q",
    );
    let norm = |report: &Value| {
        let layers = report["layers"].as_array().unwrap().clone();
        layers.iter().map(|layer| layer["norm"].as_f64().unwrap().powi(2)).sum::<f64>().sqrt()
    };
    assert!(norm(&json(&folder.path().join("d.json"))) < 2e-3 * norm(&report));
    fails(
        &folder,
        "extract base.safetensors base.safetensors -o x.safetensors",
        1,
        &["there is nothing to extract"],
    );
    fails(
        &folder,
        "extract base.safetensors nowhere.safetensors -o x.safetensors",
        1,
        &["Model file not found: nowhere"],
    );
    fails(
        &folder,
        "extract base.safetensors tuned.safetensors --format lokr -o x.safetensors",
        2,
        &["needs the option factor"],
    );
    fails(&folder, "extract base.safetensors", 2, &["required arguments"]);
}

#[test]
fn ranks_keep_to_their_rules_and_limits() {
    let folder = two("lora");
    let layers = |options: &str| {
        done(&folder, &format!("convert italic.safetensors --metadata report.json {options}"));
        json(&folder.path().join("report.json"))["layers"].as_array().unwrap().clone()
    };
    let ranks =
        |layers: &[Value]| layers.iter().filter_map(|layer| layer["rank"].as_u64()).collect::<Vec<_>>();
    let is_convolution = |layer: &Value| layer["shape"][2].as_u64().is_some_and(|extent| extent > 1);

    for layer in layers("--rank 4 --conv-rank 2") {
        let limit = if is_convolution(&layer) { 2 } else { 4 };
        assert!(layer["rank"].as_u64().is_none_or(|rank| rank <= limit), "{layer}");
    }
    for layer in layers("--sv-fro 0.8") {
        assert!(layer["error"].as_f64().unwrap() <= 0.6 + 1e-3, "{layer}");
    }
    let all = ranks(&layers(""));
    let ruled = [
        ["--sv-fro 0.8", "--sv-fro 1"],
        ["--sv-cumulative 0.5", "--sv-cumulative 1"],
        ["--sv-ratio 1.5", "--sv-ratio 1e6"],
    ];
    for [some, most] in ruled {
        let some = ranks(&layers(some));
        assert!(some.iter().zip(&all).all(|(some, all)| some <= all) && some != all, "{some:?} of {all:?}");
        assert!(some.iter().any(|rank| *rank != some[0]), "a rank for every layer: {some:?}");
        assert_eq!(ranks(&layers(most)), all);
        let capped = ranks(&layers(&format!("{} --rank 2", ruled[0][0])));
        assert!(capped.iter().all(|rank| *rank <= 2) && capped.contains(&2), "{capped:?}");
    }
    fails(&folder, &format!("{MERGE} --sv-ratio 4"), 2, &["add --format lora"]);
    // A limit on the size holds for whatever rank is asked for besides.
    layers("--rank 8 --max-size 150kB");
    assert!(fs::metadata(folder.path().join("italic.lora.safetensors")).unwrap().len() <= 150_000);
}

#[test]
fn a_wrong_command_line_exits_with_2_and_writes_nothing() {
    let folder = two("lora");
    for (options, says) in [
        ("--weights 1", "Number of weights (1) must match number of models (2)"),
        ("--weights 1 2 3", "Number of weights (3) must match number of models (2)"),
        ("--weights 1 much", "models stand before --weights"),
        ("--weights 1 nan", "a weight is a finite number"),
        ("--weights ,", "Number of weights (0)"),
        ("--threads 5000", "a whole number from 1 to 1024"),
        ("--colour red", "--colour"),
        ("--format zip", "auto, lokr, loha, lora, full"),
        ("--format lokr", "--format lora"),
        ("--strategy luck", "weighted_sum"),
        ("--strategy slerp --set t=2", "t of slerp: '2' is not a number from 0 to 1"),
        ("--strategy slerp --set lambda=1", "slerp has no parameter 'lambda'; it has t"),
        ("--strategy weighted_sum --set t=0.5", "weighted_sum has no parameter 't'; it has none"),
        ("--strategy karcher --set max_iter", "max_iter of karcher: '' is not a whole number of 1 or more"),
        ("--match-norm=always", "one of true, inputs, false"),
        ("--quality good --rank 4", "can't be used together"),
        ("--metadata out.safetensors", "--metadata would replace out.safetensors"),
        ("--metadata italic.safetensors", "--metadata would replace italic.safetensors"),
    ] {
        fails(&folder, &format!("{MERGE} {options}"), 2, &[says]);
    }
    fails(&folder, "merge italic.safetensors -o -", 2, &["can't be written to stdout"]);
    for words in ["", "merge", "convert", "inspect"] {
        let ran = run(&folder, words);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{words}");
        assert!(ran.stderr.contains("Usage: lycomerge"), "{words}: {}", ran.stderr);
    }
}

#[test]
fn what_is_asked_for_goes_to_stdout() {
    let folder = TempDir::new().unwrap();
    for (words, says) in [
        ("--help", "Usage: lycomerge"),
        ("merge --help", "--weights"),
        ("convert --help", "[default: lora"),
        ("inspect --help", "--json"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let ran = done(&folder, words);
        assert!(ran.stdout.contains(says) && ran.stderr.is_empty(), "{words}");
    }
}

#[test]
fn an_output_with_a_name_that_hosts_overlook_is_warned_of() {
    let folder = two("lora");
    for name in ["out.onnx", "out"] {
        let ran = done(&folder, &format!("merge italic.safetensors -o {name}"));
        assert!(
            ran.stderr.contains(&format!("Warning: {name} will be a safetensors file")),
            "{}",
            ran.stderr
        );
    }
    assert!(!done(&folder, MERGE).stderr.contains("will be a safetensors file"));
    let ran = done(&folder, "merge italic.safetensors -o out.pt");
    assert!(!ran.stderr.contains("Warning"), "{}", ran.stderr);
    assert!(fs::read(folder.path().join("out.pt")).unwrap().starts_with(b"PK"), "a PyTorch file");
    assert_eq!(done(&folder, "inspect --type out.pt").stdout, "LoRA\n");
}

#[test]
fn a_missing_model_is_named_exactly() {
    let folder = two("lora");
    for words in ["merge italic.safetensors none.safetensors -o out.safetensors", "inspect none.safetensors"]
    {
        let before = names(&folder);
        let ran = run(&folder, words);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert_eq!(ran.stderr, "Error: Model file not found: none.safetensors\n");
        assert_eq!(names(&folder), before);
    }
}

#[test]
fn negative_weights_are_numbers_in_every_spelling() {
    let folder = two("lora");
    for weights in ["--weights 0.7 -0.4", "--weights=0.7,-0.4", "-w 0.7 -w -.4", "-w 0.7, -4e-1 --verify"] {
        done(&folder, &format!("{MERGE} {weights} --metadata report.json"));
        let report = json(&folder.path().join("report.json"));
        let inputs = report["recipe"]["inputs"].as_array().unwrap();
        let found: Vec<_> = inputs.iter().map(|input| input["weight"].as_f64().unwrap()).collect();
        assert_eq!(found, [0.7, -0.4], "{weights}");
    }
}

#[test]
fn an_input_may_be_the_output() {
    let folder = two("lora");
    done(&folder, MERGE);
    done(&folder, "merge italic.safetensors invert.safetensors -o invert.safetensors");
    assert_eq!(read(&folder, "invert.safetensors"), read(&folder, "out.safetensors"));
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    for (algo, options) in [("lokr4", ""), ("loha", "--quality good"), ("lokr8both", "--format lokr")] {
        let folder = two(algo);
        let bytes = [1, 2].map(|threads| {
            done(&folder, &format!("{MERGE} {options} --threads {threads}"));
            fs::read(folder.path().join("out.safetensors")).unwrap()
        });
        assert!(bytes[0] == bytes[1], "{algo} {options}");
    }
}

#[test]
fn metadata_is_a_report_of_the_merge_and_every_layer() {
    let folder = two("lokr4");
    done(&folder, &format!("{MERGE} --weights 1 0.5 --metadata report.json"));
    let report = json(&folder.path().join("report.json"));
    let error = report["error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 0.01, "{error}");
    let length = fs::metadata(folder.path().join("out.safetensors")).unwrap().len();
    assert_eq!(report["bytes"].as_u64(), Some(length));
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 97);
    assert!(layers.iter().all(|layer| layer["name"].is_string() && layer["error"].is_f64()));
    let recipe = &report["recipe"];
    assert_eq!(recipe["strategy"], "weighted_sum");
    assert_eq!(recipe["inputs"][1]["name"], "invert.safetensors");
    assert_eq!(recipe["inputs"][1]["weight"], 0.5);
}

#[test]
fn parameters_are_set_and_kept_in_the_recipe() {
    let folder = two("lora");
    let norms = |options: &str| -> (f64, Value) {
        let words = format!("{MERGE} {options} --metadata report.json --quiet");
        let ran = done(&folder, &words);
        assert_eq!(ran.stderr, "", "{words}");
        let report = json(&folder.path().join("report.json"));
        let squares =
            report["layers"].as_array().unwrap().iter().map(|layer| layer["norm"].as_f64().unwrap().powi(2));
        (squares.sum::<f64>().sqrt(), report["recipe"]["options"].clone())
    };
    let (whole, none) = norms("--strategy task_arithmetic");
    let (half, set) = norms("--strategy task_arithmetic --set lambda=0.5");
    assert!((half / whole - 0.5).abs() < 1e-6, "{half} {whole}");
    assert_eq!((none, set), (serde_json::json!({}), serde_json::json!({"lambda": "0.5"})));
    // With norms matched, a factor makes no difference; the option is a switch, too, and takes no model for its value.
    let (matched, set) = norms("--match-norm inputs --strategy task_arithmetic --set lambda=0.5");
    assert_eq!(set, serde_json::json!({"lambda": "0.5", "match-norm": "inputs"}));
    assert!((matched / norms("--match-norm=inputs").0 - 1.0).abs() < 1e-6);
    done(&folder, "merge --match-norm italic.safetensors invert.safetensors -o out.safetensors");
}

#[test]
fn verify_prints_a_line_for_every_layer_and_the_certificate() {
    let folder = two("lokr4");
    let ran = done(&folder, &format!("{MERGE} --verify"));
    let layers = ran.stdout.lines().filter(|line| line.starts_with("lora_"));
    assert_eq!(layers.clone().count(), 97);
    assert!(layers.clone().all(|line| line.contains(" % ")), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nCertificate\n  Error "), "{}", ran.stdout);
}

#[test]
fn quiet_says_nothing_where_there_is_nothing_to_warn_of() {
    let folder = two("lora");
    for option in ["--quiet", "-q"] {
        let ran = done(&folder, &format!("{MERGE} {option}"));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    }
    let warned = done(&folder, &format!("{MERGE} --quiet --space factor"));
    assert!(warned.stderr.starts_with("Warning: ") && warned.stdout.is_empty(), "{}", warned.stderr);
}

#[test]
fn an_inexact_file_is_warned_of_with_a_better_way() {
    let folder = two("lokr4");
    for (options, says) in [
        ("--space factor", ["% off the true merge", "Without --space factor"]),
        ("--format lokr", ["lokr holds this merge to ", "; --format auto holds it to about 0."]),
        ("--format lora --rank 2", ["lora with --rank 2 holds this merge to ", "--format auto holds it"]),
    ] {
        let ran = done(&folder, &format!("{MERGE} {options}"));
        let warned =
            |line: &str| line.starts_with("Warning: ") && says.iter().all(|text| line.contains(text));
        assert!(ran.stderr.lines().any(warned), "{options}: {}", ran.stderr);
    }
    let exact = done(&folder, MERGE).stderr;
    assert!(!exact.contains("holds this merge"), "{exact}");
}

#[test]
fn inputs_without_a_common_layer_are_merged_with_a_warning() {
    const WARNING: &str = "Warning: Models may not be compatible. Proceed with caution.\n";
    let folder = two("lora");
    assert!(!done(&folder, MERGE).stderr.contains(WARNING));
    let renamed = read(&folder, "invert.safetensors").into_iter();
    let renamed = renamed.map(|(name, tensor)| (name.replace("lora_unet", "lora_other"), tensor)).collect();
    write(&folder, "invert.safetensors", &renamed);
    let ran = done(&folder, MERGE);
    assert!(ran.stderr.starts_with(WARNING), "{}", ran.stderr);
    assert!(ran.stderr.contains("italic.safetensors and invert.safetensors have no layer in common"));
    assert!(ran.stdout.contains(" 194 layers "), "{}", ran.stdout);
}

#[test]
fn inspect_names_the_family_of_every_trained_adapter() {
    let mut files: Vec<_> = fs::read_dir(ADAPTERS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 23);
    let folder = TempDir::new().unwrap();
    let base = format!("--base={ADAPTERS}/../base.safetensors");
    let output = command(&folder, "inspect --type").args(&files).arg(base).output().unwrap();
    let kinds = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(kinds.lines().count(), files.len());
    for (path, kind) in files.iter().zip(kinds.lines()) {
        let algo = path.file_name().unwrap().to_str().unwrap().split('.').nth(1).unwrap();
        let known =
            [("lora", "LoRA"), ("loha", "LoHa"), ("lokr", "LoKr"), ("full", "Full"), ("dora", "DoRA")];
        let expected = known.iter().find(|(stem, _)| algo.starts_with(stem)).unwrap().1;
        assert_eq!(kind, expected, "{algo}");
    }
}

#[test]
fn inspect_prints_json_for_programs_and_a_page_for_people() {
    let folder = two("loha");
    let ran = done(&folder, "inspect --json italic.safetensors invert.safetensors");
    let surveys: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(surveys.as_array().unwrap().len(), 2);
    assert_eq!((&surveys[1]["file"], &surveys[1]["kind"]), (&"invert.safetensors".into(), &"LoHa".into()));
    assert_eq!(surveys[0]["families"]["LoHa"], 97);
    let page = done(&folder, "inspect italic.safetensors").stdout;
    assert!(page.starts_with("italic.safetensors\n  kind          LoHa\n"), "{page}");
}

#[test]
fn a_plan_has_a_row_for_each_way_and_its_rows_can_be_typed() {
    let folder = two("lokr4");
    let models = "italic.safetensors invert.safetensors";
    let table = done(&folder, &format!("plan {models} --weights 0.7 0.5")).stdout;
    for row in [
        "--quality good",
        "--format lora --rank 8 ",
        "--format auto --tolerance 0.1 ",
        "--format lokr",
        "--format full",
    ] {
        assert!(table.lines().any(|line| line.starts_with(row)), "{row} is not in {table}");
    }
    let row = table.lines().find(|line| line.starts_with("--format lora --rank 8 ")).unwrap();
    let merged =
        done(&folder, &format!("merge {models} --weights 0.7 0.5 --format lora --rank 8 -o out.safetensors"));
    let (size, error) = merged.stdout.split_once(", error ").unwrap();
    let (size, error) = (size.rsplit(", ").next().unwrap(), error.split(',').next().unwrap());
    assert!(row.contains(size) && row.contains(error), "{row}\n{}", merged.stdout);

    let json: Value =
        serde_json::from_str(&done(&folder, &format!("plan --json {models} --dtype bfloat16")).stdout)
            .unwrap();
    assert_eq!(json["curves"][0]["dtype"], "bfloat16");
    assert_eq!(json["inputs"][1]["name"], "invert.safetensors");
    fails(&folder, &format!("plan {models} --weights 1"), 2, &["Number of weights (1) must match"]);
    fails(
        &folder,
        "plan italic.safetensors gone.safetensors",
        1,
        &["Model file not found: gone.safetensors"],
    );
    fails(&folder, &format!("plan {models} --strategy nonsense"), 2, &["nonsense"]);
}

#[test]
fn a_comparison_says_what_it_found_and_what_that_suggests() {
    let folder = two("lora");
    let models = "italic.safetensors invert.safetensors";
    let text = done(&folder, &format!("compare {models}")).stdout;
    for part in ["Cosine", "Overlap", "Conflicts", "1 and 2", "A plain sum keeps 1.0", "M00", "orthogonal"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let twice = done(&folder, "compare italic.safetensors italic.safetensors --weights 1 -1").stdout;
    assert!(twice.contains("A plain sum keeps 0.00") && twice.contains("opposite directions"), "{twice}");
    let json: Value =
        serde_json::from_str(&done(&folder, &format!("compare {models} --json")).stdout).unwrap();
    assert_eq!((json["cosines"][0][0].as_f64(), json["layers"].as_array().unwrap().len()), (Some(1.0), 97));
    fails(&folder, "compare italic.safetensors", 2, &["two adapters or more"]);
    fails(&folder, &format!("compare {models} --strategy ties"), 2, &["--strategy"]);
}

#[test]
#[cfg(feature = "pictures")]
fn pictures_and_reports_are_written_whole_and_replace_no_model() {
    let folder = two("loha");
    let models = "italic.safetensors invert.safetensors";
    let hostile = "<b>&\"'.safetensors";
    fs::rename(folder.path().join("invert.safetensors"), folder.path().join(hostile)).unwrap();
    fs::copy(folder.path().join(hostile), folder.path().join("invert.safetensors")).unwrap();
    for verb in ["plan", "compare"] {
        let words = format!(
            "{verb} italic.safetensors {hostile} --svg a.svg --png a.png --html a.html --dark --quiet"
        );
        assert_eq!(done(&folder, &words).stdout, "");
        let all = content(&folder);
        let text = |name: &str| String::from_utf8(all[name].clone()).unwrap();
        assert!(text("a.svg").starts_with("<svg") && text("a.svg").trim_end().ends_with("</svg>"));
        assert_eq!(&all["a.png"][..8], b"\x89PNG\r\n\x1a\n");
        let page = text("a.html");
        assert!(page.contains("prefers-color-scheme") && page.matches("<svg").count() == 2);
        for text in [text("a.svg"), page] {
            assert!(text.contains("&lt;b&gt;&amp;") && !text.contains("<b>"), "{verb}: a name is markup");
            assert!(
                !text.contains("href") && !text.contains("src="),
                "{verb} asks for something from elsewhere"
            );
        }
    }
    fails(&folder, &format!("plan {models} --png ./italic.safetensors"), 2, &["--png would replace"]);
    fails(&folder, &format!("compare {models} --svg nowhere/a.svg"), 1, &["nowhere"]);
}

#[test]
fn a_file_that_cannot_be_inspected_does_not_hide_the_others() {
    let folder = two("lora");
    let ran = run(&folder, "inspect --type none.safetensors italic.safetensors");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "LoRA\n"));
    assert_eq!(ran.stderr, "Error: Model file not found: none.safetensors\n");
}

#[test]
fn a_dora_is_refused_with_family_layer_and_file() {
    let folder = two("lora");
    fs::copy(format!("{ADAPTERS}/invert.doralora.safetensors"), folder.path().join("dora.safetensors"))
        .unwrap();
    let says = ["dora.safetensors: layer lora_unet_conv_in: is DoRA", "base model"];
    fails(&folder, "merge italic.safetensors dora.safetensors -o out.safetensors", 1, &says);
    fails(&folder, "inspect --type dora.safetensors", 1, &says);
}

#[test]
fn every_broken_container_is_refused_by_name() {
    let folder = two("lora");
    for broken in broken::all() {
        println!("{}", broken.what);
        fs::write(folder.path().join("invert.safetensors"), &broken.bytes).unwrap();
        fails(&folder, MERGE, 1, &["invert.safetensors: ", broken.says]);
        fails(&folder, "inspect --type invert.safetensors", 1, &["invert.safetensors: ", broken.says]);
    }
}

#[test]
fn a_folder_is_neither_a_model_nor_an_output() {
    let folder = two("lora");
    fs::create_dir(folder.path().join("folder.safetensors")).unwrap();
    let says = ["folder.safetensors: this is a folder"];
    fails(&folder, "merge italic.safetensors folder.safetensors -o out.safetensors", 1, &says);
    fails(&folder, "merge italic.safetensors -o folder.safetensors", 1, &says);
    fails(&folder, "merge italic.safetensors -o none/out.safetensors", 1, &["none", "does not exist"]);
    fails(&folder, "merge italic.safetensors -o none/", 1, &["none/: this is the name of a folder"]);
    fails(&folder, "merge italic.safetensors -o out.safetensors --metadata none/report.json", 1, &["none"]);
}

/// The tensors that the weights of [`CONVOLUTION`] and [`LINEAR`] are stored as, alpha aside, each with its layer.
fn factors(tensors: &Tensors) -> Vec<(String, String)> {
    let parts = tensors.keys().filter_map(|name| Some((name, name.split_once('.')?)));
    let ours = parts.filter(|(_, (layer, suffix))| {
        [CONVOLUTION, LINEAR].contains(layer) && !["alpha", "diff_b"].contains(suffix)
    });
    ours.map(|(name, (layer, _))| (name.clone(), layer.to_owned())).collect()
}

#[test]
fn a_layer_without_all_its_tensors_is_refused() {
    for algo in ["lora", "loha", "lokr4", "lokr8both", "lokrfull"] {
        let folder = two(algo);
        let sound = read(&folder, "invert.safetensors");
        let factors = factors(&sound);
        assert!(factors.len() >= 4, "{algo}");
        for (name, layer) in &factors {
            let mut cut = sound.clone();
            cut.remove(name);
            write(&folder, "invert.safetensors", &cut);
            fails(&folder, MERGE, 1, &["invert.safetensors: ", layer, "is missing beside"]);
        }
        let mut alphas = sound;
        factors.iter().for_each(|(name, _)| drop(alphas.remove(name)));
        write(&folder, "invert.safetensors", &alphas);
        fails(&folder, MERGE, 1, &["invert.safetensors: ", CONVOLUTION, "has .alpha without the tensors"]);
    }
}

#[test]
fn a_layer_of_unfit_shapes_or_numbers_is_refused() {
    type Damage = fn(&mut (Dtype, Vec<usize>, Vec<u8>));
    fn first(tensor: &mut (Dtype, Vec<usize>, Vec<u8>), bits: [u8; 2]) {
        assert_eq!(tensor.0, Dtype::F16);
        tensor.2[..2].copy_from_slice(&bits);
    }
    let damages: [(&str, Damage); 7] = [
        ("not finite", |tensor| first(tensor, [0x00, 0x7e])),
        ("not finite", |tensor| first(tensor, [0x00, 0x7c])),
        ("not finite", |tensor| first(tensor, [0x00, 0xfc])),
        ("not floating point", |(dtype, ..)| *dtype = Dtype::I16),
        ("is empty", |(_, shape, data)| {
            shape[0] = 0;
            data.clear();
        }),
        // What is one-dimensional or a row short fits neither its partners nor the other input's layer.
        ("", |(_, shape, data)| *shape = vec![data.len() / 2]),
        ("", |(_, shape, data)| {
            data.truncate(data.len() / shape[0] * (shape[0] - 1));
            shape[0] -= 1;
        }),
    ];
    for algo in ["lora", "loratucker", "loha", "lohatucker", "lokr4", "lokr8both", "lokrfull", "full"] {
        let folder = two(algo);
        let sound = read(&folder, "invert.safetensors");
        let factors = factors(&sound);
        assert!(!factors.is_empty(), "{algo}");
        for (name, layer) in &factors {
            for (says, damage) in damages {
                let mut damaged = sound.clone();
                damage(damaged.get_mut(name).unwrap());
                write(&folder, "invert.safetensors", &damaged);
                fails(&folder, MERGE, 1, &["invert.safetensors: ", layer, says]);
            }
        }
    }
}

#[test]
fn an_alpha_that_is_no_finite_number_is_refused() {
    for algo in ["lora", "loha", "lokr4", "lokr8both"] {
        let folder = two(algo);
        let sound = read(&folder, "invert.safetensors");
        let alphas: [(&str, &[usize], &[f32]); 4] = [
            ("alpha has 2 numbers", &[2], &[1.0, 1.0]),
            ("alpha has 0 numbers", &[0], &[]),
            ("alpha is NaN", &[], &[f32::NAN]),
            ("alpha is inf", &[1], &[f32::INFINITY]),
        ];
        for (says, shape, numbers) in alphas {
            let mut damaged = sound.clone();
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            damaged.insert(format!("{LINEAR}.alpha"), (Dtype::F32, shape.to_vec(), bytes));
            write(&folder, "invert.safetensors", &damaged);
            fails(&folder, MERGE, 1, &["invert.safetensors: ", LINEAR, says]);
        }
    }
}

#[test]
fn a_number_that_the_output_cannot_hold_is_refused_with_what_can() {
    let folder = two("lora");
    let mut tensors = read(&folder, "invert.safetensors");
    let (dtype, shape, data) = tensors.get_mut(&format!("{LINEAR}.lora_up.weight")).unwrap();
    *dtype = Dtype::F32;
    *data = 1e15_f32.to_le_bytes().repeat(shape.iter().product());
    write(&folder, "invert.safetensors", &tensors);
    for options in ["", "--format full", "--space factor"] {
        let says = [&format!("out.safetensors: layer {LINEAR}: "), "dtype bfloat16 or float32 holds it"];
        fails(&folder, &format!("{MERGE} {options}"), 1, &says);
    }
    done(&folder, &format!("{MERGE} --dtype bfloat16"));
}

#[test]
fn a_tensor_of_no_known_kind_is_refused_or_left_out_on_request() {
    let folder = two("lora");
    let mut tensors = read(&folder, "invert.safetensors");
    let foreign = format!("{LINEAR}.colour");
    tensors.insert(foreign.clone(), (Dtype::U8, vec![1], vec![1]));
    write(&folder, "invert.safetensors", &tensors);
    fails(&folder, MERGE, 1, &["invert.safetensors: ", &foreign, "belongs to no adapter family"]);
    let ran = done(&folder, &format!("{MERGE} --skip-unknown"));
    assert!(ran.stderr.contains("Warning: left out: invert.safetensors: "), "{}", ran.stderr);
    assert!(ran.stdout.contains(", 1 left out, "), "{}", ran.stdout);

    write(&folder, "invert.safetensors", &Tensors::new());
    fails(&folder, MERGE, 1, &["invert.safetensors: the file holds no adapter layers"]);
}

#[cfg(unix)]
#[test]
fn nothing_in_a_file_can_command_the_terminal() {
    const EVIL: &str = "\u{1b}[2J\u{9b}31m\u{7}\rError: all is lost\nError: all is lost";
    let folder = two("lora");
    let path = folder.path().join("evil\u{1b}[31m.safetensors");
    let mut writer = Writer::new(AtomicFile::create(&path).unwrap(), path.clone(), 0).unwrap();
    let layer = format!("lora_{EVIL}_1_layer");
    let number = 1e-3_f32.to_le_bytes();
    for suffix in ["alpha", "lora_down.weight", "lora_up.weight"] {
        let shape: &[usize] = if suffix == "alpha" { &[] } else { &[1, 1] };
        // An alpha of 0 is warned of, with the layer's name.
        let number = if suffix == "alpha" { [0; 4] } else { number };
        writer.push(&format!("{layer}.{suffix}"), Dtype::F32, shape, &number).unwrap();
    }
    let metadata = BTreeMap::from([("ss_output_name", EVIL), ("ss_base_model_version", EVIL)]);
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    writer.finish(metadata).unwrap().0.commit().unwrap();
    let tame = |ran: &Ran| {
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("Error: all is lost")), "{said}");
        said
    };
    let merged = "merge evil\u{1b}[31m.safetensors italic.safetensors -o out\u{1b}[31m.safetensors --verify";
    for words in ["inspect evil\u{1b}[31m.safetensors", merged] {
        let said = tame(&done(&folder, words));
        assert!(said.contains("lora_\\u{1b}[2J\\u{9b}31m\\u{7}\\rError: all is lost\\nError"), "{said}");
    }
    let ran = done(&folder, "inspect --json evil\u{1b}[31m.safetensors");
    tame(&ran);
    let surveys: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(surveys[0]["metadata"]["ss_output_name"], EVIL);

    let foreign = Tensors::from([(format!("{layer}.colour"), (Dtype::U8, vec![1], vec![1]))]);
    write(&folder, "evil.safetensors", &foreign);
    let halved =
        Tensors::from([(format!("{layer}.lora_up.weight"), (Dtype::F32, vec![1, 1], number.to_vec()))]);
    write(&folder, "half.safetensors", &halved);
    for file in ["evil", "half", "none\u{1b}[31m"] {
        for words in
            [format!("inspect {file}.safetensors"), format!("merge {file}.safetensors -o out.safetensors")]
        {
            let ran = run(&folder, &words);
            assert_eq!(ran.code, Some(1), "{words:?}");
            assert!(tame(&ran).contains("\\u{1b}["), "{words:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_merge_that_fails_late_keeps_the_old_output() {
    let folder = two("lora");
    fs::write(folder.path().join("out.safetensors"), "precious").unwrap();
    fs::write(folder.path().join("report.json"), "precious, too").unwrap();
    let mut tensors = read(&folder, "invert.safetensors");
    // Numbers are read layer by layer: by the last one, most of the output is written.
    let (_, (_, _, data)) = tensors.iter_mut().rfind(|(name, _)| name.ends_with(".lora_up.weight")).unwrap();
    data[..2].copy_from_slice(&[0x00, 0x7e]);
    write(&folder, "invert.safetensors", &tensors);
    for options in ["", "--space factor", "--quality compact", "--strategy smart_fusion"] {
        let words = format!("{MERGE} --metadata report.json {options}");
        fails(&folder, &words, 1, &["invert.safetensors: layer ", "not finite"]);
    }
}

#[cfg(unix)]
#[test]
fn a_merge_that_is_stopped_leaves_nothing_behind() {
    use std::process::Stdio;
    use std::thread::sleep;
    use std::time::Duration;

    for signal in ["-INT", "-TERM"] {
        let folder = two("loha");
        let before = content(&folder);
        let mut slow = command(&folder, &format!("{MERGE} --format loha --rank 16"));
        let mut child =
            slow.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The output is begun under another name once the work begins.
        while names(&folder).len() == before.len() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(200));
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        if output.status.success() {
            // It was faster than the signal.
            assert_eq!(names(&folder), ["invert.safetensors", "italic.safetensors", "out.safetensors"]);
            assert!(!read(&folder, "out.safetensors").is_empty());
        } else {
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("Error: cancelled; nothing was written\n"), "{stderr}");
            assert!(content(&folder) == before, "{:?}", names(&folder));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_stop_when_the_output_stands_is_no_failure() {
    use std::process::Stdio;

    let folder = two("lokrfull");
    // Its error calls for advice, which takes longer than the merge.
    let mut child = command(&folder, &format!("{MERGE} --format lokr"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !folder.path().join("out.safetensors").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && !stderr.contains("Error"), "{stderr}");
    assert!(stdout.starts_with("out.safetensors: 97 layers (LoKr), "), "{stdout}");
    assert!(stderr.contains("Warning: lokr holds this merge to "), "{stderr}");
}
