//! Plans: what a merge comes to in every format.

use std::ffi::{CString, c_char, c_void};

use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Unique};
use super::merge::{lyco_merge, lyco_progress_callback};
use super::pictures::Pictures;
use super::text;
use crate::merge::Plan;

/// What a merge can be stored as: size and error of every format, rank and dtype.
///
/// It never changes, so any number of threads may read it. Its JSON and its pictures live as long as it does.
pub struct lyco_plan {
    plan: Plan,
    json: CString,
    pictures: Pictures,
}

impl Handle for lyco_plan {
    type Hold = Unique;
}

/// Plans
/// =====
///
/// Says what the merge comes to in every format, rank and dtype, from the spectra of a sample of the layers, before
/// anything is merged. Options about the stored form count for nothing, but for "dtype" and "factor". `progress` may be
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_plan(
    merge: *const lyco_merge,
    progress: lyco_progress_callback,
    user: *mut c_void,
    plan: *mut *mut lyco_plan,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let make = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let place = handle::output(plan, "plan")?;
        let made = merge.snapshot().plan(&mut merge.watch(progress, user))?;
        let json = text::own(&made.to_json());
        place.write(handle::give(lyco_plan { plan: made, json, pictures: Pictures::default() }));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, make) }
}

/// Everything as JSON: "inputs" with their sizes, the "norm" of the merge, how many "layers" there are and how many of them
/// were looked at ("sampled"), the three "qualities", and "curves" for each format and dtype, whose "points" have the
/// options that ask for them, rank, size in bytes and error of the whole file. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_plan_json(plan: *const lyco_plan) -> *const c_char {
    // SAFETY: the header asks for NULL or a handle that is not freed.
    unsafe { text::lend_part(plan, |plan| Some(&plan.json)) }
}

/// Draws size against error. `kind` is "svg", "png", or "html" for a whole report that is light or dark as its reader's
/// system is; `dark` is 0 or 1. The bytes are the plan's. A library that was built without pictures says
/// LYCO_STATUS_UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_plan_picture(
    plan: *const lyco_plan,
    kind: *const c_char,
    dark: u32,
    bytes: *mut *const u8,
    byte_len: *mut u64,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let draw = || unsafe {
        let lyco_plan { plan, pictures, .. } = handle::borrow(plan, "plan")?;
        pictures.lend(kind, dark, (bytes, byte_len), |kind, dark| plan.picture(kind, dark))
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, draw) }
}

/// Frees the plan, its JSON and its pictures. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_plan_free(plan: *mut lyco_plan) {
    // SAFETY: the header asks for NULL or a handle that is not freed.
    infallible((), || unsafe { handle::free(plan) });
}
