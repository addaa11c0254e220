//! The joint row and column spaces of a delta's terms, and the small matrix between them.
//!
//! ΔW = L C Rᵀ with orthonormal columns in L and R, so every question about singular values and every
//! truncation is answered by C alone: K × K for low-rank terms of joint rank K, and for LoKr terms of one
//! split, whose column spaces all lie in I ⊗ span(w2_a₁ … w2_a_k), a·Σr × c·Σr.

use faer::{Mat, MatRef};

use super::kron::{Split, add_kron};
use super::{Delta, Factor, Kron, Term};
use crate::compute::linalg::{Svd, product, thin_qr};
use crate::tensor::Real;

/// ΔW = left · matrix · rightᵀ.
pub struct Core<T> {
    left: Basis<T>,
    /// The matrix between the bases.
    pub matrix: Mat<T>,
    right: Basis<T>,
}

/// Orthonormal columns I ⊗ Q; no Q stands for the identity.
struct Basis<T> {
    copies: usize,
    q: Option<Mat<T>>,
}

impl<T: Real> Basis<T> {
    fn identity() -> Self {
        Self { copies: 1, q: None }
    }

    /// (I ⊗ Q) x
    fn apply(&self, x: MatRef<'_, T>) -> Mat<T> {
        let Some(q) = &self.q else { return x.to_owned() };
        let mut out = Mat::zeros(self.copies * q.nrows(), x.ncols());
        for i in 0..self.copies {
            let part = product(q.as_ref(), x.get(i * q.ncols()..(i + 1) * q.ncols(), ..));
            out.get_mut(i * q.nrows()..(i + 1) * q.nrows(), ..).copy_from(&part);
        }
        out
    }
}

impl<T: Real> Core<T> {
    /// The core of `delta`, by whichever of the three ways gives the smallest one.
    pub fn of(delta: &Delta<T>) -> Self {
        let kron = common_split(delta).map(|(split, krons)| KronSpaces::new(split, krons));
        let dense = if delta.is_dense() { delta.rows().min(delta.cols()) } else { delta.lifted_rank() };
        match kron {
            Some(spaces) if spaces.core_size() <= dense => spaces.core(),
            _ if delta.is_dense() => {
                Self { left: Basis::identity(), matrix: delta.to_full(), right: Basis::identity() }
            }
            _ => {
                let (u, v) = delta.to_product();
                let (left, r_left) = thin_qr(u.as_ref());
                let (right, r_right) = thin_qr(v.transpose());
                let matrix = product(r_left.as_ref(), r_right.transpose());
                Self {
                    left: Basis { copies: 1, q: Some(left) },
                    matrix,
                    right: Basis { copies: 1, q: Some(right) },
                }
            }
        }
    }

    /// U √Σ and √Σ Vᵀ of the leading `rank` of the core's singular triplets, in ΔW's spaces: of all matrices of
    /// that rank the nearest to ΔW.
    pub(crate) fn truncated(&self, svd: &Svd<T>, rank: usize) -> Factor<T> {
        let rank = rank.min(svd.sigma.len());
        let half = |vectors: &Mat<T>| {
            Mat::from_fn(vectors.nrows(), rank, |i, j| vectors[(i, j)] * T::from_f64(svd.sigma[j].sqrt()))
        };
        let left = self.left.apply(half(&svd.u).as_ref());
        let right = self.right.apply(half(&svd.v).as_ref());
        Factor::Product { left, right: right.transpose().to_owned() }
    }
}

/// Kronecker terms with their coefficients.
pub(crate) type ScaledKrons<'a, T> = Vec<(f64, &'a Kron<T>)>;

/// The split that all terms share, if all are Kronecker products of one split.
pub(crate) fn common_split<T: Real>(delta: &Delta<T>) -> Option<(Split, ScaledKrons<'_, T>)> {
    let mut krons = Vec::with_capacity(delta.terms().len());
    for (scale, term) in delta.terms() {
        let Term::Kron(kron) = &**term else { return None };
        krons.push((*scale, kron));
    }
    let split = krons.first()?.1.split();
    krons.iter().all(|(_, kron)| kron.split() == split).then_some((split, krons))
}

/// The structured joint spaces of Kronecker terms of one split.
struct KronSpaces<'a, T: Real> {
    split: Split,
    krons: Vec<(f64, &'a Kron<T>)>,
    /// Joint rank of the inner factors, where it is below both sides of B.
    joint: Option<usize>,
}

impl<'a, T: Real> KronSpaces<'a, T> {
    fn new(split: Split, krons: Vec<(f64, &'a Kron<T>)>) -> Self {
        let rank = |kron: &Kron<T>| match &kron.b {
            Factor::Full(_) => None,
            Factor::Product { left, .. } => Some(left.ncols()),
        };
        let joint: Option<usize> = krons.iter().map(|(_, kron)| rank(kron)).sum();
        Self { split, krons, joint: joint.filter(|&r| r < split.b.min(split.d)) }
    }

    fn core_size(&self) -> usize {
        let Split { a, c, b, d } = self.split;
        (a * self.joint.unwrap_or(b)).min(c * self.joint.unwrap_or(d))
    }

    fn core(&self) -> Core<T> {
        let Split { a, c, b, d } = self.split;
        let Some(joint) = self.joint else {
            let mut matrix = Mat::zeros(a * b, c * d);
            for (scale, kron) in &self.krons {
                add_kron(&mut matrix, T::from_f64(*scale), &kron.a.to_full(), &kron.b.to_full());
            }
            return Core { left: Basis::identity(), matrix, right: Basis::identity() };
        };
        let (mut lefts, mut rights) = (Mat::zeros(b, joint), Mat::zeros(d, joint));
        let mut ranges = Vec::with_capacity(self.krons.len());
        let mut at = 0;
        for (_, kron) in &self.krons {
            let Factor::Product { left, right } = &kron.b else {
                unreachable!("a joint rank has no full factors")
            };
            let range = at..at + left.ncols();
            lefts.get_mut(.., range.clone()).copy_from(left);
            rights.get_mut(.., range.clone()).copy_from(right.transpose());
            at = range.end;
            ranges.push(range);
        }
        let (q_left, r_left) = thin_qr(lefts.as_ref());
        let (q_right, r_right) = thin_qr(rights.as_ref());
        let mut matrix = Mat::zeros(a * joint, c * joint);
        for ((scale, kron), range) in self.krons.iter().zip(ranges) {
            let inner = product(r_left.get(.., range.clone()), r_right.get(.., range).transpose());
            add_kron(&mut matrix, T::from_f64(*scale), &kron.a.to_full(), &inner);
        }
        Core {
            left: Basis { copies: a, q: Some(q_left) },
            matrix,
            right: Basis { copies: c, q: Some(q_right) },
        }
    }
}
