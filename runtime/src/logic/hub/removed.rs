//! Modules that were removed: what waits for them is kept until it expires, a day at most, in case they come back. A namesake
//! of another generation id is somebody else, and gets none of it. Must never touch what waits for a module that is there.

use std::collections::BTreeSet;

use super::commit::{ExpireRange, Settled};
use super::{Hub, QueueIx};
use crate::model::endpoint::Endpoint;
use crate::model::limits::{BLOCK_BYTES, REMOVED_KEPT};
use crate::model::time::{Age, Now};
use skerry_abi::wire::frame::Outcome;

/// When a module was found to be gone, and what there was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    at: Age,
    /// The first message, and the first block, after it.
    seq: u64,
    block: u64,
    /// Of its identity, if it had one.
    generation: String,
}

impl Removed {
    fn to_text(&self) -> String {
        format!("{} {} {} {}", self.at.0, self.seq, self.block, self.generation)
    }

    fn parse(text: &str) -> Option<Removed> {
        let mut words = text.splitn(4, ' ');
        let mut number = || words.next()?.parse().ok();
        let (at, seq, block) = (Age(number()?), number()?, number()?);
        Some(Removed { at, seq, block, generation: words.next()?.to_owned() })
    }
}

/// Under which the store keeps what [`Hub::restore_removed`] takes.
pub const REMOVED_DOCUMENTS: &str = "removed/";

impl Hub {
    /// A document of the store, as it was when the runtime ended.
    pub fn restore_removed(&mut self, module: &str, text: &[u8]) {
        if let Some(removed) = std::str::from_utf8(text).ok().and_then(Removed::parse) {
            self.removed.insert(module.to_owned(), removed);
            self.cap(module, true);
        }
    }

    /// Which modules there should be. `was_here`: it ran once, so that it can be gone. `generation` is that of its identity.
    pub fn set_modules(
        &mut self,
        now: Now,
        there: &BTreeSet<String>,
        was_here: impl Fn(&str) -> bool,
        generation: impl Fn(&str) -> Option<String>,
    ) {
        let waiting = self.queues.iter().filter(|queue| queue.ledger.pending > 0);
        let waiting = waiting.filter_map(|queue| Some(module_of(&queue.endpoint)?.to_owned()));
        let gone: BTreeSet<String> = waiting.filter(|module| !there.contains(module) && was_here(module)).collect();
        for module in gone.into_iter().filter(|module| !self.removed.contains_key(module)).collect::<Vec<_>>() {
            let generation = generation(&module).unwrap_or_default();
            let removed = Removed { at: now.age, seq: self.next_seq, block: self.block_after_all(), generation };
            self.put_document(now, &document(&module), Some(removed.to_text().into_bytes()), false);
            self.cap(&module, true);
            self.removed.insert(module, removed);
        }
        let back: Vec<String> = self.removed.keys().filter(|module| there.contains(*module)).cloned().collect();
        for module in back {
            let Some(removed) = self.removed.remove(&module) else { continue };
            self.cap(&module, false);
            self.put_document(now, &document(&module), None, false);
            let is = generation(&module).unwrap_or_default();
            if !removed.generation.is_empty() && !is.is_empty() && is != removed.generation {
                self.remove(now, &module, &removed);
            }
        }
    }

    /// The first block that holds nothing of what is there now. What is not written yet comes into the next ones; a few
    /// messages that share them with it go with it.
    fn block_after_all(&self) -> u64 {
        let coming = self.unsafes.front().map_or(0, |_| 1 + self.entries.bytes() / BLOCK_BYTES as u64);
        self.next_block + coming
    }

    /// When the first of those that are gone was so for long enough.
    pub(super) fn removed_until(&self) -> Age {
        self.removed.values().map(|removed| removed.at.after(REMOVED_KEPT)).min().unwrap_or(Age::NEVER)
    }

