//! Writing files of named tensors, in the format that the file's name stands for.
//!
//! Tensors go in one by one in name order; a file comes out, with the same bytes for the same content. What all
//! formats ask of the tensors is checked here, once.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::torch::TorchWriter;
use super::writer::SafeTensorsWriter;
use super::{METADATA_KEY, torch, writer};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// The formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A header in JSON, then the tensors.
    SafeTensors,
    /// What `torch.save` makes of a state dict.
    Torch,
}

/// The endings of PyTorch files' names; all others are written as safetensors.
const TORCH_ENDINGS: [&str; 4] = ["pt", "pth", "ckpt", "bin"];

impl FileKind {
    /// The format that a file of this name is written in: PyTorch's if it ends in `.pt`, `.pth`, `.ckpt` or `.bin`.
    pub fn of_name(path: &Path) -> Self {
        let is = |ending: &&str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
        if TORCH_ENDINGS.iter().any(is) { Self::Torch } else { Self::SafeTensors }
    }

    /// The bytes that a tensor takes besides its data, if its name is `name_len` bytes long.
    ///
    /// It suffices for a name that JSON need not escape, up to five dimensions, and files below a terabyte.
    pub fn entry_bound(self, name_len: usize) -> usize {
        match self {
            Self::SafeTensors => writer::entry_bound(name_len),
            Self::Torch => torch::entry_bound(name_len),
        }
    }
}

/// Writes one file to a sink, tensor by tensor.
pub struct Writer<W: Write + Seek> {
    name: PathBuf,
    /// The name of the tensor that was written last.
    last: Option<String>,
    format: Format<W>,
}

enum Format<W: Write + Seek> {
    SafeTensors(SafeTensorsWriter<W>),
    Torch(TorchWriter<W>),
}

/// What there is to say about a finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The length of the whole file.
    pub byte_len: u64,
    /// The SHA-256 of a safetensors file's data region in hex, which stands in its metadata as `sshs_model_hash`.
    pub model_hash: Option<String>,
}

impl<W: Read + Write + Seek> Writer<W> {
    /// Begins a file in `sink`, which is empty. Messages call it `name`, whose ending says the format: see
    /// [`FileKind::of_name`].
    ///
    /// `reserve` is how long a safetensors header is expected to be at most: the sum of
    /// [`entry_bound`](FileKind::entry_bound), the metadata as JSON, and a few hundred bytes. A wrong guess costs
    /// time and nothing else.
    ///
    /// # Errors
    /// The sink can't be written to.
    pub fn new(sink: W, name: PathBuf, reserve: usize) -> Result<Self> {
        let format = match FileKind::of_name(&name) {
            FileKind::SafeTensors => {
                Format::SafeTensors(SafeTensorsWriter::new(sink, name.clone(), reserve)?)
            }
            FileKind::Torch => Format::Torch(TorchWriter::new(sink, name.clone())),
        };
        Ok(Self { name, last: None, format })
    }

    /// Appends a tensor: little-endian elements in row-major order.
    ///
    /// # Errors
    /// The sink can't be written to. A name that does not sort after the one before, or data that don't
    /// have the size that dtype and shape say, are defects of the caller.
    pub fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Result<()> {
        if name == METADATA_KEY || self.last.as_deref().is_some_and(|last| last >= name) {
            return Err(
                Error::internal(format!("tensor '{name}' was written out of order")).in_file(&self.name)
            );
        }
        let size = shape.iter().try_fold(dtype.size(), |size, &extent| size.checked_mul(extent));
        if size != Some(data.len()) {
            let message = format!("tensor '{name}' has {} bytes for {} {shape:?}", data.len(), dtype.name());
            return Err(Error::internal(message).in_file(&self.name));
        }
        self.last = Some(name.to_owned());
        match &mut self.format {
            Format::SafeTensors(writer) => writer.push(name, dtype, shape, data),
            Format::Torch(writer) => writer.push(name, dtype, shape, data),
        }
    }

    /// Completes the file, and gives the sink back. A safetensors file gets `metadata` and two hashes; a PyTorch file
    /// has no place for them.
    ///
    /// # Errors
    /// The sink can't be written or read, or the header is longer than readers accept.
    pub fn finish(self, metadata: BTreeMap<String, String>) -> Result<(W, Finished)> {
        match self.format {
            Format::SafeTensors(writer) => writer.finish(metadata),
            Format::Torch(writer) => writer.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_ending_says_the_format() {
        for (name, kind) in [
            ("a.safetensors", FileKind::SafeTensors),
            ("a", FileKind::SafeTensors),
            ("pt", FileKind::SafeTensors),
            ("a.pt.sft", FileKind::SafeTensors),
            ("a.pt", FileKind::Torch),
            ("a.b.PTH", FileKind::Torch),
            ("a.ckpt", FileKind::Torch),
            ("pytorch_lora_weights.bin", FileKind::Torch),
        ] {
            assert_eq!(FileKind::of_name(Path::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn names_out_of_order_and_wrong_sizes_are_defects() {
        for file in ["out.safetensors", "out.pt"] {
            let mut writer = Writer::new(Cursor::new(Vec::new()), file.into(), 0).unwrap();
            writer.push("b", Dtype::U8, &[1], &[0]).unwrap();
            for (name, shape, data) in [
                ("a", vec![1], vec![0]),
                ("b", vec![1], vec![0]),
                (METADATA_KEY, vec![1], vec![0]),
                ("c", vec![2], vec![0]),
                ("c", vec![usize::MAX, 2], vec![0]),
            ] {
                let error = writer.push(name, Dtype::U8, &shape, &data).unwrap_err();
                assert_eq!((error.kind(), error.file()), (ErrorKind::Internal, Some(file.as_ref())));
            }
        }
    }
}
