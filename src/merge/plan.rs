//! Which layers there are, over all inputs, and what each of them becomes: its merged delta.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::naming::{self, Namer};
use super::strategy::{Facts, MergeSpace, Weigh};
use super::{Input, engine};
use crate::adapter::{Dims, Family, Layer, LayerId, Param, WeightShape};
use crate::delta::{Delta, Window, gram};
use crate::error::{Error, Result};
use crate::fit::Inherited;
use crate::model::{Identity, identify, identify_shaped};
use crate::tensor::Real;

/// One parameter of the model and the inputs that change it.
pub(super) struct Target<'a> {
    pub(super) id: LayerId,
    /// What the inputs' shapes have in common.
    pub(super) shape: WeightShape,
    /// Whether an input stores it as a norm layer's difference.
    pub(super) norm: bool,
    /// Whether an effect can't be told, because it depends on a base model and the input was opened without.
    pub(super) needs_base: bool,
    /// What the model's weight is padded to first, if an input says so.
    pub(super) reshape: Option<Vec<usize>>,
    /// What the inputs that change it do, in their order.
    pub(super) sources: Vec<Source<'a>>,
}

/// What one input does to a parameter.
pub(super) struct Source<'a> {
    /// Which input.
    pub(super) input: usize,
    /// Its layers: several where it has in parts what the output has whole.
    pub(super) parts: Vec<Part<'a>>,
}

/// A layer of an input, and where its rows are in the target.
pub(super) struct Part<'a> {
    pub(super) id: &'a LayerId,
    pub(super) layer: &'a Layer,
    /// None where they are all of the target's, in their order.
    pub(super) windows: Option<Vec<Window>>,
}

/// All targets of one module: what one worker does at a time, and what stands together in the file.
pub(super) struct Site<'a> {
    pub(super) module: String,
    pub(super) targets: Vec<Target<'a>>,
}

impl engine::Work for Site<'_> {
    fn name(&self) -> &str {
        &self.module
    }

    /// Its factors in three copies, and its joint spaces or, where those are no smaller, its entries.
    fn working_set(&self) -> u64 {
        let of_target = |target: &Target<'_>| {
            let layers = target.sources.iter().flat_map(|source| source.layers());
            let numbers: usize = layers.map(Layer::expanded).sum();
            let (m, n) = (target.shape.rows, target.shape.cols);
            numbers.saturating_mul(24).saturating_add(m.saturating_mul(n).saturating_mul(16))
        };
        self.targets.iter().map(of_target).fold(0, usize::saturating_add) as u64
    }
}

/// The merged delta of a target, and how it came about.
pub(super) struct Merged<T: Real> {
    pub(super) delta: Delta<T>,
    /// What a fit in the inputs' own family keeps of them, where the delta's terms don't show it any more.
    pub(super) inherited: Option<Inherited>,
    /// One coefficient per source.
    pub(super) coefficients: Vec<f64>,
    /// What the strategy scaled the sum by, beyond its coefficients.
    pub(super) scaled: f64,
    /// The space that entries were merged in, where they were.
    pub(super) space: Option<MergeSpace>,
    /// What the whole was then multiplied by to have its inputs' norm, if it was to.
    pub(super) matched: Option<f64>,
}

/// The sites of all inputs, in the order in which their tensors stand in a file.
pub(super) fn sites<'a>(inputs: &'a [Input], namer: &Namer) -> Result<Vec<Site<'a>>> {
    let mut sites: BTreeMap<String, Site<'a>> = BTreeMap::new();
    for target in naming::targets(inputs, namer)? {
        // Tensor names are the module's with a dot and a suffix, and sort so.
        let module = target.id.module.clone();
        let site = sites.entry(format!("{module}.")).or_insert_with(|| Site { module, targets: Vec::new() });
        site.targets.push(target);
    }
    Ok(sites.into_values().collect())
}

/// ‖Δᵢ‖ / Σ_layers ‖Δᵢ‖ of every target and input.
pub(super) type Shares = BTreeMap<LayerId, Vec<f64>>;

/// Gathers the shares of all targets: the first pass of the strategies that need the whole file.
pub(super) fn shares(run: &engine::Run<'_>, inputs: &[Input], sites: &[Site<'_>]) -> Result<Shares> {
    let norms = run.map(sites, |site| {
        let norm = |target: &Target<'_>| -> Result<(LayerId, Vec<f64>)> {
            let mut norms = vec![0.0; inputs.len()];
            for source in &target.sources {
                norms[source.input] = gram::norm(&target.read::<f32>(inputs, source, 1.0)?);
            }
            Ok((target.id.clone(), norms))
        };
        site.targets.iter().map(norm).collect::<Result<Vec<_>>>()
    })?;
    let mut shares: Shares = norms.into_iter().flatten().collect();
    for input in 0..inputs.len() {
        let total: f64 = shares.values().map(|norms| norms[input]).sum();
        if total > 0.0 {
            shares.values_mut().for_each(|norms| norms[input] /= total);
        }
    }
    Ok(shares)
}

