//! `lycomerge ui`: hands over to the page, which is part of the Python package.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use clap::ArgMatches;

use super::output::Failure;

/// Succeeds where the package is installed, and says nothing.
const PROBE: &str = "import importlib.util as u, sys; sys.exit(not (u.find_spec('lycomerge') and u.find_spec('lycomerge.ui')))";

/// Runs the subcommand.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let python = interpreters().into_iter().find(has_page).ok_or_else(|| {
        Failure::failed(
            "the page is part of the Python package 'lycomerge', which neither the Python beside this command nor the \
             first one on the path has; install it: pip install 'lycomerge[ui]'",
        )
    })?;
    let options: Vec<OsString> = matches.get_many("options").unwrap_or_default().cloned().collect();
    let mut page = Command::new(&python);
    page.args(["-m", "lycomerge.ui"]).args(options);
    let status = hand_over(&mut page)
        .map_err(|error| Failure::failed(format!("can't start {}: {error}", python.display())))?;
    // What it has to say, it has said.
    if status.success() { Ok(()) } else { Err(Failure::Told) }
}

/// The interpreters that may have the package: that of the environment that this command is installed in comes first.
fn interpreters() -> Vec<PathBuf> {
    let command = std::env::current_exe().unwrap_or_default();
    let names: &[&str] =
        if cfg!(windows) { &["python.exe", "../python.exe"] } else { &["python3", "python"] };
    let beside = names.iter().map(|name| command.with_file_name(name)).filter(|path| path.exists());
    beside.chain(["python3", "python"].map(PathBuf::from)).collect()
}

fn has_page(python: &PathBuf) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-c", PROBE]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Becomes the page, so that signals reach it.
#[cfg(unix)]
fn hand_over(page: &mut Command) -> std::io::Result<ExitStatus> {
    use std::os::unix::process::CommandExt;
    Err(page.exec())
}

/// Waits for the page, which hears of Ctrl-C itself.
#[cfg(not(unix))]
fn hand_over(page: &mut Command) -> std::io::Result<ExitStatus> {
    page.status()
}
