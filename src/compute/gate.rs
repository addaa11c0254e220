//! A weighted gate: layers enter while the sum of their working sets stays under the memory setting.

use std::sync::{Condvar, Mutex, PoisonError};

/// Lets work in by weight. The next piece in order may always enter, however heavy, so nothing can starve.
pub(crate) struct Gate {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inside: u64,
    /// The first piece whose result has not been taken yet.
    next: usize,
    closed: bool,
}

impl Gate {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until piece `index` of `weight` bytes fits, or it is its turn; false once the gate is closed.
    pub(crate) fn enter(&self, index: usize, weight: u64) -> bool {
        let mut state = self.state();
        while !state.closed && index != state.next && state.inside.saturating_add(weight) > self.limit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.inside = state.inside.saturating_add(weight);
        !state.closed
    }

    /// The result of piece `index`, which weighed `weight`, was taken; pieces are taken in order.
    pub(crate) fn leave(&self, index: usize, weight: u64) {
        let mut state = self.state();
        state.inside = state.inside.saturating_sub(weight);
        state.next = index + 1;
        self.changed.notify_all();
    }

    /// Turns everyone away who waits or comes later.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}
