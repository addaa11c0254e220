//! Merges added to a checkpoint's weights, and adapters taken from them.

use std::ffi::{c_char, c_void};
use std::path::Path;

use super::error::{lyco_error, lyco_status};
use super::guard::fallible;
use super::handle;
use super::log;
use super::merge::{lyco_merge, lyco_progress_callback};
use super::report::lyco_report;
use super::sized::{self, Sized32};
use super::text;
use crate::merge::bake::Rounding;
use crate::model::Checkpoint;

/// How weights are rounded: `lyco_bake_options options = {sizeof options};` is the default, then set what is to differ.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_bake_options {
    /// sizeof(lyco_bake_options).
    pub struct_size: u32,
    /// 1: 8-bit and 16-bit weights are rounded up or down at random, so that small changes are kept on average. 0: to
    /// the nearest.
    pub stochastic: u32,
    /// What the random numbers begin with; the same seed makes the same bytes.
    pub seed: u64,
}

// SAFETY: two u32 and a u64.
unsafe impl Sized32 for lyco_bake_options {}

/// How to round.
///
/// # Safety
/// `options` is NULL, or points to as many bytes as its first field says.
unsafe fn rounding(options: *const lyco_bake_options) -> Result<Rounding, lyco_error> {
    if options.is_null() {
        return Ok(Rounding::Nearest);
    }
    // SAFETY: the caller's promise.
    let options = unsafe { sized::read(options, "options") }?;
    match options.stochastic {
        0 => Ok(Rounding::Nearest),
        1 => Ok(Rounding::Stochastic(options.seed)),
        other => Err(lyco_error::bad_argument(&format!("stochastic is {other}; it is 0 or 1"))),
    }
}

/// Baking
/// ======
///
/// Adds the merge to the weights of the checkpoint `base` (a safetensors or PyTorch file, the index of several, or a
/// folder with one of these) and writes the whole model to `path`: one safetensors file in the checkpoint's own dtypes,
/// whose other tensors are the same bytes. Options of the merge about the stored form of an adapter count for nothing.
/// The report's error is |stored - (W + delta)| / |delta|, and its JSON has "kept", the part of the delta that is in the
/// stored weights, and "tensors" in place of layers. `options`, `progress` and `report` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_bake(
    merge: *const lyco_merge,
    base: *const c_char,
    path: *const c_char,
    options: *const lyco_bake_options,
    progress: lyco_progress_callback,
    user: *mut c_void,
    report: *mut *mut lyco_report,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let bake = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let (base, path) = (text::borrow(base, "base")?, Path::new(text::borrow(path, "path")?));
        let rounding = rounding(options)?;
        let place = handle::wanted_output(report, "report")?;
        let checkpoint = Checkpoint::open(base)?;
        let done = merge.snapshot().bake(&checkpoint, path, rounding, &mut merge.watch(progress, user))?;
        done.warnings.iter().for_each(|warning| log::warn(warning));
        lyco_report::hand_over(place, &done);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, bake) }
}

/// Stores what the checkpoint `tuned` has more than `base` (both as in lyco_merge_bake) as an adapter at `path`, as the
/// options of the merge about what to store say it; the merge has no inputs. Without an option about rank, error or
/// size, "lora" has rank 64 and "loha" 16. Layers without a difference are left out. The report has the layers' errors,
/// measured on what was stored. `progress` and `report` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_extract(
    merge: *const lyco_merge,
    base: *const c_char,
    tuned: *const c_char,
    path: *const c_char,
    progress: lyco_progress_callback,
    user: *mut c_void,
    report: *mut *mut lyco_report,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let extract = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let (base, tuned) = (text::borrow(base, "base")?, text::borrow(tuned, "tuned")?);
        let path = Path::new(text::borrow(path, "path")?);
        let place = handle::wanted_output(report, "report")?;
        let (base, tuned) = (Checkpoint::open(base)?, Checkpoint::open(tuned)?);
        let done = merge.snapshot().extract(&base, &tuned, path, &mut merge.watch(progress, user))?;
        done.warnings.iter().for_each(|warning| log::warn(warning));
        lyco_report::hand_over(place, &done);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, extract) }
}
