//! The identities that merging rests on, on random terms of every kind and of odd shapes, against dense float64.

mod support;

use std::sync::Arc;

use faer::{Mat, Scale, Side};
use lycomerge::adapter::{Dims, WeightShape};
use lycomerge::delta::core::Core;
use lycomerge::delta::dense::Rows;
use lycomerge::delta::gram::{gram, norm};
use lycomerge::delta::joint::Joint;
use lycomerge::delta::{Delta, Factor, Hadamard, Kron, Split, Term};
use lycomerge::fit::certificate::Certificate;
use lycomerge::fit::{Bound, Choice, FitOptions, Fitter, Form, Format};
use lycomerge::tensor::{Dtype, Real};
use lycomerge::{Adapter, Merge};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use support::files::{self, MODULE};
use support::terms::{
    delta, dense, dense_term, full, hadamard, kron, matrix, product, shape, size, split, sum, sum_of, term,
    weight,
};

/// What float64 loses in a few products and sums.
const ROUNDING: f64 = 1e-12;

/// ‖x − y‖ / ‖y‖
fn distance(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let (distance, norm) = ((x - y).norm_l2(), y.norm_l2());
    if distance == 0.0 { 0.0 } else { distance / norm }
}

fn dot(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    (0..x.ncols()).map(|j| (0..x.nrows()).map(|i| x[(i, j)] * y[(i, j)]).sum::<f64>()).sum()
}

/// √(Σ_{t≥from} σ² / Σ σ²)
fn tail(sigma: &[f64], from: usize) -> f64 {
    let squares = |sigma: &[f64]| sigma.iter().map(|s| s * s).sum::<f64>();
    (squares(&sigma[from.min(sigma.len())..]) / squares(sigma)).sqrt()
}

/// R(W), whose rows are the blocks of W: R(A ⊗ B) = vec(A) vec(B)ᵀ.
fn rearranged(matrix: &Mat<f64>, split: Split) -> Mat<f64> {
    let Split { a, c, b, d } = split;
    Mat::from_fn(a * c, b * d, |ij, pq| matrix[(ij / c * b + pq / d, ij % c * d + pq % d)])
}

/// That two numbers differ by no more than `allowed`.
fn near(x: f64, y: f64, allowed: f64) -> Result<(), TestCaseError> {
    prop_assert!((x - y).abs() <= allowed, "{x:e} and {y:e} differ by {:e}", (x - y).abs());
    Ok(())
}

/// That two matrices differ by no more than `allowed` in the norm.
fn same(x: &Mat<f64>, y: &Mat<f64>, allowed: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(x.shape(), y.shape());
    near((x - y).norm_l2(), 0.0, allowed)
}

mod terms {
    use super::*;

