//! What a run says about itself: the certificate by layer and for the file, and what was stored.

use std::path::PathBuf;

use serde::Serialize;

use crate::adapter::NewTensor;
use crate::compute::simd::wide;
use crate::merge::recipe::Recipe;
use crate::tensor::TensorView;

/// The report of a merge; its JSON is written by `--metadata`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of lycomerge that made it.
    pub lycomerge: &'static str,
    /// What was asked for.
    pub recipe: Recipe,
    /// Where the output went; none in memory.
    pub output: Option<PathBuf>,
    /// The output's size.
    pub bytes: u64,
    /// What merged the entries: `cpu`, or a GPU by its number and name.
    pub device: String,
    /// ‖stored − true‖ / ‖true‖ over the whole file.
    pub error: f64,
    /// The part of the error that no scaling of the layers could mend.
    pub direction_error: f64,
    /// ‖stored‖ / ‖true‖ over the whole file.
    pub norm_ratio: Option<f64>,
    /// What it cost to store entries that were merged in full space at low rank, over the layers where that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<f64>,
    /// The tolerance that `max-size` came to.
    pub tolerance: Option<f64>,
    /// The layers, in the order of the file.
    pub layers: Vec<LayerReport>,
    /// Layers and tensors that were left out because they could not be understood.
    pub skipped: usize,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// One parameter's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// The module's name.
    pub name: String,
    /// `weight` or `bias`.
    pub param: &'static str,
    /// The family that it is stored as.
    pub family: &'static str,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// The stored inner rank, where there is one.
    pub rank: Option<usize>,
    /// The indices of the inputs that have the layer.
    pub inputs: Vec<usize>,
    /// The coefficients of those inputs' deltas; before block weights, for strategies that don't take them.
    pub coefficients: Vec<f64>,
    /// The space that entries were merged in, where a rule looked at entries: `full`, `core` or `knots`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<&'static str>,
    /// What `match-norm inputs` multiplied the merge by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<f64>,
    /// ‖true‖
    pub norm: f64,
    /// ‖stored − true‖ / ‖true‖
    pub error: f64,
    /// The part of the error that no scaling could mend.
    pub direction_error: f64,
    /// The stored tensors.
    pub tensors: Vec<TensorReport>,
}

/// The numbers of one stored tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// The suffix after the module's name.
    pub suffix: &'static str,
    /// Extents.
    pub shape: Vec<usize>,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
    /// The smallest number.
    pub min: f64,
    /// The largest number.
    pub max: f64,
    /// √Σx²
    pub norm: f64,
}

impl TensorReport {
    /// Reads the numbers back from the bytes that are stored.
    pub(crate) fn of(tensor: &NewTensor) -> Self {
        let NewTensor { suffix, shape, dtype, data } = tensor;
        /// Independent sums, so that the additions need not wait for each other.
        const LANES: usize = 16;
        /// Read at once, so that they stay in a core's cache.
        const BLOCK: usize = 1 << 12;
        let view = TensorView { dtype: *dtype, shape, data };
        let (n, mut block) = (view.len() as f64, Vec::<f32>::new());
        let (mut sums, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for start in (0..view.len()).step_by(BLOCK) {
            view.read_into(start..view.len().min(start + BLOCK), &mut block);
            let mut add = |numbers: &[f32]| {
                for (lane, x) in numbers.iter().enumerate() {
                    sums[lane] += f64::from(*x);
                    squares[lane] += f64::from(*x) * f64::from(*x);
                    // Not `f32::min`, whose care for NaN keeps it out of vector registers; none is stored.
                    min[lane] = if *x < min[lane] { *x } else { min[lane] };
                    max[lane] = if *x > max[lane] { *x } else { max[lane] };
                }
            };
            wide(|| {
                let (chunks, rest) = block.as_chunks::<LANES>();
                chunks.iter().for_each(|chunk| add(chunk));
                add(rest);
            });
        }
        let (sum, squared) = (sums.iter().sum::<f64>(), squares.iter().sum::<f64>());
        let min = f64::from(min.into_iter().fold(f32::INFINITY, f32::min));
        let max = f64::from(max.into_iter().fold(f32::NEG_INFINITY, f32::max));
        let mean = sum / n;
        let std = (squared / n - mean * mean).max(0.0).sqrt();
        Self { suffix, shape: shape.clone(), mean, std, min, max, norm: squared.sqrt() }
    }
}

impl Report {
    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
