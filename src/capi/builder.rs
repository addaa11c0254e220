//! Adapters made of tensors that a host has in memory.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{ptr, slice};

use super::adapter::{lyco_adapter, lyco_open_options, open_options};
use super::dlpack::{self, DLManagedTensorVersioned};
use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Unique};
use super::sized;
use super::tensor::{dtype_of, lyco_tensor_view};
use super::text;
use crate::adapter::Adapter;
use crate::file::{METADATA_KEY, Writer};
use crate::tensor::Dtype;

/// Tensors that are to become an adapter.
///
/// Any number of threads may add to it at once; only freeing it must be left to the last. What is added is copied,
/// because an adapter never changes and the host's memory may.
#[derive(Default)]
pub struct lyco_builder {
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Handle for lyco_builder {
    type Hold = Unique;
}

impl lyco_builder {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &str, tensor: Tensor) -> Result<(), lyco_error> {
        let mut parts = self.lock();
        if name == METADATA_KEY || parts.tensors.contains_key(name) {
            return Err(lyco_error::bad_argument(&format!("there can't be another tensor '{name}'")));
        }
        parts.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }
}

impl Parts {
    /// The bytes of a safetensors file.
    fn to_file(&self) -> crate::Result<Vec<u8>> {
        let mut writer = Writer::new(Cursor::new(Vec::new()), PathBuf::from("memory"), 0)?;
        for (name, Tensor { dtype, shape, data }) in &self.tensors {
            writer.push(name, *dtype, shape, data)?;
        }
        Ok(writer.finish(self.metadata.clone())?.0.into_inner())
    }
}

/// The tensor that a host's view describes.
///
/// # Safety
/// `view` is NULL or what the header asks for.
unsafe fn copy(view: *const lyco_tensor_view) -> Result<(String, Tensor), lyco_error> {
    // SAFETY: the caller's promise.
    unsafe {
        let view = sized::read(view, "view")?;
        let (name, dtype) = (text::borrow(view.name, "view->name")?, dtype_of(view.dtype)?);
        let list = |count: u64| usize::try_from(count).ok().filter(|count| *count <= 64);
        let dims = list(view.dim_count).ok_or_else(|| {
            lyco_error::bad_argument(&format!("tensor '{name}' has {} extents", view.dim_count))
        })?;
        let shape = if dims == 0 {
            Vec::new()
        } else {
            handle::check(view.shape, "view->shape")?;
            slice::from_raw_parts(view.shape, dims).to_vec()
        };
        let size = shape.iter().try_fold(dtype.size(), |size, extent| size.checked_mul(*extent));
        let size = size.filter(|size| *size as u64 == view.byte_len && isize::try_from(*size).is_ok());
        let size = size.ok_or_else(|| {
            let dtype = dtype.name();
            lyco_error::bad_argument(&format!(
                "tensor '{name}' has {} bytes for {dtype} {shape:?}",
                view.byte_len
            ))
        })?;
        let data = if size == 0 {
            Vec::new()
        } else {
            handle::check(view.data, "view->data")?;
            slice::from_raw_parts(view.data, size).to_vec()
        };
        Ok((name.to_owned(), Tensor { dtype, shape, data }))
    }
}

/// Adapters from a host's tensors
/// ==============================
///
/// A builder without tensors.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_builder_new() -> *mut lyco_builder {
    infallible(ptr::null_mut(), || handle::give(lyco_builder::default()))
}

/// Adds a tensor, named as files of its family name it: row-major, without gaps, little-endian. The numbers need not
/// be aligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_builder_add(
    builder: *mut lyco_builder,
    view: *const lyco_tensor_view,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let add = || unsafe {
        let builder = handle::borrow(builder, "builder")?;
        let (name, tensor) = copy(view)?;
        builder.add(&name, tensor)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, add) }
}

/// Adds a tensor by DLPack, of any strides, in memory that the CPU reads. If it succeeds the tensor is the library's,
/// which calls its deleter before it returns; otherwise it stays yours.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_builder_add_dlpack(
    builder: *mut lyco_builder,
    name: *const c_char,
    tensor: *mut DLManagedTensorVersioned,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let add = || unsafe {
        let builder = handle::borrow(builder, "builder")?;
        let name = text::borrow(name, "name")?;
        let (dtype, shape, data) = dlpack::read(handle::borrow(tensor.cast_const(), "tensor")?)?;
        builder.add(name, Tensor { dtype, shape, data })?;
        dlpack::release(tensor);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, add) }
}

/// Adds a line of metadata, or replaces it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_builder_set_metadata(
    builder: *mut lyco_builder,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let set = || unsafe {
        let builder = handle::borrow(builder, "builder")?;
        let (key, value) = (text::borrow(key, "key")?, text::borrow(value, "value")?);
        builder.lock().metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, set) }
}

/// Checks the tensors, and makes an adapter of them: the same as a safetensors file with them would be. `name` stands
/// for the path in messages and reports. `options` may be NULL. The builder keeps its tensors and may be added to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_builder_finish(
    builder: *const lyco_builder,
    name: *const c_char,
    options: *const lyco_open_options,
    adapter: *mut *mut lyco_adapter,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let finish = || unsafe {
        let builder = handle::borrow(builder, "builder")?;
        let (name, options) = (text::borrow(name, "name")?, open_options(options)?);
        let place = handle::output(adapter, "adapter")?;
        let bytes = builder.lock().to_file()?;
        place.write(handle::give(lyco_adapter::new(Adapter::from_bytes_with(name, bytes, &options)?)));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, finish) }
}

/// Frees the builder; adapters that it made live on. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_builder_free(builder: *mut lyco_builder) {
    // SAFETY: the header asks for NULL or a builder that is not freed.
    infallible((), || unsafe { handle::free(builder) });
}
