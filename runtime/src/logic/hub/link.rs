//! The hub's side of one running instance: what it sent and has no answer for, what it was given and has not completed,
//! and the frames that wait to be written to it.

use std::collections::VecDeque;

use super::entry::Key;
use super::{IdentityIx, QueueIx, SourceIx};
use crate::model::limits::{UPSTREAM_WINDOW_BYTES, UPSTREAM_WINDOW_MESSAGES, WINDOW_BYTES, WINDOW_MESSAGES};
use skerry_abi::wire::frame::{Outcome, ToHost};

/// One delivery.
pub(super) struct Flight {
    pub queue: QueueIx,
    pub key: Key,
    pub bytes: u32,
    /// Messages sent while handling it that are not safe yet.
    pub children: u32,
    pub state: FlightState,
    /// A message sent while handling it was not taken, so it can't count as done.
    pub child_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightState {
    Open,
    Deferred,
    /// The module is done; it waits for its children.
    Done,
    /// Over: settled, or back in its queue.
    Closed,
}

pub(super) struct Link {
    pub identity: IdentityIx,
    /// The identity whose way to the cloud this is; `None` for a module's process.
    pub upstream: Option<String>,
    /// Takes deliveries.
    pub ready: bool,
    pub closed: bool,
    pub outputs: Vec<SourceIx>,
    pub inputs: Vec<String>,
    /// Queues that end here, best priority first.
    pub queues: Vec<QueueIx>,
    pub turn: usize,
    pub next_ticket: u64,
    pub first_flight: u64,
    pub flights: VecDeque<Flight>,
    pub flying: usize,
    pub flying_bytes: u64,
    pub deferred: usize,
    pub next_stream: u32,
    /// Encoded frames, not yet written to the socket.
    pub out: Vec<u8>,
    acks: Option<Run>,
    pub in_dirty: bool,
    pub credit_told: (u32, u64),
    /// Of its own tickets.
    pub unacked_messages: u32,
    pub unacked_bytes: u64,
}

struct Run {
    first: u64,
    count: u32,
    outcome: Outcome,
}

impl Link {
    pub fn new(identity: IdentityIx, outputs: Vec<SourceIx>, inputs: Vec<String>) -> Link {
        Link {
            identity,
            upstream: None,
            ready: false,
            closed: false,
            outputs,
            inputs,
            queues: Vec::new(),
            turn: 0,
            next_ticket: 1,
            first_flight: 1,
            flights: VecDeque::new(),
            flying: 0,
            flying_bytes: 0,
            deferred: 0,
            next_stream: 0,
            out: Vec::new(),
            acks: None,
            in_dirty: false,
            credit_told: (0, 0),
            unacked_messages: 0,
            unacked_bytes: 0,
        }
    }

    /// It has a share of the memory that is lent to senders: whoever can send, and is there.
    pub fn borrows(&self) -> bool {
        !self.closed && !self.outputs.is_empty()
    }

    /// `memory_bytes` is the hub's whole; what flies may take an eighth of it. What was put aside stays in memory, so with that
    /// it is given more only while there is `plenty`.
    pub fn has_room(&self, memory_bytes: u64, plenty: bool) -> bool {
        let (messages, bytes) = match self.upstream {
            Some(_) => (UPSTREAM_WINDOW_MESSAGES, UPSTREAM_WINDOW_BYTES),
            None => (WINDOW_MESSAGES, WINDOW_BYTES),
        };
        self.flying < messages
            && self.flying_bytes < bytes.min(memory_bytes / 8)
            && self.deferred < crate::model::limits::DEFERRED_MAX
            && (plenty || self.deferred == 0)
    }

    pub fn flight(&mut self, delivery: u64) -> Option<&mut Flight> {
        let at = usize::try_from(delivery.checked_sub(self.first_flight)?).ok()?;
        self.flights.get_mut(at).filter(|f| f.state != FlightState::Closed)
    }

    pub fn next_delivery(&self) -> u64 {
        self.first_flight + self.flights.len() as u64
    }

    /// Marks a delivery as over and forgets those at the front.
    pub fn close_flight(&mut self, delivery: u64) {
        if let Some(flight) = self.flight(delivery) {
            flight.state = FlightState::Closed;
        }
        while self.flights.front().is_some_and(|f| f.state == FlightState::Closed) {
            self.flights.pop_front();
            self.first_flight += 1;
        }
    }

    /// Answers a ticket; answers in a row become one frame.
    pub fn ack(&mut self, ticket: u64, outcome: Outcome, reason: &str) {
        if self.closed {
            return;
        }
        if reason.is_empty()
            && let Some(run) = &mut self.acks
            && run.first + u64::from(run.count) == ticket
            && run.outcome == outcome
        {
            run.count += 1;
            return;
        }
        self.flush_acks();
        if reason.is_empty() {
            self.acks = Some(Run { first: ticket, count: 1, outcome });
        } else {
            ToHost::Settled { first: ticket, count: 1, outcome, reason }.encode(&mut self.out);
        }
    }

    pub fn flush_acks(&mut self) {
        if let Some(run) = self.acks.take() {
            ToHost::Settled { first: run.first, count: run.count, outcome: run.outcome, reason: "" }
                .encode(&mut self.out);
        }
    }
}
