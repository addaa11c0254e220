//! What a merge will cost, what it did cost, and what would help: words for the library's forecast.

use lycomerge::Report;
use lycomerge::fit::Format;
use lycomerge::merge::{Alternative, Forecast, Options, Quality, Space};

use super::table::{Side, Table};
use super::text::{list, percent, size};

/// An error that nobody asked for and that a user should know of.
const NOTABLE: f64 = 0.01;

/// Rounding to the output's dtype comes on top of the tolerance.
const SLACK: f64 = 1.05;

/// The one line before the work.
pub(crate) fn line(forecast: &Forecast) -> String {
    let (looked_at, all) = forecast.sampled;
    let estimate = if looked_at < all {
        format!(" (an estimate from {looked_at} of {all} layers)")
    } else {
        String::new()
    };
    format!("Forecast: about {}, error about {}{estimate}", size(forecast.bytes), percent(forecast.error))
}

/// What to think of before a huge file is written.
pub(crate) fn huge(forecast: &Forecast) -> String {
    let times = forecast.bytes as f64 / forecast.input_bytes.max(1) as f64;
    let mut text = format!(
        "the output will be about {}, {times:.0} times the inputs together ({}). ",
        size(forecast.bytes),
        size(forecast.input_bytes)
    );
    let mut table =
        Table::new([("", Side::Left), ("Size", Side::Right), ("Error", Side::Right), ("Rank", Side::Right)]);
    let smaller = forecast.alternatives.iter().filter(|a| a.bytes < forecast.bytes);
    for Alternative { options, bytes, error, rank, .. } in smaller {
        table.push([format!("  {options}"), size(*bytes), percent(*error), format!("to {rank}")]);
    }
    text += &format!(
        "Smaller ways to store this merge:\n{table}  --max-size SIZE finds the best file of a size."
    );
    text
}

/// Whether the file is further from the true merge than the user asked for.
pub(crate) fn is_notable(report: &Report, options: &Options) -> bool {
    report.error > asked(options).max(NOTABLE) * SLACK
}

/// What would help, if the file is further from the true merge than the user asked for.
pub(crate) fn after(report: &Report, options: &Options, ways: &[Alternative]) -> Option<String> {
    if report.norm_ratio.is_none() {
        return Some("the result does nothing: the weights are 0, or the models cancel".to_owned());
    }
    let off = percent(report.error);
    if !is_notable(report, options) {
        return None;
    }
    if options.space == Space::Factor {
        return Some(format!(
            "the file is {off} off the true merge; this is what key-by-key arithmetic does to adapters. \
             Without --space factor, their effects are merged"
        ));
    }
    let ways = ways.iter().filter(|way| way.error < 0.9 * report.error);
    let way = |(i, Alternative { options, bytes, error, rank, .. }): (usize, &Alternative)| {
        let verb = if i == 0 { " holds it" } else { "" };
        let rank = if *rank > 0 { format!("rank up to {rank}, ") } else { String::new() };
        format!("{options}{verb} to about {} ({rank}{})", percent(*error), size(*bytes))
    };
    let ways: Vec<String> = ways.enumerate().map(way).collect();
    let better = if ways.is_empty() { String::new() } else { format!("; {}", ways.join(", ")) };
    let truncation = report.truncation.map_or_else(String::new, |cost| {
        format!(
            ". Entries merged in full space have no low rank, and {} is what storing them at one cost; \
             --set merge_space=core merges them where low rank holds them",
            percent(cost)
        )
    });
    Some(format!("{} holds this merge to {off}{better}{truncation}", chosen(options)))
}

/// The error that the user agreed to by asking for it.
fn asked(options: &Options) -> f64 {
    let good = if options.quality == Some(Quality::Good) { 0.2 } else { 0.0 };
    options.tolerance.unwrap_or(good)
}

/// What the user chose that limits how exact a file can be: `lokr`, `lora with --rank 8`.
fn chosen(options: &Options) -> String {
    let limits = [
        (options.quality == Some(Quality::Compact)).then(|| "--quality compact".to_owned()),
        options.rank.map(|rank| format!("--rank {rank}")),
        options.conv_rank.map(|rank| format!("--conv-rank {rank}")),
        options.sv_ratio.map(|ratio| format!("--sv-ratio {ratio}")),
        options.sv_cumulative.map(|share| format!("--sv-cumulative {share}")),
        options.sv_fro.map(|share| format!("--sv-fro {share}")),
        options.max_size.map(|bytes| format!("--max-size {}", size(bytes))),
        options.factor.map(|factor| format!("--factor {factor}")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let limits = list(&limits);
    match (options.format, limits.is_empty()) {
        (Format::Auto, false) => limits,
        (format, false) => format!("{} with {limits}", format.name()),
        (format, true) => format.name().to_owned(),
    }
}
