//! Merges: inputs, options, and runs of them.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::adapter::lyco_adapter;
use super::error::{lyco_error, lyco_status};
use super::guard::{fallible, infallible};
use super::handle::{self, Handle, Unique};
use super::log::{self, lyco_log_level};
use super::report::lyco_report;
use super::sized::{self, Sized32};
use super::text;
use crate::adapter::Adapter;
use crate::merge::{Merge, Progress};
use crate::report::Report;

/// Adapters with weights, and how to merge them.
///
/// Any number of threads may use it at once; only freeing it must be left to the last. A run works on the inputs and
/// options as they are when it begins, and changes nothing, so one merge can be run several times, and changed for
/// the next run while one goes on.
#[derive(Default)]
pub struct lyco_merge {
    merge: Mutex<Merge>,
    /// How often runs were asked to stop.
    stops: AtomicU64,
}

impl Handle for lyco_merge {
    type Hold = Unique;
}

/// Hears how far a run is, on the thread that called it, at least ten times a second while modules are worked on.
/// `stage` says what is being done ("reading", "surveying", "merging") and is valid during the call; `done` of `total`
/// modules are through this stage. Return 0 to go on, anything else to cancel.
pub type lyco_progress_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, stage: *const c_char, done: usize, total: usize) -> c_int>;

/// What a merge will come to. Set struct_size before asking for it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lyco_forecast {
    /// sizeof(lyco_forecast).
    pub struct_size: u32,
    /// 1 if the output will be over 1 GiB and over ten times the inputs: better ask before running.
    pub huge: u32,
    /// The output's size in bytes.
    pub byte_len: u64,
    /// The size of all inputs in bytes.
    pub input_byte_len: u64,
    /// |stored - true| / |true| over the whole file.
    pub relative_error: f64,
}

// SAFETY: two u32 and three 64-bit numbers.
unsafe impl Sized32 for lyco_forecast {}

impl lyco_merge {
    fn lock(&self) -> MutexGuard<'_, Merge> {
        self.merge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The merge as it is now. A run takes this, so that no lock is held while a callback runs.
    pub(super) fn snapshot(&self) -> Merge {
        self.lock().clone()
    }

    /// The callback as the engine calls it, which also hears of lyco_merge_cancel() from now on.
    pub(super) fn watch(
        &self,
        progress: lyco_progress_callback,
        user: *mut c_void,
    ) -> impl FnMut(Progress) -> bool {
        let before = self.stops.load(Ordering::Relaxed);
        move |at| {
            let goes_on = self.stops.load(Ordering::Relaxed) == before;
            let Some(progress) = progress.filter(|_| goes_on) else { return goes_on };
            let stage = text::own(at.stage);
            // SAFETY: the host gave the callback for this, with this `user`, and it is called on the host's thread.
            unsafe { progress(user, stage.as_ptr(), at.done, at.total) == 0 }
        }
    }
}

/// Runs `work` on a merge, and says in the log what people should know.
fn logged<T>(
    merge: &Merge,
    work: impl FnOnce() -> crate::Result<T>,
    report_of: fn(&T) -> &Report,
) -> Result<T, lyco_error> {
    merge.compatibility_warnings().iter().for_each(|warning| log::warn(warning));
    let done = work()?;
    let report = report_of(&done);
    // What an input warns of was said when it was opened.
    let said: BTreeSet<_> = merge.inputs().iter().flat_map(|input| input.adapter.warnings()).collect();
    report.warnings.iter().filter(|warning| !said.contains(warning)).for_each(|warning| log::warn(warning));
    let (inputs, layers) = (merge.inputs().len(), report.layers.len());
    let message = format!("merged {inputs} adapters into {layers} layers, to within {:.1e}", report.error);
    log::say(lyco_log_level::INFO, &message);
    Ok(done)
}

/// Merges
/// ======
///
/// A merge without inputs, with the default options.
#[unsafe(no_mangle)]
pub extern "C" fn lyco_merge_new() -> *mut lyco_merge {
    infallible(ptr::null_mut(), || handle::give(lyco_merge::default()))
}

/// Adds an input with its weight, which may be any finite number. The merge becomes an owner of the adapter, so you
/// may free yours.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_add(
    merge: *mut lyco_merge,
    adapter: *const lyco_adapter,
    weight: f64,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let add = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let adapter = handle::borrow(adapter, "adapter")?;
        Ok(merge.lock().add(adapter.shared(), weight)?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, add) }
}

