//! Strings from and to C: UTF-8 that ends with NUL.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use super::error::{lyco_error, lyco_status};
use super::guard::infallible;
use super::handle;

/// The string that the parameter `name` points to.
///
/// # Safety
/// `pointer` is NULL, or points to a string that ends with NUL and is not changed during `'a`.
pub(super) unsafe fn borrow<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, lyco_error> {
    handle::check(pointer, name)?;
    // SAFETY: it is not NULL, and the rest is the caller's promise.
    unsafe { CStr::from_ptr(pointer) }.to_str().map_err(|_| {
        lyco_error::new(lyco_status::INVALID_UTF8, &format!("the parameter '{name}' is not valid UTF-8"))
    })
}

/// `text` for C. A NUL inside, where C would stop reading, becomes U+FFFD.
pub(super) fn own(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Lends what may be missing: NULL then.
pub(super) fn lend(text: Option<&CStr>) -> *const c_char {
    text.map_or(ptr::null(), CStr::as_ptr)
}

/// Lends a string of what `pointer` points to; NULL for NULL.
///
/// # Safety
/// As for [`handle::borrow`].
pub(super) unsafe fn lend_part<T>(pointer: *const T, part: fn(&T) -> Option<&CStr>) -> *const c_char {
    // SAFETY: the caller's promise.
    infallible(ptr::null(), || lend(unsafe { handle::peek(pointer) }.and_then(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_arrive_whole_or_with_a_reason() {
        // SAFETY: all three end with NUL.
        let borrow = |text: &'static CStr| unsafe { borrow(text.as_ptr(), "key").map_err(|e| e.status()) };
        assert_eq!(borrow(c"grün"), Ok("grün"));
        assert_eq!(borrow(c""), Ok(""));
        assert_eq!(borrow(c"\xff"), Err(lyco_status::INVALID_UTF8));
        assert_eq!(own("a\0b").as_c_str(), c"a\u{fffd}b");
    }
}
