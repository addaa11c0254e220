//! Reading safetensors: eight bytes of header length, a JSON header, the tensors' bytes.
//!
//! The file's bytes go in; the table of its tensors comes out. Everything is checked when the file is
//! opened, with checked arithmetic, before any tensor is handed out. The header is read here rather than by
//! the `safetensors` crate, because that lets duplicate names through (the last one wins, silently) and, in
//! release builds, shapes whose product overflows.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::container::{self, Contents, Data};
use super::{MAX_HEADER, METADATA_KEY, human_size, short, tensor};

use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// One tensor whose sizes have been checked.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where its bytes are, counted from the start of the data.
    data: Range<usize>,
}

/// Checks `bytes`, the content of a safetensors file, and finds the tensors in it.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an unknown dtype, and
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for anything else that is not a sound file.
pub(super) fn read(bytes: &[u8]) -> Result<Contents> {
    let (header, data) = split(bytes)?;
    let header = parse(header)?;
    let tensors = check_tensors(header.entries, data.len())?;
    let data_start = bytes.len() - data.len();
    let place = |Tensor { dtype, shape, data }| container::Tensor {
        dtype,
        shape,
        data: Data::InFile(data_start + data.start..data_start + data.end),
    };
    let tensors = tensors.into_iter().map(|(name, tensor)| (name, place(tensor))).collect();
    Ok(Contents { metadata: header.metadata, tensors })
}

/// The header and the data region of a file.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(foreign(bytes).unwrap_or_else(|| match bytes.len() {
            0 => Error::format("the file is empty"),
            n => Error::format(format!("the file is cut short: it has {}", human_size(n as u64))),
        }));
    };
    let length = u64::from_le_bytes(*length);
    // A true header begins with a brace. Asked first, because a length may look like another format's mark.
    if rest.first().is_some_and(|&byte| byte != b'{') {
        return Err(foreign(bytes).unwrap_or_else(|| {
            Error::format(
                "this is not a safetensors file (there is no JSON header after its first 8 bytes), nor a PyTorch file",
            )
        }));
    }
    if length > MAX_HEADER {
        return Err(Error::format(format!(
            "the header claims to be {} long; the limit is {}",
            human_size(length),
            human_size(MAX_HEADER)
        )));
    }
    rest.split_at_checked(length as usize).ok_or_else(|| {
        Error::format(format!(
            "the file is cut short: its header should be {} long, and {} are left",
            human_size(length),
            human_size(rest.len() as u64)
        ))
    })
}

/// What `bytes` are instead of safetensors, if it is something that people do pass by mistake.
fn foreign(bytes: &[u8]) -> Option<Error> {
    let begins = |mark: &[u8]| bytes.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark));
    if begins(b"<!doctype") || begins(b"<html") {
        Some(Error::format("this is a web page, not a model; download the file again"))
    } else if begins(b"version https://git-lfs") {
        Some(Error::format("this is a Git LFS pointer, not the model itself; fetch it with 'git lfs pull'"))
    } else {
        None
    }
}

/// The header's content, before its numbers are checked.
struct Header {
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

/// What a header says about one tensor.
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

fn parse(header: &[u8]) -> Result<Header> {
    let text = std::str::from_utf8(header).map_err(|error| {
        Error::format(format!("the header is not UTF-8 (byte {} of it is wrong)", error.valid_up_to()))
    })?;
    serde_json::from_str(text)
        .map_err(|error| Error::format(format!("the header is broken: {}", short(&error.to_string(), 300))))
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Sees every key of the header, the repeated ones too, which a map type would drop.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut metadata = None;
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                let value: Option<Metadata> =
                    map.next_value().map_err(|error| A::Error::custom(format!("{METADATA_KEY}: {error}")))?;
                if metadata.replace(value).is_some() {
                    return Err(A::Error::custom(format!("{METADATA_KEY} stands there twice")));
                }
                continue;
            }
            let entry: Entry =
                map.next_value().map_err(|error| A::Error::custom(format!("{}: {error}", tensor(&name))))?;
            if entries.contains_key(&name) {
                return Err(A::Error::custom(format!("{} stands there twice", tensor(&name))));
            }
            entries.insert(name, entry);
        }
        // The reference library reads `null` as no metadata.
        let metadata = metadata.flatten().map(|Metadata(pairs)| pairs).unwrap_or_default();
        Ok(Header { metadata, entries })
    }
}

/// The strings under `__metadata__`, each key once.
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Metadata, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map
                .next_value::<String>()
                .map_err(|error| A::Error::custom(format!("key '{}': {error}", short(&key, 100))))?;
            if pairs.contains_key(&key) {
                return Err(A::Error::custom(format!("key '{}' stands there twice", short(&key, 100))));
            }
            pairs.insert(key, value);
        }
        Ok(Metadata(pairs))
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

