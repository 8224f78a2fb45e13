//! Queues that are longer than memory: what lies on disk anyway is dropped, and read back when its turn comes.
//! Must never leave two copies of a message in one queue, nor change their order.

use smallvec::SmallVec;

use super::commit::{ExpireRange, LoadRequest, LoadedBlock, LoadedMessage, Settled};
use super::entry::{Entry, Key, Place, Target, TargetState};
use super::queue::{Gap, GapExpiry, Queue};
use super::stored::{BlockState, is_set, set, unset};
use super::{Hub, QueueIx, StoreState};
use crate::model::limits::{HEAD_BYTES, LOAD_EIGHTHS};
use crate::model::time::Now;
use skerry_abi::wire::frame::Outcome;

impl Hub {
    /// Drops from memory what lies on disk anyway, when memory runs short.
    pub(super) fn trim(&mut self) {
        if self.entries.bytes() < self.config.memory_bytes / 2 && self.gaps == 0 {
            return;
        }
        let short = self.entries.bytes() >= self.config.memory_bytes / 2;
        let head_bytes = self.head_bytes();
        for ix in 0..self.queues.len() as QueueIx {
            let queue = &self.queues[ix as usize];
            // While a consumer gives messages back, some of a block may be with it and some here.
            if !queue.rewinding && (queue.gap.is_some() || (short && queue.bytes > head_bytes)) {
                self.trim_queue(ix, head_bytes);
            }
        }
    }

    /// What one queue may keep in memory although it lies on disk.
    fn head_bytes(&self) -> u64 {
        (self.config.memory_bytes / 2 / self.queues.len().max(1) as u64).clamp(4 * 1024, HEAD_BYTES)
    }

    fn trim_queue(&mut self, ix: QueueIx, head_bytes: u64) {
        let had_gap = self.queues[ix as usize].gap.is_some();
        let list = if had_gap { &self.queues[ix as usize].tail } else { &self.queues[ix as usize].head };
        let mut kept_bytes = 0;
        let mut last_kept_block = None;
        let mut dropped: Vec<(Key, Place)> = Vec::new();
        for key in list {
            let entry = &self.entries[*key];
            let Some(place) = entry.place.filter(|p| p.committed) else { break };
            if !had_gap && (kept_bytes < head_bytes / 2 || last_kept_block == Some(place.block)) {
                kept_bytes += entry.bytes();
                last_kept_block = Some(place.block);
            } else {
                dropped.push((*key, place));
            }
        }
        let Some((_, first)) = dropped.first() else { return };
        let (_, last) = dropped[dropped.len() - 1];
        let fresh = Gap { from: first.block, to: last.block, expiry: GapExpiry::Unknown };
        let gap = self.queues[ix as usize].gap.map_or(fresh, |gap| Gap { to: last.block, ..gap });
        let queue = &mut self.queues[ix as usize];
        if !had_gap {
            let keep = queue.head.iter().position(|k| *k == dropped[0].0).expect("it was found there");
            queue.tail = queue.head.split_off(keep);
            self.gaps += 1;
        }
        queue.gap = Some(gap);
        queue.tail.drain(..dropped.len());
        queue.bytes -= dropped.iter().map(|(k, _)| self.entries[*k].bytes()).sum::<u64>();
        for (key, place) in dropped {
            if let Some(state) = self.blocks.get_mut(&(ix, place.block)) {
                unset(&mut state.resident, place.index);
            }
            let entry = &mut self.entries[key];
            entry.target(ix).state = TargetState::OnDisk;
            entry.resident -= 1;
            if entry.resident == 0 {
                self.free(key);
            }
        }
    }

    /// What to read next: for a queue whose memory runs low while its consumer is there, and how old the first block is
    /// of one that has none.
    pub fn poll_load(&mut self) -> Option<LoadRequest> {
        if self.gaps == 0 || matches!(self.store, StoreState::Broken(_)) {
            return None;
        }
        let (head_bytes, roomy) = (self.head_bytes(), self.is_roomy());
        let due = |q: &Queue| match q.gap {
            Some(gap) if q.loading || gap.expiry == GapExpiry::Asked => false,
            Some(gap) if q.consumer.is_none() => gap.expiry == GapExpiry::Unknown,
            // What waits behind the gap for room on disk must not keep the gap from being read.
            Some(_) if roomy => q.head.is_empty() || q.bytes < head_bytes / 2,
            Some(_) => q.head.is_empty() && q.flying == 0,
            None => false,
        };
        let ix = self.queues.iter().position(due)?;
        let queue = &mut self.queues[ix];
        queue.loading = true;
        let gap = queue.gap?;
        let peek = queue.consumer.is_none();
        Some(LoadRequest { peek, queue: queue.id, ix: ix as QueueIx, from: gap.from, to: gap.to })
    }

