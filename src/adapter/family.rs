//! The table of families: which suffixes a family owns, how its shapes are checked, how it gives a delta.

use std::collections::BTreeMap;

use super::members::Members;
use super::peft::Given;
use super::shape::{Dims, WeightShape};
use super::{Layer, NewTensor, Param, full, loha, lokr, lora, name, refused};
use crate::delta::{Delta, MOST_FORMED};
use crate::error::{Error, Result};
use crate::file::Container;
use crate::tensor::{Real, TensorView};

/// How a layer's delta is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Low-rank factors: LoRA, LoCon, Tucker, DyLoRA, rs-LoRA.
    Lora,
    /// The entrywise product of two low-rank products.
    Loha,
    /// The Kronecker product of two factors.
    Lokr,
    /// The difference itself: `diff`, `diff_b`.
    Full,
    /// The difference of a norm layer: `w_norm`, `b_norm`.
    Norm,
}

/// What checking a layer's tensors finds out.
pub(super) struct Checked {
    pub(super) shape: WeightShape,
    pub(super) scale: f64,
    pub(super) rank: Option<usize>,
    /// The numbers of the largest matrices that merging makes of the stored ones.
    pub(super) expanded: usize,
    pub(super) warning: Option<String>,
}

/// One row of the table: a way to store a parameter's delta.
pub(super) struct Row {
    pub(super) family: Family,
    pub(super) param: Param,
    /// Suffixes of which one is enough to know the family.
    pub(super) marks: &'static [&'static str],
    /// The other suffixes that it may have.
    pub(super) others: &'static [&'static str],
    pub(super) check: fn(&Members<'_>) -> Result<Checked>,
}

impl Row {
    fn suffixes(&self) -> impl Iterator<Item = &'static str> {
        self.marks.iter().chain(self.others).copied()
    }

    fn delta<T: Real>(&self, members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
        match self.family {
            Family::Lora => lora::delta(members, layer),
            Family::Loha => loha::delta(members, layer),
            Family::Lokr => lokr::delta(members, layer),
            Family::Full | Family::Norm => full::delta(members, self.marks[0], layer),
        }
    }
}

static ROWS: [&Row; 9] = [
    &lora::ROW,
    &lora::TRANSPOSED,
    &lora::BIAS_ROW,
    &loha::ROW,
    &lokr::ROW,
    &full::DIFF,
    &full::DIFF_BIAS,
    &full::NORM,
    &full::NORM_BIAS,
];

impl Family {
    /// Every family.
    pub const ALL: [Self; 5] = [Self::Lora, Self::Loha, Self::Lokr, Self::Full, Self::Norm];

    /// What it stores, in one line.
    pub fn help(self) -> &'static str {
        match self {
            Self::Lora => {
                "Low-rank factors up and down, with a core for Tucker convolutions: LoRA, LoCon, DyLoRA, rs-LoRA"
            }
            Self::Loha => "The entrywise product of two low-rank products",
            Self::Lokr => "The Kronecker product of w1 and w2, each whole or low-rank",
            Self::Full => "The difference of a weight or bias itself",
            Self::Norm => "The difference of a norm layer's weight or bias",
        }
    }

    /// The name that users know: `LoRA`, `LoHa`, `LoKr`, `Full`, `Norm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::Loha => "LoHa",
            Self::Lokr => "LoKr",
            Self::Full => "Full",
            Self::Norm => "Norm",
        }
    }

    pub(super) fn delta<T: Real>(self, members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
        let row =
            ROWS.iter().find(|row| row.family == self && row.marks.iter().any(|mark| members.has(mark)));
        let row = row.ok_or_else(|| Error::internal("a layer without the tensors of its family"))?;
        let delta = row.delta(members, layer)?;
        debug_assert_eq!((delta.rows(), delta.cols()), (layer.shape.rows, layer.shape.cols));
        Ok(delta)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The delta of tensors that were made for a file: what a reader of that file will get.
pub(crate) fn stored_delta<T: Real>(tensors: &[NewTensor]) -> Result<Delta<T>> {
    let members: BTreeMap<_, _> = tensors
        .iter()
        .map(|t| (t.suffix, TensorView { dtype: t.dtype, shape: &t.shape, data: &t.data }))
        .collect();
    let members = Members::new(members);
    let row = ROWS.iter().find(|row| row.marks.iter().any(|mark| members.has(mark)));
    let row = row.ok_or_else(|| Error::format("the stored tensors make no layer"))?;
    let Checked { shape, scale, rank, .. } = (row.check)(&members)?;
    let layer = Layer { family: row.family, shape, scale, rank, numbers: 0, tensors: BTreeMap::new() };
    row.delta(&members, &layer)
}

/// Every suffix that is known, of families that are merged and of others.
pub(super) fn suffixes() -> impl Iterator<Item = &'static str> {
    ROWS.iter().flat_map(|row| row.suffixes()).chain(refused::suffixes())
}

/// The layers that a module's tensors make: at most one for its weight and one for its bias, each with a
/// warning where something about it is odd.
pub(super) fn layers_of(
    file: &Container,
    module: &str,
    tensors: BTreeMap<&'static str, String>,
    given: Option<Given>,
) -> Result<Vec<(Param, Layer, Option<String>)>> {
    refused::check(module, &tensors)?;
    let rows: Vec<_> = ROWS.iter().filter(|row| row.marks.iter().any(|m| tensors.contains_key(m))).collect();
    let mut layers: Vec<(Param, Layer, Option<String>)> = Vec::new();
    for row in &rows {
        if let Some((_, other, _)) = layers.iter().find(|(param, ..)| *param == row.param) {
            return Err(Error::format(format!(
                "is stored twice, as {} and as {}; loaders disagree about such layers",
                other.family, row.family
            )));
        }
        let own: BTreeMap<_, _> =
            row.suffixes().filter_map(|suffix| Some((suffix, tensors.get(suffix)?.clone()))).collect();
        let views = own.iter().filter_map(|(suffix, name)| Some((*suffix, file.get(name)?))).collect();
        let members = Members::new(views).with(given);
        let Checked { mut shape, scale, rank, expanded, warning } = (row.check)(&members)?;
        let numbers = members.iter().map(|(_, view)| view.len()).sum();
        if expanded > MOST_FORMED.max(numbers) {
            return Err(Error::format(format!(
                "its {numbers} numbers stand for a {shape} parameter that takes {expanded} to merge; no image model \
                 has a layer like that"
            )));
        }
        if shape.dims == Dims::Unknown
            && let Some(kernel) = name::unet_kernel(module, shape.cols)
        {
            shape.dims = Dims::Kernel(kernel);
        }
        layers.push((
            row.param,
            Layer { family: row.family, shape, scale, rank, numbers, tensors: own },
            warning,
        ));
    }
    let taken = |suffix: &&str| rows.iter().any(|row| row.suffixes().any(|own| own == *suffix));
    let left: Vec<_> = tensors.keys().copied().filter(|suffix| !taken(suffix)).collect();
    if !left.is_empty() {
        return Err(Error::format(format!("has {} without the tensors that belong to it", left.join(", "))));
    }
    Ok(layers)
}