    proptest! {
        #[test]
        fn a_delta_is_the_sum_of_its_terms_in_every_form(delta in delta(), at in any::<prop::sample::Index>()) {
            let (want, allowed) = (dense(&delta), ROUNDING * size(&delta));
            same(&delta.to_full(), &want, allowed)?;
            let (u, v) = delta.to_product();
            prop_assert_eq!((u.ncols(), v.nrows()), (delta.lifted_rank(), delta.lifted_rank()));
            same(&(u * v), &want, allowed)?;
            near(delta.peak(), want.norm_max(), allowed)?;
            let row = at.index(delta.rows());
            let want = want.get(row..row + 1, ..).to_owned();
            let mut tile: Vec<f64> = (0..delta.cols()).map(|j| -2.0 * want[(0, j)]).collect();
            Rows::new(&delta).add(row..row + 1, &mut tile);
            same(&Mat::from_fn(1, delta.cols(), |_, j| -tile[j]), &want, allowed)?;
        }

        #[test]
        fn a_lokr_convolution_is_the_kronecker_product_of_the_flattened_factors(
            (a, c, b, d) in (1_usize..5, 1_usize..5, 1_usize..5, 1_usize..5),
            kernel in prop_oneof![Just(vec![]), Just(vec![1, 1]), Just(vec![3]), Just(vec![3, 2]), Just(vec![2, 1, 3])],
            seed in matrix(5 * 5, 5 * 5 * 6),
        ) {
            let positions: usize = kernel.iter().product();
            let numbers = |count: usize, from: usize| -> Vec<f64> { (0..count).map(|i| seed[(from, i)]).collect() };
            let (w1, w2) = (numbers(a * c, 0), numbers(b * d * positions, 1));
            let w2_shape = [&[b, d], &kernel[..]].concat();
            let (w1_name, w2_name) = (format!("{MODULE}.lokr_w1"), format!("{MODULE}.lokr_w2"));
            let tensors: [files::Tensor; 2] = [(&w1_name, &[a, c], &w1), (&w2_name, &w2_shape, &w2)];
            let file = Adapter::from_bytes("memory", files::safetensors(&tensors, Dtype::F64)).unwrap();
            let (id, layer) = file.layers().first_key_value().unwrap();
            let got = file.delta(id, layer).unwrap().to_full();
            // The definition, (i·b + p, j·d + q, κ) = w1[i, j] · w2[p, q, κ].
            let want = Mat::from_fn(a * b, c * d * positions, |row, column| {
                let (input, position) = (column / positions, column % positions);
                w1[row / b * c + input / d] * w2[(row % b * d + input % d) * positions + position]
            });
            prop_assert_eq!(layer.shape.full(), [&[a * b, c * d], &kernel[..]].concat());
            same(&got, &want, 0.0)?;
        }

        #[test]
        fn a_loha_is_its_khatri_rao_product(
            term in shape().prop_flat_map(|shape| hadamard(shape, 1..5)),
        ) {
            let Term::Hadamard(Hadamard { first, second }) = &term else { unreachable!() };
            let (Factor::Product { left: a1, right: b1 }, Factor::Product { left: a2, right: b2 }) = (first, second)
            else {
                unreachable!()
            };
            let (r1, r2) = (a1.ncols(), a2.ncols());
            let u = Mat::from_fn(a1.nrows(), r1 * r2, |i, k| a1[(i, k / r2)] * a2[(i, k % r2)]);
            let v = Mat::from_fn(r1 * r2, b1.ncols(), |k, j| b1[(k / r2, j)] * b2[(k % r2, j)]);
            let (want, allowed) = (dense_term(&term), ROUNDING * u.norm_l2() * v.norm_l2());
            same(&(&u * &v), &want, allowed)?;
            let (left, right) = Delta::of(1.0, term.clone()).to_product();
            prop_assert!(left.ncols() <= r1 * r2);
            same(&(left * right), &want, allowed)?;
        }

        #[test]
        fn a_sum_of_loras_is_their_concatenation(
            (x, y) in shape().prop_flat_map(|(m, n)| {
                let rank = 1..m.min(n) + 1;
                (product(m, n, rank.clone()), product(m, n, rank))
            }),
            (p, q) in (weight(), weight()),
        ) {
            let both = sum(&[(p, Term::Plain(x.clone())), (q, Term::Plain(y.clone()))]);
            let (u, v) = both.to_product();
            let (Factor::Product { left: u1, right: v1 }, Factor::Product { left: u2, right: v2 }) = (x, y) else {
                unreachable!()
            };
            let r = u1.ncols();
            prop_assert_eq!(u.ncols(), r + u2.ncols());
            same(&u.get(.., ..r).to_owned(), &(u1 * Scale(p)), 0.0)?;
            same(&u.get(.., r..).to_owned(), &(u2 * Scale(q)), 0.0)?;
            same(&v.get(..r, ..).to_owned(), &v1, 0.0)?;
            same(&v.get(r.., ..).to_owned(), &v2, 0.0)?;
        }
    }
}

mod inner_products {
    use super::*;

    /// Two terms of every pair of kinds: independent, or the second close to the first.
    fn pair() -> impl Strategy<Value = (Term<f64>, Term<f64>)> {
        shape().prop_flat_map(|shape| {
            let same_split = split(shape).prop_flat_map(|split| (kron(split), kron(split)));
            let correlated = term(shape).prop_flat_map(|term| {
                let noise = noisy(&term);
                (Just(term), noise)
            });
            prop_oneof![3 => (term(shape), term(shape)), 1 => same_split, 2 => correlated]
        })
    }

