//! Many adapters into one.
//!
//! A [`Merge`] is inputs with weights, and [`Options`]. Running it walks once over the layers: the strategy
//! weighs their deltas, the fit makes one stored term of the sum, the certificate compares what is stored with
//! what should be, and the writer streams it out. [`Merge::forecast`] says size and error beforehand.

pub mod bake;
pub mod blocks;
pub mod compare;
mod deltas;
mod engine;
pub mod extract;
mod factor;
mod forecast;
mod gpu;
mod keep;
mod labels;
mod lines;
mod naming;
mod norms;
mod notices;
pub mod options;
mod own;
mod plan;
pub mod recipe;
mod rule;
mod sampling;
mod spaces;
mod store;
pub mod strategy;
pub mod trade;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::adapter::{
    Adapter, Configured, Family, NewTensor, Param, config as peft_config, config_beside, peft_metadata,
    stored_delta, with_letters,
};
use crate::compute::cuda::Gpu;
use crate::delta::joint::Joint;
use crate::error::{Error, Result};
use crate::file::{AtomicFile, FileKind, Writer};
use crate::fit::certificate::Certificate;
use crate::fit::{Bound, Curve, FitOptions, Fitter, Format, Purpose, budget};
use crate::model::Naming;
use crate::report::{LayerReport, Report};
use crate::tensor::{Dtype, Real, TensorView, encode};

pub use blocks::BlockWeights;
pub use compare::Comparison;
pub use deltas::MergedDelta;
pub use forecast::{Alternative, Forecast};
pub use options::{Device, MatchNorm, Options, Quality, Space};
pub use trade::Plan;

use naming::Namer;
use notices::Notices;
use plan::{Merged, Shares, Site, Target};
use recipe::Recipe;
use store::Place;
use strategy::{MergeSpace, Rule, Weigh};

/// An adapter and its weight.
#[derive(Clone, Debug)]
pub struct Input {
    /// The opened file.
    pub adapter: Arc<Adapter>,
    /// Any finite number; zero and negative too.
    pub weight: f64,
    /// What the weight is multiplied with in every part of the model.
    pub blocks: Option<BlockWeights>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being done: `reading`, `surveying`, `merging`.
    pub stage: &'static str,
    /// Modules done in this stage.
    pub done: usize,
    /// Modules in all.
    pub total: usize,
}

/// Hears of progress on the calling thread, at least ten times a second; `false` stops the run.
pub type Watch<'w> = &'w mut dyn FnMut(Progress) -> bool;

/// A merge to be run.
#[derive(Clone, Debug, Default)]
pub struct Merge {
    inputs: Vec<Input>,
    /// The block weights of a recipe's inputs, for those that are still to be added.
    expected_blocks: Vec<Option<BlockWeights>>,
    /// How to merge.
    pub options: Options,
}

/// What the passes of one run share.
struct Context<'a> {
    inputs: &'a [Input],
    options: &'a Options,
    rule: Rule,
    /// Whether the merged deltas are wanted entry by entry, so that they need no low rank.
    is_dense: bool,
    /// Whether low-rank factors are called `lora_A` and `lora_B`.
    letters: bool,
    shares: Shares,
    key_shares: factor::KeyShares,
    fit: FitOptions,
    /// What makes entries, if not the CPU.
    gpu: Option<Gpu>,
    notices: Notices,
}

/// A tensor that is no layer: name, bytes, shape, type.
type Passenger = (String, Vec<u8>, Vec<usize>, Dtype);

/// What one site becomes.
struct Piece {
    tensors: Vec<NewTensor>,
    layers: Vec<(LayerReport, Certificate)>,
    /// The most that the strategy scaled one of the layers by.
    scaled: f64,
    /// What PEFT's configuration says of the layer, beside the tensors.
    configured: Vec<Configured>,
    /// Whether a difference is stored flat because nobody knows its kernel.
    flat: bool,
}

/// A run's results.
struct Ran<W> {
    sink: W,
    report: Report,
    /// PEFT's configuration, where the output has its names.
    config: Option<String>,
}

/// What there is to say of all sites, once they are written.
#[derive(Default)]
struct Body {
    stored: labels::Stored,
    configured: Vec<Configured>,
    layers: Vec<(LayerReport, Certificate)>,
    warnings: Vec<String>,
}

