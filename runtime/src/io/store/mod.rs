//! The store: a log of commits in segments, and redb as the index over it. Carries out commits with one sync each, reads
//! blocks back, keeps small documents, gives space back. Must never decide what is stored or for how long, and never say
//! "done" before the sync.

mod dead;
mod disk;
mod head;
mod log;
mod look;
mod mend;
mod open;
mod peek;
mod plan;
pub mod probe;
mod progress;
mod record;
mod room;
mod rows;
mod salvage;
mod suspect;
mod sweep;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::logic::block::Block;
use crate::logic::hub::{BlockWrite, Commit, LoadRequest, LoadedBlock, LoadedMessage, RowWrite, Wrote};
use crate::model::time::{Age, Mono, Wall};
pub use dead::{DeadSums, Letter};
pub use disk::{Disk, Folder, put_whole};
use head::{CaughtUp, Head, Pending};
use log::Log;
pub use look::{Look, look};
pub use open::{OpenError, Opened, Options};
pub use peek::{Peek, peek};
use record::Effects;
use room::{Quota, Used};
use rows::{Live, Place};
pub use suspect::{AtWork, Suspicion, at_work, suspect};

/// The index catches up durably when the log is this far ahead: bounds what opening after a crash reads again.
const CATCH_UP_BYTES: u64 = 4 * 1024 * 1024;
/// Steps of a sweep that one commit waits for when room is made for the next.
const STEPS_AT_ONCE: usize = 64;
/// Rows in memory that the index lacks, bytes at a guess. More are applied, without a sync.
const PENDING_BYTES: usize = 256 * 1024;

/// The clocks at the last commit, to continue the age of the store from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastClock {
    pub age: Age,
    pub mono: Mono,
    pub wall: Wall,
    pub boot_id: String,
}

pub struct Store {
    disk: Arc<dyn Disk>,
    head: Head,
    log: Log,
    /// Records of the log that the index lacks.
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Where a cut would leave the index.
    durable: CaughtUp,
    /// What of each segment is needed, as of the index.
    segments: BTreeMap<u64, Live>,
    /// As the last record has them.
    counters: (u64, u64, LastClock),
    boot_id: String,
    quota: Quota,
    sweep: sweep::Sweep,
    /// Segments with a block that can't be read.
    stuck: BTreeSet<u64>,
    /// Sticky: what failed after a commit had succeeded.
    broken: Option<String>,
}

/// Bytes of all files, bytes in them that blocks need, and what they may take. Dead letters with their own limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub files: u64,
    pub blocks: u64,
    pub quota: u64,
    pub dead: DeadSums,
    pub dead_max: u64,
}

/// Why something failed: text for the operator.
#[derive(Debug)]
struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Fault {
        Fault(format!("index of the store: {error}"))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault(format!("log of the store: {error}"))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault(text)
    }
}

impl Store {
    /// Opens or makes the store in `folder`. See [`Options`].
    pub fn open(folder: &Path, options: &Options) -> Result<Opened, OpenError> {
        open::open(folder, options, None)
    }

    /// After a failure: what was under way then, and never acknowledged, is cut off. `acknowledged` is [`Store::acknowledged`].
    pub fn reopen(folder: &Path, options: &Options, acknowledged: u64) -> Result<Opened, OpenError> {
        open::open(folder, options, Some(acknowledged))
    }

    /// Number of the last commit that succeeded.
    pub fn acknowledged(&self) -> u64 {
        self.log.number()
    }

    /// One record, one sync. After an error the store must be opened again.
    pub fn commit(&mut self, commit: &Commit) -> Result<Wrote, String> {
        self.try_commit(commit).map_err(|e| e.to_string())
    }

    fn try_commit(&mut self, commit: &Commit) -> Result<Wrote, Fault> {
        if let Some(reason) = &self.broken {
            return Err(Fault(reason.clone()));
        }
        let now = &commit.now;
        let clock = LastClock { age: now.age, mono: now.mono, wall: now.wall, boot_id: self.boot_id.clone() };
        self.counters = (commit.next_seq, commit.next_block, clock);
        let mut effects = Effects {
            rows: commit.rows.clone(),
            queues: commit.queues.clone(),
            attempts: commit.attempts.clone(),
            dead: commit.dead.clone(),
            documents: commit.documents.clone(),
            gone: commit.gone.clone(),
            ..Effects::default()
        };
        let mut wrote = Wrote::default();
        if !commit.expire.is_empty() || !commit.remove.is_empty() || !commit.evict.is_empty() {
            self.catch_up(false)?;
            plan::plan(self, commit, &mut effects, &mut wrote)?;
        }
        self.limit_dead(&mut effects)?;
        self.sweep.wanted |= effects.rows.iter().any(|row| row.settled > 0) || !effects.gone.is_empty();
        self.write(effects, &commit.blocks)?;
        // The commit is safe from here on: what fails now fails the next one.
        let after = if self.is_tight() { self.make_room(!wrote.evicted.is_empty()) } else { Ok(()) };
        self.broken = after.err().map(|e| e.to_string()).or(self.broken.take());
        (wrote.room, wrote.full) = self.room();
        Ok(wrote)
    }