    /// The same term with a tenth of noise in every factor.
    fn noisy(term: &Term<f64>) -> BoxedStrategy<Term<f64>> {
        fn noise(factor: &Factor<f64>) -> BoxedStrategy<Factor<f64>> {
            let near = |x: &Mat<f64>| {
                let x = x.clone();
                matrix(x.nrows(), x.ncols()).prop_map(move |noise| &x + noise * Scale(0.1))
            };
            match factor {
                Factor::Full(x) => near(x).prop_map(Factor::Full).boxed(),
                Factor::Product { left, right } => (near(left), near(right))
                    .prop_map(|(left, right)| Factor::Product { left, right })
                    .boxed(),
            }
        }
        match term {
            Term::Plain(factor) => noise(factor).prop_map(Term::Plain).boxed(),
            Term::Kron(Kron { a, b }) => {
                (noise(a), noise(b)).prop_map(|(a, b)| Term::Kron(Kron { a, b })).boxed()
            }
            Term::Hadamard(Hadamard { first, second }) => (noise(first), noise(second))
                .prop_map(|(first, second)| Term::Hadamard(Hadamard { first, second }))
                .boxed(),
        }
    }

    proptest! {
        #[test]
        fn of_every_pair_of_kinds_are_the_dense_ones((x, y) in pair()) {
            let (dense_x, dense_y) = (dense_term(&x), dense_term(&y));
            let (nx, ny) = (dense_x.norm_l2(), dense_y.norm_l2());
            let (x, y) = (Delta::of(1.0, x), Delta::of(1.0, y));
            let inner = gram(&[&x, &y]);
            // Hadamard and low-rank factors can cancel within a term.
            near(inner[(0, 1)], dot(&dense_x, &dense_y), 1e-10 * nx * ny)?;
            near(inner[(0, 0)], nx * nx, 1e-10 * nx * nx)?;
            near(norm(&y), ny, 1e-10 * ny)?;
        }

        #[test]
        fn of_sums_make_a_symmetric_positive_semidefinite_gram_matrix(
            deltas in shape().prop_flat_map(|shape| proptest::collection::vec(sum_of(term(shape)), 1..5)),
        ) {
            let n = deltas.len();
            let inner = gram(&deltas.iter().collect::<Vec<_>>());
            prop_assert_eq!(inner.shape(), (n, n));
            let sizes: Vec<f64> = deltas.iter().map(size).collect();
            let dense: Vec<_> = deltas.iter().map(dense).collect();
            for i in 0..n {
                for j in 0..n {
                    prop_assert_eq!(inner[(i, j)], inner[(j, i)]);
                    near(inner[(i, j)], dot(&dense[i], &dense[j]), 1e-10 * sizes[i] * sizes[j])?;
                }
            }
            let least = inner.self_adjoint_eigenvalues(Side::Lower).unwrap()[0];
            let trace: f64 = sizes.iter().map(|size| size * size).sum();
            prop_assert!(least >= -1e-10 * trace, "{least:e}");
        }
    }
}

mod cores {
    use super::*;

    proptest! {
        #[test]
        fn have_the_singular_values_and_the_norm_of_the_delta(delta in delta()) {
            let (want, allowed) = (dense(&delta), ROUNDING * size(&delta));
            let core = Core::of(&delta).matrix;
            near(core.norm_l2(), want.norm_l2(), allowed)?;
            let (got, want) = (core.singular_values().unwrap(), want.singular_values().unwrap());
            for i in 0..got.len().max(want.len()) {
                let sigma = |values: &[f64]| values.get(i).copied().unwrap_or(0.0);
                near(sigma(&got), sigma(&want), allowed)?;
            }
        }

        #[test]
        fn of_lokrs_of_one_split_grow_with_their_inner_ranks_alone(
            (split, terms) in (1_usize..4, 1_usize..4, 8_usize..12, 8_usize..12).prop_flat_map(|(a, c, b, d)| {
                let split = Split { a, c, b, d };
                let one = (full(a, c), product(b, d, 1..3)).prop_map(|(a, b)| Term::Kron(Kron { a, b }));
                (Just(split), proptest::collection::vec((weight(), one), 1..4))
            }),
        ) {
            let delta = sum(&terms);
            let ranks: usize = terms
                .iter()
                .map(|(_, term)| match term {
                    Term::Kron(kron) => kron.b.rank(),
                    _ => unreachable!(),
                })
                .sum();
            let core = Core::of(&delta).matrix;
            let smaller = split.a * ranks <= delta.lifted_rank() && split.c * ranks <= delta.lifted_rank();
            if smaller {
                prop_assert_eq!(core.shape(), (split.a * ranks, split.c * ranks));
            }
            let (got, want) = (core.singular_values().unwrap(), dense(&delta).singular_values().unwrap());
            for (got, want) in got.iter().zip(&want) {
                near(*got, *want, ROUNDING * size(&delta))?;
            }
        }
    }
}

