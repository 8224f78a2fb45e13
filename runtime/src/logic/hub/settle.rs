//! A message is done with: at one endpoint, then at all of them; then its sender is told and what waited for it goes on.
//! Must never tell a sender "safe" before it is true.

use super::entry::{Key, Parent, TargetState};
use super::{Delivered, Hub, QueueIx, SourceCounts};
use crate::model::time::{Age, Now};
use skerry_abi::wire::frame::Outcome;

/// A message that was refused too often, on its way to the dead letters.
pub(super) struct Dying {
    pub queue: QueueIx,
    pub key: Key,
    pub seq: u64,
    pub reason: String,
}

impl Hub {
    /// One endpoint is done with the message.
    pub(super) fn settle(&mut self, now: Now, queue_ix: QueueIx, key: Key, outcome: Outcome) {
        let entry = &mut self.entries[key];
        let process_ms = now.mono.since(entry.since);
        let on_its_way = u64::from(entry.target(queue_ix).at);
        let target = entry.change(queue_ix, now.mono);
        debug_assert!(target.state != TargetState::Settled && target.state != TargetState::OnDisk);
        target.state = TargetState::Settled;
        target.outcome = outcome;
        let (attempts, stored) = (target.attempts, target.stored);
        entry.open -= 1;
        entry.resident -= 1;
        if sadness(outcome) > sadness(entry.outcome) {
            entry.outcome = outcome;
        }
        let (open, resident, place, seq) = (entry.open, entry.resident, entry.place, entry.seq);
        let sent_ms = process_ms.saturating_sub(on_its_way);
        let delivered = Delivered { messages: 1, sent_ms, process_ms };
        self.sources[entry.source as usize].counts.settle(queue_ix, outcome, delivered);
        let queue = &mut self.queues[queue_ix as usize];
        queue.ledger.settle(outcome);
        queue.changed = true;
        self.ledger_since.get_or_insert(now.mono);
        if attempts > 0 {
            self.attempts.insert((queue.id, seq), 0);
        }
        if let Some(place) = place.filter(|_| stored) {
            if place.committed {
                queue.ledger.stored -= 1;
            }
            self.settle_block(now, queue_ix, place);
        }
        if open == 0 {
            let outcome = self.entries[key].outcome;
            self.safe(now, key, outcome);
        }
        if resident == 0 {
            self.free(key);
        }
    }

    /// The message is durable or settled: answers its sender, releases its parents. Harmless a second time.
    pub(super) fn safe(&mut self, now: Now, key: Key, outcome: Outcome) {
        if outcome == Outcome::Durable {
            self.entries[key].stored_at(now.mono);
        }
        self.unsafes.remove(&mut self.entries, key);
        self.release(key, true);
        if let Some(ticket) = self.take_receipt(key) {
            self.answer(ticket.link, ticket.ticket, outcome, "");
            self.drop_link_if_idle(ticket.link);
        }
    }

    /// The message could not be made safe and is nowhere any more.
    pub(super) fn lose(&mut self, key: Key, reason: &str) {
        self.unsafes.remove(&mut self.entries, key);
        self.release(key, false);
        self.letter_stays(key, reason);
        self.trace.lost(self.entries[key].trace, reason);
        let source = self.entries[key].source as usize;
        self.sources[source].counts.unstored += 1;
        if let Some(ticket) = self.take_receipt(key) {
            let _ = self.refuse(ticket.link, ticket.ticket, reason);
            self.drop_link_if_idle(ticket.link);
        }
        self.free(key);
    }

    fn release(&mut self, key: Key, safe: bool) {
        if std::mem::take(&mut self.entries[key].now) {
            self.urgent_messages -= 1;
        }
        for parent in std::mem::take(&mut self.entries[key].parents) {
            self.parents_safe.push_back((parent, safe));
        }
    }

    /// Gives back the credit of a message whose sender is about to be answered.
    fn take_receipt(&mut self, key: Key) -> Option<super::entry::Ticket> {
        let bytes = self.entries[key].bytes();
        let ticket = self.entries[key].receipt.take()?;
        if let Some(link) = self.link_mut(ticket.link) {
            link.unacked_messages -= 1;
            link.unacked_bytes -= bytes;
            let ix = link.identity;
            let identity = &mut self.identities[ix as usize];
            identity.unacked_messages -= 1;
            identity.unacked_bytes -= bytes;
            identity.sending.remove(&mut self.entries, key);
            if let Some(current) = self.current_link(ix, ticket.link) {
                self.mark_output(current);
            }
        }
        Some(ticket)
    }

    /// A later generation that inherited part of its credit, to be told of the change.
    fn current_link(&self, identity: super::IdentityIx, not: super::LinkIx) -> Option<super::LinkIx> {
        if !self.link(not).is_some_and(|l| l.closed) {
            return None;
        }
        let found = self.links.iter().rposition(|l| l.as_ref().is_some_and(|l| !l.closed && l.identity == identity))?;
        Some(super::LinkIx(found as u32))
    }

    /// Works off deliveries whose children became safe; each may make its own message settled, and so on.
    pub(super) fn resolve_parents(&mut self, now: Now) {
        while let Some((Parent { link, delivery }, safe)) = self.parents_safe.pop_front() {
            let Some(flight) = self.link_mut(link).and_then(|l| l.flight(delivery)) else { continue };
            flight.children -= 1;
            flight.child_failed |= !safe;
            if flight.children == 0 && flight.state == super::link::FlightState::Done {
                self.finish(now, link, delivery);
            }
        }
    }

    /// Takes a message out of memory. Its answers are given.
    pub(super) fn free(&mut self, key: Key) {
        self.unsafes.remove(&mut self.entries, key);
        debug_assert!(self.entries[key].receipt.is_none());
        let trace = &mut self.trace;
        self.entries.remove(key, |entry| trace.keep(entry));
    }

    /// Settles what is too old in one queue's memory.
    pub(super) fn expire(&mut self, now: Now, queue_ix: QueueIx) {
        let mut next = Age::NEVER;
        let queue = &mut self.queues[queue_ix as usize];
        let expired = queue.extract(&mut self.entries, |entries, key| {
            let expiry = entries[key].target(queue_ix).expiry;
            if expiry <= now.age {
                return true;
            }
            next = next.min(expiry);
            false
        });
        self.queues[queue_ix as usize].next_expiry = next;
        for key in expired {
            self.settle(now, queue_ix, key, Outcome::Expired);
        }
    }
}

impl SourceCounts {
    fn settle(&mut self, queue: QueueIx, outcome: Outcome, one: Delivered) {
        match outcome {
            Outcome::Delivered => match self.delivered.iter_mut().find(|(q, _)| *q == queue) {
                Some((_, all)) => {
                    all.messages += 1;
                    all.sent_ms += one.sent_ms;
                    all.process_ms += one.process_ms;
                }
                None => self.delivered.push((queue, one)),
            },
            Outcome::Expired => self.expired += 1,
            _ => {}
        }
    }
}

/// Of several endpoints' outcomes the sender is told the one it would least like.
fn sadness(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered => 0,
        Outcome::Durable => 1,
        Outcome::NoRoute => 2,
        Outcome::Expired => 3,
        Outcome::Removed => 4,
        Outcome::Evicted => 5,
        Outcome::DeadLettered => 6,
        Outcome::Refused => 7,
    }
}
