//! Gives space back: a segment of which little is needed is rewritten, message by message, into the newest; one of which
//! nothing is needed goes; the index is compacted when it is mostly air. In small steps, each a commit of its own.
//! Must never drop a message that a row still names.

use std::collections::BTreeSet;

use super::record::Effects;
use super::{Fault, Store};
use crate::logic::block::{Block, BlockWriter};
use crate::logic::hub::{BlockWrite, RowWrite};

/// Bytes of blocks that one step reads and moves: what the thread is busy with while a commit waits.
const STEP_BYTES: u64 = 512 * 1024;
/// Places that one step looks at.
const STEP_LOOKS: usize = 16 * 1024;
/// An index below this is not worth compacting, bytes.
const INDEX_BYTES_MIN: u64 = 2 * 1024 * 1024;
/// The same, as a share of the quota.
const INDEX_QUOTA_SHARE: u64 = 8;

/// What is being given back.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Something was settled since everything was looked at.
    pub wanted: bool,
    /// The segment that is being rewritten, and the block to go on with.
    at: Option<(u64, u64)>,
    /// Length of the index after it was compacted last.
    compacted: u64,
}

impl Sweep {
    /// For a store that was just opened: nobody knows what is to be found.
    pub fn new() -> Sweep {
        Sweep { wanted: true, ..Sweep::default() }
    }
}

impl Store {
    /// There may be something to give back.
    pub fn wants_sweep(&self) -> bool {
        self.sweep.wanted
    }

    /// One step. False when nothing is left to do until more is settled. After an error the store must be opened again.
    pub fn sweep(&mut self) -> Result<bool, String> {
        self.try_sweep().map_err(|e| e.to_string())
    }

    fn try_sweep(&mut self) -> Result<bool, Fault> {
        self.catch_up(false)?;
        if self.log.segments().any(|(number, _)| number < self.durable.at.segment && self.is_done(number)) {
            self.checkpoint()?;
            return Ok(true);
        }
        let at = match self.sweep.at {
            Some(at) if self.segments.get(&at.0).is_some_and(|live| live.blocks > 0) => Some(at),
            _ => self.victim().map(|segment| (segment, 0)),
        };
        if let Some((segment, from)) = at {
            self.sweep.at = self.rewrite(segment, from)?.map(|next| (segment, next));
            if self.sweep.at.is_none() {
                self.catch_up(false)?;
                if self.segments.get(&segment).is_some_and(|live| live.blocks > 0) {
                    self.stuck.insert(segment);
                }
                self.checkpoint()?;
            }
            return Ok(true);
        }
        // What is settled lies in front of the newest segment's end: the index has to know it for good first.
        let waits = |(number, _): (u64, u64)| {
            number < self.log.end().segment && self.segments.get(&number).is_none_or(|live| live.blocks == 0)
        };
        if self.log.segments().any(waits) && self.durable.number != self.log.number() {
            self.checkpoint()?;
            return Ok(true);
        }
        if self.retire_newest()? {
            return Ok(true);
        }
        self.sweep.wanted = self.compact_index()?;
        Ok(self.sweep.wanted)
    }

    /// The segment of which least is needed, if rewriting that is worth it: less than a quarter, or with no room left
    /// anything that gains an eighth.
    fn victim(&self) -> Option<u64> {
        let newest = self.log.end().segment;
        let tight = self.is_tight();
        let worth = |segment: &(u64, u64)| {
            let (number, length) = *segment;
            let live = self.segments.get(&number).copied().unwrap_or_default();
            let gains = if tight { live.bytes < length / 8 * 7 } else { live.bytes < length / 4 };
            number < newest && live.blocks > 0 && gains && !self.stuck.contains(&number)
        };
        let live_bytes = |number: &u64| self.segments.get(number).map_or(0, |live| live.bytes);
        let fits = |number: &u64| live_bytes(number) < self.quota.last_room(&self.used());
        self.log.segments().filter(worth).map(|(number, _)| number).filter(fits).min_by_key(live_bytes)
    }

    /// A drained store keeps no long segment only because it is the newest.
    fn retire_newest(&mut self) -> Result<bool, Fault> {
        let end = self.log.end();
        let live = self.segments.get(&end.segment).copied().unwrap_or_default();
        let long = end.offset > (self.quota.segment_bytes / 4).min(STEP_BYTES);
        let idle = live.bytes < end.offset / 16;
        if !long || !idle {
            return Ok(false);
        }
        // An empty record, which begins the next segment with what only lies in this one.
        let mut effects = Effects::default();
        self.begin_segment(&mut effects)?;
        self.write(effects, &[])?;
        self.checkpoint()?;
        Ok(true)
    }

    /// Moves the open messages of some blocks of a segment to the end of the log, with their rows. Returns the block to go
    /// on with, if there are more.
    fn rewrite(&mut self, segment: u64, from: u64) -> Result<Option<u64>, Fault> {
        let (found, mut next) = self.head.blocks_in(segment, from, STEP_LOOKS)?;
        let mut effects = Effects::default();
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        for (block, place) in found {
            if bytes >= STEP_BYTES {
                next = Some(block);
                break;
            }
            bytes += u64::from(place.length);
            let Ok(unpacked) = self.read_block(block, &place) else { continue };
            let Ok((kept, rows)) = self.open_part(block, &unpacked) else { continue };
            effects.rows.extend(rows);
            blocks.push(BlockWrite { block, bytes: kept });
        }
        if !blocks.is_empty() {
            self.write(effects, &blocks)?;
            self.catch_up(false)?;
        }
        Ok(next)
    }

    /// The block with only those messages that some queue still waits for, and the rows of those queues.
    fn open_part(&self, number: u64, unpacked: &[u8]) -> Result<(Vec<u8>, Vec<RowWrite>), Fault> {
        let block = Block::parse(unpacked)?;
        let mut queues = BTreeSet::new();
        block.for_each(|message| queues.extend(message.goes().map(|goes| goes.queue)))?;
        let mut rows = Vec::new();
        for queue in queues {
            rows.extend(self.head.row(queue, number)?);
        }
        let open = |queue: u32, index: u32| {
            let row = rows.iter().find(|row| row.queue == queue);
            row.is_some_and(|r| r.bits.get(index as usize / 64).is_none_or(|w| w >> (index % 64) & 1 == 0))
        };
        let mut writer = BlockWriter::sparse(block.span());
        block.for_each(|message| {
            let goes: Vec<_> = message.goes().filter(|goes| open(goes.queue, message.index)).collect();
            if !goes.is_empty() {
                writer.push_at(message.index, message.seq, message.source, message.enqueued, &goes, message.record);
            }
        })?;
        Ok((writer.finish(), rows))
    }

    fn compact_index(&mut self) -> Result<bool, Fault> {
        let bytes = self.head.file_bytes();
        let least = INDEX_BYTES_MIN.min(self.quota.bytes / INDEX_QUOTA_SHARE);
        if bytes < least || bytes <= self.sweep.compacted.saturating_mul(2) {
            return Ok(false);
        }
        let (needed, has_blocks) = self.head.needed_bytes()?;
        if has_blocks || needed > bytes / 4 {
            return Ok(false);
        }
        self.catch_up(true)?;
        self.head.compact()?;
        self.sweep.compacted = self.head.file_bytes();
        Ok(false)
    }
}
