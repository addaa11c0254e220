//! The table of families: which suffixes a family owns, how its shapes are checked, how it gives a delta.

use std::collections::{BTreeMap, BTreeSet};

use super::members::Members;
use super::peft::Given;
use super::shape::{Dims, WeightShape};
use super::{
    Layer, LayerId, NewTensor, Param, base, boft, dora, full, glora, ia3, loha, lokr, lora, name, oft,
    peft_boft, peft_oft, refused, replace, reshape, tlora,
};
use crate::delta::{Delta, MOST_FORMED, Term};
use crate::error::{Error, Result};
use crate::file::Container;
use crate::model::Checkpoint;
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
    /// A LoRA, LoHa or LoKr whose rows or columns are given lengths: `dora_scale`.
    Dora,
    /// Rotated outputs: diag-OFT of LyCORIS, OFT of sd-scripts.
    Oft,
    /// Outputs rotated in butterfly stages, LyCORIS'.
    Boft,
    /// Rotated inputs, PEFT's.
    PeftOft,
    /// Inputs rotated in butterfly stages, PEFT's.
    PeftBoft,
    /// One factor for each output or each input: (IA)³.
    Ia3,
    /// A low-rank change through the weight and one beside it.
    Glora,
    /// A low-rank change away from the weight's own leading triplets.
    Tlora,
    /// A new weight: `set_weight`.
    Replace,
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
    /// The rows of what it stands on, whose suffixes it has, too.
    pub(super) inner: &'static [&'static Self],
    /// Whether a layer with a mark is of this family, where that isn't all there is to it.
    pub(super) applies: fn(&Members<'_>) -> bool,
    pub(super) check: fn(&Members<'_>) -> Result<Checked>,
}

impl Row {
    fn suffixes(&self) -> impl Iterator<Item = &'static str> {
        let inner = self.inner.iter().flat_map(|row| row.marks.iter().chain(row.others));
        self.marks.iter().chain(self.others).chain(inner).copied()
    }

    fn is_of(&self, members: &Members<'_>) -> bool {
        self.marks.iter().any(|mark| members.has(mark)) && (self.applies)(members)
    }

    pub(super) fn delta<T: Real>(&self, members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
        match self.family {
            Family::Lora => lora::delta(members, layer),
            Family::Loha => loha::delta(members, layer),
            Family::Lokr => lokr::delta(members, layer),
            Family::Full | Family::Norm => full::delta(members, self.marks[0], layer),
            Family::Dora => dora::delta(members, layer),
            Family::Oft => oft::delta(members, layer),
            Family::Boft => boft::delta(members, layer),
            Family::PeftOft => peft_oft::delta(members, layer),
            Family::PeftBoft => peft_boft::delta(members, layer),
            Family::Ia3 => ia3::delta(members, layer),
            Family::Glora => glora::delta(members, layer),
            Family::Tlora => tlora::delta(members, layer),
            Family::Replace => replace::delta(members, layer),
        }
    }
}

static ROWS: [&Row; 19] = [
    &lora::ROW,
    &lora::TRANSPOSED,
    &lora::BIAS_ROW,
    &loha::ROW,
    &lokr::ROW,
    &full::DIFF,
    &full::DIFF_BIAS,
    &full::NORM,
    &full::NORM_BIAS,
    &dora::ROW,
    &oft::ROW,
    &boft::ROW,
    &peft_oft::ROW,
    &peft_boft::ROW,
    &ia3::ROW,
    &ia3::BIAS,
    &glora::ROW,
    &tlora::ROW,
    &replace::ROW,
];

impl Family {
    /// Every family.
    pub const ALL: [Self; 14] = [
        Self::Lora,
        Self::Loha,
        Self::Lokr,
        Self::Full,
        Self::Norm,
        Self::Dora,
        Self::Oft,
        Self::Boft,
        Self::PeftOft,
        Self::PeftBoft,
        Self::Ia3,
        Self::Glora,
        Self::Tlora,
        Self::Replace,
    ];

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
            Self::Dora => "A LoRA, LoHa or LoKr over the weight, its rows or columns given lengths",
            Self::Oft => "Rotated outputs: diag-OFT of LyCORIS, OFT of sd-scripts",
            Self::Boft => "Outputs rotated in butterfly stages, as LyCORIS does it",
            Self::PeftOft => "Rotated inputs, as PEFT does it",
            Self::PeftBoft => "Inputs rotated in butterfly stages, as PEFT does it",
            Self::Ia3 => "(IA)³: one factor for each output or each input",
            Self::Glora => "A low-rank change through the weight and one beside it",
            Self::Tlora => "A low-rank change away from the weight's own leading singular triplets",
            Self::Replace => "A new weight in the place of the model's: set_weight",
        }
    }

    /// The name that users know, in one word: `LoRA`, `LoHa`, `LoKr`, `Full`, `Norm`, `DoRA`, ….
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::Loha => "LoHa",
            Self::Lokr => "LoKr",
            Self::Full => "Full",
            Self::Norm => "Norm",
            Self::Dora => "DoRA",
            Self::Oft => "OFT",
            Self::Boft => "BOFT",
            Self::PeftOft => "PEFT-OFT",
            Self::PeftBoft => "PEFT-BOFT",
            Self::Ia3 => "IA3",
            Self::Glora => "GLoRA",
            Self::Tlora => "T-LoRA",
            Self::Replace => "SetWeight",
        }
    }

    /// Whether the effect depends on the base model's weight.
    pub fn needs_base(self) -> bool {
        !matches!(self, Self::Lora | Self::Loha | Self::Lokr | Self::Full | Self::Norm)
    }

    /// Whether a strength multiplies the effect; it stands inside otherwise.
    pub(crate) fn is_linear(self) -> bool {
        !matches!(self, Self::Oft | Self::Boft)
    }

    /// What a host adds that loads the layer at the members' strength.
    pub(super) fn effect<T: Real>(self, members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
        let mut effect = self.delta(members, layer)?;
        // At strength 0 hosts leave an adapter out, with all that stands outside of its rotations.
        if self.is_linear() || members.strength() == 0.0 {
            effect.scale(members.strength());
        }
        Ok(effect)
    }

    fn delta<T: Real>(self, members: &Members<'_>, layer: &Layer) -> Result<Delta<T>> {
        let row = ROWS.iter().find(|row| row.family == self && row.is_of(members));
        let row = row.ok_or_else(|| Error::internal("a layer without the tensors of its family"))?;
        let delta = row.delta(members, layer)?;
        // Stored numbers are finite; what is made from them and a weight may not be.
        let finite = |term: &Term<T>| !matches!(term, Term::Plain(factor) if !factor.is_finite());
        if self.needs_base() && !delta.terms().iter().all(|(_, term)| finite(term)) {
            return Err(Error::value("has numbers so large that its effect is not finite"));
        }
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
    let row = ROWS.iter().find(|row| row.is_of(&members));
    let row = row.ok_or_else(|| Error::format("the stored tensors make no layer"))?;
    let Checked { shape, scale, rank, .. } = (row.check)(&members)?;
    let (numbers, tensors) = (0, BTreeMap::new());
    let layer = Layer { family: row.family, shape, scale, rank, numbers, reshape: None, tensors };
    row.delta(&members, &layer)
}

