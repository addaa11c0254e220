//! Compress, then merge (arXiv 2606.03723): U and V of r orthonormal columns that hold all models best, then
//! U (Σ Uᵀ Mᵢ V) Vᵀ, of rank r at most. U and V are those of the Tucker-2 decomposition of Xᵢ = λᵢ Mᵢ/‖Mᵢ‖ with
//! λᵢ = β‖Mᵢ‖ + (1−β) mean ‖M‖, so that weak models are not lost to the strong: HOSVD, then sweeps of HOOI until √(1 − kept
//! energy) moves by less than 1e-6, 100 at most. r is the largest rank of a model unless it is set. The r × r cores are
//! added up; the paper also has TIES and DARE for that. As long as r holds everything it is the weighted sum.

use faer::{Mat, MatRef, Scale};

use super::{ANY, Kind, Parameter, Row, Rule, Spectral, sum, triplets};
use crate::compute::linalg::{add_product, product, symmetric_eigen};
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "ctm",
    title: "Compress, then merge",
    help: "the weighted sum inside the few directions that hold all models best: low rank from many",
    whole_file: false,
    paper: "arXiv 2606.03723",
    inputs: ANY,
    parameters: &[
        Parameter {
            name: "subspace_rank",
            kind: Kind::Count(0, u64::MAX),
            default: "0",
            help: "the rank of the merge; 0 is the largest of a model",
        },
        Parameter {
            name: "beta",
            kind: Kind::Number(0.0, 1.0),
            default: "0.5",
            help: "how much a model's strength counts in the choice of directions; 0: all the same",
        },
    ],
    make: |settings| {
        let rank = usize::try_from(settings.count("subspace_rank")).unwrap_or(usize::MAX);
        Rule::Spectral(Box::new(Ctm { rank, beta: settings.number("beta") }))
    },
};

struct Ctm {
    rank: usize,
    beta: f64,
}

/// When sweeps stop: at a gain below this, or after so many.
const GAIN: f64 = 1e-6;
const SWEEPS: usize = 100;

/// The leading left singular vectors of matrices side by side.
fn leading<'m>(
    matrices: impl Iterator<Item = MatRef<'m, f64>>,
    size: usize,
    rank: usize,
) -> Result<Mat<f64>> {
    let mut squares = Mat::zeros(size, size);
    matrices.for_each(|matrix| add_product(squares.as_mut(), 1.0, matrix, matrix.transpose()));
    let (_, vectors) = symmetric_eigen(squares.as_ref())?;
    Ok(vectors.subcols(size - rank, rank).to_owned())
}

/// U and V.
fn tucker(targets: &[Mat<f64>], rank: usize) -> Result<(Mat<f64>, Mat<f64>)> {
    let (rows, cols) = targets[0].shape();
    let (left, right) = (rank.min(rows), rank.min(cols));
    let total: f64 = targets.iter().map(Mat::squared_norm_l2).sum();
    let mut u = leading(targets.iter().map(Mat::as_ref), rows, left)?;
    let mut v = leading(targets.iter().map(|target| target.transpose()), cols, right)?;
    let mut lost = f64::INFINITY;
    for _ in 0..SWEEPS {
        let seen: Vec<Mat<f64>> = targets.iter().map(|target| product(target.as_ref(), v.as_ref())).collect();
        u = leading(seen.iter().map(Mat::as_ref), rows, left)?;
        let seen: Vec<Mat<f64>> =
            targets.iter().map(|target| product(target.transpose(), u.as_ref())).collect();
        v = leading(seen.iter().map(Mat::as_ref), cols, right)?;
        let kept: f64 = seen.iter().map(|seen| product(seen.transpose(), v.as_ref()).squared_norm_l2()).sum();
        let now = (1.0 - kept / total).max(0.0).sqrt();
        if (lost - now).abs() < GAIN {
            break;
        }
        lost = now;
    }
    Ok((u, v))
}

impl Spectral for Ctm {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let norms: Vec<f64> = models.iter().map(Mat::norm_l2).collect();
        let mean = norms.iter().sum::<f64>() / norms.len() as f64;
        let sum = sum(models);
        if mean == 0.0 {
            return Ok(sum);
        }
        let mut rank = self.rank;
        if rank == 0 {
            for model in models {
                rank = rank.max(triplets(model.as_ref())?.sigma.len());
            }
        }
        let blended = models.iter().zip(&norms).filter(|(_, norm)| **norm > 0.0);
        let targets: Vec<Mat<f64>> = blended
            .map(|(m, norm)| Scale((self.beta * norm + (1.0 - self.beta) * mean) / norm) * m)
            .collect();
        let (u, v) = tucker(&targets, rank)?;
        let core = product(product(u.transpose(), sum.as_ref()).as_ref(), v.as_ref());
        Ok(product(product(u.as_ref(), core.as_ref()).as_ref(), v.transpose()))
    }
}
