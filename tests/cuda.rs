//! CUDA without a GPU: the kernels' own sources, compiled for the host and run thread by thread (`tests/cuda_host`), alone
//! and behind a driver that runs them so for the library; and, where there is a GPU, the library on it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use lycomerge::file::{Container, Writer};
use lycomerge::tensor::{Dtype, encode};
use support::tools::{is_there, quietly, root};
use tempfile::TempDir;

const SANITIZED: [&str; 3] = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

fn kernels() -> PathBuf {
    root().join("src/compute/cuda/kernels")
}

/// The options of g++ for the shim, and kernels in `kernels`.
fn compile(kernels: &Path, options: &[&str], sources: &[&str], program: &Path) {
    let host = root().join("tests/cuda_host");
    let mut command = Command::new("g++");
    // Products are rounded before they are added, as NVRTC is told, too; a fiber begins as a function that returns twice.
    command.args(["-std=c++17", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-clobbered"]);
    command.args(["-Wno-unknown-pragmas"]).args(options).arg("-I").arg(&host).arg("-I").arg(kernels);
    command.args(sources.iter().map(|source| host.join(source))).arg("-o").arg(program);
    quietly(&mut command);
}

/// Checks kernels in `kernels`, from fresh random numbers.
fn check(kernels: &Path, options: &[&str], name: &str) -> (u64, Output) {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join(name);
    compile(kernels, options, &["shim.cpp", &format!("{name}.cpp")], &program);
    let seed = u64::from(std::process::id()) << 32 | u64::from(folder_number(&folder));
    (seed, Command::new(&program).arg(seed.to_string()).output().unwrap())
}

/// Another number for every temporary folder.
fn folder_number(folder: &TempDir) -> u32 {
    folder
        .path()
        .to_string_lossy()
        .bytes()
        .fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

fn is_right(name: &str) {
    if is_there("g++") {
        let (seed, output) = check(&kernels(), &SANITIZED, name);
        let said = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        // Each launch tells AddressSanitizer about its fibers, which it doesn't know.
        assert!(output.status.success() && said.is_empty(), "{name} {seed}: {said}\n{complaints}");
    }
}

#[test]
fn the_shim_finds_threads_that_part_and_races() {
    is_right("divergence");
}

#[test]
fn entries_of_every_kind_of_term_are_made_within_the_stated_error() {
    is_right("materialise");
}

#[test]
fn gram_matrices_are_within_the_stated_error() {
    is_right("gram");
}

#[test]
fn reductions_are_within_the_stated_error_and_in_one_order() {
    is_right("reduce");
}

#[test]
fn casts_give_the_nearest_number_or_a_random_neighbour() {
    is_right("cast");
}

#[test]
fn the_largest_numbers_are_those_of_a_sort() {
    is_right("select");
}

#[test]
fn entries_are_elected_and_added_up_as_the_formula_says() {
    is_right("elect");
}

#[test]
fn baked_weights_are_the_nearest_numbers_and_measured() {
    is_right("bake");
}

/// The check of `check` with one place in a source changed must fail.
fn is_caught(source: &str, from: usize, old: &str, new: &str, options: &[&str], name: &str) {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(kernels()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
    }
    let text = fs::read_to_string(kernels().join(source)).unwrap();
    let changed = text[..from].to_owned() + &text[from..].replacen(old, new, 1);
    assert_ne!(text, changed);
    fs::write(folder.path().join(source), changed).unwrap();
    let (seed, output) = check(folder.path(), options, name);
    let line = text[..from].lines().count();
    assert!(!output.status.success(), "{source}:{line}: '{old}' can go, seed {seed}");
}

#[test]
fn a_barrier_that_is_missing_anywhere_is_caught() {
    if !is_there("g++") {
        return;
    }
    const BARRIER: &str = "__syncthreads();";
    for (source, name) in [
        ("materialise.cu", "materialise"),
        ("gram.cu", "gram"),
        ("select.cu", "select"),
        ("common.cuh", "reduce"),
    ] {
        let text = fs::read_to_string(kernels().join(source)).unwrap();
        let places: Vec<usize> = text.match_indices(BARRIER).map(|(at, _)| at).collect();
        assert!(places.len() > 1, "{source}");
        places.into_iter().for_each(|at| is_caught(source, at, BARRIER, "", &["-O1"], name));
    }
}

#[test]
fn a_write_past_the_end_and_a_rounding_that_is_wrong_are_caught() {
    if is_there("g++") {
        is_caught("select.cu", 0, "if (there == PER<T>) {", "if (there > 0) {", &SANITIZED, "select");
        is_caught("common.cuh", 0, "rint(steps)", "floor(steps + 0.5)", &["-O1"], "cast");
    }
}

/// A folder with a libcuda that runs the library's kernels without a GPU (`cuda_host/driver.cpp`).
fn emulated() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = TempDir::new().unwrap();
            let rows = ["materialise", "bake", "select", "reduce", "elect"].map(|module| {
                let ptx = fs::read_to_string(kernels().join(format!("{module}.ptx"))).unwrap();
                let names = ptx
                    .split(".entry ")
                    .skip(1)
                    .map(|rest| rest.split('(').next().unwrap().trim().to_owned());
                names.map(|name| format!("KERNEL({module}_cu, {name})\n")).collect::<String>()
            });
            fs::write(folder.path().join("table.inc"), rows.concat()).unwrap();
            let include = format!("-I{}", folder.path().display());
            let options = ["-O2", "-shared", "-fPIC", &include];
            compile(&kernels(), &options, &["shim.cpp", "driver.cpp"], &library(folder.path()));
            folder
        })
        .path()
}

