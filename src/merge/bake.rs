//! Merged adapters added to a checkpoint's weights: W + ΔW, stored in the checkpoint's own dtypes.
//!
//! The output has the checkpoint's tensors in the checkpoint's order, so its header and every tensor's place are known at
//! once, and workers write tiles where they belong while these are still in a core's cache: what no layer changes as it
//! is, byte for byte. What dtype rounding leaves of ΔW is measured for every tensor.

mod tiles;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::engine::{Run, Work};
use super::gpu::{self, SHORT};
use super::naming::Namer;
use super::plan::{Site, Target};
use super::recipe::Recipe;
use super::{Context, Merge, Watch, plan, summarise};
use crate::adapter::{Layer, Param, pad_bytes};
use crate::compute::cuda::bakes;
use crate::compute::device::Work as Amount;
use crate::compute::round::Rounder;
use crate::compute::simd::{Wide, wide};
use crate::delta::Delta;
use crate::delta::dense::Rows;
use crate::delta::joint::Joint;
use crate::error::{Error, Result};
use crate::file::{AtomicFile, Container, FixedWriter, Outline};
use crate::model::{Checkpoint, Parameter, identify, nearest};
use crate::tensor::{Dtype, Real, TensorView};

pub use crate::compute::round::Rounding;

use tiles::{OnCpu, OnGpu, TILE, Tiles, Whole};

/// What layers in work and results that wait may take together, if nothing is said: more would not make it faster.
const MEMORY: u64 = 256 << 20;

/// What baking says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct BakeReport {
    /// The version of lycomerge that made it.
    pub lycomerge: &'static str,
    /// What was asked for.
    pub recipe: Recipe,
    /// The checkpoint that it began with.
    pub base: PathBuf,
    /// Where the output went.
    pub output: PathBuf,
    /// The output's size.
    pub bytes: u64,
    /// What made the changed tensors: `cpu`, or a GPU by its number and name.
    pub device: String,
    /// How numbers were rounded: `nearest`, or `stochastic` with its seed.
    pub rounding: String,
    /// ‖stored − (W + ΔW)‖ / ‖ΔW‖ over the whole file.
    pub error: f64,
    /// The part of ΔW that is in the stored weights: ⟨stored − W, ΔW⟩ / ‖ΔW‖² over the whole file.
    pub kept: f64,
    /// Numbers that the dtype's largest stands for.
    pub saturated: usize,
    /// The tensors that were changed, in the order of their names.
    pub tensors: Vec<BakedTensor>,
    /// How many tensors were copied as they are.
    pub copied: usize,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// One changed tensor's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct BakedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its dtype.
    pub dtype: &'static str,
    /// Its extents.
    pub shape: Vec<usize>,
    /// ‖ΔW‖
    pub norm: f64,
    /// ‖stored − (W + ΔW)‖ / ‖ΔW‖
    pub error: f64,
    /// ⟨stored − W, ΔW⟩ / ‖ΔW‖²
    pub kept: f64,
    /// Numbers that the dtype's largest stands for.
    pub saturated: usize,
}

/// Sums over the entries of a tensor, or a file.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Σ ΔW²
    delta: f64,
    /// Σ (stored − W − ΔW)²
    wrong: f64,
    /// Σ (stored − W) ΔW
    along: f64,
    saturated: usize,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.delta += other.delta;
        self.wrong += other.wrong;
        self.along += other.along;
        self.saturated += other.saturated;
    }

    fn error(&self) -> f64 {
        if self.delta > 0.0 { (self.wrong / self.delta).sqrt() } else { 0.0 }
    }

    fn kept(&self) -> f64 {
        if self.delta > 0.0 { self.along / self.delta } else { 1.0 }
    }
}

/// Measures what became of a delta, with sums in `A`; the lanes are independent sums, so that additions need not wait
/// for each other.
struct Measure<'a, T, A, const LANES: usize> {
    stored: &'a [[T; LANES]],
    weight: &'a [[T; LANES]],
    delta: &'a [[T; LANES]],
    scale: T,
    sums_in: PhantomData<A>,
}

