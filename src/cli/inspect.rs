//! `lycomerge inspect`: what adapters are, for people and for programs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use lycomerge::adapter::OpenOptions;
use lycomerge::error::one_line;
use lycomerge::{Adapter, Survey};

use super::merge::base;
use super::output::{self, Failure, ascii_controls};
use super::table::{Side, Table};
use super::text::{count, digits, number, size};

/// Runs the subcommand. A file that can't be read doesn't keep the others from being shown.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let files = matches.get_many::<PathBuf>("files").unwrap_or_default();
    let skip_unknown = matches.get_flag("skip-unknown");
    let options = OpenOptions { skip_unknown, base: base(matches)? };
    let (mut kinds, mut surveys, mut failed) = (String::new(), Vec::new(), false);
    for path in files {
        let adapter = open(path, &options);
        let done = if matches.get_flag("type") {
            adapter.map(|adapter| kinds += &format!("{}\n", adapter.kind()))
        } else {
            adapter.and_then(|adapter| Ok(Survey::of(&adapter)?)).map(|survey| surveys.push(survey))
        };
        if let Err(Failure::Failed(message) | Failure::Usage(message)) = done {
            output::error(&message);
            failed = true;
        }
    }
    let text = if matches.get_flag("type") {
        kinds
    } else if matches.get_flag("json") {
        let json = serde_json::to_string_pretty(&surveys);
        ascii_controls(&json.map_err(|error| Failure::failed(error.to_string()))?) + "\n"
    } else {
        surveys.iter().map(page).collect::<Vec<_>>().join("\n")
    };
    output::result(&text)?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}

fn open(path: &Path, options: &OpenOptions) -> Result<Adapter, Failure> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(Failure::failed(format!("Model file not found: {}", path.display())));
    }
    Ok(Adapter::open_with(path, options)?)
}

/// A file's facts, for people.
fn page(survey: &Survey) -> String {
    let mut page = format!("{}\n", one_line(&survey.file));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(page, "  {name:14}{}", one_line(value));
    };
    let families: Vec<_> = survey.families.iter().map(|(family, n)| format!("{n} {family}")).collect();
    line("kind", survey.kind);
    if let Some(model) = survey.model {
        line("model", &if survey.model_certain { model.to_owned() } else { format!("probably {model}") });
    }
    let vocabulary = survey.vocabulary.map_or(String::new(), |words| format!(" ({words} names)"));
    line("naming", &format!("{}{vocabulary}", survey.naming));
    line("layers", &format!("{} in {}", families.join(", "), count(survey.modules, "module")));
    let ranks = survey.ranks.iter().rev().map(|(rank, n)| format!("{rank} in {n}"));
    let without = (survey.without_rank > 0).then(|| format!("none in {}", survey.without_rank));
    line("rank", &ranks.chain(without).collect::<Vec<_>>().join(", "));
    match survey.alpha_over_rank {
        Some((low, high)) if low == high => line("alpha/rank", &number(low)),
        Some((low, high)) => line("alpha/rank", &format!("{} to {}", number(low), number(high))),
        None => {}
    }
    line("numbers", &format!("{}, {}", survey.dtype, size(survey.bytes)));
    for (name, value) in survey.origin() {
        line(name, value);
    }
    if survey.passengers > 0 {
        line("besides", &format!("{} that belong to no layer", count(survey.passengers, "tensor")));
    }
    if survey.skipped > 0 {
        line("left out", &count(survey.skipped, "layer or tensor"));
    }
    line("norm", &number(survey.norm));
    for note in &survey.notes {
        line("note", note);
    }
    let mut table = Table::new([
        ("  Block", Side::Left),
        ("Layers", Side::Right),
        ("Norm", Side::Right),
        ("Share", Side::Right),
    ]);
    for block in &survey.blocks {
        table.push([
            format!("  {}", block.name),
            block.layers.to_string(),
            digits(block.norm),
            format!("{:.1} %", 100.0 * block.share),
        ]);
    }
    format!("{page}\n{table}")
}
