//! The tensors of one layer by suffix, with the checks that every family makes on them.

use std::collections::BTreeMap;

use faer::Mat;

use super::peft::Given;
use crate::compute::linalg::{row_blocks, set_rows};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Real, TensorView, all_finite};

/// The tensors of one layer, by suffix.
#[derive(Debug)]
pub struct Members<'a> {
    tensors: BTreeMap<&'static str, TensorView<'a>>,
    /// What is said of its alpha beside the tensors.
    given: Option<Given>,
}

impl<'a> Members<'a> {
    /// From suffixes and views.
    pub fn new(tensors: BTreeMap<&'static str, TensorView<'a>>) -> Self {
        Self { tensors, given: None }
    }

    /// The same, with what is said beside them.
    pub(super) fn with(self, given: Option<Given>) -> Self {
        Self { given, ..self }
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

    fn alpha(&self) -> Result<Option<f64>> {
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