/// Where a libcuda is found before the machine's own: under either of its names.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("libcuda.so");
    std::os::unix::fs::symlink(&library, folder.join("libcuda.so.1")).unwrap();
    library
}

/// What the command does where the driver is the one in `folder`, or the machine's own.
fn lycomerge(folder: Option<&Path>, settings: &[(&str, &str)], words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lycomerge"));
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command.envs(settings.iter().copied()).args(words).output().unwrap()
}

fn real(name: &str) -> String {
    root().join("tests/data/real").join(name).to_str().unwrap().to_owned()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Merges with `--device`, which must fail with one line that has these words, and leave no file.
fn is_refused(folder: Option<&Path>, settings: &[(&str, &str)], device: &str, code: i32, words: &str) {
    let out = TempDir::new().unwrap();
    let merged = out.path().join("merged.safetensors");
    let lokr = real("adapters/italic.lokr4.safetensors");
    let command = ["merge", &lokr, &lokr, "-o", merged.to_str().unwrap(), "-q", "--device", device];
    let output = lycomerge(folder, settings, &command);
    let said = told(&output);
    assert_eq!(output.status.code(), Some(code), "{device} {settings:?}: {said}");
    assert!(said.contains(words) && said.lines().count() == 1, "{device} {settings:?}: {said}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn what_is_wrong_with_a_driver_is_said_in_one_line() {
    if !is_there("g++") {
        return;
    }
    let folder = Some(emulated());
    is_refused(folder, &[("EMULATED_INIT", "100")], "cuda", 1, "there is no NVIDIA GPU here");
    is_refused(folder, &[("EMULATED_INIT", "34")], "cuda", 1, "the toolkit's stub");
    is_refused(folder, &[("EMULATED_INIT", "803")], "cuda", 1, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH");
    is_refused(folder, &[("EMULATED_VERSION", "11080")], "cuda", 1, "for CUDA 11.8, and 12.0 is needed");
    is_refused(folder, &[("EMULATED_COUNT", "0")], "cuda", 1, "there is no NVIDIA GPU here");
    is_refused(folder, &[("EMULATED_COMPUTE", "70")], "cuda", 1, "compute capability 7.0");
    is_refused(folder, &[], "cuda:1", 2, "only cuda:0 is there");
    is_refused(folder, &[("EMULATED_COUNT", "2")], "cuda:5", 2, "the last is cuda:1");
    is_refused(folder, &[], "gpu", 2, "not one of cpu, cuda, cuda:N, auto");
}

#[test]
fn a_library_that_is_no_driver_is_told_from_one() {
    if !is_there("g++") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("nothing.c");
    fs::write(&source, "int nothing;").unwrap();
    let library = library(folder.path());
    quietly(Command::new("g++").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source));
    is_refused(Some(folder.path()), &[], "cuda", 1, "it has no cuInit");
}

/// Whether this machine has a GPU that can be used.
fn has_gpu() -> bool {
    let out = TempDir::new().unwrap();
    let (lokr, merged) = (real("adapters/italic.lokr4.safetensors"), out.path().join("merged.safetensors"));
    let command = ["merge", &lokr, "-o", merged.to_str().unwrap(), "-q", "--device", "cuda"];
    lycomerge(None, &[], &command).status.success()
}

#[test]
fn where_there_is_no_driver_that_is_said_and_auto_does_without() {
    if has_gpu() {
        eprintln!("skipped: there is a GPU");
        return;
    }
    is_refused(None, &[], "cuda", 1, "--device cpu, or auto");
    let out = TempDir::new().unwrap();
    let (lokr, merged) = (real("adapters/italic.lokr4.safetensors"), out.path().join("merged.safetensors"));
    let output =
        lycomerge(None, &[], &["merge", &lokr, "-o", merged.to_str().unwrap(), "-q", "--device", "auto"]);
    assert!(output.status.success() && told(&output).is_empty(), "{}", told(&output));
}

/// The tests' base in another dtype.
fn base(dtype: Dtype, folder: &Path) -> PathBuf {
    let whole = open(real("base.safetensors"));
    let path = folder.join("base.safetensors");
    let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut writer = Writer::new(file, path.clone(), 0).unwrap();
    for name in whole.names() {
        let view = whole.get(name).unwrap();
        let reals: Vec<f64> = view.to_reals();
        let mut data = Vec::new();
        if dtype.size() == 1 {
            // Numbers of moderate size, whichever of the two: a sign and the low bits of the mantissa.
            data.extend(reals.iter().map(|x| 0x30 | ((x.to_bits() >> 40) & 0x87) as u8));
        } else {
            encode(&reals, dtype, &mut data).unwrap();
        }
        writer.push(name, dtype, view.shape, &data).unwrap();
    }
    writer.finish(Default::default()).unwrap();
    path
}

fn open(path: impl AsRef<Path>) -> Container {
    Container::open(path.as_ref()).unwrap()
}

/// Bakes on the CPU and on a GPU, by the driver in `folder` or the machine's own. Both must write the same weights but for
/// the rounding of sums that float32 adds up in another order, and measure the same. Returns what the GPU's run said.
fn bakes_alike(folder: Option<&Path>, settings: &[(&str, &str)], dtype: Dtype, options: &[&str]) -> String {
    let out = TempDir::new().unwrap();
    let base = base(dtype, out.path());
    let adapters = ["italic.lora", "invert.loha", "dots.lokr4", "invert.lokr8both", "italic.lohatucker"]
        .map(|name| real(&format!("adapters/{name}.safetensors")));
    let bake = |device: &str, folder: Option<&Path>| {
        let (model, report) = (out.path().join(device), out.path().join(format!("{device}.json")));
        let mut words = vec!["bake", base.to_str().unwrap()];
        words.extend(adapters.iter().map(String::as_str));
        words.extend(["-q", "--device", device, "-o", model.to_str().unwrap()]);
        words.extend(["--metadata", report.to_str().unwrap()]);
        let output = lycomerge(folder, settings, &[&words, options].concat());
        assert!(output.status.success(), "{dtype:?} on {device}: {}", told(&output));
        let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        (open(&model), report, told(&output))
    };
    let (cpu, cpu_report, _) = bake("cpu", None);
    let (gpu, gpu_report, said) = bake("cuda", folder);
    bake("cuda:0", folder);
    assert!(
        fs::read(out.path().join("cuda")).unwrap() == fs::read(out.path().join("cuda:0")).unwrap(),
        "two runs differ"
    );
    let (mut others, mut count) = (0, 0);
    for name in cpu.names() {
        let (x, y): (Vec<f64>, Vec<f64>) =
            (cpu.get(name).unwrap().to_reals(), gpu.get(name).unwrap().to_reals());
        for (x, y) in x.iter().zip(&y) {
            let next = 4.0 * dtype.unit_roundoff() * x.abs().max(y.abs()) + 1e-7;
            assert!((x - y).abs() <= next, "{dtype:?} {name}: {x} and {y}");
        }
        others += x.iter().zip(&y).filter(|(x, y)| x != y).count();
        count += x.len();
    }
    // Of a few numbers that are nearly between two of the dtype's, the other may be chosen.
    assert!(dtype == Dtype::F64 || others * 1000 < count, "{dtype:?}: {others} of {count} differ");
    for figure in ["error", "kept"] {
        let (x, y) = (cpu_report[figure].as_f64().unwrap(), gpu_report[figure].as_f64().unwrap());
        assert!((x - y).abs() <= 1e-3 * x.abs() + 1e-9, "{dtype:?} {figure}: {x} {y}");
    }
    assert!(gpu_report["device"].as_str().unwrap().starts_with("cuda:0 ("), "{}", gpu_report["device"]);
    said
}

const DTYPES: [(Dtype, &[&str]); 6] = [
    (Dtype::F16, &[]),
    (Dtype::BF16, &["--stochastic", "--seed", "3"]),
    (Dtype::F8E4M3, &[]),
    (Dtype::F8E5M2, &["--stochastic"]),
    (Dtype::F32, &[]),
    (Dtype::F64, &[]),
];

#[test]
fn baking_by_the_kernels_is_baking_on_the_cpu() {
    if is_there("g++") {
        for (dtype, options) in DTYPES {
            let said = bakes_alike(Some(emulated()), &[], dtype, options);
            assert!(!said.contains("GPU"), "{said}");
        }
    }
}

/// `cargo test --release --test cuda -- --nocapture gpu` on a machine with one.
#[test]
fn baking_on_a_gpu_is_baking_on_the_cpu() {
    if !has_gpu() {
        eprintln!("skipped: there is no GPU");
        return;
    }
    for (dtype, options) in DTYPES {
        bakes_alike(None, &[], dtype, options);
    }
}

#[test]
fn a_gpu_without_room_leaves_the_work_to_the_cpu_and_says_so() {
    if is_there("g++") {
        // Not all layers fit, whatever the tiles. With one worker they are the same ones each time.
        let little = [("EMULATED_MEMORY", "400000"), ("EMULATED_FREE", "8000000")];
        let said = bakes_alike(Some(emulated()), &little, Dtype::F16, &["--threads", "1"]);
        assert!(said.contains("the GPU's memory is too small"), "{said}");
    }
}

/// Trained adapters with a few of their layers: matrices, a convolution and vectors, as low rank, Kronecker and Hadamard
/// products and as they are.
fn small_adapters(folder: &Path) -> Vec<String> {
    const LAYERS: [&str; 4] = [
        "conv_in.",
        "conv_norm_out.",
        "down_blocks_0_downsamplers_0_conv.",
        "mid_block_attentions_0_transformer_blocks_0_attn1_to_k.",
    ];
    let small = |name: &str| {
        let whole = open(real(&format!("adapters/{name}.safetensors")));
        let path = folder.join(name);
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut writer = Writer::new(file, path.clone(), 0).unwrap();
        for name in whole.names().filter(|name| LAYERS.iter().any(|layer| name.contains(layer))) {
            let view = whole.get(name).unwrap();
            writer.push(name, view.dtype, view.shape, view.data).unwrap();
        }
        writer.finish(Default::default()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    ["italic.lora", "dots.lokr4", "invert.loha", "italic.full", "invert.lokr8both"].map(small).to_vec()
}

/// Merges on the CPU and on a GPU, by the driver in `folder` or the machine's own. Both must store the same entries but for
/// those that are as good as equal where one is chosen. Returns the GPU's report and what its run said.
fn merges_alike(
    folder: Option<&Path>,
    settings: &[(&str, &str)],
    options: &[&str],
) -> (serde_json::Value, String) {
    let out = TempDir::new().unwrap();
    let adapters = small_adapters(out.path());
    let merge = |device: &str, folder: Option<&Path>| {
        // The file's name is in its metadata.
        let folder_of_run = out.path().join(device);
        fs::create_dir(&folder_of_run).unwrap();
        let (merged, report) = (folder_of_run.join("merged"), folder_of_run.join("report"));
        let mut words = vec!["merge"];
        words.extend(adapters.iter().map(String::as_str));
        words.extend(["-q", "--format", "full", "--device", device, "-o", merged.to_str().unwrap()]);
        words.extend(["-w", "0.7,-0.4,1,0.3,0.9", "--metadata", report.to_str().unwrap()]);
        let output = lycomerge(folder, settings, &[&words, options].concat());
        assert!(output.status.success(), "{options:?} on {device}: {}", told(&output));
        let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        (merged, report, told(&output))
    };
    let (cpu, _, _) = merge("cpu", None);
    let (gpu, report, said) = merge("cuda", folder);
    let (again, ..) = merge("cuda:0", folder);
    assert!(fs::read(&gpu).unwrap() == fs::read(again).unwrap(), "{options:?}: two runs differ");
    let (cpu, gpu) = (open(cpu), open(gpu));
    let (mut others, mut count) = (0, 0);
    for name in cpu.names() {
        let (x, y): (Vec<f64>, Vec<f64>) =
            (cpu.get(name).unwrap().to_reals(), gpu.get(name).unwrap().to_reals());
        let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        let other = x.iter().zip(&y).filter(|(x, y)| (*x - *y).abs() > 1e-6 * largest + 1e-12);
        others += other.count();
        count += x.len();
    }
    assert!(others * 1000 < count, "{options:?}: {others} of {count} differ");
    (report, said)
}

/// Every way to keep entries, to make up for the rest, and to elect.
const RULES: [&[&str]; 9] = [
    &["--strategy", "ties", "--set", "density=0.4"],
    &["--strategy", "ties", "--set", "majority_sign_method=frequency", "--set", "normalize=false"],
    &["--strategy", "dare_linear", "--set", "seed=5"],
    &["--strategy", "dare_ties", "--set", "rescale=density", "--set", "lambda=0.7"],
    &["--strategy", "magnitude_prune", "--set", "normalize=true", "--set", "rescale=l1"],
    &["--strategy", "breadcrumbs_ties", "--set", "gamma=0.05", "--set", "density=0.7"],
    &["--strategy", "ties_svd", "--set", "density=0.001"],
    &["--strategy", "dare_ties_svd", "--set", "majority_sign_method=frequency"],
    &["--strategy", "della", "--set", "density=1"],
];

fn merges_all_alike(folder: Option<&Path>) {
    for rule in RULES {
        // In float64, and in float32.
        for dtype in ["float32", "bfloat16"] {
            let (report, said) = merges_alike(folder, &[], &[rule, &["--dtype", dtype]].concat());
            assert!(report["device"].as_str().unwrap().starts_with("cuda:0 ("), "{}", report["device"]);
            assert!(!said.contains("GPU"), "{said}");
        }
    }
}

#[test]
fn merging_entries_by_the_kernels_is_merging_them_on_the_cpu() {
    if is_there("g++") {
        merges_all_alike(Some(emulated()));
    }
}

/// `cargo test --release --test cuda -- --nocapture gpu` on a machine with one.
#[test]
fn merging_entries_on_a_gpu_is_merging_them_on_the_cpu() {
    if !has_gpu() {
        eprintln!("skipped: there is no GPU");
        return;
    }
    merges_all_alike(None);
}

#[test]
fn models_that_a_gpu_has_no_room_for_are_merged_by_the_cpu_which_is_said() {
    if is_there("g++") {
        let little = [("EMULATED_FREE", "100000")];
        let options = ["--threads", "1", "--dtype", "float16", "--strategy", "ties"];
        let (_, said) = merges_alike(Some(emulated()), &little, &options);
        assert!(said.contains("2 layers (") && said.contains("the GPU's memory is too small"), "{said}");
    }
}

#[test]
fn a_merge_that_no_gpu_does_is_done_by_the_cpu_which_is_said() {
    if !is_there("g++") {
        return;
    }
    for rule in [&["--strategy", "della"][..], &["--strategy", "ties", "--set", "merge_space=core"], &[]] {
        let (report, said) = merges_alike(Some(emulated()), &[], rule);
        assert_eq!(report["device"], "cpu");
        assert!(said.contains("device cuda:0: the CPU did this; a GPU"), "{said}");
    }
}

#[test]
fn a_launch_that_fails_is_an_error_and_leaves_nothing() {
    if !is_there("g++") {
        return;
    }
    let out = TempDir::new().unwrap();
    let (base, lokr) = (real("base.safetensors"), real("adapters/italic.lokr4.safetensors"));
    let path = out.path().join("made.safetensors");
    let bake = vec!["bake", &base, &lokr];
    let merge = vec!["merge", &lokr, &lokr, "--strategy", "ties_svd"];
    for mut command in [bake, merge] {
        command.extend(["-o", path.to_str().unwrap(), "-q", "--device", "cuda"]);
        let output = lycomerge(Some(emulated()), &[("EMULATED_FAULT", "719")], &command);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cuda:0: CUDA_ERROR_LAUNCH_FAILED") && said.contains("--device cpu"), "{said}");
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