/// Takes an object only; a derived struct would take an array of its fields, too.
struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Entry, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            dtype: String,
            shape: Vec<usize>,
            data_offsets: (usize, usize),
        }
        let Fields { dtype, shape, data_offsets } = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Entry { dtype, shape, data_offsets })
    }
}

/// Checks each tensor by itself, then that together they fill the data region: `data_len` bytes.
fn check_tensors(entries: BTreeMap<String, Entry>, data_len: usize) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let checked = check_tensor(entry, data_len).map_err(|problem| {
            Error::new(problem.kind(), format!("{}: {}", tensor(&name), problem.message()))
        })?;
        tensors.insert(name, checked);
    }
    check_tiling(&tensors, data_len)?;
    Ok(tensors)
}

fn check_tensor(entry: Entry, data_len: usize) -> Result<Tensor> {
    let Entry { dtype, shape, data_offsets: (begin, end) } = entry;
    let dtype = Dtype::from_name(&dtype)
        .ok_or_else(|| Error::unsupported(format!("the dtype '{}' is not known", short(&dtype, 40))))?;
    let size = shape
        .iter()
        .try_fold(dtype.size(), |size, &extent| size.checked_mul(extent))
        .ok_or_else(|| Error::format("the shape is larger than any file"))?;
    let length = end
        .checked_sub(begin)
        .ok_or_else(|| Error::format(format!("the data end (at {end}) before they begin (at {begin})")))?;
    if length != size {
        return Err(Error::format(format!(
            "a {} of this shape takes {}, but {} are given to it",
            dtype.name(),
            human_size(size as u64),
            human_size(length as u64)
        )));
    }
    if end > data_len {
        return Err(Error::format(format!(
            "the file is cut short: the data of this tensor end at byte {end}, those of the file at byte {data_len}"
        )));
    }
    Ok(Tensor { dtype, shape, data: begin..end })
}

fn check_tiling(tensors: &BTreeMap<String, Tensor>, data_len: usize) -> Result<()> {
    let mut sorted: Vec<_> = tensors.iter().map(|(name, tensor)| (&tensor.data, name)).collect();
    // An empty tensor sorts before the one that begins where it stands.
    sorted.sort_by_key(|(data, _)| (data.start, data.end));
    let mut filled = 0;
    let mut before = None;
    for (data, name) in sorted {
        match before {
            Some(other) if data.start < filled => {
                return Err(Error::format(format!("{} and {} overlap", tensor(other), tensor(name))));
            }
            _ if data.start > filled => {
                let gap = human_size((data.start - filled) as u64);
                return Err(Error::format(format!("there is a hole of {gap} before {}", tensor(name))));
            }
            _ => {}
        }
        filled = data.end;
        before = Some(name);
    }
    if filled < data_len {
        let rest = human_size((data_len - filled) as u64);
        return Err(Error::format(format!("there are {rest} after the last tensor that belong to none")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Container;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn open(header: &str, data: &[u8]) -> Result<Container> {
        Container::from_bytes("a.safetensors", file(header, data))
    }

    #[test]
    fn tensors_come_out_in_name_order_whatever_the_file_s_order_and_alignment() {
        let header = r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "__metadata__":{"k":"v"}, "a":{"data_offsets":[1,5],"shape":[2,1],"dtype":"F16"},
            "s":{"dtype":"U8","shape":[],"data_offsets":[5,6]}}"#;
        let file = open(header, &[7, 0, 0x3c, 0, 0xc0, 9]).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "s"]);
        let a = file.get("a").unwrap();
        assert_eq!((a.dtype, a.shape), (Dtype::F16, [2, 1].as_slice()));
        assert_eq!(a.to_reals::<f32>(), [1.0, -2.0]);
        assert_eq!(file.get("s").unwrap().to_reals::<f32>(), [9.0]);
        assert!(file.get("c").is_none());
        assert_eq!(file.metadata()["k"], "v");
        assert_eq!((file.len(), file.is_empty(), file.byte_len()), (3, false, file.bytes().len() as u64));
    }

    #[test]
    fn a_file_without_tensors_and_null_metadata_are_sound() {
        assert!(open("{}", &[]).unwrap().is_empty());
        assert!(open(r#"{"__metadata__":null}"#, &[]).unwrap().metadata().is_empty());
    }

    #[test]
    fn an_opened_file_crosses_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<Container>();
    }

    #[test]
    fn messages_are_one_short_line() {
        let name = format!("\\u001b[31m\\n{}", "x".repeat(5000));
        let error = open(&format!(r#"{{"{name}":{{"dtype":"F16"}}}}"#), &[]).unwrap_err().to_string();
        assert!(error.len() < 500 && !error.contains(char::is_control), "{error}");
        assert!(error.starts_with("a.safetensors: the header is broken: tensor '\\u{1b}[31m\\n"), "{error}");
    }
}
