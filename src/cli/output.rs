//! Where words go: results to stdout, everything else to stderr, and how a run ends. Nothing that a file or a path
//! brings reaches the terminal but as text.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use lycomerge::ErrorKind;
use lycomerge::error::one_line;

/// Why the command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was asked wrongly.
    Usage(String),
    /// It went wrong.
    Failed(String),
    /// It went wrong, and every reason has been given already.
    Told,
    /// It was asked nothing, and the help has been given.
    Helped,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Says what is wrong, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                error(&message);
                ExitCode::from(2)
            }
            Self::Failed(message) => {
                error(&message);
                ExitCode::FAILURE
            }
            Self::Told => ExitCode::FAILURE,
            Self::Helped => ExitCode::from(2),
        }
    }
}

impl From<lycomerge::Error> for Failure {
    fn from(error: lycomerge::Error) -> Self {
        match error.kind() {
            ErrorKind::Option => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Prints a result. A reader that has gone away has seen what it wanted.
pub(crate) fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(shown(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("can't write to the standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// JSON with an escape for the control characters that it may hold as they are: DEL and those above it, which
/// terminals obey too.
pub(crate) fn ascii_controls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' {
            let _ = fmt::Write::write_fmt(&mut out, format_args!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Says something on stderr. If nobody can hear it, the work goes on.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", shown(text));
}

/// A text of several lines, whose control characters can do nothing to a terminal. Where a name could make a line
/// of its own, [`one_line`] is for it.
fn shown(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// Says what the user should know.
pub(crate) fn warning(text: &str) {
    note(&format!("Warning: {text}"));
}

/// Says what is wrong.
pub(crate) fn error(text: &str) {
    note(&format!("Error: {text}"));
}
