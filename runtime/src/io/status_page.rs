//! The page of memory that a module host shares with the runtime: which callback runs, since when, and how it
//! crashed. The runtime reads it with `pread`, never through a mapping: nothing that a host does to the page may
//! reach further than these eight words, and none of them may be trusted for more than a status line.

use rustix::fs::{MemfdFlags, SealFlags};
use skerry_abi::pump::status::{STATUS_BYTES, STATUS_MAGIC};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// The runtime's end.
#[derive(Debug)]
pub struct StatusPage {
    file: File,
}

/// What the page said at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The host has mapped the page and knows its layout.
    pub live: bool,
    /// The delivery that a callback works on, or 0.
    pub delivery: u64,
    /// When the callback in progress began, boot-time clock; 0 when none runs.
    pub callback_started_ms: u64,
    /// One of `skerry_abi::pump::status::kind`.
    pub callback_kind: u64,
    /// The signal of a crash, or 0.
    pub signal: u64,
    pub pc: u64,
    pub image_base: u64,
    pub image_end: u64,
}

impl StatusPage {
    /// Makes an empty page that neither side can shorten: a shorter one would end its reader with SIGBUS.
    pub fn create() -> io::Result<StatusPage> {
        let memory = rustix::fs::memfd_create("skerry-status", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memory, STATUS_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(StatusPage { file: File::from(memory) })
    }

    /// A word may change between two reads of the same copy, so that it is read until it stays the same.
    pub fn read(&self) -> io::Result<Snapshot> {
        let mut last = self.read_once()?;
        for _ in 0..READS_MAX {
            let next = self.read_once()?;
            if next == last {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    fn read_once(&self) -> io::Result<Snapshot> {
        let mut bytes = [0; WORDS * 8];
        self.file.read_exact_at(&mut bytes, 0)?;
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| u64::from_ne_bytes(words[at]);
        Ok(Snapshot {
            live: word(0) == STATUS_MAGIC,
            delivery: word(1),
            callback_started_ms: word(2),
            callback_kind: word(3),
            signal: word(4),
            pc: word(5),
            image_base: word(6),
            image_end: word(7),
        })
    }
}

impl AsFd for StatusPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Snapshot {
    /// Where in the image the crash was: the address that its symbols are listed under.
    pub fn image_offset(&self) -> Option<u64> {
        let within = self.signal != 0 && (self.image_base..self.image_end).contains(&self.pc);
        within.then(|| self.pc - self.image_base)
    }
}

const WORDS: usize = 8;
/// A host that writes all the time must not keep its reader.
const READS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_length_stays() {
        let page = StatusPage::create().unwrap();
        assert_eq!(page.read().unwrap(), Snapshot::default());
        for (at, word) in [STATUS_MAGIC, 1, 2, 3, 11, 0x1500, 0x1000, 0x2000].into_iter().enumerate() {
            page.file.write_all_at(&word.to_ne_bytes(), at as u64 * 8).unwrap();
        }
        let snapshot = page.read().unwrap();
        assert!(snapshot.live && snapshot.delivery == 1 && snapshot.callback_started_ms == 2);
        assert_eq!(snapshot.image_offset(), Some(0x500));
        assert_eq!(Snapshot { pc: 0x2000, ..snapshot }.image_offset(), None);
        assert_eq!(Snapshot { signal: 0, ..snapshot }.image_offset(), None);
        assert!(page.file.set_len(0).is_err() && page.file.set_len(1 << 20).is_err());
    }
}
