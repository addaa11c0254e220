//! Merging by rules that a coefficient per model can't say: entry by entry, or on matrices in joint spaces.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use faer::{Mat, Scale};

use super::gpu::{self, SHORT};
use super::plan::{Merged, Target};
use super::spaces::{MergeSpace, Spaces};
use super::strategy::{Entrywise, Sheets, Spectral};
use super::{Context, Input};
use crate::adapter::{Dims, Param};
use crate::compute::linalg::set_rows;
use crate::compute::round::seed_of;
use crate::compute::simd::wide;
use crate::delta::dense::Rows;
use crate::delta::{Delta, Factor, Term};
use crate::error::Result;
use crate::fit::Inherited;
use crate::tensor::Real;

/// What the inputs do to a parameter, each with its weight.
struct Models<T: Real> {
    deltas: Vec<Delta<T>>,
    weights: Vec<f64>,
}

impl<T: Real> Models<T> {
    /// Rules look at what adapters do, and a block weight makes a model weigh less there.
    fn of(target: &Target<'_>, inputs: &[Input]) -> Result<Self> {
        let read = |source| target.read_by_weight::<T>(inputs, source);
        let deltas = target.sources.iter().map(read).collect::<Result<_>>()?;
        let (all, present) = target.weights(inputs, true);
        Ok(Self { deltas, weights: present.iter().map(|index| all[*index]).collect() })
    }

    /// Σ wᵢ Δᵢ
    fn sum(&self) -> Delta<T> {
        let mut sum = Delta::zero(self.deltas[0].rows(), self.deltas[0].cols());
        self.deltas.iter().zip(&self.weights).for_each(|(delta, weight)| sum.add_scaled(*weight, delta));
        sum
    }

    /// That `delta` came of them.
    fn merged(self, delta: Delta<T>, space: Option<MergeSpace>) -> Merged<T> {
        let inherited = Inherited::of(&self.sum());
        // The joint spaces' factors have the ranks of all inputs; what is in them may be smaller. Entries are what they are.
        let is_whole = delta.terms().iter().all(|(_, term)| term.is_whole());
        let inherited = Some(if is_whole { inherited } else { inherited.summed() });
        Merged { delta, inherited, coefficients: self.weights, scaled: 1.0, space, matched: None }
    }
}

/// A vector has no spaces and no spectrum.
fn is_matrix(target: &Target<'_>) -> bool {
    target.id.param == Param::Weight && target.shape.dims != Dims::Vector
}

impl Context<'_> {
    /// The merged delta by a rule on entries.
    pub(super) fn by_entries<T: Real>(
        &self,
        target: &Target<'_>,
        rule: &dyn Entrywise,
        space: Option<MergeSpace>,
    ) -> Result<Merged<T>> {
        let (models, layer) = (Models::of(target, self.inputs)?, &target.id.module);
        let space = if is_matrix(target) { space.unwrap_or(self.usual_space()) } else { MergeSpace::Full };
        let (delta, space) = match space {
            MergeSpace::Full => self.in_full(&models, rule, layer),
            space => in_space(&models, rule, space, layer),
        }
        .map_err(|e| e.in_layer(layer))?;
        Ok(models.merged(delta, Some(space)))
    }

    /// The merged delta by a rule on matrices.
    pub(super) fn by_spectra<T: Real>(&self, target: &Target<'_>, rule: &dyn Spectral) -> Result<Merged<T>> {
        let models = Models::of(target, self.inputs)?;
        // Biases and norms are added up.
        let delta = match is_matrix(target) {
            true => {
                spectral(&models.deltas, &models.weights, rule).map_err(|e| e.in_layer(&target.id.module))?
            }
            false => models.sum(),
        };
        Ok(models.merged(delta, None))
    }

    /// Merges the entries of the deltas themselves, on the GPU if there is one that can.
    fn in_full<T: Real>(
        &self,
        models: &Models<T>,
        rule: &dyn Entrywise,
        layer: &str,
    ) -> Result<(Delta<T>, MergeSpace)> {
        let Models { deltas, weights } = models;
        deltas.iter().try_for_each(Delta::check_formable)?;
        let rows: Vec<Rows<'_, T>> = deltas.iter().map(Rows::new).collect();
        let (shape, seed) = ((deltas[0].rows(), deltas[0].cols()), layer_seed(layer));
        let mut merged = None;
        if let (Some(gpu), Some(rule)) = (&self.gpu, rule.on_gpu())
            && shape.0 * shape.1 > 0
        {
            merged = gpu::merged(gpu, &rows, shape, weights, &rule, seed)?;
            if merged.is_none() {
                self.notices.add(SHORT, layer);
            }
        }
        let merged = match merged {
            Some(merged) => merged,
            None => collect(&Streamed { rows, shape, made: Mutex::default() }, weights, rule, seed)?,
        };
        Ok((Delta::of(1.0, Term::Plain(Factor::Full(merged))), MergeSpace::Full))
    }
}

