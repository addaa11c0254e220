//! `lycomerge merge`: opens the models, says what is to come, merges, and says what came of it. `lycomerge convert` is
//! the same with one model.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use clap::parser::ValueSource;
use lycomerge::adapter::OpenOptions;
use lycomerge::error::one_line;
use lycomerge::file::{AtomicFile, FileKind};
use lycomerge::merge::{Alternative, Forecast, Options, Space, options, strategy};
use lycomerge::model::Checkpoint;
use lycomerge::{Adapter, Merge, Report};
use rayon::prelude::*;

use super::output::{self, Failure, note, warning};
use super::progress::Progress;
use super::text::{count, list, percent, size};
use super::{advice, stop, verify};

/// What the command line asks for.
struct Job {
    models: Vec<PathBuf>,
    weights: Vec<f64>,
    output: PathBuf,
    metadata: Option<PathBuf>,
    options: Options,
    verify: bool,
    quiet: bool,
    yes: bool,
}

/// Runs the subcommand.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let job = Job::new(matches)?;
    stop::listen()?;
    let begin = Instant::now();
    let merge = open(&job.models, &job.weights, &job.options, base(matches)?)?;
    job.check_places()?;
    let forecast = job.forecast(&merge)?;
    let asking = Instant::now();
    if forecast.as_ref().is_some_and(|forecast| !job.goes_on(forecast)) {
        return Err(stop::failure());
    }
    let asked = asking.elapsed();

    let mut progress = Progress::new(!job.quiet);
    let report = merge.run_to(&job.output, &mut |now| progress.watch(now))?;
    drop(progress);
    if let Some(path) = &job.metadata {
        write_whole(path, &(report.to_json() + "\n"))?;
    }
    let took = begin.elapsed() - asked;
    let ways = job.other_ways(&merge, &report, forecast);
    job.tell(&report, &ways, took)
}

impl Job {
    fn new(matches: &ArgMatches) -> Result<Self, Failure> {
        let models: Vec<PathBuf> = matches.get_many("models").unwrap_or_default().cloned().collect();
        let weights = matches.try_get_many::<Vec<f64>>("weights").ok().flatten();
        let weights: Option<Vec<f64>> = weights.map(|weights| weights.flatten().copied().collect());
        let weights = weights.unwrap_or_else(|| vec![1.0; models.len()]);
        if weights.len() != models.len() {
            let (n, m) = (weights.len(), models.len());
            return Err(Failure::usage(format!("Number of weights ({n}) must match number of models ({m})")));
        }
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        let options = given_options(matches)?;
        let output = path("output").unwrap_or_else(|| beside(&models[0], &options));
        Ok(Self {
            models,
            weights,
            output,
            metadata: path("metadata"),
            options,
            verify: matches.get_flag("verify"),
            quiet: matches.get_flag("quiet"),
            yes: matches.get_flag("yes"),
        })
    }

