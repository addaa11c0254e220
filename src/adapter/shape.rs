//! The shape of the parameter that a layer changes, as far as the file tells it.

use crate::error::{Error, Result};

/// How the flattened matrix folds back into the parameter's own shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dims {
    /// One dimension: a bias, or a norm's weight.
    Vector,
    /// (out, in, kernel…); an empty kernel is a linear layer.
    Kernel(Vec<usize>),
    /// (out, in·Πk) of an unknown kernel: flat factors don't tell.
    Unknown,
}

/// The parameter's shape as a matrix (a vector is one column), and how it folds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Outputs.
    pub rows: usize,
    /// Inputs times the kernel's extents.
    pub cols: usize,
    /// How the matrix folds back.
    pub dims: Dims,
}

/// The largest parameter that is believed. Layers of image models stay below 10⁸ entries, and a language model's
/// vocabulary of 150 000 × 8 192 has 1.2 · 10⁹; a broken or hostile file may claim anything, in a few bytes.
const MOST_ENTRIES: usize = 1 << 31;

impl WeightShape {
    /// # Errors
    /// More entries than any model's parameter has.
    pub(super) fn new(rows: usize, cols: usize, dims: Dims) -> Result<Self> {
        if rows.checked_mul(cols).is_none_or(|entries| entries > MOST_ENTRIES) {
            return Err(Error::format(format!(
                "changes a {rows}×{cols} parameter; no model has one of more than {MOST_ENTRIES} entries"
            )));
        }
        Ok(Self { rows, cols, dims })
    }

    /// (out, in, kernel…) as a matrix.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn with_kernel(rows: usize, inputs: usize, kernel: Vec<usize>) -> Result<Self> {
        Self::new(rows, flat_cols(inputs, &kernel), Dims::Kernel(kernel))
    }

    /// From a tensor that has the parameter's own shape.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of_tensor(shape: &[usize]) -> Result<Self> {
        match shape {
            [] => Self::new(1, 1, Dims::Vector),
            [n] => Self::new(*n, 1, Dims::Vector),
            [rows, inputs, kernel @ ..] => Self::with_kernel(*rows, *inputs, kernel.to_vec()),
        }
    }

    /// The kernel's extents, where they are known and there are any.
    pub fn kernel(&self) -> &[usize] {
        match &self.dims {
            Dims::Kernel(kernel) => kernel,
            Dims::Vector | Dims::Unknown => &[],
        }
    }

    /// Inputs per kernel position.
    pub fn inputs(&self) -> usize {
        self.cols / self.kernel().iter().product::<usize>()
    }

    /// The parameter's own shape; (out, in·Πk) where the kernel is unknown.
    pub fn full(&self) -> Vec<usize> {
        match &self.dims {
            Dims::Vector => vec![self.rows],
            _ => [self.rows, self.inputs()].into_iter().chain(self.kernel().iter().copied()).collect(),
        }
    }

    /// The shape that two files' layers have in common; the one that tells more wins.
    ///
    /// # Errors
    /// Different element counts, or kernels that contradict each other.
    pub fn join(&self, other: &Self) -> Result<Self> {
        let differ = || {
            Error::mismatch(format!("changes a {other} parameter here and a {self} one in an earlier input"))
        };
        if (self.rows, self.cols) != (other.rows, other.cols) {
            return Err(differ());
        }
        let trivial = |kernel: &[usize]| kernel.iter().all(|&k| k == 1);
        match (&self.dims, &other.dims) {
            (a, b) if a == b => Ok(self.clone()),
            (Dims::Unknown, _) => Ok(other.clone()),
            (_, Dims::Unknown) => Ok(self.clone()),
            // 1×1 convolutions and linear layers are stored in either spelling.
            (Dims::Kernel(a), Dims::Kernel(b)) if trivial(a) && trivial(b) => {
                Ok(if a.len() >= b.len() { self.clone() } else { other.clone() })
            }
            _ => Err(differ()),
        }
    }
}

/// in·Πk, or more than any parameter has.
pub(super) fn flat_cols(inputs: usize, kernel: &[usize]) -> usize {
    kernel.iter().fold(inputs, |cols, extent| cols.saturating_mul(*extent))
}

impl std::fmt::Display for WeightShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let extents: Vec<_> = self.full().iter().map(usize::to_string).collect();
        f.write_str(&extents.join("×"))
    }
}
