//! `lycomerge plan` and `lycomerge compare`: what there is to know of a merge before it is made, as tables, JSON,
//! pictures and reports.

use std::fmt::Write;
use std::path::PathBuf;

use clap::ArgMatches;
use lycomerge::file::AtomicFile;
use lycomerge::merge::compare::{ComparedBlock, Square};
use lycomerge::picture::Kind;
use lycomerge::{Comparison, Merge, Plan};

use super::merge::{base, block_weights, given_options, open, refuse_replacing, weighed_models, write_whole};
use super::output::{self, Failure, ascii_controls};
use super::progress::Progress;
use super::stop;
use super::table::{Side, Table};
use super::text::{count, digits, number, percent, size};

/// Blocks and layers that are shown, at most.
const SHOWN: usize = 8;

/// Where the figures are to go.
struct Places {
    pictures: Vec<(Kind, PathBuf)>,
    dark: bool,
    json: bool,
    quiet: bool,
}

impl Places {
    /// Finds out before the work whether it can be put where it is wanted.
    fn of(matches: &ArgMatches, models: &[PathBuf]) -> Result<Self, Failure> {
        let mut pictures = Vec::new();
        for (kind, name) in Kind::ALL {
            if let Some(path) = matches.get_one::<PathBuf>(name) {
                refuse_replacing(name, path, models.iter())?;
                AtomicFile::create(path)?;
                pictures.push((kind, path.clone()));
            }
        }
        let [dark, json, quiet] = ["dark", "json", "quiet"].map(|name| matches.get_flag(name));
        Ok(Self { pictures, dark, json, quiet })
    }

    /// Puts them there.
    fn show(
        &self,
        json: String,
        tables: impl FnOnce() -> String,
        picture: impl Fn(Kind, bool) -> lycomerge::Result<Vec<u8>>,
    ) -> Result<(), Failure> {
        for (kind, path) in &self.pictures {
            write_whole(path, picture(*kind, self.dark)?)?;
        }
        match (self.json, self.quiet) {
            (true, _) => output::result(&(ascii_controls(&json) + "\n")),
            (false, true) => Ok(()),
            (false, false) => output::result(&tables()),
        }
    }
}

/// Runs the subcommand `plan`.
pub(crate) fn plan(matches: &ArgMatches) -> Result<(), Failure> {
    let (merge, places) = begin(matches)?;
    let mut progress = Progress::new(!places.quiet);
    let plan = merge.plan(&mut |now| progress.watch(now))?;
    drop(progress);
    places.show(plan.to_json(), || plan_tables(&plan), |kind, dark| plan.picture(kind, dark))
}

/// Runs the subcommand `compare`.
pub(crate) fn compare(matches: &ArgMatches) -> Result<(), Failure> {
    let (merge, places) = begin(matches)?;
    let mut progress = Progress::new(!places.quiet);
    let comparison = merge.compare(&mut |now| progress.watch(now))?;
    drop(progress);
    let tables = || comparison_tables(&comparison);
    places.show(comparison.to_json(), tables, |kind, dark| comparison.picture(kind, dark))
}

fn begin(matches: &ArgMatches) -> Result<(Merge, Places), Failure> {
    let (models, weights) = weighed_models(matches)?;
    let options = given_options(matches)?;
    let blocks = block_weights(matches, models.len())?;
    let places = Places::of(matches, &models)?;
    stop::listen()?;
    let merge = open(&models, &weights, &blocks, &options, base(matches)?)?;
    Ok((merge, places))
}

