//! What goes to disk, when, and what comes back. A [`Commit`] is a value: the shell carries it out and says so,
//! and only then is anybody told. Must never call a message stored before the commit that holds it succeeded.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use super::entry::{Entry, Key, Place, Target, TargetState};
use super::link::FlightState;
use super::queue::{Gap, Queue};
use super::{Hub, Ledger, LinkIx, QueueIx, StoreState};
use crate::logic::block::{BlockWriter, Goes};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::limits::{BLOCK_BYTES, COMMIT_BYTES, HEAD_BYTES, IDLE_COMMIT_INTERVAL, STALLED_AFTER};
use crate::model::time::{Age, Mono, Now, Wall};
use skerry_abi::wire::frame::Outcome;

/// One transaction, synced once.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub id: u64,
    pub blocks: Vec<BlockWrite>,
    pub rows: Vec<RowWrite>,
    pub queues: Vec<QueueRow>,
    /// (queue, message, refusals); 0 removes the row.
    pub attempts: Vec<(u32, u64, u16)>,
    pub dead: Vec<DeadLetter>,
    /// Small named documents (twins, clocks); `None` removes one.
    pub documents: Vec<(String, Option<Vec<u8>>)>,
    pub next_seq: u64,
    pub next_block: u64,
    pub now: Now,
}

/// A new block row, uncompressed.
#[derive(Clone, Debug)]
pub struct BlockWrite {
    pub block: u64,
    pub bytes: Vec<u8>,
}

/// How much of a block one queue is done with. `settled == total` removes the row; the last row removes the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowWrite {
    pub queue: u32,
    pub block: u64,
    pub total: u32,
    pub settled: u32,
    /// One bit a message of the block, 64 to a word.
    pub bits: Vec<u64>,
    pub last_expiry: Age,
}

/// A queue's name and ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    pub id: u32,
    pub endpoint: Endpoint,
    pub priority: Priority,
    pub ledger: Ledger,
}

/// A message that its endpoint refused too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub seq: u64,
    pub queue: u32,
    pub endpoint: String,
    pub source: Source,
    pub enqueued: Wall,
    pub refusals: u16,
    pub reason: String,
    pub record: Vec<u8>,
}

/// "The next block of this queue, `from ..= to`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    pub queue: u32,
    pub ix: QueueIx,
    pub from: u64,
    pub to: u64,
}

/// The answer: the unsettled messages of one queue in one block, in order.
#[derive(Clone, Debug, Default)]
pub struct LoadedBlock {
    pub block: u64,
    pub total: u32,
    pub settled: u32,
    pub bits: Vec<u64>,
    pub last_expiry: Age,
    pub messages: Vec<LoadedMessage>,
}

#[derive(Clone, Debug)]
pub struct LoadedMessage {
    pub index: u32,
    pub seq: u64,
    pub source: Source,
    pub enqueued: Wall,
    pub expiry: Age,
    pub attempts: u16,
    pub record: Box<[u8]>,
}

/// What the store knows when it is opened.
#[derive(Clone, Debug)]
pub struct Restored {
    pub next_seq: u64,
    pub next_block: u64,
    pub queues: Vec<QueueRow>,
}

impl Default for Restored {
    fn default() -> Restored {
        Restored { next_seq: 1, next_block: 1, queues: Vec::new() }
    }
}

/// See `Hub::blocks`.
pub(super) struct BlockState {
    total: u32,
    settled: u32,
    bits: Vec<u64>,
    /// Messages that are in memory, so that reading the block back makes no second copy.
    resident: Vec<u64>,
    last_expiry: Age,
    /// `settled` as the row on disk has it; `None` until its first commit succeeded.
    written: Option<u32>,
    dirty: bool,
}

/// The commit that the shell is carrying out.
pub(super) struct InFlight {
    id: u64,
    messages: Vec<(Key, u64)>,
    rows: Vec<(QueueIx, u64, u32)>,
    dying: usize,
    documents: Vec<(String, Option<Vec<u8>>)>,
    attempts: HashMap<(u32, u64), u16>,
}

/// What will be settled when the commit succeeds, and so is written as settled in it.
#[derive(Default)]
struct Virtual {
    closed: HashMap<Key, SmallVec<[QueueIx; 2]>>,
    children: HashMap<(LinkIx, u64), u32>,
}

