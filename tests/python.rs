//! The Python package as a script meets it, over the library that cargo built.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::Path;
use std::process::Command;

/// Runs a script of `bindings/python`, which must succeed; nothing where there is no Python.
fn python(script: &str, arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // It lies beside this test; the one in the profile's folder may be of an older build.
    let library =
        std::env::current_exe().unwrap().with_file_name(format!("{DLL_PREFIX}lycomerge{DLL_SUFFIX}"));
    assert!(library.exists(), "there is no {}", library.display());
    let mut command = Command::new("python3");
    command.arg(root.join("bindings/python").join(script)).args(arguments);
    command
        .env("LYCOMERGE_LIBRARY", library)
        .env("LYCOMERGE_ADAPTERS", root.join("tests/data/real/adapters"));
    command.env("PYTHONPATH", root.join("bindings/python/src")).env("PYTHONDONTWRITEBYTECODE", "1");
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: python3 can't be started: {error}"),
    }
}

#[test]
fn real_adapters_are_opened_and_merged_from_python() {
    python("tests/test_package.py", &[]);
}

#[test]
fn tensors_of_torch_and_numpy_go_in_and_out() {
    python("tests/test_state.py", &[]);
}

#[test]
fn the_two_older_commands_do_what_their_users_type() {
    python("tests/test_older.py", &[]);
}

#[test]
fn the_page_asks_the_library_for_what_its_form_says() {
    python("tests/test_ui.py", &[]);
}

#[test]
fn the_ctypes_declarations_are_those_of_the_header() {
    python("make_abi.py", &["--check"]);
}