/// How a delta is fitted, in float64 throughout.
fn options(format: Format) -> FitOptions {
    FitOptions { format, dtype: Dtype::F64, factor: None, match_norm: false }
}

/// What is chosen for a linear layer under a rank limit, and what is stored for it, entry by entry.
fn fit(delta: &Delta<f64>, options: &FitOptions, rank: Option<usize>) -> (Choice, Term<f64>, Mat<f64>) {
    let shape = WeightShape { rows: delta.rows(), cols: delta.cols(), dims: Dims::Kernel(Vec::new()) };
    let joint = Joint::new(delta);
    let fitter = Fitter::new(&joint, &shape, options);
    let bound = Bound::new(0.0, rank, Dtype::F64);
    let choice = fitter.choose(bound).unwrap();
    let (term, scale) = fitter.make(choice).unwrap();
    let stored = dense_term(&term) * Scale(scale);
    (choice, term, stored)
}

/// The split of a Kronecker term.
fn split_of(term: &Term<f64>) -> Split {
    match term {
        Term::Kron(kron) => kron.split(),
        _ => panic!("{term:?} is no Kronecker product"),
    }
}

/// Kronecker fits find the squares of errors: below this an error is their rounding.
const ROOT: f64 = 1e-6;

mod fits {
    use super::*;