    pub(super) fn remove_what_is_due(&mut self, now: Now) {
        let due = |removed: &Removed| removed.at.after(REMOVED_KEPT) <= now.age;
        let due: Vec<String> = self.removed.iter().filter(|(_, r)| due(r)).map(|(module, _)| module.clone()).collect();
        for module in due {
            let Some(removed) = self.removed.remove(&module) else { continue };
            self.remove(now, &module, &removed);
            self.put_document(now, &document(&module), None, false);
            // What came since waits for it, too, and no longer than that.
        }
    }

    /// What came after it was removed may wait as long as what was there.
    fn cap(&mut self, module: &str, capped: bool) {
        let queues = self.queues.iter_mut().filter(|queue| module_of(&queue.endpoint) == Some(module));
        queues.for_each(|queue| queue.capped = capped);
    }

    /// Everything that was there when it was removed. What lies on disk alone goes with the next commits.
    fn remove(&mut self, now: Now, module: &str, removed: &Removed) {
        for ix in 0..self.queues.len() {
            if module_of(&self.queues[ix].endpoint) != Some(module) {
                continue;
            }
            let queue = &mut self.queues[ix];
            let old = queue.extract(&mut self.entries, |entries, key| entries[key].seq < removed.seq);
            if queue.gap.is_some() {
                queue.removing = Some(Removing { last: removed.block.saturating_sub(1), asked: false });
                self.dirty_since.get_or_insert(now.mono);
            }
            for key in old {
                self.settle(now, ix as QueueIx, key, Outcome::Removed);
            }
        }
        self.resolve_parents(now);
    }

    /// What the commit that is being built removes by range.
    pub(super) fn remove_ranges(&mut self) -> Vec<ExpireRange> {
        let mut ranges = Vec::new();
        for ix in 0..self.queues.len() {
            let (Some(gap), Some(removing)) = (self.queues[ix].gap, self.queues[ix].removing) else { continue };
            let to = self.end_of_disk(ix as QueueIx, gap).min(removing.last);
            // Of a block that is partly in memory the rest is found again when the module is still not there.
            self.queues[ix].removing = (to >= gap.from).then_some(Removing { asked: true, ..removing });
            if to >= gap.from {
                ranges.push(ExpireRange { queue: self.queues[ix].id, from: gap.from, to });
            }
        }
        ranges
    }

    /// What the store settled by range, as what it was asked for. Where there is more the next commit goes on.
    pub(super) fn settled_by_range(&mut self, now: Now, settled: &[Settled]) {
        let asked = |hub: &Hub, id: u32| {
            hub.queues.iter().any(|queue| queue.id == id && queue.removing.is_some_and(|removing| removing.asked))
        };
        let (removed, expired): (Vec<Settled>, Vec<Settled>) = settled.iter().partition(|s| asked(self, s.queue));
        self.settled_on_disk(now, &expired, Outcome::Expired);
        self.settled_on_disk(now, &removed, Outcome::Removed);
        for queue in self.queues.iter_mut().filter(|queue| queue.removing.is_some_and(|removing| removing.asked)) {
            let more = removed.iter().any(|s| s.queue == queue.id) && queue.gap.is_some();
            queue.removing = queue.removing.filter(|_| more).map(|removing| Removing { asked: false, ..removing });
            if more {
                self.dirty_since.get_or_insert(now.mono);
            }
        }
    }

    /// The commit failed, and nothing of it happened.
    pub(super) fn removed_nothing(&mut self) {
        let removing = self.queues.iter_mut().filter_map(|queue| queue.removing.as_mut());
        removing.for_each(|removing| removing.asked = false);
    }
}

/// Blocks of a queue up to `last` are to be removed from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removing {
    last: u64,
    /// The commit that is under way does it, as far as it can.
    asked: bool,
}

fn module_of(endpoint: &Endpoint) -> Option<&str> {
    match endpoint {
        Endpoint::Input { module, .. } => Some(module),
        Endpoint::Upstream { .. } => None,
    }
}

fn document(module: &str) -> String {
    format!("{REMOVED_DOCUMENTS}{module}")
}
