//! Messages go out, and come back completed, refused, returned or orphaned. Must keep the order of every queue,
//! whatever a consumer does.

use std::fmt;
use std::time::Duration;

use super::entry::{Key, TargetState};
use super::link::{Flight, FlightState};
use super::settle::Dying;
use super::{Hub, LinkIx, QueueIx};
use crate::model::limits::REASON_BYTES;
use crate::model::time::{Age, Now};
use skerry_abi::wire::frame::{Completion, Outcome, ToHost};

/// A host that breaks the rules of the link. The link must be closed; the instance is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Closed,
    Ticket { expected: u64, got: u64 },
    Delivery { id: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Closed => write!(f, "the link is closed"),
            Fault::Ticket { expected, got } => write!(f, "message with ticket {got}, expected {expected}"),
            Fault::Delivery { id } => write!(f, "completion of delivery {id}, which was never made"),
        }
    }
}

/// How a link came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By nobody's fault.
    Quietly,
    /// Its module died while it handled this delivery.
    During(u64),
    /// Its module died, and nobody saw with which. A delivery that was the only one has to answer for it; several are
    /// given again one at a time.
    Somewhere,
}

impl Hub {
    /// The instance has started: its queues are delivered to it.
    pub fn ready(&mut self, ix: LinkIx) {
        let Some(link) = self.link_mut(ix) else { return };
        link.ready = true;
        self.mark_output(ix);
        for queue in 0..self.queues.len() {
            if self.queues[queue].consumer.is_none() {
                self.connect_queue(queue as QueueIx);
            }
        }
    }

    /// The other end is away for a while: nothing new is delivered until the next [`Hub::ready`], and its endpoints
    /// count as offline. What it has stays with it.
    pub fn pause(&mut self, ix: LinkIx) {
        let Some(link) = self.link_mut(ix) else { return };
        link.ready = false;
        for queue in std::mem::take(&mut link.queues) {
            self.queues[queue as usize].consumer = None;
        }
    }

    /// This delivery can never be made: to the dead letters at once. What came after it goes on.
    pub fn give_up(&mut self, now: Now, ix: LinkIx, id: u64, reason: &str) {
        let Some(flight) = self.leave_window(ix, id, FlightState::Closed) else { return };
        self.kill(now, flight.queue, flight.key, reason);
        self.mark_dirty(ix);
    }

    /// What a paused link has held until it was too old is settled as expired. The deliveries that its consumer is to forget.
    pub fn expire_window(&mut self, now: Now, ix: LinkIx) -> Vec<u64> {
        let Some(link) = self.links.get(ix.0 as usize).and_then(Option::as_deref).filter(|link| !link.ready) else {
            return Vec::new();
        };
        let entries = &mut self.entries;
        let mut is_old = |flight: &Flight| {
            flight.state == FlightState::Open && entries[flight.key].target(flight.queue).expiry <= now.age
        };
        let flights = (link.first_flight..).zip(&link.flights);
        let old: Vec<u64> = flights.filter(|(_, flight)| is_old(flight)).map(|(id, _)| id).collect();
        for id in &old {
            if let Some(flight) = self.leave_window(ix, *id, FlightState::Closed) {
                self.settle(now, flight.queue, flight.key, Outcome::Expired);
            }
        }
        old
    }

    /// The next commit writes the message to the dead letters.
    fn kill(&mut self, now: Now, queue: QueueIx, key: Key, reason: &str) {
        self.entries[key].change(queue, now.mono).state = TargetState::Dying;
        let cut = reason.floor_char_boundary(reason.len().min(REASON_BYTES));
        let seq = self.entries[key].seq;
        self.dying.push(Dying { queue, key, seq, reason: reason[..cut].to_owned() });
        self.dirty_since.get_or_insert(now.mono);
    }

    /// The link is gone. What it had goes back to its queues, and what it died with counts as refused.
    pub fn close_link(&mut self, now: Now, ix: LinkIx, ending: Ending) {
        let Some(link) = self.link_mut(ix) else { return };
        let borrowed = link.borrows();
        link.closed = true;
        link.ready = false;
        let queues = std::mem::take(&mut link.queues);
        let open: Vec<u64> = (0..link.flights.len() as u64)
            .map(|i| link.first_flight + i)
            .filter(|id| {
                let at = (*id - link.first_flight) as usize;
                matches!(link.flights[at].state, FlightState::Open | FlightState::Deferred)
            })
            .collect();
        let in_progress = match (ending, &open[..]) {
            (Ending::During(id), _) => Some(id),
            (Ending::Somewhere, [id]) => Some(*id),
            _ => None,
        };
        for queue in queues {
            self.queues[queue as usize].consumer = None;
            self.queues[queue as usize].careful |= ending != Ending::Quietly;
        }
        for id in open {
            if in_progress == Some(id) {
                self.refused(now, ix, id, "the module died while handling it");
            } else {
                self.returned(ix, id);
            }
        }
        self.drop_link_if_idle(ix);
        if borrowed {
            self.borrowers -= 1;
            self.lend_anew();
        }
    }

