//! The inner kernels one by one, through the public interface, at the sizes of real layers.
//!
//! ```text
//! cargo bench --bench kernels                   # all of them, about a minute
//! cargo bench --bench kernels -- convert        # those with a name like this
//! ```

mod layers;

use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan, black_box};
use lycomerge::delta::core::Core;
use lycomerge::delta::gram;
use lycomerge::delta::joint::Joint;
use lycomerge::fit::Format;
use lycomerge::tensor::{Dtype, Real, TensorView, encode};

use layers::{Kind, Noise, layer, one_of_each};

/// Enough for stable medians, little enough for a minute in all.
const TIME: Duration = Duration::from_millis(1500);

fn main() {
    Divan::default().max_time(TIME).config_with_args().main();
}

const SQUARES: [usize; 3] = [640, 1280, 3072];
const LAYERS: [(Kind, usize); 6] = [
    (Kind::Lora, 1280),
    (Kind::Lora, 3072),
    (Kind::Loha, 640),
    (Kind::Loha, 1280),
    (Kind::Lokr, 1280),
    (Kind::Lokr, 3072),
];
const READ: [Dtype; 4] = [Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2];
const WRITTEN: [Dtype; 2] = [Dtype::F16, Dtype::BF16];
/// The numbers of one tensor to convert.
const NUMBERS: usize = 1280 * 1280;

fn bytes_of(dtype: Dtype) -> Vec<u8> {
    // A byte pattern that is no NaN or infinity in any of the dtypes.
    (0..NUMBERS * dtype.size()).map(|i| (i * 37 % 96) as u8).collect()
}

fn convert<T: Real>(bencher: Bencher<'_, '_>, dtype: Dtype) {
    let (data, shape) = (bytes_of(dtype), [NUMBERS]);
    let view = TensorView { dtype, shape: &shape, data: &data };
    bencher.counter(ItemsCount::new(NUMBERS)).bench_local(|| black_box(view).to_reals::<T>());
}

#[divan::bench(args = READ)]
fn convert_to_f32(bencher: Bencher<'_, '_>, dtype: Dtype) {
    convert::<f32>(bencher, dtype);
}

#[divan::bench(args = READ)]
fn convert_to_f64(bencher: Bencher<'_, '_>, dtype: Dtype) {
    convert::<f64>(bencher, dtype);
}

#[divan::bench(args = WRITTEN)]
fn convert_from_f32(bencher: Bencher<'_, '_>, dtype: Dtype) {
    let mut noise = Noise(1);
    let reals: Vec<f32> = (0..NUMBERS).map(|_| noise.next() as f32).collect();
    let mut out = Vec::with_capacity(NUMBERS * dtype.size());
    bencher.counter(ItemsCount::new(NUMBERS)).bench_local(|| {
        out.clear();
        encode(black_box(&reals), dtype, &mut out).expect("the numbers are small");
        black_box(&out);
    });
}

/// ΔW of three LoKrs, accumulated tile by tile.
#[divan::bench(args = SQUARES)]
fn kronecker_accumulate(bencher: Bencher<'_, '_>, size: usize) {
    let delta = layer::<f32>((Kind::Lokr, size));
    bencher.counter(BytesCount::new(4 * size * size)).bench_local(|| black_box(&delta).to_full());
}

/// Three LoHas as one product.
#[divan::bench(args = SQUARES)]
fn khatri_rao(bencher: Bencher<'_, '_>, size: usize) {
    let delta = layer::<f32>((Kind::Loha, size));
    let bytes = 4 * delta.lifted_rank() * 2 * size;
    bencher.counter(BytesCount::new(bytes)).bench_local(|| black_box(&delta).to_product());
}

/// The largest entry, from tiles.
#[divan::bench(args = LAYERS)]
fn tile_range(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    let delta = layer::<f32>(at);
    bencher.counter(ItemsCount::new(at.1 * at.1)).bench_local(|| black_box(&delta).peak());
}

/// The joint spaces and the small matrix between them.
#[divan::bench(args = LAYERS)]
fn qr_core(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    let delta = layer::<f32>(at);
    bencher.bench_local(|| Core::of(black_box(&delta)));
}

fn fit(bencher: Bencher<'_, '_>, at: (Kind, usize), format: Format, tolerance: f64, rank: Option<usize>) {
    let delta = layer::<f32>(at);
    bencher.bench_local(|| layers::fit(&Joint::new(black_box(&delta)), at.1, format, tolerance, rank));
}

/// QR, core, SVD and the factors of the nearest LoRA.
#[divan::bench(args = [(Kind::Lora, 1280), (Kind::Lora, 3072), (Kind::Loha, 1280)])]
fn fit_lora_rank_32(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    fit(bencher, at, Format::Lora, 0.0, Some(32));
}

/// The same from cores of 384.
#[divan::bench(args = [(Kind::Lokr, 1280), (Kind::Lokr, 3072)])]
fn fit_lora_rank_64(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    fit(bencher, at, Format::Lora, 0.0, Some(64));
}

/// Every singular value, and as many vectors as 1 % needs.
#[divan::bench(args = [(Kind::Loha, 640), (Kind::Loha, 1280), (Kind::Lokr, 1280)])]
fn fit_auto(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    fit(bencher, at, Format::Auto, 0.01, None);
}

/// The nearest Kronecker product.
#[divan::bench(args = [(Kind::Lokr, 1280), (Kind::Lokr, 3072)])]
fn fit_lokr(bencher: Bencher<'_, '_>, at: (Kind, usize)) {
    fit(bencher, at, Format::Lokr, 0.0, None);
}

/// The nine inner products of a LoRA, a LoHa and a LoKr.
#[divan::bench(args = SQUARES)]
fn gram_of_three(bencher: Bencher<'_, '_>, size: usize) {
    let deltas = one_of_each::<f32>(size);
    bencher.bench_local(|| gram::gram(black_box(&deltas.each_ref())));
}
