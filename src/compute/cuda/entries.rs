//! The models of a layer, whole, merged entry by entry: what is kept of each, and whose entries are added up.

use std::marker::PhantomData;
use std::ops::Range;

use cudarc::driver::{CudaFunction, DriverError};

use super::memory::BLOCK;
use super::{
    Fault, Gpu, Kernels, Lane, MOST_ROWS, THREADS, TermRef, aligned, argument, blocks, is_wide, kernel_of,
    launch,
};
use crate::tensor::Real;

/// How the sign of an entry is elected; 0 elects plus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Elect {
    /// By the sum of the entries.
    Total,
    /// By the number of models.
    Frequency,
}

/// One of the models in a [`Ballot`]; as in `elect.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Voter {
    /// What its entries are multiplied by.
    pub(crate) coefficient: f64,
    /// What they are multiplied by in the election.
    pub(crate) vote: f64,
    /// What it adds to the divisor where it agrees.
    pub(crate) share: f64,
}

/// How the entries of all models become one.
#[derive(Clone, Debug)]
pub(crate) struct Ballot {
    pub(crate) voters: Vec<Voter>,
    /// Only entries of the elected sign are added up, if one is elected.
    pub(crate) elect: Option<Elect>,
    /// What the sum is multiplied by.
    pub(crate) factor: f64,
    /// Whether it is divided by the shares of those that agree.
    pub(crate) divides: bool,
}

/// As in `elect.cu`.
#[repr(C)]
struct Count {
    factor: f64,
    elect: u32,
    divides: u32,
}

/// Values of a digit, as in `select.cu`.
const DIGIT: u32 = 11;
const DIGITS: usize = 1 << DIGIT;

/// As in `reduce.cu`.
const STATS: usize = 5;
const MAGNITUDES: usize = 2;
/// Numbers of a block of `stats`, and its blocks at most.
const REDUCED: usize = 2048;
const MOST_REDUCED: usize = 1024;

/// The entries of models of one shape, on a GPU.
pub(crate) struct Entries<'g, T: Real> {
    lane: Lane<'g>,
    models: usize,
    rows: usize,
    cols: usize,
    real: PhantomData<T>,
}

