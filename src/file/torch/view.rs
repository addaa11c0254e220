//! Tensors from notes: a storage's bytes, seen through an offset, extents and steps.
//!
//! A tensor whose elements lie in row-major order is a part of its storage and shares its bytes; any other is put in
//! order by copying, element by element. Every size is checked against what the storage has.

use std::collections::BTreeMap;

use super::globals::Element;
use super::limit::Limit;
use super::pickle::{Storage, Tensor, Tree, Unpickled, Value};
use super::state::{Leaf, state_dict};
use crate::error::{Error, Result};
use crate::file::container::{self, Data};
use crate::file::{human_size, short, tensor};
use crate::tensor::Dtype;

/// PyTorch's own limit is 64.
const MOST_EXTENTS: usize = 64;

/// Where the bytes of storages are.
pub(super) trait Storages {
    /// All bytes of the file, which [`Data::InFile`] is a part of.
    fn file(&self) -> &[u8];

    /// The bytes of a storage: as many as are stored under its key, which may be more than it says.
    fn find(&mut self, storage: &Storage<'_>) -> Result<Data>;

    /// What is left to be copied.
    fn limit(&mut self) -> &mut Limit;
}

/// The tensors of a pickle's state dict.
///
/// # Errors
/// There is no state dict, or a tensor in it is not what its storage has, or of a kind that is not read.
pub(super) fn tensors(
    pickle: &Unpickled<'_>,
    storages: &mut impl Storages,
) -> Result<BTreeMap<String, container::Tensor>> {
    let mut tensors = BTreeMap::new();
    for (name, leaf) in state_dict(pickle)? {
        let scalar = |dtype, bytes: [u8; 8]| container::Tensor {
            dtype,
            shape: Vec::new(),
            data: Data::held(bytes.to_vec()),
        };
        let made = match leaf {
            Leaf::Int(int) => Ok(scalar(Dtype::I64, int.to_le_bytes())),
            Leaf::Float(float) => Ok(scalar(Dtype::F64, float.to_le_bytes())),
            Leaf::Tensor(note) => view(&pickle.tree, note, storages),
        };
        let made =
            made.map_err(|error| Error::new(error.kind(), format!("{}: {}", tensor(name), error.message())))?;
        tensors.insert(name.to_owned(), made);
    }
    Ok(tensors)
}

fn view<'p>(tree: &Tree<'p>, note: &Tensor<'p>, storages: &mut impl Storages) -> Result<container::Tensor> {
    let dtype = match note.element {
        Element::Of(dtype) => dtype,
        Element::Foreign(name) => {
            let message = format!("its elements ({}) are of a kind that is not read", short(name, 60));
            return Err(Error::unsupported(message));
        }
        Element::Untyped => return Err(Error::format("it has no dtype")),
    };
    if note.altered {
        return Err(Error::unsupported(
            "its numbers are stored negated or conjugated; save a copy of it (tensor.clone()) instead",
        ));
    }
    let layout = Layout::of(tree, note, dtype.size())?;
    if layout.count == 0 {
        return Ok(container::Tensor { dtype, shape: layout.extents, data: Data::held(Vec::new()) });
    }
    let storage = whole(&note.storage, storages)?;
    let data = layout.place(&storage, storages)?;
    Ok(container::Tensor { dtype, shape: layout.extents, data })
}

/// A storage's bytes, as many as it says.
fn whole(storage: &Storage<'_>, storages: &mut impl Storages) -> Result<Data> {
    let size = element_size(storage.element)?;
    let bytes = size.checked_mul(storage.numel);
    let found = storages.find(storage)?;
    bytes.and_then(|bytes| found.part(0..bytes)).ok_or_else(|| {
        let has = human_size(found.bytes(storages.file()).len() as u64);
        Error::format(format!(
            "the file is cut short: its storage should have {} elements of {size} bytes, and there are {has}",
            storage.numel
        ))
    })
}

/// Bytes per element of a storage; bytes are the elements of an untyped one.
///
/// # Errors
/// An element type that is not read.
pub(super) fn element_size(element: Element<'_>) -> Result<usize> {
    match element {
        Element::Of(dtype) => Ok(dtype.size()),
        Element::Untyped => Ok(1),
        Element::Foreign(name) => {
            Err(Error::unsupported(format!("storages of the class {} are not read", short(name, 60))))
        }
    }
}

