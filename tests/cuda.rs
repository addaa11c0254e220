//! CUDA without a GPU: the kernels' own sources, compiled for the host and run thread by thread (`tests/cuda_host`).

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
