//! Writing safetensors as the tensors come, the same bytes for the same content.
//!
//! Tensors go in one by one in name order; a file whose header is sorted comes out, with the hashes that
//! hosts look for. The one idea: the header stands first, but is known last. So room is reserved for it, and
//! what is left of the room is filled with spaces, which the format allows. If the room turns out too small,
//! the data are moved up, so a wrong guess costs time and nothing else.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use sha2::{Digest, Sha256};

use super::metadata::{LEGACY_HASH, LEGACY_WINDOW, MODEL_HASH, TRAINING_PREFIX, hex, sha256_hex};
use super::output::Finished;
use super::{MAX_HEADER, METADATA_KEY, human_size};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// How many bytes are gathered before they are handed to the system (longer tensors aren't copied), and moved at
/// once.
const BUFFER: usize = 1 << 16;

/// The length of the header's length.
const PREFIX: u64 = 8;

/// The order in which the reference library writes dtypes. (Within one, it goes by name.)
const REFERENCE_ORDER: [Dtype; 15] = [
    Dtype::U64,
    Dtype::I64,
    Dtype::F64,
    Dtype::F32,
    Dtype::U32,
    Dtype::I32,
    Dtype::BF16,
    Dtype::F16,
    Dtype::U16,
    Dtype::I16,
    Dtype::F8E4M3,
    Dtype::F8E5M2,
    Dtype::I8,
    Dtype::U8,
    Dtype::Bool,
];

/// The bytes of header to reserve for a tensor whose name is `name_len` bytes long.
///
/// It suffices for a name that JSON need not escape, up to five dimensions, and files below a terabyte.
pub(super) fn entry_bound(name_len: usize) -> usize {
    // Offsets and element counts below 10¹² have 12 digits; each extent of a product may add one.
    const OFFSETS: usize = 2 * 12;
    const SHAPE: usize = 12 + 5 + ",,,,".len();
    name_len + r#""":{"dtype":"F8_E4M3","shape":[],"data_offsets":[,]},"#.len() + SHAPE + OFFSETS
}

/// Writes one safetensors file to a sink, tensor by tensor.
pub(super) struct SafeTensorsWriter<W: Write + Seek> {
    sink: BufWriter<W>,
    name: PathBuf,
    /// Where the data begin.
    data_start: u64,
    entries: Vec<Entry>,
    hash: Sha256,
}

/// A tensor of a file, and where it is.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its bytes are, counted from the start of the data.
    pub(super) data: Range<u64>,
}

impl<W: Read + Write + Seek> SafeTensorsWriter<W> {
    /// Begins a file in `sink`, which is empty. Messages call it `name`.
    ///
    /// `reserve` is how long the header is expected to be at most: the sum of [`entry_bound`], the metadata
    /// as JSON, and a few hundred bytes.
    ///
    /// # Errors
    /// The sink can't be written to.
    pub(super) fn new(sink: W, name: PathBuf, reserve: usize) -> Result<Self> {
        let data_start = PREFIX + (reserve as u64).next_multiple_of(8);
        let mut sink = BufWriter::with_capacity(BUFFER, sink);
        sink.seek(SeekFrom::Start(data_start)).map_err(|error| Error::io(&error, "write", &name))?;
        Ok(Self { sink, name, data_start, entries: Vec::new(), hash: Sha256::new() })
    }

    /// Appends a tensor, which has been checked.
    ///
    /// # Errors
    /// The sink can't be written to.
    pub(super) fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Result<()> {
        self.sink.write_all(data).map_err(|error| Error::io(&error, "write", &self.name))?;
        self.hash.update(data);
        let begin = self.data_len();
        let data = begin..begin + data.len() as u64;
        self.entries.push(Entry { name: name.to_owned(), dtype, shape: shape.to_vec(), data });
        Ok(())
    }

