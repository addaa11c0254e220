//! What training put into a checkpoint, as an adapter: W_tuned − W_base, fitted layer by layer.
//!
//! Both checkpoints are mapped and paired by what their parameters are, whatever they call them; the output is named as
//! kohya's trainers name their files, which every host reads, unless another naming is asked for. A worker forms the difference of one module at a time,
//! whole, so memory is bounded by the largest layers and not by the files. Layers without a difference are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use faer::Mat;
use serde::Serialize;

use super::engine::{Run, Work};
use super::store::{self, Place};
use super::{Merge, Options, Quality, Watch, labels, recipe, summarise};
use crate::adapter::{Dims, LayerId, NewTensor, Param, WeightShape, with_letters};
use crate::delta::joint::Joint;
use crate::delta::{Delta, Factor, Term};
use crate::error::{Error, Result};
use crate::file::{AtomicFile, FileKind, Writer};
use crate::fit::certificate::Certificate;
use crate::fit::{Bound, Choice, Curve, FitOptions, Fitter, Format, Inherited, Purpose, budget};
use crate::model::{
    Architecture, Checkpoint, Component, Dialect, Identity, Naming, Parameter, Rows, architecture,
};
use crate::report::LayerReport;
use crate::tensor::{Dtype, Real, TensorView, all_finite, encode};

/// What layers in work and results that wait may take together, if nothing is said.
const MEMORY: u64 = 1 << 30;

/// Entries that are read at once.
const TILE: usize = 1 << 16;

/// The rank unless anything is said about size or error: of a LoRA, and of a LoHa, whose rank 16 holds rank 256.
const RANK: usize = 64;
const LOHA_RANK: usize = 16;

/// What an extraction says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct ExtractReport {
    /// The version of lycomerge that made it.
    pub lycomerge: &'static str,
    /// The checkpoint before training.
    pub base: PathBuf,
    /// The checkpoint after it.
    pub tuned: PathBuf,
    /// Where the output went.
    pub output: PathBuf,
    /// The model, by its modules' names and shapes.
    pub model: Option<&'static str>,
    /// The output's format.
    pub format: &'static str,
    /// The output's dtype.
    pub dtype: String,
    /// The other options that change the result and were set.
    pub options: BTreeMap<&'static str, String>,
    /// The output's size.
    pub bytes: u64,
    /// ‖stored − true‖ / ‖true‖ over everything that is stored, measured on what was stored.
    pub error: f64,
    /// The tolerance that `max-size` came to.
    pub tolerance: Option<f64>,
    /// The layers, in the order of the file.
    pub layers: Vec<LayerReport>,
    /// How many parameters of both checkpoints are the same.
    pub unchanged: usize,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A module of the output.
struct Job<'a> {
    module: String,
    changes: Vec<Change<'a>>,
}

/// A parameter that may have changed.
struct Change<'a> {
    id: LayerId,
    shape: WeightShape,
    norm: bool,
    base: Stacked<'a>,
    tuned: Stacked<'a>,
    /// Whether adapters can hold a change of it.
    is_stored: bool,
}

/// A parameter in the parts that a checkpoint has it in, each with what its numbers are multiplied by.
struct Stacked<'a> {
    parts: Vec<(Parameter<'a>, f64)>,
}

/// What a job comes to.
#[derive(Default)]
struct Piece {
    tensors: Vec<NewTensor>,
    layers: Vec<(LayerReport, Certificate)>,
    unchanged: usize,
    /// A name of what changed and isn't stored.
    lost: Option<String>,
}

/// What the pairing finds.
struct Pairs<'a> {
    jobs: Vec<Job<'a>>,
    warnings: Vec<String>,
}

impl Work for Job<'_> {
    fn name(&self) -> &str {
        &self.module
    }

    /// The difference, its core, what is made of them, and in doubt the first in float64.
    fn working_set(&self) -> u64 {
        let entries: usize = self.changes.iter().map(|change| change.shape.rows * change.shape.cols).sum();
        entries.saturating_mul(24) as u64
    }
}

