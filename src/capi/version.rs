//! Which library this is. The macros of the same meaning are in `cbindgen.toml`, which a test compares with these.

use std::ffi::{CStr, c_char};

/// Counts up with every change that a program compiled before it would notice.
const ABI: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("the version has no NUL"),
};

/// Version
/// =======
///
/// The library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn lyco_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The version of this interface. A program that finds another number than the LYCO_ABI_VERSION that it was compiled
/// with should stop: something that it calls has changed.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_abi_version() -> u32 {
    ABI
}
