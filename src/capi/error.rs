//! Failures as C sees them: a status to branch on, and an error that says the rest.

use std::ffi::{CStr, CString, c_char};

use super::guard::infallible;
use super::handle::{self, Handle, Unique};
use super::text;
use crate::error::{Error, ErrorKind};

/// What became of a call. Later versions may add values within the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum lyco_status {
    /// It did what it says.
    OK = 0,

    /// The operating system refused to read or write.
    IO = 10,
    /// A file is not what it claims to be: broken header, wrong sizes, unknown tensors.
    FORMAT = 11,
    /// It is sound, but asks for something that this version doesn't do.
    UNSUPPORTED = 12,
    /// Inputs, or tensors of one layer, don't fit together.
    MISMATCH = 13,
    /// A number is not finite, or overflows what the output can store.
    VALUE = 14,

    /// The name or value of an option, or a weight, is wrong.
    OPTION = 20,

    /// The progress callback asked to stop.
    CANCELLED = 30,

    /// A pointer is NULL that must not be.
    NULL_PARAMETER = 100,
    /// An argument is out of range: an index, a level, a struct_size, a length.
    BAD_ARGUMENT = 101,
    /// A string is not valid UTF-8.
    INVALID_UTF8 = 102,

    /// A defect of the library.
    INTERNAL = 200,
}

/// Every status by its name.
static NAMES: [(lyco_status, &CStr); 12] = [
    (lyco_status::OK, c"ok"),
    (lyco_status::IO, c"io"),
    (lyco_status::FORMAT, c"format"),
    (lyco_status::UNSUPPORTED, c"unsupported"),
    (lyco_status::MISMATCH, c"mismatch"),
    (lyco_status::VALUE, c"value"),
    (lyco_status::OPTION, c"option"),
    (lyco_status::CANCELLED, c"cancelled"),
    (lyco_status::NULL_PARAMETER, c"null parameter"),
    (lyco_status::BAD_ARGUMENT, c"bad argument"),
    (lyco_status::INVALID_UTF8, c"invalid UTF-8"),
    (lyco_status::INTERNAL, c"internal"),
];

impl From<ErrorKind> for lyco_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Io => Self::IO,
            ErrorKind::Format => Self::FORMAT,
            ErrorKind::Unsupported => Self::UNSUPPORTED,
            ErrorKind::Mismatch => Self::MISMATCH,
            ErrorKind::Value => Self::VALUE,
            ErrorKind::Option => Self::OPTION,
            ErrorKind::Cancelled => Self::CANCELLED,
            ErrorKind::Internal => Self::INTERNAL,
        }
    }
}

/// Why a call failed, in which file and layer.
///
/// It never changes, so any number of threads may read it. Its strings live as long as it does.
#[derive(Debug)]
pub struct lyco_error {
    status: lyco_status,
    message: CString,
    file: Option<CString>,
    layer: Option<CString>,
}

impl Handle for lyco_error {
    type Hold = Unique;
}

impl lyco_error {
    pub(super) fn new(status: lyco_status, message: &str) -> Self {
        Self { status, message: text::own(message), file: None, layer: None }
    }

    pub(super) fn bad_argument(message: &str) -> Self {
        Self::new(lyco_status::BAD_ARGUMENT, message)
    }

    pub(super) fn status(&self) -> lyco_status {
        self.status
    }
}

#[cfg(test)]
impl lyco_error {
    pub(super) fn message(&self) -> &str {
        self.message.to_str().unwrap()
    }
}

impl From<Error> for lyco_error {
    fn from(error: Error) -> Self {
        Self {
            status: error.kind().into(),
            message: text::own(error.message()),
            file: error.file().map(|file| text::own(&file.to_string_lossy())),
            layer: error.layer().map(text::own),
        }
    }
}

/// Failures
/// ========
///
/// The name of a status in a word or two, such as "null parameter"; "unknown" for a number that is none.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_status_name(status: u32) -> *const c_char {
    let row = NAMES.iter().find(|(known, _)| *known as u32 == status);
    row.map_or(c"unknown", |(_, name)| name).as_ptr()
}

/// The status that the failed call returned; LYCO_STATUS_NULL_PARAMETER for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_error_status(error: *const lyco_error) -> lyco_status {
    // SAFETY: the header asks for NULL or an error that is not freed.
    infallible(lyco_status::INTERNAL, || match unsafe { handle::peek(error) } {
        Some(error) => error.status,
        None => lyco_status::NULL_PARAMETER,
    })
}

/// What is wrong and what to do about it, in a sentence for people that names neither file nor layer; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_error_message(error: *const lyco_error) -> *const c_char {
    // SAFETY: the header asks for NULL or an error that is not freed.
    unsafe { text::lend_part(error, |error| Some(&error.message)) }
}

/// The file that the error is about; NULL if it is about none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_error_file(error: *const lyco_error) -> *const c_char {
    // SAFETY: the header asks for NULL or an error that is not freed.
    unsafe { text::lend_part(error, |error| error.file.as_deref()) }
}

/// The layer that the error is about; NULL if it is about none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_error_layer(error: *const lyco_error) -> *const c_char {
    // SAFETY: the header asks for NULL or an error that is not freed.
    unsafe { text::lend_part(error, |error| error.layer.as_deref()) }
}

/// Frees the error and its strings. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_error_free(error: *mut lyco_error) {
    // SAFETY: the header asks for NULL or an error that is not freed.
    infallible((), || unsafe { handle::free(error) });
}
