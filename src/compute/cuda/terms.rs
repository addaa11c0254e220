//! The terms of a delta as the kernel `materialise` reads them: a table of addresses, and all factors behind one another.

use std::ops::Range;

use cudarc::driver::{CudaStream, DriverError};
use faer::MatRef;

use super::{ALIGNED, Fault, Gpu, Kernels, Lane, argument, is_wide, kernel_of, launch};
use crate::tensor::Real;

/// A matrix as a delta holds it.
#[derive(Clone, Copy)]
pub(crate) enum FactorRef<'a, T> {
    Full(MatRef<'a, T>),
    /// A left and a right factor.
    Product(MatRef<'a, T>, MatRef<'a, T>),
}

/// A term as a delta holds it.
#[derive(Clone, Copy)]
pub(crate) enum TermRef<'a, T> {
    Plain(FactorRef<'a, T>),
    /// A ⊗ B, both whole.
    Kron(MatRef<'a, T>, MatRef<'a, T>),
    Hadamard(FactorRef<'a, T>, FactorRef<'a, T>),
}

/// As in `materialise.cu`; what are addresses there are first places among the numbers, until these have an address.
#[derive(Clone, Copy, Default)]
struct Factor {
    left: u64,
    right: u64,
    rank: u32,
    left_stride: u32,
    right_stride: u32,
}

#[derive(Clone, Copy, Default)]
struct Term {
    scale: f64,
    kind: u32,
    inner_rows: u32,
    inner_cols: u32,
    first: Factor,
    second: Factor,
}

/// The kinds of `materialise.cu`.
const PLAIN: u32 = 0;
const KRON: u32 = 1;
const HADAMARD: u32 = 2;

/// The columns that a block of `materialise` makes.
const EDGE: usize = 128;

/// A delta's terms on the GPU, in their lane's memory.
pub(crate) struct Loaded {
    /// The table's address.
    table: u64,
    count: u32,
    hadamard: bool,
}

/// Numbers one after the other, as bytes.
struct Packer {
    bytes: Vec<u8>,
    wide: bool,
}

impl Packer {
    /// Lines of numbers; the place of the first, and how many numbers there are from a line's beginning to the next's.
    fn lines<T: Real>(&mut self, count: usize, length: usize, at: impl Fn(usize, usize) -> T) -> (u64, u32) {
        let size = if self.wide { 8 } else { 4 };
        let place = self.bytes.len() as u64;
        let stride = (length * size).next_multiple_of(ALIGNED);
        self.bytes.reserve(count * stride);
        for line in 0..count {
            for i in 0..length {
                match self.wide {
                    true => self.bytes.extend_from_slice(&at(line, i).to_f64().to_ne_bytes()),
                    false => self.bytes.extend_from_slice(&at(line, i).to_f32().to_ne_bytes()),
                }
            }
            self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNED), 0);
        }
        (place, (stride / size) as u32)
    }

    /// A matrix, row by row.
    fn rows<T: Real>(&mut self, matrix: MatRef<'_, T>) -> (u64, u32) {
        self.lines(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
    }

    fn factor<T: Real>(&mut self, factor: FactorRef<'_, T>) -> Factor {
        match factor {
            FactorRef::Full(matrix) => {
                let (right, right_stride) = self.rows(matrix);
                Factor { right, right_stride, ..Factor::default() }
            }
            // One of no rank at all is a matrix of zeros, which rank 0 would not mean.
            FactorRef::Product(left, right) if left.ncols() == 0 => {
                let zero = T::from_f64(0.0);
                let (right, right_stride) = self.lines(left.nrows(), right.ncols(), |_, _| zero);
                Factor { right, right_stride, ..Factor::default() }
            }
            FactorRef::Product(left, right) => {
                let rank = left.ncols() as u32;
                let (left, left_stride) = self.rows(left.transpose());
                let (right, right_stride) = self.rows(right);
                Factor { left, right, rank, left_stride, right_stride }
            }
        }
    }

    fn term<T: Real>(&mut self, scale: f64, term: TermRef<'_, T>) -> Term {
        match term {
            TermRef::Plain(factor) => {
                Term { scale, kind: PLAIN, first: self.factor(factor), ..Term::default() }
            }
            TermRef::Kron(a, b) => Term {
                scale,
                kind: KRON,
                inner_rows: b.nrows() as u32,
                inner_cols: b.ncols() as u32,
                first: self.factor(FactorRef::Full(a)),
                second: self.factor(FactorRef::Full(b)),
            },
            TermRef::Hadamard(first, second) => Term {
                scale,
                kind: HADAMARD,
                first: self.factor(first),
                second: self.factor(second),
                ..Term::default()
            },
        }
    }
}

