//! Ctrl-C and termination: the run in progress hears of it and ends cleanly, leaving nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};

use super::output::{self, Failure};

static ASKED: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicBool = AtomicBool::new(false);

const MESSAGE: &str = "cancelled; nothing was written";

/// From here on, signals only ask.
pub(crate) fn listen() -> Result<(), Failure> {
    let handler = || {
        ASKED.store(true, Ordering::SeqCst);
        if WAITING.load(Ordering::SeqCst) {
            output::note("");
            output::error(MESSAGE);
            std::process::exit(1);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::failed(format!("can't listen for Ctrl-C: {error}")))
}

/// Whether somebody asked to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Waits for the user, during which a signal ends the process: there is no run that could hear of it.
pub(crate) fn while_waiting<T>(wait: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::SeqCst);
    let answer = wait();
    WAITING.store(false, Ordering::SeqCst);
    answer
}

/// How a run ends that was stopped.
pub(crate) fn failure() -> Failure {
    Failure::failed(MESSAGE)
}
