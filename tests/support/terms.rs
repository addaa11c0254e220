//! Random terms of every kind and of odd shapes, and what they are entry by entry.

use std::ops::Range;

use faer::{Mat, Scale};
use lycomerge::delta::{Delta, Factor, Hadamard, Kron, Split, Term};
use proptest::prelude::*;
use proptest::sample::select;

/// Entries from [-1, 1).
pub(crate) fn matrix(rows: usize, cols: usize) -> BoxedStrategy<Mat<f64>> {
    let entry = |bits: u64| (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    // Nothing is learned from smaller entries, so they are drawn without a way to shrink them.
    Just(()).prop_perturb(move |(), mut rng| Mat::from_fn(rows, cols, |_, _| entry(rng.next_u64()))).boxed()
}

/// Rows and columns, often with many divisors: single rows and columns, tall and wide ones.
pub(crate) fn shape() -> impl Strategy<Value = (usize, usize)> {
    let side = || prop_oneof![1 => Just(1_usize), 2 => 2_usize..8, 3 => select(vec![12, 16, 24, 30, 36, 48])];
    (side(), side())
}

fn divisor(n: usize) -> impl Strategy<Value = usize> {
    select((1..=n).filter(|d| n.is_multiple_of(*d)).collect::<Vec<_>>())
}

/// A split of a matrix for a Kronecker product.
pub(crate) fn split((rows, cols): (usize, usize)) -> impl Strategy<Value = Split> {
    (divisor(rows), divisor(cols)).prop_map(move |(a, c)| Split { a, c, b: rows / a, d: cols / c })
}

/// A whole matrix.
pub(crate) fn full(rows: usize, cols: usize) -> BoxedStrategy<Factor<f64>> {
    matrix(rows, cols).prop_map(Factor::Full).boxed()
}

/// A product with an inner rank from `ranks`, which may be more than a side.
pub(crate) fn product(rows: usize, cols: usize, ranks: Range<usize>) -> BoxedStrategy<Factor<f64>> {
    let of_rank = move |rank| (matrix(rows, rank), matrix(rank, cols));
    ranks.prop_flat_map(of_rank).prop_map(|(left, right)| Factor::Product { left, right }).boxed()
}

fn factor(rows: usize, cols: usize) -> BoxedStrategy<Factor<f64>> {
    prop_oneof![full(rows, cols), product(rows, cols, 1..4)].boxed()
}

/// What a LoRA stores.
pub(crate) fn low_rank((rows, cols): (usize, usize)) -> BoxedStrategy<Term<f64>> {
    product(rows, cols, 1..6).prop_map(Term::Plain).boxed()
}

/// What a LoKr of one split stores, each factor whole or decomposed.
pub(crate) fn kron(split: Split) -> BoxedStrategy<Term<f64>> {
    (factor(split.a, split.c), factor(split.b, split.d)).prop_map(|(a, b)| Term::Kron(Kron { a, b })).boxed()
}

/// What a LoHa stores.
pub(crate) fn hadamard((rows, cols): (usize, usize), ranks: Range<usize>) -> BoxedStrategy<Term<f64>> {
    let half = || product(rows, cols, ranks.clone());
    (half(), half()).prop_map(|(first, second)| Term::Hadamard(Hadamard { first, second })).boxed()
}

/// A term of any kind.
pub(crate) fn term(shape: (usize, usize)) -> BoxedStrategy<Term<f64>> {
    prop_oneof![
        low_rank(shape),
        full(shape.0, shape.1).prop_map(Term::Plain),
        split(shape).prop_flat_map(kron),
        hadamard(shape, 1..4),
    ]
    .boxed()
}

/// A coefficient of either sign, and not next to nothing.
pub(crate) fn weight() -> impl Strategy<Value = f64> {
    prop_oneof![-2.0..-0.1, 0.1..2.0]
}

/// A sum of one to three of these terms.
pub(crate) fn sum_of(term: BoxedStrategy<Term<f64>>) -> BoxedStrategy<Delta<f64>> {
    proptest::collection::vec((weight(), term), 1..4).prop_map(|terms| sum(&terms)).boxed()
}

/// A sum of terms of any kinds.
pub(crate) fn delta() -> impl Strategy<Value = Delta<f64>> {
    shape().prop_flat_map(|shape| sum_of(term(shape)))
}

/// Σ weight · term
pub(crate) fn sum(terms: &[(f64, Term<f64>)]) -> Delta<f64> {
    let (rows, cols) = terms[0].1.shape();
    let mut sum = Delta::zero(rows, cols);
    terms.iter().for_each(|(weight, term)| sum.add_scaled(*weight, &Delta::of(1.0, term.clone())));
    sum
}

fn dense_factor(factor: &Factor<f64>) -> Mat<f64> {
    match factor {
        Factor::Full(matrix) => matrix.clone(),
        Factor::Product { left, right } => left * right,
    }
}

/// A term by the definition of its kind.
pub(crate) fn dense_term(term: &Term<f64>) -> Mat<f64> {
    match term {
        Term::Plain(factor) => dense_factor(factor),
        Term::Kron(Kron { a, b }) => {
            let (a, b) = (dense_factor(a), dense_factor(b));
            let (p, q) = b.shape();
            Mat::from_fn(a.nrows() * p, a.ncols() * q, |i, j| a[(i / p, j / q)] * b[(i % p, j % q)])
        }
        Term::Hadamard(Hadamard { first, second }) => {
            let (first, second) = (dense_factor(first), dense_factor(second));
            Mat::from_fn(first.nrows(), first.ncols(), |i, j| first[(i, j)] * second[(i, j)])
        }
    }
}

/// ΔW, entry by entry.
pub(crate) fn dense(delta: &Delta<f64>) -> Mat<f64> {
    let mut sum = Mat::zeros(delta.rows(), delta.cols());
    delta.terms().iter().for_each(|(weight, term)| sum += dense_term(term) * Scale(*weight));
    sum
}

/// Σ |weight| ‖term‖: what rounding errors of a sum are measured by, even where its terms cancel.
pub(crate) fn size(delta: &Delta<f64>) -> f64 {
    delta.terms().iter().map(|(weight, term)| weight.abs() * dense_term(term).norm_l2()).sum()
}
