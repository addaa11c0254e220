//! The C ABI as C and C++ programs meet it: those of `tests/capi` are compiled against the headers and the libraries
//! that cargo built, and run.

use std::collections::BTreeSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What a Rust staticlib needs besides itself.
const SYSTEM: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lrt"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A library of this build: it lies beside this test. The one in the profile's folder may be of an older build.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.with_file_name(name);
    assert!(found.exists(), "there is no {}", found.display());
    found
}

fn dynamic() -> PathBuf {
    library(&format!("{DLL_PREFIX}lycomerge{DLL_SUFFIX}"))
}

/// Whether `tool` can be started; says so if it can't.
fn is_there(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: there is no {tool}");
    }
    there
}

/// Runs a command that must succeed without a word.
fn quietly(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{command:?}\n{}", String::from_utf8_lossy(&said));
}

/// The compiler of a program in `tests/capi`, and its standard.
fn compiler_of(program: &str) -> (&'static str, &'static str) {
    if program.ends_with(".cpp") { ("c++", "-std=c++17") } else { ("cc", "-std=c11") }
}

/// Compiles a program of `tests/capi` with `link` behind it, and runs it on the real adapters and an empty folder,
/// which comes back.
fn run(name: &str, link: &[&OsStr]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    let (compiler, standard) = compiler_of(name);
    let mut compile = Command::new(compiler);
    compile.args([standard, "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]);
    compile.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("bindings/cpp"));
    compile.arg(root().join("tests/capi").join(name)).arg("-o").arg(&program).args(link);
    quietly(&mut compile);

    let scratch = TempDir::new().unwrap();
    let adapters = root().join("tests/data/real/adapters");
    quietly(Command::new(&program).arg(adapters).arg(scratch.path()).env("ASAN_OPTIONS", "detect_leaks=1"));
    scratch
}

/// Runs it with the dynamic library.
fn run_plain(name: &str) -> Option<TempDir> {
    let library = dynamic();
    let rpath = format!("-Wl,-rpath,{}", library.parent().unwrap().display());
    is_there(compiler_of(name).0).then(|| run(name, &[library.as_ref(), rpath.as_ref(), "-lm".as_ref()]))
}

/// Runs it with the static library under the sanitizers, whose allocator watches Rust's memory, too.
fn run_sanitized(name: &str) -> Option<TempDir> {
    let library = library("liblycomerge.a");
    let mut link: Vec<&OsStr> = vec!["-fsanitize=address,undefined".as_ref(), library.as_ref()];
    link.extend(SYSTEM.map(OsStr::new));
    is_there(compiler_of(name).0).then(|| run(name, &link))
}

/// The header without its comments.
fn header() -> String {
    let text = fs::read_to_string(root().join("include/lycomerge.h")).unwrap();
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let text = text.split_once("#ifndef").unwrap().1.lines().map(code).collect::<Vec<_>>();
    text.join("\n")
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = header();
    let before_bracket = header.split('(').filter_map(|part| part.split([' ', '*', '\n', ')']).next_back());
    before_bracket.filter(|name| name.starts_with("lyco_")).map(str::to_owned).collect()
}

#[test]
fn two_real_adapters_are_merged_saved_and_opened_again() {
    if let Some(scratch) = run_plain("merge.c") {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}

#[test]
fn tensors_are_lent_as_they_lie_in_the_file() {
    for scratch in [run_plain("tensors.c"), run_sanitized("tensors.c")].into_iter().flatten() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_cpp_host_owns_what_it_is_given_and_catches_what_fails() {
    for scratch in [run_plain("host.cpp"), run_sanitized("host.cpp")].into_iter().flatten() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}

#[test]
fn tensors_and_deltas_go_to_and_from_a_hosts_memory() {
    for scratch in [run_plain("host_tensors.c"), run_sanitized("host_tensors.c")].into_iter().flatten() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn calls_in_random_order_neither_crash_nor_leak() {
    run_sanitized("random.c");
}

#[test]
fn a_cancelled_run_leaves_nothing_behind() {
    if let Some(scratch) = run_plain("cancel.c") {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn null_and_nonsense_are_refused_by_every_function() {
    if let Some(scratch) = run_sanitized("nonsense.c") {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
    let program = fs::read_to_string(root().join("tests/capi/nonsense.c")).unwrap();
    let missing: Vec<_> =
        declared().into_iter().filter(|name| !program.contains(&format!("{name}("))).collect();
    assert!(missing.is_empty(), "nonsense.c doesn't try {missing:?}");
}

#[test]
fn merges_and_cancelled_runs_are_clean_under_the_sanitizers() {
    run_sanitized("merge.c");
    run_sanitized("cancel.c");
}

/// A program around the example in the header's introduction.
fn example() -> String {
    let text = fs::read_to_string(root().join("include/lycomerge.h")).unwrap();
    let introduction = text.split("*/").next().unwrap().lines();
    let lines: Vec<_> = introduction.filter_map(|line| line.strip_prefix(" *     ")).collect();
    assert!(lines.len() > 10, "{lines:?}");
    format!("#include \"lycomerge.h\"\n#include <stdio.h>\nint main(void) {{\n{}\n}}\n", lines.join("\n"))
}

#[test]
fn the_header_and_its_example_are_clean_c_and_cpp() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("example.c");
    fs::write(&program, example()).unwrap();
    for (compiler, standard) in
        [("cc", ["c", "-std=c11"]), ("cc", ["c", "-std=c2x"]), ("c++", ["c++", "-std=c++17"])]
    {
        if is_there(compiler) {
            let mut command = Command::new(compiler);
            command.args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wundef", "-Werror", "-I"]);
            quietly(command.arg(root().join("include")).arg("-x").args(standard).arg(&program));
        }
    }
}

#[test]
fn the_dynamic_library_exports_exactly_what_the_header_declares() {
    if !is_there("nm") {
        return;
    }
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(dynamic()).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let names = names.lines().filter_map(|line| line.split_whitespace().next_back());
    let exported: BTreeSet<_> = names.filter(|name| name.starts_with("lyco_")).map(str::to_owned).collect();
    assert!(exported.len() > 30, "{exported:?}");
    assert_eq!(exported, declared());
}
