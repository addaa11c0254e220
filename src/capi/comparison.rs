//! Comparisons: what adapters have to do with each other.

use std::ffi::{CString, c_char, c_void};

use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Unique};
use super::merge::{lyco_merge, lyco_progress_callback};
use super::pictures::Pictures;
use super::text;
use crate::merge::Comparison;

/// How adapters compare: how aligned they are, and where they work against each other.
///
/// It never changes, so any number of threads may read it. Its JSON and its pictures live as long as it does.
pub struct lyco_comparison {
    comparison: Comparison,
    json: CString,
    pictures: Pictures,
}

impl Handle for lyco_comparison {
    type Hold = Unique;
}

/// Comparisons
/// ===========
///
/// Compares the inputs, at their weights and block weights; it takes two or more. Strategy and what is stored count for
/// nothing. `progress` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_compare(
    merge: *const lyco_merge,
    progress: lyco_progress_callback,
    user: *mut c_void,
    comparison: *mut *mut lyco_comparison,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let make = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let place = handle::output(comparison, "comparison")?;
        let made = merge.snapshot().compare(&mut merge.watch(progress, user))?;
        let json = text::own(&made.to_json());
        place.write(handle::give(lyco_comparison { comparison: made, json, pictures: Pictures::default() }));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, make) }
}

/// Everything as JSON: "inputs" with name, weight, norm and number of layers; "cosines", "overlaps" of their spaces
/// ("chance_overlaps": what these would be by chance) and "sign_conflicts" as tables with a row for each input; what a
/// plain sum has "kept"; the same by "blocks" and "layers"; and "advice", sentences that say what it suggests. NULL for
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_comparison_json(comparison: *const lyco_comparison) -> *const c_char {
    // SAFETY: the header asks for NULL or a handle that is not freed.
    unsafe { text::lend_part(comparison, |comparison| Some(&comparison.json)) }
}

/// Draws the tables as heat maps, and what the inputs do in each block. `kind` is "svg", "png", or "html" for a whole
/// report that is light or dark as its reader's system is; `dark` is 0 or 1. The bytes are the comparison's. A library
/// that was built without pictures says LYCO_STATUS_UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_comparison_picture(
    comparison: *const lyco_comparison,
    kind: *const c_char,
    dark: u32,
    bytes: *mut *const u8,
    byte_len: *mut u64,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let draw = || unsafe {
        let lyco_comparison { comparison, pictures, .. } = handle::borrow(comparison, "comparison")?;
        pictures.lend(kind, dark, (bytes, byte_len), |kind, dark| comparison.picture(kind, dark))
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, draw) }
}

/// Frees the comparison, its JSON and its pictures. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_comparison_free(comparison: *mut lyco_comparison) {
    // SAFETY: the header asks for NULL or a handle that is not freed.
    infallible((), || unsafe { handle::free(comparison) });
}
