//! Isotropic merging (arXiv 2502.04959). Iso-C: S = U Σ Vᵀ becomes λ σ̄ U Vᵀ, σ̄ the mean of Σ. Iso-CTS: of the rank R of S
//! only the leading c triplets stay, and each model adds the n leading ones of its residual Mᵢ − U_c U_cᵀ Mᵢ; all left
//! vectors and all right ones are made orthonormal by their polar factors, and all get the mean of the values taken.
//! n = round((R − ⌊R f⌋)/T) (halves to even, T n ≤ R) and c = R − T n, with f the `common_space_fraction`.
//!
//! The authors' code has min(m, n) for R, and so fills the null directions of a LoRA's ΔW with singular values of σ̄.

use faer::Mat;

use super::{
    ANY, Kind, LAMBDA, Parameter, Row, Rule, Spectral, beside, composed, first, polar, sum, triplets,
};
use crate::compute::linalg::product;
use crate::error::Result;

pub(in super::super) const COMMON: Row = Row {
    name: "iso_c",
    title: "Iso-C",
    help: "the weighted sum with all its singular values the same, their mean",
    whole_file: false,
    paper: "arXiv 2502.04959",
    inputs: ANY,
    parameters: &[LAMBDA],
    make: |settings| Rule::Spectral(Box::new(Iso { lambda: settings.number("lambda"), common: 1.0 })),
};

pub(in super::super) const SPECIFIC: Row = Row {
    name: "iso_cts",
    title: "Iso-CTS",
    help: "the sum's leading directions and those of each model beside them, all equally strong",
    whole_file: false,
    paper: "arXiv 2502.04959",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "common_space_fraction",
            kind: Kind::Number(0.0, 1.0),
            default: "0.8",
            help: "how much of the rank stays the sum's",
        },
        LAMBDA,
    ],
    make: |settings| {
        let common = settings.number("common_space_fraction");
        Rule::Spectral(Box::new(Iso { lambda: settings.number("lambda"), common }))
    },
};

struct Iso {
    lambda: f64,
    /// f; all of the rank is Iso-C.
    common: f64,
}

impl Spectral for Iso {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let all = triplets(sum(models).as_ref())?;
        let (rank, count) = (all.sigma.len(), models.len());
        if rank == 0 {
            return Ok(sum(models));
        }
        let left_over = rank - (rank as f64 * self.common) as usize;
        let own = ((left_over as f64 / count as f64).round_ties_even() as usize).min(rank / count);
        let mut taken = vec![first(&all, rank - count * own)];
        if own > 0 {
            let common = taken[0].u.clone();
            for model in models {
                let inside = product(common.as_ref(), product(common.transpose(), model.as_ref()).as_ref());
                // What is left of a model that the common space holds is rounding.
                let residual = model - &inside;
                if residual.norm_l2() > super::NONE * model.norm_l2() {
                    taken.push(first(&triplets(residual.as_ref())?, own));
                }
            }
        }
        let sigma: Vec<f64> = taken.iter().flat_map(|part| part.sigma.iter().copied()).collect();
        let mean = self.lambda * sigma.iter().sum::<f64>() / sigma.len() as f64;
        let flat = vec![mean; sigma.len()];
        if let [only] = &taken[..] {
            return Ok(composed(only.u.clone(), &flat, &only.v));
        }
        let left = polar(beside(taken.iter().map(|part| part.u.as_ref())).as_ref())?;
        let right = polar(beside(taken.iter().map(|part| part.v.as_ref())).as_ref())?;
        Ok(composed(left, &flat, &right))
    }
}
