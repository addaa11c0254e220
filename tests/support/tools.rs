//! Other people's tools, run on what cargo built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A library of this build: it lies beside the test. The one in the profile's folder may be of an older build.
pub(crate) fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.with_file_name(name);
    assert!(found.exists(), "there is no {}", found.display());
    found
}

/// Whether `tool` can be started; says so if it can't. `.ci/tools` sees to it that CI has them all.
pub(crate) fn is_there(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: there is no {tool}");
    }
    there
}

/// Runs a command that must succeed without a word.
pub(crate) fn quietly(command: &mut Command) {
    let said = says(command);
    assert!(said.is_empty(), "{command:?}\n{said}");
}

/// What a command says that must succeed.
pub(crate) fn says(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}