    /// Finds out before the work whether its results can be put where they are wanted.
    fn check_places(&self) -> Result<(), Failure> {
        if self.output.as_os_str() == "-" {
            return Err(Failure::usage("the output needs a file's name: it can't be written to stdout"));
        }
        AtomicFile::create(&self.output)?;
        let is_usual =
            self.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
        if !is_usual && FileKind::of_name(&self.output) == FileKind::SafeTensors {
            let name = self.output.display();
            warning(&format!(
                "{name} will be a safetensors file, which hosts know by the ending .safetensors"
            ));
        }
        let Some(metadata) = &self.metadata else { return Ok(()) };
        AtomicFile::create(metadata)?;
        let same = |path: &PathBuf| {
            path == metadata
                || matches!((path.canonicalize(), metadata.canonicalize()), (Ok(a), Ok(b)) if a == b)
        };
        match self.models.iter().chain([&self.output]).find(|path| same(path)) {
            Some(path) => Err(Failure::usage(format!(
                "--metadata would replace {}; give it another name",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// Size and error to come. In factor space there is nothing to foretell: nothing is fitted.
    fn forecast(&self, merge: &Merge) -> Result<Option<Forecast>, Failure> {
        if self.options.space == Space::Factor {
            return Ok(None);
        }
        let mut progress = Progress::new(!self.quiet);
        let forecast = merge.forecast(&mut |now| progress.watch(now))?;
        drop(progress);
        if !self.quiet {
            note(&advice::line(&forecast));
        }
        Ok(Some(forecast))
    }

    /// Whether the user wants the output in spite of its size.
    fn goes_on(&self, forecast: &Forecast) -> bool {
        if !forecast.is_huge() {
            return true;
        }
        warning(&advice::huge(forecast));
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return true;
        }
        stop::while_waiting(|| {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "Go on? [y/N] ").and_then(|()| stderr.flush());
            drop(stderr);
            let mut answer = String::new();
            let read = io::stdin().lock().read_line(&mut answer);
            read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
        })
    }

    /// Better ways to store the merge, where the user should hear of them. The output stands already: one who stops
    /// this, or an error in it, only does without the advice.
    fn other_ways(&self, merge: &Merge, report: &Report, forecast: Option<Forecast>) -> Vec<Alternative> {
        if self.options.space == Space::Factor || !advice::is_notable(report, &self.options) {
            return Vec::new();
        }
        match forecast {
            Some(forecast) if !forecast.alternatives.is_empty() => forecast.alternatives,
            _ => merge.alternatives(&mut |_| !stop::asked()).unwrap_or_default(),
        }
    }

    /// What came of it.
    fn tell(&self, report: &Report, ways: &[Alternative], took: Duration) -> Result<(), Failure> {
        report.warnings.iter().for_each(|text| warning(&one_line(text)));
        if let Some(text) = advice::after(report, &self.options, ways) {
            warning(&text);
        }
        let mut text = String::new();
        if self.verify {
            text += &verify::print(report);
            text.push('\n');
        }
        if !self.quiet {
            text += &summary(report, &self.output, took);
        }
        output::result(&text)
    }
}

/// The model that the command line names.
pub(crate) fn base(matches: &ArgMatches) -> Result<Option<Arc<Checkpoint>>, Failure> {
    matches.get_one::<PathBuf>("base").map(|path| checkpoint(path)).transpose()
}

pub(crate) fn checkpoint(path: &Path) -> Result<Arc<Checkpoint>, Failure> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(Failure::failed(format!("Model file not found: {}", path.display())));
    }
    Ok(Arc::new(Checkpoint::open(path)?))
}

/// Opens every model, and warns of what speaks against merging them.
pub(crate) fn open(
    models: &[PathBuf],
    weights: &[f64],
    options: &Options,
    base: Option<Arc<Checkpoint>>,
) -> Result<Merge, Failure> {
    if let Some(missing) = models.iter().find(|path| matches!(path.try_exists(), Ok(false))) {
        return Err(Failure::failed(format!("Model file not found: {}", missing.display())));
    }
    let mut merge = Merge::new();
    merge.options = options.clone();
    let how = OpenOptions { skip_unknown: options.skip_unknown, base };
    let opened: Vec<_> = models.par_iter().map(|path| Adapter::open_with(path, &how)).collect();
    for (adapter, weight) in opened.into_iter().zip(weights) {
        merge.add(Arc::new(adapter?), *weight)?;
    }
    if stop::asked() {
        return Err(stop::failure());
    }
    let reasons = merge.compatibility_warnings();
    if !reasons.is_empty() {
        warning("Models may not be compatible. Proceed with caution.");
        reasons.iter().for_each(|reason| note(&format!("  {}", one_line(reason))));
    }
    Ok(merge)
}

/// The options of the table, from the command line, as far as the subcommand has them.
pub(crate) fn given_options(matches: &ArgMatches) -> Result<Options, Failure> {
    let mut options = Options::default();
    // Not every command has every option.
    let value = |name: &str| matches.try_get_one::<String>(name).ok().flatten();
    let is_on = |name: &str| matches.try_get_one::<bool>(name).ok().flatten() == Some(&true);
    for row in &options::ALL {
        match row.value {
            None if is_on(row.name) => options.set(row.name, "true")?,
            None => {}
            Some(_) => value(row.name).map_or(Ok(()), |value| options.set(row.name, value))?,
        }
    }
    // A conversion makes a LoRA unless another name is all that is asked for.
    let is_default = matches!(matches.try_get_raw("format"), Ok(Some(_)))
        && matches.value_source("format") == Some(ValueSource::DefaultValue);
    let is_given = |row: &&options::Row| {
        matches!(matches.try_get_raw(row.name), Ok(Some(_)))
            && matches.value_source(row.name) == Some(ValueSource::CommandLine)
            && !["naming", "skip-unknown", "threads", "memory"].contains(&row.name)
    };
    if is_default && options.naming.is_some() && !options::ALL.iter().any(|row| is_given(&row)) {
        options.set("format", options::KEEP)?;
    }
    options.check()?;
    let chosen = |name: &str| is_on(name) || value(name).is_some();
    let readers = |name: &&str| -> Vec<&str> {
        strategy::ALL.iter().filter(|row| row.options.contains(name)).map(|row| row.name).collect()
    };
    for name in strategy::ALL.iter().flat_map(|row| row.options).filter(|name| chosen(name)) {
        let readers = readers(name);
        if !readers.contains(&options.strategy.as_str()) {
            warning(&format!("--{name} does nothing here: only {} reads it", list(&readers)));
        }
    }
    Ok(options)
}

/// Where a conversion goes unless it is told: `style.lora.safetensors` beside `style.safetensors`.
fn beside(model: &Path, options: &Options) -> PathBuf {
    let what = match options.naming {
        Some(naming) if options.keep => naming.name(),
        _ => options.format_name(),
    };
    // A folder's name has no ending.
    let stem = if model.is_dir() { model.file_name() } else { model.file_stem() };
    let mut name = stem.unwrap_or_default().to_owned();
    name.push(format!(".{what}.safetensors"));
    model.with_file_name(name)
}

/// `mix.safetensors: 97 layers (81 LoRA, 16 LoKr), 3.2 MB, error 0.031 %, 1.4 s`.
fn summary(report: &Report, path: &Path, took: Duration) -> String {
    let mut names: Vec<&str> = report.layers.iter().map(|layer| layer.name.as_str()).collect();
    names.dedup();
    let mut families: Vec<(&str, usize)> = Vec::new();
    for layer in report.layers.iter().filter(|layer| layer.param == "weight") {
        match families.iter_mut().find(|(family, _)| *family == layer.family) {
            Some((_, count)) => *count += 1,
            None => families.push((layer.family, 1)),
        }
    }
    let families = match &families[..] {
        [] => "biases".to_owned(),
        [(family, _)] => (*family).to_owned(),
        several => several.iter().map(|(family, n)| format!("{n} {family}")).collect::<Vec<_>>().join(", "),
    };
    let left_out = if report.skipped > 0 { format!(", {} left out", report.skipped) } else { String::new() };
    format!(
        "{}: {} ({families}){left_out}, {}, error {}, {:.1} s\n",
        one_line(&path.to_string_lossy()),
        count(names.len(), "layer"),
        size(report.bytes),
        percent(report.error),
        took.as_secs_f64()
    )
}

/// Puts a text at `path`, whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = AtomicFile::create(path)?;
    let written = file.write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("{}: can't write: {error}", path.display())))?;
    Ok(file.commit()?)
}
