//! `lycomerge completions` and `lycomerge man`: what shells and man ask, made from the command line's own definition.

use std::path::PathBuf;

use clap::ArgMatches;
use clap_complete::Shell;

use super::args;
use super::output::{self, Failure};

/// Prints the completions of a shell.
pub(crate) fn completions(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(shell) = matches.get_one::<Shell>("shell") else { return Ok(()) };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut args::command(), "lycomerge", &mut script);
    output::result(&String::from_utf8_lossy(&script))
}

/// Writes a page for the command and one for each subcommand.
pub(crate) fn man(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(folder) = matches.get_one::<PathBuf>("folder") else { return Ok(()) };
    let failed = |error| Failure::failed(format!("{}: can't write the pages: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(args::command(), folder).map_err(failed)
}