impl<'g, T: Real> Entries<'g, T> {
    /// Makes them from the models' terms. There are some.
    pub(crate) fn new(
        gpu: &'g Gpu,
        deltas: &[Vec<(f64, TermRef<'_, T>)>],
        (rows, cols): (usize, usize),
    ) -> Result<Self, Fault> {
        let bytes = deltas.len().saturating_mul(aligned::<T>(rows * cols));
        if bytes > gpu.budget() {
            return Err(Fault::Memory);
        }
        let mut lane = gpu.lane()?;
        lane.delta.reserve(bytes)?;
        // Room for whatever is told there and here, so that none is freed while a kernel may be using it.
        let (runs, partials) = (runs::<T>(rows * cols), (MOST_REDUCED + 1) * STATS * 8);
        lane.told.reserve(partials.max(DIGITS * 8).max(runs * 8).max(deltas.len() * size_of::<Voter>()))?;
        let block = (rows * cols * size_of::<T>()).min(BLOCK.max(cols * size_of::<T>()));
        lane.down.reserve(partials.max(DIGITS * 8).max(runs * 4).max(block))?;
        let loaded = lane.load(deltas)?;
        let entries = Self { lane, models: deltas.len(), rows, cols, real: PhantomData };
        for (model, terms) in loaded.iter().enumerate() {
            for top in (0..rows).step_by(MOST_ROWS) {
                let range = top..rows.min(top + MOST_ROWS);
                let to = entries.address(model) + (top * cols * size_of::<T>()) as u64;
                terms.materialise::<T>(gpu, &entries.lane.stream, range, cols, false, to)?;
            }
        }
        Ok(entries)
    }

    /// Entries of each model.
    pub(crate) fn count(&self) -> usize {
        self.rows * self.cols
    }

    fn address(&self, model: usize) -> u64 {
        assert!(model < self.models, "there are fewer models");
        self.lane.delta.address() + (model * aligned::<T>(self.count())) as u64
    }

    /// Zeroes all of a model's entries but the `wanted` largest ones by magnitude, of equal ones the first.
    pub(crate) fn keep_largest(&mut self, model: usize, wanted: usize) -> Result<(), Fault> {
        match wanted {
            0 => self.drop_all(model),
            some if some < self.count() => self.cut(model, some, false),
            _ => Ok(()),
        }
    }

    /// Zeroes these.
    pub(crate) fn drop_largest(&mut self, model: usize, wanted: usize) -> Result<(), Fault> {
        match wanted {
            0 => Ok(()),
            some if some < self.count() => self.cut(model, some, true),
            _ => self.drop_all(model),
        }
    }

    fn drop_all(&mut self, model: usize) -> Result<(), Fault> {
        let all = self.count();
        let own = &mut *self.lane;
        own.delta.fill(&own.stream, model * aligned::<T>(all), all * size_of::<T>(), 0)?;
        Ok(())
    }

    /// Zeroes all but the largest ones, or these.
    fn cut(&mut self, model: usize, wanted: usize, drops: bool) -> Result<(), Fault> {
        let (x, all) = (self.address(model), self.count());
        let (count, drops) = (all as u64, u32::from(drops));
        let (least, equals) = self.least(x, wanted as u64)?;

        let runs = runs::<T>(all);
        let (equal, cut) = (self.kernel(Kernels::Select, "equals")?, self.kernel(Kernels::Select, "cut")?);
        let own = &mut *self.lane;
        // First how many equal ones are in every run, then how many are before it.
        let (stream, told) = (&own.stream, own.told.address());
        let grid = (runs as u32, 1, 1);
        // SAFETY: the arguments are those of `equals_*`, in their order, and there is room for a number of every run.
        unsafe {
            launch(
                stream,
                &equal,
                grid,
                &mut [argument(&x), argument(&count), argument(&least), argument(&told)],
            )?;
        }
        own.told.read(stream, 0, own.down.bytes(runs * 4))?;
        stream.synchronize()?;
        let mut before = Vec::with_capacity(runs * 8);
        let mut sum = 0_u64;
        for run in own.down.bytes(runs * 4).as_chunks().0 {
            before.extend(sum.to_ne_bytes());
            sum += u64::from(u32::from_ne_bytes(*run));
        }
        own.told.upload(stream, &mut own.up, &before)?;
        // SAFETY: the arguments are those of `cut_*`, in their order; it may write where it reads.
        unsafe {
            launch(
                stream,
                &cut,
                grid,
                &mut [
                    argument(&x),
                    argument(&count),
                    argument(&least),
                    argument(&equals),
                    argument(&drops),
                    argument(&told),
                    argument(&x),
                ],
            )?;
        }
        Ok(())
    }

    /// The bits of the magnitude of the `wanted`th largest entry, and how many equal ones are among as many.
    fn least(&mut self, x: u64, mut wanted: u64) -> Result<(u64, u64), Fault> {
        const BYTES: usize = DIGITS * 8;
        let count = self.count() as u64;
        let kernel = self.kernel(Kernels::Select, "digits")?;
        let own = &mut *self.lane;
        let (stream, told) = (&own.stream, own.told.address());
        // All but the sign.
        let (mut open, mut prefix) = (size_of::<T>() as u32 * 8 - 1, 0_u64);
        while open > 0 {
            own.told.fill(stream, 0, BYTES, 0)?;
            // SAFETY: the arguments are those of `digits_*`, in their order, and there is room for the counts.
            unsafe {
                launch(
                    stream,
                    &kernel,
                    (blocks::<T>(count as usize) as u32, 1, 1),
                    &mut [
                        argument(&x),
                        argument(&count),
                        argument(&prefix),
                        argument(&open),
                        argument(&told),
                    ],
                )?;
            }
            own.told.read(stream, 0, own.down.bytes(BYTES))?;
            stream.synchronize()?;
            let counts = own.down.bytes(BYTES).as_chunks::<8>().0;
            let mut digit = DIGITS - 1;
            loop {
                let of_digit = u64::from_ne_bytes(counts[digit]);
                if of_digit >= wanted || digit == 0 {
                    break;
                }
                wanted -= of_digit;
                digit -= 1;
            }
            let width = open.min(DIGIT);
            prefix = prefix << width | digit as u64;
            open -= width;
        }
        Ok((prefix, wanted))
    }

    /// Zeroes the entries of a model whose random numbers, by their index in the stream, aren't below `chance`.
    pub(crate) fn keep_at_random(&mut self, model: usize, stream: u64, chance: f64) -> Result<(), Fault> {
        let (x, count) = (self.address(model), self.count() as u64);
        let kernel = self.kernel(Kernels::Select, "sample")?;
        // SAFETY: the arguments are those of `sample_*`, in their order.
        unsafe {
            launch(
                &self.lane.stream,
                &kernel,
                (blocks::<T>(self.count()) as u32, 1, 1),
                &mut [argument(&x), argument(&count), argument(&stream), argument(&chance)],
            )?;
        }
        Ok(())
    }

    /// Σ|x| over a model's entries.
    pub(crate) fn magnitudes(&mut self, model: usize) -> Result<f64, Fault> {
        let (x, count) = (self.address(model), self.count() as u64);
        let each = self.kernel(Kernels::Reduce, "stats")?;
        let join = self.lane.gpu.kernel(Kernels::Reduce, "stats_partials")?;
        let partials = self.count().div_ceil(REDUCED).clamp(1, MOST_REDUCED);
        let own = &mut *self.lane;
        let (stream, all) = (&own.stream, own.told.address());
        let (partial, partials) = (all + STATS as u64 * 8, partials as u32);
        // SAFETY: the arguments are those of `stats_*` and `stats_partials`, in their order; there is room for all
        // results.
        unsafe {
            launch(
                stream,
                &each,
                (partials, 1, 1),
                &mut [argument(&x), argument(&count), argument(&partial)],
            )?;
            launch(stream, &join, (1, 1, 1), &mut [argument(&partial), argument(&partials), argument(&all)])?;
        }
        own.told.read(stream, 0, own.down.bytes(STATS * 8))?;
        stream.synchronize()?;
        Ok(f64::from_ne_bytes(own.down.bytes(STATS * 8).as_chunks().0[MAGNITUDES]))
    }

    /// Merges the models; the result is in the first one's place.
    pub(crate) fn merge(&mut self, ballot: &Ballot) -> Result<(), Fault> {
        assert_eq!(ballot.voters.len(), self.models, "every model votes");
        let (x, count) = (self.address(0), self.count() as u64);
        let (stride, models) = ((aligned::<T>(self.count()) / size_of::<T>()) as u64, self.models as u32);
        let kernel = self.kernel(Kernels::Elect, "elect")?;
        let grid = (blocks::<T>(self.count()) as u32, 1, 1);
        let mut voters = Vec::with_capacity(ballot.voters.len() * size_of::<Voter>());
        for Voter { coefficient, vote, share } in &ballot.voters {
            [coefficient, vote, share].iter().for_each(|number| voters.extend(number.to_ne_bytes()));
        }
        let elect = match ballot.elect {
            None => 0,
            Some(Elect::Total) => 1,
            Some(Elect::Frequency) => 2,
        };
        let rule = Count { factor: ballot.factor, elect, divides: u32::from(ballot.divides) };
        let own = &mut *self.lane;
        own.told.upload(&own.stream, &mut own.up, &voters)?;
        let told = own.told.address();
        // SAFETY: the arguments are those of `elect_*`, in their order; it may write where it reads.
        unsafe {
            launch(
                &own.stream,
                &kernel,
                grid,
                &mut [
                    argument(&x),
                    argument(&stride),
                    argument(&models),
                    argument(&count),
                    argument(&told),
                    argument(&rule),
                    argument(&x),
                ],
            )?;
        }
        Ok(())
    }

    /// Calls with the first model's rows, from the top.
    pub(crate) fn read(&mut self, mut take: impl FnMut(Range<usize>, &[T])) -> Result<(), Fault> {
        let row = self.cols * size_of::<T>();
        let height = (BLOCK / row).clamp(1, self.rows);
        let own = &mut *self.lane;
        let mut numbers: Vec<T> = Vec::with_capacity(height * self.cols);
        for top in (0..self.rows).step_by(height) {
            let rows = top..self.rows.min(top + height);
            let bytes = own.down.bytes(rows.len() * row);
            own.delta.read(&own.stream, top * row, bytes)?;
            own.stream.synchronize()?;
            numbers.clear();
            match is_wide::<T>() {
                true => {
                    numbers.extend(bytes.as_chunks().0.iter().map(|x| T::from_f64(f64::from_ne_bytes(*x))))
                }
                false => {
                    numbers.extend(bytes.as_chunks().0.iter().map(|x| T::from_f32(f32::from_ne_bytes(*x))))
                }
            }
            take(rows, &numbers);
        }
        Ok(())
    }

    fn kernel(&self, kernels: Kernels, name: &str) -> Result<CudaFunction, DriverError> {
        self.lane.gpu.kernel(kernels, &kernel_of::<T>(name))
    }
}

/// Blocks of `equals` and `cut`.
fn runs<T>(count: usize) -> usize {
    count.div_ceil(THREADS * (16 / size_of::<T>()))
}