    /// There is memory for more of a backlog than the next few messages.
    fn is_roomy(&self) -> bool {
        self.entries.bytes() < self.config.memory_bytes / 8 * LOAD_EIGHTHS
    }

    /// The next commit removes what is too old at the front of the queue's gap.
    pub(super) fn ask_to_expire(&mut self, now: Now, ix: QueueIx) {
        if let Some(gap) = &mut self.queues[ix as usize].gap {
            gap.expiry = GapExpiry::Asked;
            self.dirty_since.get_or_insert(now.mono);
        }
    }

    pub(super) fn expire_ranges(&self) -> Vec<ExpireRange> {
        let mut ranges = Vec::new();
        for (ix, queue) in self.queues.iter().enumerate() {
            let Some(gap) = queue.gap.filter(|g| g.expiry == GapExpiry::Asked && queue.removing.is_none()) else {
                continue;
            };
            let to = self.end_of_disk(ix as QueueIx, gap);
            if to >= gap.from {
                ranges.push(ExpireRange { queue: queue.id, from: gap.from, to });
            }
        }
        ranges
    }

    /// Up to where a gap's blocks lie on disk alone. What is in memory of those behind (finished, but waiting for its
    /// outputs) is settled there; what was settled there is in no one's way, and this commit's rows say so.
    pub(super) fn end_of_disk(&self, ix: QueueIx, gap: Gap) -> u64 {
        let range = (ix, gap.from)..=(ix, gap.to);
        let in_memory = self.blocks.range(range).find(|(_, state)| state.has_open_in_memory());
        in_memory.map_or(gap.to, |((_, block), _)| block.saturating_sub(1))
    }

    /// Whoever was asked for is looked at again; what expired is known by now.
    pub(super) fn looked_at_expiry(&mut self) {
        let gaps = self.queues.iter_mut().filter_map(|queue| queue.gap.as_mut());
        gaps.filter(|gap| gap.expiry == GapExpiry::Asked).for_each(|gap| gap.expiry = GapExpiry::Unknown);
    }

    /// The store has removed these from disk and counted them.
    pub(super) fn settled_on_disk(&mut self, now: Now, settled: &[Settled], outcome: Outcome) {
        for Settled { queue: id, messages, through } in settled {
            let Some(ix) = self.queues.iter().position(|q| q.id == *id) else { continue };
            let queue = &mut self.queues[ix];
            let Some(gap) = &mut queue.gap else { continue };
            let ix = ix as QueueIx;
            self.blocks.retain(|(q, block), _| *q != ix || *block < gap.from || *block > *through);
            queue.ledger.settle_stored(outcome, *messages);
            self.trace.settled_on_disk(now.mono, ix, gap.from..=*through, outcome);
            gap.from = through + 1;
            gap.expiry = GapExpiry::Unknown;
            if gap.from > gap.to {
                queue.gap = None;
                queue.join_tail();
                self.gaps -= 1;
            }
            // What was behind it may be next now.
            if let Some((link, _)) = queue.consumer {
                self.mark_dirty(link);
            }
        }
    }

    /// The block could not be read: the queue waits until the store was opened again.
    pub fn handle_load_failed(&mut self, request: LoadRequest, reason: &str) {
        self.queues[request.ix as usize].loading = false;
        self.store = StoreState::Broken(reason.to_owned());
    }

    /// `None`: nothing (more) lies in the gap that was asked for.
    pub fn handle_loaded(&mut self, now: Now, request: LoadRequest, loaded: Option<LoadedBlock>) {
        let queue = &mut self.queues[request.ix as usize];
        queue.loading = false;
        if let Some((link, _)) = queue.consumer {
            self.mark_dirty(link);
        }
        let queue = &mut self.queues[request.ix as usize];
        let Some(gap) = &mut queue.gap else { return };
        if request.peek
            && let Some(first) = loaded.as_ref().filter(|first| first.unreadable.is_none())
        {
            gap.expiry = GapExpiry::At(first.last_expiry);
            return;
        }
        gap.expiry = GapExpiry::Unknown;
        let before = *gap;
        let through = loaded.as_ref().map_or(request.to, |b| b.block);
        gap.from = through + 1;
        if gap.from > gap.to {
            queue.gap = None;
            self.gaps -= 1;
        }
        if let Some(loaded) = loaded
            && !self.take_in_block(now, request.ix, loaded)
        {
            // What is left of it is asked for again.
            let queue = &mut self.queues[request.ix as usize];
            self.gaps += usize::from(queue.gap.is_none());
            queue.gap = Some(Gap { from: through, ..queue.gap.unwrap_or(before) });
        }
        self.queues[request.ix as usize].join_tail();
    }

