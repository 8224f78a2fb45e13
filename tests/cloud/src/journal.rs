//! Everything that happened, in order, for whoever waits for it or reads it later. Must never grow without end: the oldest
//! events go, and messages beyond the limit are only counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::event::{Event, Telemetry, What};

/// Events that are kept: far more than a test makes.
const EVENTS_MAX: usize = 200_000;
/// Messages that are kept.
const TELEMETRY_MAX: usize = 2_000_000;
/// The bodies of all of them.
const TELEMETRY_BYTES_MAX: usize = 512 * 1024 * 1024;

#[derive(Default)]
pub struct Journal {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Default)]
struct Log {
    events: VecDeque<Event>,
    /// The number of the first one that is still there.
    first: usize,
    telemetry: Vec<Arc<Telemetry>>,
    telemetry_bytes: usize,
    stored: BTreeMap<String, Stored>,
    /// Moves with every change.
    turn: u64,
    over: bool,
}

/// Messages of one identity, also those that were not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub messages: u64,
    /// Of these, sent again by the client.
    pub dup: u64,
    pub body_bytes: u64,
}

impl Journal {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, at_ms: u64, what: What) {
        let mut log = self.log();
        log.push(Event { at_ms, what });
        drop(log);
        self.changed.notify_all();
    }

    pub fn count(&self, identity: &str, body_bytes: usize, dup: bool) {
        let mut log = self.log();
        if !log.stored.contains_key(identity) {
            log.stored.insert(identity.to_owned(), Stored::default());
        }
        if let Some(stored) = log.stored.get_mut(identity) {
            stored.messages += 1;
            stored.dup += u64::from(dup);
            stored.body_bytes += body_bytes as u64;
        }
        log.turn += 1;
        drop(log);
        self.changed.notify_all();
    }

    pub fn keep(&self, telemetry: Telemetry) {
        let mut log = self.log();
        if log.telemetry.len() < TELEMETRY_MAX && log.telemetry_bytes < TELEMETRY_BYTES_MAX {
            let telemetry = Arc::new(telemetry);
            log.telemetry_bytes += telemetry.body.len();
            log.telemetry.push(telemetry.clone());
            log.push(Event { at_ms: telemetry.at_ms, what: What::Telemetry(telemetry) });
        }
        drop(log);
        self.changed.notify_all();
    }

    pub fn stored(&self) -> BTreeMap<String, Stored> {
        self.log().stored.clone()
    }

    pub fn telemetry(&self, from: usize) -> Vec<Arc<Telemetry>> {
        self.log().telemetry.iter().skip(from).cloned().collect()
    }

    /// The number of the next event.
    pub fn next(&self) -> usize {
        let log = self.log();
        log.first + log.events.len()
    }

    /// Nothing will happen any more.
    pub fn end(&self) {
        self.log().over = true;
        self.changed.notify_all();
    }

    /// The first event from that number on that fits, with its number.
    pub fn wait(&self, from: usize, deadline: Instant, mut fits: impl FnMut(&Event) -> bool) -> Option<(usize, Event)> {
        let mut log = self.log();
        let mut at = from;
        loop {
            at = at.max(log.first);
            while let Some(event) = log.events.get(at - log.first) {
                if fits(event) {
                    return Some((at, event.clone()));
                }
                at += 1;
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            if log.over {
                return None;
            }
            log = self.changed.wait_timeout(log, left?).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks again after every change, outside of the lock.
    pub fn look<T>(&self, deadline: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let turn = self.log().turn;
            if let Some(found) = look() {
                return Some(found);
            }
            let log = self.log();
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            let unchanged = |log: &mut Log| log.turn == turn && !log.over;
            let (log, timeout) =
                self.changed.wait_timeout_while(log, left, unchanged).unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() || log.over {
                drop(log);
                return look();
            }
        }
    }
}

impl Log {
    fn push(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(event);
        self.turn += 1;
    }
}
