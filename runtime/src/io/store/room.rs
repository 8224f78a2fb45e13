//! How much the store may still write: a hard quota on the bytes of its files, a floor under the file system's free space,
//! and one segment in reserve, so that what settles messages can always be written. Must never count what is not a file's length.

use crate::model::limits::COMMIT_BYTES;
use skerry_abi::wire::record::MESSAGE_BYTES_MAX;

/// The default quota: this, or a quarter of what is free on the file system if that is less.
pub const QUOTA_BYTES: u64 = 1 << 30;
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a record needs beyond the blocks in it: its header, its table, rows and queues.
pub const RECORD_BYTES: u64 = 16 * 1024;

/// Fixed when the store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub bytes: u64,
    /// A sixteenth of the quota, within bounds; also what is kept in reserve and free on the file system.
    pub segment_bytes: u64,
}

/// What the files of the store take now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub log: u64,
    pub index: u64,
    /// Of the file system.
    pub free: u64,
}

impl Quota {
    pub fn new(bytes: u64) -> Quota {
        let sixteenth = (bytes / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        // Each segment is an open file: not more than some dozens also of a large quota.
        Quota { bytes, segment_bytes: sixteenth.max(bytes / 64) }
    }

    /// The default for a file system, of which the store has some bytes already.
    pub fn auto(free: u64, used: u64) -> u64 {
        (free.saturating_add(used) / 4).min(QUOTA_BYTES)
    }

    /// Bytes that new blocks may take. redb doubles its file when it grows, so the index counts twice.
    pub fn room(&self, used: &Used) -> u64 {
        let taken = used.log + 2 * used.index + self.segment_bytes + RECORD_BYTES;
        let in_quota = self.bytes.saturating_sub(taken);
        in_quota.min(used.free.saturating_sub(self.segment_bytes + RECORD_BYTES))
    }

    /// What may be written with the reserve: by what frees more than it takes.
    pub fn last_room(&self, used: &Used) -> u64 {
        self.bytes.saturating_sub(used.log + 2 * used.index + RECORD_BYTES).min(used.free)
    }

    /// What dead letters may take: they lie in the index, which counts twice.
    pub fn dead_bytes(&self) -> u64 {
        self.bytes / 16
    }

    /// Below this much room the store is full: the next commit might not find place. Never so little that a largest message
    /// would not fit: it would wait for room that nobody makes, and everything behind it as well.
    pub fn full_below(&self) -> u64 {
        let message = MESSAGE_BYTES_MAX as u64 + 32 * 1024;
        (COMMIT_BYTES as u64 + 64 * 1024).min(self.segment_bytes.max(message))
    }

    /// Why nothing more is taken, if so.
    pub fn full(&self, used: &Used) -> Option<String> {
        if self.room(used) >= self.full_below() {
            return None;
        }
        let taken = used.log + used.index;
        if used.free < 2 * self.segment_bytes + RECORD_BYTES {
            return Some(format!(
                "the file system has {} bytes left and the store leaves {} free; make room on it",
                used.free, self.segment_bytes
            ));
        }
        Some(format!("{taken} of the {} bytes of its quota are in use, less a reserve", self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_before_the_quota_and_before_the_disk() {
        let quota = Quota::new(1 << 30);
        assert_eq!(quota.segment_bytes, 64 << 20);
        let used = |log, free| Used { log, index: 1 << 20, free };
        assert_eq!(quota.full(&used(0, 1 << 40)), None);
        assert!(quota.full(&used(960 << 20, 1 << 40)).unwrap().contains("quota"));
        assert!(quota.last_room(&used(960 << 20, 1 << 40)) > 50 << 20, "settling goes on");
        assert!(quota.full(&used(0, 64 << 20)).unwrap().contains("file system"));
        assert_eq!(Quota::new(1 << 20).segment_bytes, 64 << 10);
        assert_eq!(Quota::new(64 << 30).segment_bytes, 1 << 30);
        assert_eq!(Quota::auto(1 << 20, 3 << 20), 1 << 20);
        assert_eq!(Quota::auto(1 << 40, 0), 1 << 30);
    }
}
