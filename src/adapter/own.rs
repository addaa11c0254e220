//! Layers of one family whose sum is of the family, too, whatever the base model's weight is: what can be merged
//! without it.

use super::{Family, Members, glora, ia3};
use crate::error::{Error, Result};

/// A tensor's numbers, before they are given a dtype.
pub(crate) struct Numbers {
    /// The suffix after the module's name.
    pub(crate) suffix: &'static str,
    /// Extents.
    pub(crate) shape: Vec<usize>,
    /// Row-major.
    pub(crate) numbers: Vec<f64>,
}

/// The tensors that do Σ coefficient · ΔW of one layer's sources, exactly.
///
/// # Errors
/// A family that has no such sum, or sources that don't fit together.
pub(crate) fn combine(family: Family, sources: &[(f64, Members<'_>)]) -> Result<Vec<Numbers>> {
    match family {
        Family::Ia3 => ia3::combine(sources),
        Family::Glora => glora::combine(sources),
        _ => Err(Error::internal("layers of this family have no sum without the base model")),
    }
}
