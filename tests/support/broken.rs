//! A small sound safetensors file, and files that are broken in one way each.

/// A sound header, with a scalar, an empty tensor, metadata, and escapes.
pub(crate) const HEADER: &str = concat!(
    r#"{"__metadata__":{"format":"pt","ss_note":"a \"b\" ü"},"#,
    r#""alpha":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"#,
    r#""down":{"dtype":"F16","shape":[2,3],"data_offsets":[2,14]},"#,
    r#""none":{"dtype":"F32","shape":[0,7],"data_offsets":[14,14]},"#,
    r#""up":{"dtype":"F32","shape":[3,1],"data_offsets":[14,26]}}"#,
    "   ",
);

/// The length of the data that [`HEADER`] describes.
pub(crate) const DATA_LEN: usize = 26;

/// A file of a header and `data_len` bytes, with a true header length.
pub(crate) fn file(header: impl AsRef<[u8]>, data_len: usize) -> Vec<u8> {
    let header = header.as_ref();
    let data = (0..data_len).map(|i| i as u8 + 1);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.iter().copied()).chain(data).collect()
}

/// A sound file.
pub(crate) fn sound() -> Vec<u8> {
    file(HEADER, DATA_LEN)
}

/// A broken file: what is wrong with it, what the error must say, and its bytes.
pub(crate) struct Broken {
    pub(crate) what: String,
    pub(crate) says: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// The broken files that have a name. (Cut and flipped ones are the tests' own.)
pub(crate) fn all() -> Vec<Broken> {
    let mut all = Vec::new();
    let mut add = |what: &str, says, bytes| all.push(Broken { what: what.to_owned(), says, bytes });

    add("an empty file", "the file is empty", vec![]);
    add(
        "a text file",
        "not a safetensors file",
        b"These are not the weights you are looking for.\n".to_vec(),
    );
    add("a few letters", "cut short", b"abc".to_vec());
    add("a web page", "web page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec());
    add("a Git LFS pointer", "Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec());
    add(
        "the start of a torch zip",
        "the archive is broken, or the file is cut short",
        b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00archive/data.pkl".to_vec(),
    );
    add(
        "the start of a torch pickle",
        "cut short",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M".to_vec(),
    );
    add("a short pickle", "torch.save did not write", b"\x80\x04N.".to_vec());

    let lengths = [
        ("one byte too long", HEADER.len() as u64 + DATA_LEN as u64 + 1, "cut short"),
        ("at the limit", 100_000_000, "cut short"),
        ("past the limit", 100_000_001, "the header claims to be 95.4 MiB long"),
        ("the largest", u64::MAX, "the header claims to be 16.0 EiB long"),
        ("zero", 0, "the header is broken"),
        ("a few bytes too short", HEADER.len() as u64 - 3, "belong to none"),
        ("far too short", 17, "the header is broken"),
        ("too long, into the data", HEADER.len() as u64 + 4, "the header is broken"),
    ];
    for (what, length, says) in lengths {
        let mut bytes = sound();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        add(&format!("a header length {what}"), says, bytes);
    }

    let nested = "[".repeat(100_000);
    let nested_metadata = format!(r#"{{"__metadata__":{nested}"#);
    let nested_field = format!(r#"{{"a":{{"dtype":{nested}"#);
    let headers: &[(&str, &str, &[u8])] = &[
        ("not UTF-8", "the header is not UTF-8", b"{\"a\xff\":1}"),
        ("not JSON", "the header is broken", b"{nonsense}"),
        ("with text after the object", "the header is broken", b"{}{}"),
        ("that is an array", "no JSON header", b"[1,2]"),
        ("that is a string", "no JSON header", b"\"text\""),
        ("that begins with a space", "no JSON header", b" {}"),
        ("nested without end", "the header is broken", nested_field.as_bytes()),
        ("with metadata nested without end", "__metadata__", nested_metadata.as_bytes()),
        ("with NUL padding", "the header is broken", b"{}\0\0"),
    ];
    for (what, says, header) in headers {
        add(&format!("a header {what}"), says, file(header, 0));
    }

    let metadata = [
        ("a number", r#"{"a":1}"#, "key 'a': invalid type: integer"),
        ("NaN", r#"{"a":NaN}"#, "key 'a': expected value"),
        ("null", r#"{"a":null}"#, "key 'a': invalid type: null"),
        ("an object", r#"{"a":{}}"#, "key 'a': invalid type: map"),
        ("a repeated key", r#"{"a":"1","b":"2","a":"1"}"#, "key 'a' stands there twice"),
        ("a key repeated as an escape", r#"{"a":"1","\u0061":"2"}"#, "key 'a' stands there twice"),
        ("a lone surrogate", r#"{"a":"\ud800"}"#, "the header is broken"),
        ("an array", r#"["a"]"#, "expected an object of strings"),
        ("a string", r#""a""#, "expected an object of strings"),
        ("a second object", r#"{},"__metadata__":{}"#, "__metadata__ stands there twice"),
        ("a second null", r#"null,"__metadata__":null"#, "__metadata__ stands there twice"),
    ];
    for (what, json, says) in metadata {
        add(&format!("metadata with {what}"), says, file(format!(r#"{{"__metadata__":{json}}}"#), 0));
    }

    let entries = [
        ("no fields", r#"{}"#, "tensor 'a': missing field `dtype`"),
        ("no dtype", r#"{"shape":[4],"data_offsets":[0,4]}"#, "tensor 'a': missing field `dtype`"),
        ("no shape", r#"{"dtype":"U8","data_offsets":[0,4]}"#, "tensor 'a': missing field `shape`"),
        ("no offsets", r#"{"dtype":"U8","shape":[4]}"#, "tensor 'a': missing field `data_offsets`"),
        ("a field too many", r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}"#, "unknown field `x`"),
        (
            "a field twice",
            r#"{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}"#,
            "duplicate field",
        ),
        ("an array for fields", r#"["U8",[4],[0,4]]"#, "expected an object with dtype"),
        ("null for fields", "null", "tensor 'a': invalid type: null"),
        ("an unknown dtype", r#"{"dtype":"F4","shape":[4],"data_offsets":[0,4]}"#, "dtype 'F4' is not known"),
        ("a dtype in lower case", r#"{"dtype":"u8","shape":[4],"data_offsets":[0,4]}"#, "dtype 'u8'"),
        ("a number for a dtype", r#"{"dtype":8,"shape":[4],"data_offsets":[0,4]}"#, "expected a string"),
        ("a number for a shape", r#"{"dtype":"U8","shape":4,"data_offsets":[0,4]}"#, "expected a sequence"),
        ("a negative extent", r#"{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}"#, "integer `-4`"),
        ("a fraction", r#"{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}"#, "floating point `4.0`"),
        (
            "an extent past 64 bits",
            r#"{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}"#,
            "tensor 'a'",
        ),
        ("an extent past floats", r#"{"dtype":"U8","shape":[1e999],"data_offsets":[0,4]}"#, "tensor 'a'"),
        ("a text extent", r#"{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}"#, "tensor 'a'"),
        ("one offset", r#"{"dtype":"U8","shape":[4],"data_offsets":[0]}"#, "tensor 'a': invalid length 1"),
        ("three offsets", r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4,8]}"#, "tensor 'a'"),
        ("a negative offset", r#"{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}"#, "integer `-4`"),
        (
            "too small a shape",
            r#"{"dtype":"U8","shape":[3],"data_offsets":[0,4]}"#,
            "takes 3 bytes, but 4 bytes",
        ),
        (
            "too large a shape",
            r#"{"dtype":"U8","shape":[5],"data_offsets":[0,4]}"#,
            "takes 5 bytes, but 4 bytes",
        ),
        (
            "too wide a dtype",
            r#"{"dtype":"F16","shape":[4],"data_offsets":[0,4]}"#,
            "a F16 of this shape takes 8",
        ),
        (
            "a shape that overflows to the right size",
            r#"{"dtype":"U8","shape":[4294967297,4294967296,4],"data_offsets":[0,4]}"#,
            "larger than any file",
        ),
        (
            "a shape that overflows with its dtype only",
            r#"{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}"#,
            "larger than any file",
        ),
        (
            "the largest extents",
            r#"{"dtype":"F64","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,4]}"#,
            "larger than any file",
        ),
        (
            "the largest extent before a zero",
            r#"{"dtype":"F64","shape":[18446744073709551615,0],"data_offsets":[0,0]}"#,
            "larger than any file",
        ),
        (
            "the largest offsets",
            r#"{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}"#,
            "cut short",
        ),
        (
            "the largest length",
            r#"{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}"#,
            "cut short",
        ),
        (
            "an end before its begin",
            r#"{"dtype":"U8","shape":[4],"data_offsets":[4,0]}"#,
            "before they begin",
        ),
        (
            "data past the end",
            r#"{"dtype":"U8","shape":[5],"data_offsets":[0,5]}"#,
            "tensor 'a': the file is cut short",
        ),
        (
            "data behind the end",
            r#"{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#,
            "tensor 'a': the file is cut short",
        ),
        (
            "bytes after it",
            r#"{"dtype":"U8","shape":[3],"data_offsets":[0,3]}"#,
            "1 byte after the last tensor",
        ),
        (
            "bytes before it",
            r#"{"dtype":"U8","shape":[3],"data_offsets":[1,4]}"#,
            "hole of 1 byte before tensor 'a'",
        ),
    ];
    for (what, json, says) in entries {
        add(&format!("a tensor with {what}"), says, file(format!(r#"{{"a":{json}}}"#), 4));
    }
    add("data without a tensor", "after the last tensor", file("{}", 4));

    let bytes = |begin: usize, end: usize| {
        format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
    };
    let (left, right, whole) = (bytes(0, 2), bytes(2, 4), bytes(0, 4));
    let several = [
        (
            "of the same name",
            format!(r#""a":{left},"b":{right},"a":{left}"#),
            "tensor 'a' stands there twice",
        ),
        ("of the same name, one an escape", format!(r#""a":{left},"\u0061":{right}"#), "stands there twice"),
        ("in the same place", format!(r#""a":{whole},"b":{whole}"#), "tensor 'a' and tensor 'b' overlap"),
        (
            "that overlap",
            format!(r#""a":{},"b":{}"#, bytes(0, 3), bytes(1, 4)),
            "tensor 'a' and tensor 'b' overlap",
        ),
        (
            "one inside the other",
            format!(r#""a":{whole},"b":{}"#, bytes(1, 2)),
            "tensor 'a' and tensor 'b' overlap",
        ),
        (
            "of which an empty one is inside the other",
            format!(r#""a":{whole},"b":{}"#, bytes(2, 2)),
            "overlap",
        ),
        (
            "with a hole between",
            format!(r#""a":{},"b":{}"#, bytes(0, 1), bytes(2, 4)),
            "hole of 1 byte before tensor 'b'",
        ),
    ];
    for (what, json, says) in several {
        add(&format!("tensors {what}"), says, file(format!("{{{json}}}"), 4));
    }
    all
}
