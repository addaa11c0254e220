//! The zip archive that PyTorch has written since version 1.6.
//!
//! In one folder of any name lie `data.pkl`, the pickle, and `data/KEY`, a record for each storage. Records are
//! usually stored as they are, and then tensors borrow them; compressed ones are unpacked. Checksums are compared
//! where there are any: PyTorch can be told to leave them at zero.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor, Read};

use ::zip::read::ZipReadOptions;
use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::limit::Limit;
use super::pickle::{self, Storage};
use super::view::{Storages, tensors};
use crate::error::{Error, Result};
use crate::file::container::{Data, Tensor};
use crate::file::source::Source;
use crate::file::{human_size, short};

/// The name of the pickle.
const PICKLE: &str = "data.pkl";

/// A byte order takes `little`.
const MOST_BYTE_ORDER: u64 = 64;

/// The tensors of an archive.
///
/// # Errors
/// It is broken, not PyTorch's, or its pickle is refused.
pub(super) fn read(source: &Source) -> Result<BTreeMap<String, Tensor>> {
    let mut archive = Archive::open(source)?;
    archive.check_byte_order()?;
    let index = archive.index(PICKLE).ok_or_else(|| Error::format("its pickle is missing"))?;
    let pickle = archive.record(index, pickle::MOST_BYTES)?;
    let pickle = pickle::load(pickle.bytes(source.bytes()))?;
    tensors(&pickle, &mut archive)
}

/// An opened archive.
struct Archive<'f> {
    source: &'f Source,
    zip: ZipArchive<Cursor<&'f [u8]>>,
    /// What the names of its records begin with, the slash included.
    folder: String,
    limit: Limit,
    /// Storages that were read, by key; tensors share them.
    found: HashMap<String, Data>,
}

impl<'f> Archive<'f> {
    fn open(source: &'f Source) -> Result<Self> {
        let zip = ZipArchive::new(Cursor::new(source.bytes())).map_err(|error| {
            Error::format(format!("the archive is broken, or the file is cut short: {}", what(&error)))
        })?;
        if zip.has_duplicate_names() {
            return Err(Error::format("two records of the archive have the same name"));
        }
        let mut folders = Vec::new();
        for name in zip.file_names() {
            let name =
                name.map_err(|error| Error::format(format!("the archive is broken: {}", what(&error))))?;
            if leads_out(&name) {
                let name = short(&name, 100);
                return Err(Error::format(format!(
                    "the archive has a record '{name}', a path that leads out of it"
                )));
            }
            folders.extend(
                name.strip_suffix(PICKLE).filter(|f| f.is_empty() || f.ends_with('/')).map(str::to_owned),
            );
        }
        let folder = match &mut folders[..] {
            [folder] => std::mem::take(folder),
            [] => {
                return Err(Error::format(
                    "this is a zip archive without data.pkl, so PyTorch did not write it; unpack it, and give the \
                     model that is in it",
                ));
            }
            _ => return Err(Error::format("the archive has several pickles, and PyTorch writes one")),
        };
        let limit = Limit::of_file(source.bytes().len());
        let archive = Self { source, zip, folder, limit, found: HashMap::new() };
        if archive.index("constants.pkl").is_some() {
            return Err(Error::unsupported(
                "this is a TorchScript program, not a state dict; save the module's state_dict() instead",
            ));
        }
        Ok(archive)
    }

    /// Where in the archive a record of PyTorch's folder is.
    fn index(&self, name: &str) -> Option<usize> {
        self.zip.index_for_name(&format!("{}{name}", self.folder))
    }

    fn check_byte_order(&mut self) -> Result<()> {
        let Some(index) = self.index("byteorder") else { return Ok(()) };
        let order = self.record(index, MOST_BYTE_ORDER)?;
        match order.bytes(self.source.bytes()).trim_ascii() {
            b"little" => Ok(()),
            b"big" => Err(big_endian()),
            _ => Err(Error::format("the archive's byte order is neither little nor big")),
        }
    }

    /// The bytes of a record, of which there may be at most `most`.
    fn record(&mut self, index: usize, most: u64) -> Result<Data> {
        let entry = self.zip.by_index_data(index).map_err(|error| broken("?", &error))?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let (size, unchecked) = (entry.size(), entry.crc32() == 0);
        if size > most {
            let (size, most) = (human_size(size), human_size(most));
            return Err(Error::format(format!(
                "its record {} is {size} long; the limit is {most}",
                short(&name, 100)
            )));
        }
        let options = ZipReadOptions::new().ignore_crc32(unchecked);
        let mut record =
            self.zip.by_index_with_options(index, options).map_err(|error| broken(&name, &error))?;
        let (stored, start) = (record.compression() == CompressionMethod::Stored, record.data_start());
        if stored && record.compressed_size() == size {
            self.limit.take(size)?;
            let place = start.and_then(|start| {
                Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(size)?).ok()?)
            });
            let place = place.filter(|place| self.source.bytes().get(place.clone()).is_some());
            let place = place.ok_or_else(|| cut(&name))?;
            // Reads it only to compare its checksum.
            if !unchecked {
                io::copy(&mut record, &mut io::sink()).map_err(|error| broken(&name, &error.into()))?;
                self.source.used(self.source.bytes().get(place.clone()));
            }
            return Ok(Data::InFile(place));
        }
        let mut bytes = self.limit.buffer(usize::try_from(size).map_err(|_| cut(&name))?)?;
        // One byte more than there should be, to notice if there is one.
        record
            .take(size.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| broken(&name, &error.into()))?;
        if bytes.len() as u64 != size {
            return Err(cut(&name));
        }
        Ok(Data::held(bytes))
    }
}

impl Storages for Archive<'_> {
    fn file(&self) -> &[u8] {
        self.source.bytes()
    }

    fn find(&mut self, storage: &Storage<'_>) -> Result<Data> {
        let key = storage.key;
        if let Some(found) = self.found.get(key) {
            return Ok(found.clone());
        }
        if leads_out(key) {
            let key = short(key, 100);
            return Err(Error::format(format!(
                "its storage is named '{key}', a path that leads out of the archive"
            )));
        }
        let missing =
            || Error::format(format!("its storage 'data/{}' is missing from the archive", short(key, 100)));
        let index = self.index(&format!("data/{key}")).ok_or_else(missing)?;
        let found = self.record(index, u64::MAX)?;
        self.found.insert(key.to_owned(), found.clone());
        Ok(found)
    }

    fn limit(&mut self) -> &mut Limit {
        &mut self.limit
    }
}

/// Whether a record's name is a path to somewhere else. Nothing is ever unpacked to a path here, but honest archives
/// have no such names.
fn leads_out(name: &str) -> bool {
    name.starts_with(['/', '\\']) || name.contains('\0') || name.split(['/', '\\']).any(|part| part == "..")
}

/// What is said of files from big-endian machines.
pub(super) fn big_endian() -> Error {
    Error::unsupported(
        "the file was written on a big-endian machine; load it with PyTorch, and save it on a usual one or as \
         safetensors",
    )
}

fn cut(name: &str) -> Error {
    Error::format(format!("its record {} is cut short, or longer than the archive says", short(name, 100)))
}

fn broken(name: &str, error: &ZipError) -> Error {
    Error::format(format!("its record {} can't be read: {}", short(name, 100), what(error)))
}

/// An error of the archive, not longer than a message bears.
fn what(error: &ZipError) -> String {
    short(&error.to_string(), 200).into_owned()
}