impl Merge {
    /// No inputs yet, default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input, with the block weights that a recipe has for it.
    ///
    /// # Errors
    /// A weight that is not finite, and block weights that aren't this file's.
    pub fn add(&mut self, adapter: Arc<Adapter>, weight: f64) -> Result<()> {
        if !weight.is_finite() {
            return Err(
                Error::option(format!("the weight {weight} is not a finite number")).in_file(adapter.path())
            );
        }
        let blocks = self.expected_blocks.get(self.inputs.len()).cloned().flatten();
        blocks.as_ref().map_or(Ok(()), |blocks| blocks.check(&adapter))?;
        self.inputs.push(Input { adapter, weight, blocks });
        Ok(())
    }

    /// Sets how strongly an input, counted from 0, acts in every part of the model; none: everywhere the same.
    ///
    /// # Errors
    /// An index without an input, and block weights that aren't this file's.
    pub fn set_block_weights(&mut self, input: usize, blocks: Option<BlockWeights>) -> Result<()> {
        let count = self.inputs.len();
        let input = self.inputs.get_mut(input).ok_or_else(|| {
            Error::option(format!("block weights: there is no input {input}, only {count}, counted from 0"))
        })?;
        blocks.as_ref().map_or(Ok(()), |blocks| blocks.check(&input.adapter))?;
        input.blocks = blocks;
        Ok(())
    }

    /// Takes options and block weights from a recipe in JSON: the recipe itself, or a report that has it. Inputs and
    /// their weights are the caller's to add, before or after, in the recipe's order.
    ///
    /// # Errors
    /// JSON that is neither, options that this version doesn't know, and block weights that aren't an input's.
    pub fn set_recipe(&mut self, json: &str) -> Result<()> {
        let (options, blocks) = recipe::parse(json)?;
        for (input, blocks) in self.inputs.iter().zip(&blocks) {
            blocks.as_ref().map_or(Ok(()), |blocks| blocks.check(&input.adapter))?;
        }
        for (input, blocks) in self.inputs.iter_mut().zip(&blocks) {
            input.blocks.clone_from(blocks);
        }
        (self.options, self.expected_blocks) = (options, blocks);
        Ok(())
    }

