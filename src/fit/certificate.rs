//! How far stored tensors are from the merge that they stand for.
//!
//! e = ‖stored − true‖ / ‖true‖ in float64, with `stored` what a reader of the file gets, after rounding. The
//! inner products of the factors give e² down to about 1e-11 of the norms' own size; below that the difference
//! itself is reduced to its core by QR.

use crate::delta::core::Core;
use crate::delta::{Delta, gram};

/// One layer's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Certificate {
    /// ‖stored − true‖
    pub distance: f64,
    /// ‖true‖
    pub norm: f64,
    /// ‖stored‖
    pub stored_norm: f64,
}

impl Certificate {
    /// Compares what is stored with what should be.
    pub fn of(stored: &Delta<f64>, truth: &Delta<f64>) -> Self {
        const LOST: f64 = 1e-11;
        let [stored_squared, inner, true_squared] = gram::pair(stored, truth);
        let squared = stored_squared - 2.0 * inner + true_squared;
        let distance = if squared > LOST * (stored_squared + true_squared) {
            squared.sqrt()
        } else {
            let mut difference = truth.clone();
            difference.add_scaled(-1.0, stored);
            if difference.is_zero() { 0.0 } else { Core::of(&difference).matrix.norm_l2() }
        };
        Self { distance, norm: true_squared.max(0.0).sqrt(), stored_norm: stored_squared.max(0.0).sqrt() }
    }

    /// ‖stored − true‖ / ‖true‖
    pub fn error(&self) -> f64 {
        ratio(self.distance, self.norm)
    }

    /// The error that would be left if the stored layer were scaled for the least one: what remains of the
    /// direction alone. The two differ when `match-norm` traded error for strength.
    pub fn direction_error(&self) -> f64 {
        let cosine = (self.norm.powi(2) + self.stored_norm.powi(2) - self.distance.powi(2))
            / (2.0 * self.norm * self.stored_norm);
        if cosine.is_finite() { (1.0 - cosine.min(1.0).powi(2)).max(0.0).sqrt() } else { self.error() }
    }

    /// The certificate of several layers together.
    pub fn total(parts: impl IntoIterator<Item = Self>) -> Self {
        let squares = parts.into_iter().fold([0.0; 3], |[d, n, s], part| {
            [d + part.distance.powi(2), n + part.norm.powi(2), s + part.stored_norm.powi(2)]
        });
        let [distance, norm, stored_norm] = squares.map(f64::sqrt);
        Self { distance, norm, stored_norm }
    }
}

fn ratio(distance: f64, norm: f64) -> f64 {
    match (distance == 0.0, norm == 0.0) {
        (true, _) => 0.0,
        (false, true) => f64::INFINITY,
        (false, false) => distance / norm,
    }
}
