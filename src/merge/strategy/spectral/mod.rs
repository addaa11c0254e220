//! Methods on singular values and vectors of the models that have a layer, in the joint spaces of all.
//!
//! Conventions that all of them share: T is the number of models that have the layer with a weight other than zero;
//! Mᵢ = wᵢ Δᵢ is what a method knows of a model, so that a weight scales an effect before the method looks at it, and a
//! negative one takes the effect away (its sign goes along with one side's vectors); S = Σ Mᵢ. Every method is odd and
//! of degree one in the weights: all of them times c make the merge c times as strong. Where papers write min(m, n), the
//! rank of a matrix, all its singular values are meant that are above 1e-9 of the largest: directions that no model has
//! are neither filled nor taken along, as they are where the same is done to the dense ΔW of a LoRA.

mod ctm;
mod iso;
mod pico;
mod subspace_boost;
mod svc;
mod tsv;
mod wudi;

#[cfg(test)]
mod tests;

use faer::{Mat, MatRef};

use super::{ANY, Kind, Parameter, Row, Rule, Spectral};
use crate::compute::linalg::{Svd, product, scale_columns, svd};
use crate::error::Result;

pub(super) use ctm::ROW as CTM;
pub(super) use iso::{COMMON as ISO_C, SPECIFIC as ISO_CTS};
pub(super) use pico::ROW as PICO;
pub(super) use subspace_boost::ROW as SUBSPACE_BOOST;
pub(super) use svc::ROW as SVC;
pub(super) use tsv::ROW as TSV;
pub(super) use wudi::ROW as WUDI;

/// Singular values count as none at this part of the largest, and so does what is left where effects cancel.
const NONE: f64 = 1e-9;

/// λ, under the name that mergekit's methods have it.
const LAMBDA: Parameter = Parameter {
    name: "lambda",
    kind: Kind::Number(f64::MIN, f64::MAX),
    default: "1",
    help: "what the merge is multiplied by",
};

/// S = Σ Mᵢ
fn sum(models: &[Mat<f64>]) -> Mat<f64> {
    let mut sum = models[0].clone();
    models[1..].iter().for_each(|model| sum += model);
    sum
}

/// The singular triplets that are not none.
fn triplets(matrix: MatRef<'_, f64>) -> Result<Svd<f64>> {
    let all = svd(matrix)?;
    let rank = all.sigma.iter().take_while(|sigma| **sigma > NONE * all.sigma[0]).count();
    Ok(first(&all, rank))
}

/// The first triplets, at most so many.
fn first(all: &Svd<f64>, rank: usize) -> Svd<f64> {
    let rank = rank.min(all.sigma.len());
    let cut = |vectors: &Mat<f64>| vectors.subcols(0, rank).to_owned();
    Svd { u: cut(&all.u), sigma: all.sigma[..rank].to_vec(), v: cut(&all.v) }
}

/// U diag(sigma) Vᵀ
fn composed(mut u: Mat<f64>, sigma: &[f64], v: &Mat<f64>) -> Mat<f64> {
    scale_columns(&mut u, sigma.iter().copied());
    product(u.as_ref(), v.transpose())
}

/// Matrices of one height side by side.
fn beside<'m>(matrices: impl IntoIterator<Item = MatRef<'m, f64>>) -> Mat<f64> {
    let parts: Vec<_> = matrices.into_iter().collect();
    let mut all = Mat::zeros(parts[0].nrows(), parts.iter().map(MatRef::ncols).sum());
    let mut left = 0;
    for part in parts {
        all.subcols_mut(left, part.ncols()).copy_from(part);
        left += part.ncols();
    }
    all
}

/// The polar factor: of all matrices whose columns are orthonormal the nearest. Where columns depend on each other, the
/// nearest that is orthonormal on their span and zero elsewhere, so that a vector that several models have is shared
/// among them, and no vector that none has is made up.
fn polar(columns: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let Svd { u, v, .. } = triplets(columns)?;
    Ok(product(u.as_ref(), v.transpose()))
}