    /// The inputs in their order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The layers of the output.
    fn sites(&self) -> Result<Vec<Site<'_>>> {
        plan::sites(&self.inputs, &self.namer())
    }

    fn namer(&self) -> Namer {
        Namer::new(&self.inputs, self.options.naming)
    }

    /// What speaks against merging these inputs, one sentence each; none of it stops a merge.
    pub fn compatibility_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let versions: BTreeSet<_> =
            self.inputs.iter().filter_map(|i| i.adapter.metadata().get("ss_base_model_version")).collect();
        if versions.len() > 1 {
            let names: Vec<_> = versions.into_iter().map(String::as_str).collect();
            warnings.push(format!("the inputs were trained on different base models: {}", names.join(", ")));
        }
        if let [first, rest @ ..] = &self.inputs[..] {
            let modules = |input: &Input| -> BTreeSet<_> {
                let identities = input.adapter.layers().keys().map(|id| naming::identity(&input.adapter, id));
                identities.map(|identity| (identity.component, identity.path)).collect()
            };
            let own = modules(first);
            for input in rest {
                if own.is_disjoint(&modules(input)) {
                    let (a, b) = (first.adapter.path().display(), input.adapter.path().display());
                    warnings
                        .push(format!("{a} and {b} have no layer in common; are they for different models?"));
                }
            }
        }
        warnings
    }

    /// Merges into a file, which appears under its name only when it is whole. An input may be the output. The name's
    /// ending says the format, see [`FileKind::of_name`]; a PyTorch file has no metadata, so that the recipe is in
    /// the report alone. One with PEFT's names that is called `adapter_model` gets an `adapter_config.json` beside it.
    ///
    /// # Errors
    /// Whatever is wrong with inputs, options or the disk; nothing is left behind then.
    pub fn run_to(&self, path: &Path, watch: Watch<'_>) -> Result<Report> {
        let file = AtomicFile::create(path)?;
        let Ran { sink: file, mut report, config } = self.run(file, Some(path), watch)?;
        if let (Some(beside), Some(config)) = (config_beside(path), config) {
            let mut file = AtomicFile::create(&beside)?;
            file.write_all(config.as_bytes()).map_err(|error| Error::io(&error, "write", &beside))?;
            file.commit()?;
        }
        file.commit()?;
        report.output = Some(path.to_owned());
        Ok(report)
    }

    /// Merges into memory: the bytes of a safetensors file.
    ///
    /// # Errors
    /// Whatever is wrong with inputs or options.
    pub fn run_in_memory(&self, watch: Watch<'_>) -> Result<(Vec<u8>, Report)> {
        let Ran { sink, report, .. } = self.run(Cursor::new(Vec::new()), None, watch)?;
        Ok((sink.into_inner(), report))
    }

    fn run<W: Read + Write + Seek>(&self, sink: W, path: Option<&Path>, watch: Watch<'_>) -> Result<Ran<W>> {
        let mut run = engine::Run::new(self.options.threads, self.options.memory, watch)?;
        let sites = self.sites()?;
        let context = self.with_gpu(self.context(&run, &sites)?, &sites, &run)?;
        let name = path.map_or_else(|| "memory".into(), Path::to_owned);
        let kind = FileKind::of_name(&name);
        let (bound, tolerance) = self.bound(&mut run, &context, &sites, kind)?;

        let reserve = sites.iter().map(|site| header_entries(site, kind, self.options.keep)).sum::<usize>()
            + self.header_rest();
        let mut writer = Writer::new(sink, name, reserve)?;
        // Hashing the inputs takes a while and needs nothing of the rest.
        let stop = AtomicBool::new(false);
        let (recipe, body) = std::thread::scope(|scope| {
            let recipe = scope.spawn(|| Recipe::of(&self.inputs, &self.options, &stop));
            let body = self.stream(&mut run, &context, &sites, bound, &mut writer);
            let body = body.and_then(|body| run.wait(|| recipe.is_finished()).map(|()| body));
            stop.store(body.is_err(), Ordering::Relaxed);
            (recipe.join(), body)
        });
        // What is wrong with a layer and with no input is wrong with the output.
        let body = body.map_err(|e| match (path, e.layer()) {
            (Some(path), Some(_)) => e.in_file(path),
            _ => e,
        });
        let Body { stored, configured, layers, mut warnings } = body?;
        let recipe = recipe.map_err(|_| Error::internal("the inputs could not be hashed"))?;
        let mut metadata = self.metadata(&recipe, &stored, path);
        let mut config = None;
        match self.namer().naming() {
            Naming::Diffusers => {
                metadata.extend(peft_metadata(&configured).map(|(key, json)| (key.to_owned(), json)));
            }
            Naming::Peft => {
                let families: Vec<_> = stored.families.iter().copied().collect();
                config = match families[..] {
                    ["LoRA"] => Some(peft_config(false, &configured)),
                    ["LoHa"] => Some(peft_config(true, &configured)),
                    _ => None,
                };
                warnings.extend(config.is_none().then(|| {
                    "lycomerge writes configurations of PEFT for files that are LoRA or LoHa throughout, and there is \
                     none for this one; --format lora makes such a file"
                        .to_owned()
                }));
            }
            Naming::Kohya | Naming::Comfy => {}
        }
        let (sink, finished) = writer.finish(metadata)?;

        let total = Certificate::total(layers.iter().map(|(_, certificate)| *certificate));
        let truncated = layers
            .iter()
            .filter(|(layer, _)| layer.space == Some(MergeSpace::Full.name()) && layer.rank.is_some());
        let truncated = Certificate::total(truncated.map(|(_, certificate)| *certificate));
        let direction =
            layers.iter().map(|(layer, c)| (layer.direction_error * c.norm).powi(2)).sum::<f64>().sqrt();
        let report = Report {
            lycomerge: env!("CARGO_PKG_VERSION"),
            recipe,
            output: None,
            bytes: finished.byte_len,
            device: gpu::name(context.gpu.as_ref()),
            error: total.error(),
            direction_error: if total.norm > 0.0 { direction / total.norm } else { 0.0 },
            norm_ratio: (total.norm > 0.0).then(|| total.stored_norm / total.norm),
            truncation: (truncated.norm > 0.0).then(|| truncated.error()),
            tolerance,
            layers: layers.into_iter().map(|(layer, _)| layer).collect(),
            skipped: self.inputs.iter().map(|input| input.adapter.skipped()).sum(),
            warnings: summarise(
                self.inputs.iter().flat_map(|i| i.adapter.warnings().to_vec()).chain(warnings),
            ),
        };
        Ok(Ran { sink, report, config })
    }

    /// Merges every site and streams it into `writer`.
    fn stream<W: Read + Write + Seek>(
        &self,
        run: &mut engine::Run<'_>,
        context: &Context<'_>,
        sites: &[Site<'_>],
        bound: Bound,
        writer: &mut Writer<W>,
    ) -> Result<Body> {
        let mut passengers = self.passengers()?.into_iter().peekable();
        let (mut body, mut scaled, mut flat) = (Body::default(), Vec::new(), Vec::new());
        run.stage("merging");
        run.for_each(
            sites,
            |site| context.piece(site, bound),
            |site, piece| {
                let module = format!("{}.", site.module);
                while let Some((name, data, shape, dtype)) = passengers.next_if(|(name, ..)| *name < module) {
                    writer.push(&name, dtype, &shape, &data)?;
                }
                for tensor in piece.tensors {
                    let name = format!("{}{}", site.module, tensor.suffix);
                    writer.push(&name, tensor.dtype, &tensor.shape, &tensor.data)?;
                }
                for (layer, _) in &piece.layers {
                    body.stored.families.insert(layer.family);
                    body.stored.ranks.extend(layer.rank);
                }
                body.layers.extend(piece.layers);
                body.configured.extend(piece.configured);
                scaled.extend((piece.scaled > MUCH).then(|| (piece.scaled, site.module.clone())));
                flat.extend(piece.flat.then(|| site.module.clone()));
                Ok(())
            },
        )?;
        for (name, data, shape, dtype) in passengers {
            writer.push(&name, dtype, &shape, &data)?;
        }
        body.warnings.extend(context.notices.warnings());
        body.warnings.extend(context.idle_gpu());
        body.warnings.extend(scale_warning(&scaled));
        body.warnings.extend(flat_warning(&flat));
        Ok(body)
    }

    /// Checks what can be checked without work, and gathers what the strategy wants to know of the whole file.
    fn context<'a>(&'a self, run: &engine::Run<'_>, sites: &[Site<'_>]) -> Result<Context<'a>> {
        let options = &self.options;
        options.check()?;
        if self.inputs.is_empty() {
            return Err(Error::option("there is nothing to merge: no input was given"));
        }
        if let Some(last) = self.expected_blocks.iter().rposition(Option::is_some)
            && last >= self.inputs.len()
        {
            return Err(Error::option(format!(
                "the recipe has block weights for {} inputs, and only {} are there",
                last + 1,
                self.inputs.len()
            )));
        }
        let weighs = self.inputs.iter().any(|input| input.blocks.is_some());
        if weighs && (options.space == Space::Factor || options.keep) {
            let (what, why) = match options.keep {
                true => ("format keep", "tensors are stored as they are"),
                false => ("space factor", "factors are scaled there, not effects"),
            };
            return Err(Error::option(format!("block weights and {what} can't be used together: {why}")));
        }
        let no_lokr =
            |input: &Input| input.adapter.layers().values().all(|layer| layer.family != Family::Lokr);
        if options.format == Format::Lokr && options.factor.is_none() && self.inputs.iter().all(no_lokr) {
            return Err(Error::option(
                "format lokr has no split to keep, because no input is a LoKr, and a LoRA or LoHa has no good single \
                 Kronecker product; use --format lora, or --factor 1, which holds any merge exactly (--factor N \
                 forces a split)",
            ));
        }
        if options.keep && !matches!(&self.inputs[..], [Input { weight, .. }] if *weight == 1.0) {
            return Err(Error::option(
                "format keep stores one adapter as it is: it takes one input, at the weight 1",
            ));
        }
        let row = strategy::by_name(&options.strategy)?;
        let (mut shares, mut key_shares) = (Shares::new(), factor::KeyShares::new());
        if row.whole_file {
            shares = plan::shares(run, &self.inputs, sites)?;
            if options.space == Space::Factor {
                key_shares = factor::key_shares(run, &self.inputs, sites)?;
            }
        }
        let rule = row.rule(&options.settings, self.inputs.len())?;
        if options.space == Space::Factor && rule.weighs().is_none_or(Weigh::takes_blocks) {
            return Err(Error::option(format!(
                "space factor and strategy {} can't be used together: it is about deltas, and space factor is for the \
                 strategies of the older scripts, whose files it makes again",
                row.name
            )));
        }
        Ok(Context {
            inputs: &self.inputs,
            options,
            rule,
            is_dense: options.format == Format::Full,
            letters: self.namer().letters,
            shares,
            key_shares,
            fit: options.fit(),
            gpu: None,
            notices: Notices::default(),
        })
    }

    /// What every layer's fit must keep to, before any size limit.
    fn plain_bound(&self) -> Bound {
        self.options.bound(self.size_limit().is_some())
    }

    fn metadata(
        &self,
        recipe: &Recipe,
        stored: &labels::Stored,
        path: Option<&Path>,
    ) -> BTreeMap<String, String> {
        match &self.inputs[..] {
            [input] if self.options.keep => labels::kept(input, recipe),
            inputs => labels::metadata(inputs, recipe, stored, path),
        }
    }

    /// The limit on the output's size, if there is one.
    fn size_limit(&self) -> Option<u64> {
        let largest = || self.inputs.iter().map(|input| input.adapter.file().byte_len()).max().unwrap_or(0);
        self.options.max_size.or_else(|| (self.options.quality == Some(Quality::Compact)).then(largest))
    }

    /// The bound, with the tolerance that the size limit comes to.
    fn bound(
        &self,
        run: &mut engine::Run<'_>,
        context: &Context<'_>,
        sites: &[Site<'_>],
        kind: FileKind,
    ) -> Result<(Bound, Option<f64>)> {
        let bound = self.plain_bound();
        let Some(limit) = self.size_limit() else { return Ok((bound, None)) };
        let curves = context.survey(run, sites, bound)?;
        let layers = curves.iter().map(|curves| (&curves[..], 1));
        let tolerance = budget::tolerance_for_size(layers, self.numbers_within(limit, sites, kind), bound)?;
        Ok((Bound { tolerance, within_size: true, ..bound }, Some(tolerance)))
    }

    /// How many numbers the layers may store in a file of `limit` bytes.
    fn numbers_within(&self, limit: u64, sites: &[Site<'_>], kind: FileKind) -> usize {
        let overhead = self.overhead(sites.iter().map(|site| (site, 1)), kind);
        (limit as usize).saturating_sub(overhead) / self.options.dtype.size()
    }

    /// What a file takes besides the factors: the header with its length, and an alpha per target. Each site
    /// comes with how many it stands for.
    fn overhead<'s>(&self, sites: impl Iterator<Item = (&'s Site<'s>, usize)>, kind: FileKind) -> usize {
        // And what is stored as it comes, without a fit whose size could be foretold.
        let own = |target: &Target<'_>| match target.needs_base {
            true => target.sources.iter().flat_map(|source| source.layers()).map(|layer| layer.numbers).sum(),
            false => 0,
        };
        let alphas = |site: &Site<'_>| {
            site.targets.iter().map(|target| 1 + own(target)).sum::<usize>() * self.options.dtype.size()
        };
        let of_sites: usize =
            sites.map(|(site, count)| (header_entries(site, kind, false) + alphas(site)) * count).sum();
        of_sites + self.header_rest() + 16
    }

    /// The header's room for everything but the layers.
    fn header_rest(&self) -> usize {
        4096 + 400 * self.inputs.len()
    }

    /// Tensors that are no layers, from the first input that has them, in the output's dtype.
    fn passengers(&self) -> Result<Vec<Passenger>> {
        let mut all = BTreeMap::new();
        for input in &self.inputs {
            for (name, view) in input.adapter.passengers() {
                if !all.contains_key(name) {
                    let (mut data, mut dtype) = (view.data.to_vec(), view.dtype);
                    if !self.options.keep {
                        (data, dtype) = (Vec::new(), self.options.dtype);
                        encode(&view.to_reals::<f64>(), dtype, &mut data)
                            .map_err(|e| e.in_layer(name).in_file(input.adapter.path()))?;
                    }
                    all.insert(name.to_owned(), (data, view.shape.to_vec(), dtype));
                }
            }
        }
        Ok(all.into_iter().map(|(name, (data, shape, dtype))| (name, data, shape, dtype)).collect())
    }
}