    /// Adds `metadata` and the two hashes, writes the header, and gives the sink back.
    ///
    /// # Errors
    /// The sink can't be written or read, or the header is longer than readers accept.
    pub(super) fn finish(mut self, mut metadata: BTreeMap<String, String>) -> Result<(W, Finished)> {
        let model_hash = hex(self.hash.finalize_reset());
        let legacy_hash = self.legacy_hash(&metadata)?;
        metadata.insert(MODEL_HASH.to_owned(), model_hash.clone());
        metadata.insert(LEGACY_HASH.to_owned(), legacy_hash);
        let header = header(&metadata, self.entries.iter().map(|entry| (entry, entry.data.clone())));
        if header.len() as u64 > MAX_HEADER {
            let size = human_size(header.len() as u64);
            let limit = human_size(MAX_HEADER);
            let message = format!("the header would be {size} long, and readers take no more than {limit}");
            return Err(Error::unsupported(message).in_file(self.name));
        }
        self.place(&header).map_err(|error| Error::io(&error, "write", &self.name))?;
        let byte_len = self.data_start + self.data_len();
        let sink = self.sink.into_inner().map_err(|error| Error::io(error.error(), "write", &self.name))?;
        Ok((sink, Finished { byte_len, model_hash: Some(model_hash) }))
    }

    /// The length of the data so far.
    fn data_len(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.data.end)
    }

    /// Writes the header, after making room for it if there is too little.
    fn place(&mut self, header: &[u8]) -> io::Result<()> {
        let data_start = PREFIX + (header.len() as u64).next_multiple_of(8);
        if data_start > self.data_start {
            self.move_data(data_start)?;
        }
        let room = self.data_start - PREFIX;
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(&room.to_le_bytes())?;
        self.sink.write_all(header)?;
        io::copy(&mut io::repeat(b' ').take(room - header.len() as u64), &mut self.sink)?;
        self.sink.flush()
    }

    /// Moves the data up to `to`, from their end to their beginning, because the places overlap.
    fn move_data(&mut self, to: u64) -> io::Result<()> {
        let mut left = self.data_len();
        let mut block = vec![0; BUFFER];
        while left > 0 {
            let block = &mut block[..left.min(BUFFER as u64) as usize];
            left -= block.len() as u64;
            self.read(left, block)?;
            self.sink.seek(SeekFrom::Start(to + left))?;
            self.sink.write_all(block)?;
        }
        self.data_start = to;
        Ok(())
    }

    /// Reads data back that were written, from the offset `from` of the data.
    fn read(&mut self, from: u64, into: &mut [u8]) -> io::Result<()> {
        // Seeking writes out what is buffered, so the sink below has everything.
        self.sink.seek(SeekFrom::Start(self.data_start + from))?;
        self.sink.get_mut().read_exact(into)
    }

    /// The hash that the oldest hosts use; see [`LEGACY_HASH`].
    fn legacy_hash(&mut self, metadata: &BTreeMap<String, String>) -> Result<String> {
        let mut order: Vec<&Entry> = self.entries.iter().collect();
        let rank = |dtype| REFERENCE_ORDER.iter().position(|&other| other == dtype);
        order.sort_by_key(|entry| (rank(entry.dtype), &entry.name));
        let mut end = 0;
        let placed = order.into_iter().map(|entry| {
            let begin = end;
            end += entry.data.end - entry.data.start;
            (entry, begin..end)
        });
        let placed: Vec<(&Entry, Range<u64>)> = placed.collect();

        // The reference library writes metadata in no particular order, so sorted is as good as any; it
        // matters only where the header itself reaches the window.
        let training = metadata.iter().filter(|(key, _)| key.starts_with(TRAINING_PREFIX));
        let training: BTreeMap<&String, &String> = training.collect();
        let mut start = header(&training, placed.iter().cloned());
        start.resize(start.len().next_multiple_of(8), b' ');
        start.splice(..0, (start.len() as u64).to_le_bytes());

        let start_len = start.len() as u64;
        let mut window = start.split_off(start.len().min(LEGACY_WINDOW.start as usize));
        window.truncate((LEGACY_WINDOW.end - LEGACY_WINDOW.start) as usize);
        let mut pieces = Vec::new();
        for (entry, place) in placed {
            let begin = LEGACY_WINDOW.start.max(start_len + place.start);
            let end = LEGACY_WINDOW.end.min(start_len + place.end);
            if begin < end {
                pieces.push((entry.data.start + (begin - start_len - place.start), (end - begin) as usize));
            }
        }
        for (from, length) in pieces {
            let filled = window.len();
            window.resize(filled + length, 0);
            self.read(from, &mut window[filled..])
                .map_err(|error| Error::io(&error, "read back", &self.name))?;
        }
        Ok(sha256_hex(&window)[..8].to_owned())
    }
}

