//! Containers: files of named tensors, read and written.
//!
//! Paths and bytes go in; names, dtypes, shapes and borrowed bytes come out, and the way back. What the
//! names mean is not known here. The one idea: a file is checked whole when it is opened ([`Container`]),
//! so that nothing later can fail on it, and an output is complete before it is visible ([`AtomicFile`]), so
//! that nobody ever meets half of one. Two formats are read and written: safetensors, and what `torch.save` makes.

mod atomic;
mod container;
mod fixed;
mod metadata;
mod output;
mod safetensors;
mod source;
mod torch;
mod writer;

use std::borrow::Cow;

pub use atomic::AtomicFile;
pub use container::Container;
pub use fixed::{FixedWriter, Outline};
pub use output::{FileKind, Finished, Writer};

/// Readers of safetensors refuse longer headers.
const MAX_HEADER: u64 = 100_000_000;

/// The key of a safetensors header that is not a tensor's name.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// `bytes` as people say it: `1.5 GiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" });
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024.0 belongs to the next unit.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A tensor as messages call it.
fn tensor(name: &str) -> String {
    format!("tensor '{}'", short(name, 100))
}

/// Text from a file, not longer than a message bears.
fn short(text: &str, limit: usize) -> Cow<'_, str> {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::human_size;

    #[test]
    fn sizes_are_readable_from_one_byte_to_the_largest() {
        let expected = [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (100_000_000, "95.4 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in expected {
            assert_eq!(human_size(bytes), text);
        }
    }
}
