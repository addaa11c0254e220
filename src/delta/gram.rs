//! Inner products ⟨X, Y⟩ = Σ Xᵢⱼ Yᵢⱼ of deltas, in float64, without forming ΔW: norms, cosines, the strategies
//! that need no entries, and the certificate all come from them.

use std::borrow::Cow;

use faer::{Mat, MatRef};

use super::dense::Rows;
use super::{Delta, Factor, Kron, Term};
use crate::compute::linalg::{dot, product};

/// The Gram matrix of `deltas`: entry (i, j) is ⟨Δᵢ, Δⱼ⟩.
pub fn gram(deltas: &[&Delta<f64>]) -> Mat<f64> {
    let ready: Vec<_> = deltas.iter().map(|delta| Ready::new(delta)).collect();
    let mut out = Mat::zeros(deltas.len(), deltas.len());
    for i in 0..deltas.len() {
        for j in 0..=i {
            let value = ready[i].inner(&ready[j]);
            (out[(i, j)], out[(j, i)]) = (value, value);
        }
    }
    out
}

/// ⟨Δ, Δ⟩ of a difference of deltas, and the sum of the absolute values that it was added up from: where the
/// first is far below the second, its digits are lost.
pub fn norm_squared(delta: &Delta<f64>) -> (f64, f64) {
    let ready = Ready::new(delta);
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (i, (x_scale, x)) in ready.0.iter().enumerate() {
        for (j, (y_scale, y)) in ready.0[..=i].iter().enumerate() {
            let part = x_scale * y_scale * x.inner(y) * if i == j { 1.0 } else { 2.0 };
            sum += part;
            magnitude += part.abs();
        }
    }
    (sum.max(0.0), magnitude)
}

/// ‖Δ‖, the Frobenius norm.
pub fn norm(delta: &Delta<f64>) -> f64 {
    norm_squared(delta).0.sqrt()
}

/// A delta whose Hadamard terms are expanded, so that pairs of two kinds are left.
struct Ready<'a>(Vec<(f64, Expanded<'a>)>);

enum Expanded<'a> {
    Plain(Cow<'a, Factor<f64>>),
    Kron(&'a Kron<f64>),
}

impl<'a> Ready<'a> {
    fn new(delta: &'a Delta<f64>) -> Self {
        let expand = |term: &'a Term<f64>| match term {
            Term::Plain(factor) => Expanded::Plain(Cow::Borrowed(factor)),
            Term::Kron(kron) => Expanded::Kron(kron),
            Term::Hadamard(_) => {
                let (left, right) = term.to_product();
                Expanded::Plain(Cow::Owned(Factor::Product { left, right }))
            }
        };
        Self(delta.terms().iter().map(|(scale, term)| (*scale, expand(term))).collect())
    }

    fn inner(&self, other: &Self) -> f64 {
        let mut sum = 0.0;
        for (x_scale, x) in &self.0 {
            for (y_scale, y) in &other.0 {
                sum += x_scale * y_scale * x.inner(y);
            }
        }
        sum
    }
}

impl Expanded<'_> {
    fn inner(&self, other: &Self) -> f64 {
        match (self, other) {
            (Self::Plain(x), Self::Plain(y)) => plain_plain(x, y),
            (Self::Kron(x), Self::Kron(y)) if x.split() == y.split() => {
                plain_plain(&x.a, &y.a) * plain_plain(&x.b, &y.b)
            }
            (Self::Kron(x), Self::Kron(y)) => {
                let (thin, other) =
                    if x.a.rank() * x.b.rank() <= y.a.rank() * y.b.rank() { (x, y) } else { (y, x) };
                let (left, right) = thin.to_product();
                kron_product(other, &left, &right)
            }
            (Self::Kron(kron), Self::Plain(factor)) | (Self::Plain(factor), Self::Kron(kron)) => {
                match &**factor {
                    Factor::Product { left, right } => kron_product(kron, left, right),
                    Factor::Full(matrix) => kron_full(kron, matrix),
                }
            }
        }
    }
}

/// ⟨U1 V1, U2 V2⟩ = ⟨U1ᵀ U2, V1 V2ᵀ⟩, and its cases with whole matrices.
fn plain_plain(x: &Factor<f64>, y: &Factor<f64>) -> f64 {
    match (x, y) {
        (Factor::Full(x), Factor::Full(y)) => dot(x.as_ref(), y.as_ref()),
        (Factor::Full(full), Factor::Product { left, right })
        | (Factor::Product { left, right }, Factor::Full(full)) => {
            dot(product(left.transpose(), full.as_ref()).as_ref(), right.as_ref())
        }
        (Factor::Product { left: u1, right: v1 }, Factor::Product { left: u2, right: v2 }) => {
            dot(product(u1.transpose(), u2.as_ref()).as_ref(), product(v1.as_ref(), v2.transpose()).as_ref())
        }
    }
}

/// ⟨A ⊗ B, U V⟩ = Σ_ρ ⟨A, U_ρ B V_ρᵀ⟩ with column ρ of U reshaped to (a × b), row ρ of V to (c × d).
fn kron_product(kron: &Kron<f64>, u: &Mat<f64>, v: &Mat<f64>) -> f64 {
    let split = kron.split();
    let rank = u.ncols();
    let stacked_u: Vec<f64> = (0..rank).flat_map(|k| u.col(k).iter().copied()).collect();
    let stacked_v: Vec<f64> = (0..rank).flat_map(|k| v.row(k).iter().copied()).collect();
    let u = MatRef::from_row_major_slice(&stacked_u, rank * split.a, split.b);
    let v = MatRef::from_row_major_slice(&stacked_v, rank * split.c, split.d);
    // (U_ρ left) and (V_ρ rightᵀ), so that U_ρ B V_ρᵀ is one times the other's transpose.
    let (u, v) = match &kron.b {
        Factor::Full(b) => (product(u, b.as_ref()), v.to_owned()),
        Factor::Product { left, right } => (product(u, left.as_ref()), product(v, right.transpose())),
    };
    let a = kron.a.to_full();
    (0..rank)
        .map(|k| {
            let u = u.get(k * split.a..(k + 1) * split.a, ..);
            let v = v.get(k * split.c..(k + 1) * split.c, ..);
            dot(u, product(a.as_ref(), v).as_ref())
        })
        .sum()
}

/// ⟨A ⊗ B, D⟩, tile by tile.
fn kron_full(kron: &Kron<f64>, full: &Mat<f64>) -> f64 {
    let delta = Delta::of(1.0, Term::Kron(kron.clone()));
    let (mut sum, mut at) = (0.0, 0);
    Rows::new(&delta).for_each_tile(|tile| {
        let tile = MatRef::from_row_major_slice(tile, tile.len() / full.ncols(), full.ncols());
        sum += dot(tile, full.get(at..at + tile.nrows(), ..));
        at += tile.nrows();
    });
    sum
}
