//! Pictures that are drawn when they are first asked for, and lent as long as the handle lives.

use std::sync::OnceLock;

use super::error::lyco_error;
use super::{handle, text};
use crate::picture::Kind;

/// The pictures of one handle, by kind, light and dark.
#[derive(Default)]
pub(super) struct Pictures([[OnceLock<Vec<u8>>; 2]; Kind::ALL.len()]);

impl Pictures {
    /// Lends the picture of this kind, drawn by `draw` if it isn't there yet.
    ///
    /// # Safety
    /// `kind` is NULL or a string that ends with NUL; `bytes` and `byte_len` are NULL or space for what they point to.
    pub(super) unsafe fn lend(
        &self,
        kind: *const std::ffi::c_char,
        dark: u32,
        (bytes, byte_len): (*mut *const u8, *mut u64),
        draw: impl FnOnce(Kind, bool) -> crate::Result<Vec<u8>>,
    ) -> Result<(), lyco_error> {
        // SAFETY: the caller's promise.
        let kind: Kind = unsafe { text::borrow(kind, "kind") }?.parse()?;
        if dark > 1 {
            return Err(lyco_error::bad_argument(&format!("'dark' is {dark}; use 0 or 1")));
        }
        // SAFETY: the caller's promise.
        let (bytes, byte_len) =
            unsafe { (handle::output(bytes, "bytes")?, handle::output(byte_len, "byte_len")?) };
        let row = Kind::ALL.iter().position(|(other, _)| *other == kind).unwrap_or_default();
        let place = &self.0[row][dark as usize];
        let picture = match place.get() {
            Some(picture) => picture,
            None => {
                let drawn = draw(kind, dark == 1)?;
                place.get_or_init(|| drawn)
            }
        };
        bytes.write(picture.as_ptr());
        byte_len.write(picture.len() as u64);
        Ok(())
    }
}
