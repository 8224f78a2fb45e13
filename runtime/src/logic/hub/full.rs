//! When the store has hardly any room: who is refused, or what is evicted to make some.
//! Must never touch what a consumer has in its hands, and never evict more than the store asks for.

use smallvec::SmallVec;

use super::commit::EvictRange;
use super::entry::{Key, TargetState};
use super::queue::GapExpiry;
use super::{Hub, QueueIx, StoreState};
use crate::model::limits::MESSAGE_BLOCK_BYTES;
use crate::model::time::Now;
use skerry_abi::wire::frame::Outcome;

impl Hub {
    /// The store's word on how much it can take.
    pub(super) fn take_room(&mut self, room: u64, full: Option<String>) {
        self.room = room;
        self.short = full.clone();
        let helps = self.config.evict && self.queues.iter().any(|q| q.ledger.stored > 0);
        self.store = full.filter(|_| !helps).map_or(StoreState::Sound, StoreState::Full);
    }

    /// Bytes that a message may need in a block and in the rows that name it, at most.
    pub(super) fn block_bytes(&self, key: Key) -> u64 {
        let entry = &self.entries[key];
        entry.record.len() as u64 + MESSAGE_BLOCK_BYTES * (1 + entry.targets.len() as u64)
    }

    /// How many of those that go to the dead letters find room there.
    pub(super) fn dying_that_fit(&self) -> usize {
        let mut bytes = 0;
        let fits = |dying: &&super::settle::Dying| {
            bytes += 2 * self.block_bytes(dying.key) + dying.reason.len() as u64;
            bytes <= self.room
        };
        self.dying.iter().take_while(fits).count()
    }

    /// Tells senders of messages that would have to wait for room, instead of letting them wait. What a consumer can take
    /// needs no room; what was sent while handling another message waits, as with a broken store.
    pub(super) fn refuse_what_waits(&mut self, now: Now) {
        let StoreState::Full(reason) = &self.store else { return };
        let reason = reason.clone();
        let mut stuck: Vec<(Key, String)> = Vec::new();
        let mut at = self.unsafes.front();
        while let Some(key) = at {
            at = self.unsafes.after(&self.entries, key);
            let entry = &self.entries[key];
            let waits = entry.targets.iter().all(|t| matches!(t.state, TargetState::Waiting | TargetState::Settled));
            if entry.place.is_some() || !entry.parents.is_empty() || !waits {
                continue;
            }
            let mut queues = entry.targets.iter().filter(|t| t.state == TargetState::Waiting);
            let away = queues.find_map(|t| {
                let queue = &self.queues[t.queue as usize];
                (queue.consumer.is_none() || queue.gap.is_some()).then(|| queue.endpoint.to_string())
            });
            stuck.extend(away.map(|endpoint| (key, endpoint)));
        }
        for (key, endpoint) in stuck {
            self.withdraw(key, &format!("{endpoint}: the store is full: {reason}"));
        }
        self.resolve_parents(now);
    }

    /// Something is to be written, there is no room for it, and room can be made.
    pub(super) fn wants_eviction(&self) -> bool {
        self.config.evict && self.short.is_some() && self.unsafes.front().is_some() && self.evictable().is_some()
    }

    /// The queue of the lowest priority that has something on disk; of several the one with the oldest.
    fn evictable(&self) -> Option<QueueIx> {
        let oldest = |ix: &QueueIx| {
            let queue = &self.queues[*ix as usize];
            let head = queue.head.iter().find_map(|key| self.entries[*key].place).map(|place| place.block);
            head.or(queue.gap.map(|gap| gap.from)).unwrap_or(u64::MAX)
        };
        let candidates = (0..self.queues.len() as QueueIx).filter(|ix| {
            let queue = &self.queues[*ix as usize];
            let on_disk = queue.gap.is_some_and(|gap| {
                !queue.loading && gap.expiry != GapExpiry::Asked && self.end_of_disk(*ix, gap) >= gap.from
            });
            on_disk || self.evictable_in_memory(*ix).next().is_some()
        });
        let lowest = candidates.clone().map(|ix| self.queues[ix as usize].priority).max()?;
        candidates.filter(|ix| self.queues[*ix as usize].priority == lowest).min_by_key(oldest)
    }

    /// Waiting messages of a queue that are committed, and so take room.
    fn evictable_in_memory(&self, ix: QueueIx) -> impl Iterator<Item = Key> {
        let queue = &self.queues[ix as usize];
        queue.head.iter().copied().filter(|key| self.entries[*key].is_committed())
    }

    /// Makes room with the commit that is being built: what of the queue is in memory is settled here, what lies on disk
    /// alone is left to the store.
    pub(super) fn evict(&mut self, now: Now) -> Vec<EvictRange> {
        if !self.wants_eviction() {
            return Vec::new();
        }
        let Some(ix) = self.evictable() else { return Vec::new() };
        let keys: SmallVec<[Key; 16]> = self.evictable_in_memory(ix).collect();
        let queue = &mut self.queues[ix as usize];
        queue.evicting = true;
        queue.extract(&mut self.entries, |_, key| keys.contains(&key));
        for key in keys {
            self.settle(now, ix, key, Outcome::Evicted);
        }
        let queue = &self.queues[ix as usize];
        let Some(gap) = queue.gap.filter(|gap| !queue.loading && gap.expiry != GapExpiry::Asked) else {
            return Vec::new();
        };
        let to = self.end_of_disk(ix, gap);
        let bytes = self.unsafes.front().map_or(0, |key| self.block_bytes(key));
        if to >= gap.from { vec![EvictRange { queue: queue.id, from: gap.from, to, bytes }] } else { Vec::new() }
    }

    /// The commit that evicted is over, one way or the other.
    pub(super) fn end_eviction(&mut self) {
        for ix in 0..self.queues.len() {
            let queue = &mut self.queues[ix];
            if std::mem::take(&mut queue.evicting)
                && let Some((consumer, _)) = queue.consumer
            {
                self.mark_dirty(consumer);
            }
        }
    }
}
