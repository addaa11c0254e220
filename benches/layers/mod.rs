//! Layers at the sizes of real ones, the same in every run, and their fits: what the benches here measure.
//!
//! A layer is the sum of three adapters, as in the workloads: LoRA of dim 32, LoHa of dim 8, LoKr of factor 8 and dim
//! 16.

use faer::Mat;
use lycomerge::adapter::{Dims, WeightShape};
use lycomerge::delta::joint::Joint;
use lycomerge::delta::{Delta, Factor, Hadamard, Kron, Term};
use lycomerge::fit::{Bound, FitOptions, Fitter, Format};
use lycomerge::tensor::{Dtype, Real};

/// What an adapter of a layer is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Lora,
    Loha,
    Lokr,
}

/// Numbers in −1 … 1 by a multiplicative congruence: good enough to be of full rank, and the same in every run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
    }

    fn matrix<T: Real>(&mut self, rows: usize, cols: usize) -> Mat<T> {
        Mat::from_fn(rows, cols, |_, _| T::from_f64(self.next()))
    }

    /// A product whose inner axis fades, as trained ones do.
    fn product<T: Real>(&mut self, rows: usize, rank: usize, cols: usize) -> Factor<T> {
        let mut left = self.matrix::<T>(rows, rank);
        for j in 0..rank {
            let faded = T::from_f64(1.0 / (j + 1) as f64);
            for i in 0..rows {
                left[(i, j)] *= faded;
            }
        }
        Factor::Product { left, right: self.matrix(rank, cols) }
    }

    fn term<T: Real>(&mut self, kind: Kind, size: usize) -> Term<T> {
        match kind {
            Kind::Lora => Term::Plain(self.product(size, 32, size)),
            Kind::Loha => Term::Hadamard(Hadamard {
                first: self.product(size, 8, size),
                second: self.product(size, 8, size),
            }),
            Kind::Lokr => Term::Kron(Kron {
                a: Factor::Full(self.matrix(8, 8)),
                b: self.product(size / 8, 16, size / 8),
            }),
        }
    }
}

/// A LoRA's, a LoHa's and a LoKr's layer.
pub(crate) fn one_of_each<T: Real>(size: usize) -> [Delta<T>; 3] {
    let mut noise = Noise(1);
    [Kind::Lora, Kind::Loha, Kind::Lokr].map(|kind| Delta::of(0.5, noise.term(kind, size)))
}

/// The sum of three layers of a kind.
pub(crate) fn layer<T: Real>((kind, size): (Kind, usize)) -> Delta<T> {
    let mut noise = Noise(1);
    let mut sum = Delta::zero(size, size);
    for _ in 0..3 {
        sum.add_scaled(1.0, &Delta::of(0.5, noise.term(kind, size)));
    }
    sum
}

/// A fit of a square layer, to the balanced term and its scale: the least error at a rank or within a tolerance.
pub(crate) fn fit(
    joint: &Joint<'_, f32>,
    size: usize,
    format: Format,
    tolerance: f64,
    rank: Option<usize>,
) -> (Term<f32>, f64) {
    let shape = WeightShape { rows: size, cols: size, dims: Dims::Kernel(Vec::new()) };
    let options = FitOptions { format, dtype: Dtype::F16, factor: None, match_norm: false };
    let bound = Bound { rank_only: rank.is_some(), ..Bound::new(tolerance, rank, Dtype::F16) };
    let fitter = Fitter::new(joint, &shape, &options);
    let choice = fitter.choose(bound).expect("the decomposition converges");
    fitter.make(choice).expect("the decomposition converges")
}
