//! What a merge says about its result.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;

use super::adapter::lyco_param;
use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Unique};
use super::sized::{self, Sized32};
use super::text;
use crate::adapter::Param;
use crate::merge::bake::BakeReport;
use crate::merge::extract::ExtractReport;
use crate::report::{LayerReport, Report};

/// What a merge says about its result: how exact it is, as a whole and by layer.
///
/// It never changes, so any number of threads may read it. Its strings live as long as it does.
pub struct lyco_report {
    json: CString,
    error: f64,
    layers: Vec<Row>,
}

/// A layer as C reads it.
struct Row {
    name: CString,
    family: CString,
    param: lyco_param,
    rank: u64,
    norm: f64,
    relative_error: f64,
    direction_error: f64,
}

/// What is said of one layer. Set struct_size before asking for it; the strings live as long as the report.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_layer_report {
    /// sizeof(lyco_layer_report).
    pub struct_size: u32,
    /// Which parameter of the module is changed: a lyco_param.
    pub param: u32,
    /// The module's name.
    pub name: *const c_char,
    /// How it is stored; see lyco_family_name().
    pub family: *const c_char,
    /// The stored inner rank; 0 where there is none.
    pub rank: u64,
    /// |true|: the Frobenius norm of what the inputs do together.
    pub norm: f64,
    /// |stored - true| / |true|
    pub relative_error: f64,
    /// The part of it that no scaling of the layer could mend.
    pub direction_error: f64,
}

// SAFETY: two u32, then pointers and 64-bit numbers, all of which may be zero.
unsafe impl Sized32 for lyco_layer_report {}

impl Row {
    fn of(layer: &LayerReport) -> Self {
        let param = if layer.param == Param::Bias.name() { Param::Bias } else { Param::Weight };
        Self {
            name: text::own(&layer.name),
            family: text::own(layer.family),
            param: param.into(),
            rank: layer.rank.unwrap_or(0) as u64,
            norm: layer.norm,
            relative_error: layer.error,
            direction_error: layer.direction_error,
        }
    }

    fn lend(&self) -> lyco_layer_report {
        lyco_layer_report {
            struct_size: 0,
            param: self.param as u32,
            name: self.name.as_ptr(),
            family: self.family.as_ptr(),
            rank: self.rank,
            norm: self.norm,
            relative_error: self.relative_error,
            direction_error: self.direction_error,
        }
    }
}

impl Handle for lyco_report {
    type Hold = Unique;
}

impl lyco_report {
    /// Gives a report to the host, if it wants one.
    pub(super) fn hand_over(place: Option<&mut MaybeUninit<*mut Self>>, report: impl Into<Self>) {
        if let Some(place) = place {
            place.write(handle::give(report.into()));
        }
    }
}

impl From<&Report> for lyco_report {
    fn from(report: &Report) -> Self {
        let layers = report.layers.iter().map(Row::of).collect();
        Self { json: text::own(&report.to_json()), error: report.error, layers }
    }
}

impl From<&BakeReport> for lyco_report {
    fn from(report: &BakeReport) -> Self {
        Self { json: text::own(&report.to_json()), error: report.error, layers: Vec::new() }
    }
}

impl From<&ExtractReport> for lyco_report {
    fn from(report: &ExtractReport) -> Self {
        let layers = report.layers.iter().map(Row::of).collect();
        Self { json: text::own(&report.to_json()), error: report.error, layers }
    }
}

/// Reports
/// =======
///
/// |stored - true| / |true| over the whole file; NaN for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_relative_error(report: *const lyco_report) -> f64 {
    // SAFETY: the header asks for NULL or a report that is not freed.
    infallible(f64::NAN, || unsafe { handle::peek(report) }.map_or(f64::NAN, |report| report.error))
}

/// Everything as JSON: the recipe, the size, "error" and "norm_ratio" of the file, each layer's family, shape, rank,
/// coefficients, error and stored tensors, and the warnings. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_json(report: *const lyco_report) -> *const c_char {
    // SAFETY: the header asks for NULL or a report that is not freed.
    unsafe { text::lend_part(report, |report| Some(&report.json)) }
}

/// How many layers were merged; they are counted from 0, in the order of their names. 0 for NULL, and for the report of
/// lyco_merge_bake().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_layer_count(report: *const lyco_report) -> usize {
    // SAFETY: the header asks for NULL or a report that is not freed.
    infallible(0, || unsafe { handle::peek(report) }.map_or(0, |report| report.layers.len()))
}

/// Says how one layer was stored, and how exactly.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_layer(
    report: *const lyco_report,
    index: usize,
    layer: *mut lyco_layer_report,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let describe = || unsafe {
        let layers = &handle::borrow(report, "report")?.layers;
        let place = sized::place(layer, "layer")?;
        let found = layers.get(index).ok_or_else(|| {
            lyco_error::bad_argument(&format!("there is no layer {index}; the report has {}", layers.len()))
        })?;
        place.write(&found.lend());
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, describe) }
}

/// Frees the report and its JSON. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_free(report: *mut lyco_report) {
    // SAFETY: the header asks for NULL or a report that is not freed.
    infallible((), || unsafe { handle::free(report) });
}
