//! The stream that PyTorch wrote before version 1.6.
//!
//! Five pickles back to back: a magic number, a version, facts about the machine, the object, and the keys of its
//! storages; then, in the order of the keys, each storage's element count (int64) and raw data.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::limit::Limit;
use super::pickle::{self, Storage, Unpickled, Value};
use super::view::{Storages, element_size, tensors};
use super::zip::big_endian;
use crate::error::{Error, Result};
use crate::file::container::{Data, Tensor};
use crate::file::source::Source;
use crate::file::{human_size, short};

/// What the first pickle says.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// What the second pickle says.
const VERSION: i64 = 1001;

/// The tensors of a stream.
///
/// # Errors
/// It is broken, not PyTorch's, or one of its pickles is refused.
pub(super) fn read(source: &Source) -> Result<BTreeMap<String, Tensor>> {
    let mut at = 0;
    let magic = next(source, &mut at)?;
    if magic.root != Value::Long(&MAGIC) {
        return Err(Error::format("this is a pickle that torch.save did not write, and holds no tensors"));
    }
    let version = next(source, &mut at)?;
    if version.root != Value::Int(VERSION) {
        return Err(Error::unsupported(format!(
            "the file's version is not {VERSION}, the only one there is"
        )));
    }
    check_machine(&next(source, &mut at)?)?;
    let object = next(source, &mut at)?;
    let keys = next(source, &mut at)?;
    let places = places(source.bytes(), at, &object, &keys)?;
    let limit = Limit::of_file(source.bytes().len());
    tensors(&object, &mut Stream { source, places, limit })
}

/// The pickle that begins at `at`, which is moved to its end.
fn next<'f>(source: &'f Source, at: &mut usize) -> Result<Unpickled<'f>> {
    let rest = &source.bytes()[*at..];
    let pickle = pickle::load(&rest[..rest.len().min(pickle::MOST_BYTES as usize)])?;
    *at += pickle.len;
    Ok(pickle)
}

/// Refuses storages of the wrong byte order.
fn check_machine(machine: &Unpickled<'_>) -> Result<()> {
    let facts = machine.tree.dict(machine.root).unwrap_or_default();
    let order = facts.iter().find(|(key, _)| *key == Value::Text("little_endian")).map(|(_, value)| *value);
    match order {
        Some(Value::Bool(true)) => Ok(()),
        Some(Value::Bool(false)) => Err(big_endian()),
        _ => Err(Error::format("the file does not say in which byte order it is")),
    }
}

/// Where each storage's data are.
fn places<'f>(
    file: &[u8],
    mut at: usize,
    object: &Unpickled<'f>,
    keys: &Unpickled<'f>,
) -> Result<HashMap<&'f str, Range<usize>>> {
    let mut elements = HashMap::new();
    for storage in object.tree.storages() {
        if elements.insert(storage.key, storage.element).is_some_and(|before| before != storage.element) {
            let key = short(storage.key, 40);
            return Err(Error::format(format!("the storage {key} is said to have elements of two kinds")));
        }
    }
    let keys = keys.tree.list(keys.root).ok_or_else(|| Error::format("the list of storages is missing"))?;
    let mut places = HashMap::new();
    for key in keys {
        let Value::Text(key) = *key else { return Err(Error::format("the key of a storage is no text")) };
        let name = short(key, 40);
        let element = elements.get(key).ok_or_else(|| {
            Error::format(format!("the storage {name} belongs to no tensor, so its size is not known"))
        })?;
        let size = element_size(*element)?;
        let cut = || Error::format(format!("the file is cut short: the storage {name} is not all there"));
        let count = file[at..].first_chunk::<8>().ok_or_else(cut)?;
        at += count.len();
        let bytes =
            usize::try_from(i64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(size));
        let end = bytes.and_then(|bytes| at.checked_add(bytes)).filter(|end| *end <= file.len());
        let end = end.ok_or_else(cut)?;
        if places.insert(key, at..end).is_some() {
            return Err(Error::format(format!("the storage {name} stands there twice")));
        }
        at = end;
    }
    if at < file.len() {
        let rest = human_size((file.len() - at) as u64);
        return Err(Error::format(format!("there are {rest} after the last storage that belong to none")));
    }
    Ok(places)
}

/// The storages of a stream, all of which lie in it as they are.
struct Stream<'f> {
    source: &'f Source,
    places: HashMap<&'f str, Range<usize>>,
    limit: Limit,
}

impl Storages for Stream<'_> {
    fn file(&self) -> &[u8] {
        self.source.bytes()
    }

    fn find(&mut self, storage: &Storage<'_>) -> Result<Data> {
        let place = self.places.get(storage.key).ok_or_else(|| {
            Error::format(format!("its storage {} is missing from the file", short(storage.key, 40)))
        })?;
        Ok(Data::InFile(place.clone()))
    }

    fn limit(&mut self) -> &mut Limit {
        &mut self.limit
    }
}
