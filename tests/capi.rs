//! The C ABI as C and C++ programs meet it: those of `tests/capi` are compiled against the headers and the libraries
//! that cargo built, and run.

mod support;

use std::collections::BTreeSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::tools::{is_there, library, quietly, root, says};
use tempfile::TempDir;

/// What a Rust staticlib needs besides itself.
const SYSTEM: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lrt"];

/// Leaks are only what nothing points to any more: the threads of a pool that stands until the program ends have theirs.
const VALGRIND: [&str; 6] = [
    "valgrind",
    "--quiet",
    "--error-exitcode=1",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
];

fn dynamic() -> PathBuf {
    library(&format!("{DLL_PREFIX}lycomerge{DLL_SUFFIX}"))
}

/// The compiler of a program in `tests/capi`, and what makes it speak the program's language.
fn compiler_of(program: &str) -> (&'static str, &'static [&'static str]) {
    match program {
        "results.cpp" => ("c++", &["-std=c++17", "-fno-exceptions"]),
        _ if program.ends_with(".cpp") => ("c++", &["-std=c++17"]),
        _ => ("cc", &["-std=c11"]),
    }
}

/// Compiles a program of `tests/capi` into `folder` with `link` behind it, and runs it, under the program `under` if
/// one is named, on the real adapters and an empty folder, which comes back.
fn run(name: &str, folder: &Path, link: &[&OsStr], under: &[&str]) -> TempDir {
    let program = folder.join("program");
    let (compiler, language) = compiler_of(name);
    let mut compile = Command::new(compiler);
    compile.args(language).args(["-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]);
    compile.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("bindings/cpp"));
    compile.arg(root().join("tests/capi").join(name)).arg("-o").arg(&program).args(link);
    quietly(&mut compile);

    let scratch = TempDir::new().unwrap();
    let mut command = match under {
        [] => Command::new(&program),
        [tool, options @ ..] => {
            let mut command = Command::new(tool);
            command.args(options).arg(&program);
            command
        }
    };
    command.arg(root().join("tests/data/real/adapters")).arg(scratch.path());
    quietly(command.env("ASAN_OPTIONS", "detect_leaks=1"));
    scratch
}

/// Runs it with the dynamic library.
fn run_dynamic(name: &str, under: &[&str]) -> Option<TempDir> {
    if !is_there(compiler_of(name).0) {
        return None;
    }
    let folder = TempDir::new().unwrap();
    // The program looks for it by its soname.
    fs::copy(dynamic(), folder.path().join(soname())).unwrap();
    Some(run(
        name,
        folder.path(),
        &[dynamic().as_ref(), "-Wl,-rpath,$ORIGIN".as_ref(), "-lm".as_ref()],
        under,
    ))
}

fn run_plain(name: &str) -> Option<TempDir> {
    run_dynamic(name, &[])
}

/// Runs it with the static library under the sanitizers, whose allocator watches Rust's memory, too.
fn run_sanitized(name: &str) -> Option<TempDir> {
    let library = library("liblycomerge.a");
    let mut link: Vec<&OsStr> = vec!["-fsanitize=address,undefined".as_ref(), library.as_ref()];
    link.extend(SYSTEM.map(OsStr::new));
    is_there(compiler_of(name).0).then(|| run(name, TempDir::new().unwrap().path(), &link, &[]))
}

/// The name of the shared library that the header goes with.
fn soname() -> String {
    let text = fs::read_to_string(root().join("include/lycomerge.h")).unwrap();
    let version = text.lines().find_map(|line| line.strip_prefix("#define LYCO_ABI_VERSION ")).unwrap();
    format!("liblycomerge.so.{version}")
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
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 4);
    }
}

#[test]
fn tensors_and_deltas_go_to_and_from_a_hosts_memory() {
    for scratch in [run_plain("host_tensors.c"), run_sanitized("host_tensors.c")].into_iter().flatten() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_cpp_host_without_exceptions_gets_results() {
    for scratch in [run_plain("results.cpp"), run_sanitized("results.cpp")].into_iter().flatten() {
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
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

/// The sanitizers see only what the compiler of C has seen; valgrind sees every instruction of the library.
#[test]
fn valgrind_finds_neither_bad_reads_nor_leaks() {
    if is_there("valgrind") {
        for name in ["merge.c", "cancel.c", "tensors.c"] {
            run_dynamic(name, &VALGRIND);
        }
    }
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

/// Without a soname, a program would start with any library of this name.
#[test]
#[cfg(target_os = "linux")]
fn the_dynamic_library_is_named_after_the_version_of_its_interface() {
    if is_there("readelf") {
        let said = says(Command::new("readelf").arg("-d").arg(dynamic()));
        assert!(said.contains(&format!("Library soname: [{}]", soname())), "{said}");
    }
}

#[test]
fn the_table_of_functions_has_just_those_of_the_header() {
    let table = fs::read_to_string(root().join("docs/abi.md")).unwrap();
    let columns = table.lines().filter_map(|line| line.strip_prefix("| `lyco_")?.split(" | ").next());
    let named = columns.flat_map(|column| column.split("`, `lyco_").collect::<Vec<_>>());
    let named: BTreeSet<_> = named.map(|name| format!("lyco_{}", name.trim_end_matches('`'))).collect();
    assert_eq!(named, declared());
}
