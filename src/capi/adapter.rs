//! Opened adapters.

use std::ffi::{CStr, CString, c_char};
use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::{ptr, slice};

use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Shared};
use super::log::{self, lyco_log_level};
use super::sized::{self, Sized32};
use super::text;
use crate::adapter::{Adapter, Layer, LayerId, OpenOptions, Param};
use crate::model::Checkpoint;
use crate::survey::Survey;
use crate::tensor::TensorView;

/// An opened adapter: a file, or the result of a merge.
///
/// It never changes, so any number of threads may use it at once. It is counted: every adapter that a function gives
/// you, and every lyco_adapter_retain(), needs one lyco_adapter_free(). Strings that it lends live until the last of
/// these. A file stays mapped as long; replacing it meanwhile is fine, writing into it or shortening it is not.
pub struct lyco_adapter {
    adapter: Arc<Adapter>,
    kind: CString,
    layers: Vec<Row>,
    tensors: Vec<Name>,
    metadata: Vec<(Name, CString)>,
    /// Made when it is first asked for.
    survey: OnceLock<CString>,
}

/// A layer as C reads it.
struct Row {
    name: CString,
    family: CString,
    info: Numbers,
}

/// A name as the file has it, and as C reads it.
pub(super) struct Name {
    key: String,
    text: CString,
}

impl Name {
    fn of(name: &str) -> Self {
        Self { key: name.to_owned(), text: text::own(name) }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn text(&self) -> &CStr {
        &self.text
    }
}

/// The part of a layer that is no text.
struct Numbers {
    param: lyco_param,
    rows: u64,
    cols: u64,
    rank: u64,
    scale: f64,
    stored_count: u64,
}

impl Handle for lyco_adapter {
    type Hold = Shared;
}

/// Which parameter of a model's layer is changed.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum lyco_param {
    /// The layer's weight.
    WEIGHT = 0,
    /// The layer's bias.
    BIAS = 1,
}

impl From<Param> for lyco_param {
    fn from(param: Param) -> Self {
        match param {
            Param::Weight => Self::WEIGHT,
            Param::Bias => Self::BIAS,
        }
    }
}

/// How an adapter is opened: `lyco_open_options options = {sizeof options};` is the default, then set what is to differ.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_open_options {
    /// sizeof(lyco_open_options).
    pub struct_size: u32,
    /// 1: layers that can't be understood are left out, with a warning in the log. 0: the file is refused.
    pub skip_unknown: u32,
    /// The path of the model that the adapter changes: a checkpoint's file, its index of several, or their folder. DoRA,
    /// OFT and the other families whose effect depends on the model's weights need it, and every layer must be in it
    /// and have its shape. NULL: no model.
    pub base: *const c_char,
}

// SAFETY: two u32 and a pointer, all of which may be zero.
unsafe impl Sized32 for lyco_open_options {
    const FIRST: usize = offset_of!(Self, base);
}

/// One layer of an adapter. Set struct_size before asking for it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_layer_info {
    /// sizeof(lyco_layer_info).
    pub struct_size: u32,
    /// Which parameter of the module is changed: a lyco_param.
    pub param: u32,
    /// The module's name as the file spells it; lives as long as the adapter.
    pub name: *const c_char,
    /// How it is stored: "LoRA", "LoHa", "LoKr", "Full" or "Norm"; lives as long as the adapter.
    pub family: *const c_char,
    /// The outputs of the changed parameter.
    pub rows: u64,
    /// Its inputs times the kernel's extents; 1 for a bias or a norm.
    pub cols: u64,
    /// The inner rank of the stored factors; 0 where they have none.
    pub rank: u64,
    /// alpha / rank, or 1 where the family has none.
    pub scale: f64,
    /// How many numbers its tensors have together.
    pub stored_count: u64,
}

// SAFETY: two u32, then pointers and 64-bit numbers, all of which may be zero.
unsafe impl Sized32 for lyco_layer_info {
    const FIRST: usize = offset_of!(Self, stored_count);
}

