//! What adapters and merges do to the weights, as numbers: for hosts that apply it themselves.

use std::ffi::{c_int, c_void};
use std::slice;

use super::adapter::{lyco_adapter, lyco_layer_info, lyco_param};
use super::error::{lyco_error, lyco_status};
use super::guard::fallible;
use super::handle;
use super::merge::{lyco_merge, lyco_progress_callback};
use super::tensor::{dtype_of, lend, lyco_tensor_view};
use super::text;
use crate::adapter::{Layer, LayerId};
use crate::delta::dense::Rows;
use crate::delta::gram;
use crate::error::Error;
use crate::merge::MergedDelta;
use crate::tensor::{Dtype, Real, TensorView, encode};

/// Hears of a merged delta: the parameter that it is to be added to, and its entries in the parameter's own shape
/// (outputs, inputs, kernel; a convolution whose kernel the files don't tell has inputs and kernel in one extent).
/// Called on the thread that called lyco_merge_deltas(), one delta after the other in the order of the names; both are
/// valid during the call. Return 0 to go on, anything else to cancel.
pub type lyco_delta_callback = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        layer: *const lyco_layer_info,
        delta: *const lyco_tensor_view,
    ) -> c_int,
>;

/// Writes a layer's entries to `out`, which has room for them.
fn write_entries<T: Real>(
    adapter: &lyco_adapter,
    (id, layer): (&LayerId, &Layer),
    dtype: Dtype,
    out: &mut [u8],
) -> crate::Result<()> {
    let adapter = adapter.shared();
    let delta = adapter.delta::<T>(id, layer)?;
    let named = |e: Error| e.in_layer(&id.module).in_file(adapter.path());
    delta.check_formable().map_err(named)?;
    let (mut rest, mut bytes, mut encoded) = (out, Vec::new(), Ok(()));
    Rows::new(&delta).for_each_tile(|tile| {
        bytes.clear();
        if encoded.is_ok() {
            encoded = encode(tile, dtype, &mut bytes);
            if encoded.is_ok() {
                let (part, behind) = std::mem::take(&mut rest).split_at_mut(bytes.len());
                part.copy_from_slice(&bytes);
                rest = behind;
            }
        }
    });
    encoded.map_err(named)
}

/// Deltas
/// ======
///
/// Writes what one layer does to its weight, strength 1, to `buffer`: `rows` times `cols` numbers of `dtype` (a
/// lyco_dtype: F64, F32, F16 or BF16), row-major. `byte_len` is the buffer's size and must be just that. What is in the
/// buffer after a failure is not said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_delta(
    adapter: *const lyco_adapter,
    index: usize,
    dtype: u32,
    buffer: *mut u8,
    byte_len: u64,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let write = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let found = adapter.layer(index)?;
        let dtype = dtype_of(dtype)?;
        handle::check(buffer, "buffer")?;
        let shape = &found.1.shape;
        let size = (shape.rows * shape.cols).checked_mul(dtype.size());
        let size = size.filter(|size| *size as u64 == byte_len).ok_or_else(|| {
            let (rows, cols, each) = (shape.rows, shape.cols, dtype.size());
            let message =
                format!("the delta is {rows}×{cols} numbers of {each} bytes, and byte_len is {byte_len}");
            lyco_error::bad_argument(&message)
        })?;
        // Written by nobody yet, perhaps.
        buffer.write_bytes(0, size);
        let out = slice::from_raw_parts_mut(buffer, size);
        match dtype {
            Dtype::F64 | Dtype::F32 => write_entries::<f64>(adapter, found, dtype, out)?,
            _ => write_entries::<f32>(adapter, found, dtype, out)?,
        }
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, write) }
}

/// Says how much one layer does, strength 1: the Frobenius norm of what lyco_adapter_delta() writes, found without
/// making it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_delta_norm(
    adapter: *const lyco_adapter,
    index: usize,
    norm: *mut f64,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let measure = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let (id, layer) = adapter.layer(index)?;
        let place = handle::output(norm, "norm")?;
        place.write(gram::norm(&adapter.shared().delta::<f64>(id, layer)?));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, measure) }
}

/// Merges and hands over what is to be added to the model, layer by layer, in the dtype that the option "dtype" says:
/// for a host that applies a merge and stores nothing. Nothing is fitted, so options about the stored form count for
/// nothing. `progress` may be NULL; both callbacks get `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_deltas(
    merge: *const lyco_merge,
    callback: lyco_delta_callback,
    progress: lyco_progress_callback,
    user: *mut c_void,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let run = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let callback = callback.ok_or_else(|| {
            lyco_error::new(lyco_status::NULL_PARAMETER, "the parameter 'callback' is NULL")
        })?;
        let take = |merged: MergedDelta| {
            let MergedDelta { id, shape, dtype, data } = merged;
            let (name, full) = (text::own(&id.module), shape.full());
            let layer = lyco_layer_info {
                struct_size: size_of::<lyco_layer_info>() as u32,
                param: lyco_param::from(id.param) as u32,
                name: name.as_ptr(),
                family: c"Full".as_ptr(),
                rows: shape.rows as u64,
                cols: shape.cols as u64,
                rank: 0,
                scale: 1.0,
                stored_count: (shape.rows * shape.cols) as u64,
            };
            let mut delta = lend(&name, TensorView { dtype, shape: &full, data: &data });
            delta.struct_size = size_of::<lyco_tensor_view>() as u32;
            match callback(user, &layer, &delta) {
                0 => Ok(()),
                _ => Err(Error::cancelled()),
            }
        };
        Ok(merge.snapshot().deltas(&mut merge.watch(progress, user), take)?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, run) }
}