impl Virtual {
    fn settles(&self, key: Key, queue: QueueIx) -> bool {
        self.closed.get(&key).is_some_and(|queues| queues.contains(&queue))
    }
}

impl Hub {
    pub(super) fn restore_queue(&mut self, row: QueueRow) {
        let mut queue = Queue::new(row.id, row.endpoint, row.priority);
        queue.ledger = Ledger { pending: row.ledger.stored, ..row.ledger };
        if row.ledger.stored > 0 {
            queue.gap = Some(Gap { from: 0, to: self.next_block.saturating_sub(1) });
            self.gaps += 1;
        }
        self.add_queue(queue);
    }

    /// Writes a small document with the next commit; `urgent` asks for that commit at once.
    pub fn put_document(&mut self, now: Now, name: &str, bytes: Option<Vec<u8>>, urgent: bool) {
        self.documents.insert(name.to_owned(), bytes);
        self.documents_since.get_or_insert(now.mono);
        self.urgent |= urgent;
    }

    /// Nothing waits to be written, and nothing is being written.
    pub fn is_clean(&self) -> bool {
        let idle = self.commit.is_none() && self.unsafes.front().is_none();
        idle && self.dirty_since.is_none() && self.ledger_since.is_none() && self.documents.is_empty()
    }

    /// When a commit is due if nothing else happens; `Mono(0)` for at once.
    pub(super) fn next_commit_at(&self, now: Now) -> Mono {
        if self.commit.is_some() || matches!(self.store, StoreState::Broken(_)) {
            return Mono::NEVER;
        }
        let oldest = self.unsafes.front().map(|key| self.entries[key].since);
        if self.urgent
            || self.urgent_messages > 0
            || (oldest.is_some() && self.entries.bytes() > self.config.memory_bytes / 4 * 3)
        {
            return Mono(0);
        }
        let flush = [oldest, self.dirty_since].into_iter().flatten().min();
        let mut due = flush.map_or(Mono::NEVER, |since| since.after(self.config.flush_interval));
        if let Some(since) = [self.documents_since, self.ledger_since].into_iter().flatten().min() {
            due = due.min(since.after(IDLE_COMMIT_INTERVAL));
        }
        if oldest.is_some() {
            due = due.min(self.blocked_sender_at(now));
        }
        due
    }

    /// When a sender that has used up its window is to be helped by the disk: at once if its oldest message waits for
    /// an endpoint that is away, otherwise when that endpoint has been silent for [`STALLED_AFTER`].
    fn blocked_sender_at(&self, now: Now) -> Mono {
        let mut due = Mono::NEVER;
        for identity in &self.identities {
            let out = identity.unacked_messages >= self.config.credit_messages
                || identity.unacked_bytes >= self.config.credit_bytes / 2;
            let Some(key) = identity.sending.front().filter(|_| out) else { continue };
            for target in self.entries[key].targets.iter().filter(|t| t.state != TargetState::Settled) {
                let queue = &self.queues[target.queue as usize];
                let away = queue.consumer.is_none() || queue.gap.is_some() || queue.held_until.is_some();
                due = due.min(if away { Mono(0) } else { queue.last_ack.after(STALLED_AFTER) });
            }
        }
        due
    }

    /// The next transaction, if one is due and none is being carried out.
    pub fn poll_commit(&mut self, now: Now) -> Option<Commit> {
        (self.next_commit_at(now) <= now.mono).then(|| self.build(now))
    }

    /// Everything, due or not: for a clean stop.
    pub fn final_commit(&mut self, now: Now) -> Option<Commit> {
        (self.commit.is_none() && !self.is_clean() && !matches!(self.store, StoreState::Broken(_)))
            .then(|| self.build(now))
    }

    fn build(&mut self, now: Now) -> Commit {
        let mut commit = Commit { id: self.next_commit, next_seq: self.next_seq, now, ..Commit::default() };
        self.next_commit += 1;
        let batch = self.choose_batch();
        let settling = self.foresee(&batch);
        for dying in &self.dying {
            commit.dead.push(self.dead_letter(dying));
        }
        let mut stored_by_queue: HashMap<QueueIx, u32> = HashMap::new();
        let messages = self.write_blocks(&batch, &settling, &mut commit, &mut stored_by_queue);
        let rows = self.write_rows(&settling, &mut commit);
        self.write_queues(&settling, &stored_by_queue, &mut commit);
        let attempts = std::mem::take(&mut self.attempts);
        commit.attempts = attempts.iter().map(|((queue, seq), count)| (*queue, *seq, *count)).collect();
        let documents: Vec<_> = std::mem::take(&mut self.documents).into_iter().collect();
        commit.documents = documents.clone();
        commit.next_block = self.next_block;
        self.documents_since = None;
        self.ledger_since = None;
        self.dirty_since = None;
        self.urgent = false;
        self.commit = Some(InFlight { id: commit.id, messages, rows, dying: self.dying.len(), documents, attempts });
        commit
    }

