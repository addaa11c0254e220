//! The command `lycomerge`: a face of the library, made of what a person at a terminal needs.
//!
//! [`args`] makes the command line from the library's table of options, [`merge`], [`bake`], [`extract`], [`figures`] and
//! [`inspect`] are the subcommands (a conversion is a merge of one; figures are of a plan or a comparison), [`pages`] tells
//! shells and man of them, [`ui`] hands over to the Python package, and the rest is how they talk: results go to stdout,
//! everything else to stderr.

mod advice;
mod args;
mod bake;
mod extract;
mod figures;
mod inspect;
mod merge;
mod output;
mod pages;
mod progress;
mod stop;
mod table;
mod text;
mod ui;
mod verify;

use std::process::ExitCode;

use mimalloc::MiMalloc;
use output::Failure;

/// A merge makes and frees matrices of every size on every core: the system's allocator keeps twice as much of them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    let given = args::join_match_norm(std::env::args_os().map(args::plain_number));
    let matches = match args::command().try_get_matches_from(given) {
        Ok(matches) => matches,
        Err(help) if !help.use_stderr() => {
            // A reader that has seen enough of the help is no failure.
            let _ = help.print();
            return Ok(());
        }
        Err(error) => return Err(args::failure(&error)),
    };
    match matches.subcommand() {
        Some((args::MERGE | args::CONVERT, matches)) => merge::run(matches),
        Some((args::BAKE, matches)) => bake::run(matches),
        Some((args::EXTRACT, matches)) => extract::run(matches),
        Some((args::UI, matches)) => ui::run(matches),
        Some((args::COMPLETIONS, matches)) => pages::completions(matches),
        Some((args::MAN, matches)) => pages::man(matches),
        Some((args::PLAN, matches)) => figures::plan(matches),
        Some((args::COMPARE, matches)) => figures::compare(matches),
        Some((_, matches)) => inspect::run(matches),
        None => Ok(()),
    }
}