impl<T: Real, A: Real, const LANES: usize> Wide for Measure<'_, T, A, LANES> {
    type Output = Sums;

    #[inline(always)]
    fn call(self) -> Sums {
        let wider = |x: T| A::from_f64(x.to_f64());
        let zero = A::from_f64(0.0);
        let (mut squares, mut wrong, mut along) = ([zero; LANES], [zero; LANES], [zero; LANES]);
        for ((s, w), d) in self.stored.iter().zip(self.weight).zip(self.delta) {
            for lane in 0..LANES {
                // The difference of the stored numbers is exact: both are of the dtype, or differ by little.
                let rest = wider((s[lane] - w[lane]) * self.scale) - wider(d[lane]);
                let d = wider(d[lane]);
                squares[lane] += d * d;
                wrong[lane] += rest * rest;
                along[lane] += rest * d;
            }
        }
        let total = |lanes: [A; LANES]| lanes.iter().map(|x| x.to_f64()).sum::<f64>();
        let delta = total(squares);
        Sums { delta, wrong: total(wrong), along: delta + total(along), saturated: 0 }
    }
}

/// What became of a block of a delta.
fn measured<T: Real>(stored: &[T], weight: &[T], delta: &[T], scale: T) -> Sums {
    let quick = measured_in::<T, T>(stored, weight, delta, scale);
    // A hundred numbers a lane are summed well in their own type, unless their squares leave its range.
    let ordinary = |sum: f64| (1e-24..1e24).contains(&sum);
    if ordinary(quick.delta) && ordinary(quick.wrong) {
        return quick;
    }
    measured_in::<T, f64>(stored, weight, delta, scale)
}

fn measured_in<T: Real, A: Real>(stored: &[T], weight: &[T], delta: &[T], scale: T) -> Sums {
    let (stored, stored_rest) = stored.as_chunks::<16>();
    let (weight, weight_rest) = weight.as_chunks();
    let (delta, delta_rest) = delta.as_chunks();
    let mut sums = wide(Measure { stored, weight, delta, scale, sums_in: PhantomData::<A> });
    let (stored, weight) = (stored_rest.as_chunks::<1>().0, weight_rest.as_chunks().0);
    let rest = Measure { stored, weight, delta: delta_rest.as_chunks().0, scale, sums_in: PhantomData::<A> };
    sums.add(rest.call());
    sums
}

/// sum = W + ΔW / scale
struct Add<'a, T> {
    weight: &'a [T],
    delta: &'a [T],
    inverse: T,
    sum: &'a mut Vec<T>,
}

impl<T: Real> Wide for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.sum.extend(self.weight.iter().zip(self.delta).map(|(w, d)| *w + *d * self.inverse));
    }
}

/// A tensor of the checkpoint, and the targets that change it, if any do.
struct Job<'a> {
    file: &'a Container,
    name: &'a str,
    view: TensorView<'a>,
    /// Which tensor of the output it is.
    place: usize,
    /// What the stored numbers are multiplied by.
    scale: f64,
    parts: Vec<(&'a Target<'a>, Vec<Window>)>,
}

/// Rows of the tensor, and the rows of a target's delta that are added to them.
#[derive(Clone, Copy)]
struct Window {
    tensor: usize,
    delta: usize,
    len: usize,
}

impl Work for Job<'_> {
    fn name(&self) -> &str {
        self.name
    }

    /// The factors in three copies, and tiles.
    fn working_set(&self) -> u64 {
        let sources = self.parts.iter().flat_map(|(target, _)| &target.sources);
        let numbers = sources.flat_map(|source| source.layers()).map(Layer::expanded);
        let numbers = numbers.fold(0, usize::saturating_add);
        let tiles = 4 * 8 * TILE.max(self.view.shape.iter().skip(1).product());
        tiles.saturating_add(numbers.saturating_mul(24)) as u64
    }
}