impl lyco_adapter {
    /// An opened adapter for C; what it warns of goes to the log.
    pub(super) fn new(adapter: Adapter) -> Self {
        let (path, kind, count) = (adapter.path().display(), adapter.kind(), adapter.layers().len());
        log::say(lyco_log_level::INFO, &format!("{path}: {kind} of {count} layers"));
        adapter.warnings().iter().for_each(|warning| log::warn(warning));
        Self {
            kind: text::own(kind),
            layers: adapter.layers().iter().map(|(id, layer)| Row::of(id, layer)).collect(),
            tensors: adapter.file().names().map(Name::of).collect(),
            metadata: adapter
                .metadata()
                .iter()
                .map(|(key, value)| (Name::of(key), text::own(value)))
                .collect(),
            survey: OnceLock::new(),
            adapter: Arc::new(adapter),
        }
    }

    pub(super) fn shared(&self) -> Arc<Adapter> {
        Arc::clone(&self.adapter)
    }

    /// The layer `index`, in the order of the names.
    pub(super) fn layer(&self, index: usize) -> Result<(&LayerId, &Layer), lyco_error> {
        self.adapter.layers().iter().nth(index).ok_or_else(|| self.no_layer(index))
    }

    fn no_layer(&self, index: usize) -> lyco_error {
        let count = self.layers.len();
        lyco_error::bad_argument(&format!("there is no layer {index}; the adapter has {count}"))
    }

    /// Sorted by name.
    pub(super) fn tensors(&self) -> &[Name] {
        &self.tensors
    }

    pub(super) fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.adapter.file().get(name)
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        self.adapter.file().bytes()
    }
}

impl Row {
    fn of(id: &LayerId, layer: &Layer) -> Self {
        let param = id.param.into();
        let (rows, cols) = (layer.shape.rows as u64, layer.shape.cols as u64);
        let info = Numbers {
            param,
            rows,
            cols,
            rank: layer.rank.unwrap_or(0) as u64,
            scale: layer.scale,
            stored_count: layer.numbers as u64,
        };
        Self { name: text::own(&id.module), family: text::own(layer.family.name()), info }
    }

    fn lend(&self) -> lyco_layer_info {
        let Numbers { param, rows, cols, rank, scale, stored_count } = self.info;
        let (name, family) = (self.name.as_ptr(), self.family.as_ptr());
        lyco_layer_info {
            struct_size: 0,
            param: param as u32,
            name,
            family,
            rows,
            cols,
            rank,
            scale,
            stored_count,
        }
    }
}

/// How an adapter is to be opened, as the library says it.
///
/// # Safety
/// `options` is NULL, or points to as many bytes as its first field says, which hold what the header asks for.
pub(super) unsafe fn open_options(options: *const lyco_open_options) -> Result<OpenOptions, lyco_error> {
    if options.is_null() {
        return Ok(OpenOptions::default());
    }
    // SAFETY: the caller's promise.
    let options = unsafe { sized::read(options, "options") }?;
    let skip_unknown = match options.skip_unknown {
        0 => false,
        1 => true,
        other => return Err(lyco_error::bad_argument(&format!("skip_unknown is {other}; it is 0 or 1"))),
    };
    let base = match options.base.is_null() {
        true => None,
        // SAFETY: the header asks for a string.
        false => Some(Arc::new(Checkpoint::open(unsafe { text::borrow(options.base, "base") }?)?)),
    };
    Ok(OpenOptions { skip_unknown, base })
}

/// Adapters
/// ========
///
/// Opens and checks a safetensors or PyTorch file, or PEFT's folder; the tensors stay on disk until they are needed,
/// and nothing in the file is ever executed. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_open(
    path: *const c_char,
    options: *const lyco_open_options,
    adapter: *mut *mut lyco_adapter,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let open = || unsafe {
        let (path, options) = (text::borrow(path, "path")?, open_options(options)?);
        let place = handle::output(adapter, "adapter")?;
        place.write(handle::give(lyco_adapter::new(Adapter::open_with(path, &options)?)));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, open) }
}

/// Opens and checks the `size` bytes of a safetensors or PyTorch file; they are copied. `name` stands for the path in
/// messages and reports. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_from_memory(
    name: *const c_char,
    bytes: *const u8,
    size: usize,
    options: *const lyco_open_options,
    adapter: *mut *mut lyco_adapter,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say, and `size` is one that memory can have.
    let open = || unsafe {
        let (name, options) = (text::borrow(name, "name")?, open_options(options)?);
        handle::check(bytes, "bytes")?;
        if isize::try_from(size).is_err() {
            return Err(lyco_error::bad_argument(&format!("no memory has a size of {size}")));
        }
        let place = handle::output(adapter, "adapter")?;
        let bytes = slice::from_raw_parts(bytes, size).to_vec();
        place.write(handle::give(lyco_adapter::new(Adapter::from_bytes_with(name, bytes, &options)?)));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, open) }
}