    /// False when memory was too short for all of it.
    fn take_in_block(&mut self, now: Now, ix: QueueIx, loaded: LoadedBlock) -> bool {
        let at = (ix, loaded.block);
        let (is_broken, readable) = (loaded.unreadable.is_some(), loaded.messages.len() as u32);
        if is_broken && readable > 0 && !self.blocks.contains_key(&at) {
            self.take_in_again(now, ix, loaded);
            return true;
        }
        self.blocks.entry(at).or_insert(BlockState {
            total: loaded.total,
            settled: loaded.settled,
            bits: loaded.bits,
            resident: Vec::new(),
            last_expiry: loaded.last_expiry,
            written: Some(loaded.settled),
            dirty: false,
        });
        if is_broken && readable == 0 {
            self.give_up_block(now, ix, loaded.block);
        }
        let least = self.entries.bytes() + self.head_bytes() / 2;
        for message in loaded.messages {
            if !self.is_roomy() && self.entries.bytes() >= least {
                return false;
            }
            self.take_in(now, ix, loaded.block, message);
        }
        true
    }

    /// What the row knew is lost, so each message of the block comes once more. Those that were done with are accepted
    /// a second time; what the ledger counts and the block has not is given up.
    fn take_in_again(&mut self, now: Now, ix: QueueIx, loaded: LoadedBlock) {
        let (open, found) = (u64::from(loaded.total - loaded.settled), loaded.messages.len() as u64);
        let queue = &mut self.queues[ix as usize];
        queue.changed = true;
        let ledger = &mut queue.ledger;
        ledger.dead_lettered += open.saturating_sub(found);
        ledger.pending = ledger.pending + found - open;
        ledger.stored = ledger.stored + found - open;
        let state = BlockState {
            total: found as u32,
            last_expiry: loaded.last_expiry,
            written: Some(0),
            dirty: true,
            ..BlockState::new()
        };
        self.blocks.insert((ix, loaded.block), state);
        // The next commit writes the row anew.
        self.dirty_blocks.push((ix, loaded.block));
        self.dirty_since.get_or_insert(now.mono);
        for message in loaded.messages {
            self.take_in(now, ix, loaded.block, message);
        }
    }

    /// A block that can't be read is not asked for again: what of it is not in memory counts among the dead letters, and
    /// the next commit says so on disk.
    fn give_up_block(&mut self, now: Now, ix: QueueIx, block: u64) {
        let Some(state) = self.blocks.get_mut(&(ix, block)) else { return };
        let lost = state.total - state.settled - state.open_in_memory();
        state.settled += lost;
        state.dirty = true;
        self.dirty_blocks.push((ix, block));
        self.dirty_since.get_or_insert(now.mono);
        let ledger = &mut self.queues[ix as usize].ledger;
        ledger.dead_lettered += u64::from(lost);
        ledger.pending -= u64::from(lost);
        ledger.stored -= u64::from(lost);
        self.queues[ix as usize].changed = true;
    }

    fn take_in(&mut self, now: Now, ix: QueueIx, block: u64, message: LoadedMessage) {
        let Some(state) = self.blocks.get_mut(&(ix, block)) else { return };
        if is_set(&state.bits, message.index) || !set(&mut state.resident, message.index) {
            return;
        }
        let source = self.add_source(message.source);
        let (expiry, attempts) = (message.expiry, message.attempts);
        let target = Target { stored: true, ..Target::waiting(ix, expiry, attempts) };
        let targets = SmallVec::from_iter([target]);
        let mut entry =
            Entry::new(message.seq, message.record, source, message.enqueued, now.mono, targets, None, false);
        entry.place = Some(Place { block, index: message.index, committed: true });
        entry.trace = self.trace.find(message.seq);
        let key = self.entries.insert(entry);
        let queue = &mut self.queues[ix as usize];
        queue.put_back(&self.entries, key);
        queue.next_expiry = queue.next_expiry.min(message.expiry);
    }
}
