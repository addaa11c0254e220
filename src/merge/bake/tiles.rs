//! The tiles of a tensor as they are stored, made by the CPU or by a GPU: both add the same deltas to the same weights, and
//! round and measure alike.

use std::ops::Range;

use super::{Job, Rounded, Rounding, Sums};
use crate::compute::cuda::{Baked, Fault, Gpu, Lane, Loaded, MOST_ROWS, Piece, Tile};
use crate::compute::round::Rounder;
use crate::delta::dense::Rows;
use crate::error::Result;
use crate::tensor::Real;

/// Entries whose delta is made, and which are written, at once.
pub(super) const TILE: usize = 1 << 16;

/// The same on a GPU, at most, for copies are as fast as larger ones, and at least: with less, starting a kernel takes longer
/// than running it.
const GPU_TILE: usize = 1 << 22;
const LEAST_GPU_TILE: usize = 1 << 16;

/// Entries that are added, rounded and measured at once: what this needs stays in a core's innermost cache.
const BLOCK: usize = 1 << 11;

/// Makes rows of a tensor.
pub(super) trait Tiles {
    /// How many rows are best made at once.
    fn height(&self) -> usize;

    /// Appends the rows as they are stored, and says what became of ΔW.
    fn bake(&mut self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<Sums>;
}

/// What is to be made.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a, T: Real> {
    pub(super) job: &'a Job<'a>,
    /// The deltas of the job's parts.
    pub(super) deltas: &'a [Rows<'a, T>],
    pub(super) rounding: Rounding,
}

impl<T: Real> Whole<'_, T> {
    fn cols(&self) -> usize {
        self.job.view.shape.iter().skip(1).product()
    }

    pub(super) fn rows(&self) -> usize {
        self.job.view.shape.first().copied().unwrap_or(1)
    }

    fn height(&self, entries: usize) -> usize {
        (entries / self.cols().max(1)).clamp(1, self.rows().max(1))
    }

    /// Calls with the parts of deltas in these rows: which delta, its rows, and the first row from the top of these.
    fn for_each_part(&self, rows: &Range<usize>, mut take: impl FnMut(usize, Range<usize>, usize)) {
        for (which, (_, windows)) in self.job.parts.iter().enumerate() {
            for window in windows {
                let (from, to) = (rows.start.max(window.tensor), rows.end.min(window.tensor + window.len));
                if from < to {
                    let start = window.delta + from - window.tensor;
                    take(which, start..start + to - from, from - rows.start);
                }
            }
        }
    }
}

/// On the CPU.
pub(super) struct OnCpu<'a, T: Real> {
    whole: Whole<'a, T>,
    rounded: Rounded<'a, T>,
    weight: Vec<T>,
    delta: Vec<T>,
}

impl<'a, T: Real> OnCpu<'a, T> {
    pub(super) fn new(whole: Whole<'a, T>) -> Self {
        Self {
            whole,
            rounded: Rounded::new(whole.job, whole.rounding),
            weight: Vec::new(),
            delta: Vec::new(),
        }
    }
}

impl<T: Real> Tiles for OnCpu<'_, T> {
    fn height(&self) -> usize {
        self.whole.height(TILE)
    }

    fn bake(&mut self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<Sums> {
        let cols = self.whole.cols();
        self.delta.clear();
        self.delta.resize(rows.len() * cols, T::from_f64(0.0));
        self.whole.for_each_part(&rows, |which, from, at| {
            let to = &mut self.delta[at * cols..(at + from.len()) * cols];
            self.whole.deltas[which].add(from, to);
        });
        // A whole tile at once: the processor reads ahead only in what it meets line by line.
        let first = rows.start * cols;
        self.whole.job.view.read_into(first..first + self.delta.len(), &mut self.weight);
        let mut sums = Sums::default();
        for (i, (weight, delta)) in self.weight.chunks(BLOCK).zip(self.delta.chunks(BLOCK)).enumerate() {
            sums.add(self.rounded.append(weight, delta, first + i * BLOCK, out)?);
        }
        Ok(sums)
    }
}

/// On a GPU; what doesn't fit there, and what no dtype's number stands for, is done by the CPU.
pub(super) struct OnGpu<'a, T: Real> {
    whole: Whole<'a, T>,
    gpu: &'a Gpu,
    lane: Lane<'a>,
    deltas: Vec<Loaded>,
    seed: Option<u64>,
    height: usize,
    /// Whether the GPU's memory was too small for some of it.
    pub(super) short: bool,
}

impl<'a, T: Real> OnGpu<'a, T> {
    /// None: there is no room for the factors there.
    pub(super) fn new(whole: Whole<'a, T>, gpu: &'a Gpu) -> Result<Option<Self>> {
        let made = || -> std::result::Result<_, Fault> {
            let mut lane = gpu.lane()?;
            let terms: Vec<_> = whole.deltas.iter().map(Rows::terms).collect();
            let deltas = lane.load(&terms)?;
            Ok((lane, deltas))
        };
        let (lane, deltas) = match made() {
            Ok(made) => made,
            Err(Fault::Memory) => return Ok(None),
            Err(Fault::Driver(error)) => return Err(gpu.error(error)),
        };
        let bytes = 2 * whole.job.view.dtype.size() + size_of::<T>();
        let entries = (gpu.budget() / bytes).clamp(LEAST_GPU_TILE, GPU_TILE);
        let seed = Rounder::new(whole.rounding, whole.job.view.dtype, whole.job.name).seed();
        let height = whole.height(entries).min(MOST_ROWS);
        Ok(Some(Self { whole, gpu, lane, deltas, seed, height, short: false }))
    }

    /// One launch.
    fn baked(&mut self, rows: &Range<usize>, out: &mut Vec<u8>) -> std::result::Result<Baked, Fault> {
        let (job, cols) = (self.whole.job, self.whole.cols());
        let size = job.view.dtype.size();
        let tile = Tile {
            cols,
            weights: &job.view.data[rows.start * cols * size..rows.end * cols * size],
            dtype: job.view.dtype,
            scale: job.scale,
            seed: self.seed,
            first: rows.start * cols,
        };
        let mut pieces = Vec::new();
        self.whole.for_each_part(rows, |which, from, at| {
            pieces.push(Piece { terms: &self.deltas[which], from: from.start, at, rows: from.len() });
        });
        self.lane.bake::<T>(tile, &pieces, out)
    }
}

impl<T: Real> Tiles for OnGpu<'_, T> {
    fn height(&self) -> usize {
        self.height
    }

    fn bake(&mut self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<Sums> {
        let mut sums = Sums::default();
        let mut top = rows.start;
        while top < rows.end {
            let part = top..rows.end.min(top + self.height);
            match self.baked(&part, out) {
                Ok(Baked::Stored { sums: own, saturated }) => {
                    sums.add(Sums { delta: own.delta, wrong: own.wrong, along: own.along, saturated });
                }
                Ok(Baked::Unfit) => sums.add(OnCpu::new(self.whole).bake(part.clone(), out)?),
                Err(Fault::Memory) if self.height > 1 && self.height * self.whole.cols() > LEAST_GPU_TILE => {
                    self.height /= 2;
                    continue;
                }
                Err(Fault::Memory) => {
                    self.short = true;
                    sums.add(OnCpu::new(self.whole).bake(part.clone(), out)?);
                }
                Err(Fault::Driver(error)) => return Err(self.gpu.error(error)),
            }
            top = part.end;
        }
        Ok(sums)
    }
}