impl Context<'_> {
    /// Every layer's sizes against errors, from singular values alone.
    fn survey(&self, run: &mut engine::Run<'_>, sites: &[Site<'_>], bound: Bound) -> Result<Vec<Vec<Curve>>> {
        run.stage("surveying");
        let bound = Bound { tolerance: 1.0, purpose: Purpose::Survey, ..bound };
        let curves = run.map(sites, |site| {
            let formats = [self.fit.format];
            let of_target =
                |target: &Target<'_>| Ok(self.curves::<f32>(target, &self.fit, &formats, bound)?.0);
            site.targets.iter().map(of_target).collect::<Result<Vec<_>>>()
        })?;
        Ok(curves.into_iter().flatten().flatten().collect())
    }

    /// A target's curves in each of the formats, and ‖true‖.
    fn curves<T: Real>(
        &self,
        target: &Target<'_>,
        fit: &FitOptions,
        formats: &[Format],
        bound: Bound,
    ) -> Result<(Vec<Vec<Curve>>, f64)> {
        let merged = self.merged::<T>(target)?;
        let joint = Joint::new(&merged.delta);
        if joint.cancels() {
            return self.curves::<f64>(target, fit, formats, bound);
        }
        let fitter = Fitter::new(&joint, &target.shape, fit).inherit(merged.inherited);
        let curves = formats.iter().map(|format| fitter.curves_in(*format, bound));
        Ok((curves.collect::<Result<_>>()?, fitter.norm()))
    }

    fn merged<T: Real>(&self, target: &Target<'_>) -> Result<Merged<T>> {
        let warn = |text| self.notices.add(text, &target.id.module);
        let mut merged = match &self.rule {
            Rule::Weights(rule) => target.merge(self.inputs, &**rule, &self.shares, &warn)?,
            Rule::Lines(rule, lines) => self.by_lines(target, &**rule, *lines)?,
            Rule::Entries(rule, space) => self.by_entries(target, &**rule, *space)?,
            Rule::Spectral(rule) => self.by_spectra(target, &**rule)?,
        };
        if self.options.match_norm == MatchNorm::Inputs {
            self.match_norm(target, &mut merged)?;
        }
        Ok(merged)
    }

    fn piece(&self, site: &Site<'_>, bound: Bound) -> Result<Piece> {
        let mut piece = Piece {
            tensors: Vec::new(),
            layers: Vec::new(),
            scaled: 1.0,
            configured: Vec::new(),
            flat: false,
        };
        for target in &site.targets {
            match self.options.dtype {
                _ if self.options.keep => self.keep(target, &mut piece)?,
                _ if self.is_own(target) => self.add_own(target, &mut piece)?,
                Dtype::F32 | Dtype::F64 => self.add::<f64>(target, bound, &mut piece)?,
                _ => self.add::<f32>(target, bound, &mut piece)?,
            }
            piece.tensors.extend(target.reshape.as_deref().map(NewTensor::reshape));
        }
        piece.tensors.sort_by_key(|tensor| tensor.suffix);
        Ok(piece)
    }

    /// Merges and stores one target, in float64 where its terms cancel.
    fn add<T: Real>(&self, target: &Target<'_>, bound: Bound, piece: &mut Piece) -> Result<()> {
        let merged = self.merged::<T>(target)?;
        let joint = Joint::new(&merged.delta);
        if joint.cancels() {
            return self.add::<f64>(target, bound, piece);
        }
        let (family, tensors, certificate) = match self.options.space {
            Space::Delta => {
                let norm = target.norm && matches!(target.shape.dims, crate::adapter::Dims::Vector);
                let place = Place { shape: &target.shape, param: target.id.param, norm };
                store::fit(&self.fit, &place, &joint, merged.inherited, bound)?
            }
            Space::Factor => {
                let dtype = self.options.dtype;
                let rule = self.rule.weighs().ok_or_else(|| Error::internal("no weights"))?;
                let tensors = factor::merge(target, self.inputs, rule, &self.key_shares, dtype)?;
                let certificate = Certificate::of(&stored_delta(&tensors)?, &joint);
                (target.family(), tensors, certificate)
            }
        };
        piece.scaled = piece.scaled.max(merged.scaled);
        piece.flat |= family == Family::Full && target.has_unknown_kernel();
        self.report(target, family, tensors, certificate, merged.coefficients, piece);
        if let Some((report, _)) = piece.layers.last_mut() {
            report.space = merged.space.map(MergeSpace::name);
            report.matched = merged.matched;
        }
        Ok(())
    }

    /// Adds a target's tensors to what its module is stored as, and says what they are.
    fn report(
        &self,
        target: &Target<'_>,
        family: Family,
        tensors: Vec<NewTensor>,
        certificate: Certificate,
        coefficients: Vec<f64>,
        piece: &mut Piece,
    ) {
        piece.configured.extend(configured(&target.id.module, &tensors));
        let tensors = if self.letters { with_letters(tensors) } else { tensors };
        let report = LayerReport {
            inputs: target.sources.iter().map(|source| source.input).collect(),
            coefficients,
            ..store::report(&target.id, family, &target.shape, &tensors, &certificate)
        };
        piece.layers.push((report, certificate));
        piece.tensors.extend(tensors);
    }
}