impl Merge {
    /// Stores what `tuned` has more than `base` as an adapter at `path`, as the options about what to store say it; this
    /// merge has no inputs. Without an option about rank, error or size, `lora` has rank 64 and `loha` 16.
    ///
    /// # Errors
    /// Checkpoints that have nothing in common, or have a parameter in different shapes (which `skip-unknown` leaves
    /// out), and whatever is wrong with files, options or the disk; nothing is left behind then.
    pub fn extract(
        &self,
        base: &Checkpoint,
        tuned: &Checkpoint,
        path: &Path,
        watch: Watch<'_>,
    ) -> Result<ExtractReport> {
        let options = self.extract_options()?;
        let mut run = Run::new(options.threads, options.memory.or(Some(MEMORY)), watch)?;
        let model = model_of(base);
        let naming = options.naming.unwrap_or(Naming::Kohya);
        let dialect = Dialect::new(naming, model);
        let Pairs { jobs, mut warnings } = pair(base, tuned, &dialect, options.skip_unknown)?;
        let file = AtomicFile::create(path)?;
        let kind = FileKind::of_name(path);
        let bound = options.bound(options.max_size.is_some());
        let extract =
            Extract { fit: options.fit(), bound, letters: naming.has_letters(), choices: BTreeMap::new() };
        let (extract, tolerance) = extract.within(options.max_size, &mut run, &jobs, kind)?;

        let reserve = jobs.iter().map(|job| job.header_entries(kind)).sum::<usize>() + HEADER_REST;
        let mut writer = Writer::new(file, path.to_owned(), reserve)?;
        let (mut stored, mut layers, mut unchanged, mut lost) =
            (labels::Stored::default(), Vec::new(), 0, Vec::new());
        run.stage("extracting");
        run.for_each(
            &jobs,
            |job| extract.piece(job).map_err(|e| e.in_layer(&job.module)),
            |job, piece| {
                for tensor in piece.tensors {
                    let name = format!("{}{}", job.module, tensor.suffix);
                    writer.push(&name, tensor.dtype, &tensor.shape, &tensor.data)?;
                }
                for (layer, _) in &piece.layers {
                    stored.families.insert(layer.family);
                    stored.ranks.extend(layer.rank);
                }
                layers.extend(piece.layers);
                unchanged += piece.unchanged;
                lost.extend(piece.lost);
                Ok(())
            },
        )
        .map_err(|e| if e.layer().is_some() { e.in_file(tuned.path()) } else { e })?;
        if layers.is_empty() {
            return Err(Error::mismatch(format!(
                "is the same as {} in everything that an adapter can hold: there is nothing to extract",
                base.path().display()
            ))
            .in_file(tuned.path()));
        }
        lost.extend(changed_others(base, tuned));
        warnings.extend(several(
            &lost,
            "tensor changed that no adapter can change in a host, and is left out",
            "tensors changed that no adapter can change in a host, and are left out",
        ));
        let set = recipe::set(&options);
        let about = serde_json::json!({
            "base": file_name(base.path()), "tuned": file_name(tuned.path()), "format": options.format.name(),
            "dtype": options.dtype.to_string(), "options": set,
        });
        let (file, finished) = writer.finish(metadata(&stored, model, path, about.to_string()))?;
        file.commit()?;
        Ok(ExtractReport {
            lycomerge: env!("CARGO_PKG_VERSION"),
            base: base.path().to_owned(),
            tuned: tuned.path().to_owned(),
            output: path.to_owned(),
            model: model.map(Architecture::name),
            format: options.format.name(),
            dtype: options.dtype.to_string(),
            options: set,
            bytes: finished.byte_len,
            error: Certificate::total(layers.iter().map(|(_, certificate)| *certificate)).error(),
            tolerance,
            layers: layers.into_iter().map(|(layer, _)| layer).collect(),
            unchanged,
            warnings: summarise(warnings.into_iter()),
        })
    }

    /// The options with the rank that is usual where nothing is said.
    fn extract_options(&self) -> Result<Options> {
        let mut options = self.options.clone();
        options.check()?;
        if !self.inputs.is_empty() {
            return Err(Error::option(
                "what is extracted comes from two checkpoints; a merge with inputs has none",
            ));
        }
        if options.keep {
            return Err(Error::option("format keep stores an adapter as it is, and there is none"));
        }
        if options.quality == Some(Quality::Compact) {
            return Err(Error::option(
                "quality compact means no larger than the largest adapter, and there is none; use max-size or rank",
            ));
        }
        if options.format == Format::Lokr && options.factor.is_none() {
            return Err(Error::option(
                "format lokr needs the option factor, which says how to split layers; 1 holds anything at the rank that \
                 is given",
            ));
        }
        let rule = options.sv_ratio.or(options.sv_cumulative).or(options.sv_fro);
        let limited = options.rank.is_some() || options.max_size.is_some() || options.quality.is_some();
        if !limited && rule.or(options.tolerance).is_none() {
            options.rank = match (options.format, options.factor) {
                (Format::Lora, _) | (Format::Lokr, Some(1)) => Some(RANK),
                (Format::Loha, _) => Some(LOHA_RANK),
                (Format::Auto | Format::Full | Format::Lokr, _) => None,
            };
        }
        Ok(options)
    }
}