    fn choose_batch(&self) -> Vec<Key> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut at = self.unsafes.front();
        while let Some(key) = at {
            bytes += self.entries[key].record.len();
            if bytes > COMMIT_BYTES && !batch.is_empty() {
                break;
            }
            batch.push(key);
            at = self.unsafes.after(&self.entries, key);
        }
        batch
    }

    /// Which inputs will be settled because this commit makes their last outputs safe. Newest first: a message is
    /// always newer than the one it was made from.
    fn foresee(&self, batch: &[Key]) -> Virtual {
        let mut settling = Virtual::default();
        for dying in &self.dying {
            settling.closed.entry(dying.key).or_default().push(dying.queue);
        }
        for key in batch.iter().rev() {
            for parent in &self.entries[*key].parents {
                let Some(flight) = self.flight(parent.link, parent.delivery) else { continue };
                let children = settling.children.entry((parent.link, parent.delivery)).or_default();
                *children += 1;
                if flight.state == FlightState::Done && !flight.child_failed && flight.children == *children {
                    settling.closed.entry(flight.key).or_default().push(flight.queue);
                }
            }
        }
        settling
    }

    fn flight(&self, link: LinkIx, delivery: u64) -> Option<&super::link::Flight> {
        let link = self.link(link)?;
        link.flights.get(usize::try_from(delivery.checked_sub(link.first_flight)?).ok()?)
    }

    fn write_blocks(
        &mut self,
        batch: &[Key],
        settling: &Virtual,
        commit: &mut Commit,
        stored: &mut HashMap<QueueIx, u32>,
    ) -> Vec<(Key, u64)> {
        let mut messages = Vec::with_capacity(batch.len());
        let mut writer: Option<BlockWriter> = None;
        for key in batch {
            messages.push((*key, self.entries[*key].seq));
            let goes: SmallVec<[Goes; 2]> = self.entries[*key]
                .targets
                .iter()
                .filter(|t| t.state != TargetState::Settled && !settling.settles(*key, t.queue))
                .map(|t| Goes { queue: self.queues[t.queue as usize].id, expiry: t.expiry })
                .collect();
            if goes.is_empty() {
                continue;
            }
            let block = self.next_block;
            let entry = &self.entries[*key];
            let source = &self.sources[entry.source as usize].source;
            let writer_now = writer.get_or_insert_with(BlockWriter::default);
            let index = writer_now.push(entry.seq, source, entry.enqueued, &goes, &entry.record);
            for at in 0..self.entries[*key].targets.len() {
                let Target { queue, expiry, state, .. } = self.entries[*key].targets[at];
                // A target that settles with this very commit is not in the row.
                if state != TargetState::Settled && !settling.settles(*key, queue) {
                    self.entries[*key].targets[at].stored = true;
                    *stored.entry(queue).or_default() += 1;
                    self.blocks.entry((queue, block)).or_insert_with(BlockState::new).add(index, expiry);
                }
            }
            self.entries[*key].place = Some(Place { block, index, committed: false });
            if writer_now.is_full(BLOCK_BYTES) {
                commit.blocks.push(BlockWrite { block, bytes: writer.take().expect("just used").finish() });
                self.next_block += 1;
            }
        }
        if let Some(writer) = writer {
            commit.blocks.push(BlockWrite { block: self.next_block, bytes: writer.finish() });
            self.next_block += 1;
        }
        messages
    }

    /// Rows of new blocks, of blocks with news, and of blocks that this commit settles something in.
    fn write_rows(&mut self, settling: &Virtual, commit: &mut Commit) -> Vec<(QueueIx, u64, u32)> {
        let mut touched: BTreeMap<(QueueIx, u64), Vec<u32>> = BTreeMap::new();
        for at in std::mem::take(&mut self.dirty_blocks) {
            if let Some(state) = self.blocks.get_mut(&at) {
                state.dirty = false;
                touched.entry(at).or_default();
            }
        }
        let first_new = commit.blocks.first().map_or(u64::MAX, |b| b.block);
        for at in self.blocks.iter().filter(|(at, _)| at.1 >= first_new).map(|(at, _)| *at) {
            touched.entry(at).or_default();
        }
        for (key, queues) in &settling.closed {
            if let Some(place) = self.entries[*key].place.filter(|p| p.block < first_new) {
                for queue in queues {
                    touched.entry((*queue, place.block)).or_default().push(place.index);
                }
            }
        }
        let mut rows = Vec::with_capacity(touched.len());
        for ((queue, block), more) in touched {
            let Some(state) = self.blocks.get(&(queue, block)) else { continue };
            let mut bits = state.bits.clone();
            for index in &more {
                set(&mut bits, *index);
            }
            let settled = state.settled + more.len() as u32;
            if state.written.is_none() && settled == state.total {
                continue;
            }
            rows.push((queue, block, settled));
            commit.rows.push(RowWrite {
                queue: self.queues[queue as usize].id,
                block,
                total: state.total,
                settled,
                bits,
                last_expiry: state.last_expiry,
            });
        }
        rows
    }

    fn write_queues(&mut self, settling: &Virtual, stored: &HashMap<QueueIx, u32>, commit: &mut Commit) {
        let mut later: HashMap<QueueIx, (u64, u64)> = HashMap::new();
        for (key, queues) in &settling.closed {
            for queue in queues {
                let counts = later.entry(*queue).or_default();
                counts.0 += 1;
                counts.1 += u64::from(self.entries[*key].is_committed());
            }
        }
        for ix in 0..self.queues.len() as QueueIx {
            let queue = &mut self.queues[ix as usize];
            if !queue.changed && !stored.contains_key(&ix) && !later.contains_key(&ix) {
                continue;
            }
            queue.changed = false;
            let (settles, of_stored) = later.get(&ix).copied().unwrap_or_default();
            let dead = self.dying.iter().filter(|d| d.queue == ix).count() as u64;
            let mut ledger = queue.ledger;
            ledger.delivered += settles - dead;
            ledger.dead_lettered += dead;
            ledger.stored = ledger.stored - of_stored + u64::from(stored.get(&ix).copied().unwrap_or(0));
            ledger.pending = ledger.stored;
            commit.queues.push(QueueRow {
                id: queue.id,
                endpoint: queue.endpoint.clone(),
                priority: queue.priority,
                ledger,
            });
        }
    }

    fn dead_letter(&self, dying: &super::settle::Dying) -> DeadLetter {
        let entry = &self.entries[dying.key];
        let queue = &self.queues[dying.queue as usize];
        let refusals = entry.targets.iter().find(|t| t.queue == dying.queue).map_or(0, |t| t.attempts);
        DeadLetter {
            seq: dying.seq,
            queue: queue.id,
            endpoint: queue.endpoint.to_string(),
            source: self.sources[entry.source as usize].source.clone(),
            enqueued: entry.enqueued,
            refusals,
            reason: dying.reason.clone(),
            record: entry.record.to_vec(),
        }
    }

    /// The shell's word on a commit. `store_full` tells whether the store has reached its quota with it.
    pub fn handle_committed(&mut self, now: Now, id: u64, result: Result<Option<String>, String>) {
        let Some(flight) = self.commit.take() else { return };
        assert_eq!(flight.id, id, "commits are answered in order");
        match result {
            Ok(full) => {
                self.store = full.map_or(StoreState::Sound, StoreState::Full);
                self.committed(now, flight);
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
            self.safe(key, Outcome::Durable);
        }
        let dying: Vec<_> = self.dying.drain(..flight.dying).collect();
        for dying in dying {
            self.settle(now, dying.queue, dying.key, Outcome::DeadLettered);
        }
        self.resolve_parents(now);
        self.tidy_blocks(now);
        self.trim();
    }

    /// Forgets blocks whose rows are gone; what a row still lacks makes it dirty again.
    fn tidy_blocks(&mut self, now: Now) {
        self.blocks
            .retain(|_, state| !(state.settled == state.total && state.written.is_none_or(|w| w == state.total)));
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
                self.withdraw(key, reason);
            }
        }
        self.resolve_parents(now);
    }

    /// Takes a message back out of its queues and tells its sender.
    fn withdraw(&mut self, key: Key, reason: &str) {
        let queues: SmallVec<[QueueIx; 4]> =
            self.entries[key].targets.iter().filter(|t| t.state == TargetState::Waiting).map(|t| t.queue).collect();
        for queue in queues {
            let queue = &mut self.queues[queue as usize];
            queue.extract(&mut self.entries, |_, k| k == key);
            queue.ledger.pending -= 1;
        }
        self.lose(key, &format!("the store is broken: {reason}"));
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

    /// Drops from memory what lies on disk anyway, when memory runs short.
    fn trim(&mut self) {
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
        let from = self.queues[ix as usize].gap.map_or(first.block, |gap| gap.from);
        let queue = &mut self.queues[ix as usize];
        if !had_gap {
            let keep = queue.head.iter().position(|k| *k == dropped[0].0).expect("it was found there");
            queue.tail = queue.head.split_off(keep);
            self.gaps += 1;
        }
        queue.gap = Some(Gap { from, to: last.block });
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

    /// What to read next: for a queue whose memory runs low while its consumer is there.
    pub fn poll_load(&mut self) -> Option<LoadRequest> {
        if self.gaps == 0 || matches!(self.store, StoreState::Broken(_)) {
            return None;
        }
        let head_bytes = self.head_bytes();
        let due = |q: &Queue| !q.loading && q.consumer.is_some() && q.bytes < head_bytes / 2;
        let ix = self.queues.iter().position(|q| q.gap.is_some() && due(q))?;
        let queue = &mut self.queues[ix];
        queue.loading = true;
        let gap = queue.gap?;
        Some(LoadRequest { queue: queue.id, ix: ix as QueueIx, from: gap.from, to: gap.to })
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
        let through = loaded.as_ref().map_or(request.to, |b| b.block);
        gap.from = through + 1;
        if gap.from > gap.to {
            queue.gap = None;
            self.gaps -= 1;
        }
        if let Some(loaded) = loaded {
            self.take_in_block(now, request.ix, loaded);
        }
        self.queues[request.ix as usize].join_tail();
    }

    fn take_in_block(&mut self, now: Now, ix: QueueIx, loaded: LoadedBlock) {
        let at = (ix, loaded.block);
        self.blocks.entry(at).or_insert(BlockState {
            total: loaded.total,
            settled: loaded.settled,
            bits: loaded.bits,
            resident: Vec::new(),
            last_expiry: loaded.last_expiry,
            written: Some(loaded.settled),
            dirty: false,
        });
        for message in loaded.messages {
            self.take_in(now, ix, loaded.block, message);
        }
    }

    fn take_in(&mut self, now: Now, ix: QueueIx, block: u64, message: LoadedMessage) {
        let Some(state) = self.blocks.get_mut(&(ix, block)) else { return };
        if is_set(&state.bits, message.index) || !set(&mut state.resident, message.index) {
            return;
        }
        let source = self.add_source(message.source);
        let (expiry, attempts) = (message.expiry, message.attempts);
        let target = Target { queue: ix, expiry, attempts, state: TargetState::Waiting, stored: true };
        let targets = SmallVec::from_iter([target]);
        let mut entry =
            Entry::new(message.seq, message.record, source, message.enqueued, now.mono, targets, None, false);
        entry.place = Some(Place { block, index: message.index, committed: true });
        let key = self.entries.insert(entry);
        let queue = &mut self.queues[ix as usize];
        queue.put_back(&self.entries, key);
        queue.next_expiry = queue.next_expiry.min(message.expiry);
    }
}

impl BlockState {
    fn new() -> BlockState {
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

    fn add(&mut self, index: u32, expiry: Age) {
        self.total += 1;
        set(&mut self.resident, index);
        self.last_expiry = self.last_expiry.max(expiry);
    }
}

/// Sets a bit; false if it was set.
fn set(bits: &mut Vec<u64>, index: u32) -> bool {
    let (word, bit) = (index as usize / 64, 1u64 << (index % 64));
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    let fresh = bits[word] & bit == 0;
    bits[word] |= bit;
    fresh
}

fn unset(bits: &mut [u64], index: u32) {
    if let Some(word) = bits.get_mut(index as usize / 64) {
        *word &= !(1 << (index % 64));
    }
}

fn is_set(bits: &[u64], index: u32) -> bool {
    bits.get(index as usize / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
}