    /// What was settled may have emptied a segment. After an eviction also what is mostly empty is rewritten at once, since
    /// senders wait for the room.
    fn make_room(&mut self, thoroughly: bool) -> Result<(), Fault> {
        self.checkpoint()?;
        for _ in 0..STEPS_AT_ONCE {
            if !thoroughly || !self.is_tight() || !self.sweep().map_err(Fault)? {
                break;
            }
        }
        Ok(())
    }

    /// How many bytes of new blocks find place, and why the store is full if it is.
    pub fn room(&self) -> (u64, Option<String>) {
        let used = self.used();
        (self.quota.room(&used), self.quota.full(&used))
    }

    fn used(&self) -> Used {
        Used {
            log: self.log.bytes(),
            index: self.head.file_bytes(),
            // A file system that does not say is left to its own errors.
            free: self.disk.free_bytes().unwrap_or(u64::MAX),
        }
    }

    fn is_tight(&self) -> bool {
        self.quota.full(&self.used()).is_some()
    }

    /// Appends a record with these effects and blocks.
    fn write(&mut self, mut effects: Effects, blocks: &[BlockWrite]) -> Result<(), Fault> {
        let bytes: u64 = blocks.iter().map(|b| b.bytes.len() as u64).sum();
        self.check_room(bytes)?;
        let rolled = self.roll_if_due(bytes, &mut effects)?;
        (effects.next_seq, effects.next_block, effects.clock) = self.counters.clone();
        let mut writer = record::Writer::new();
        for block in blocks {
            let rows = effects.rows.iter().filter(|row| row.block == block.block);
            // What is settled of a block that is rewritten is not in it any more.
            let targets = rows.map(|row| row.total.saturating_sub(row.settled)).sum();
            writer.block(block.block, &block.bytes, targets);
        }
        let number = self.log.number() + 1;
        let (bytes, stored) = writer.finish(number, &effects);
        effects.blocks = stored;
        let payload_at = self.log.append(&bytes)?;
        self.pending_bytes += bytes.len() - effects.blocks.iter().map(|b| b.length as usize).sum::<usize>();
        self.pending.push(Pending { number, payload_at, end: self.log.end(), effects });
        let after = if rolled || self.behind() >= CATCH_UP_BYTES {
            self.checkpoint()
        } else if self.pending_bytes > PENDING_BYTES {
            self.catch_up(false)
        } else {
            Ok(())
        };
        self.broken = after.err().map(|e| e.to_string());
        Ok(())
    }

    /// The hub asks for no more than there was room; but others write to the file system, too.
    fn check_room(&self, bytes: u64) -> Result<(), Fault> {
        let room = self.quota.last_room(&self.used());
        if bytes > room {
            return Err(Fault(format!("it is full: {bytes} bytes are to be written, and there is room for {room}")));
        }
        Ok(())
    }

    /// Bytes of the log that opening after a crash would read again; a segment is rolled long before two are involved.
    fn behind(&self) -> u64 {
        let end = self.log.end();
        if end.segment == self.durable.at.segment { end.offset - self.durable.at.offset } else { CATCH_UP_BYTES }
    }

    /// Begins a segment when the last is full, with everything in it that only lies in older ones: so each segment can go
    /// for itself, and what is left always tells the whole.
    fn roll_if_due(&mut self, bytes: u64, effects: &mut Effects) -> Result<bool, Fault> {
        let end = self.log.end();
        let has_records = end.offset > log::SEGMENT_HEADER_BYTES;
        let full = end.offset + bytes + room::RECORD_BYTES > self.quota.segment_bytes;
        // With the reserve, small records get a segment of their own, which goes as soon as it is half full.
        let spare = bytes == 0
            && self.is_tight()
            && (self.holds_blocks(end.segment) || end.offset > self.quota.segment_bytes / 2);
        if !has_records || !(full || spare) {
            return Ok(false);
        }
        self.begin_segment(effects)?;
        Ok(true)
    }

    fn begin_segment(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        self.catch_up(false)?;
        let known: BTreeSet<u32> = effects.queues.iter().map(|q| q.id).collect();
        let queues = self.head.restore()?.0.queues;
        effects.queues.extend(queues.into_iter().filter(|q| !known.contains(&q.id)));
        let known: BTreeSet<String> = effects.documents.iter().map(|(name, _)| name.clone()).collect();
        let documents = self.head.documents("")?.into_iter().filter(|(name, _)| !known.contains(name));
        let documents: Vec<_> = documents.map(|(name, bytes)| (name, Some(bytes))).collect();
        // More than that would eat up the space that it is to save.
        if documents.iter().map(|(_, b)| b.as_ref().map_or(0, Vec::len) as u64).sum::<u64>()
            < self.quota.segment_bytes / 8
        {
            effects.documents.extend(documents);
        }
        self.log.next_segment()?;
        Ok(())
    }

    fn holds_blocks(&self, segment: u64) -> bool {
        self.segments.get(&segment).is_some_and(|live| live.blocks > 0)
            || self.pending.iter().any(|p| p.payload_at.segment == segment && !p.effects.blocks.is_empty())
    }

