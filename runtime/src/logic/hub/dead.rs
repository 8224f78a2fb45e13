//! Dead letters on their way back, or out for good. A letter leaves its table in the very commit that makes the message
//! safe again, or that counts what became of it since. Must never let a letter go before that.

use smallvec::SmallVec;

use super::commit::{DeadLetter, Gone, LetterId};
use super::entry::{Entry, Key, Target};
use super::{Hub, QueueIx, StoreState};
use crate::model::endpoint::{Endpoint, PRIORITY_DEFAULT};
use crate::model::limits::REPLAYS_MAX;
use crate::model::time::{Age, Now};

/// A dead letter that is an ordinary message again, and still in its table.
pub(super) struct Replay {
    letter: LetterId,
    key: Key,
    seq: u64,
}

/// What came of a replay or a purge.
pub type Answered = (LetterId, Result<(), String>);

impl Hub {
    /// Puts a dead letter into its queue again, behind everything, as a new message with a new time to live: accepted once
    /// more. The answer comes in [`Hub::take_answered`], once the letter is gone from its table.
    pub fn replay(&mut self, now: Now, letter: DeadLetter) -> Result<(), String> {
        let id = (letter.seq, letter.queue);
        self.not_busy(id)?;
        if self.replays.len() >= REPLAYS_MAX {
            return Err(format!("{REPLAYS_MAX} dead letters are on their way back already"));
        }
        let queue = self.queue_of_letter(&letter)?;
        let expiry = self.config.ttl.map_or(Age::NEVER, |ttl| now.age.after(ttl));
        let targets = SmallVec::from_iter([Target::waiting(queue, expiry, 0)]);
        if let Some(reason) = self.no_place(&targets) {
            return Err(reason);
        }
        let source = self.add_source(letter.source);
        let seq = self.next_seq;
        self.next_seq += 1;
        let record = letter.record.into_boxed_slice();
        let mut entry = Entry::new(seq, record, source, letter.enqueued, now.mono, targets, None, false);
        entry.trace = self.trace.find(letter.seq);
        let bytes = entry.bytes();
        let key = self.entries.insert(entry);
        self.unsafes.push(&mut self.entries, key);
        let queue = &mut self.queues[queue as usize];
        queue.push(key, bytes, expiry);
        queue.ledger.pending += 1;
        if let Some((consumer, _)) = queue.consumer {
            self.mark_dirty(consumer);
        }
        self.replays.push(Replay { letter: id, key, seq });
        self.urgent = true;
        Ok(())
    }

    /// The next commit takes it out of its table, and nothing else changes: it stays counted as a dead letter.
    pub fn purge(&mut self, id: LetterId) -> Result<(), String> {
        self.not_busy(id)?;
        if let StoreState::Broken(reason) = &self.store {
            return Err(format!("the store is broken: {reason}"));
        }
        self.purges.push(id);
        self.urgent = true;
        Ok(())
    }

    /// What came of replays and purges, each once.
    pub fn take_answered(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answered)
    }

    fn not_busy(&self, id: LetterId) -> Result<(), String> {
        let leaving = self.commit.as_ref().is_some_and(|flight| flight.gone.iter().any(|(gone, _)| *gone == id));
        if leaving || self.purges.contains(&id) || self.replays.iter().any(|replay| replay.letter == id) {
            return Err("it is being replayed or purged already".to_owned());
        }
        Ok(())
    }

    /// The one that it came from; after a salvage that may be known by its name alone.
    fn queue_of_letter(&mut self, letter: &DeadLetter) -> Result<QueueIx, String> {
        let found = self.queues.iter().position(|queue| queue.id == letter.queue);
        if let Some(ix) = found.filter(|ix| self.queues[*ix].endpoint.to_string() == letter.endpoint) {
            return Ok(ix as QueueIx);
        }
        let endpoint = Endpoint::parse(&letter.endpoint);
        let endpoint = endpoint.ok_or_else(|| format!("{:?} is no endpoint any more", letter.endpoint))?;
        Ok(self.queue_of(endpoint, PRIORITY_DEFAULT))
    }

    /// A message that was put back has found its end already, and only its letter is to go.
    pub(super) fn letters_wait(&self) -> bool {
        !self.purges.is_empty() || self.replays.iter().any(|replay| !self.entries.is(replay.key, replay.seq))
    }

    /// Which letters go with the commit that makes `batch` safe.
    pub(super) fn letters_that_go(&mut self, batch: &[Key]) -> Vec<(LetterId, Gone)> {
        let safe = |replay: &&Replay| !self.entries.is(replay.key, replay.seq) || batch.contains(&replay.key);
        let replayed = self.replays.iter().filter(safe).map(|replay| (replay.letter, Gone::Replayed));
        replayed.chain(self.purges.drain(..).map(|id| (id, Gone::Purged))).collect()
    }

    pub(super) fn letters_gone(&mut self, gone: Vec<(LetterId, Gone)>) {
        self.replays.retain(|replay| !gone.iter().any(|(id, _)| *id == replay.letter));
        self.answered.extend(gone.into_iter().map(|(id, _)| (id, Ok(()))));
    }

    /// Nothing of it happened. What was put back is tried again with the next commit, as long as it is there.
    pub(super) fn letters_stay(&mut self, gone: Vec<(LetterId, Gone)>, reason: &str) {
        let purges = gone.into_iter().filter(|(_, why)| *why == Gone::Purged);
        self.answered.extend(purges.map(|(id, _)| (id, Err(reason.to_owned()))));
    }

    /// A message could not be made safe and is nowhere any more: if it was a dead letter, it still is.
    pub(super) fn letter_stays(&mut self, key: Key, reason: &str) {
        if let Some(at) = self.replays.iter().position(|replay| replay.key == key) {
            let replay = self.replays.swap_remove(at);
            self.answered.push((replay.letter, Err(reason.to_owned())));
        }
    }
}