/// One owner more of the same adapter, which is returned; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_retain(adapter: *const lyco_adapter) -> *mut lyco_adapter {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible(ptr::null_mut(), || unsafe { handle::retain(adapter) })
}

/// One owner less; the last one closes the adapter. A merge that it was added to keeps what it needs. NULL is
/// allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_free(adapter: *mut lyco_adapter) {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible((), || unsafe { handle::free(adapter) });
}

/// What the file is, in one word: "LoRA", "LoHa", "LoKr", "Full", "Norm" or "Mixed"; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_kind(adapter: *const lyco_adapter) -> *const c_char {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    unsafe { text::lend_part(adapter, |adapter| Some(&adapter.kind)) }
}

/// The size of the whole file in bytes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_byte_len(adapter: *const lyco_adapter) -> u64 {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible(0, || unsafe { handle::peek(adapter) }.map_or(0, |adapter| adapter.adapter.file().byte_len()))
}

/// How many layers it has; they are counted from 0, in the order of their names. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_layer_count(adapter: *const lyco_adapter) -> usize {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible(0, || unsafe { handle::peek(adapter) }.map_or(0, |adapter| adapter.layers.len()))
}

/// Describes one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_layer_info(
    adapter: *const lyco_adapter,
    index: usize,
    info: *mut lyco_layer_info,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let describe = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let place = sized::place(info, "info")?;
        place.write(&adapter.layers.get(index).ok_or_else(|| adapter.no_layer(index))?.lend());
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, describe) }
}

/// Looks up a value of the file's metadata, which lives as long as the adapter; NULL if the file has no such key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_metadata(
    adapter: *const lyco_adapter,
    key: *const c_char,
    value: *mut *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let look_up = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let key = text::borrow(key, "key")?;
        let found = adapter.metadata.binary_search_by(|(known, _)| known.key.as_str().cmp(key)).ok();
        handle::output(value, "value")?.write(text::lend(found.map(|at| adapter.metadata[at].1.as_c_str())));
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, look_up) }
}

/// How many lines of metadata the file has; they are counted from 0, in the order of their keys. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_metadata_count(adapter: *const lyco_adapter) -> usize {
    // SAFETY: the header asks for NULL or an adapter that is not freed.
    infallible(0, || unsafe { handle::peek(adapter) }.map_or(0, |adapter| adapter.metadata.len()))
}

/// The key of one line of metadata, which lyco_adapter_metadata() looks up; it lives as long as the adapter. NULL where
/// the index is out of range, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_metadata_key(
    adapter: *const lyco_adapter,
    index: usize,
) -> *const c_char {
    infallible(ptr::null(), || {
        // SAFETY: the header asks for NULL or an adapter that is not freed.
        let adapter = unsafe { handle::peek(adapter) };
        text::lend(adapter.and_then(|adapter| Some(adapter.metadata.get(index)?.0.text())))
    })
}

/// Says what the adapter is, as `lycomerge inspect --json` does of a file: families, ranks, dtype, the metadata that
/// tell where it comes from, how much it does in all and by block of the model, and what is odd about it. The first call
/// reads the whole file; the JSON lives as long as the adapter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_survey(
    adapter: *const lyco_adapter,
    json: *mut *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let survey = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        let place = handle::output(json, "json")?;
        let survey = match adapter.survey.get() {
            Some(known) => known,
            None => {
                let found = text::own(&Survey::of(&adapter.adapter)?.to_json());
                adapter.survey.get_or_init(|| found)
            }
        };
        place.write(survey.as_ptr());
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, survey) }
}

/// Writes the adapter to a file, which appears under its name only when it is whole: a PyTorch file if the name ends
/// in .pt, .pth, .ckpt or .bin, a safetensors file otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_adapter_save(
    adapter: *const lyco_adapter,
    path: *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let save = || unsafe {
        let adapter = handle::borrow(adapter, "adapter")?;
        Ok(adapter.adapter.file().save(Path::new(text::borrow(path, "path")?))?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, save) }
}
