//! The page that a host shares with the runtime: which message and which callback are in progress. It is what
//! a crash and a hang are charged to, so it is written with plain stores around every callback.
//! Must never hold what only one side understands: the places of the words are fixed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// `b"skerry-1"`, little endian: the first word of the page.
pub const STATUS_MAGIC: u64 = u64::from_le_bytes(*b"skerry-1");
/// Size of the page, bytes.
pub const STATUS_BYTES: usize = 4096;

/// What a callback is, in [`Status::kind`].
pub mod kind {
    /// None is in progress.
    pub const NONE: u64 = 0;
    /// The image is being opened, or the instance created or started.
    pub const START: u64 = 1;
    /// A message; [`Status::delivery`](super::Status::delivery) is its id.
    pub const MESSAGE: u64 = 2;
    /// A change of settings.
    pub const SETTINGS: u64 = 3;
    /// A direct method.
    pub const METHOD: u64 = 4;
    /// A tick.
    pub const TICK: u64 = 5;
    /// The stop.
    pub const STOP: u64 = 6;
}

/// The page. Zeroed memory is a valid one.
#[repr(C, align(4096))]
pub struct Status {
    /// [`STATUS_MAGIC`] once the host runs.
    pub magic: AtomicU64,
    /// Id of the delivery in progress, 0 for none.
    pub delivery: AtomicU64,
    /// When the callback in progress began: milliseconds of `CLOCK_BOOTTIME`, 0 for none.
    pub since_ms: AtomicU64,
    /// One of [`kind`].
    pub kind: AtomicU64,
    /// Signal that ended the process, written by the host's crash handler.
    pub crash_signal: AtomicU64,
    /// Program counter at the crash.
    pub crash_pc: AtomicU64,
    /// First address of the image.
    pub image_base: AtomicU64,
    /// First address after the image.
    pub image_end: AtomicU64,
    reserved: [AtomicU64; STATUS_BYTES / 8 - 8],
}

impl Status {
    /// A page on which nothing is in progress.
    pub fn new() -> Status {
        Status {
            magic: AtomicU64::new(STATUS_MAGIC),
            delivery: AtomicU64::new(0),
            since_ms: AtomicU64::new(0),
            kind: AtomicU64::new(kind::NONE),
            crash_signal: AtomicU64::new(0),
            crash_pc: AtomicU64::new(0),
            image_base: AtomicU64::new(0),
            image_end: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; STATUS_BYTES / 8 - 8],
        }
    }

    #[inline]
    pub(super) fn begin(&self, kind: u64, delivery: u64, now_ms: u64) {
        self.kind.store(kind, Relaxed);
        self.delivery.store(delivery, Relaxed);
        self.since_ms.store(now_ms, Relaxed);
    }

    #[inline]
    pub(super) fn end(&self) {
        self.since_ms.store(0, Relaxed);
        self.delivery.store(0, Relaxed);
        self.kind.store(kind::NONE, Relaxed);
    }
}

impl Default for Status {
    fn default() -> Status {
        Status::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_words_stay_where_they_are() {
        assert_eq!(size_of::<Status>(), STATUS_BYTES);
        let places = [
            offset_of!(Status, magic),
            offset_of!(Status, delivery),
            offset_of!(Status, since_ms),
            offset_of!(Status, kind),
            offset_of!(Status, crash_signal),
            offset_of!(Status, crash_pc),
            offset_of!(Status, image_base),
            offset_of!(Status, image_end),
        ];
        assert_eq!(places, [0, 8, 16, 24, 32, 40, 48, 56]);
    }
}