impl Factor {
    /// As C lays it out.
    fn append(&self, base: u64, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&(base + self.left).to_ne_bytes());
        bytes.extend_from_slice(&(base + self.right).to_ne_bytes());
        for number in [self.rank, self.left_stride, self.right_stride, 0] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
    }
}

impl Term {
    const BYTES: usize = 88;

    fn append(&self, base: u64, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.scale.to_ne_bytes());
        for number in [self.kind, self.inner_rows, self.inner_cols, 0] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        self.first.append(base, bytes);
        self.second.append(base, bytes);
    }
}

impl Lane<'_> {
    /// Copies the factors of deltas to the GPU, in place of those that were there.
    pub(crate) fn load<T: Real>(
        &mut self,
        deltas: &[Vec<(f64, TermRef<'_, T>)>],
    ) -> Result<Vec<Loaded>, Fault> {
        let mut packer = Packer { bytes: Vec::new(), wide: is_wide::<T>() };
        let packed: Vec<Vec<Term>> = deltas
            .iter()
            .map(|terms| terms.iter().map(|(scale, term)| packer.term(*scale, *term)).collect())
            .collect();
        let mut bytes = packer.bytes;
        let tables = packed.iter().map(|terms| (terms.len() * Term::BYTES).next_multiple_of(ALIGNED));
        // A delta without terms has a table, too.
        let room = (bytes.len() + tables.sum::<usize>()).max(ALIGNED);
        let own = &mut **self;
        own.terms.reserve(room)?;
        let base = own.terms.address();
        let mut loaded = Vec::with_capacity(packed.len());
        for terms in &packed {
            loaded.push(Loaded {
                table: base + bytes.len() as u64,
                count: terms.len() as u32,
                hadamard: terms.iter().any(|term| term.kind == HADAMARD),
            });
            terms.iter().for_each(|term| term.append(base, &mut bytes));
            bytes.resize(bytes.len().next_multiple_of(ALIGNED), 0);
        }
        own.terms.upload(&own.stream, &mut own.up, &bytes)?;
        Ok(loaded)
    }
}

impl Loaded {
    /// Makes rows at the address `to`, or adds them to what is there.
    pub(super) fn materialise<T: Real>(
        &self,
        gpu: &Gpu,
        stream: &CudaStream,
        rows: Range<usize>,
        cols: usize,
        add: bool,
        to: u64,
    ) -> Result<(), DriverError> {
        let name = if self.hadamard { "materialise_hadamard" } else { "materialise" };
        let kernel = gpu.kernel(Kernels::Materialise, &kernel_of::<T>(name))?;
        // The rows that a block makes.
        let height = if is_wide::<T>() { 32 } else { 64 };
        let grid = (cols.div_ceil(EDGE) as u32, rows.len().div_ceil(height) as u32, 1);
        let (top, add) = (rows.start as u64, u32::from(add));
        let (rows, cols) = (rows.len() as u32, cols as u32);
        // SAFETY: the arguments are those of `materialise_*`, in their order; the table has so many terms, whose factors
        // have these rows and columns, and there is room for as many entries.
        unsafe {
            launch(
                stream,
                &kernel,
                grid,
                &mut [
                    argument(&self.table),
                    argument(&self.count),
                    argument(&top),
                    argument(&rows),
                    argument(&cols),
                    argument(&add),
                    argument(&to),
                ],
            )
        }
    }
}
