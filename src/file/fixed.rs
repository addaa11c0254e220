//! Writing safetensors whose tensors' sizes are known beforehand: the header goes first, and the data follow in the
//! order that was told, a piece at a time. So a checkpoint is written without any of it in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::writer::{Entry, header};
use super::{METADATA_KEY, tensor};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// A safetensors file with a header, which waits for its data.
pub struct FixedWriter<W: Write> {
    sink: W,
    name: PathBuf,
    /// Bytes of data that are still to come.
    left: u64,
    byte_len: u64,
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

impl<W: Write> FixedWriter<W> {
    /// Writes the header of a file whose data are to come in the order of `tensors`. Messages call it `name`.
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
        let mut end = 0;
        let mut entries: Vec<Entry> = tensors
            .iter()
            .map(|Outline { name, dtype, shape }| Entry {
                name: name.clone(),
                dtype: *dtype,
                shape: shape.clone(),
                data: 0..0,
            })
            .collect();
        for (entry, outline) in entries.iter_mut().zip(tensors) {
            entry.data = end..end + outline.byte_len();
            end = entry.data.end;
        }
        entries.sort_by(|x, y| x.name.cmp(&y.name));
        let mut text = header(metadata, entries.iter().map(|entry| (entry, entry.data.clone())));
        text.resize(text.len().next_multiple_of(8), b' ');
        let written = sink.write_all(&(text.len() as u64).to_le_bytes()).and_then(|()| sink.write_all(&text));
        written.map_err(|error| Error::io(&error, "write", name))?;
        Ok(Self { sink, name: name.to_owned(), left: end, byte_len: 8 + text.len() as u64 + end })
    }

    /// Appends data: the next of the tensor whose turn it is.
    ///
    /// # Errors
    /// The sink can't be written to. More data than were told are a defect of the caller.
    pub fn push(&mut self, data: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(data.len() as u64);
        self.left =
            left.ok_or_else(|| Error::internal("more data than the header tells").in_file(&self.name))?;
        self.sink.write_all(data).map_err(|error| Error::io(&error, "write", &self.name))
    }

    /// Gives the sink back, and says how long the file is.
    ///
    /// # Errors
    /// Less data than were told, which is a defect of the caller.
    pub fn finish(self) -> Result<(W, u64)> {
        match self.left {
            0 => Ok((self.sink, self.byte_len)),
            _ => Err(Error::internal("less data than the header tells").in_file(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Container;

    fn outline(name: &str, len: usize) -> Outline {
        Outline { name: name.to_owned(), dtype: Dtype::U8, shape: vec![len] }
    }

    #[test]
    fn data_in_any_order_of_names_are_read_back() {
        let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let tensors = [outline("b", 3), outline("a", 2), outline("c", 0)];
        let mut writer = FixedWriter::new(Vec::new(), Path::new("out"), &tensors, &metadata).unwrap();
        for piece in [&[1, 2][..], &[3, 4], &[5]] {
            writer.push(piece).unwrap();
        }
        let (bytes, byte_len) = writer.finish().unwrap();
        assert_eq!(bytes.len() as u64, byte_len);
        let file = Container::from_bytes("out", bytes).unwrap();
        assert_eq!(file.get("b").unwrap().data, [1, 2, 3]);
        assert_eq!(file.get("a").unwrap().data, [4, 5]);
        assert_eq!((file.len(), file.metadata()), (3, &metadata));
        assert_eq!(file.names_by_place(), ["b", "a", "c"]);
    }

    #[test]
    fn what_the_header_tells_is_kept_to() {
        let begin =
            || FixedWriter::new(Vec::new(), Path::new("out"), &[outline("a", 2)], &BTreeMap::new()).unwrap();
        assert!(begin().finish().is_err());
        assert!(begin().push(&[1, 2, 3]).is_err());
        let twice = [outline("a", 1), outline("a", 1)];
        assert!(FixedWriter::new(Vec::new(), Path::new("out"), &twice, &BTreeMap::new()).is_err());
    }
}