/// Every suffix that is known, of families that are merged and of others.
pub(super) fn suffixes() -> impl Iterator<Item = &'static str> {
    ROWS.iter().flat_map(|row| row.suffixes()).chain([reshape::SUFFIX]).chain(refused::suffixes())
}

/// The layers that a module's tensors make: at most one for its weight and one for its bias, each with a
/// warning where something about it is odd.
pub(super) fn layers_of<'a>(
    file: &'a Container,
    model: Option<&'a Checkpoint>,
    module: &'a str,
    tensors: BTreeMap<&'static str, String>,
    given: Option<Given>,
) -> Result<Vec<(Param, Layer, Option<String>)>> {
    refused::check(module, &tensors)?;
    let views = tensors.iter().filter_map(|(suffix, name)| Some((*suffix, file.get(name)?)));
    let all = Members::new(views.collect()).with(given);
    let reshape = reshape::of(&all)?;
    let place = |param, members: Members<'a>| {
        let id = LayerId { module: module.to_owned(), param };
        Ok::<_, Error>(members.with(given).of(module, base::find(model, &id, reshape.as_deref())?))
    };
    let mut layers: Vec<(Param, Layer, Option<String>)> = Vec::new();
    let mut owned = BTreeSet::from([reshape::SUFFIX]);
    for row in ROWS {
        if !row.is_of(&place(row.param, all.clone())?) {
            continue;
        }
        if let Some((_, other, _)) = layers.iter().find(|(param, ..)| *param == row.param) {
            return Err(Error::format(format!(
                "is stored twice, as {} and as {}; loaders disagree about such layers",
                other.family, row.family
            )));
        }
        let own: BTreeMap<_, _> =
            row.suffixes().filter_map(|suffix| Some((suffix, tensors.get(suffix)?.clone()))).collect();
        owned.extend(row.suffixes());
        let members = place(row.param, all.only(|suffix| own.contains_key(suffix)))?;
        if row.family.needs_base() && given.is_some_and(|given| given.transposed) {
            return Err(Error::unsupported(format!(
                "is {} of a weight that is stored inputs by outputs (fan_in_fan_out), which lycomerge doesn't merge",
                row.family
            )));
        }
        let Checked { mut shape, scale, rank, expanded, warning } = (row.check)(&members)?;
        let numbers = members.iter().map(|(_, view)| view.len()).sum();
        if expanded > MOST_FORMED.max(numbers) {
            return Err(Error::format(format!(
                "its {numbers} numbers stand for a {shape} parameter that takes {expanded} to merge; no image model \
                 has a layer like that"
            )));
        }
        if let Some(base) = members.base() {
            shape = base.join(&shape)?;
        }
        if shape.dims == Dims::Unknown
            && let Some(kernel) = name::unet_kernel(module, shape.cols)
        {
            shape.dims = Dims::Kernel(kernel);
        }
        let reshape = reshape.clone().filter(|_| row.param == Param::Weight);
        if let Some(dims) = &reshape {
            shape = WeightShape::of_tensor(dims)?.join(&shape).map_err(|_| reshape::differs(dims, &shape))?;
        }
        let layer = Layer { family: row.family, shape, scale, rank, numbers, reshape, tensors: own };
        layers.push((row.param, layer, warning));
    }
    let left: Vec<_> = tensors.keys().copied().filter(|suffix| !owned.contains(suffix)).collect();
    if layers.is_empty() || !left.is_empty() {
        let left = if left.is_empty() { vec![reshape::SUFFIX] } else { left };
        return Err(Error::format(format!("has {} without the tensors that belong to it", left.join(", "))));
    }
    Ok(layers)
}
