//! Task singular vectors (arXiv 2412.00081, TSV-Merge): λ U⊥ Σ V⊥ᵀ, with U = [U₁ … U_T], Σ and V of the leading
//! kᵢ = min(rᵢ, ⌊K/T⌋) singular triplets of every model, K = min(m, n) of ΔW and rᵢ its rank, at least one; ⊥ is the polar
//! factor: the nearest orthonormal columns. Models that share nothing are added up, and one that comes several times
//! counts once.
//!
//! The authors' code takes ⌊K/T⌋ triplets of any model, those of a LoRA's null directions with it, which turn the others'
//! vectors in the polar factor.

use faer::Mat;

use super::{ANY, LAMBDA, Row, Rule, Spectral, beside, composed, first, polar, triplets};
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "tsv",
    title: "TSV-Merge",
    help: "the models' singular vectors, made orthogonal to each other's, with their own singular values",
    whole_file: false,
    paper: "arXiv 2412.00081",
    inputs: ANY,
    parameters: &[LAMBDA],
    make: |settings| Rule::Spectral(Box::new(Tsv { lambda: settings.number("lambda") })),
};

struct Tsv {
    lambda: f64,
}

/// U⊥, the diagonal of Σ, and V⊥.
pub(super) fn factors(models: &[Mat<f64>], extent: usize) -> Result<(Mat<f64>, Vec<f64>, Mat<f64>)> {
    let most = (extent / models.len()).max(1);
    let leading = models.iter().map(|model| Ok(first(&triplets(model.as_ref())?, most)));
    let leading = leading.collect::<Result<Vec<_>>>()?;
    let left = polar(beside(leading.iter().map(|part| part.u.as_ref())).as_ref())?;
    let right = polar(beside(leading.iter().map(|part| part.v.as_ref())).as_ref())?;
    Ok((left, leading.into_iter().flat_map(|part| part.sigma).collect(), right))
}

impl Spectral for Tsv {
    fn merge(&self, models: &[Mat<f64>], extent: usize) -> Result<Mat<f64>> {
        let (left, mut sigma, right) = factors(models, extent)?;
        sigma.iter_mut().for_each(|sigma| *sigma *= self.lambda);
        Ok(composed(left, &sigma, &right))
    }
}