/// How to store every layer.
struct Extract {
    fit: FitOptions,
    bound: Bound,
    /// Whether low-rank factors are called A and B.
    letters: bool,
    /// What a limit on the size chose: what is made is what was counted.
    choices: BTreeMap<LayerId, Choice>,
}

/// The header's room for everything but the layers.
const HEADER_REST: usize = 4096;

impl Extract {
    /// With the tolerance that a limit on the size comes to, if there is one.
    fn within(
        mut self,
        limit: Option<u64>,
        run: &mut Run<'_>,
        jobs: &[Job<'_>],
        kind: FileKind,
    ) -> Result<(Self, Option<f64>)> {
        let Some(limit) = limit else { return Ok((self, None)) };
        run.stage("surveying");
        let bound = Bound { tolerance: 1.0, purpose: Purpose::Survey, ..self.bound };
        let curves = run.map(jobs, |job| {
            let changed = job.changes.iter().filter(|change| change.is_stored);
            changed
                .map(|change| Ok((change.id.clone(), self.curves(change, bound)?)))
                .collect::<Result<Vec<_>>>()
        })?;
        let size = self.fit.dtype.size();
        let of_job = |job: &Job<'_>| job.header_entries(kind) + job.changes.len() * size;
        let overhead = jobs.iter().map(of_job).sum::<usize>() + HEADER_REST + 16;
        let numbers = (limit as usize).saturating_sub(overhead) / size;
        let changed = |(id, curves): (_, Option<Vec<Curve>>)| Some((id, curves?));
        let curves: Vec<(LayerId, Vec<Curve>)> = curves.into_iter().flatten().filter_map(changed).collect();
        let layers = curves.iter().map(|(_, curves)| (&curves[..], 1));
        let tolerance = budget::tolerance_for_size(layers, numbers, self.bound)?;
        let bound = Bound { tolerance, ..self.bound };
        let choose = |(id, curves): &(LayerId, Vec<Curve>)| (id.clone(), budget::choose(curves, bound));
        self.choices = curves.iter().map(choose).collect();
        Ok((self, Some(tolerance)))
    }

    fn curves(&self, change: &Change<'_>, bound: Bound) -> Result<Option<Vec<Curve>>> {
        let Some(delta) = change.delta::<f32>()? else { return Ok(None) };
        let joint = Joint::new(&delta);
        let fitter =
            Fitter::new(&joint, &change.shape, &self.fit).inherit(Some(Inherited::of(&delta).summed()));
        fitter.curves(bound).map(Some)
    }

    fn piece(&self, job: &Job<'_>) -> Result<Piece> {
        let mut piece = Piece::default();
        for change in &job.changes {
            if !change.is_stored {
                let changed = change.delta::<f32>()?.is_some();
                piece.unchanged += usize::from(!changed);
                piece.lost = piece.lost.or_else(|| changed.then(|| change.base.name().to_owned()));
                continue;
            }
            let wide = matches!(self.fit.dtype, Dtype::F32 | Dtype::F64) || change.is_wide();
            let stored = if wide { self.store::<f64>(change)? } else { self.store::<f32>(change)? };
            let Some((family, tensors, certificate)) = stored else {
                piece.unchanged += 1;
                continue;
            };
            let tensors = if self.letters { with_letters(tensors) } else { tensors };
            let layer = store::report(&change.id, family, &change.shape, &tensors, &certificate);
            piece.layers.push((layer, certificate));
            piece.tensors.extend(tensors);
        }
        piece.tensors.sort_by_key(|tensor| tensor.suffix);
        Ok(piece)
    }

    fn store<T: Real>(&self, change: &Change<'_>) -> Result<Option<store::Stored>> {
        let Some(delta) = change.delta::<T>()? else { return Ok(None) };
        let joint = Joint::new(&delta);
        let place = Place { shape: &change.shape, param: change.id.param, norm: change.norm };
        // A difference is no form that somebody chose to store it in.
        let inherited = Inherited::of(&delta).summed();
        let stored = match self.choices.get(&change.id) {
            Some(choice) => {
                let fitter = Fitter::new(&joint, &change.shape, &self.fit).inherit(Some(inherited));
                store::make(&self.fit, &place, &joint, &fitter, *choice)
            }
            None => store::fit(&self.fit, &place, &joint, Some(inherited), self.bound),
        };
        stored.map(Some)
    }
}

impl Job<'_> {
    /// What it takes of the header at most.
    fn header_entries(&self, kind: FileKind) -> usize {
        let tensors: usize =
            self.changes.iter().map(|change| if change.shape.dims == Dims::Vector { 1 } else { 4 }).sum();
        tensors * kind.entry_bound(self.module.len() + ".lora_down.weight".len())
    }
}