impl Merge {
    /// Adds the merge to the weights of `base` and writes the whole model to `path`: one safetensors file, with the
    /// tensors, dtypes and metadata of the checkpoint. Options about the stored form of an adapter count for nothing.
    ///
    /// # Errors
    /// A layer whose module the checkpoint doesn't have, or has in another shape, and whatever is wrong with inputs,
    /// options or the disk; nothing is left behind then.
    pub fn bake(
        &self,
        base: &Checkpoint,
        path: &Path,
        rounding: Rounding,
        watch: Watch<'_>,
    ) -> Result<BakeReport> {
        let mut run = Run::new(self.options.threads, self.options.memory.or(Some(MEMORY)), watch)?;
        let sites = plan::sites(&self.inputs, &Namer::any(&self.inputs))?;
        let context = Context { is_dense: true, ..self.context(&run, &sites)? };
        let padded = padded(base, &sites)?;
        let (jobs, mut warnings) = self.jobs(base, &sites, &padded)?;
        let recipe = Recipe::of(&self.inputs, &self.options, &AtomicBool::new(false));

        let outlines: Vec<Outline> = jobs.iter().map(Job::outline).collect();
        let file = AtomicFile::create(path)?;
        file.reserve(outlines.iter().map(Outline::byte_len).sum())?;
        let writer = FixedWriter::new(file, path, &outlines, &metadata(base, &recipe))?;
        let (mut total, mut tensors) = (Sums::default(), Vec::new());
        let context = Context { gpu: self.gpu(context.work(&jobs), run.threads())?, ..context };
        run.stage("baking");
        run.for_each(
            &jobs,
            |job| match job.parts.len() {
                0 => job.copy(&writer).map(|()| Sums::default()),
                _ => context.bake(job, rounding, &writer),
            },
            |job, sums| {
                if !job.parts.is_empty() {
                    total.add(sums);
                    tensors.push(BakedTensor::of(job, sums));
                }
                Ok(())
            },
        )
        .map_err(|e| if e.file().is_none() { e.in_file(base.path()) } else { e })?;
        let (file, bytes) = writer.finish()?;
        file.commit()?;
        tensors.sort_by(|x, y| x.name.cmp(&y.name));
        warnings.extend(context.notices.warnings());
        warnings.extend(self.inputs.iter().flat_map(|input| input.adapter.warnings().to_vec()));
        Ok(BakeReport {
            lycomerge: env!("CARGO_PKG_VERSION"),
            recipe,
            base: base.path().to_owned(),
            output: path.to_owned(),
            bytes,
            device: gpu::name(context.gpu.as_ref()),
            rounding: match rounding {
                Rounding::Nearest => "nearest".to_owned(),
                Rounding::Stochastic(seed) => format!("stochastic, seed {seed}"),
            },
            error: total.error(),
            kept: total.kept(),
            saturated: total.saturated,
            copied: jobs.len() - tensors.len(),
            tensors,
            warnings: summarise(warnings.into_iter()),
        })
    }

    /// The checkpoint's tensors in its order, with what is to be added to them, and what was left out.
    fn jobs<'a>(
        &self,
        base: &'a Checkpoint,
        sites: &'a [Site<'a>],
        padded: &'a BTreeMap<String, Padded>,
    ) -> Result<(Vec<Job<'a>>, Vec<String>)> {
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for file in base.files() {
            for name in file.names_by_place() {
                let Some(mut view) = file.get(name) else { continue };
                if let Some(Padded { shape, data }) = padded.get(name) {
                    view = TensorView { shape, data, ..view };
                }
                jobs.push(Job { file, name, view, place: jobs.len(), scale: 1.0, parts: Vec::new() });
            }
        }
        let places: BTreeMap<&str, usize> = jobs.iter().map(|job| (job.name, job.place)).collect();
        let (mut missing, mut warnings) = (Vec::new(), Vec::new());
        for (site, target) in
            sites.iter().flat_map(|site| site.targets.iter().map(move |target| (site, target)))
        {
            let module = site.identity();
            let parameters = match target.id.param {
                Param::Weight => base.weight_parts(&module),
                Param::Bias => base.bias_parts(&module),
            };
            if parameters.is_empty() {
                // Trainers write a norm's bias even where it has none.
                match target.id.param {
                    Param::Bias if target.norm => warnings.push(format!(
                        "{}: the checkpoint's norm layer has no bias, so what the adapter does to it is left out",
                        target.id.module
                    )),
                    _ => missing.push(target),
                }
            }
            let shape = |parameter: &Parameter<'_>| match padded.get(parameter.name) {
                Some(padded) => padded.shape.clone(),
                None => parameter.shape(),
            };
            check_shape(target, &parameters, shape)
                .map_err(|e| e.in_layer(&target.id.module).in_file(base.path()))?;
            let mut first = 0;
            for parameter in &parameters {
                let job = &mut jobs[places[parameter.name]];
                job.scale = parameter.scale()?;
                let start = parameter.rows.start;
                let rows = start..start + shape(parameter).first().copied().unwrap_or(1);
                job.parts.push((target, windows(&rows, parameter.swapped, first)));
                first += rows.len();
            }
        }
        match missing.first() {
            None => Ok((jobs, warnings)),
            Some(first) => {
                let input = &self.inputs[first.sources[0].input].adapter;
                let others = match missing.len() {
                    1 => String::new(),
                    n => format!(", nor those of {} other layers", n - 1),
                };
                let near = match nearest(&first.id.module, base.modules()) {
                    Some(near) => format!(" (the most similar is '{near}')"),
                    None => String::new(),
                };
                let message = format!(
                    "the checkpoint {} has no {} of this module{near}{others}; is it the model that the adapter was \
                     trained on?",
                    base.path().display(),
                    first.id.param.name()
                );
                Err(Error::mismatch(message).in_layer(&first.id.module).in_file(input.path()))
            }
        }
    }
}

