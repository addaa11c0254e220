//! Layers whose effect depends on a base model that nobody named: where all inputs are of one family and the strategy
//! only adds, their sum may be one of that family, whatever the model is. It is then stored as it is, with nothing to fit.

use std::cell::OnceCell;

use super::plan::{Part, Source, Target};
use super::strategy::Facts;
use super::{Context, Piece};
use crate::adapter::{NewTensor, combine};
use crate::error::{Error, Result};
use crate::fit::Format;
use crate::fit::certificate::Certificate;
use crate::merge::Space;
use crate::tensor::{TensorView, encode};

impl Context<'_> {
    /// Whether a target is added up in its own family. What asks for more, a form, a size or a look at the effects, goes
    /// the usual way, where the lack of a base model is told.
    pub(super) fn is_own(&self, target: &Target<'_>) -> bool {
        let options = self.options;
        let adds = self.rule.weighs().is_some_and(|rule| !rule.needs_gram() && rule.peak().is_none());
        let adds = adds && self.shares.is_empty();
        let free = options.format == Format::Auto && options.space == Space::Delta && options.rank.is_none();
        // Rows of a weight in parts, or in another order, are no layers of the family.
        let whole = |source: &Source<'_>| matches!(&source.parts[..], [Part { windows: None, .. }]);
        adds && free && options.max_size.is_none() && target.needs_base && target.sources.iter().all(whole)
    }

    /// Adds a target up, and stores it. What is certified is the rounding of the stored numbers.
    pub(super) fn add_own(&self, target: &Target<'_>, piece: &mut Piece) -> Result<()> {
        let (weights, present) = target.weights(self.inputs);
        let facts = Facts {
            weights: &weights,
            present: &present,
            entries: target.shape.rows * target.shape.cols,
            shares: &[],
            make_gram: &faer::Mat::new,
            gram: OnceCell::new(),
        };
        let rule = self.rule.weighs().ok_or_else(|| Error::internal("a sum without weights"))?;
        let coefficients = target.coefficients(rule, &facts)?;
        let members = |source: &Source<'_>| self.inputs[source.input].adapter.members(source.parts[0].layer);
        let factor = |source: &Source<'_>| {
            let blocks = self.inputs[source.input].blocks.as_ref();
            blocks.map_or(1.0, |blocks| blocks.factor(&source.parts[0].id.module))
        };
        let strengths = coefficients.iter().zip(&target.sources).map(|(c, source)| c * factor(source));
        let sources: Vec<_> = strengths.zip(target.sources.iter().map(members)).collect();
        let family = target.family();
        let named = |error: Error| error.in_layer(&target.id.module);

        let (mut tensors, mut certificates) = (Vec::new(), Vec::new());
        for part in combine(family, &sources).map_err(named)? {
            let mut data = Vec::new();
            encode(&part.numbers, self.options.dtype, &mut data).map_err(named)?;
            let tensor =
                NewTensor { suffix: part.suffix, shape: part.shape, dtype: self.options.dtype, data };
            certificates.push(rounding(&part.numbers, &tensor));
            tensors.push(tensor);
        }
        let certificate = Certificate::total(certificates);
        self.report(target, family, tensors, certificate, coefficients, piece);
        Ok(())
    }
}

/// What became of numbers in a file.
fn rounding(numbers: &[f64], tensor: &NewTensor) -> Certificate {
    let NewTensor { shape, dtype, data, .. } = tensor;
    let stored = TensorView { dtype: *dtype, shape, data }.to_reals::<f64>();
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    Certificate {
        distance: norm(&mut numbers.iter().zip(&stored).map(|(x, y)| x - y)),
        norm: norm(&mut numbers.iter().copied()),
        stored_norm: norm(&mut stored.iter().copied()),
    }
}