/// Sets how strongly an input, counted from 0 in the order of adding, acts in every part of the model: terms such as
/// "IN04-IN08=0.5 te=0", or a list of values; `lycomerge merge --help` has the whole grammar. NULL takes them away.
/// Names that this adapter doesn't have are refused with those that it has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_set_block_weights(
    merge: *mut lyco_merge,
    input: usize,
    text: *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let set = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let blocks = match text.is_null() {
            true => None,
            false => Some(text::borrow(text, "text")?.parse()?),
        };
        Ok(merge.lock().set_block_weights(input, blocks)?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, set) }
}

/// Sets an option, such as "max-size" to "150MB"; lyco_option_name() and its neighbours list them. Which options
/// contradict each other is said by the run. "skip-unknown" is only noted in the report: inputs are open already, and
/// lyco_open_options is where it counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_set(
    merge: *mut lyco_merge,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let set = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let (key, value) = (text::borrow(key, "key")?, text::borrow(value, "value")?);
        Ok(merge.lock().options.set(key, value)?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, set) }
}

/// Sets the options and the inputs' block weights as a recipe has them: of a report, or of a merged file's metadata (key
/// "lycomerge_recipe"). Both the recipe and a report with one are taken as JSON. Inputs and their weights are yours to
/// add, before or after: with those of the recipe, in its order, a run makes the same bytes again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_set_recipe(
    merge: *mut lyco_merge,
    json: *const c_char,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let set = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        Ok(merge.lock().set_recipe(text::borrow(json, "json")?)?)
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, set) }
}

/// Stops the runs, forecasts and deltas of this merge that go on in other threads, within a tenth of a second or at the
/// end of the layers in work; they return LYCO_STATUS_CANCELLED. Later ones are not stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_cancel(
    merge: *const lyco_merge,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or a merge that is not freed.
    let cancel = || unsafe {
        handle::borrow(merge, "merge")?.stops.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, cancel) }
}

/// Says size and error before the heavy work, from a sample of the layers. `progress` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_forecast(
    merge: *const lyco_merge,
    progress: lyco_progress_callback,
    user: *mut c_void,
    forecast: *mut lyco_forecast,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let foresee = || unsafe {
        let merge = handle::borrow(merge, "merge")?;
        let place = sized::place(forecast, "forecast")?;
        let found = merge.snapshot().forecast(&mut merge.watch(progress, user))?;
        place.write(&lyco_forecast {
            struct_size: 0,
            huge: found.is_huge().into(),
            byte_len: found.bytes,
            input_byte_len: found.input_bytes,
            relative_error: found.error,
        });
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, foresee) }
}

/// Merges into memory. `progress` may be NULL, and `report` too if it isn't wanted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_run(
    merge: *const lyco_merge,
    progress: lyco_progress_callback,
    user: *mut c_void,
    result: *mut *mut lyco_adapter,
    report: *mut *mut lyco_report,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let run = || unsafe {
        let given = handle::borrow(merge, "merge")?;
        let merge = given.snapshot();
        let place = handle::output(result, "result")?;
        let report_place = handle::wanted_output(report, "report")?;
        let work = || merge.run_in_memory(&mut given.watch(progress, user));
        let (bytes, done) = logged(&merge, work, |(_, report)| report)?;
        let merged = lyco_adapter::new(Adapter::from_bytes("merged", bytes)?);
        place.write(handle::give(merged));
        lyco_report::hand_over(report_place, &done);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, run) }
}

/// Merges into a file layer by layer, so that neither inputs nor output need fit into memory. The file appears under
/// its name only when it is whole; it may be one of the inputs. A name that ends in .pt, .pth, .ckpt or .bin makes a
/// PyTorch file, which has no metadata; any other a safetensors file. `progress` may be NULL, and `report` too if it
/// isn't wanted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_run_to(
    merge: *const lyco_merge,
    path: *const c_char,
    progress: lyco_progress_callback,
    user: *mut c_void,
    report: *mut *mut lyco_report,
    error: *mut *mut lyco_error,
) -> lyco_status {
    // SAFETY: the header asks for NULL or what the types say.
    let run = || unsafe {
        let given = handle::borrow(merge, "merge")?;
        let merge = given.snapshot();
        let path = Path::new(text::borrow(path, "path")?);
        let report_place = handle::wanted_output(report, "report")?;
        let work = || merge.run_to(path, &mut given.watch(progress, user));
        let done = logged(&merge, work, |report| report)?;
        lyco_report::hand_over(report_place, &done);
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, run) }
}

/// Frees the merge; its inputs and results live on where they have other owners. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_merge_free(merge: *mut lyco_merge) {
    // SAFETY: the header asks for NULL or a merge that is not freed.
    infallible((), || unsafe { handle::free(merge) });
}