impl Job<'_> {
    fn outline(&self) -> Outline {
        Outline { name: self.name.to_owned(), dtype: self.view.dtype, shape: self.view.shape.to_vec() }
    }

    /// Writes its `rows` as they are made, and adds up what became of ΔW.
    fn write(&self, rows: usize, tiles: &mut dyn Tiles, writer: &FixedWriter<AtomicFile>) -> Result<Sums> {
        let row = self.view.shape.iter().skip(1).product::<usize>() * self.view.dtype.size();
        let (mut sums, mut out, mut top) = (Sums::default(), Vec::new(), 0);
        while top < rows {
            let range = top..rows.min(top + tiles.height());
            out.clear();
            sums.add(tiles.bake(range.clone(), &mut out)?);
            writer.write_at(self.place, top * row, &out)?;
            top = range.end;
        }
        Ok(sums)
    }

    /// Copies the tensor as it is.
    fn copy(&self, writer: &FixedWriter<AtomicFile>) -> Result<()> {
        let mut first = 0;
        self.file.for_each_block(self.name, |block| {
            writer.write_at(self.place, first, block)?;
            first += block.len();
            Ok(())
        })
    }
}

/// Refuses a target whose shape is not the checkpoint's.
fn check_shape<'a>(
    target: &Target<'_>,
    parameters: &[Parameter<'a>],
    shape: impl Fn(&Parameter<'a>) -> Vec<usize>,
) -> Result<()> {
    let Some(first) = parameters.first() else { return Ok(()) };
    let shapes: Vec<_> = parameters.iter().map(shape).collect();
    let rows: usize = shapes.iter().map(|shape| shape.first().copied().unwrap_or(1)).sum();
    let entries: usize = shapes.iter().map(|shape| shape.iter().product::<usize>()).sum();
    let shape = &target.shape;
    if (shape.rows, shape.rows * shape.cols) == (rows, entries) {
        return Ok(());
    }
    let there: Vec<_> = shapes[0].iter().map(usize::to_string).collect();
    Err(Error::mismatch(format!(
        "has {} in the checkpoint ('{}'), and the adapter changes {shape}; is it the model that the adapter was trained \
         on?",
        there.join("×"),
        first.name
    )))
}

/// A tensor of the checkpoint with zeros around it.
struct Padded {
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// The checkpoint's tensors that adapters have larger, by name.
///
/// # Errors
/// A tensor that is larger already, or that isn't one module's weight.
fn padded(base: &Checkpoint, sites: &[Site<'_>]) -> Result<BTreeMap<String, Padded>> {
    let mut all = BTreeMap::new();
    for target in sites.iter().flat_map(|site| &site.targets) {
        let Some(shape) = &target.reshape else { continue };
        let parameters = base.weight_parts(&identify(&target.id.module));
        let Some(first) = parameters.first() else { continue };
        let own = first.view.shape;
        let whole =
            parameters.len() == 1 && first.rows.len() == own.first().copied().unwrap_or(1) && !first.swapped;
        let fits = own.len() == shape.len() && own.iter().zip(shape).all(|(old, new)| old <= new);
        let named = |error: Error| error.in_layer(&target.id.module).in_file(base.path());
        if !whole || !fits {
            return Err(named(Error::mismatch(format!(
                "is padded to {shape:?} by an adapter, but '{}' of the checkpoint is {own:?}",
                first.name
            ))));
        }
        let data = pad_bytes(first.view.data, first.view.dtype.size(), own, shape);
        all.insert(first.name.to_owned(), Padded { shape: shape.clone(), data });
    }
    Ok(all)
}

/// Which rows of the checkpoint's tensor a target's rows from `first` on are added to.
fn windows(rows: &Range<usize>, swapped: bool, first: usize) -> Vec<Window> {
    let (start, rows) = (rows.start, rows.len());
    if !swapped {
        return vec![Window { tensor: start, delta: first, len: rows }];
    }
    let half = rows / 2;
    vec![
        Window { tensor: start, delta: first + half, len: rows - half },
        Window { tensor: start + rows - half, delta: first, len: half },
    ]
}

/// The checkpoint's metadata without what is no longer true, and the recipe.
fn metadata(base: &Checkpoint, recipe: &Recipe) -> BTreeMap<String, String> {
    const HASHES: [&str; 3] = ["sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"];
    let mut all: BTreeMap<String, String> =
        base.files().iter().flat_map(|file| file.metadata().clone()).collect();
    all.retain(|key, _| !HASHES.contains(&key.as_str()));
    all.insert("lycomerge_recipe".to_owned(), serde_json::json!(recipe).to_string());
    all
}

impl Context<'_> {
    /// What there is to do for a GPU.
    fn work(&self, jobs: &[Job<'_>]) -> Amount {
        let targets = jobs.iter().flat_map(|job| &job.parts).map(|(target, _)| *target);
        let changed = jobs.iter().filter(|job| !job.parts.is_empty());
        let bytes = changed.map(|job| job.view.data.len() as f64).sum();
        Amount { bytes, ..gpu::work(targets, self.merges_on_gpu()) }
    }

    fn bake(&self, job: &Job<'_>, rounding: Rounding, writer: &FixedWriter<AtomicFile>) -> Result<Sums> {
        match job.view.dtype {
            Dtype::F32 | Dtype::F64 => self.bake_in::<f64>(job, rounding, writer),
            _ => self.bake_in::<f32>(job, rounding, writer),
        }
    }

    /// In float64 where the terms of a delta cancel.
    fn bake_in<T: Real>(
        &self,
        job: &Job<'_>,
        rounding: Rounding,
        writer: &FixedWriter<AtomicFile>,
    ) -> Result<Sums> {
        let merged = job.parts.iter().map(|(target, _)| Ok(self.merged::<T>(target)?.delta));
        let deltas: Vec<Delta<T>> = merged.collect::<Result<_>>()?;
        if deltas.iter().any(|delta| Joint::new(delta).cancels()) {
            return self.bake_in::<f64>(job, rounding, writer);
        }
        deltas.iter().try_for_each(Delta::check_formable)?;
        let rows: Vec<Rows<'_, T>> = deltas.iter().map(Rows::new).collect();
        let whole = Whole { job, deltas: &rows, rounding };
        let gpu = self.gpu.as_ref().filter(|_| bakes::<T>(job.view.dtype));
        let mut tiles = gpu.map(|gpu| OnGpu::new(whole, gpu)).transpose()?.flatten();
        let sums = match &mut tiles {
            Some(tiles) => job.write(whole.rows(), tiles, writer),
            None => job.write(whole.rows(), &mut OnCpu::new(whole), writer),
        }?;
        if gpu.is_some() && tiles.is_none_or(|tiles| tiles.short) {
            self.notices.add(SHORT, job.name);
        }
        job.file.used([job.view.data]);
        Ok(sums)
    }
}

/// Adds deltas to a tensor's weights and rounds the sums, block by block; the memory is used again.
struct Rounded<'a, T> {
    job: &'a Job<'a>,
    rounder: Rounder,
    sum: Vec<T>,
    stored: Vec<T>,
}

impl<'a, T: Real> Rounded<'a, T> {
    fn new(job: &'a Job<'a>, rounding: Rounding) -> Self {
        let rounder = Rounder::new(rounding, job.view.dtype, job.name);
        Self { job, rounder, sum: Vec::new(), stored: Vec::new() }
    }

    /// Appends W + ΔW as it is stored, and measures what became of ΔW. `first` is the first entry's index.
    fn append(&mut self, weight: &[T], delta: &[T], first: usize, out: &mut Vec<u8>) -> Result<Sums> {
        let view = &self.job.view;
        let (scale, inverse) = (T::from_f64(self.job.scale), T::from_f64(1.0 / self.job.scale));
        self.sum.clear();
        wide(Add { weight, delta, inverse, sum: &mut self.sum });
        let start = out.len();
        let saturated = self.rounder.append(&self.sum, first, out)?;
        let stored = TensorView { dtype: view.dtype, shape: &[delta.len()], data: &out[start..] };
        stored.read_into(0..delta.len(), &mut self.stored);
        let sums = measured(&self.stored, weight, delta, scale);
        Ok(Sums { saturated, ..sums })
    }
}

impl BakedTensor {
    fn of(job: &Job<'_>, sums: Sums) -> Self {
        Self {
            name: job.name.to_owned(),
            dtype: job.view.dtype.name(),
            shape: job.view.shape.to_vec(),
            norm: sums.delta.sqrt(),
            error: sums.error(),
            kept: sums.kept(),
            saturated: sums.saturated,
        }
    }
}

impl BakeReport {
    /// All of it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
