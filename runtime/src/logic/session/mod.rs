//! One identity's conversation with the cloud: dial, CONNECT with a fresh token, subscribe, send and have acknowledged,
//! keep alive, renew, try again. A plain state machine: its shell dials, carries bytes and tells the time.
//! Must never count a message as delivered that the cloud has not acknowledged.

mod event;
mod timer;
mod window;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use super::backoff::{Backoff, Failure};
use super::dialect::{self, Incoming};
use super::mqtt::{self, Packet, Refusal};
use super::sas;
use crate::model::identity::Credentials;
use crate::model::time::{Mono, Wall};
pub use event::{Action, Event, Loss};
use window::Window;

/// A connection that held so long ends a row of failures, ms. Two devices with one identity end each other's in less.
const HELD_MS: u64 = 10_000;
/// How long a renewal waits for what is on its way, ms.
const DRAIN_MS: u64 = 2_000;
/// Of a token's life, percent: the rest is the margin for its renewal.
const RENEW_AT_PERCENT: u64 = 85;

#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub keep_alive: Duration,
    /// Longest wait for any answer of the cloud.
    pub operation_timeout: Duration,
    pub token_ttl: Duration,
    pub retry_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Mono,
    },
    Dialling,
    Connecting,
    Up {
        since: Mono,
    },
    /// The token ends soon: nothing new is sent, and what is on its way may be answered until then.
    Renewing {
        since: Mono,
        until: Mono,
    },
    /// Hung up by ourselves; the shell is to say that it is done.
    HangingUp,
    /// Not connected, since there is nothing to say.
    Resting {
        until: Mono,
    },
}

/// When a connection that nobody uses is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    pub after: Duration,
    /// It is made again after this, to hear what the cloud has; `None`: not before there is something to say.
    pub rest_max: Option<Duration>,
}

pub struct Session {
    identity: Credentials,
    config: SessionConfig,
    phase: Phase,
    backoff: Backoff,
    window: Window,
    /// Counts connections from 1.
    connection: u32,
    incoming: Vec<u8>,
    out: Vec<u8>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    /// CONNECT or SUBSCRIBE without an answer, since.
    asked: Option<Mono>,
    pinged: Option<Mono>,
    sent_at: Mono,
    renew_at: Mono,
    idle: Option<Idle>,
    /// When somebody last said something beside pings.
    used_at: Mono,
    /// What it hangs up for is to rest.
    is_tired: bool,
}

impl Session {
    /// Dials at once. The same seed gives the same waits.
    pub fn new(identity: Credentials, config: SessionConfig, seed: u64) -> Session {
        Session {
            backoff: Backoff::new(config.retry_max, seed),
            identity,
            config,
            phase: Phase::Waiting { until: Mono(0) },
            window: Window::default(),
            connection: 0,
            incoming: Vec::new(),
            out: Vec::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            asked: None,
            pinged: None,
            sent_at: Mono(0),
            renew_at: Mono::NEVER,
            idle: None,
            used_at: Mono(0),
            is_tired: false,
        }
    }

    /// Begins without a connection, until there is something to say.
    pub fn rested(self) -> Session {
        Session { phase: Phase::Resting { until: Mono::NEVER }, ..self }
    }

    /// From now on; `None`: stay connected.
    pub fn set_idle(&mut self, now: Mono, idle: Option<Idle>) {
        self.idle = idle;
        if idle.is_none() {
            self.handle_need(now);
        }
    }