    proptest! {
        #[test]
        fn of_low_rank_lose_exactly_the_tail(delta in delta(), rank in 1_usize..8) {
            let truth = dense(&delta);
            let (choice, term, stored) = fit(&delta, &options(Format::Lora), Some(rank));
            let best = tail(&truth.singular_values().unwrap(), rank);
            let allowed = 1e-9 * size(&delta) / truth.norm_l2();
            near(choice.point.error, best, allowed)?;
            near(distance(&stored, &truth), best, allowed)?;
            let Term::Plain(Factor::Product { left, .. }) = &term else { panic!("{term:?} is no LoRA") };
            prop_assert!(left.ncols() <= rank);
        }

        #[test]
        fn of_low_rank_hold_a_sum_of_lohas_at_the_rank_of_their_products(
            delta in shape().prop_flat_map(|shape| sum_of(hadamard(shape, 1..4))),
        ) {
            let rank = |term: &Term<f64>| match term {
                Term::Hadamard(hadamard) => hadamard.first.rank() * hadamard.second.rank(),
                _ => unreachable!(),
            };
            let ranks = delta.terms().iter().map(|(_, term)| rank(term)).sum();
            let (choice, _, stored) = fit(&delta, &options(Format::Lora), Some(ranks));
            prop_assert!(choice.point.rank <= ranks);
            same(&stored, &dense(&delta), ROUNDING * size(&delta))?;
        }

        #[test]
        fn of_one_kronecker_product_are_the_optimum(
            delta in shape().prop_flat_map(|shape| prop_oneof![
                2 => split(shape).prop_flat_map(|split| sum_of(kron(split))),
                1 => (split(shape).prop_flat_map(kron), sum_of(term(shape)), weight()).prop_map(|(kron, mut sum, weight)| {
                    sum.add_scaled(weight, &Delta::of(1.0, kron));
                    sum
                }),
            ]),
        ) {
            let truth = dense(&delta);
            let (choice, term, stored) = fit(&delta, &options(Format::Lokr), None);
            let sigma = rearranged(&truth, split_of(&term)).singular_values().unwrap();
            let allowed = ROOT * size(&delta) / truth.norm_l2();
            near(choice.point.error, tail(&sigma, 1), allowed)?;
            near(distance(&stored, &truth), tail(&sigma, 1), allowed)?;
        }

        #[test]
        fn of_one_kronecker_product_are_no_worse_than_any_input_however_scaled(
            terms in shape().prop_flat_map(split).prop_flat_map(|split| {
                proptest::collection::vec((weight(), kron(split)), 2..4)
            }),
        ) {
            let delta = sum(&terms);
            let truth = dense(&delta);
            let (choice, ..) = fit(&delta, &options(Format::Lokr), None);
            for (_, term) in &terms {
                let own = dense_term(term);
                let cosine = dot(&own, &truth) / own.norm_l2() / truth.norm_l2();
                let error = (1.0 - cosine * cosine).max(0.0).sqrt();
                prop_assert!(choice.point.error <= error + ROOT, "{} {error}", choice.point.error);
            }
        }

        #[test]
        fn of_one_kronecker_product_say_what_a_rank_of_w2_costs(
            delta in shape().prop_flat_map(split).prop_flat_map(|split| sum_of(kron(split))),
            rank in 1_usize..6,
        ) {
            let truth = dense(&delta);
            let (choice, term, stored) = fit(&delta, &options(Format::Lokr), Some(rank));
            if choice.form == Form::Lokr {
                let Term::Kron(kron) = &term else { unreachable!() };
                prop_assert!(kron.b.rank() <= rank);
            }
            near(choice.point.error, distance(&stored, &truth), ROOT * size(&delta) / truth.norm_l2())?;
        }

        #[test]
        fn with_a_w1_of_one_hold_anything(delta in delta()) {
            let unit = FitOptions { factor: Some(1), ..options(Format::Lokr) };
            let (_, term, stored) = fit(&delta, &unit, None);
            let Split { a, c, .. } = split_of(&term);
            prop_assert_eq!((a, c), (1, 1));
            same(&stored, &dense(&delta), ROUNDING * size(&delta))?;
        }

        #[test]
        fn of_a_loha_leave_a_loha_as_it_is(
            (term, weight) in (shape().prop_flat_map(|shape| hadamard(shape, 1..4)), weight()),
        ) {
            let delta = Delta::of(weight, term);
            let (_, _, stored) = fit(&delta, &options(Format::Loha), None);
            same(&stored, &dense(&delta), ROUNDING * size(&delta))?;
        }

        #[test]
        fn of_lohas_stay_where_one_loha_is_nearly_everything(
            (most, little) in (12_usize..24, 12_usize..24, 1_usize..4).prop_flat_map(|(m, n, rank)| {
                [hadamard((m, n), rank..rank + 1), hadamard((m, n), rank..rank + 1)]
            }).prop_map(|[most, little]| (most, little)),
            weight in weight(),
        ) {
            let delta = sum(&[(weight, most), (1e-6, little)]);
            let (choice, _, stored) = fit(&delta, &options(Format::Loha), None);
            prop_assert!(choice.point.error < 1e-4, "{}", choice.point.error);
            near(choice.point.error, distance(&stored, &dense(&delta)), 1e-9)?;
        }

        #[test]
        fn of_lohas_are_no_worse_than_the_average_of_the_factors(
            (x, y) in (12_usize..24, 12_usize..24, 1_usize..4).prop_flat_map(|(m, n, rank)| {
                let half = move || product(m, n, rank..rank + 1);
                ((half(), half()), (half(), half()))
            }),
        ) {
            let mean = |x: &Factor<f64>, y: &Factor<f64>| match (x, y) {
                (Factor::Product { left: a, right: b }, Factor::Product { left: c, right: d }) => {
                    Factor::Product { left: (a + c) * Scale(0.5), right: (b + d) * Scale(0.5) }
                }
                _ => unreachable!(),
            };
            let average = Term::Hadamard(Hadamard { first: mean(&x.0, &y.0), second: mean(&x.1, &y.1) });
            let term = |(first, second)| Term::Hadamard(Hadamard { first, second });
            let delta = sum(&[(0.5, term(x)), (0.5, term(y))]);
            let truth = dense(&delta);
            let (choice, _, stored) = fit(&delta, &options(Format::Loha), None);
            near(choice.point.error, distance(&stored, &truth), 1e-9)?;
            prop_assert!(choice.point.error <= distance(&dense_term(&average), &truth) + 1e-9);
            // The square-root start and the strongest input compete too: zero is never the better answer.
            prop_assert!(choice.point.error < 1.0);
        }

        #[test]
        fn scaled_to_the_true_norm_have_the_error_of_the_angle(delta in delta(), rank in 1_usize..4) {
            let truth = dense(&delta);
            let matched = FitOptions { match_norm: true, ..options(Format::Lora) };
            let (choice, _, stored) = fit(&delta, &matched, Some(rank));
            let e = choice.point.error;
            let error = (2.0 * (1.0 - (1.0 - e * e).max(0.0).sqrt())).max(0.0).sqrt();
            let allowed = ROOT * size(&delta) / truth.norm_l2();
            near(distance(&stored, &truth), error, allowed)?;
            near(stored.norm_l2() / truth.norm_l2(), 1.0, allowed)?;
        }
    }
}

