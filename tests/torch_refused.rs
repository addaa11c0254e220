//! PyTorch files that are made to do harm, or are damaged, are refused with a reason: nothing is run, nothing is
//! unpacked without end, and nothing panics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use lycomerge::file::Container;
use lycomerge::{ErrorKind, Result};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Opens a file, and looks at everything in it.
fn open(bytes: Vec<u8>) -> Result<BTreeMap<String, Vec<u8>>> {
    let file = Container::from_bytes("x.pt", bytes)?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let view = file.get(name).unwrap();
        assert_eq!(view.data.len(), view.dtype.size() * view.shape.iter().product::<usize>(), "{name}");
        assert_eq!(view.to_reals::<f32>().len(), view.len());
        tensors.insert(name.to_owned(), view.data.to_vec());
    }
    Ok(tensors)
}

/// Asserts that a file is refused at once, and why.
fn refused(what: &str, bytes: Vec<u8>, says: &str) {
    let begin = Instant::now();
    let error = open(bytes).expect_err(what);
    assert!(error.message().contains(says), "{what}: {error}");
    assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{what}: {error}");
    assert_eq!(error.file(), Some(Path::new("x.pt")));
    let line = error.to_string();
    assert!(line.len() < 600 && !line.contains(char::is_control), "{what}: {line}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{what} took {:?}", begin.elapsed());
}

