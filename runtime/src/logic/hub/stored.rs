//! What a commit changes once it succeeded or failed, and how much of each block is settled.
//! Must never call a message stored before the commit that holds it succeeded.

use smallvec::SmallVec;

use super::commit::Wrote;
use super::entry::{Key, Place, TargetState};
use super::persist::InFlight;
use super::{Hub, QueueIx, StoreState};
use crate::model::time::{Age, Now};
use skerry_abi::wire::frame::Outcome;

/// See `Hub::blocks`.
pub(super) struct BlockState {
    pub total: u32,
    pub settled: u32,
    pub bits: Vec<u64>,
    /// Messages that are in memory, so that reading the block back makes no second copy.
    pub resident: Vec<u64>,
    pub last_expiry: Age,
    /// `settled` as the row on disk has it; `None` until its first commit succeeded.
    pub written: Option<u32>,
    pub dirty: bool,
}

impl Hub {
    /// The shell's word on a commit.
    pub fn handle_committed(&mut self, now: Now, id: u64, result: Result<Wrote, String>) {
        let Some(flight) = self.commit.take() else { return };
        assert_eq!(flight.id, id, "commits are answered in order");
        self.end_eviction();
        match result {
            Ok(wrote) => {
                self.committed(now, flight);
                self.settled_by_range(now, &wrote.expired);
                self.settled_on_disk(now, &wrote.evicted, Outcome::Evicted);
                self.looked_at_expiry();
                self.take_room(wrote.room, wrote.full);
                self.refuse_what_waits(now);
            }
            Err(reason) => {
                self.store = StoreState::Broken(reason.clone());
                self.failed(now, flight, &reason);
            }
        }
    }

    /// The store was opened again after a failure.
    pub fn handle_reopened(&mut self) {
        self.store = StoreState::Sound;
    }

    /// Room came or went without a commit.
    pub fn handle_room(&mut self, now: Now, room: u64, full: Option<String>) {
        if !matches!(self.store, StoreState::Broken(_)) {
            self.take_room(room, full);
            self.refuse_what_waits(now);
        }
    }

    fn committed(&mut self, now: Now, flight: InFlight) {
        for (queue, block, settled) in flight.rows {
            if let Some(state) = self.blocks.get_mut(&(queue, block)) {
                state.written = Some(settled);
            }
        }
        for (key, seq) in flight.messages {
            let Some(entry) = self.entries.get(key, seq) else { continue };
            // Without a place it is settled by its children, which were written in this commit.
            let Some(place) = &mut entry.place else { continue };
            place.committed = true;
            for target in entry.targets.iter().filter(|t| t.stored && t.state != TargetState::Settled) {
                self.queues[target.queue as usize].ledger.stored += 1;
            }
            self.safe(now, key, Outcome::Durable);
        }
        let dying: Vec<_> = self.dying.drain(..flight.dying).collect();
        for dying in dying {
            self.settle(now, dying.queue, dying.key, Outcome::DeadLettered);
        }
        self.letters_gone(flight.gone);
        self.resolve_parents(now);
        self.trim();
        self.tidy_blocks(now);
    }

    /// Forgets blocks whose rows are gone, and those that lie on disk alone and whose rows say it all; what a row still
    /// lacks makes it dirty again.
    fn tidy_blocks(&mut self, now: Now) {
        self.blocks.retain(|_, state| {
            let is_gone = state.settled == state.total && state.written.is_none_or(|w| w == state.total);
            let is_on_disk = state.written == Some(state.settled) && !state.dirty && !state.has_open_in_memory();
            !is_gone && !is_on_disk
        });
        self.dirty_blocks.retain(|at| self.blocks.contains_key(at));
        for (at, state) in &mut self.blocks {
            if state.written.is_some_and(|w| w != state.settled) && !state.dirty {
                state.dirty = true;
                self.dirty_blocks.push(*at);
            }
        }
        if !self.dirty_blocks.is_empty() {
            self.dirty_since.get_or_insert(now.mono);
        }
    }