mod certificates {
    use super::*;

    /// In both of the number types that merges are made in.
    fn agrees(stored: &Delta<f64>, truth: &Delta<f64>) -> Result<(), TestCaseError> {
        agrees_in::<f64>(stored, truth)?;
        agrees_in::<f32>(stored, truth)
    }

    fn agrees_in<T: Real>(stored: &Delta<f64>, truth: &Delta<f64>) -> Result<(), TestCaseError> {
        let (in_stored, in_truth) = (stored.cast::<T>(), truth.cast::<T>());
        let certificate = Certificate::of(&in_stored, &Joint::new(&in_truth));
        // What the type made of the numbers is what is compared.
        let (stored, truth) = (&in_stored.cast::<f64>(), &in_truth.cast::<f64>());
        let (dense_stored, dense_truth) = (dense(stored), dense(truth));
        let distance = (&dense_stored - &dense_truth).norm_l2();
        // What the dense sums lose themselves.
        let lost = ROUNDING * (size(stored) + size(truth));
        near(certificate.distance, distance, 0.01 * distance + lost)?;
        near(certificate.norm, dense_truth.norm_l2(), 0.01 * dense_truth.norm_l2() + lost)?;
        near(certificate.stored_norm, dense_stored.norm_l2(), 0.01 * dense_stored.norm_l2() + lost)
    }

    proptest! {
        #[test]
        fn say_the_dense_error_however_small(
            (truth, noise, kind) in shape().prop_flat_map(|shape| (sum_of(term(shape)), term(shape), term(shape))),
            power in 0_i32..14,
        ) {
            let mut stored = truth.clone();
            stored.add_scaled(10_f64.powi(-power), &Delta::of(1.0, noise));
            agrees(&stored, &truth)?;
            agrees(&truth, &stored)?;
            agrees(&Delta::of(1.0, kind), &truth)?;
        }

        #[test]
        fn say_the_dense_error_where_terms_cancel(
            (term, rest, noise) in shape().prop_flat_map(|shape| (term(shape), term(shape), term(shape))),
            power in 0_i32..9,
        ) {
            // The same matrix in another form, so that only the sums cancel.
            let other = Term::Plain(Factor::Full(dense_term(&term)));
            let small = 10_f64.powi(-power);
            let truth = sum(&[(1.0, term), (-1.0, other), (small, rest)]);
            let mut stored = truth.clone();
            stored.add_scaled(0.1 * small, &Delta::of(1.0, noise));
            agrees(&stored, &truth)?;
            agrees(&Delta::of(1.0, Term::Plain(Factor::Full(dense(&stored)))), &truth)?;
        }
    }
}

mod long_columns {
    use super::*;

