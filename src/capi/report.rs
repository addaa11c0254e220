//! What a merge says about its result.

use std::ffi::{CString, c_char};

use super::guard::infallible;
use super::handle::{self, Handle, Unique};
use super::text;
use crate::report::Report;

/// What a merge says about its result: how exact it is, as a whole and by layer.
///
/// It never changes, so any number of threads may read it. Its strings live as long as it does.
pub struct lyco_report {
    json: CString,
    error: f64,
}

impl Handle for lyco_report {
    type Hold = Unique;
}

impl From<&Report> for lyco_report {
    fn from(report: &Report) -> Self {
        Self { json: text::own(&report.to_json()), error: report.error }
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

/// Frees the report and its JSON. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_report_free(report: *mut lyco_report) {
    // SAFETY: the header asks for NULL or a report that is not freed.
    infallible((), || unsafe { handle::free(report) });
}
