//! Pico (arXiv 2604.16826) before the sum: with the singular values σⱼ and left vectors U of [B₁ … B_T] and
//! sⱼ = σⱼ²/Σσ², output directions are shrunk by αⱼ = 1/(1 + (T−1) sⱼ): γ U diag(α) Uᵀ S, with γ for which its norm is the
//! mean of ‖Mᵢ‖. So weights of 1 make an average, as in the paper, not a sum.
//!
//! The paper takes the B of a LoRA as it is stored; how much of an effect is in B and how much in A is chance, so here
//! Mᵢ = Bᵢ Aᵢ with orthonormal rows in Aᵢ. Then Σ Bᵢ Bᵢᵀ = Σ Mᵢ Mᵢᵀ, whose eigenvectors are all that is needed of them.

use faer::Mat;

use super::{ANY, NONE, Row, Rule, Spectral, composed, sum};
use crate::compute::linalg::{add_product, product, symmetric_eigen};
use crate::error::Result;

pub(in super::super) const ROW: Row = Row {
    name: "pico",
    title: "Pico",
    help: "the average, weaker in output directions that models share, as strong as one model",
    whole_file: false,
    paper: "arXiv 2604.16826",
    inputs: ANY,
    parameters: &[],
    make: |_| Rule::Spectral(Box::new(Pico)),
};

struct Pico;

impl Spectral for Pico {
    fn merge(&self, models: &[Mat<f64>], _: usize) -> Result<Mat<f64>> {
        let size = models[0].nrows();
        let mut squares = Mat::zeros(size, size);
        models.iter().for_each(|m| add_product(squares.as_mut(), 1.0, m.as_ref(), m.transpose()));
        let (energy, u) = symmetric_eigen(squares.as_ref())?;
        let norms: f64 = models.iter().map(Mat::norm_l2).sum();
        let total: f64 = energy.iter().sum();
        let others = models.len() as f64 - 1.0;
        let shrunk: Vec<f64> =
            energy.iter().map(|part| 1.0 / (1.0 + others * (part / total).max(0.0))).collect();
        let along = product(u.transpose(), sum(models).as_ref());
        let merged = composed(u, &shrunk, &along.transpose().to_owned());
        let norm = merged.norm_l2();
        // What is left where effects cancel is rounding, which no scale makes an effect again.
        let scale = if norm > NONE * norms { norms / models.len() as f64 / norm } else { 0.0 };
        Ok(faer::Scale(scale) * merged)
    }
}