    /// Float32 loses most where few long columns are added up.
    #[test]
    fn leave_certificates_in_float32_within_a_hundredth() {
        let mut state = 7_u64;
        let mut noise = |rows: usize, cols: usize, shift: f64| {
            Mat::from_fn(rows, cols, |_, _| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                f64::from(((state >> 33) as f64 / 2_f64.powi(31) - 0.5 + shift) as f32)
            })
        };
        for (m, n, rank) in [(8192, 8192, 2), (4096, 4096, 16), (320, 320, 8), (1280, 1280, 96)] {
            for shift in [0.0, 0.5] {
                let (left, right) = (noise(m, rank, shift), noise(rank, n, shift));
                let error = noise(m, rank, 0.0);
                for size in [0.01, 0.03, 0.1, 0.3] {
                    let near = Mat::from_fn(m, rank, |i, j| {
                        f64::from((left[(i, j)] * (1.0 + size * error[(i, j)])) as f32)
                    });
                    let of = |left: &Mat<f64>| {
                        let product = Factor::Product { left: left.clone(), right: right.clone() };
                        Delta::of(1.0, Term::Plain(product))
                    };
                    let (stored, truth) = (of(&near), of(&left));
                    let exact = Certificate::of(&stored, &Joint::new(&truth)).error();
                    let got =
                        Certificate::of(&stored.cast::<f32>(), &Joint::new(&truth.cast::<f32>())).error();
                    assert!((got - exact).abs() <= 0.01 * exact, "{m}x{n} rank {rank}: {got:e}, {exact:e}");
                }
            }
        }
    }
}

mod merges {
    use super::*;

    /// The delta of the file that merging these makes, stored in float64 and held exactly.
    fn merge(inputs: &[(&Adapter, f64)]) -> (Adapter, Mat<f64>) {
        let mut merge = Merge::new();
        for (adapter, weight) in inputs {
            let copy = Adapter::from_bytes("memory", adapter.file().bytes().to_vec()).unwrap();
            merge.add(copy.into(), *weight).unwrap();
        }
        for (name, value) in [("dtype", "float64"), ("tolerance", "1e-12"), ("threads", "1")] {
            merge.options.set(name, value).unwrap();
        }
        let (bytes, _) = merge.run_in_memory(&mut |_| true).unwrap();
        let merged = Adapter::from_bytes("memory", bytes).unwrap();
        let (id, layer) = merged.layers().first_key_value().unwrap();
        let delta = dense(&merged.delta(id, layer).unwrap());
        (merged, delta)
    }

    fn three() -> impl Strategy<Value = [Term<f64>; 3]> {
        shape().prop_flat_map(|shape| [term(shape), term(shape), term(shape)])
    }

    /// What a merge to a tolerance of 1e-12 may lose.
    const LOST: f64 = 1e-10;

    proptest! {
        #[test]
        fn are_linear(terms in three(), weights in [weight(), weight(), weight()]) {
            let files = terms.each_ref().map(files::adapter);
            let truth = sum(&std::array::from_fn::<_, 3, _>(|i| (weights[i], terms[i].clone())));
            let inputs: [(&Adapter, f64); 3] = std::array::from_fn(|i| (&*files[i], weights[i]));
            same(&merge(&inputs).1, &dense(&truth), LOST * size(&truth))?;
        }

        #[test]
        fn in_two_steps_are_the_merge_at_once(
            terms in three(),
            (p, q, r, s) in (weight(), weight(), weight(), weight()),
        ) {
            let [a, b, c] = terms.each_ref().map(files::adapter);
            let first = merge(&[(&a, p), (&b, q)]).0;
            let stepwise = merge(&[(&first, r), (&c, s)]).1;
            let at_once = merge(&[(&a, r * p), (&b, r * q), (&c, s)]).1;
            same(&stepwise, &at_once, LOST * terms.iter().map(|term| 4.0 * dense_term(term).norm_l2()).sum::<f64>())?;
        }

        #[test]
        fn of_any_number_of_inputs_are_their_sum(
            terms in shape().prop_flat_map(|shape| prop::collection::vec(term(shape), 1..120)),
        ) {
            let files: Vec<_> = terms.iter().map(files::adapter).collect();
            let weighed = |i: usize| if i.is_multiple_of(3) { -0.5 } else { 0.7 };
            let inputs: Vec<_> = files.iter().enumerate().map(|(i, file)| (&**file, weighed(i))).collect();
            let mut truth = Delta::zero(terms[0].shape().0, terms[0].shape().1);
            for (i, term) in terms.iter().enumerate() {
                truth.add_scaled(weighed(i), &Delta::of(1.0, term.clone()));
            }
            same(&merge(&inputs).1, &dense(&truth), LOST * size(&truth))?;
        }

        #[test]
        fn do_not_depend_on_the_order_of_the_inputs(terms in three(), (p, q, r) in (weight(), weight(), weight())) {
            let [a, b, c] = terms.each_ref().map(files::adapter);
            let one = merge(&[(&a, p), (&b, q), (&c, r)]).1;
            let other = merge(&[(&c, r), (&a, p), (&b, q)]).1;
            same(&one, &other, LOST * terms.iter().map(|term| 2.0 * dense_term(term).norm_l2()).sum::<f64>())?;
        }

        #[test]
        fn of_one_model_with_itself_add_the_weights_and_keep_the_family(
            term in shape().prop_flat_map(term),
            (p, q) in (weight(), weight()),
        ) {
            let file = files::adapter(&term);
            let (merged, got) = merge(&[(&file, p), (&file, q)]);
            let weight = p + q;
            same(&got, &(dense_term(&term) * Scale(weight)), LOST * dense_term(&term).norm_l2())?;
            let (before, after) =
                (file.layers().first_key_value().unwrap().1, merged.layers().first_key_value().unwrap().1);
            prop_assert_eq!(before.family, after.family);
            prop_assert!(after.rank <= before.rank);
        }

        #[test]
        fn of_the_halves_of_a_lora_are_the_lora(
            (left, right, cut) in (shape(), 2_usize..8).prop_flat_map(|((m, n), rank)| {
                (matrix(m, rank), matrix(rank, n), 1..rank)
            }),
        ) {
            let half = |range: std::ops::Range<usize>| {
                let (left, right) = (left.get(.., range.clone()).to_owned(), right.get(range, ..).to_owned());
                files::adapter(&Term::Plain(Factor::Product { left, right }))
            };
            let (a, b) = (half(0..cut), half(cut..left.ncols()));
            let whole = &left * &right;
            same(&merge(&[(&a, 1.0), (&b, 1.0)]).1, &whole, LOST * left.norm_l2() * right.norm_l2())?;
        }
    }

