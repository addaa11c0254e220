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
use lycomerge::merge::blocks::{BlockWeights, Presets};
use lycomerge::merge::{Alternative, Forecast, Options, Space, options, strategy};
use lycomerge::model::Checkpoint;
use lycomerge::report::LayerReport;
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
    blocks: Vec<Option<BlockWeights>>,
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
    let merge = open(&job.models, &job.weights, &job.blocks, &job.options, base(matches)?)?;
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
        let (models, weights) = weighed_models(matches)?;
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        let mut options = given_options(matches)?;
        keep_if_only_renamed(matches, &mut options)?;
        let blocks = block_weights(matches, models.len())?;
        let output = path("output").unwrap_or_else(|| beside(&models[0], &options));
        Ok(Self {
            models,
            weights,
            blocks,
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
        refuse_replacing("metadata", metadata, self.models.iter().chain([&self.output]))
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

/// Refuses to put what an option asks for in the place of a model.
pub(crate) fn refuse_replacing<'p>(
    option: &str,
    path: &Path,
    mut models: impl Iterator<Item = &'p PathBuf>,
) -> Result<(), Failure> {
    let same = |model: &&PathBuf| {
        *model == path || matches!((model.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    match models.find(same) {
        Some(model) => {
            Err(Failure::usage(format!("--{option} would replace {}; give it another name", model.display())))
        }
        None => Ok(()),
    }
}

/// The models that the command line names, and their weights.
pub(crate) fn weighed_models(matches: &ArgMatches) -> Result<(Vec<PathBuf>, Vec<f64>), Failure> {
    let models: Vec<PathBuf> = matches.get_many("models").unwrap_or_default().cloned().collect();
    let weights = matches.try_get_many::<Vec<f64>>("weights").ok().flatten();
    let weights: Option<Vec<f64>> = weights.map(|weights| weights.flatten().copied().collect());
    let weights = weights.unwrap_or_else(|| vec![1.0; models.len()]);
    if weights.len() != models.len() {
        let (n, m) = (weights.len(), models.len());
        return Err(Failure::usage(format!("Number of weights ({n}) must match number of models ({m})")));
    }
    Ok((models, weights))
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

/// The block weights of every model: what `N:TEXT` says of its, else what a text without a number says of all.
pub(crate) fn block_weights(
    matches: &ArgMatches,
    models: usize,
) -> Result<Vec<Option<BlockWeights>>, Failure> {
    let presets = matches.get_one::<PathBuf>("block-presets").map(|path| Presets::read(path)).transpose()?;
    let presets = presets.unwrap_or_default();
    let (mut of_all, mut own) = (None, vec![None; models]);
    for argument in matches.get_many::<String>("block-weights").unwrap_or_default() {
        let numbered =
            argument.split_once(':').and_then(|(n, text)| Some((n.trim().parse::<usize>().ok()?, text)));
        let (text, place, whose) = match numbered {
            Some((n, text)) => (text, own.get_mut(n.wrapping_sub(1)), format!("model {n}")),
            None => (argument.as_str(), Some(&mut of_all), "all models".to_owned()),
        };
        let place = place.ok_or_else(|| {
            Failure::usage(format!(
                "--block-weights {argument}: there is no {whose}, only {}",
                count(models, "model")
            ))
        })?;
        if place.replace(BlockWeights::parse(text, &presets)?).is_some() {
            return Err(Failure::usage(format!("--block-weights says twice what holds for {whose}")));
        }
    }
    Ok(own.into_iter().map(|own| own.or_else(|| of_all.clone())).collect())
}

/// Opens every model, and warns of what speaks against merging them.
pub(crate) fn open(
    models: &[PathBuf],
    weights: &[f64],
    blocks: &[Option<BlockWeights>],
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
    for (input, blocks) in blocks.iter().enumerate() {
        merge.set_block_weights(input, blocks.clone())?;
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
    for given in matches.try_get_many::<String>("set").ok().flatten().unwrap_or_default() {
        let (name, value) = given.split_once('=').unwrap_or((given, ""));
        options.set_parameter(name.trim(), value.trim());
    }
    options.check()?;
    for name in options.settings.keys() {
        let reads = |row: &&&strategy::Row| row.parameters.iter().any(|parameter| parameter.name == name);
        let readers: Vec<&str> = strategy::ALL.iter().filter(reads).map(|row| row.name).collect();
        if !readers.contains(&options.strategy.as_str()) {
            let option = name.replace('_', "-");
            warning(&format!("--{option} does nothing here: only {} reads it", list(&readers)));
        }
    }
    Ok(options)
}

/// Format `keep` for a conversion that says nothing but another naming; it makes a LoRA otherwise.
fn keep_if_only_renamed(matches: &ArgMatches, options: &mut Options) -> Result<(), Failure> {
    let is_there = |name: &str| matches!(matches.try_get_raw(name), Ok(Some(_)));
    let is_default = is_there("format") && matches.value_source("format") == Some(ValueSource::DefaultValue);
    let is_given = |name: &str| {
        is_there(name)
            && matches.value_source(name) == Some(ValueSource::CommandLine)
            && !["naming", "skip-unknown", "threads", "memory", "device"].contains(&name)
    };
    let mut others = options::ALL.iter().map(|row| row.name).chain(["block-weights"]);
    if is_default && options.naming.is_some() && !others.any(is_given) {
        options.set("format", options::KEEP)?;
    }
    Ok(options.check()?)
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
    let left_out = if report.skipped > 0 { format!(", {} left out", report.skipped) } else { String::new() };
    format!(
        "{}: {}{left_out}, {}, error {}, {:.1} s\n",
        one_line(&path.to_string_lossy()),
        layers(&report.layers),
        size(report.bytes),
        percent(report.error),
        took.as_secs_f64()
    )
}

/// `97 layers (81 LoRA, 16 LoKr)`
pub(crate) fn layers(layers: &[LayerReport]) -> String {
    let mut names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    names.dedup();
    let mut families: Vec<(&str, usize)> = Vec::new();
    for layer in layers.iter().filter(|layer| layer.param == "weight") {
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
    format!("{} ({families})", count(names.len(), "layer"))
}

/// Puts something at `path`, whole or not at all.
pub(crate) fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut file = AtomicFile::create(path)?;
    let written = file.write_all(content.as_ref());
    written.map_err(|error| Failure::failed(format!("{}: can't write: {error}", path.display())))?;
    Ok(file.commit()?)
}
