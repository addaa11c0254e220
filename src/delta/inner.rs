//! What an inner product is known to be, and how well.

use std::iter::Sum;
use std::ops::{Add, Mul};

/// An inner product, and the sum of its summands' absolute values: its rounding error is a few units in the last
/// place of the latter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inner {
    pub(crate) value: f64,
    pub(crate) gross: f64,
}

impl Add for Inner {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, gross: self.gross + other.gross }
    }
}

impl Mul<f64> for Inner {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self { value: self.value * factor, gross: self.gross * factor.abs() }
    }
}

impl Sum for Inner {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}
