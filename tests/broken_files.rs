//! Broken safetensors files are refused with a reason, and never taken for something else.

mod support;

use std::fs;
use std::path::Path;

use lycomerge::file::Container;
use lycomerge::{ErrorKind, Result};
use proptest::prelude::*;
use support::broken::{self, HEADER, sound};

fn open(bytes: Vec<u8>) -> Result<Container> {
    let file = Container::from_bytes("x.safetensors", bytes)?;
    // Every view must be good, whatever the file was.
    for name in file.names() {
        let view = file.get(name).unwrap();
        let size = view.dtype.size() * view.shape.iter().product::<usize>();
        assert_eq!(view.data.len(), size, "{name}");
        assert_eq!(view.to_reals::<f32>().len(), view.len());
    }
    Ok(file)
}

/// Where in the header the digits of shapes and offsets are.
fn digits() -> Vec<usize> {
    let header = HEADER.as_bytes();
    let begins = |at: usize| (0..at).rev().find(|&i| !header[i].is_ascii_digit()).map(|i| header[i]);
    let is_digit = |&at: &usize| header[at].is_ascii_digit() && matches!(begins(at), Some(b'[' | b','));
    // An extent beside a zero changes no size.
    let beside_zero = HEADER.find("[0,7]").unwrap() + 3;
    let digits: Vec<_> = (0..header.len()).filter(is_digit).filter(|&at| at != beside_zero).collect();
    assert!(digits.len() == 18, "{digits:?}");
    digits
}

#[test]
fn the_sound_file_opens() {
    let file = open(sound()).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["alpha", "down", "none", "up"]);
    assert_eq!(file.get("down").unwrap().shape, [2, 3]);
    assert_eq!(file.get("none").unwrap().shape, [0, 7]);
    assert_eq!(file.get("up").unwrap().data, (15..=26).collect::<Vec<u8>>());
    assert_eq!(file.metadata()["ss_note"], "a \"b\" ü");
}

#[test]
fn every_broken_file_is_refused_for_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for broken in broken::all() {
        fs::write(&path, &broken.bytes).unwrap();
        let mapped = Container::open(&path).expect_err(&broken.what);
        let error = open(broken.bytes).expect_err(&broken.what);
        assert!(error.message().contains(broken.says), "{}: {error}", broken.what);
        assert_eq!(error.file(), Some(Path::new("x.safetensors")));
        assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{}", broken.what);
        assert!(!error.to_string().contains(char::is_control), "{}: {error:?}", broken.what);
        assert!(error.to_string().len() < 500, "{}: {error}", broken.what);
        assert_eq!((mapped.message(), mapped.file()), (error.message(), Some(path.as_path())));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for length in 0..sound().len() {
        let error = open(sound()[..length].to_vec()).expect_err(&format!("cut to {length}"));
        assert!(error.message().contains("cut short") || length == 0, "cut to {length}: {error}");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    for more in 1..20 {
        let error = open([sound(), vec![b' '; more]].concat()).unwrap_err();
        assert!(error.message().contains("after the last tensor"), "{error}");
    }
}

#[test]
fn a_flipped_bit_in_a_size_or_offset_is_refused() {
    let digits = digits();
    let (mut refused, mut opened) = (0, 0);
    for at in 0..8 + HEADER.len() {
        for bit in 0..8 {
            let mut bytes = sound();
            bytes[at] ^= 1 << bit;
            if open(bytes).is_err() {
                refused += 1;
                continue;
            }
            opened += 1;
            let is_size = at < 8 || digits.contains(&(at - 8));
            assert!(!is_size, "bit {bit} of byte {at} was flipped, and the file opened");
        }
    }
    // A letter of a name or of metadata may change unnoticed.
    assert!(refused > 1000 && opened > 100, "{refused} refused, {opened} opened");
}

#[test]
fn a_digit_replaced_by_any_other_is_refused() {
    for at in digits() {
        for digit in b'0'..=b'9' {
            let mut bytes = sound();
            if bytes[8 + at] != digit {
                bytes[8 + at] = digit;
                assert!(open(bytes).is_err(), "digit {} at {at}", char::from(digit));
            }
        }
    }
}

#[test]
fn a_folder_and_a_missing_file_are_errors_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    for (path, message) in
        [(folder.path().to_owned(), "this is a folder"), (folder.path().join("none"), "can't read")]
    {
        let error = Container::open(&path).unwrap_err();
        assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some(path.as_path())));
        assert!(error.message().contains(message), "{error}");
    }
    #[cfg(unix)]
    assert!(Container::open(Path::new("/dev/null")).unwrap_err().message().contains("regular"));
}

/// Small numbers, and those that overflow.
fn extent() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..9, 1 => Just(u64::MAX), 1 => Just(1 << 32), 1 => any::<u64>()]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = open(bytes);
    }

    #[test]
    fn random_headers_never_panic(
        entries in proptest::collection::vec((
            "[abc]|__metadata__",
            "U8|F16|F32|F64|F4",
            proptest::collection::vec(extent(), 0..4),
            (extent(), extent()),
        ), 0..4),
        data_len in 0_usize..20,
    ) {
        let entry = |(name, dtype, shape, (begin, end)): (_, _, Vec<u64>, (u64, u64))| -> String {
            let (name, dtype): (String, String) = (name, dtype);
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
        };
        let header = entries.into_iter().map(entry).collect::<Vec<_>>().join(",");
        let _ = open(broken::file(format!("{{{header}}}"), data_len));
    }

    #[test]
    fn random_damage_to_a_sound_file_never_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = sound();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = open(bytes);
    }
}
