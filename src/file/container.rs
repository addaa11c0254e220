//! An opened file of named tensors, whatever its format.
//!
//! The format is told by the file's first bytes, not by its name. Its reader checks the file whole and makes the
//! table of tensors; from there on all formats are the same: dtypes, shapes, and bytes that are borrowed from
//! the file wherever they lie there as they are needed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::output::FileKind;
use super::source::Source;
use super::{AtomicFile, Writer, safetensors, torch};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, TensorView};

/// An opened safetensors or PyTorch file, or a buffer of one, checked whole: every view lies inside it and has the
/// size that its dtype and shape say.
pub struct Container {
    source: Source,
    kind: FileKind,
    contents: Contents,
}

/// What a format's reader finds in a file.
#[derive(Default)]
pub(super) struct Contents {
    /// Free-form metadata; PyTorch files have none.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// One tensor whose sizes have been checked.
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// Where bytes are.
#[derive(Clone)]
pub(super) enum Data {
    /// This part of the file.
    InFile(Range<usize>),
    /// This part of what had to be unpacked or put in order; tensors may share it.
    Held(Arc<Vec<u8>>, Range<usize>),
}

impl Data {
    /// Bytes of their own.
    pub(super) fn held(bytes: Vec<u8>) -> Self {
        let all = 0..bytes.len();
        Self::Held(Arc::new(bytes), all)
    }

    /// The bytes, of a file that has these.
    pub(super) fn bytes<'a>(&'a self, file: &'a [u8]) -> &'a [u8] {
        match self {
            Self::InFile(range) => &file[range.clone()],
            Self::Held(bytes, range) => &bytes[range.clone()],
        }
    }

    /// The bytes `part` of these, if they have as many.
    pub(super) fn part(&self, part: Range<usize>) -> Option<Self> {
        let within = |range: &Range<usize>| {
            let (start, end) = (range.start.checked_add(part.start)?, range.start.checked_add(part.end)?);
            (start <= end && end <= range.end).then_some(start..end)
        };
        match self {
            Self::InFile(range) => within(range).map(Self::InFile),
            Self::Held(bytes, range) => Some(Self::Held(Arc::clone(bytes), within(range)?)),
        }
    }
}

impl Container {
    /// Maps the file at `path` and checks it.
    ///
    /// The file must not be changed while it is open. Replacing it (as [`AtomicFile`] does) is fine.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if it can't be read, [`Unsupported`](crate::ErrorKind::Unsupported)
    /// for what is known and not read, and [`Format`](crate::ErrorKind::Format) for anything else that is not a
    /// sound safetensors or PyTorch file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(Source::open(path)?)
    }

    /// Checks `bytes`, the content of a file. Messages call it `name`.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self> {
        Self::read(Source::from_bytes(name.into(), bytes))
    }

    fn read(source: Source) -> Result<Self> {
        let (kind, contents) = match torch::recognise(source.bytes()) {
            Some(form) => (FileKind::Torch, torch::read(form, &source)),
            None => (FileKind::SafeTensors, safetensors::read(source.bytes())),
        };
        match contents {
            Ok(contents) => Ok(Self { source, kind, contents }),
            Err(error) => Err(error.in_file(source.path())),
        }
    }

    /// Where the file is, or the name that was given with its bytes.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The length of the whole file.
    pub fn byte_len(&self) -> u64 {
        self.source.bytes().len() as u64
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.source.bytes()
    }

    /// The SHA-256 of the whole file in lower-case hex; none once `stop` is set.
    pub fn sha256(&self, stop: &AtomicBool) -> Option<String> {
        self.source.sha256(stop)
    }

    /// Says that these bytes of the file aren't needed for now, so that memory doesn't grow with the files.
    pub(crate) fn used<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) {
        self.source.used(parts);
    }

    /// The free-form metadata; PyTorch files have none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let Tensor { dtype, shape, data } = self.contents.tensors.get(name)?;
        Some(TensorView { dtype: *dtype, shape, data: data.bytes(self.source.bytes()) })
    }

    /// The names of the tensors in the order in which their bytes stand in the file; what had to be unpacked comes last.
    pub(crate) fn names_by_place(&self) -> Vec<&str> {
        let mut places: Vec<_> = self
            .contents
            .tensors
            .iter()
            .map(|(name, tensor)| match &tensor.data {
                Data::InFile(range) => (range.start, name.as_str()),
                Data::Held(..) => (usize::MAX, name.as_str()),
            })
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, name)| name).collect()
    }

    /// Calls `take` with the bytes of a tensor, block by block, until it fails; a tensor that isn't there has none.
    pub(crate) fn for_each_block<E>(
        &self,
        name: &str,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        match self.contents.tensors.get(name).map(|tensor| &tensor.data) {
            Some(Data::InFile(range)) => self.source.for_each_block(range.clone(), take),
            Some(held) => take(held.bytes(&[])),
            None => Ok(()),
        }
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.contents.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.contents.tensors.is_empty()
    }

    /// Writes it to `path`, in the format that this name's ending stands for: the same bytes where that is the format
    /// that it has.
    ///
    /// # Errors
    /// The file can't be written; nothing is left behind then.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        if FileKind::of_name(path) == self.kind {
            file.write_all(self.bytes()).map_err(|error| Error::io(&error, "write", path))?;
            return file.commit();
        }
        let mut writer = Writer::new(file, path.to_owned(), 0)?;
        for name in self.names() {
            if let Some(view) = self.get(name) {
                writer.push(name, view.dtype, view.shape, view.data)?;
            }
        }
        writer.finish(self.metadata().clone())?.0.commit()
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("path", &self.path())
            .field("kind", &self.kind)
            .field("tensors", &self.len())
            .finish_non_exhaustive()
    }
}
