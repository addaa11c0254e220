//! How far stored tensors are from the merge that they stand for.
//!
//! e = ‖stored − true‖ / ‖true‖ with `stored` what a reader of the file gets, after rounding. The inner products of
//! the factors give e² down to some roundoffs of what they add up: those of float32 where the error is a percent or
//! more, those of float64 down to about 1e-5. Below that the difference itself is reduced to its core.

use crate::delta::Delta;
use crate::delta::core::Core;
use crate::delta::joint::Joint;
use crate::tensor::Real;

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
    pub fn of<T: Real>(stored: &Delta<T>, truth: &Joint<'_, T>) -> Self {
        let joint = Joint::new(stored);
        let squared = joint.squared() + joint.inner(truth) * -2.0 + truth.squared();
        let distance = if squared.value > roundoffs(truth.delta()) * T::ROUNDOFF * squared.gross {
            squared.value.sqrt()
        } else if T::ROUNDOFF > f64::ROUNDOFF {
            return Self::of(&stored.cast::<f64>(), &Joint::new(&truth.delta().cast()));
        } else {
            let mut difference = truth.delta().clone();
            difference.add_scaled(-1.0, stored);
            if difference.is_zero() { 0.0 } else { Core::of(&difference).matrix.norm_l2().to_f64() }
        };
        Self { distance, norm: truth.norm(), stored_norm: joint.norm() }
    }

    /// ‖stored − true‖ / ‖true‖
    pub fn error(&self) -> f64 {
        ratio(self.distance, self.norm)
    }

    /// The error that would be left if the stored layer were scaled for the least one: what remains of the
    /// direction alone. The two differ when `match-norm` traded error for strength.
    pub fn direction_error(&self) -> f64 {
        // 1 - cosine, without the digits that 1 would take from it.
        let louder = (self.norm - self.stored_norm).abs();
        let versine =
            (self.distance - louder) * (self.distance + louder) / (2.0 * self.norm * self.stored_norm);
        if versine.is_finite() { (versine.max(0.0) * (2.0 - versine)).max(0.0).sqrt() } else { self.error() }
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

/// How many roundoffs of the summands are at most 1 % of e².
///
/// In float32 they come from the products of factors, whose sums are kept in float64: what is lost grows with the root
/// of the columns' length, which are added one after the other, and shrinks with that of their number, because their
/// errors are independent. The numbers are twice the most that was seen (see `long_columns` in tests/properties.rs).
/// Float64 sums up whole matrices, too, and has digits to spare.
fn roundoffs<T: Real>(delta: &Delta<T>) -> f64 {
    if T::ROUNDOFF <= f64::ROUNDOFF {
        return 1e5;
    }
    let length = delta.rows().max(delta.cols()) as f64;
    (400.0 + 8.0 * length.sqrt()) / (delta.lifted_rank().max(1) as f64).sqrt()
}

fn ratio(distance: f64, norm: f64) -> f64 {
    match (distance == 0.0, norm == 0.0) {
        (true, _) => 0.0,
        (false, true) => f64::INFINITY,
        (false, false) => distance / norm,
    }
}