/// What the dice of a layer begin with.
fn layer_seed(layer: &str) -> u64 {
    seed_of(&[layer.as_bytes()])
}

/// Merges the deltas' matrices in their joint spaces.
pub(super) fn spectral<T: Real>(
    deltas: &[Delta<T>],
    weights: &[f64],
    rule: &dyn Spectral,
) -> Result<Delta<T>> {
    let (rows, cols) = (deltas[0].rows(), deltas[0].cols());
    let mut spaces = Spaces::unordered(deltas, MergeSpace::Core)?;
    let matrices = std::mem::take(&mut spaces.matrices).into_iter().zip(weights);
    let models: Vec<_> = matrices
        .filter(|(_, weight)| **weight != 0.0)
        .map(|(matrix, weight)| Scale(*weight) * matrix)
        .collect();
    if models.is_empty() {
        return Ok(Delta::zero(rows, cols));
    }
    Ok(spaces.delta(&rule.merge(&models, rows.min(cols))?))
}

/// Merges the entries of the deltas' matrices in a joint space.
fn in_space<T: Real>(
    models: &Models<T>,
    rule: &dyn Entrywise,
    space: MergeSpace,
    layer: &str,
) -> Result<(Delta<T>, MergeSpace)> {
    let spaces = Spaces::of(&models.deltas, space)?;
    let merged = collect::<f64>(&Held(&spaces.matrices), &models.weights, rule, layer_seed(layer))?;
    Ok((spaces.delta(&merged), spaces.kind()))
}

/// All merged entries.
fn collect<T: Real>(models: &dyn Sheets, weights: &[f64], rule: &dyn Entrywise, seed: u64) -> Result<Mat<T>> {
    let (rows, cols) = models.shape();
    let mut merged = Mat::zeros(rows, cols);
    let mut cast = Vec::new();
    rule.merge(models, weights, seed, &mut |range, tile| {
        cast.clear();
        wide(|| cast.extend(tile.iter().map(|x| T::from_f64(*x))));
        set_rows(&mut merged, range, &cast);
    })?;
    Ok(merged)
}

/// Entries that are made when they are read.
struct Streamed<'a, T: Real> {
    rows: Vec<Rows<'a, T>>,
    shape: (usize, usize),
    /// Where they are made, so that not every tile asks for memory.
    made: Mutex<Vec<T>>,
}

impl<T: Real> Sheets for Streamed<'_, T> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn read(&self, model: usize, rows: Range<usize>, tile: &mut [f64]) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clear();
        made.resize(tile.len(), T::from_f64(0.0));
        self.rows[model].add(rows, &mut made);
        wide(|| tile.iter_mut().zip(&*made).for_each(|(to, from)| *to = from.to_f64()));
    }
}

/// Matrices in a joint space.
struct Held<'a>(&'a [Mat<f64>]);

impl Sheets for Held<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn shape(&self) -> (usize, usize) {
        self.0.first().map_or((0, 0), |matrix| (matrix.nrows(), matrix.ncols()))
    }

    fn read(&self, model: usize, rows: Range<usize>, tile: &mut [f64]) {
        let matrix = &self.0[model];
        for (row, to) in rows.zip(tile.chunks_mut(matrix.ncols().max(1))) {
            to.iter_mut().enumerate().for_each(|(j, to)| *to = matrix[(row, j)]);
        }
    }
}
