//! `lycomerge bake`: adds adapters to a checkpoint's weights, and says what its dtype left of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use lycomerge::error::one_line;
use lycomerge::file::AtomicFile;
use lycomerge::merge::bake::{BakeReport, Rounding};

use super::merge::{block_weights, checkpoint, given_options, open, write_whole};
use super::output::{self, Failure, warning};
use super::progress::Progress;
use super::stop;
use super::text::{count, percent, size};

/// Below this share of ΔW in the stored weights, a user should know what would help.
const NOTABLE: f64 = 0.9;

/// Runs the subcommand.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    let (base, output) = (path("base").unwrap_or_default(), path("output").unwrap_or_default());
    let given: Vec<Given> =
        matches.get_many::<PathBuf>("adapters").unwrap_or_default().map(|text| Given::of(text)).collect();
    let quiet = matches.get_flag("quiet");
    let options = given_options(matches)?;
    let blocks = block_weights(matches, given.len())?;
    let rounding = match (matches.get_flag("stochastic"), matches.get_one::<u64>("seed")) {
        (false, _) => Rounding::Nearest,
        (true, seed) => Rounding::Stochastic(seed.copied().unwrap_or(0)),
    };

    stop::listen()?;
    let begin = Instant::now();
    let paths: Vec<PathBuf> = given.iter().map(|given| given.path.clone()).collect();
    let weights: Vec<f64> = given.iter().map(|given| given.weight).collect();
    let base = checkpoint(&base)?;
    let merge = open(&paths, &weights, &blocks, &options, Some(Arc::clone(&base)))?;
    if let Some(metadata) = path("metadata") {
        AtomicFile::create(&metadata)?;
    }
    let mut progress = Progress::new(!quiet);
    let report = merge.bake(&base, &output, rounding, &mut |now| progress.watch(now))?;
    drop(progress);
    if let Some(path) = path("metadata") {
        write_whole(&path, &(report.to_json() + "\n"))?;
    }
    report.warnings.iter().for_each(|text| warning(&one_line(text)));
    advice(&report, rounding).iter().for_each(|text| warning(text));
    if quiet { Ok(()) } else { output::result(&summary(&report, &output, begin.elapsed())) }
}

/// An adapter of the command line, and its weight.
struct Given {
    path: PathBuf,
    weight: f64,
}

impl Given {
    /// `FILE` or `FILE:WEIGHT`; a file whose name looks like the latter is that file.
    fn of(argument: &Path) -> Self {
        let split = || {
            let (path, weight) = argument.to_str()?.rsplit_once(':')?;
            Some(Self { path: path.into(), weight: weight.parse().ok()? })
        };
        let whole = || Self { path: argument.to_owned(), weight: 1.0 };
        if argument.exists() { whole() } else { split().unwrap_or_else(whole) }
    }
}

/// What would help, if the checkpoint's dtype left little of the adapters.
fn advice(report: &BakeReport, rounding: Rounding) -> Vec<String> {
    let mut all = Vec::new();
    if report.saturated > 0 {
        let numbers = count(report.saturated, "number");
        all.push(format!("{numbers} would be beyond what the dtype holds, and became its largest"));
    }
    if rounding == Rounding::Nearest && report.kept < NOTABLE {
        all.push(format!(
            "rounding to the checkpoint's dtype ate {} of what the adapters do; --stochastic keeps it on average, and a \
             wider checkpoint keeps it all",
            percent(1.0 - report.kept)
        ));
    }
    all
}

/// `model.safetensors: 97 tensors changed, 151 copied, 9.7 MB; 100 % of ΔW is in it, error 0.01 %, 0.3 s`.
fn summary(report: &BakeReport, output: &Path, took: Duration) -> String {
    format!(
        "{}: {} changed, {} copied, {}; {} of ΔW is in it, error {}, {:.1} s\n",
        one_line(&output.to_string_lossy()),
        count(report.tensors.len(), "tensor"),
        report.copied,
        size(report.bytes),
        percent(report.kept),
        percent(report.error),
        took.as_secs_f64()
    )
}
