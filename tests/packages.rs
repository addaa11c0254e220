//! The package as a host's build meets it: `bindings/cpp` is installed into an empty folder, and its example is built
//! over what lies there, and run.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::tools::{is_there, library, root, says};
use tempfile::TempDir;

const COMPILERS: [&str; 2] = ["g++", "clang++"];

/// Configures a project of CMake, which must have nothing to complain about.
fn configure(source: &str, build: &Path, definitions: &[String]) {
    let mut cmake = Command::new("cmake");
    let said = says(cmake.arg("-S").arg(root().join(source)).arg("-B").arg(build).args(definitions));
    assert!(!said.contains("Warning") && !said.contains("not used"), "{said}");
}

/// Installs what cargo built into `folder`, and returns the prefix, which CMake hears of only then.
fn install(folder: &Path) -> PathBuf {
    let (build, prefix) = (folder.join("package"), folder.join("installed"));
    let built = library("liblycomerge.so").with_file_name("");
    let definitions =
        [format!("-DLYCOMERGE_BUILT={}", built.display()), "-DCMAKE_INSTALL_LIBDIR=lib".to_owned()];
    configure("bindings/cpp", &build, &definitions);
    says(Command::new("cmake").arg("--install").arg(&build).arg("--prefix").arg(&prefix));
    prefix
}

/// What pkg-config says about the installed package, in words.
fn pkg_config(prefix: &Path, options: &[&str]) -> Vec<String> {
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(options).arg("lycomerge").env("PKG_CONFIG_LIBDIR", prefix.join("lib/pkgconfig"));
    says(&mut pkg_config).split_whitespace().map(str::to_owned).collect()
}

/// Runs the example as its users do: a merge, then one of a file that isn't there.
fn blends(program: &mut Command) {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("merged.safetensors");
    let adapters = root().join("tests/data/real/adapters");
    program.arg(&output).arg(adapters.join("italic.lokr4.safetensors")).arg("0.6");
    let said = says(program.arg(adapters.join("invert.lokr4.safetensors")).arg("-0.4"));
    assert!(said.contains("LoKr, 97 layers") && said.contains("% of the true merge"), "{said}");
    assert!(output.exists());

    fs::remove_file(&output).unwrap();
    let failed = program.args(["no such file", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(failed.status.code() == Some(1) && said.starts_with("blend: no such file: "), "{said}");
    assert!(!output.exists());
}

#[test]
fn a_host_finds_the_package_with_cmake() {
    if !is_there("cmake") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let prefix = install(folder.path());
    for compiler in COMPILERS.into_iter().filter(|compiler| is_there(compiler)) {
        for linked in ["OFF", "ON"] {
            let build = folder.path().join(format!("{compiler} {linked}"));
            let definitions = [
                format!("-DCMAKE_PREFIX_PATH={}", prefix.display()),
                format!("-DCMAKE_CXX_COMPILER={compiler}"),
                format!("-Dlycomerge_USE_STATIC_LIBS={linked}"),
            ];
            configure("bindings/cpp/example", &build, &definitions);
            says(Command::new("cmake").arg("--build").arg(&build));
            blends(&mut Command::new(build.join("blend")));
        }
    }
}

#[test]
fn a_host_finds_the_package_with_pkg_config() {
    if !(is_there("cmake") && is_there("pkg-config")) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let prefix = install(folder.path());
    assert_eq!(pkg_config(&prefix, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let shared = pkg_config(&prefix, &["--cflags", "--libs"]);
    // Of both libraries, a linker takes the shared one unless it is told the file's name.
    let fixed = pkg_config(&prefix, &["--cflags", "--libs", "--static"]);
    let fixed: Vec<_> =
        fixed.into_iter().map(|word| word.replace("-llycomerge", "-l:liblycomerge.a")).collect();
    for compiler in COMPILERS.into_iter().filter(|compiler| is_there(compiler)) {
        for words in [&shared, &fixed] {
            let program = folder.path().join("blend");
            let mut compile = Command::new(compiler);
            compile.args(["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"]).arg(&program);
            says(compile.arg(root().join("bindings/cpp/example/main.cpp")).args(words));
            blends(Command::new(&program).env("LD_LIBRARY_PATH", prefix.join("lib")));
        }
    }
}