/// An archive of these records.
fn archive(records: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in records {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A file with this pickle, and a storage of eight bytes.
fn file(pickle: &[u8]) -> Vec<u8> {
    archive(
        &[("a/data.pkl", pickle), ("a/data/0", &[0; 8]), ("a/version", b"3\n")],
        CompressionMethod::Stored,
    )
}

/// A stream with this pickle, as PyTorch wrote before version 1.6.
fn stream(pickle: &[u8]) -> Vec<u8> {
    let before =
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\r\0\0\0little_endian\x88s.";
    let after = [b"\x80\x02]".as_slice(), &text("0"), b"a.", &2_i64.to_le_bytes(), &[0; 8]].concat();
    [before, pickle, &after].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn int(number: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &number.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

/// The whole pickle of a dict with one value.
fn dict(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", &text("a.b")[..], value, b"s."].concat()
}

fn call(module: &str, name: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [global(module, name), tuple(arguments), b"R".to_vec()].concat()
}

/// A storage of float32 numbers.
fn storage(key: &str, numel: i64) -> Vec<u8> {
    let id = [text("storage"), global("torch", "FloatStorage"), text(key), text("cpu"), int(numel)];
    [tuple(&id), b"Q".to_vec()].concat()
}

fn tensor(storage: Vec<u8>, offset: i64, extents: &[i64], strides: &[i64]) -> Vec<u8> {
    let ints = |numbers: &[i64]| tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>());
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [storage, int(offset), ints(extents), ints(strides), b"\x89".to_vec(), hooks];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

fn plain() -> Vec<u8> {
    tensor(storage("0", 2), 0, &[2], &[1])
}

#[test]
fn the_sound_files_open() {
    for bytes in [file(&dict(&plain())), stream(&dict(&plain()))] {
        assert_eq!(open(bytes).unwrap(), BTreeMap::from([("a.b".to_owned(), vec![0; 8])]));
    }
}

#[test]
fn a_call_of_anything_is_refused_by_its_name_wherever_it_stands() {
    let names = [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "eval"),
        ("runpy", "_run_code"),
        ("webbrowser", "open"),
        ("pickle", "loads"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.serialization", "os.system"),
        ("torch._utils", "os.system"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "defaultdict"),
        ("collections.OrderedDict", "fromkeys"),
    ];
    for (module, name) in names {
        let dotted = format!("{module}.{name}");
        let argument = [text("touch /tmp/harm")];
        let harm = call(module, name, &argument);
        let class = [text("storage"), harm.clone(), text("0"), text("cpu"), int(2)];
        let hooks =
            [storage("0", 2), int(0), tuple(&[int(2)]), tuple(&[int(1)]), b"\x89".to_vec(), harm.clone()];
        let by_stack = [text(module), text(name), b"\x93".to_vec(), tuple(&argument), b"R".to_vec()].concat();
        let pickles = [
            ("alone", [b"\x80\x02".as_slice(), &harm, b"."].concat()),
            ("without a protocol", [&harm[..], b"."].concat()),
            ("as a value", dict(&harm)),
            ("as a key", [b"\x80\x02}", &harm[..], &plain(), b"s."].concat()),
            ("by STACK_GLOBAL", dict(&by_stack)),
            ("by NEWOBJ", dict(&[global(module, name), tuple(&argument), b"\x81".to_vec()].concat())),
            ("by BUILD", dict(&[global(module, name), b"}b".to_vec()].concat())),
            ("by INST", dict(format!("(X\0\0\0\0i{module}\n{name}\n").as_bytes())),
            (
                "by OBJ",
                dict(&[b"(".to_vec(), global(module, name), argument.concat(), b"o".to_vec()].concat()),
            ),
            ("with an old string", dict(&[global(module, name), b"(S'x'\ntR".to_vec()].concat())),
            ("as hooks of a tensor", dict(&call("torch._utils", "_rebuild_tensor_v2", &hooks))),
            ("as the class of a storage", dict(&[tuple(&class), b"Q".to_vec()].concat())),
            ("beside a tensor", [b"\x80\x02", &harm[..], &dict(&plain())[2..]].concat()),
            (
                "from the memo",
                dict(
                    &[global(module, name), b"q\x05".to_vec(), tuple(&argument), b"Rh\x05)R".to_vec()]
                        .concat(),
                ),
            ),
            (
                "by what a call gives",
                dict(
                    &[call("builtins", "getattr", &[global(module, name), text("x")]), b")R".to_vec()]
                        .concat(),
                ),
            ),
        ];
        for (how, pickle) in pickles {
            let says = if how == "by what a call gives" { "builtins.getattr" } else { &dotted };
            refused(&format!("{dotted} {how}"), file(&pickle), says);
            refused(&format!("{dotted} {how}, in a stream"), stream(&pickle), says);
            if pickle.starts_with(b"\x80") {
                refused(&format!("{dotted} {how}, a bare pickle"), pickle, says);
            }
        }
    }
}

#[test]
fn a_name_that_is_only_mentioned_does_no_harm() {
    let key = [global("pytorch_lightning.callbacks", "ModelCheckpoint"), b"}".to_vec()].concat();
    let pickle = [b"\x80\x02}(", &key[..], &text("a.b"), &plain(), b"u."].concat();
    assert_eq!(open(file(&pickle)).unwrap().len(), 1);
}

#[test]
fn calls_with_wrong_arguments_are_refused() {
    for (what, call) in [
        ("a storage called", call("torch", "FloatStorage", &[int(1 << 40)])),
        ("a dtype called", call("torch", "float32", &[])),
        ("an OrderedDict of something", call("collections", "OrderedDict", &[text("x")])),
        ("a size of no tuple", call("torch", "Size", &[int(3)])),
        ("a tensor of nothing", call("torch._utils", "_rebuild_tensor_v2", &[])),
        ("a tensor of no storage", call("torch._utils", "_rebuild_tensor_v2", &vec![int(0); 6])),
        ("a tensor of no dtype", call("torch._utils", "_rebuild_tensor_v3", &vec![storage("0", 2); 7])),
        ("a parameter of no tensor", call("torch._utils", "_rebuild_parameter", &[text("x")])),
        ("a number called", [int(3), b")R".to_vec()].concat()),
        ("arguments that are no tuple", [global("collections", "OrderedDict"), b"]R".to_vec()].concat()),
        ("a state for a number", [int(3), b"}b".to_vec()].concat()),
        ("an id that is no storage", [tuple(&[text("x")]), b"Q".to_vec()].concat()),
        ("an id that is no tuple", [text("x"), b"Q".to_vec()].concat()),
        ("a storage of less than nothing", storage("0", -1)),
    ] {
        refused(what, file(&dict(&call)), "the pickle is broken");
    }
    let module = [tuple(&[text("module"), text("x"), text("y"), text("z")]), b"Q".to_vec()].concat();
    refused("a model with its code", stream(&dict(&module)), "Python code, which is not run");
    let view = [text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(2), tuple(&[])];
    refused("a view of a storage", stream(&dict(&[tuple(&view), b"Q".to_vec()].concat())), "before 0.4");
}

#[test]
fn broken_pickles_are_refused_for_what_is_broken() {
    for (what, pickle, says) in [
        ("nothing", b"".as_slice(), "cut short"),
        ("no end", b"\x80\x02}", "cut short"),
        ("no value", b"\x80\x02.", "a value is missing"),
        ("an open mark", b"\x80\x02}(.", "a value is missing"),
        ("no mark", b"\x80\x02}u.", "a mark is missing"),
        ("a key without a value", b"\x80\x02}(K\x01u.", "a key has no value"),
        ("a value below the mark", b"\x80\x02K\x01(\x85.", "a value is missing"),
        ("an item for no list", b"\x80\x02}K\x01a.", "no list"),
        ("an item for no dict", b"\x80\x02]K\x01K\x02s.", "no dict"),
        ("an empty memo", b"\x80\x02h\x07.", "the memo's number 7"),
        ("a name without end", b"\x80\x02cos.system", "a name has no end"),
        ("a name that is no text", b"\x80\x02NN\x93.", "a name is not a text"),
        ("a text that is not UTF-8", b"\x80\x02U\x01\xff.", "not UTF-8"),
        ("a text that is too long", b"\x80\x02X\xff\xff\xff\xffx.", "cut short"),
        ("an extension", b"\x80\x02\x82\x01.", "the opcode 0x82"),
        ("a persistent id of text", b"\x80\x02Px\n.", "the opcode 0x50"),
        ("a buffer out of band", b"\x80\x05\x97.", "the opcode 0x97"),
        ("a list", b"\x80\x02].", "something else than a dict"),
        ("no tensors", b"\x80\x02}.", "holds no tensors"),
    ] {
        refused(what, file(pickle), says);
    }
    let twice = [b"\x80\x02}(", &text("a")[..], &plain(), &text("a"), &plain(), b"u."].concat();
    refused("a name twice", file(&twice), "tensor 'a' stands there twice");
}

#[test]
fn pickles_that_grow_without_end_are_refused_or_harmless() {
    refused(
        "a high memo number",
        file(b"\x80\x02}r\xff\xff\xff\xff."),
        "no model needs 4294967295 memo entries",
    );
    for (what, opcode) in [("values", b'N'), ("marks", b'('), ("dicts", b'}'), ("memo entries", 0x94)] {
        let pickle = [b"\x80\x04}".to_vec(), vec![opcode; 30 << 20]].concat();
        refused(what, file(&pickle), "makes more than");
    }
    // A stack that was high once, and then many empty tuples: none may keep the stack's room.
    let high =
        [b"\x80\x02(".to_vec(), vec![b'N'; 1 << 20], b"t".to_vec(), b"(t".repeat(400_000), b".".to_vec()];
    refused("a high stack", file(&high.concat()), "something else than a dict");
    // [[[…]]], a million deep.
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
    refused("deep lists", file(&deep), "something else than a dict");
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999]].concat();
    let beside = [b"\x80\x02}(", &text("x")[..], &deep, &text("a.b"), &plain(), b"u."].concat();
    assert_eq!(open(file(&beside)).unwrap().len(), 1, "what is not looked at may be as deep as it likes");
    // Lists of two of the list before, sixty times: 2⁶⁰ items for whoever counts them.
    let laughs: Vec<u8> =
        (0..60_u8).flat_map(|i| [b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']).collect();
    let laughs = [b"(]q\0", &laughs[..], b"t"].concat();
    let beside = [b"\x80\x02}(", &text("x")[..], &laughs, &text("a.b"), &plain(), b"u."].concat();
    assert_eq!(open(file(&beside)).unwrap().len(), 1, "nobody counts them");
    // A dict that holds itself.
    let own = [b"\x80\x02}q\x00(", &text("state_dict")[..], b"h\x00u."].concat();
    refused("a dict in itself", file(&own), "holds no tensors");
    // Ten thousand tensors of one tuple of sixty-five extents.
    let extents = tuple(&vec![int(1); 65]);
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [storage("0", 2), int(0), extents.clone(), extents, b"\x89".to_vec(), hooks];
    let many = dict(&call("torch._utils", "_rebuild_tensor_v2", &arguments));
    refused("too many extents", file(&many), "its offset, extents and strides are not those of a tensor");
}

#[test]
fn views_that_reach_out_of_their_storage_are_refused() {
    let most = i64::MAX;
    for (what, offset, extents, strides, says) in [
        ("an offset past the end", 2, vec![1], vec![1], "beyond its storage"),
        ("an offset before the start", -1, vec![1], vec![1], "not those of a tensor"),
        ("the largest offset", most, vec![1], vec![1], "larger than any file"),
        ("one element too many", 0, vec![3], vec![1], "beyond its storage"),
        ("a step too far", 0, vec![2], vec![2], "beyond its storage"),
        ("a step back", 1, vec![2], vec![-1], "not those of a tensor"),
        ("the largest step", 0, vec![2], vec![most], "larger than any file"),
        ("steps that overflow together", 0, vec![3, 3], vec![most / 8, most / 8], "beyond its storage"),
        ("the largest extent", 0, vec![most], vec![1], "larger than any file"),
        ("extents that overflow together", 0, vec![1 << 40, 1 << 40], vec![0, 0], "larger than any file"),
        ("an extent before a zero", 0, vec![most, 0], vec![0, 0], "larger than any file"),
        ("fewer steps than extents", 0, vec![1, 1], vec![1], "not those of a tensor"),
        ("one number, seen often", 0, vec![1 << 40], vec![0], "unpacks to more than"),
        ("a few numbers, seen often", 0, vec![1 << 20, 2, 4096], vec![0, 1, 0], "unpacks to more than"),
    ] {
        let pickle = dict(&tensor(storage("0", 2), offset, &extents, &strides));
        refused(what, file(&pickle), says);
        refused(&format!("{what}, in a stream"), stream(&pickle), says);
    }
    for (what, storage, says, says_stream) in [
        ("a storage longer than its record", storage("0", 3), "cut short", "cut short"),
        ("a storage longer than memory", storage("0", most), "cut short", "cut short"),
        (
            "a storage that is missing",
            storage("1", 2),
            "'data/1' is missing",
            "the storage 0 belongs to no tensor",
        ),
    ] {
        let pickle = dict(&tensor(storage, 0, &[2], &[1]));
        refused(what, file(&pickle), says);
        refused(&format!("{what}, in a stream"), stream(&pickle), says_stream);
    }
    // Many tensors that are copied share one allowance.
    let expanded =
        |i: usize| [text(&format!("a.{i}")), tensor(storage("0", 2), 0, &[1 << 20], &[0])].concat();
    let many: Vec<u8> = (0..100).flat_map(expanded).collect();
    refused("many copies", file(&[b"\x80\x02}(", &many[..], b"u."].concat()), "unpacks to more than");
}

#[test]
fn zip_bombs_are_refused() {
    let zeros = vec![0; 200 << 20];
    let whole = dict(&tensor(storage("0", 50 << 20), 0, &[50 << 20], &[1]));
    let bomb = archive(&[("a/data.pkl", &whole), ("a/data/0", &zeros)], CompressionMethod::Deflated);
    assert!(bomb.len() < 1 << 20);
    refused("a storage of zeros", bomb.clone(), "unpacks to more than");
    refused(
        "a pickle of zeros",
        archive(&[("a/data.pkl", &zeros)], CompressionMethod::Deflated),
        "its record a/data.pkl is 200.0 MiB long; the limit is 64.0 MiB",
    );
    // Sizes that lie: the directory says four bytes where there are 200 MiB.
    let small = dict(&tensor(storage("0", 1), 0, &[1], &[1]));
    let mut liar = archive(&[("a/data.pkl", &small), ("a/data/0", &zeros)], CompressionMethod::Deflated);
    let size = (zeros.len() as u32).to_le_bytes();
    while let Some(at) = liar.windows(4).position(|window| window == size) {
        liar[at..at + 4].copy_from_slice(&4_u32.to_le_bytes());
    }
    refused("a size that is too small", liar, "a/data/0");
    // And the other way: 2 GiB where there are eight bytes.
    for method in [CompressionMethod::Deflated, CompressionMethod::Stored] {
        let records: [(&str, &[u8]); 2] = [("a/data.pkl", &small), ("a/data/0", &[7; 99])];
        let mut liar = archive(&records, method);
        let end = liar.len() - 22;
        let entry = (0..end).rev().find(|at| liar[*at..].starts_with(b"PK\x01\x02")).unwrap();
        let wide = if method == CompressionMethod::Stored { 20..28 } else { 24..28 };
        for (at, byte) in wide.zip([0, 0, 0, 0x7f].into_iter().cycle()) {
            liar[entry + at] = byte;
        }
        refused(&format!("a size that is too large, {method}"), liar, "");
    }
}

#[test]
fn archives_with_tricks_are_refused() {
    let pickle = dict(&plain());
    let stored = |records: &[(&str, &[u8])]| archive(records, CompressionMethod::Stored);
    let with = |name: &str| stored(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 8]), (name, b"x")]);
    for name in ["../harm", "a/../../harm", "/etc/passwd", "a\\..\\harm", "\\harm", "a/data/../0"] {
        refused(name, with(name), &format!("has a record '{name}', a path that leads out"));
    }
    for key in ["../data.pkl", "../../a/data/0", "/data/0", "..\\0"] {
        let pickle = dict(&tensor(storage(key, 2), 0, &[2], &[1]));
        refused(key, file(&pickle), &format!("named '{key}', a path that leads out"));
    }
    refused("two pickles", with("b/data.pkl"), "several pickles");
    refused("no pickle", stored(&[("a/model.safetensors", b"x")]), "zip archive without data.pkl");
    refused("a strange byte order", with("a/byteorder"), "neither little nor big");
    refused(
        "a long byte order",
        stored(&[("data.pkl", &pickle), ("byteorder", &[b' '; 99])]),
        "the limit is 64 bytes",
    );
    // The same name twice, which no honest writer makes: the second one's is changed in the directory.
    let mut twin = with("a/data/1");
    for at in 0..twin.len() - 8 {
        if twin[at..].starts_with(b"a/data/1") {
            twin[at + 7] = b'0';
        }
    }
    refused("two records of one name", twin, "same name");
    // Encrypted: bit 0 of the flags.
    let mut locked = file(&pickle);
    for at in 0..locked.len() - 10 {
        match locked[at..at + 4] {
            [b'P', b'K', 3, 4] => locked[at + 6] |= 1,
            [b'P', b'K', 1, 2] => locked[at + 8] |= 1,
            _ => {}
        }
    }
    refused("an encrypted archive", locked, "Password");
    assert!(open(stored(&[("data.pkl", &pickle), ("data/0", &[0; 8])])).is_ok(), "no folder is fine");
}

#[test]
fn streams_that_are_not_pytorch_s_are_refused() {
    let sound = stream(&dict(&plain()));
    let swapped = |from: &[u8], to: &[u8]| {
        let at = sound.windows(from.len()).rposition(|window| window == from).unwrap();
        [&sound[..at], to, &sound[at + from.len()..]].concat()
    };
    for (what, bytes, says) in [
        ("a bare pickle", b"\x80\x02}.".to_vec(), "torch.save did not write"),
        ("another version", swapped(b"M\xe9\x03", b"M\xea\x03"), "the file's version"),
        ("a big-endian machine", swapped(b"little_endian\x88", b"little_endian\x89"), "big-endian"),
        ("no byte order", swapped(b"little_endian", b"little_indian"), "byte order"),
        (
            "a key of no storage",
            swapped(b"\x80\x02]X\x01\0\0\x000", b"\x80\x02]X\x01\0\0\x001"),
            "belongs to no tensor",
        ),
        ("a key that is no text", swapped(b"\x80\x02]X\x01\0\0\x000", b"\x80\x02]N"), "no text"),
        ("no keys", swapped(b"\x80\x02]X\x01\0\0\x000a.", b"\x80\x02}."), "the list of storages"),
        ("a count below nothing", swapped(&2_i64.to_le_bytes(), &(-1_i64).to_le_bytes()), "cut short"),
        ("the largest count", swapped(&2_i64.to_le_bytes(), &i64::MAX.to_le_bytes()), "cut short"),
        ("bytes at the end", [&sound[..], b"x"].concat(), "1 byte after the last storage"),
        ("a tar archive", [vec![b'x'; 257], b"ustar".to_vec(), vec![0; 300]].concat(), "tar archive"),
    ] {
        refused(what, bytes, says);
    }
}

const LAYOUTS: [&str; 5] = ["zip", "legacy", "protocol4", "deflated", "unchecked"];

fn golden(layout: &str) -> Vec<u8> {
    fs::read(format!("tests/golden/torch/kinds.{layout}.pt")).unwrap()
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for layout in LAYOUTS {
        let sound = golden(layout);
        for length in (0..sound.len()).step_by(3) {
            assert!(open(sound[..length].to_vec()).is_err(), "{layout} cut to {length}");
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing_where_there_are_checksums() {
    for layout in LAYOUTS {
        let sound = golden(layout);
        let tensors = open(sound.clone()).unwrap();
        let mut refused = 0;
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            match open(bytes) {
                Err(_) => refused += 1,
                Ok(found) => {
                    let checked = !matches!(layout, "legacy" | "unchecked");
                    assert!(!checked || found == tensors, "{layout}: byte {at}");
                }
            }
        }
        assert!(refused > 1000, "{layout}: {refused}");
    }
}

proptest! {
    #[test]
    fn random_pickles_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = open(file(&bytes));
        let _ = open(stream(&bytes));
    }

    #[test]
    fn random_damage_never_panics(
        layout in proptest::sample::select(LAYOUTS.to_vec()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = golden(layout);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = open(bytes);
    }
}
