//! Inner products ⟨X, Y⟩ = Σ Xᵢⱼ Yᵢⱼ of deltas without forming ΔW: norms, cosines, the strategies that need no
//! entries, and the certificate all come from them.
//!
//! Products of factors are made in the deltas' own number type and added up in float64. Each result knows what its
//! summands were worth before they cancelled (`Inner::gross`), so that whoever needs more digits than float32
//! left can ask again in float64.

use faer::{Mat, MatMut, MatRef};

use super::core::Core;
use super::dense::Rows;
use super::inner::Inner;
use super::joint::{Joint, Part, Stack, StackTerm};
use super::{Delta, Factor, Kron, Term};
use crate::compute::linalg::{dot, product, set_product};
use crate::tensor::Real;

/// The Gram matrix of `deltas`: entry (i, j) is ⟨Δᵢ, Δⱼ⟩.
pub fn gram<T: Real>(deltas: &[&Delta<T>]) -> Mat<f64> {
    let joints: Vec<_> = deltas.iter().map(|delta| Joint::new(delta)).collect();
    let mut out = Mat::zeros(deltas.len(), deltas.len());
    for i in 0..deltas.len() {
        for j in 0..=i {
            let value = if i == j { joints[i].squared().value } else { joints[i].inner(&joints[j]).value };
            (out[(i, j)], out[(j, i)]) = (value, value);
        }
    }
    out
}

/// ‖Δ‖, the Frobenius norm.
pub fn norm<T: Real>(delta: &Delta<T>) -> f64 {
    Joint::new(delta).norm()
}

impl<T: Real> Joint<'_, T> {
    /// ‖Δ‖, in float64 where the terms cancel, and by the core where they cancel beyond what is left in that.
    pub(crate) fn norm(&self) -> f64 {
        let Inner { value, gross } = self.squared();
        if self.cancels() {
            Joint::new(&self.delta().cast::<f64>()).norm()
        } else if value < 1e4 * T::ROUNDOFF * gross {
            Core::of_joint(self).matrix.norm_l2().to_f64()
        } else {
            value.sqrt()
        }
    }

    /// ⟨self, self⟩, every pair of parts once.
    pub(crate) fn squared(&self) -> Inner {
        *self.squared.get_or_init(|| {
            let pairs = self.parts().iter().enumerate().map(|(i, part)| {
                let mixed: Inner = self.parts()[..i].iter().map(|other| part.inner(other)).sum();
                mixed * 2.0 + part.inner(part)
            });
            let Inner { value, gross } = pairs.sum();
            Inner { value, gross: gross + self.hidden }
        })
    }

    /// Whether so much of the terms cancels that float64 is needed to tell the norm of what is left.
    pub(crate) fn cancels(&self) -> bool {
        let Inner { value, gross } = self.squared();
        T::ROUNDOFF > f64::ROUNDOFF && value < 1e4 * T::ROUNDOFF * gross
    }

    /// The inner products of the terms, each with its coefficient.
    pub(crate) fn gram_of_terms(&self) -> Mat<f64> {
        let terms = self.delta().terms();
        let Some(thin) = self.thin() else {
            let alone: Vec<_> = terms.iter().map(|(scale, term)| Delta::shared(*scale, term)).collect();
            return gram(&alone.iter().collect::<Vec<_>>());
        };
        let mut at = 0;
        let ranges: Vec<_> = terms
            .iter()
            .map(|(_, term)| {
                at += term.rank();
                at - term.rank()..at
            })
            .collect();
        Mat::from_fn(terms.len(), terms.len(), |i, j| {
            let (rows, cols) = (ranges[i].clone(), ranges[j].clone());
            dot(thin.left_gram().get(rows.clone(), cols.clone()), thin.right_gram().get(rows, cols)).0
        })
    }

    /// ⟨self, other⟩
    pub(crate) fn inner(&self, other: &Self) -> Inner {
        self.parts().iter().flat_map(|x| other.parts().iter().map(move |y| x.inner(y))).sum()
    }
}