impl Change<'_> {
    fn is_wide(&self) -> bool {
        self.base.dtype() == Dtype::F64 || self.tuned.dtype() == Dtype::F64
    }

    /// W_tuned − W_base; none if the checkpoints agree, as far as the narrower dtype of the two tells.
    fn delta<T: Real>(&self) -> Result<Option<Delta<T>>> {
        if self.base.is_same(&self.tuned) {
            return Ok(None);
        }
        let WeightShape { rows, cols, .. } = self.shape;
        let mut difference = Mat::zeros(rows, cols);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut changed, height) = (false, (TILE / cols.max(1)).max(1));
        for top in (0..rows).step_by(height) {
            let bottom = rows.min(top + height);
            self.base.read(top..bottom, &mut before);
            self.tuned.read(top..bottom, &mut after);
            if !(all_finite(&before) && all_finite(&after)) {
                return Err(Error::value("a number of the weight is not finite").in_layer(self.tuned.name()));
            }
            changed = changed || self.differ(&before, &after);
            after.iter_mut().zip(&before).for_each(|(after, before)| *after -= *before);
            for j in 0..cols {
                let column = &mut difference.col_as_slice_mut(j)[top..bottom];
                column.iter_mut().enumerate().for_each(|(i, x)| *x = after[i * cols + j]);
            }
        }
        Ok(changed.then(|| Delta::of(1.0, Term::Plain(Factor::Full(difference)))))
    }

    /// Whether numbers differ by more than a conversion between the checkpoints' dtypes makes of them.
    fn differ<T: Real>(&self, before: &[T], after: &[T]) -> bool {
        let (base, tuned) = (self.base.dtype(), self.tuned.dtype());
        if base == tuned || self.base.is_scaled() || self.tuned.is_scaled() {
            return before != after;
        }
        let narrow = if tuned.size() <= base.size() { tuned } else { base };
        let rounded = |numbers: &[T]| {
            let mut data = Vec::new();
            encode(numbers, narrow, &mut data).ok()?;
            Some(TensorView { dtype: narrow, shape: &[numbers.len()], data: &data }.to_reals::<T>())
        };
        match (rounded(before), rounded(after)) {
            (Some(before), Some(after)) => before != after,
            _ => true,
        }
    }
}

impl<'a> Stacked<'a> {
    fn new(parts: Vec<Parameter<'a>>) -> Result<Self> {
        let scaled = |part: Parameter<'a>| part.scale().map(|scale| (part, scale));
        Ok(Self { parts: parts.into_iter().map(scaled).collect::<Result<_>>()? })
    }

    /// The name of the first part.
    fn name(&self) -> &'a str {
        self.parts[0].0.name
    }

    fn dtype(&self) -> Dtype {
        self.parts[0].0.view.dtype
    }

    fn is_scaled(&self) -> bool {
        self.parts.iter().any(|(_, scale)| *scale != 1.0)
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|(part, _)| part.rows.len()).sum()
    }

    /// Its shape, of all parts.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.parts[0].0.shape();
        if let Some(rows) = shape.first_mut() {
            *rows = self.rows();
        }
        shape
    }

    fn entries(&self) -> usize {
        self.parts.iter().map(|(part, _)| part.shape().iter().product::<usize>()).sum()
    }

    /// Whether the same bytes mean the same numbers, which saves looking at them.
    fn is_same(&self, other: &Self) -> bool {
        let ([(a, x)], [(b, y)]) = (&self.parts[..], &other.parts[..]) else { return false };
        let bytes = |part: &Parameter<'a>| {
            let row = part.view.data.len() / part.view.shape.first().copied().unwrap_or(1).max(1);
            part.view.data.get(part.rows.start * row..part.rows.end * row)
        };
        let alike = (a.view.dtype, a.swapped, x) == (b.view.dtype, b.swapped, y);
        let same = alike && bytes(a) == bytes(b);
        if same {
            [a, b].iter().for_each(|part| part.file.used(bytes(part)));
        }
        same
    }

    /// Some of its rows in place of what is in `out`.
    fn read<T: Real>(&self, rows: std::ops::Range<usize>, out: &mut Vec<T>) {
        out.clear();
        let mut first = 0;
        for (part, scale) in &self.parts {
            let end = first + part.rows.len();
            let (from, to) = (rows.start.max(first), rows.end.min(end));
            if from < to {
                part.read_rows(from - first..to - first, *scale, out);
            }
            first = end;
        }
    }
}

