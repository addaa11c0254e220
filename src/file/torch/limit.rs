//! How much a file may unpack to.

use crate::error::{Error, Result};
use crate::file::human_size;

/// Times its own size that a file may unpack to. Weights hardly compress, and half of an adapter may be zeros; what
/// unpacks to more is made to fill memory.
const RATIO: u64 = 64;

/// What any file may unpack to.
const LEAST: u64 = 16 << 20;

/// What a file may unpack to only if it is itself a quarter as large.
const MOST: u64 = 2 << 30;

/// Counts what is unpacked and copied out of a file.
pub(super) struct Limit {
    allowed: u64,
    left: u64,
}

impl Limit {
    /// For a file of so many bytes.
    pub(super) fn of_file(byte_len: usize) -> Self {
        let len = byte_len as u64;
        let allowed = len.saturating_mul(RATIO).clamp(LEAST, MOST.max(len.saturating_mul(4)));
        Self { allowed, left: allowed }
    }

    /// Takes `bytes` of what is left.
    ///
    /// # Errors
    /// Nothing is left.
    pub(super) fn take(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Error::format(format!(
                "the file unpacks to more than {}, far more than its own size; it is broken, or made to fill memory",
                human_size(self.allowed)
            ))
        })?;
        Ok(())
    }

    /// An empty buffer with room for `bytes`, taken from what is left.
    ///
    /// # Errors
    /// Nothing is left, or memory has no such room.
    pub(super) fn buffer(&mut self, bytes: usize) -> Result<Vec<u8>> {
        self.take(bytes as u64)?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(bytes).map_err(|_| {
            Error::format(format!("there is no memory for {} of this file", human_size(bytes as u64)))
        })?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_may_unpack_to_a_little_and_large_ones_to_a_few_times_their_size() {
        for (len, allowed) in [(0, 16 << 20), (1 << 20, 64 << 20), (1 << 28, 2 << 30), (1 << 40, 4 << 40)] {
            assert!(Limit::of_file(len).take(allowed).is_ok());
            assert!(Limit::of_file(len).take(allowed + 1).is_err());
        }
        let mut limit = Limit::of_file(0);
        assert!(limit.buffer(16 << 20).is_ok() && limit.take(1).is_err());
    }
}