/// A header's JSON: the metadata, then the entries in the order and with the data offsets given.
pub(super) fn header<'a>(
    metadata: &impl Serialize,
    entries: impl Iterator<Item = (&'a Entry, Range<u64>)>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Fields<'a> {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: (u64, u64),
    }
    let mut json = Vec::new();
    let write = || -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(&mut json);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA_KEY, metadata)?;
        for (entry, Range { start, end }) in entries {
            let fields =
                Fields { dtype: entry.dtype.name(), shape: &entry.shape, data_offsets: (start, end) };
            map.serialize_entry(&entry.name, &fields)?;
        }
        map.end()
    };
    write().expect("strings and numbers, written to memory");
    json
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::file::Container;

    type Content = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

    fn write(tensors: &Content, metadata: &BTreeMap<String, String>, reserve: usize) -> Vec<u8> {
        let mut writer = SafeTensorsWriter::new(Cursor::new(Vec::new()), "out".into(), reserve).unwrap();
        for (name, dtype, shape, data) in tensors {
            writer.push(name, *dtype, shape, data).unwrap();
        }
        let (sink, finished) = writer.finish(metadata.clone()).unwrap();
        let bytes = sink.into_inner();
        assert_eq!(finished.byte_len, bytes.len() as u64);
        bytes
    }

    fn header_len(file: &[u8]) -> usize {
        u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
    }

    fn content() -> Content {
        vec![
            ("a".into(), Dtype::F16, vec![2], vec![1, 2, 3, 4]),
            ("b".into(), Dtype::F32, vec![], vec![5, 6, 7, 8]),
        ]
    }

    #[test]
    fn a_file_has_exactly_these_bytes() {
        let file = write(&content(), &[("k".to_owned(), "v".to_owned())].into(), 0);
        let hash = sha256_hex(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut header = [
            r#"{"__metadata__":{"k":"v","sshs_legacy_hash":"e3b0c442","sshs_model_hash":""#,
            &hash,
            r#""},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"#,
            r#""b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#,
        ]
        .concat();
        header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
        let expected = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]];
        assert_eq!(file, expected.concat());
    }

    #[test]
    fn the_reservation_changes_only_the_padding() {
        let exact = write(&content(), &BTreeMap::new(), 0);
        let header = &exact[8..8 + header_len(&exact)];
        for reserve in 0..2 * exact.len() {
            let file = write(&content(), &BTreeMap::new(), reserve);
            let (found, data) = file[8..].split_at(header_len(&file));
            assert_eq!(found.trim_ascii_end(), header.trim_ascii_end());
            assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(found.len(), header.len().max(reserve.next_multiple_of(8)));
        }
    }

    #[test]
    fn data_longer_than_a_block_survive_being_moved() {
        let data: Vec<u8> = (0..3 * BUFFER + 5).map(|i| (i % 251) as u8).collect();
        let file = write(&vec![("a".into(), Dtype::U8, vec![data.len()], data.clone())], &BTreeMap::new(), 0);
        let file = Container::from_bytes("out", file).unwrap();
        assert!(file.get("a").unwrap().data == data);
    }

    #[test]
    fn entry_bound_suffices_for_the_longest_usual_entry() {
        let shape = vec![99, 99, 99, 99, 9999];
        let data = 899_999_999_990..999_999_999_999;
        let entry = Entry { name: "layer.é".into(), dtype: Dtype::F8E4M3, shape, data: data.clone() };
        let with = header(&(), [(&entry, data)].into_iter()).len();
        let without = header(&(), std::iter::empty()).len();
        assert!(with - without <= entry_bound(entry.name.len()));
        assert!(with - without + 12 > entry_bound(entry.name.len()), "nor does it waste much");
    }

    #[test]
    fn a_sink_that_fails_is_an_error_of_the_system() {
        /// Takes one block, like a disk that is nearly full.
        struct Full(Cursor<Vec<u8>>);
        impl Read for Full {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.read(into)
            }
        }
        impl Write for Full {
            fn write(&mut self, from: &[u8]) -> io::Result<usize> {
                if self.0.position() > 0 {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    self.0.write(from)
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Seek for Full {
            fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
                self.0.seek(to)
            }
        }
        let mut writer = SafeTensorsWriter::new(Full(Cursor::new(Vec::new())), "out".into(), 64).unwrap();
        writer.push("a", Dtype::U8, &[1], &[0]).unwrap();
        let error = writer.finish(BTreeMap::new()).map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some("out".as_ref())));
    }

    /// A file in which, in the reference's order, four tensors touch the window of the legacy hash.
    fn large() -> Content {
        let tensors = [
            ("a", Dtype::F16, 10_000),
            ("b", Dtype::F32, 12_100),
            ("c", Dtype::BF16, 10_000),
            ("d", Dtype::F16, 60_000),
            ("e", Dtype::I64, 125_000),
        ];
        let fill = |(i, (name, dtype, elements)): (usize, (&str, Dtype, usize))| {
            let data = (0..elements * dtype.size()).map(|k| ((k * k + i) % 253) as u8).collect();
            (name.to_owned(), dtype, vec![elements], data)
        };
        tensors.into_iter().enumerate().map(fill).collect()
    }

    #[test]
    fn the_hashes_of_a_large_file_are_those_of_sd_scripts() {
        let metadata = [("ss_b", "2"), ("other", "x"), ("format", "pt")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let file = Container::from_bytes("out", write(&large(), &metadata, 700)).unwrap();
        // Computed with safetensors 0.8.0 and hashlib.
        assert_eq!(file.metadata()[LEGACY_HASH], "120b0612");
        assert_eq!(
            file.metadata()[MODEL_HASH],
            "c9bd8ba4ebf8e27bbad1090989fd7662f1bde2117d4c9908848763f00c3b7f59"
        );
    }

    #[test]
    fn the_reference_order_has_every_dtype() {
        for name in "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split(' ') {
            assert!(REFERENCE_ORDER.contains(&Dtype::from_name(name).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            tensors in proptest::collection::btree_map(
                ".{0,12}|[\"\\\\\u{0}-\u{1f}]{0,12}",
                (0..REFERENCE_ORDER.len(), proptest::collection::vec(0_usize..4, 0..5), any::<u8>()),
                0..12,
            ),
            metadata in proptest::collection::btree_map(".{0,8}", ".{0,20}", 0..5),
            reserve in 0_usize..4000,
        ) {
            let tensors: Content = tensors.into_iter().map(|(name, (dtype, shape, seed))| {
                let dtype = REFERENCE_ORDER[dtype];
                let size = dtype.size() * shape.iter().product::<usize>();
                let data = (0..size).map(|i| seed.wrapping_add(i as u8)).collect();
                (name, dtype, shape, data)
            }).collect();
            let written = write(&tensors, &metadata, reserve);
            prop_assert_eq!(header_len(&written) % 8, 0);
            let file = Container::from_bytes("out", written).unwrap();
            prop_assert!(file.names().eq(tensors.iter().map(|(name, ..)| name.as_str())));
            for (name, dtype, shape, data) in &tensors {
                let view = file.get(name).unwrap();
                prop_assert_eq!((view.dtype, view.shape, view.data), (*dtype, &shape[..], &data[..]));
            }
            let mut found = file.metadata().clone();
            prop_assert_eq!(found.remove(LEGACY_HASH), Some("e3b0c442".to_owned()));
            let data: Vec<u8> = tensors.iter().flat_map(|(.., data)| data.clone()).collect();
            prop_assert_eq!(found.remove(MODEL_HASH), Some(sha256_hex(&data)));
            prop_assert_eq!(found, metadata);
        }
    }
}