/// The model that a checkpoint is.
fn model_of(checkpoint: &Checkpoint) -> Option<Architecture> {
    let cols = |identity: &Identity| {
        let weight = checkpoint.weight(identity)?;
        let module = weight.name.strip_suffix(".weight").unwrap_or(weight.name);
        Some((module, weight.view.shape.get(1..)?.iter().product()))
    };
    // A VAE has blocks that look like a UNet's.
    let known = checkpoint.weights().filter(|identity| identity.component != Component::Other);
    architecture(known.filter_map(cols)).map(|(model, _)| model)
}

/// The parameters of both checkpoints, by the modules of the output.
fn pair<'a>(
    base: &'a Checkpoint,
    tuned: &'a Checkpoint,
    dialect: &Dialect,
    skip_unknown: bool,
) -> Result<Pairs<'a>> {
    let whole = |identity: &Identity| Identity { rows: Rows::WHOLE, ..identity.clone() };
    let all = |checkpoint: &Checkpoint| -> BTreeSet<Identity> {
        checkpoint.weights().chain(checkpoint.biases()).map(whole).collect()
    };
    let (ours, theirs) = (all(base), all(tuned));
    let mut jobs: BTreeMap<String, Job<'a>> = BTreeMap::new();
    let (mut differ, mut warnings) = (Vec::new(), lacking(&ours, &theirs, base, tuned));
    for module in ours.intersection(&theirs) {
        let given = base.weight_parts(module).first().map_or("", |weight| weight.module());
        let names = dialect.names(module, given).filter(|_| !is_embedding(module));
        let is_stored = names.is_some();
        if !is_stored && !is_embedding(module) && module.component != Component::Other {
            let message = format!(
                "nobody knows how the naming {} spells this module; --naming kohya has a name for every module",
                dialect.naming().name()
            );
            return Err(Error::unsupported(message).in_layer(given).in_file(base.path()));
        }
        // What hosts have no name for is compared all the same.
        let names = names.unwrap_or_else(|| vec![(module.path.clone(), Rows::WHOLE)]);
        for (name, rows) in names {
            let part = Identity { rows, ..module.clone() };
            let of_norm = base.weight_parts(&part).first().is_some_and(|weight| weight.view.shape.len() == 1);
            for param in [Param::Weight, Param::Bias] {
                let parts = |checkpoint: &'a Checkpoint| match param {
                    Param::Weight => checkpoint.weight_parts(&part),
                    Param::Bias => checkpoint.bias_parts(&part),
                };
                let (before, after) = (parts(base), parts(tuned));
                if before.is_empty() || after.is_empty() {
                    continue;
                }
                let (before, after) = (Stacked::new(before)?, Stacked::new(after)?);
                if (before.rows(), before.entries()) != (after.rows(), after.entries()) {
                    differ.push((before, after));
                    continue;
                }
                let id = LayerId { module: name.clone(), param };
                let change = Change {
                    shape: WeightShape::of_tensor(&before.shape()).map_err(|e| e.in_file(base.path()))?,
                    id,
                    norm: of_norm,
                    base: before,
                    tuned: after,
                    is_stored,
                };
                // Tensors' names sort with the dot behind the module's.
                let job = jobs.entry(format!("{name}."));
                job.or_insert_with(|| Job { module: name.clone(), changes: Vec::new() }).changes.push(change);
            }
        }
    }
    if let Some((before, after)) = differ.first() {
        let extents = |stacked: &Stacked<'_>| {
            stacked.shape().iter().map(usize::to_string).collect::<Vec<_>>().join("×")
        };
        let others = if differ.len() > 1 {
            format!(", and {} others differ too", differ.len() - 1)
        } else {
            String::new()
        };
        let message = format!(
            "is {} here ('{}'), and {} in {}{others}",
            extents(after),
            after.name(),
            extents(before),
            base.path().display()
        );
        if !skip_unknown {
            let message = format!("{message}; --skip-unknown leaves such layers out");
            return Err(Error::mismatch(message).in_layer(before.name()).in_file(tuned.path()));
        }
        warnings.push(format!("left out: {} {message}", before.name()));
    }
    if jobs.is_empty() {
        return Err(Error::mismatch(format!(
            "has no parameter in common with {}; are both of one model?",
            base.path().display()
        ))
        .in_file(tuned.path()));
    }
    Ok(Pairs { jobs: jobs.into_values().collect(), warnings })
}