    /// A closed link is kept while deliveries that its module finished wait for their children.
    pub(super) fn drop_link_if_idle(&mut self, ix: LinkIx) {
        if self.link(ix).is_some_and(|l| l.closed && l.flights.is_empty() && l.unacked_messages == 0) {
            self.links[ix.0 as usize] = None;
        }
    }

    /// The deliveries `first .. first + count` ended, or were put aside.
    pub fn complete(
        &mut self,
        now: Now,
        ix: LinkIx,
        first: u64,
        count: u32,
        completion: Completion,
        reason: &str,
    ) -> Result<(), Fault> {
        let link = self.link(ix).ok_or(Fault::Closed)?;
        let end = first.checked_add(u64::from(count)).filter(|end| *end <= link.next_delivery());
        let end = end.ok_or(Fault::Delivery { id: first })?;
        for id in first..end {
            match completion {
                Completion::Done => self.done(now, ix, id),
                Completion::Refused => self.refused(now, ix, id, reason),
                Completion::Returned => self.returned(ix, id),
                Completion::Deferred => self.deferred(ix, id),
            }
        }
        self.mark_dirty(ix);
        Ok(())
    }

    fn done(&mut self, now: Now, ix: LinkIx, id: u64) {
        let Some(flight) = self.leave_window(ix, id, FlightState::Done) else { return };
        let queue = &mut self.queues[flight.queue as usize];
        queue.careful = false;
        queue.last_ack = now.mono;
        if flight.children == 0 {
            self.finish(now, ix, id);
        }
    }

    fn deferred(&mut self, ix: LinkIx, id: u64) {
        if self.link_mut(ix).and_then(|l| l.flight(id)).is_some_and(|f| f.state == FlightState::Open)
            && let Some(flight) = self.leave_window(ix, id, FlightState::Deferred)
        {
            self.queues[flight.queue as usize].careful = false;
            if let Some(link) = self.link_mut(ix) {
                link.deferred += 1;
            }
        }
    }

    /// Every child is safe: the delivery counts, or comes again if a child was not taken.
    pub(super) fn finish(&mut self, now: Now, ix: LinkIx, id: u64) {
        let Some(flight) = self.link_mut(ix).and_then(|l| l.flight(id)) else { return };
        let (queue, key, failed) = (flight.queue, flight.key, flight.child_failed);
        if let Some(link) = self.link_mut(ix) {
            link.close_flight(id);
        }
        if failed {
            // The module did its part; only its output found no place. Not a refusal, but not at once again either.
            self.hold(now, queue, 2);
            self.put_back(queue, key);
        } else {
            self.settle(now, queue, key, Outcome::Delivered);
        }
        self.drop_link_if_idle(ix);
    }

    fn refused(&mut self, now: Now, ix: LinkIx, id: u64, reason: &str) {
        let Some(flight) = self.leave_window(ix, id, FlightState::Closed) else { return };
        let (queue_ix, key) = (flight.queue, flight.key);
        let seq = self.entries[key].seq;
        let target = self.entries[key].change(queue_ix, now.mono);
        target.attempts = target.attempts.saturating_add(1);
        let attempts = target.attempts;
        let queue = &mut self.queues[queue_ix as usize];
        queue.ledger.refused += 1;
        queue.rewinding = queue.flying > 0;
        queue.changed = true;
        self.attempts.insert((queue.id, seq), attempts);
        if let Some(link) = self.link_mut(ix) {
            link.next_stream += 1;
            let stream = link.next_stream;
            self.queues[queue_ix as usize].stream = stream;
        }
        if attempts >= self.config.refusals_max {
            self.kill(now, queue_ix, key, reason);
        } else {
            self.hold(now, queue_ix, attempts);
            self.put_back(queue_ix, key);
        }
    }

    fn returned(&mut self, ix: LinkIx, id: u64) {
        if let Some(flight) = self.leave_window(ix, id, FlightState::Closed) {
            self.put_back(flight.queue, flight.key);
        }
    }

    /// Waits a little before a refused message is tried again: 100 ms, 400 ms, 1.6 s … 30 s, so that a consumer
    /// whose own neighbour is away for a moment does not throw its messages into the dead letters.
    fn hold(&mut self, now: Now, queue: QueueIx, attempts: u16) {
        let wait = Duration::from_millis(25u64.saturating_mul(4u64.saturating_pow(u32::from(attempts))).min(30_000));
        let until = now.mono.after(wait);
        let queue = &mut self.queues[queue as usize];
        queue.held_until = queue.held_until.max(Some(until));
    }

    fn put_back(&mut self, queue: QueueIx, key: Key) {
        let target = self.entries[key].target(queue);
        target.state = TargetState::Waiting;
        let expiry = target.expiry;
        let entries = &self.entries;
        let queue = &mut self.queues[queue as usize];
        queue.put_back(entries, key);
        queue.next_expiry = queue.next_expiry.min(expiry);
        if let Some((consumer, _)) = queue.consumer {
            self.mark_dirty(consumer);
        }
    }