impl<T: Real> Part<'_, T> {
    fn inner(&self, other: &Self) -> Inner {
        match (self, other) {
            (Self::Full(s, x), Self::Full(t, y)) => dense((**x).as_ref(), (**y).as_ref()) * (s * t),
            (Self::Full(s, x), Self::Thin(thin)) | (Self::Thin(thin), Self::Full(s, x)) => {
                dense(product(thin.left.transpose(), (**x).as_ref()).as_ref(), thin.right.as_ref()) * *s
            }
            (Self::Full(s, x), Self::Kron(t, kron)) | (Self::Kron(t, kron), Self::Full(s, x)) => {
                kron_full(kron, x) * (s * t)
            }
            (Self::Full(s, x), Self::Stack(stack)) | (Self::Stack(stack), Self::Full(s, x)) => {
                stack.terms.iter().map(|term| kron_full(term.kron, x) * (s * term.scale)).sum()
            }
            (Self::Thin(x), Self::Thin(y)) => {
                let [left, right] = x.cross(y);
                dense((*left).as_ref(), (*right).as_ref())
            }
            (Self::Thin(thin), Self::Stack(stack)) | (Self::Stack(stack), Self::Thin(thin)) => {
                stack_thin(stack, &thin.left, &thin.right)
            }
            (Self::Thin(thin), Self::Kron(s, kron)) | (Self::Kron(s, kron), Self::Thin(thin)) => {
                kron_thin(kron, &thin.left, &thin.right) * *s
            }
            (Self::Stack(x), Self::Stack(y)) => stack_stack(x, y),
            (Self::Stack(stack), Self::Kron(s, kron)) | (Self::Kron(s, kron), Self::Stack(stack)) => {
                stack.terms.iter().map(|term| kron_kron(term.kron, kron) * (s * term.scale)).sum()
            }
            (Self::Kron(s, x), Self::Kron(t, y)) => kron_kron(x, y) * (s * t),
        }
    }
}

/// Σ xᵢⱼ yᵢⱼ
fn dense<T: Real>(x: MatRef<'_, T>, y: MatRef<'_, T>) -> Inner {
    let (value, gross) = dot(x, y);
    Inner { value, gross }
}

/// ⟨X, Y⟩ of two matrices that are held whole or as products.
fn plain_plain<T: Real>(x: &Factor<T>, y: &Factor<T>) -> Inner {
    match (x, y) {
        (Factor::Full(x), Factor::Full(y)) => dense(x.as_ref(), y.as_ref()),
        (Factor::Full(full), Factor::Product { left, right })
        | (Factor::Product { left, right }, Factor::Full(full)) => {
            dense(product(left.transpose(), full.as_ref()).as_ref(), right.as_ref())
        }
        (Factor::Product { left: u1, right: v1 }, Factor::Product { left: u2, right: v2 }) => {
            let left = product(u1.transpose(), u2.as_ref());
            dense(left.as_ref(), product(v1.as_ref(), v2.transpose()).as_ref())
        }
    }
}

/// Σᵢⱼ cᵢ dⱼ ⟨Aᵢ, A'ⱼ⟩ ⟨Lᵢ Rᵢ, L'ⱼ R'ⱼ⟩
fn stack_stack<T: Real>(x: &Stack<'_, T>, y: &Stack<'_, T>) -> Inner {
    if x.split != y.split {
        let pairs = x.terms.iter().flat_map(|i| y.terms.iter().map(move |j| (i, j)));
        return pairs.map(|(i, j)| kron_kron(i.kron, j.kron) * (i.scale * j.scale)).sum();
    }
    let [left, right] = x.inner.cross(&y.inner);
    let mut sum = Inner::default();
    for i in &x.terms {
        for j in &y.terms {
            let outer = dense((*i.outer).as_ref(), (*j.outer).as_ref());
            let inner = dense(Stack::block(&left, i, j), Stack::block(&right, i, j));
            sum = sum + inner * (i.scale * j.scale * outer.value);
        }
    }
    sum
}