/// Where a tensor's elements are in a storage.
struct Layout {
    extents: Vec<usize>,
    /// Bytes from the start of the storage to the first element.
    start: usize,
    /// Bytes from one index to the next, for each extent.
    steps: Vec<usize>,
    /// The product of the extents.
    count: usize,
    /// Bytes per element.
    size: usize,
}

impl Layout {
    fn of<'p>(tree: &Tree<'p>, note: &Tensor<'p>, size: usize) -> Result<Self> {
        let numbers = |tuple: Value<'p>| -> Option<Vec<usize>> {
            let items = tree.tuple(tuple)?;
            let number = |item: &Value<'_>| match item {
                Value::Int(int) => usize::try_from(*int).ok(),
                _ => None,
            };
            (items.len() <= MOST_EXTENTS).then(|| items.iter().map(number).collect())?
        };
        let offset = match note.offset {
            Value::Int(int) => usize::try_from(int).ok(),
            _ => None,
        };
        let found = offset.zip(numbers(note.size)).zip(numbers(note.stride));
        let ((offset, extents), strides) = found
            .filter(|((_, extents), strides)| extents.len() == strides.len())
            .ok_or_else(|| Error::format("its offset, extents and strides are not those of a tensor"))?;
        let too_large = || Error::format("its shape is larger than any file");
        let product = |factors: &[usize]| factors.iter().try_fold(1_usize, |a, b| a.checked_mul(*b));
        // Zeros aside, so that shapes whose other extents overflow are refused whatever their order.
        let nonzero: Vec<usize> =
            extents.iter().copied().filter(|extent| *extent > 0).chain([size]).collect();
        product(&nonzero).ok_or_else(too_large)?;
        let count = product(&extents).ok_or_else(too_large)?;
        // Steps along an extent of one are never taken, and may be anything.
        let step = |(extent, stride): (&usize, &usize)| {
            if *extent > 1 { stride.checked_mul(size) } else { Some(0) }
        };
        let steps: Option<Vec<usize>> = extents.iter().zip(&strides).map(step).collect();
        let (steps, start) = steps.zip(offset.checked_mul(size)).ok_or_else(too_large)?;
        Ok(Self { extents, start, steps, count, size })
    }

    /// Where the last element ends, from the start of the storage. (There is at least one.)
    fn end(&self) -> Option<usize> {
        let last =
            |end: usize, (extent, step): (&usize, &usize)| end.checked_add((extent - 1).checked_mul(*step)?);
        self.extents.iter().zip(&self.steps).try_fold(self.start, last)?.checked_add(self.size)
    }

    fn is_contiguous(&self) -> bool {
        let mut step = self.size;
        self.extents.iter().zip(&self.steps).rev().filter(|(extent, _)| **extent > 1).all(
            |(extent, found)| {
                let expected = step;
                step *= extent;
                *found == expected
            },
        )
    }

    /// The elements in row-major order: a part of the storage, or a copy.
    fn place(&self, storage: &Data, storages: &mut impl Storages) -> Result<Data> {
        let outside = || Error::format("it reaches beyond its storage");
        let end = self.end().ok_or_else(outside)?;
        let part = storage.part(self.start..end).ok_or_else(outside)?;
        if self.is_contiguous() {
            return Ok(part);
        }
        let mut copy = storages.limit().buffer(self.count * self.size)?;
        self.copy(part.bytes(storages.file()), &mut copy);
        Ok(Data::held(copy))
    }

    /// Appends the elements to `out`; `from` begins with the first.
    fn copy(&self, from: &[u8], out: &mut Vec<u8>) {
        let mut index = vec![0; self.extents.len()];
        let mut at = 0;
        for _ in 0..self.count {
            out.extend_from_slice(&from[at..at + self.size]);
            // The next index, the last extent fastest.
            for (axis, index) in index.iter_mut().enumerate().rev() {
                *index += 1;
                at += self.steps[axis];
                if *index < self.extents[axis] {
                    break;
                }
                at -= self.steps[axis] * self.extents[axis];
                *index = 0;
            }
        }
    }
}