/// What there is to say of the tensors of a LoRA or LoHa beside them.
fn configured(module: &str, tensors: &[NewTensor]) -> Option<Configured> {
    let find = |suffix: &str| tensors.iter().find(|tensor| tensor.suffix == suffix);
    let rank = find(".lora_down.weight").or_else(|| find(".hada_w1_b"))?.shape[0];
    let alpha = find(".alpha").map(|alpha| {
        let view = TensorView { dtype: alpha.dtype, shape: &alpha.shape, data: &alpha.data };
        view.to_reals::<f64>()[0]
    });
    let alpha = alpha.unwrap_or(rank as f64);
    Some(Configured { module: module.to_owned(), rank, alpha, has_cores: find(".hada_t1").is_some() })
}

/// What a site takes of the header at most, or of what a file of another kind has instead: up to five tensors for a
/// weight and one for a bias.
fn header_entries(site: &Site<'_>, kind: FileKind, keep: bool) -> usize {
    // As they are, and an alpha.
    let kept = |target: &Target<'_>| {
        let layers = target.sources.iter().flat_map(|source| source.layers());
        layers.map(|layer| layer.tensor_names().count()).max().unwrap_or(0) + 1
    };
    let of_target = |target: &Target<'_>| match target.id.param {
        _ if keep => kept(target),
        Param::Weight if target.needs_base => 5,
        Param::Weight if target.shape.dims != crate::adapter::Dims::Vector => 4,
        _ => 1,
    };
    let of_shape = |target: &Target<'_>| usize::from(target.reshape.is_some());
    let tensors: usize = site.targets.iter().map(|target| of_target(target) + of_shape(target)).sum();
    tensors * kind.entry_bound(site.module.len() + ".lora_down.weight".len())
}