    /// Trainers leave such layers behind: a factor that starts at zero and never gets a gradient.
    #[test]
    fn of_layers_without_effect_stay_without_effect_in_every_form() {
        let product = |left: f64, right: f64| Factor::Product {
            left: Mat::from_fn(12, 2, |i, j| left * (1 + i + j) as f64),
            right: Mat::from_fn(2, 12, |i, j| right * (2 + i * j) as f64),
        };
        let inner = |x: f64| Factor::Full(Mat::from_fn(6, 6, |i, j| x * (1 + i * j) as f64));
        let outer = |x: f64| Factor::Full(Mat::from_fn(2, 2, |i, j| x + (i + j) as f64));
        let of_family: [&dyn Fn(f64) -> Term<f64>; 4] = [
            &|x| Term::Plain(product(x, 0.0)),
            &|x| Term::Kron(Kron { a: outer(x), b: inner(0.0) }),
            &|x| Term::Hadamard(Hadamard { first: product(x, 1.0), second: product(1.0, 0.0) }),
            &|_| Term::Plain(Factor::Full(Mat::zeros(12, 12))),
        ];
        for term in of_family {
            let (a, b) = (files::adapter(&term(1.0)), files::adapter(&term(2.0)));
            for options in [
                vec![],
                vec![("quality", "good")],
                vec![("quality", "compact")],
                vec![("format", "lora"), ("rank", "1")],
                vec![("format", "lokr"), ("factor", "2")],
                vec![("format", "loha")],
                vec![("format", "full")],
            ] {
                let mut merge = Merge::new();
                merge.add(Arc::clone(&a), 1.0).unwrap();
                merge.add(Arc::clone(&b), 0.5).unwrap();
                options.iter().for_each(|(name, value)| merge.options.set(name, value).unwrap());
                let forecast = merge.forecast(&mut |_| true).unwrap();
                assert_eq!(forecast.error, 0.0, "{options:?}");
                let (bytes, report) = merge.run_in_memory(&mut |_| true).unwrap();
                assert_eq!(report.error, 0.0, "{options:?}");
                let merged = Adapter::from_bytes("memory", bytes).unwrap();
                let (id, layer) = merged.layers().first_key_value().unwrap();
                assert_eq!(dense(&merged.delta(id, layer).unwrap()).norm_l2(), 0.0, "{options:?}");
            }
        }
    }
}