fn kron_kron<T: Real>(x: &Kron<T>, y: &Kron<T>) -> Inner {
    if x.split() == y.split() {
        return plain_plain(&x.b, &y.b) * plain_plain(&x.a, &y.a).value;
    }
    let (thin, other) = if x.a.rank() * x.b.rank() <= y.a.rank() * y.b.rank() { (x, y) } else { (y, x) };
    let (left, right) = thin.to_product();
    kron_thin(other, &left, &right)
}

/// ⟨A ⊗ B, U V⟩ = Σᵢⱼ A[i,j] ⟨Uᵢᵀ B, Vⱼ⟩ with Uᵢ the i-th of U's row blocks (b × r) and Vⱼ the j-th of V's column
/// blocks (r × d). A whole B goes to the side that it makes smaller, and a B of two factors half to either side.
fn kron_thin<T: Real>(kron: &Kron<T>, u: &Mat<T>, v: &Mat<T>) -> Inner {
    let split = kron.split();
    let (left, right) = match &kron.b {
        Factor::Full(b) if split.d <= split.b => (Some(b.as_ref()), None),
        Factor::Full(b) => (None, Some(b.transpose())),
        Factor::Product { left, right } => (Some(left.as_ref()), Some(right.transpose())),
    };
    let width = right.map_or(split.d, |right| right.ncols());
    let u = blocks(split.a, width, |i| u.get(i * split.b..(i + 1) * split.b, ..).transpose(), left);
    let v = blocks(split.c, width, |j| v.get(.., j * split.d..(j + 1) * split.d), right);
    weighed(&kron.a.full(), u.as_ref(), v.as_ref())
}

/// The same for all terms of a stack, whose factors meet U and V side by side.
fn stack_thin<T: Real>(stack: &Stack<'_, T>, u: &Mat<T>, v: &Mat<T>) -> Inner {
    let (split, joint) = (stack.split, stack.inner.left.ncols());
    let (left, right) = (Some(stack.inner.left.as_ref()), Some(stack.inner.right.transpose()));
    let u = blocks(split.a, joint, |i| u.get(i * split.b..(i + 1) * split.b, ..).transpose(), left);
    let v = blocks(split.c, joint, |j| v.get(.., j * split.d..(j + 1) * split.d), right);
    let rank = u.nrows() / joint;
    let part = |term: &StackTerm<'_, T>| {
        let rows = term.range.start * rank..term.range.end * rank;
        weighed(&term.outer, u.get(rows.clone(), ..), v.get(rows, ..)) * term.scale
    };
    stack.terms.iter().map(part).sum()
}

/// Σᵢⱼ A[i,j] ⟨uᵢ, vⱼ⟩ over the columns of u and v.
fn weighed<T: Real>(a: &Mat<T>, u: MatRef<'_, T>, v: MatRef<'_, T>) -> Inner {
    dense(a.as_ref(), product(u.transpose(), v).as_ref())
}

/// Each of `count` blocks (r × anything) times `factor`, r × `width`, as one column beside the other.
fn blocks<'a, T: Real>(
    count: usize,
    width: usize,
    block: impl Fn(usize) -> MatRef<'a, T>,
    factor: Option<MatRef<'_, T>>,
) -> Mat<T> {
    let rank = block(0).nrows();
    let mut out = Mat::zeros(rank * width, count);
    for k in 0..count {
        let mut out = MatMut::from_column_major_slice_mut(out.col_as_slice_mut(k), rank, width);
        match factor {
            Some(factor) => set_product(out, block(k), factor),
            None => out.copy_from(block(k)),
        }
    }
    out
}

/// ⟨A ⊗ B, D⟩, tile by tile.
fn kron_full<T: Real>(kron: &Kron<T>, full: &Mat<T>) -> Inner {
    let delta = Delta::of(1.0, Term::Kron(kron.clone()));
    let (mut sum, mut at) = (Inner::default(), 0);
    Rows::new(&delta).for_each_tile(|tile| {
        let tile = MatRef::from_row_major_slice(tile, tile.len() / full.ncols(), full.ncols());
        sum = sum + dense(tile, full.get(at..at + tile.nrows(), ..));
        at += tile.nrows();
    });
    sum
}
