//! Messages that were handed over for the cloud and are not acknowledged by it, in order, as the packets that carry them.
//! Must never change their order, and never forget one that is not acknowledged.

use std::collections::VecDeque;

use crate::logic::mqtt;
use crate::model::time::Mono;

/// How often a message may be the oldest one when the cloud ends the connection, before it is tried alone.
const SUSPECT_AFTER: u32 = 2;
/// How often it may then end the connection by itself. With three, a network that breaks every few seconds condemned a good
/// message in one of 5,000 simulated hours.
const ALONE_MAX: u32 = 5;
/// An end that comes later than this after it was sent has another reason, ms.
const ALONE_WITHIN_MS: u64 = 10_000;

struct InFlight {
    delivery: u64,
    pid: u16,
    packet: Vec<u8>,
    /// Number of the connection it was last sent on; 0: never.
    sent_on: u32,
}

/// The oldest message, as long as connections end while it is that.
#[derive(Clone, Copy)]
struct Suspect {
    delivery: u64,
    ends: u32,
    ends_alone: u32,
}

#[derive(Default)]
pub struct Window {
    flights: VecDeque<InFlight>,
    next_pid: u16,
    suspect: Option<Suspect>,
    /// When the oldest was sent, or when the last one was acknowledged.
    pub progress: Mono,
}

impl Window {
    /// Some of it was sent on this connection.
    pub fn is_waiting(&self, connection: u32) -> bool {
        self.flights.front().is_some_and(|f| f.sent_on == connection)
    }

    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// An identifier that no message of the window has.
    pub fn pid(&mut self) -> u16 {
        loop {
            self.next_pid = self.next_pid.wrapping_add(1).max(1);
            if !self.flights.iter().any(|f| f.pid == self.next_pid) {
                return self.next_pid;
            }
        }
    }

    /// False where the topic can't be sent; nothing is kept then.
    pub fn push(&mut self, delivery: u64, topic: &str, payload: &[u8]) -> bool {
        let pid = self.pid();
        let mut packet = Vec::new();
        if !mqtt::publish(&mut packet, topic, Some(pid), payload) {
            return false;
        }
        self.flights.push_back(InFlight { delivery, pid, packet, sent_on: 0 });
        true
    }

    /// Appends what was not sent on this connection yet; what an earlier one has seen is marked as a duplicate.
    pub fn send(&mut self, now: Mono, connection: u32, out: &mut Vec<u8>) {
        let count = if self.is_alone() { 1 } else { self.flights.len() };
        if self.flights.front().is_some_and(|f| f.sent_on != connection) {
            self.progress = now;
        }
        // What was sent lies in front of what was not.
        let first = self.flights.partition_point(|f| f.sent_on == connection);
        for flight in self.flights.range_mut(first.min(count)..count) {
            if flight.sent_on != 0 {
                mqtt::mark_duplicate(&mut flight.packet);
            }
            flight.sent_on = connection;
            out.extend_from_slice(&flight.packet);
        }
    }

    /// The delivery that this answers; `None` for an answer to nothing.
    pub fn acked(&mut self, now: Mono, pid: u16) -> Option<u64> {
        let at = self.flights.iter().position(|f| f.pid == pid && f.sent_on != 0)?;
        let flight = self.flights.remove(at)?;
        self.progress = now;
        if self.suspect.is_some_and(|s| s.delivery == flight.delivery) {
            self.suspect = None;
        }
        Some(flight.delivery)
    }

    /// It is too old to be sent any more.
    pub fn forget(&mut self, delivery: u64) {
        self.flights.retain(|flight| flight.delivery != delivery);
        if self.suspect.is_some_and(|suspect| suspect.delivery == delivery) {
            self.suspect = None;
        }
    }

    /// The other side ended a connection that was up. Returns the delivery that has done so too often, taken out.
    pub fn ended(&mut self, now: Mono, connection: u32) -> Option<u64> {
        let oldest = self.flights.front().filter(|f| f.sent_on == connection)?;
        let delivery = oldest.delivery;
        let alone = self.is_alone();
        let fresh = Suspect { delivery, ends: 0, ends_alone: 0 };
        let suspect = self.suspect.get_or_insert(fresh);
        if suspect.delivery != delivery {
            *suspect = fresh;
        }
        suspect.ends += 1;
        if alone && now.since(self.progress) <= ALONE_WITHIN_MS {
            suspect.ends_alone += 1;
        }
        if suspect.ends_alone < ALONE_MAX {
            return None;
        }
        self.suspect = None;
        self.flights.pop_front().map(|f| f.delivery)
    }

    /// Only the oldest is sent, because connections end while it is that.
    pub fn is_alone(&self) -> bool {
        let oldest = self.flights.front().map(|f| f.delivery);
        self.suspect.is_some_and(|s| s.ends >= SUSPECT_AFTER && Some(s.delivery) == oldest)
    }
}