    fn failed(&mut self, now: Now, flight: InFlight, reason: &str) {
        for (name, bytes) in flight.documents {
            self.documents.entry(name).or_insert(bytes);
        }
        self.letters_stay(flight.gone, reason);
        self.removed_nothing();
        self.looked_at_expiry();
        for (at, count) in flight.attempts {
            self.attempts.entry(at).or_insert(count);
        }
        self.queues.iter_mut().for_each(|q| q.changed = true);
        self.documents_since.get_or_insert(now.mono);
        for (at, state) in &mut self.blocks {
            if state.written.is_some_and(|w| w != state.settled) && !state.dirty {
                state.dirty = true;
                self.dirty_blocks.push(*at);
            }
        }
        self.blocks.retain(|_, state| state.written.is_some());
        self.dirty_since.get_or_insert(now.mono);
        for (key, seq) in flight.messages {
            let Some(entry) = self.entries.get(key, seq) else { continue };
            entry.place = None;
            entry.targets.iter_mut().for_each(|t| t.stored = false);
            // What a module has in its hands may still settle, and what it sent while handling another message keeps
            // that one waiting; the rest is given back to its sender.
            if entry.parents.is_empty()
                && entry.targets.iter().all(|t| matches!(t.state, TargetState::Waiting | TargetState::Settled))
            {
                self.withdraw(key, &format!("the store is broken: {reason}"));
            }
        }
        self.resolve_parents(now);
    }

    /// Takes a message back out of its queues and tells its sender.
    pub(super) fn withdraw(&mut self, key: Key, reason: &str) {
        let queues: SmallVec<[QueueIx; 4]> =
            self.entries[key].targets.iter().filter(|t| t.state == TargetState::Waiting).map(|t| t.queue).collect();
        for queue in queues {
            let queue = &mut self.queues[queue as usize];
            queue.extract(&mut self.entries, |_, k| k == key);
            queue.ledger.pending -= 1;
        }
        self.lose(key, reason);
    }

    /// One more message of a stored block is settled.
    pub(super) fn settle_block(&mut self, now: Now, queue: QueueIx, place: Place) {
        let Some(state) = self.blocks.get_mut(&(queue, place.block)) else { return };
        if !set(&mut state.bits, place.index) {
            return;
        }
        state.settled += 1;
        if !state.dirty && state.written != Some(state.settled) {
            state.dirty = true;
            self.dirty_blocks.push((queue, place.block));
            self.dirty_since.get_or_insert(now.mono);
        }
    }
}

impl BlockState {
    pub fn new() -> BlockState {
        BlockState {
            total: 0,
            settled: 0,
            bits: Vec::new(),
            resident: Vec::new(),
            last_expiry: Age(0),
            written: None,
            dirty: false,
        }
    }

    /// A message of it is in memory and not settled.
    pub fn has_open_in_memory(&self) -> bool {
        self.open_words().any(|open| open != 0)
    }

    /// How many are.
    pub fn open_in_memory(&self) -> u32 {
        self.open_words().map(u64::count_ones).sum()
    }

    fn open_words(&self) -> impl Iterator<Item = u64> {
        let settled = self.bits.iter().copied().chain(std::iter::repeat(0));
        self.resident.iter().zip(settled).map(|(resident, settled)| resident & !settled)
    }

    pub fn add(&mut self, index: u32, expiry: Age) {
        self.total += 1;
        set(&mut self.resident, index);
        self.last_expiry = self.last_expiry.max(expiry);
    }
}

/// Sets a bit; false if it was set.
pub(super) fn set(bits: &mut Vec<u64>, index: u32) -> bool {
    let (word, bit) = (index as usize / 64, 1u64 << (index % 64));
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    let fresh = bits[word] & bit == 0;
    bits[word] |= bit;
    fresh
}

pub(super) fn unset(bits: &mut [u64], index: u32) {
    if let Some(word) = bits.get_mut(index as usize / 64) {
        *word &= !(1 << (index % 64));
    }
}

pub(super) fn is_set(bits: &[u64], index: u32) -> bool {
    bits.get(index as usize / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
}
