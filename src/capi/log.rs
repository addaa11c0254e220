//! What the library wants people to know that is no failure: warnings about files and merges.
//!
//! One sink for the whole process. It is copied out of its lock before it is called, so a callback may do what it
//! likes, such as setting another.

use std::ffi::{c_char, c_void};
use std::sync::{PoisonError, RwLock};

use super::error::{lyco_error, lyco_status};
use super::guard::fallible;
use super::text;

/// How much a message matters. Lower is more urgent; later versions may add values between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum lyco_log_level {
    /// Something is odd about an input or a result; the work went on.
    WARNING = 20,
    /// What was done.
    INFO = 30,
}

/// Hears of messages: on whichever thread has one, on several at once. It may call any function. `message` is valid
/// during the call.
pub type lyco_log_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, level: lyco_log_level, message: *const c_char)>;

#[derive(Clone, Copy)]
struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, lyco_log_level, *const c_char),
    user: *mut c_void,
    level: lyco_log_level,
}

// SAFETY: the library only carries `user` to the callback, and the header says that this happens on any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Says `message` to the host, if it listens to `level`.
pub(super) fn say(level: lyco_log_level, message: &str) {
    let sink = *SINK.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(sink) = sink.filter(|sink| level <= sink.level) {
        let message = text::own(message);
        // SAFETY: the host gave the callback for this, with this `user`.
        unsafe { (sink.callback)(sink.user, level, message.as_ptr()) };
    }
}

pub(super) fn warn(message: &str) {
    say(lyco_log_level::WARNING, message);
}

/// Log
/// ===
///
/// Sends the messages of all threads that are as urgent as `level` (a lyco_log_level) or more to `callback`, in place
/// of the callback before; NULL ends it. Without a callback nothing is printed.
///
/// No lock is held while the callback runs. So a message that is on its way in another thread may still reach the old
/// callback for a moment after this returns: let its `user` live until those calls have returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lyco_set_log(
    callback: lyco_log_callback,
    user: *mut c_void,
    level: u32,
    error: *mut *mut lyco_error,
) -> lyco_status {
    let set = || {
        let known = [lyco_log_level::WARNING, lyco_log_level::INFO];
        let level = known.into_iter().find(|known| *known as u32 == level).ok_or_else(|| {
            lyco_error::bad_argument(&format!("{level} is no log level; use one of lyco_log_level"))
        })?;
        let sink = callback.map(|callback| Sink { callback, user, level });
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
        Ok(())
    };
    // SAFETY: the header asks for NULL or space for a pointer.
    unsafe { fallible(error, set) }
}