    /// Takes a delivery out of the window and of its queue's flights, into its next state.
    fn leave_window(&mut self, ix: LinkIx, id: u64, next: FlightState) -> Option<Left> {
        let link = self.link_mut(ix)?;
        let flight = link.flight(id)?;
        let left = Left { queue: flight.queue, key: flight.key, children: flight.children };
        let (before, bytes) = (flight.state, u64::from(flight.bytes));
        if before == FlightState::Done {
            return None;
        }
        flight.state = next;
        match before {
            FlightState::Open => {
                link.flying -= 1;
                link.flying_bytes -= bytes;
                let queue = &mut self.queues[left.queue as usize];
                queue.flying -= 1;
                queue.rewinding &= queue.flying > 0;
            }
            FlightState::Deferred => link.deferred -= 1,
            FlightState::Done | FlightState::Closed => {}
        }
        if next == FlightState::Closed {
            let link = self.link_mut(ix)?;
            link.close_flight(id);
        }
        Some(left)
    }

    /// Fills the window of a link from its queues: the best priority first, and those of one priority in turn.
    pub(super) fn deliver(&mut self, now: Now, ix: LinkIx) {
        let Some(link) = self.link(ix) else { return };
        if !link.ready {
            return;
        }
        let count = link.queues.len();
        let mut turn = link.turn;
        while self.link(ix).is_some_and(|l| l.has_room(self.config.memory_bytes, self.has_plenty())) {
            let Some(queue) = self.pick(ix, &mut turn, count, now) else { break };
            self.deliver_one(now, ix, queue);
        }
        let plenty = self.has_plenty();
        if let Some(link) = self.link_mut(ix) {
            link.turn = turn;
            let starved = !plenty && link.deferred > 0;
            self.starved |= starved;
        }
        self.mark_output(ix);
    }

    /// Half of the memory is free, which is not what is lent to senders but as much.
    fn has_plenty(&self) -> bool {
        self.entries.bytes() < self.config.memory_bytes / 2
    }

    /// Whoever got nothing more for want of memory is looked at again when there is some.
    pub(super) fn feed_starved(&mut self) {
        if self.starved && self.has_plenty() {
            self.starved = false;
            for ix in 0..self.links.len() {
                if self.links[ix].as_ref().is_some_and(|link| link.deferred > 0) {
                    self.mark_dirty(LinkIx(ix as u32));
                }
            }
        }
    }

    fn pick(&self, ix: LinkIx, turn: &mut usize, count: usize, now: Now) -> Option<QueueIx> {
        let link = self.link(ix)?;
        let ready = |q: &QueueIx| self.queues[*q as usize].can_deliver(now.mono);
        // One that waits for a commit of its own is not passed by: that takes no longer than the commit.
        let held = |q: &QueueIx| self.queues[*q as usize].evicting && !self.queues[*q as usize].head.is_empty();
        let best = link.queues.iter().copied().find(|q| ready(q) || held(q)).filter(|q| !held(q))?;
        let priority = self.queues[best as usize].priority;
        for step in 1..=count {
            let queue = link.queues[(*turn + step) % count];
            if self.queues[queue as usize].priority == priority && ready(&queue) {
                *turn = (*turn + step) % count;
                return Some(queue);
            }
        }
        Some(best)
    }

    fn deliver_one(&mut self, now: Now, ix: LinkIx, queue_ix: QueueIx) {
        let queue = &mut self.queues[queue_ix as usize];
        let Some(key) = queue.pop(&self.entries) else { return };
        let Some((_, input)) = queue.consumer else { return };
        let target = self.entries[key].change(queue_ix, now.mono);
        if target.expiry <= now.age && target.expiry != Age::NEVER {
            self.settle(now, queue_ix, key, Outcome::Expired);
            return;
        }
        target.state = TargetState::Flying;
        let attempts = target.attempts;
        let queue = &mut self.queues[queue_ix as usize];
        if queue.flying == 0 {
            // An idle consumer is not a stalled one: its time starts with the first message it has.
            queue.last_ack = now.mono;
        }
        queue.flying += 1;
        let stream = queue.stream;
        let entry = &self.entries[key];
        let source = &self.sources[entry.source as usize].source;
        let link = self.links[ix.0 as usize].as_deref_mut().expect("delivering to it");
        let id = link.next_delivery();
        let bytes = entry.record.len() as u32;
        link.flights.push_back(Flight {
            queue: queue_ix,
            key,
            bytes,
            children: 0,
            state: FlightState::Open,
            child_failed: false,
        });
        link.flying += 1;
        link.flying_bytes += u64::from(bytes);
        ToHost::Deliver {
            id,
            queue: stream,
            input,
            attempts,
            enqueued_ms: entry.enqueued.0,
            source_module: &source.module,
            source_output: &source.output,
            record: &entry.record,
        }
        .encode(&mut link.out);
    }
}

struct Left {
    queue: QueueIx,
    key: Key,
    children: u32,
}