/// A layer that is scaled up more than this is likely to be noise made loud.
const MUCH: f64 = 10.0;

/// What there is to know of layers that a strategy scales up much.
fn scale_warning(scaled: &[(f64, String)]) -> Option<String> {
    let (most, module) = scaled.iter().max_by(|x, y| x.0.total_cmp(&y.0))?;
    let layers =
        if scaled.len() == 1 { "1 layer is".to_owned() } else { format!("{} layers are", scaled.len()) };
    let times = if *most < 1e6 { format!("{most:.0}") } else { format!("{most:.1e}") };
    Some(format!(
        "{layers} scaled up more than {MUCH} times to reach the norm that was asked for, {module} the most: {times} times"
    ))
}

/// What there is to know of differences that are stored flat.
fn flat_warning(modules: &[String]) -> Option<String> {
    let (first, several) = (modules.first()?, if modules.len() == 1 { "" } else { "s" });
    Some(format!(
        "the kernel of {} layer{several} is not known ({first}{}), so the difference is stored flat; hosts that \
         compare shapes skip it where the layer is a convolution",
        modules.len(),
        if modules.len() == 1 { "" } else { ", …" },
    ))
}

/// At most a few warnings of each kind, the rest counted.
fn summarise(warnings: impl Iterator<Item = String>) -> Vec<String> {
    const SHOWN: usize = 20;
    let all: Vec<String> = warnings.collect();
    let more = all.len().saturating_sub(SHOWN);
    let mut out: Vec<String> = all.into_iter().take(SHOWN).collect();
    if more > 0 {
        out.push(format!("and {more} more warnings of this kind"));
    }
    out
}
