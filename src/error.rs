//! One error type for the whole library: what is wrong, in which file and layer, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of every fallible call of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of thing went wrong; the C ABI's status codes are made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system refused to read or write.
    Io,
    /// A file is not what it claims to be: broken header, wrong sizes, unknown tensors.
    Format,
    /// A file is sound, but holds something that this version doesn't merge.
    Unsupported,
    /// Inputs, or tensors of one layer, don't fit together.
    Mismatch,
    /// A number is not finite, or overflows what the output can store.
    Value,
    /// An option's name or value is wrong.
    Option,
    /// The host asked to stop.
    Cancelled,
    /// A defect of the library itself.
    Internal,
}

/// Text that a file or a path may have brought, fit to be shown on one line: names and metadata can hold anything,
/// escape sequences for a terminal too, so control characters come out as `\u{1b}` and the like.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Cow::Owned(line)
}

/// What is wrong, in which file and layer. Displays as one line: `FILE: layer LAYER: message`.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    file: Option<PathBuf>,
    layer: Option<String>,
}

impl Error {
    /// An error of `kind`; `message` says what is wrong and what to do, and is made one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: one_line(&message.into()).into_owned(), file: None, layer: None }
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, message)
    }

    pub(crate) fn option(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Option, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled; nothing was written")
    }

    /// An operating-system error while doing `what` ("read", "write", …) to `file`.
    pub(crate) fn io(error: &std::io::Error, what: &str, file: &Path) -> Self {
        Self::new(ErrorKind::Io, format!("can't {what}: {error}")).in_file(file)
    }

    /// Says which file the error is about, unless something closer to the cause already did.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }

    /// Says which layer the error is about, unless something closer to the cause already did.
    #[must_use]
    pub fn in_layer(mut self, layer: impl Into<String>) -> Self {
        self.layer.get_or_insert_with(|| layer.into());
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without file and layer.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file that the error is about, if it is about one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The layer that the error is about, if it is about one.
    pub fn layer(&self) -> Option<&str> {
        self.layer.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", one_line(&file.to_string_lossy()))?;
        }
        if let Some(layer) = &self.layer {
            write!(f, "layer {}: ", one_line(layer))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
