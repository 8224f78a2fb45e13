//! Waiting: who waits for an answer reads the socket himself while the main thread is busy, and sleeps while it is not.
//! Must never keep the reader's place once the main thread wants it.

use std::{
    sync::{MutexGuard, PoisonError, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use super::{
    link::{Link, Reader},
    state::State,
};

/// How long somebody reads in place of the main thread before he looks around.
pub(super) const STAND_IN_SLICE: Duration = Duration::from_millis(5);

impl Link {
    /// The main thread takes the reader's place, from whoever has it.
    pub(super) fn take_place(&self) -> MutexGuard<'_, Reader> {
        if let Ok(reader) = self.reader.try_lock() {
            return reader;
        }
        self.wanted.store(true, SeqCst);
        self.ring();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(false, SeqCst);
        reader
    }

    /// Reads in place of a main thread that is busy with `busy`, until that ends, or `done`.
    pub(super) fn stand_in(&self, busy: u64, slice: Duration, mut done: impl FnMut() -> bool) {
        let Ok(mut reader) = self.reader.try_lock() else { return };
        while self.busy.load(SeqCst) == busy && !self.wanted.load(SeqCst) && !self.is_closed() && !done() {
            self.turn(&mut reader, Some(slice));
            self.flush(false);
        }
        drop(reader);
        // Another one who waits may want the place.
        self.changed.notify_all();
    }

    /// Waits until `ready` has something. `None` at the deadline, and when the link has ended.
    pub(super) fn wait_until<T>(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        // What is waited for may hang on what was not yet written.
        self.flush(true);
        loop {
            if let Some(there) = ready(&mut self.state()) {
                return Some(there);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if self.is_closed() || left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            let busy = self.busy.load(SeqCst);
            if busy != 0 {
                let mut there = None;
                let slice = left.unwrap_or(STAND_IN_SLICE).min(STAND_IN_SLICE);
                self.stand_in(busy, slice, || {
                    there = ready(&mut self.state());
                    there.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline)
                });
                if there.is_some() {
                    return there;
                }
            }
            let mut state = self.state();
            if let Some(there) = ready(&mut state) {
                return Some(there);
            }
            if self.is_closed() {
                return None;
            }
            // Somebody else reads: the main thread, the watcher, or one who waits too.
            let mut span = left.unwrap_or(Duration::MAX);
            if self.busy.load(SeqCst) != 0 {
                span = span.min(STAND_IN_SLICE);
            }
            state.sleepers += 1;
            let (mut state, _) = self.changed.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner);
            state.sleepers -= 1;
        }
    }
}