    /// There is something to say, or to hear.
    pub fn handle_need(&mut self, now: Mono) {
        if let Phase::Resting { .. } = self.phase {
            self.phase = Phase::Waiting { until: now };
        }
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Resting { .. })
    }

    pub fn identity(&self) -> &Credentials {
        &self.identity
    }

    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. } | Phase::Renewing { .. })
    }

    /// Messages without an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.window.len()
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes for the connection; the shell takes them.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The shell has a connection. `clock` is the best guess at the time: the token is judged by it.
    pub fn handle_open(&mut self, now: Mono, clock: Wall) {
        if self.phase != Phase::Dialling {
            return;
        }
        self.connection += 1;
        self.phase = Phase::Connecting;
        self.used_at = now;
        self.incoming.clear();
        self.out.clear();
        self.asked = Some(now);
        self.pinged = None;
        self.sent_at = now;
        let ttl_ms = self.config.token_ttl.as_millis() as u64;
        self.renew_at = now.plus(ttl_ms / 100 * RENEW_AT_PERCENT);
        let expires = clock.0.div_euclid(1_000).saturating_add((ttl_ms / 1_000) as i64);
        let token = sas::token(&self.identity.key, &self.identity.resource_uri(), expires);
        let (client, user) = (self.identity.client_id(), dialect::user_name(&self.identity));
        let keep_alive = self.config.keep_alive.as_secs().min(u64::from(u16::MAX)) as u16;
        mqtt::connect(&mut self.out, &client, &user, &token, keep_alive);
    }

    /// A message for the cloud. Kept until it is acknowledged, over as many connections as that takes.
    pub fn publish(&mut self, now: Mono, delivery: u64, topic: &str, payload: &[u8]) {
        if !self.window.push(delivery, topic, payload) {
            let reason = format!("its properties make a topic of {} bytes that MQTT can't carry", topic.len());
            self.events.push_back(Event::Rejected { delivery, reason });
        }
        self.used_at = now;
        self.handle_need(now);
        self.send(now);
    }

    /// A message that is too old by now. Only while there is no connection: nobody can say then whether it arrived.
    pub fn forget(&mut self, delivery: u64) {
        if !self.is_up() {
            self.window.forget(delivery);
        }
    }

    /// A request or an answer that is only of use on this connection; lost with it.
    pub fn request(&mut self, now: Mono, topic: &str, payload: &[u8]) {
        if self.is_up() && mqtt::publish(&mut self.out, topic, None, payload) {
            (self.sent_at, self.used_at) = (now, now);
        }
    }

    /// For a stop: says good-bye where there is somebody to say it to.
    pub fn handle_stop(&mut self) {
        if self.is_up() {
            mqtt::disconnect(&mut self.out);
        }
        self.phase = Phase::HangingUp;
        self.actions.push_back(Action::HangUp);
    }

    pub fn handle_bytes(&mut self, now: Mono, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            match mqtt::decode(&self.incoming[used..]) {
                Ok(Some((packet, length))) => {
                    used += length;
                    self.handle_packet(now, packet);
                }
                Ok(None) => break,
                Err(error) => {
                    self.incoming.clear();
                    return self.give_up(now, format!("what the cloud sent is no MQTT: {error}"), Failure::Broken);
                }
            }
            if !matches!(self.phase, Phase::Connecting | Phase::Up { .. } | Phase::Renewing { .. }) {
                self.incoming.clear();
                return;
            }
        }
        self.incoming.drain(..used);
        self.send(now);
        self.check_drained(now);
    }

    fn handle_packet(&mut self, now: Mono, packet: Packet) {
        match packet {
            Packet::ConnAck(answer) if self.phase == Phase::Connecting => match answer {
                Ok(_) => self.accepted(now),
                Err(refusal) => self.refused(now, refusal),
            },
            Packet::PubAck { pid } => {
                self.used_at = now;
                if let Some(delivery) = self.window.acked(now, pid) {
                    self.acked(delivery);
                }
            }
            Packet::SubAck { granted, .. } => {
                self.asked = None;
                if granted {
                    self.events.push_back(Event::Ready);
                } else {
                    let why = "the cloud refused a subscription to twin or methods".to_owned();
                    self.give_up(now, why, Failure::Refused);
                }
            }
            Packet::PingResp => self.pinged = None,
            Packet::Publish { topic, payload, pid } => {
                self.used_at = now;
                if let Some(pid) = pid {
                    mqtt::puback(&mut self.out, pid);
                }
                self.handle_message(&topic, payload);
            }
            Packet::ConnAck(_) => {
                self.give_up(now, "the cloud answered a CONNECT twice".to_owned(), Failure::Broken);
            }
        }
    }

    fn handle_message(&mut self, topic: &str, payload: Vec<u8>) {
        self.events.extend(dialect::incoming(topic).map(|incoming| match incoming {
            Incoming::TwinAnswer { status, rid, version } => Event::TwinAnswer { rid, status, version, body: payload },
            Incoming::Desired { version } => Event::Desired { version, body: payload },
            Incoming::Method { name, rid } => Event::Method { name, rid, payload },
        }));
    }

    fn accepted(&mut self, now: Mono) {
        self.phase = Phase::Up { since: now };
        self.events.push_back(Event::Up);
        self.asked = Some(now);
        let pid = self.window.pid();
        mqtt::subscribe(&mut self.out, pid, &dialect::SUBSCRIPTIONS);
    }

    fn refused(&mut self, now: Mono, refusal: Refusal) {
        let client = self.identity.client_id();
        let why = match refusal {
            // No time stands in it: the same reason must read the same, and whoever logs it says when.
            Refusal::Credentials => format!(
                "the cloud does not accept {client}: its key is wrong, or the identity is disabled or unknown there, or its token is \
                 not valid at the cloud's time; check the connection string, then the clock of this device"
            ),
            Refusal::Busy => "the cloud is busy and takes no connection now".to_owned(),
            Refusal::Protocol => format!("the cloud refuses the client id {client:?}; check DeviceId and ModuleId"),
        };
        let busy = Failure::Busy { asked: Duration::ZERO };
        self.give_up(now, why, if refusal == Refusal::Busy { busy } else { Failure::Refused });
    }

    fn acked(&mut self, delivery: u64) {
        if let Some(Event::Acked { first, count }) = self.events.back_mut()
            && *first + u64::from(*count) == delivery
        {
            *count += 1;
            return;
        }
        self.events.push_back(Event::Acked { first: delivery, count: 1 });
    }

    fn send(&mut self, now: Mono) {
        if matches!(self.phase, Phase::Up { .. }) {
            let before = self.out.len();
            self.window.send(now, self.connection, &mut self.out);
            if self.out.len() > before {
                self.sent_at = now;
            }
        }
    }

    /// The connection is gone, or could not be made.
    pub fn handle_closed(&mut self, now: Mono, loss: Loss) {
        match (self.phase, loss) {
            (Phase::HangingUp, _) if std::mem::take(&mut self.is_tired) && self.window.len() == 0 => self.rest(now),
            (Phase::HangingUp, _) => self.lost(now, None, None),
            (Phase::Waiting { .. } | Phase::Resting { .. }, _) => {}
            (Phase::Up { .. } | Phase::Renewing { .. }, Loss::Ended(why)) => {
                if let Some(delivery) = self.window.ended(now, self.connection) {
                    let reason = "each time it was sent the cloud ended the connection".to_owned();
                    self.events.push_back(Event::Rejected { delivery, reason });
                }
                self.lost(now, Some(why), Some(Failure::Broken));
            }
            (_, Loss::Ended(why) | Loss::Unreachable(why)) => self.lost(now, Some(why), Some(Failure::Broken)),
            (_, Loss::Busy { why, asked }) => self.lost(now, Some(why), Some(Failure::Busy { asked })),
        }
    }

    /// Ends a connection that is of no use.
    fn give_up(&mut self, now: Mono, why: String, failure: Failure) {
        self.actions.push_back(Action::HangUp);
        self.lost(now, Some(why), Some(failure));
    }

    fn rest(&mut self, now: Mono) {
        let rest_max = self.idle.and_then(|idle| idle.rest_max);
        self.phase = Phase::Resting { until: rest_max.map_or(Mono::NEVER, |max| now.after(max)) };
        self.backoff.reset();
        self.events.push_back(Event::Rested);
    }

    /// `failure` is `None` where the end was planned.
    fn lost(&mut self, now: Mono, why: Option<String>, failure: Option<Failure>) {
        if let Phase::Up { since } | Phase::Renewing { since, .. } = self.phase
            && now.since(since) >= HELD_MS
        {
            self.backoff.reset();
        }
        let until = failure.map_or(now, |failure| self.backoff.failed(now, failure));
        self.phase = Phase::Waiting { until };
        self.asked = None;
        self.pinged = None;
        self.renew_at = Mono::NEVER;
        self.incoming = Vec::new();
        self.events.push_back(Event::Down {
            why,
            retry_in_ms: until.since(now),
            refused: failure == Some(Failure::Refused),
        });
    }

    fn check_drained(&mut self, now: Mono) {
        let Phase::Renewing { until, .. } = self.phase else { return };
        if until <= now || !self.window.is_waiting(self.connection) {
            mqtt::disconnect(&mut self.out);
            self.actions.push_back(Action::HangUp);
            self.phase = Phase::HangingUp;
        }
    }
}
