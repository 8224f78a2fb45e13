//! What goes to disk, when, and what comes back. A [`Commit`] is a value: the shell carries it out and says so,
//! and only then is anybody told. Must never call a message stored before the commit that holds it succeeded.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use super::commit::{BlockWrite, Commit, DeadLetter, Gone, LetterId, QueueRow, RowWrite};
use super::entry::{Key, Place, Target, TargetState};
use super::link::FlightState;
use super::queue::{Gap, GapExpiry, Queue};
use super::stored::{BlockState, set};
use super::{Hub, Ledger, LinkIx, QueueIx, StoreState};
use crate::logic::block::{BlockWriter, Goes};
use crate::model::limits::{BLOCK_BYTES, COMMIT_BYTES, IDLE_COMMIT_INTERVAL, STALLED_AFTER};
use crate::model::time::{Mono, Now};

/// The commit that the shell is carrying out.
pub(super) struct InFlight {
    pub id: u64,
    pub messages: Vec<(Key, u64)>,
    pub rows: Vec<(QueueIx, u64, u32)>,
    pub dying: usize,
    pub documents: Vec<(String, Option<Vec<u8>>)>,
    pub attempts: HashMap<(u32, u64), u16>,
    pub gone: Vec<(LetterId, Gone)>,
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
            let to = self.next_block.saturating_sub(1);
            queue.gap = Some(Gap { from: 0, to, expiry: GapExpiry::Unknown });
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
        idle && !self.letters_wait()
            && self.dirty_since.is_none()
            && self.ledger_since.is_none()
            && self.documents.is_empty()
    }

    /// One is being carried out.
    pub fn is_committing(&self) -> bool {
        self.commit.is_some()
    }

    /// When a commit is due if nothing else happens; `Mono(0)` for at once.
    pub(super) fn next_commit_at(&self) -> Mono {
        if self.commit.is_some() || matches!(self.store, StoreState::Broken(_)) {
            return Mono::NEVER;
        }
        if self.wants_eviction() {
            return Mono(0);
        }
        // What finds no room waits for it, and asks for no commit.
        let fits = self.unsafes.front().filter(|key| self.block_bytes(*key) <= self.room);
        let oldest = fits.map(|key| self.entries[key].since);
        if self.urgent
            || self.letters_wait()
            || (self.urgent_messages > 0 && oldest.is_some())
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
            due = due.min(self.blocked_sender_at());
        }
        due
    }

    /// When a sender that has used up its window is to be helped by the disk: at once if its oldest message waits for
    /// an endpoint that is away, otherwise when that endpoint has been silent for [`STALLED_AFTER`].
    fn blocked_sender_at(&self) -> Mono {
        let mut due = Mono::NEVER;
        let (messages, bytes) = self.window();
        for identity in &self.identities {
            let out = identity.unacked_messages >= messages || identity.unacked_bytes >= bytes / 2;
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
        (self.next_commit_at() <= now.mono).then(|| self.build(now))
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
        let dying = self.dying_that_fit();
        let settling = self.foresee(&batch, dying);
        for dying in &self.dying[..dying] {
            commit.dead.push(self.dead_letter(dying));
        }
        commit.gone = self.letters_that_go(&batch);
        commit.expire = self.expire_ranges();
        commit.remove = self.remove_ranges();
        commit.evict = self.evict(now);
        let mut stored_by_queue: HashMap<QueueIx, u32> = HashMap::new();
        let messages = self.write_blocks(&batch, &settling, &mut commit, &mut stored_by_queue);
        let rows = self.write_rows(&settling, &mut commit);
        self.write_queues(&settling, &stored_by_queue, dying, &mut commit);
        let attempts = std::mem::take(&mut self.attempts);
        commit.attempts = attempts.iter().map(|((queue, seq), count)| (*queue, *seq, *count)).collect();
        let documents: Vec<_> = std::mem::take(&mut self.documents).into_iter().collect();
        commit.documents = documents.clone();
        commit.next_block = self.next_block;
        self.documents_since = None;
        self.ledger_since = None;
        self.dirty_since = None;
        self.urgent = false;
        let gone = commit.gone.clone();
        self.commit = Some(InFlight { id: commit.id, messages, rows, dying, documents, attempts, gone });
        commit
    }

    fn choose_batch(&self) -> Vec<Key> {
        let mut batch = Vec::new();
        let (mut bytes, mut block_bytes) = (0, 0);
        let mut at = self.unsafes.front();
        while let Some(key) = at {
            bytes += self.entries[key].record.len();
            block_bytes += self.block_bytes(key);
            if block_bytes > self.room || (bytes > COMMIT_BYTES && !batch.is_empty()) {
                break;
            }
            batch.push(key);
            at = self.unsafes.after(&self.entries, key);
        }
        batch
    }

    /// Which inputs will be settled because this commit makes their last outputs safe. Newest first: a message is
    /// always newer than the one it was made from.
    fn foresee(&self, batch: &[Key], dying: usize) -> Virtual {
        let mut settling = Virtual::default();
        for dying in &self.dying[..dying] {
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

    fn write_queues(&mut self, settling: &Virtual, stored: &HashMap<QueueIx, u32>, dying: usize, commit: &mut Commit) {
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
            let dead = self.dying[..dying].iter().filter(|d| d.queue == ix).count() as u64;
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
}
