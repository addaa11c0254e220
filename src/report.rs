//! What a run says about itself: the certificate by layer and for the file, and what was stored.

use std::path::PathBuf;

use serde::Serialize;

use crate::adapter::NewTensor;
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
    /// ‖stored − true‖ / ‖true‖ over the whole file.
    pub error: f64,
    /// The part of the error that no scaling of the layers could mend.
    pub direction_error: f64,
    /// ‖stored‖ / ‖true‖ over the whole file.
    pub norm_ratio: Option<f64>,
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
    /// The coefficients of those inputs' deltas.
    pub coefficients: Vec<f64>,
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
        let numbers: Vec<f64> = TensorView { dtype: *dtype, shape, data }.to_reals();
        let n = numbers.len() as f64;
        let (mut sum, mut squares, mut min, mut max) = (0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for x in &numbers {
            sum += x;
            squares += x * x;
            min = min.min(*x);
            max = max.max(*x);
        }
        let mean = sum / n;
        let std = (squares / n - mean * mean).max(0.0).sqrt();
        Self { suffix, shape: shape.clone(), mean, std, min, max, norm: squares.sqrt() }
    }
}

impl Report {
    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
