//! Inner products ⟨X, Y⟩ = Σ Xᵢⱼ Yᵢⱼ of deltas, in float64, without forming ΔW: norms, cosines, the strategies
//! that need no entries, and the certificate all come from them.

use std::borrow::Cow;

use faer::{Mat, MatMut, MatRef};

use super::dense::Rows;
use super::{Delta, Factor, Kron, Term};
use crate::compute::linalg::{add_product, dot, product};

/// The Gram matrix of `deltas`: entry (i, j) is ⟨Δᵢ, Δⱼ⟩.
pub fn gram(deltas: &[&Delta<f64>]) -> Mat<f64> {
    let ready: Vec<_> = deltas.iter().map(|delta| Ready::new(delta)).collect();
    let mut out = Mat::zeros(deltas.len(), deltas.len());
    for i in 0..deltas.len() {
        for j in 0..=i {
            let value = if i == j { ready[i].squared() } else { ready[i].inner(&ready[j]) };
            (out[(i, j)], out[(j, i)]) = (value, value);
        }
    }
    out
}

/// ‖Δ‖, the Frobenius norm.
pub fn norm(delta: &Delta<f64>) -> f64 {
    Ready::new(delta).squared().max(0.0).sqrt()
}

/// ⟨X, X⟩, ⟨X, Y⟩ and ⟨Y, Y⟩.
pub(crate) fn pair(x: &Delta<f64>, y: &Delta<f64>) -> [f64; 3] {
    let (x, y) = (Ready::new(x), Ready::new(y));
    [x.squared(), x.inner(&y), y.squared()]
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

    /// ⟨self, self⟩, every pair of terms once.
    fn squared(&self) -> f64 {
        let mut sum = 0.0;
        for (i, (x_scale, x)) in self.0.iter().enumerate() {
            for (y_scale, y) in &self.0[..i] {
                sum += 2.0 * x_scale * y_scale * x.inner(y);
            }
            sum += x_scale * x_scale * x.inner(x);
        }
        sum
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
pub(crate) fn plain_plain(x: &Factor<f64>, y: &Factor<f64>) -> f64 {
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

/// ⟨A ⊗ B, U V⟩ = Σᵢⱼ A[i,j] ⟨Uᵢᵀ B, Vⱼ⟩ with Uᵢ the i-th of U's row blocks (b × r) and Vⱼ the j-th of V's column
/// blocks (r × d); a B of two factors goes half to either side.
fn kron_product(kron: &Kron<f64>, u: &Mat<f64>, v: &Mat<f64>) -> f64 {
    let split = kron.split();
    let rank = u.ncols();
    let (left, right) = match &kron.b {
        Factor::Full(b) => (Some(b.as_ref()), None),
        Factor::Product { left, right } => (Some(left.as_ref()), Some(right.transpose())),
    };
    let width = right.map_or(split.d, |right| right.ncols());
    let u = columns(split.a, width, |i| u.get(i * split.b..(i + 1) * split.b, ..).transpose(), left);
    let v = columns(split.c, width, |j| v.get(.., j * split.d..(j + 1) * split.d), right);
    let u = MatRef::from_column_major_slice(&u, rank * width, split.a);
    let v = MatRef::from_column_major_slice(&v, rank * width, split.c);
    dot(kron.a.to_full().as_ref(), product(u.transpose(), v).as_ref())
}

/// Each block (r × anything) times `factor`, r × `width`, as one column after the other.
fn columns<'a>(
    count: usize,
    width: usize,
    block: impl Fn(usize) -> MatRef<'a, f64>,
    factor: Option<MatRef<'_, f64>>,
) -> Vec<f64> {
    let rank = block(0).nrows();
    let mut out = vec![0.0; count * rank * width];
    for (k, out) in out.chunks_exact_mut(rank * width).enumerate() {
        let mut out = MatMut::from_column_major_slice_mut(out, rank, width);
        match factor {
            Some(factor) => add_product(out, 1.0, block(k), factor),
            None => out.copy_from(block(k)),
        }
    }
    out
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
