//! The boundary that no panic passes, and where failures become a status and an error for C.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{lyco_error, lyco_status};
use super::handle;

/// Runs the body of an entry point that may fail. On failure its status is returned, and the whole error is put
/// into `error` where C wants it.
///
/// # Safety
/// `error` is NULL, or points to space for a pointer.
pub(super) unsafe fn fallible(
    error: *mut *mut lyco_error,
    body: impl FnOnce() -> Result<(), lyco_error>,
) -> lyco_status {
    // Unwind safe: what a body may leave half done is its own, or behind a lock that doesn't mind.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return lyco_status::OK,
        Ok(Err(failure)) => failure,
        Err(panic) => lyco_error::new(lyco_status::INTERNAL, &defect(&*panic)),
    };
    let status = failure.status();
    // SAFETY: the caller's promise.
    if let Ok(error) = unsafe { handle::output(error, "error") } {
        error.write(handle::give(failure));
    }
    status
}

/// Runs the body of an entry point that can't fail; should it panic all the same, `otherwise` is returned.
pub(super) fn infallible<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn defect(panic: &(dyn Any + Send)) -> String {
    let said =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a defect of lycomerge; please report it: {}", said.unwrap_or("a panic without a message"))
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::*;

    #[test]
    fn a_panic_becomes_a_status_and_says_what_it_said() {
        let mut error = null_mut();
        // SAFETY: `error` is space for a pointer, and then a handle that is freed once.
        unsafe {
            assert_eq!(fallible(&mut error, || panic!("layer {}", 7)), lyco_status::INTERNAL);
            let message = handle::borrow(error, "error").unwrap().message().to_owned();
            assert!(message.contains("defect") && message.ends_with("layer 7"), "{message}");
            handle::free(error);
            assert_eq!(fallible(null_mut(), || panic!("nobody listens")), lyco_status::INTERNAL);
        }
        assert_eq!(infallible(3, || panic!("no")), 3);
    }

    #[test]
    fn success_leaves_the_error_alone() {
        let mut error = std::ptr::without_provenance_mut(64);
        // SAFETY: `error` is space for a pointer.
        let status = unsafe { fallible(&mut error, || Ok(())) };
        assert_eq!((status, error.addr()), (lyco_status::OK, 64));
    }
}
