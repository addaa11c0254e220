//! The tensors of one layer by suffix, with the checks that every family makes on them.

use std::collections::BTreeMap;

use faer::Mat;

use super::base::Base;
use super::family::Family;
use super::peft::Given;
use super::peft_oft::OftFlags;
use crate::compute::linalg::{row_blocks, set_rows};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Real, TensorView, all_finite};

/// The tensors of one layer, by suffix, and where in the model it is.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    tensors: BTreeMap<&'static str, TensorView<'a>>,
    /// What is said of its alpha beside the tensors.
    given: Option<Given>,
    module: &'a str,
    base: Option<Base<'a>>,
    strength: f64,
}

impl<'a> Members<'a> {
    /// From suffixes and views.
    pub fn new(tensors: BTreeMap<&'static str, TensorView<'a>>) -> Self {
        Self { tensors, given: None, module: "", base: None, strength: 1.0 }
    }

    /// The same as a module's, over the base model's parameter.
    pub(super) fn of(self, module: &'a str, base: Option<Base<'a>>) -> Self {
        Self { module, base, ..self }
    }

    /// The same, with what is said beside them.
    pub(super) fn with(self, given: Option<Given>) -> Self {
        Self { given, ..self }
    }

    /// The same at another strength.
    pub(super) fn at(self, strength: f64) -> Self {
        Self { strength, ..self }
    }

    /// What rotations are weakened to.
    pub(super) fn strength(&self) -> f64 {
        self.strength
    }

    /// What PEFT's configuration says of OFT.
    pub(super) fn oft(&self) -> OftFlags {
        self.given.map(|given| given.oft).unwrap_or_default()
    }

    /// The module's name as the file spells it.
    pub(super) fn module(&self) -> &'a str {
        self.module
    }

    /// The base model's parameter under the layer.
    pub(super) fn base(&self) -> Option<&Base<'a>> {
        self.base.as_ref()
    }

    /// The same where a family can't do without.
    pub(super) fn base_for(&self, family: Family) -> Result<&Base<'a>> {
        self.base().ok_or_else(|| {
            Error::unsupported(format!(
                "is {family}, and its effect depends on the base model's weight; say which model that is (--base)"
            ))
        })
    }

    /// Those of some suffixes.
    pub(super) fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let tensors = self.tensors.iter().filter(|(suffix, _)| wanted(suffix));
        Self { tensors: tensors.map(|(suffix, view)| (*suffix, *view)).collect(), ..self.clone() }
    }

    /// Suffixes and views, in the order of the suffixes.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, TensorView<'a>)> + '_ {
        self.tensors.iter().map(|(suffix, view)| (*suffix, *view))
    }

    /// The tensor of a suffix.
    pub fn get(&self, suffix: &str) -> Option<TensorView<'a>> {
        self.tensors.get(suffix).copied()
    }

    pub(super) fn has(&self, suffix: &str) -> bool {
        self.tensors.contains_key(suffix)
    }

    /// A factor that must be there, of floats, with no empty side.
    pub(super) fn factor(&self, suffix: &str) -> Result<TensorView<'a>> {
        let view = self.get(suffix).ok_or_else(|| {
            let present: Vec<_> = self.tensors.keys().copied().collect();
            Error::format(format!("the tensor '{suffix}' is missing beside {}", present.join(", ")))
        })?;
        if !view.dtype.is_float() {
            return Err(Error::format(format!("'{suffix}' is {}, not floating point", view.dtype.name())));
        }
        if view.is_empty() {
            return Err(Error::format(format!("'{suffix}' is empty: its shape is {:?}", view.shape)));
        }
        Ok(view)
    }

    /// A factor as rows × everything else.
    pub(super) fn flat(&self, suffix: &str) -> Result<(usize, usize)> {
        let view = self.factor(suffix)?;
        let [rows, rest @ ..] = view.shape else {
            return Err(Error::format(format!("'{suffix}' is a single number, not a matrix")));
        };
        if rest.is_empty() {
            return Err(Error::format(format!(
                "'{suffix}' has one dimension, {rows}; a factor has two or more"
            )));
        }
        Ok((*rows, rest.iter().product()))
    }

    /// The numbers of a stored tensor as a matrix of `rows` × the rest.
    ///
    /// # Errors
    /// A number that is not finite.
    pub(super) fn matrix<T: Real>(&self, suffix: &str, rows: usize) -> Result<Mat<T>> {
        let view = self.factor(suffix)?;
        let (cols, mut block) = (view.len() / rows, Vec::new());
        let mut out = Mat::zeros(rows, cols);
        for range in row_blocks(rows, cols) {
            view.read_into(range.start * cols..range.end * cols, &mut block);
            if !all_finite(&block) {
                check_finite(suffix, &view.to_reals::<T>())?;
            }
            set_rows(&mut out, range, &block);
        }
        Ok(out)
    }

    /// What is said of an alpha that is no tensor.
    fn given(&self) -> Option<Given> {
        self.given.filter(|_| !self.has(".alpha"))
    }

    /// Whether PEFT or diffusers said something beside them.
    pub(super) fn is_given(&self) -> bool {
        self.given().is_some()
    }

    /// What multiplies two factors that are stored whole: 1, whatever alpha says, but for PEFT's.
    pub(super) fn scale_of_whole(&self) -> f64 {
        self.given().map_or(1.0, |given| given.scale(None))
    }

    /// The numbers of a tensor of sizes or positions.
    pub(super) fn integers(&self, suffix: &str) -> Result<Vec<usize>> {
        let view =
            self.get(suffix).ok_or_else(|| Error::format(format!("the tensor '{suffix}' is missing")))?;
        if view.dtype.is_float() || view.dtype == Dtype::Bool {
            return Err(Error::format(format!("'{suffix}' is {}, not an integer type", view.dtype.name())));
        }
        let index = |x: f64| {
            if x >= 0.0 { Ok(x as usize) } else { Err(Error::format(format!("'{suffix}' holds {x}"))) }
        };
        view.to_reals::<f64>().into_iter().map(index).collect()
    }

    /// alpha / rank, and a warning where alpha is odd; 1 without an alpha (every reader but one agrees).
    pub(super) fn scale(&self, rank: usize) -> Result<(f64, Option<String>)> {
        if let Some(given) = self.given() {
            return Ok((given.scale(Some(rank)), None));
        }
        let Some(alpha) = self.alpha()? else { return Ok((1.0, None)) };
        if !alpha.is_finite() {
            return Err(Error::value(format!("alpha is {alpha}; it must be finite here")));
        }
        let warning = (alpha == 0.0).then(|| "alpha is 0, so the layer has no effect".to_owned());
        Ok((alpha / rank as f64, warning))
    }

    pub(super) fn alpha(&self) -> Result<Option<f64>> {
        let Some(view) = self.get(".alpha") else { return Ok(None) };
        if view.dtype == Dtype::Bool {
            return Err(Error::format("alpha is a boolean"));
        }
        match view.to_reals::<f64>()[..] {
            [alpha] => Ok(Some(alpha)),
            _ => Err(Error::format(format!("alpha has {} numbers, not one", view.len()))),
        }
    }
}

pub(super) fn check_finite<T: Real>(suffix: &str, numbers: &[T]) -> Result<()> {
    if all_finite(numbers) {
        return Ok(());
    }
    let bad = numbers.iter().filter(|x| !x.to_f64().is_finite()).count();
    Err(Error::value(format!("'{suffix}' holds {bad} of {} numbers that are not finite", numbers.len())))
}