    /// The index learns what is pending.
    fn catch_up(&mut self, durable: bool) -> Result<(), Fault> {
        if self.pending.is_empty() && !durable {
            return Ok(());
        }
        self.head.apply(&self.pending, &mut self.segments, durable)?;
        self.pending = Vec::new();
        self.pending_bytes = 0;
        if durable {
            self.durable = CaughtUp { number: self.log.number(), at: self.log.end() };
        }
        Ok(())
    }

    /// The index catches up durably, and a segment that nobody needs any more is removed.
    fn checkpoint(&mut self) -> Result<(), Fault> {
        if self.durable.number != self.log.number() {
            self.catch_up(true)?;
        }
        // One at a time: a file system takes its time for a long file, and a commit may wait behind this.
        let gone = self.log.segments().map(|(number, _)| number).find(|number| self.is_done(*number));
        if let Some(segment) = gone {
            self.log.remove(segment)?;
            self.stuck.remove(&segment);
        }
        Ok(())
    }

    /// Neither its blocks nor its records are needed.
    fn is_done(&self, segment: u64) -> bool {
        segment < self.durable.at.segment && self.segments.get(&segment).is_none_or(|live| live.blocks == 0)
    }

    /// The next block of a queue in a range, with the messages that the queue is not done with.
    pub fn load(&mut self, request: &LoadRequest) -> Result<Option<LoadedBlock>, String> {
        self.try_load(request).map_err(|e| e.to_string())
    }

    fn try_load(&mut self, request: &LoadRequest) -> Result<Option<LoadedBlock>, Fault> {
        self.catch_up(false)?;
        let Some((block, row)) = self.head.first_row(request.queue, request.from, request.to)? else {
            return Ok(None);
        };
        let Some(row) = row else { return self.rebuilt(request.queue, block).map(Some) };
        let RowWrite { total, settled, bits, last_expiry, .. } = row.clone();
        let mut loaded = LoadedBlock { block, total, settled, bits, last_expiry, ..LoadedBlock::default() };
        if request.peek {
            return Ok(Some(loaded));
        }
        match self.read_messages(&row) {
            Ok(messages) => loaded.messages = messages,
            Err(reason) => loaded.unreadable = Some(format!("block {block}: {reason}")),
        }
        Ok(Some(loaded))
    }

    fn read_messages(&self, row: &RowWrite) -> Result<Vec<LoadedMessage>, Fault> {
        let place = self.head.place(row.block)?.ok_or_else(|| Fault("its place is not known".to_owned()))?;
        // Once more, since a bus may hiccup; a block that can't be read twice is given up.
        let bytes = self.read_block(row.block, &place).or_else(|_| self.read_block(row.block, &place))?;
        let attempts = self.head.attempts(row.queue)?;
        let mut messages = Vec::new();
        Block::parse(&bytes)?.for_each(|message| {
            let settled = row.bits.get(message.index as usize / 64).is_some_and(|w| w >> (message.index % 64) & 1 == 1);
            let Some(expiry) = message.expiry(row.queue).filter(|_| !settled) else { return };
            messages.push(LoadedMessage {
                index: message.index,
                seq: message.seq,
                source: message.source.clone(),
                enqueued: message.enqueued,
                expiry,
                attempts: attempts.get(&message.seq).copied().unwrap_or(0),
                record: message.record.into(),
            });
        })?;
        Ok(messages)
    }

    /// A block as it was before it was packed.
    fn read_block(&self, block: u64, place: &Place) -> Result<Vec<u8>, Fault> {
        if place.is_inline() {
            let packed = self.head.inline_block(block)?.ok_or_else(|| Fault("it is missing".to_owned()))?;
            return Ok(rows::decompress(&packed)?);
        }
        let at = log::Position { segment: place.segment, offset: place.offset };
        let packed = self.log.read(at, place.length as usize)?;
        if crc32fast::hash(&packed) != place.crc {
            return Err(Fault(format!("its checksum is wrong, in {}", log::name_of(place.segment))));
        }
        Ok(rows::decompress(&packed)?)
    }

    /// Documents whose name begins with `prefix`.
    pub fn documents(&mut self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        self.catch_up(false).map_err(|e| e.to_string())?;
        self.head.documents(prefix).map_err(|e| e.to_string())
    }

    pub fn sizes(&mut self) -> Sizes {
        let used = self.used();
        let blocks = self.segments.values().map(|live| live.bytes).sum();
        if self.pending.iter().any(|p| !p.effects.dead.is_empty() || !p.effects.gone.is_empty()) {
            self.broken = self.catch_up(false).err().map(|e| e.to_string()).or(self.broken.take());
        }
        let dead = self.head.dead_sums().unwrap_or_default();
        Sizes { files: used.log + used.index, blocks, quota: self.quota.bytes, dead, dead_max: self.quota.dead_bytes() }
    }

    /// For a clean stop: the next opening has nothing to read again.
    pub fn close(mut self) -> Result<(), String> {
        self.checkpoint().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests;
