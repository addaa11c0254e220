//! The bytes of an opened file: mapped, or in memory.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::metadata::hex;
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are read at once where all are.
const BLOCK: usize = 1 << 20;

/// Systems that bring a page of a file in bring what they have of so many bytes around it,
const NEIGHBOURHOOD: usize = 1 << 16;

/// and some of them (Linux from 6.18) up to so many, where they hold the file in large pages.
const LARGE_PAGE: usize = 1 << 21;

/// Bytes of a map whose pages wait until they are given back together, which is cheaper.
const WAITING: usize = 1 << 18;

/// A file's name and bytes.
pub(super) struct Source {
    path: PathBuf,
    bytes: Bytes,
    /// Parts of the map that aren't needed for now.
    waiting: Mutex<Vec<Range<usize>>>,
}

/// Where the bytes live.
enum Bytes {
    Mapped(Mmap, File),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, _) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Source {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// It can't be read, or is no regular file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let to_error = |error: io::Error| Error::io(&error, "read", path);
        // Asked before opening: opening a pipe would wait for its other end.
        let kind = fs::metadata(path).map_err(to_error)?;
        if !kind.is_file() {
            let what = if kind.is_dir() { "this is a folder" } else { "this is not a regular file" };
            let message = format!("{what}; give a safetensors or PyTorch file");
            return Err(Error::new(ErrorKind::Io, message).in_file(path));
        }
        let file = File::open(path).map_err(to_error)?;
        let bytes = Bytes::Mapped(map(&file).map_err(to_error)?, file);
        Ok(Self { path: path.to_owned(), bytes, waiting: Mutex::default() })
    }

    /// Bytes in memory, under a name for messages.
    pub(super) fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Self {
        Self { path, bytes: Bytes::Owned(bytes), waiting: Mutex::default() }
    }

    /// Where the file is, or the name that was given with its bytes.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The SHA-256 of the whole file in lower-case hex; none once `stop` is set.
    pub(super) fn sha256(&self, stop: &AtomicBool) -> Option<String> {
        let mut hash = Sha256::new();
        self.for_each_block(0..self.bytes.len(), |block| {
            hash.update(block);
            (!stop.load(Ordering::Relaxed)).then_some(()).ok_or(())
        })
        .ok()?;
        Some(hex(hash.finalize()))
    }

    /// Calls `take` with a part of the file, block by block, until it fails.
    pub(super) fn for_each_block<E>(
        &self,
        part: Range<usize>,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        // Reading a mapped file costs less than the faults of its pages, and leaves none of them behind.
        let mut block = vec![0; BLOCK.min(part.len())];
        for start in part.clone().step_by(BLOCK) {
            let mapped = &self.bytes[start..part.end.min(start + BLOCK)];
            let block = &mut block[..mapped.len()];
            match &self.bytes {
                Bytes::Mapped(_, file) if read_at(file, block, start).is_ok() => take(block)?,
                _ => take(mapped)?,
            }
        }
        Ok(())
    }

    /// Says that these bytes aren't needed for now. The pages of the map from the first to the last of them are given
    /// back, a few at a time, so that memory hardly grows with the files or their number; what is read again comes from
    /// the system's cache.
    pub(super) fn used<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) {
        let Bytes::Mapped(map, _) = &self.bytes else { return };
        let (begin, end) = (map.as_ptr().addr(), map.as_ptr().addr() + map.len());
        let addresses = parts.into_iter().map(|part| part.as_ptr().addr()..part.as_ptr().addr() + part.len());
        // What was unpacked isn't in the map.
        let inside = addresses.filter(|part| begin <= part.start && part.end <= end);
        let Some(all) = inside.reduce(|x, y| x.start.min(y.start)..x.end.max(y.end)) else { return };
        // Neighbourhoods begin at addresses, large pages at places in the file.
        let blocks =
            |part: Range<usize>, size: usize| part.start / size * size..part.end.next_multiple_of(size);
        let all = blocks(all, NEIGHBOURHOOD);
        let all = all.start.max(begin) - begin..all.end.min(end) - begin;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.last_mut() {
            // Layers mostly follow one another.
            Some(part) if all.start <= part.end && part.start <= all.end => {
                *part = part.start.min(all.start)..part.end.max(all.end);
            }
            _ => waiting.push(all),
        }
        if waiting.iter().map(Range::len).sum::<usize>() >= WAITING {
            for part in waiting.drain(..) {
                let part = blocks(part, LARGE_PAGE);
                forget(map, part.start..part.end.min(map.len()));
            }
        }
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, and lives as long as every view of it. If somebody else writes to the
    // file meanwhile, the numbers read are wrong, but no more than that: all sizes and offsets were copied
    // out of the header and checked, and none is read from the map again. Shortening an open file ends the
    // process, as with every mapped file; `Container::open` asks that nobody does it.
    unsafe { Mmap::map(file) }
}

/// Fills `into` from the offset `from` of a file.
#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], from: usize) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, from as u64)
}

/// Other systems read the map.
#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives back the pages of a part of a map.
#[cfg(unix)]
#[allow(unsafe_code)]
fn forget(map: &Mmap, part: Range<usize>) {
    // SAFETY: the map is shared with the file and read-only, so its pages hold nothing but what the file has, and
    // reading them again brings the same bytes. A refusal costs memory and nothing else.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, part.start, part.len()) };
}

/// Other systems take pages back by themselves when memory is short.
#[cfg(not(unix))]
fn forget(_: &Mmap, _: Range<usize>) {}