/// Tables of words and places, which no host lets an adapter change.
fn is_embedding(module: &Identity) -> bool {
    let text = matches!(module.component, Component::ClipL | Component::ClipG | Component::T5);
    text && (module.path.starts_with("embeddings_") || module.path == "shared")
}

/// What only one of the checkpoints has: networks, and modules of those that both have.
fn lacking(
    ours: &BTreeSet<Identity>,
    theirs: &BTreeSet<Identity>,
    base: &Checkpoint,
    tuned: &Checkpoint,
) -> Vec<String> {
    let networks = |all: &BTreeSet<Identity>| -> BTreeSet<Component> {
        all.iter().map(|module| module.component).collect()
    };
    let mut warnings = Vec::new();
    for (one, other, name, lacks) in [(ours, theirs, base, tuned), (theirs, ours, tuned, base)] {
        let theirs = networks(other);
        for network in networks(one).difference(&theirs) {
            warnings.push(format!(
                "only {} has {}, which is left out",
                name.path().display(),
                network_name(*network)
            ));
        }
        let alone: Vec<String> = one
            .difference(other)
            .filter(|module| theirs.contains(&module.component))
            .map(|module| module.path.clone())
            .collect();
        let where_not = lacks.path().display();
        warnings.extend(several(
            &alone,
            &format!("module is not in {where_not}, and left out"),
            &format!("modules are not in {where_not}, and left out"),
        ));
    }
    warnings
}

fn network_name(network: Component) -> &'static str {
    match network {
        Component::Denoiser => "a denoiser",
        Component::ClipL => "CLIP-L",
        Component::ClipG => "CLIP-G",
        Component::T5 => "T5",
        Component::Other => "a VAE or another network",
    }
}

/// One sentence about things that it holds for, with the first of them.
fn several(names: &[String], one: &str, many: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let shown = names.get(..names.len().min(SHOWN))?.join(", ");
    match names.len() {
        0 => None,
        1 => Some(format!("1 {one}: {shown}")),
        n => Some(format!("{n} {many}: {shown}{}", if n > SHOWN { ", …" } else { "" })),
    }
}

/// Tensors that are nobody's weight or bias, and differ. Averages over training are no part of the model.
fn changed_others(base: &Checkpoint, tuned: &Checkpoint) -> Vec<String> {
    let theirs: BTreeMap<&str, _> = tuned.others().map(|(file, name)| (name, file)).collect();
    let changed = |(file, name): &(&crate::file::Container, &str)| {
        let (Some(before), Some(after)) = (file.get(name), theirs.get(name).and_then(|file| file.get(name)))
        else {
            return false;
        };
        !name.starts_with("model_ema.")
            && (before.dtype, before.shape) == (after.dtype, after.shape)
            && before.data != after.data
    };
    base.others().filter(changed).map(|(_, name)| name.to_owned()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What hosts look for in an adapter's file.
fn metadata(
    stored: &labels::Stored,
    model: Option<Architecture>,
    output: &Path,
    about: String,
) -> BTreeMap<String, String> {
    let title = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let version = model.and_then(Architecture::base_version);
    let known = version.map(|version| (labels::BASE_VERSION, version.to_owned()));
    let own = [
        ("format", "pt".to_owned()),
        ("ss_output_name", title.clone()),
        ("modelspec.sai_model_spec", "1.0.1".to_owned()),
        ("modelspec.title", title),
        ("lycomerge_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("lycomerge_extract", about),
    ];
    let all = labels::network(stored).into_iter().chain(known).chain(own);
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}

impl ExtractReport {
    /// All of it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
