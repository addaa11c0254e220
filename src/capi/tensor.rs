//! The tensors of an adapter, lent to C as they lie in the file.

use std::ffi::{CStr, c_char};

use super::adapter::lyco_adapter;
use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle;
use super::sized::{self, Sized32};
use super::text;
use crate::tensor::{Dtype, TensorView};

/// The element type of a tensor; all are little-endian. Later versions may add values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum lyco_dtype {
    /// IEEE double.
    F64 = 1,
    /// IEEE single.
    F32 = 2,
    /// IEEE half.
    F16 = 3,
    /// The upper half of a single.
    BF16 = 4,
    /// Eight bits: 4 of exponent, 3 of mantissa, no infinities.
    F8_E4M3 = 5,
    /// Eight bits: 5 of exponent, 2 of mantissa.
    F8_E5M2 = 6,
    /// Signed, 64 bits.
    I64 = 16,
    /// Signed, 32 bits.
    I32 = 17,
    /// Signed, 16 bits.
    I16 = 18,
    /// Signed, 8 bits.
    I8 = 19,
    /// Unsigned, 64 bits.
    U64 = 20,
    /// Unsigned, 32 bits.
    U32 = 21,
    /// Unsigned, 16 bits.
    U16 = 22,
    /// Unsigned, 8 bits.
    U8 = 23,
    /// One byte: 0 or 1.
    BOOL = 24,
}

/// Every dtype with its number for C.
const DTYPES: [(Dtype, lyco_dtype); 15] = [
    (Dtype::F64, lyco_dtype::F64),
    (Dtype::F32, lyco_dtype::F32),
    (Dtype::F16, lyco_dtype::F16),
    (Dtype::BF16, lyco_dtype::BF16),
    (Dtype::F8E4M3, lyco_dtype::F8_E4M3),
    (Dtype::F8E5M2, lyco_dtype::F8_E5M2),
    (Dtype::I64, lyco_dtype::I64),
    (Dtype::I32, lyco_dtype::I32),
    (Dtype::I16, lyco_dtype::I16),
    (Dtype::I8, lyco_dtype::I8),
    (Dtype::U64, lyco_dtype::U64),
    (Dtype::U32, lyco_dtype::U32),
    (Dtype::U16, lyco_dtype::U16),
    (Dtype::U8, lyco_dtype::U8),
    (Dtype::Bool, lyco_dtype::BOOL),
];

/// The dtype that C calls `number`.
pub(super) fn dtype_of(number: u32) -> Result<Dtype, lyco_error> {
    let row = DTYPES.iter().find(|(_, known)| *known as u32 == number);
    row.map(|(dtype, _)| *dtype)
        .ok_or_else(|| lyco_error::bad_argument(&format!("{number} is no dtype; use one of lyco_dtype")))
}

/// A tensor that an adapter lends: row-major, without gaps, read-only. Set struct_size before asking for it. All that
/// it points to lives as long as the adapter.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_tensor_view {
    /// sizeof(lyco_tensor_view).
    pub struct_size: u32,
    /// The element type: a lyco_dtype.
    pub dtype: u32,
    /// The name as the file spells it.
    pub name: *const c_char,
    /// The numbers. They lie as the file has them, so perhaps not aligned for their type: copy them, or read them by
    /// bytes. Never NULL.
    pub data: *const u8,
    /// The size of the numbers in bytes.
    pub byte_len: u64,
    /// The extents, outermost first: `dim_count` of them. Never NULL.
    pub shape: *const usize,
    /// How many extents there are; 0 for a single number.
    pub dim_count: u64,
}

// SAFETY: two u32, then pointers and 64-bit numbers, all of which may be zero.
unsafe impl Sized32 for lyco_tensor_view {}

/// A view for C of what lives elsewhere.
pub(super) fn lend(name: &CStr, view: TensorView<'_>) -> lyco_tensor_view {
    let dtype = DTYPES.iter().find(|(dtype, _)| *dtype == view.dtype).map_or(0, |(_, number)| *number as u32);
    lyco_tensor_view {
        struct_size: 0,
        dtype,
        name: name.as_ptr(),
        data: view.data.as_ptr(),
        byte_len: view.data.len() as u64,
        shape: view.shape.as_ptr(),
        dim_count: view.shape.len() as u64,
    }
}

/// The tensor `index` and its name.
pub(super) fn named(adapter: &lyco_adapter, index: usize) -> Result<(&CStr, TensorView<'_>), lyco_error> {
    let name = adapter.tensors().get(index);
    name.and_then(|name| Some((name.text(), adapter.tensor(name.key())?))).ok_or_else(|| {
        let count = adapter.tensors().len();
        lyco_error::bad_argument(&format!("there is no tensor {index}; the adapter has {count}"))
    })
}

/// Tensors
/// =======
///
/// How many tensors the adapter's file has; they are counted from 0, in the order of their names. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_tensor_count(adapter: *const lyco_adapter) -> usize {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible(0, || unsafe { handle::peek(adapter) }.map_or(0, |adapter| adapter.tensors().len()))
}

/// Lends one tensor of the file. Nothing is copied: the first look at its numbers reads them from disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_tensor(
    adapter: *const lyco_adapter,
    index: usize,
    view: *mut lyco_tensor_view,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let look_up = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let place = sized::place(view, "view")?;
        let (name, found) = named(adapter, index)?;
        place.write(&lend(name, found));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, look_up) }
}

/// Says where the tensor `name` is: its index for lyco_adapter_tensor(). LYCO_STATUS_BAD_ARGUMENT if the file has no
/// such tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_find_tensor(
    adapter: *const lyco_adapter,
    name: *const c_char,
    index: *mut usize,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let find = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let name = text::borrow(name, "name")?;
        let place = handle::output(index, "index")?;
        let found = adapter.tensors().binary_search_by(|tensor| tensor.key().cmp(name));
        place.write(
            found.map_err(|_| lyco_error::bad_argument(&format!("the adapter has no tensor '{name}'")))?,
        );
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, find) }
}

/// Lends the whole file as bytes, for hosts that store it themselves: of an opened adapter those of its file, of a
/// merge's result those of a safetensors file. They live as long as the adapter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_bytes(
    adapter: *const lyco_adapter,
    bytes: *mut *const u8,
    size: *mut usize,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let lend = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let (start, len) = (handle::output(bytes, "bytes")?, handle::output(size, "size")?);
        start.write(adapter.bytes().as_ptr());
        len.write(adapter.bytes().len());
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, lend) }
}
