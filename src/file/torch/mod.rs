//! PyTorch files (`.pt`, `.pth`, `.ckpt`, `.bin`): what `torch.save` makes of a state dict.
//!
//! Such a file is a pickle, a program for a small stack machine that may call anything in Python, and beside it the
//! raw bytes of the storages that its tensors view. The one idea: the program is run over an inert tree of objects
//! (`pickle`), in which the few calls that make tensors are notes and every other call is refused by its name
//! (`globals`). Then the state dict is looked up in the tree (`state`), and every tensor's bytes are borrowed from
//! the file, or copied where they are compressed or out of order (`view`).
//!
//! Two layouts hold pickle and storages: a zip archive since PyTorch 1.6 (`zip`), and before it one stream
//! (`legacy`). What is written is the zip archive (`write`), by hand (`archive`), so that its bytes depend on nothing
//! but the content.

mod archive;
mod globals;
mod legacy;
mod limit;
mod pickle;
mod state;
mod view;
mod write;
mod zip;

use super::container::Contents;
use super::source::Source;
use crate::error::{Error, Result};

pub(super) use write::{TorchWriter, entry_bound};

/// The layouts that PyTorch's versions have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A zip archive, since version 1.6.
    Zip,
    /// Pickles and storages in one stream, before it.
    Legacy,
    /// A tar archive, before version 0.1.10.
    Tar,
}

/// Whether a file that begins with these bytes is a pickle or an archive, and which.
pub(super) fn recognise(bytes: &[u8]) -> Option<Form> {
    // A safetensors header begins with a brace after its length, which may look like a pickle's mark.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    match bytes {
        [b'P', b'K', 3, 4, ..] => Some(Form::Zip),
        [0x80, 1..=5, ..] => Some(Form::Legacy),
        _ if bytes.get(257..262) == Some(b"ustar") => Some(Form::Tar),
        _ => None,
    }
}

/// Checks a file of this form, and finds the tensors in it.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a sound file that holds more than tensors, or
/// tensors of a kind that is not read; [`ErrorKind::Format`](crate::ErrorKind::Format) for a broken one.
pub(super) fn read(form: Form, source: &Source) -> Result<Contents> {
    let tensors = match form {
        Form::Zip => zip::read(source)?,
        Form::Legacy => legacy::read(source)?,
        Form::Tar => {
            return Err(Error::unsupported(
                "this is a tar archive; if it is a PyTorch file, it is from before version 0.1.10: load it with \
                 PyTorch and save it again, or as safetensors",
            ));
        }
    };
    Ok(Contents { tensors, ..Contents::default() })
}
