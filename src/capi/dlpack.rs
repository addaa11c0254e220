//! DLPack (<https://dmlc.github.io/dlpack>, version 1): how array libraries hand tensors to each other in memory.

use std::ffi::c_void;
use std::mem::replace;
use std::sync::Arc;
use std::{ptr, slice};

use super::adapter::lyco_adapter;
use super::error::{lyco_error, lyco_status};
use super::guard::fallible;
use super::handle;
use super::tensor::named;
use crate::adapter::Adapter;
use crate::tensor::{Dtype, TensorView};

/// `kDLCPU`, and the kinds of host memory that a CPU reads as well: `kDLCUDAHost`, `kDLROCMHost`.
const HOST_MEMORY: [i32; 3] = [1, 3, 11];
/// `DLPACK_FLAG_BITMASK_READ_ONLY`
const READ_ONLY: u64 = 1;
/// `DLPACK_FLAG_BITMASK_IS_COPIED`
const IS_COPIED: u64 = 2;
/// The major version of the layout below, and the first minor one that has every dtype of [`TYPES`].
const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };

/// Every dtype with its `DLDataTypeCode`; the bits are those of its size.
const TYPES: [(Dtype, u8); 15] = [
    (Dtype::F64, 2),
    (Dtype::F32, 2),
    (Dtype::F16, 2),
    (Dtype::BF16, 4),
    (Dtype::F8E4M3, 10),
    (Dtype::F8E5M2, 12),
    (Dtype::I64, 0),
    (Dtype::I32, 0),
    (Dtype::I16, 0),
    (Dtype::I8, 0),
    (Dtype::U64, 1),
    (Dtype::U32, 1),
    (Dtype::U16, 1),
    (Dtype::U8, 1),
    (Dtype::Bool, 6),
];