fn plan_tables(plan: &Plan) -> String {
    let total: u64 = plan.inputs.iter().map(|input| input.bytes).sum();
    let looked_at = match plan.sampled < plan.layers {
        true => format!("estimates from {} of {} layers", plan.sampled, plan.layers),
        false => format!("from all {}", count(plan.layers, "layer")),
    };
    let mut text =
        format!("{}, {} together; {looked_at}\n\n", count(plan.inputs.len(), "model"), size(total));
    let mut table = Table::new([
        ("Options of lycomerge merge", Side::Left),
        ("Size", Side::Right),
        ("Error", Side::Right),
        ("Rank", Side::Right),
    ]);
    let gap = || ["", "", "", ""].map(str::to_owned);
    for way in &plan.qualities {
        table.push([way.options.clone(), size(way.bytes), percent(way.error), format!("to {}", way.rank)]);
    }
    let dtype = plan.curves.first().map(|curve| &curve.dtype);
    let (own, others): (Vec<_>, Vec<_>) = plan.curves.iter().partition(|curve| Some(&curve.dtype) == dtype);
    for curve in own {
        table.push(gap());
        for point in &curve.points {
            let rank = point.rank.map_or(String::new(), |rank| match point.options.contains("--rank") {
                true => rank.to_string(),
                false => format!("to {rank}"),
            });
            table.push([point.options.clone(), size(point.bytes), percent(point.error), rank]);
        }
    }
    // Of other dtypes, what each format holds at the most.
    table.push(gap());
    for curve in others {
        if let Some(point) = curve.points.last() {
            let rank = point.rank.map_or(String::new(), |rank| format!("to {rank}"));
            table.push([point.options.clone(), size(point.bytes), percent(point.error), rank]);
        }
    }
    let _ = write!(text, "{table}");
    text
}

fn comparison_tables(comparison: &Comparison) -> String {
    let n = comparison.inputs.len();
    let mut inputs = Table::new([
        ("", Side::Right),
        ("Model", Side::Left),
        ("Weight", Side::Right),
        ("Norm", Side::Right),
        ("Layers", Side::Right),
    ]);
    for (k, input) in comparison.inputs.iter().enumerate() {
        let place = (k + 1).to_string();
        inputs.push([
            place,
            input.name.clone(),
            number(input.weight),
            digits(input.norm),
            input.layers.to_string(),
        ]);
    }
    let mut pairs = Table::new([
        ("Models", Side::Left),
        ("Cosine", Side::Right),
        ("Overlap", Side::Right),
        ("By chance", Side::Right),
        ("Conflicts", Side::Right),
    ]);
    for i in 0..n {
        for j in i + 1..n {
            pairs.push([
                format!("{} and {}", i + 1, j + 1),
                format!("{:.3}", comparison.cosines[i][j]),
                format!("{:.3}", comparison.overlaps[i][j]),
                format!("{:.3}", comparison.chance_overlaps[i][j]),
                percent(comparison.sign_conflicts[i][j]),
            ]);
        }
    }
    let mut text = format!("{inputs}\n{pairs}\nA plain sum keeps {:.2}.\n", comparison.kept);
    if comparison.sign_entries < 1.0 {
        let _ =
            writeln!(text, "Conflicts are counted on {} of all entries.", percent(comparison.sign_entries));
    }
    if comparison.overlap_layers < comparison.layers.len() {
        let (some, all) = (comparison.overlap_layers, comparison.layers.len());
        let _ = writeln!(text, "Overlaps are measured on {some} of {all} layers.");
    }
    let mut blocks = Table::new([
        ("Block", Side::Left),
        ("Layers", Side::Right),
        ("Norms", Side::Left),
        ("Lowest cosine", Side::Right),
        ("Conflicts", Side::Right),
        ("Kept", Side::Right),
    ]);
    for block in &comparison.blocks {
        let norms: Vec<String> = block.norms.iter().map(|norm| digits(*norm)).collect();
        blocks.push([
            block.block.clone(),
            block.layers.to_string(),
            norms.join(" "),
            format!("{:.3}", lowest(&block.cosines)),
            percent(most_conflicts(block)),
            format!("{:.2}", block.kept),
        ]);
    }
    let _ = write!(text, "\n{blocks}");
    let cancelling = comparison.cancelling();
    if !cancelling.is_empty() {
        let mut layers = Table::new([("Layers that lose most", Side::Left), ("Kept", Side::Right)]);
        for layer in cancelling.iter().take(SHOWN) {
            layers.push([layer.name.clone(), format!("{:.2}", layer.kept)]);
        }
        let _ = write!(text, "\n{layers}");
    }
    text.push('\n');
    comparison.advice.iter().for_each(|sentence| text += &format!("{sentence}\n"));
    text
}

/// The least of the figures between two inputs.
fn lowest(figures: &Square) -> f64 {
    pairs(figures).fold(f64::INFINITY, f64::min)
}

fn most_conflicts(block: &ComparedBlock) -> f64 {
    pairs(&block.sign_conflicts).fold(0.0, f64::max)
}

fn pairs(figures: &Square) -> impl Iterator<Item = f64> {
    figures.iter().enumerate().flat_map(|(i, row)| row[..i].iter().copied())
}
