//! Writing what `torch.load(weights_only=True)` reads: a dict of tensors, in name order.
//!
//! Storages are written as the tensors come; the pickle that describes them follows, and then two records that
//! PyTorch wants to see. The same tensors make the same bytes.

use std::io::{BufWriter, Seek, Write};
use std::path::PathBuf;

use super::archive::Archive;
use super::globals::{dtype_name, storage_class};
use super::pickle;
use crate::error::{Error, Result};
use crate::file::human_size;
use crate::file::output::Finished;
use crate::tensor::Dtype;

/// How many bytes are gathered before they are handed to the system; longer tensors aren't copied.
const BUFFER: usize = 1 << 16;

/// The bytes that a tensor takes besides its data, if its name is `name_len` bytes long: in the pickle, in the
/// header of its record with what aligns it, and in the directory.
///
/// It suffices for files of less than 10⁶ tensors and 10¹⁵ bytes, and for five dimensions.
pub(in crate::file) fn entry_bound(name_len: usize) -> usize {
    const RECORD_NAME: usize = "archive/data/123456".len();
    const HEADER: usize = 30 + RECORD_NAME + 20 + 4 + 63;
    const DIRECTORY: usize = 46 + RECORD_NAME + 4 + 24;
    // Each number takes up to nine bytes.
    const PICKLE: usize = 35 + 36 + 2 + 12 + 22 + 11 + 8 + 9 + 2 + 2 * (2 + 5 * 9) + 2 + 27 + 2;
    name_len + HEADER + DIRECTORY + PICKLE
}

/// Writes one PyTorch file to a sink, tensor by tensor.
pub(in crate::file) struct TorchWriter<W: Write + Seek> {
    archive: Archive<BufWriter<W>>,
    name: PathBuf,
    pickle: Vec<u8>,
    tensors: usize,
}

impl<W: Write + Seek> TorchWriter<W> {
    /// Begins a file in `sink`, which is empty. Messages call it `name`.
    pub(in crate::file) fn new(sink: W, name: PathBuf) -> Self {
        let archive = Archive::new(BufWriter::with_capacity(BUFFER, sink));
        // PROTO 2, EMPTY_DICT, MARK
        Self { archive, name, pickle: b"\x80\x02}(".to_vec(), tensors: 0 }
    }

    /// Appends a tensor, which has been checked.
    ///
    /// # Errors
    /// The sink can't be written to.
    pub(in crate::file) fn push(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        data: &[u8],
    ) -> Result<()> {
        let key = self.tensors.to_string();
        self.add(&format!("archive/data/{key}"), data)?;
        describe(&mut self.pickle, name, &key, dtype, shape);
        self.tensors += 1;
        Ok(())
    }

    /// Completes the file, and gives the sink back.
    ///
    /// # Errors
    /// The sink can't be written to, or there are more tensors than readers accept.
    pub(in crate::file) fn finish(mut self) -> Result<(W, Finished)> {
        // SETITEMS, STOP
        self.pickle.extend_from_slice(b"u.");
        let pickle = std::mem::take(&mut self.pickle);
        if pickle.len() as u64 > pickle::MOST_BYTES {
            let (size, limit) = (human_size(pickle.len() as u64), human_size(pickle::MOST_BYTES));
            let message = format!("the pickle would be {size} long, and readers take no more than {limit}");
            return Err(Error::unsupported(message).in_file(self.name));
        }
        for (name, data) in
            [("archive/data.pkl", &pickle[..]), ("archive/byteorder", b"little"), ("archive/version", b"3\n")]
        {
            self.add(name, data)?;
        }
        let Self { archive, name, .. } = self;
        let to_error = |error: &std::io::Error| Error::io(error, "write", &name);
        let (sink, byte_len) = archive.finish().map_err(|error| to_error(&error))?;
        let sink = sink.into_inner().map_err(|error| to_error(error.error()))?;
        Ok((sink, Finished { byte_len, model_hash: None }))
    }

    fn add(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.archive.add(name, data).map_err(|error| Error::io(&error, "write", &self.name))
    }
}

/// Appends a name and its tensor: a call of `_rebuild_tensor_v2` with a typed storage or, for dtypes that have none,
/// of `_rebuild_tensor_v3` with an untyped one.
fn describe(out: &mut Vec<u8>, name: &str, key: &str, dtype: Dtype, shape: &[usize]) {
    let numel: usize = shape.iter().product();
    let class = storage_class(dtype);
    text(out, name);
    global(out, "torch._utils", if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" });
    // MARK for the arguments, MARK for the persistent id
    out.extend_from_slice(b"((");
    text(out, "storage");
    match class {
        Some(class) => global(out, "torch", class),
        None => global(out, "torch.storage", "UntypedStorage"),
    }
    text(out, key);
    text(out, "cpu");
    int(out, if class.is_some() { numel } else { numel * dtype.size() });
    // TUPLE, BINPERSID
    out.extend_from_slice(b"tQ");
    int(out, 0);
    let mut step = numel;
    let strides: Vec<usize> = shape
        .iter()
        .map(|extent| {
            // Nothing is ever reached by the steps of an empty tensor.
            step = step.checked_div(*extent).unwrap_or(1);
            step
        })
        .collect();
    for numbers in [shape, &strides] {
        out.push(b'(');
        numbers.iter().for_each(|number| int(out, *number));
        out.push(b't');
    }
    // NEWFALSE: no gradient. Then no hooks.
    out.push(0x89);
    global(out, "collections", "OrderedDict");
    out.extend_from_slice(b")R");
    if class.is_none() {
        global(out, "torch", dtype_name(dtype));
    }
    // TUPLE, REDUCE
    out.extend_from_slice(b"tR");
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.push(b'c');
    for part in [module, name] {
        out.extend_from_slice(part.as_bytes());
        out.push(b'\n');
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// BININT1, BININT2, BININT or LONG1, the shortest that holds `number`.
fn int(out: &mut Vec<u8>, number: usize) {
    if let Ok(byte) = u8::try_from(number) {
        out.extend_from_slice(&[b'K', byte]);
    } else if let Ok(half) = u16::try_from(number) {
        out.push(b'M');
        out.extend_from_slice(&half.to_le_bytes());
    } else if let Ok(word) = i32::try_from(number) {
        out.push(b'J');
        out.extend_from_slice(&word.to_le_bytes());
    } else {
        // The size of data in memory, which is never negative as 64 bits.
        out.extend_from_slice(&[0x8a, 8]);
        out.extend_from_slice(&(number as u64).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_bound_suffices_and_does_not_waste_much() {
        let mut pickle = Vec::new();
        describe(&mut pickle, "layer.é", "123456", Dtype::F8E4M3, &[usize::MAX / 2, 1, 1, 1, 1]);
        let record = "archive/data/123456".len();
        // A record's header with ZIP64 sizes and the most padding, and its entry with ZIP64 sizes and place.
        let most = pickle.len() + (30 + record + 20 + 4 + 63) + (46 + record + 4 + 24);
        let bound = entry_bound("layer.é".len());
        assert!((most..most + 100).contains(&bound), "{bound} for {most}");
    }

    #[test]
    fn integers_take_the_shortest_form() {
        for (number, bytes) in [
            (0, vec![b'K', 0]),
            (255, vec![b'K', 255]),
            (256, vec![b'M', 0, 1]),
            (65_536, vec![b'J', 0, 0, 1, 0]),
            (1 << 31, vec![0x8a, 8, 0, 0, 0, 0x80, 0, 0, 0, 0]),
        ] {
            let mut out = Vec::new();
            int(&mut out, number);
            assert_eq!(out, bytes);
        }
    }
}