#[derive(Clone, Copy)]
#[repr(C)]
struct DLPackVersion {
    major: u32,
    minor: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct DLDevice {
    device_type: i32,
    device_id: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: i32,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// The struct of that name in dlpack.h.
#[repr(C)]
pub struct DLManagedTensorVersioned {
    version: DLPackVersion,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    flags: u64,
    dl_tensor: DLTensor,
}

/// What a tensor that was handed out keeps alive, in one allocation with the tensor itself.
struct Lent {
    tensor: DLManagedTensorVersioned,
    /// The file that the numbers are in.
    _adapter: Arc<Adapter>,
    /// Numbers that are not aligned in the file, in words of the widest type.
    _copy: Vec<u64>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Lent {
    /// `view` is of a file that `adapter` keeps.
    fn give(view: TensorView<'_>, adapter: Arc<Adapter>) -> *mut DLManagedTensorVersioned {
        let code = TYPES.iter().find(|(dtype, _)| *dtype == view.dtype).map_or(0, |(_, code)| *code);
        let dtype = DLDataType { code, bits: 8 * view.dtype.size() as u8, lanes: 1 };
        let mut copy = Vec::new();
        if !view.data.as_ptr().addr().is_multiple_of(view.dtype.size()) {
            let word = |bytes: &[u8]| {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                u64::from_ne_bytes(word)
            };
            copy = view.data.chunks(8).map(word).collect();
        }
        let data = if copy.is_empty() { view.data.as_ptr() } else { copy.as_ptr().cast() };
        let mut lent = Box::new(Self {
            tensor: DLManagedTensorVersioned {
                version: VERSION,
                manager_ctx: ptr::null_mut(),
                deleter: Some(free_lent),
                flags: if copy.is_empty() { READ_ONLY } else { READ_ONLY | IS_COPIED },
                dl_tensor: DLTensor {
                    data: data.cast_mut().cast(),
                    device: DLDevice { device_type: HOST_MEMORY[0], device_id: 0 },
                    ndim: view.shape.len() as i32,
                    dtype,
                    shape: ptr::null_mut(),
                    strides: ptr::null_mut(),
                    byte_offset: 0,
                },
            },
            _adapter: adapter,
            _copy: copy,
            shape: view.shape.iter().map(|extent| *extent as i64).collect(),
            strides: packed(view.shape),
        });
        lent.tensor.dl_tensor.shape = lent.shape.as_mut_ptr();
        lent.tensor.dl_tensor.strides = lent.strides.as_mut_ptr();
        let lent = Box::into_raw(lent);
        // SAFETY: `lent` is a box that was just made; only addresses are taken.
        unsafe {
            let tensor = &raw mut (*lent).tensor;
            (*tensor).manager_ctx = lent.cast();
            tensor
        }
    }
}

/// The deleter of tensors that were handed out.
unsafe extern "C" fn free_lent(tensor: *mut DLManagedTensorVersioned) {
    if !tensor.is_null() {
        // SAFETY: DLPack has the deleter called once, on what `give` made, whose context is the box.
        drop(unsafe { Box::from_raw((*tensor).manager_ctx.cast::<Lent>()) });
    }
}

/// The strides of a row-major tensor without gaps, in elements; of no meaning where there are no elements.
fn packed(shape: &[usize]) -> Vec<i64> {
    let mut strides: Vec<i64> = shape
        .iter()
        .rev()
        .scan(1_i64, |next, extent| Some(replace(next, next.wrapping_mul(*extent as i64))))
        .collect();
    strides.reverse();
    strides
}

/// The numbers of somebody's tensor, row-major and without gaps.
///
/// # Safety
/// `tensor` is as DLPack asks: its shape and strides have `ndim` numbers, and every element that they lead to can be
/// read.
pub(super) unsafe fn read(
    tensor: &DLManagedTensorVersioned,
) -> Result<(Dtype, Vec<usize>, Vec<u8>), lyco_error> {
    let unsupported = |message: String| lyco_error::new(lyco_status::UNSUPPORTED, &message);
    if tensor.version.major != VERSION.major {
        let (major, minor) = (tensor.version.major, tensor.version.minor);
        return Err(unsupported(format!("the tensor is DLPack {major}.{minor}; version 1 is understood")));
    }
    let DLTensor { data, device, ndim, dtype, shape, strides, byte_offset } = &tensor.dl_tensor;
    if !HOST_MEMORY.contains(&device.device_type) {
        let device = device.device_type;
        return Err(unsupported(format!("the tensor is on device type {device}; move it to the CPU first")));
    }
    let known = TYPES.iter().find(|(known, code)| {
        (*code, 8 * known.size(), 1) == (dtype.code, usize::from(dtype.bits), dtype.lanes)
    });
    let Some((dtype, _)) = known else {
        let DLDataType { code, bits, lanes } = dtype;
        return Err(unsupported(format!("the tensor has type code {code}, {bits} bits, {lanes} lanes")));
    };
    /// No tensor of a model has more.
    const MOST_DIMS: i32 = 64;
    if !(0..=MOST_DIMS).contains(ndim) || (*ndim > 0 && shape.is_null()) {
        return Err(lyco_error::bad_argument(&format!("the tensor has a shape of {ndim} extents")));
    }
    let ndim = *ndim as usize;
    let list = |numbers: *mut i64| match ndim {
        0 => &[][..],
        // SAFETY: it has `ndim` numbers.
        _ => unsafe { slice::from_raw_parts(numbers.cast_const(), ndim) },
    };
    let extents: Vec<usize> = list(*shape)
        .iter()
        .map(|extent| usize::try_from(*extent))
        .collect::<Result<_, _>>()
        .map_err(|_| lyco_error::bad_argument("the tensor has a negative extent"))?;
    let numbers = extents.iter().try_fold(1_usize, |product, extent| product.checked_mul(*extent));
    let size = numbers.and_then(|numbers| numbers.checked_mul(dtype.size()));
    let size = size.filter(|size| isize::try_from(*size).is_ok());
    let size = size.ok_or_else(|| lyco_error::bad_argument("the tensor is larger than memory"))?;
    if size == 0 {
        return Ok((*dtype, extents, Vec::new()));
    }
    handle::check(data.cast_const().cast::<u8>(), "tensor->dl_tensor.data")?;
    let start = data.cast_const().cast::<u8>().wrapping_add(*byte_offset as usize);
    if strides.is_null() || list(*strides) == packed(&extents) {
        // SAFETY: the elements lie one behind the other.
        return Ok((*dtype, extents, unsafe { slice::from_raw_parts(start, size) }.to_vec()));
    }
    let (strides, width) = (list(*strides), dtype.size());
    let mut bytes = Vec::with_capacity(size);
    let mut at = vec![0; ndim];
    while bytes.len() < size {
        let steps: i64 = at.iter().zip(strides).map(|(i, stride)| *i as i64 * stride).sum();
        let from = start.wrapping_offset(steps as isize * width as isize);
        // SAFETY: the indices are within the extents.
        bytes.extend_from_slice(unsafe { slice::from_raw_parts(from, width) });
        // The last index counts fastest.
        for (i, extent) in at.iter_mut().zip(&extents).rev() {
            *i += 1;
            if *i < *extent {
                break;
            }
            *i = 0;
        }
    }
    Ok((*dtype, extents, bytes))
}

/// Lends one tensor of the file by DLPack, read-only; nothing is copied unless the numbers lie crooked in the file,
/// which a flag of the tensor tells. The tensor is an owner of the adapter, so you may free yours; call its deleter, or
/// hand it to a library that does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_tensor_dlpack(
    adapter: *const lyco_adapter,
    index: usize,
    tensor: *mut *mut DLManagedTensorVersioned,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let lend = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let place = handle::output(tensor, "tensor")?;
        place.write(Lent::give(named(adapter, index)?.1, adapter.shared()));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, lend) }
}

/// Calls the deleter of somebody's tensor.
///
/// # Safety
/// `tensor` is what DLPack describes, and nobody uses it any more.
pub(super) unsafe fn release(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(deleter) = (*tensor).deleter {
            deleter(tensor);
        }
    }
}