impl Site<'_> {
    /// What the module is.
    pub(super) fn identity(&self) -> Identity {
        match self.targets.iter().find(|target| target.id.param == Param::Weight) {
            Some(weight) => identify_shaped(&self.module, weight.shape.rows, weight.shape.cols),
            None => identify(&self.module),
        }
    }
}

impl Source<'_> {
    /// Its layers.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.parts.iter().map(|part| part.layer)
    }
}

impl Target<'_> {
    /// Takes note of a layer whose effect can't be told.
    ///
    /// # Errors
    /// It is of another family than what is there.
    pub(super) fn add_need(&mut self, family: Family, needs_base: bool) -> Result<()> {
        let mut others = self.sources.iter().flat_map(Source::layers).map(|layer| layer.family);
        self.needs_base |= needs_base;
        match others.find(|other| self.needs_base && *other != family) {
            None => Ok(()),
            Some(other) => Err(Error::unsupported(format!(
                "is {family} here and {other} in an earlier input; these can only be merged with the base model (--base)"
            ))),
        }
    }

    /// How the first input stores it.
    pub(super) fn family(&self) -> Family {
        self.sources[0].parts[0].layer.family
    }

    /// What a source does at a strength, before block weights.
    pub(super) fn read<T: Real>(
        &self,
        inputs: &[Input],
        source: &Source<'_>,
        strength: f64,
    ) -> Result<Delta<T>> {
        self.read_weighed(inputs, source, |_| strength)
    }

    /// What a source does, every layer of it at its own strength.
    fn read_weighed<T: Real>(
        &self,
        inputs: &[Input],
        source: &Source<'_>,
        strength: impl Fn(&str) -> f64,
    ) -> Result<Delta<T>> {
        let adapter = &inputs[source.input].adapter;
        let read = |part: &Part<'_>| -> Result<Delta<T>> {
            let delta = adapter.delta_at::<T>(strength(&part.id.module), part.id, part.layer)?;
            Ok(match &part.windows {
                None => delta,
                Some(windows) => delta.placed(windows, self.shape.rows),
            })
        };
        let mut sum = Delta::zero(self.shape.rows, self.shape.cols);
        for part in &source.parts {
            sum.add_scaled(1.0, &read(part)?);
        }
        Ok(sum)
    }

    /// The weights of all inputs, with their block weights if these are wanted in them, and which have the layer.
    pub(super) fn weights(&self, inputs: &[Input], with_blocks: bool) -> (Vec<f64>, Vec<usize>) {
        let block = |index: usize| match with_blocks {
            true => self.block_weight(inputs, index),
            false => 1.0,
        };
        let weights = inputs.iter().enumerate().map(|(index, input)| input.weight * block(index)).collect();
        (weights, self.sources.iter().map(|source| source.input).collect())
    }

    /// The block weight of an input here: 1 where its parts have different ones, which are then part of what it does.
    pub(super) fn block_weight(&self, inputs: &[Input], index: usize) -> f64 {
        let factor = |module: &str| inputs[index].blocks.as_ref().map_or(1.0, |blocks| blocks.factor(module));
        match self.sources.iter().find(|source| source.input == index) {
            None => factor(&self.id.module),
            Some(source) => {
                let mut factors = source.parts.iter().map(|part| factor(&part.id.module));
                let first = factors.next().unwrap_or(1.0);
                if factors.all(|other| other == first) { first } else { 1.0 }
            }
        }
    }

    /// What a source does at the strength 1, for what takes its weight with the [block weight](Self::block_weight).
    pub(super) fn read_by_weight<T: Real>(&self, inputs: &[Input], source: &Source<'_>) -> Result<Delta<T>> {
        self.read_weighed(inputs, source, |module| self.part_weight(inputs, source, module))
    }

    /// What a source does at its own strength: its weight, and its block weights.
    pub(super) fn read_weighted<T: Real>(&self, inputs: &[Input], source: &Source<'_>) -> Result<Delta<T>> {
        let Input { weight, blocks, .. } = &inputs[source.input];
        let factor = |module: &str| blocks.as_ref().map_or(1.0, |blocks| blocks.factor(module));
        self.read_weighed(inputs, source, |module| weight * factor(module))
    }

    /// The block weight of a part of a source, beyond that of the whole.
    fn part_weight(&self, inputs: &[Input], source: &Source<'_>, module: &str) -> f64 {
        let own = inputs[source.input].blocks.as_ref().map_or(1.0, |blocks| blocks.factor(module));
        if own == self.block_weight(inputs, source.input) { 1.0 } else { own }
    }

    /// One coefficient per source.
    pub(super) fn coefficients(&self, strategy: &dyn Weigh, facts: &Facts<'_>) -> Result<Vec<f64>> {
        let all = strategy.coefficients(facts).map_err(|error| error.in_layer(&self.id.module))?;
        let coefficients: Vec<f64> = facts.present.iter().map(|index| all[*index]).collect();
        match coefficients.iter().find(|c| !c.is_finite()) {
            None => Ok(coefficients),
            Some(bad) => {
                let message =
                    format!("the strategy gives the coefficient {bad}; are the weights' sums zero?");
                Err(Error::value(message).in_layer(&self.id.module))
            }
        }
    }

    /// The merged delta by `strategy`.
    pub(super) fn merge<T: Real>(
        &self,
        inputs: &[Input],
        strategy: &dyn Weigh,
        shares: &Shares,
        warn: &dyn Fn(&'static str),
    ) -> Result<Merged<T>> {
        let takes_blocks = strategy.takes_blocks();
        let (weights, present) = self.weights(inputs, takes_blocks);
        let read = |source: &Source<'_>| match takes_blocks {
            true => self.read_by_weight::<T>(inputs, source),
            false => self.read::<T>(inputs, source, 1.0),
        };
        // All at once only where they are looked at together; memory doesn't grow with the inputs otherwise.
        let deltas: Vec<Delta<T>> = match strategy.needs_gram() {
            true => self.sources.iter().map(read).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let facts = Facts {
            weights: &weights,
            present: &present,
            entries: self.shape.rows * self.shape.cols,
            shares: shares.get(&self.id).map_or(&[], Vec::as_slice),
            make_gram: &|| gram::gram(&deltas.iter().collect::<Vec<_>>()),
            gram: OnceCell::new(),
            warn,
        };
        let mut coefficients = self.coefficients(strategy, &facts)?;
        let mut delta = Delta::zero(self.shape.rows, self.shape.cols);
        let mut inherited = None;
        for (k, (coefficient, source)) in coefficients.iter().zip(&self.sources).enumerate() {
            // What was looked at is what is added; the older strategies say how strong a model is to act.
            let is_delta = takes_blocks || source.layers().all(|layer| layer.family.is_linear());
            let blocks = inputs[source.input].blocks.as_ref();
            match deltas.get(k).filter(|_| is_delta && (takes_blocks || blocks.is_none())) {
                Some(part) => delta.add_scaled(*coefficient, part),
                None => {
                    let factor = |module: &str| match blocks {
                        None => 1.0,
                        Some(_) if takes_blocks => self.part_weight(inputs, source, module),
                        Some(blocks) => blocks.factor(module),
                    };
                    let strength = |module: &str| coefficient * factor(module);
                    delta.add_scaled(1.0, &self.read_weighed(inputs, source, strength)?);
                }
            }
            if delta.is_crowded() {
                inherited = inherited.or_else(|| Some(Inherited::of(&delta).summed()));
                delta.condense()?;
            }
        }
        if delta.is_mixed() {
            inherited = inherited.or_else(|| Some(Inherited::of(&delta).summed()));
            delta.condense()?;
        }
        let scaled = scale_to_peak(&mut delta, &mut coefficients, strategy)?;
        Ok(Merged { delta, inherited, coefficients, scaled, space: None, matched: None })
    }

    /// What is said where flat factors hide a convolution's kernel and the output needs it.
    pub(super) fn has_unknown_kernel(&self) -> bool {
        self.shape.dims == Dims::Unknown && self.id.param == Param::Weight
    }
}

/// Scales a merged delta to the largest entry that the strategy wants, and says by how much.
fn scale_to_peak<T: Real>(
    delta: &mut Delta<T>,
    coefficients: &mut [f64],
    strategy: &dyn Weigh,
) -> Result<f64> {
    let Some(wanted) = strategy.peak() else { return Ok(1.0) };
    delta.check_formable()?;
    let peak = delta.peak();
    if peak == 0.0 {
        return Ok(1.0);
    }
    let factor = wanted / peak;
    delta.scale(factor);
    coefficients.iter_mut().for_each(|c| *c *= factor);
    Ok(factor)
}
