//! Writing safetensors whose tensors' sizes are known beforehand: the header goes first, and the data follow in any
//! order, from any thread. So a checkpoint is written without any of it in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::writer::{Entry, header};
use super::{METADATA_KEY, tensor};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// A safetensors file with a header, which waits for its data.
pub struct FixedWriter<W: Write + Seek> {
    /// Where the data go, and how many bytes of them are still to come.
    sink: Mutex<(W, u64)>,
    name: PathBuf,
    /// Where the tensors' data end in the file; the first entry is where they begin.
    ends: Vec<u64>,
}

/// A tensor that a file is to have.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The extents.
    pub shape: Vec<usize>,
}

impl Outline {
    /// The size of its data in bytes.
    pub fn byte_len(&self) -> u64 {
        self.dtype.size() as u64 * self.shape.iter().map(|extent| *extent as u64).product::<u64>()
    }
}

impl<W: Write + Seek> FixedWriter<W> {
    /// Writes the header of a file whose data are to come, in the order of `tensors`. Messages call it `name`.
    ///
    /// # Errors
    /// The sink can't be written to, or two tensors have one name.
    pub fn new(
        mut sink: W,
        name: &Path,
        tensors: &[Outline],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut seen = BTreeSet::from([METADATA_KEY]);
        if let Some(twice) = tensors.iter().find(|outline| !seen.insert(&outline.name)) {
            let message = format!("the {} would be in it twice", tensor(&twice.name));
            return Err(Error::format(message).in_file(name));
        }
        let mut ends = vec![0];
        let mut entries = Vec::with_capacity(tensors.len());
        for Outline { name, dtype, shape } in tensors {
            entries.push(Entry { name: name.clone(), dtype: *dtype, shape: shape.clone(), data: 0..0 });
        }
        for (entry, outline) in entries.iter_mut().zip(tensors) {
            let begin = ends[ends.len() - 1];
            entry.data = begin..begin + outline.byte_len();
            ends.push(entry.data.end);
        }
        let byte_len = ends[tensors.len()];
        entries.sort_by(|x, y| x.name.cmp(&y.name));
        let mut text = header(metadata, entries.iter().map(|entry| (entry, entry.data.clone())));
        text.resize(text.len().next_multiple_of(8), b' ');
        let written = sink.write_all(&(text.len() as u64).to_le_bytes()).and_then(|()| sink.write_all(&text));
        written.map_err(|error| Error::io(&error, "write", name))?;
        ends.iter_mut().for_each(|end| *end += 8 + text.len() as u64);
        Ok(Self { sink: Mutex::new((sink, byte_len)), name: name.to_owned(), ends })
    }

    /// Puts `data` in their place: those of the tensor with this index, from this byte of them on.
    ///
    /// # Errors
    /// The sink can't be written to. More data than the tensor has are a defect of the caller.
    pub fn write_at(&self, tensor: usize, first: usize, data: &[u8]) -> Result<()> {
        let begin = self.ends[tensor] + first as u64;
        if begin + data.len() as u64 > self.ends[tensor + 1] {
            return Err(Error::internal("more data than the header tells").in_file(&self.name));
        }
        let defect = || Error::internal("a thread that wrote has panicked").in_file(&self.name);
        let mut sink = self.sink.lock().map_err(|_| defect())?;
        let (file, left) = &mut *sink;
        *left = left.saturating_sub(data.len() as u64);
        let written = file.seek(SeekFrom::Start(begin)).and_then(|_| file.write_all(data));
        written.map_err(|error| Error::io(&error, "write", &self.name))
    }

    /// Gives the sink back, and says how long the file is.
    ///
    /// # Errors
    /// Less data than were told, which is a defect of the caller.
    pub fn finish(self) -> Result<(W, u64)> {
        match self.sink.into_inner() {
            Ok((sink, 0)) => Ok((sink, self.ends[self.ends.len() - 1])),
            _ => Err(Error::internal("less data than the header tells").in_file(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::file::Container;

    fn outline(name: &str, len: usize) -> Outline {
        Outline { name: name.to_owned(), dtype: Dtype::U8, shape: vec![len] }
    }

    fn begin(
        tensors: &[Outline],
        metadata: &BTreeMap<String, String>,
    ) -> Result<FixedWriter<Cursor<Vec<u8>>>> {
        FixedWriter::new(Cursor::default(), Path::new("out"), tensors, metadata)
    }

    #[test]
    fn data_in_any_order_are_read_back() {
        let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let writer = begin(&[outline("b", 3), outline("a", 2), outline("c", 0)], &metadata).unwrap();
        for (tensor, first, piece) in [(1, 0, &[4, 5][..]), (0, 2, &[3]), (0, 0, &[1, 2])] {
            writer.write_at(tensor, first, piece).unwrap();
        }
        let (bytes, byte_len) = writer.finish().unwrap();
        assert_eq!(bytes.get_ref().len() as u64, byte_len);
        let file = Container::from_bytes("out", bytes.into_inner()).unwrap();
        assert_eq!(file.get("b").unwrap().data, [1, 2, 3]);
        assert_eq!(file.get("a").unwrap().data, [4, 5]);
        assert_eq!((file.len(), file.metadata()), (3, &metadata));
        assert_eq!(file.names_by_place(), ["b", "a", "c"]);
    }

    #[test]
    fn what_the_header_tells_is_kept_to() {
        let one = || begin(&[outline("a", 2)], &BTreeMap::new()).unwrap();
        assert!(one().finish().is_err());
        assert!(one().write_at(0, 0, &[1, 2, 3]).is_err());
        assert!(one().write_at(0, 1, &[1, 2]).is_err());
        let twice = [outline("a", 1), outline("a", 1)];
        assert!(begin(&twice, &BTreeMap::new()).is_err());
    }
}
