//! What hosts expect a file to say about its own bytes.
//!
//! Two hashes stand in the metadata of an adapter, so that hosts recognise a file that was renamed or whose
//! other metadata were edited. Both are sd-scripts' definitions.

use sha2::{Digest, Sha256};

/// The SHA-256 of the data region, in hex.
pub(super) const MODEL_HASH: &str = "sshs_model_hash";

/// The first eight hex digits of the SHA-256 of [`LEGACY_WINDOW`], as the reference library would have
/// written the file with no metadata but the trainer's ([`TRAINING_PREFIX`]).
pub(super) const LEGACY_HASH: &str = "sshs_legacy_hash";

/// The bytes of the file that the legacy hash covers; none of a shorter file.
pub(super) const LEGACY_WINDOW: std::ops::Range<u64> = 0x10_0000..0x11_0000;

/// How the keys of a trainer's metadata begin.
pub(super) const TRAINING_PREFIX: &str = "ss_";

/// The SHA-256 of `bytes` in lower-case hex.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// A finished hash in lower-case hex.
pub(super) fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn hashes_are_those_of_the_standard() {
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
