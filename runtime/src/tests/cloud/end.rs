//! The device's side of one identity: session, twin and the hub's queue, carried as `tasks/upstream.rs` carries them. After each step it is
//! held against what the cloud has. Must never complete a message that the cloud has not stored.

use std::collections::BTreeMap;

use super::iot_hub::{Peer, Section};
use super::plan::Plan;
use crate::logic::dialect;
use crate::logic::hub::{Ending, Hub, LinkIx, Sent};
use crate::logic::session::{Event, Session};
use crate::logic::twin::Twin;
use crate::logic::twin_sync::{Request, TwinSync};
use crate::model::identity::Credentials;
use crate::model::time::{Mono, Now};
use skerry_abi::wire::frame::{self, Completion, Outcome, Parents, ToHost};
use skerry_abi::wire::record::{Record, Writer};

pub const OUTPUTS: [&str; 2] = ["out", "urgent"];

/// A message that was sent, until it is known what became of it.
#[derive(Clone, Debug)]
pub struct Message {
    pub output: &'static str,
    pub number: u64,
    pub sent_ms: u64,
    pub given_up: bool,
}

pub struct End {
    pub identity: Credentials,
    pub sender: LinkIx,
    pub link: LinkIx,
    pub session: Session,
    pub sync: TwinSync,
    pub twin: Twin,
    /// The wire that it is connected by.
    pub wire: Option<u64>,
    /// The attempt to connect comes to its end then.
    pub dialling: Option<u64>,
    /// Versions that the module was told, each with what it then was.
    pub told: Vec<(u64, Section)>,
    /// Everything that was sent; the ticket counts from 1.
    pub messages: Vec<Message>,
    numbers: [u64; 2],
    /// Deliveries that the session has, and which messages they are.
    flights: BTreeMap<u64, (String, u64)>,
    /// Frames that the hub has for the session.
    pub inbox: Vec<u8>,
    pub connects: u64,
}

impl End {
    pub fn new(hub: &mut Hub, identity: Credentials, plan: &Plan, seed: u64) -> End {
        let name = identity.module_id.clone().unwrap_or_default();
        let sender = hub.open_link(&name, &OUTPUTS.map(str::to_owned), &[]);
        let link = hub.open_upstream(&name);
        End {
            session: Session::new(identity.clone(), plan.session(), seed),
            sync: TwinSync::new(plan.session().operation_timeout),
            identity,
            sender,
            link,
            twin: Twin::new(),
            wire: None,
            dialling: None,
            told: Vec::new(),
            messages: Vec::new(),
            numbers: [0; 2],
            flights: BTreeMap::new(),
            inbox: Vec::new(),
            connects: 0,
        }
    }

    pub fn send(&mut self, hub: &mut Hub, now: Now, output: usize) {
        self.numbers[output] += 1;
        let number = self.numbers[output];
        let message = Message { output: OUTPUTS[output], number, sent_ms: now.mono.0, given_up: false };
        let mut record = Vec::new();
        Writer::new(&mut record).finish(format!("{} {number}", OUTPUTS[output]).as_bytes()).expect("a record");
        self.messages.push(message);
        let ticket = self.messages.len() as u64;
        let sent = Sent { ticket, output: output as u16, at_once: false, parents: Parents::NONE, record: &record };
        hub.publish(now, self.sender, sent).expect("a message");
    }

    /// The runtime begins anew with this identity: what is not acknowledged is the hub's again.
    pub fn restart(&mut self, hub: &mut Hub, now: Now, plan: &Plan, seed: u64) {
        hub.close_link(now, self.link, Ending::Quietly);
        self.link = hub.open_upstream(self.identity.module_id.as_deref().unwrap_or_default());
        self.session = Session::new(self.identity.clone(), plan.session(), seed);
        self.sync = TwinSync::new(plan.session().operation_timeout);
        (self.wire, self.dialling) = (None, None);
        self.flights.clear();
        self.inbox.clear();
    }

    /// One call into the session, and everything that follows from it.
    pub fn turn(&mut self, hub: &mut Hub, now: Now, plan: &Plan, peer: &Peer, act: impl FnOnce(&mut Session, Mono)) {
        act(&mut self.session, now.mono);
        self.session.set_idle(now.mono, plan.idle);
        if self.session.next_timeout() <= now.mono {
            self.session.on_timeout(now.mono);
        }
        self.sync.on_timeout(now.mono);
        loop {
            while let Some(event) = self.session.poll_event() {
                self.handle_event(hub, now, peer, event);
            }
            settle(hub, now);
            let taken = self.take_messages(hub, now);
            self.sync_twin(now.mono);
            if !taken {
                return;
            }
        }
    }

    /// Before it dials.
    pub fn expire(&mut self, hub: &mut Hub, now: Now) {
        for delivery in hub.expire_window(now, self.link) {
            self.flights.remove(&delivery);
            self.session.forget(delivery);
        }
        settle(hub, now);
    }

    fn take_messages(&mut self, hub: &mut Hub, now: Now) -> bool {
        let frames = std::mem::take(&mut self.inbox);
        let more = hub.output(self.link).map(std::mem::take).unwrap_or_default();
        let frames = [frames, more].concat();
        let mut rest = frames.as_slice();
        while let Ok(Some(bytes)) = frame::split(&mut rest) {
            let Ok(ToHost::Deliver { id, record, .. }) = ToHost::decode(bytes) else { continue };
            let record = Record::parse_trusted(record).expect("a record");
            let text = std::str::from_utf8(record.body()).expect("text");
            let (output, number) = text.split_once(' ').expect("two words");
            self.flights.insert(id, (output.to_owned(), number.parse().expect("a number")));
            let topic = dialect::telemetry_topic(&self.identity, &record);
            self.session.publish(now.mono, id, &topic, record.body());
        }
        !frames.is_empty()
    }

    fn sync_twin(&mut self, now: Mono) {
        if self.session.is_resting() && self.sync.has_news(&self.twin) {
            self.session.handle_need(now);
        }
        match self.sync.poll_request(now, &self.twin) {
            Some(Request::Get { rid }) => self.session.request(now, &dialect::twin_get_topic(rid), b" "),
            Some(Request::Report { rid, patch }) => {
                let patch = serde_json::Value::Object(patch).to_string();
                self.session.request(now, &dialect::reported_topic(rid), patch.as_bytes());
            }
            None => {}
        }
    }

    fn handle_event(&mut self, hub: &mut Hub, now: Now, peer: &Peer, event: Event) {
        match event {
            Event::Up => {
                self.connects += 1;
                hub.ready(self.link);
            }
            Event::Ready => self.sync.handle_ready(now.mono),
            Event::Down { .. } => {
                hub.pause(self.link);
                self.sync.handle_lost();
            }
            Event::Rested => self.sync.handle_lost(),
            Event::Acked { first, count } => {
                for id in first..first + u64::from(count) {
                    let (output, number) = self.flights.remove(&id).expect("it was on its way");
                    assert!(peer.has(&output, number), "{output} {number} counts as delivered, and is not there");
                }
                hub.complete(now, self.link, first, count, Completion::Done, "").expect("a delivery");
            }
            Event::Rejected { delivery, reason } => {
                let (output, number) = self.flights.remove(&delivery).expect("it was on its way");
                let message = self.messages.iter_mut().find(|m| m.output == output && m.number == number);
                message.expect("it was sent").given_up = true;
                hub.give_up(now, self.link, delivery, &reason);
            }
            Event::TwinAnswer { rid, status, body, .. } => {
                let changed = self.sync.handle_answer(now.mono, &mut self.twin, rid, status, &body);
                self.tell(peer, changed == Ok(true));
            }
            Event::Desired { version, body } => {
                let changed = self.sync.handle_desired(now.mono, &mut self.twin, version, &body);
                self.tell(peer, changed.expect("a good patch"));
            }
            Event::Method { .. } => unreachable!("nobody calls"),
        }
    }

    /// What the module hears is what was in the cloud, each version once, in its order.
    fn tell(&mut self, peer: &Peer, changed: bool) {
        if !changed {
            return;
        }
        let (version, section) = (self.twin.desired_version(), self.twin.desired().clone());
        assert_eq!(peer.history.get(&version), Some(&section), "version {version} was another in the cloud");
        let last = self.told.last().map_or(1, |(version, _)| *version);
        assert!(version > last, "version {version} after {last}");
        self.told.push((version, section));
    }

    /// The hub's answers to the module.
    pub fn hear(&mut self, hub: &mut Hub, peer: &Peer) {
        let frames = hub.output(self.sender).map(std::mem::take).unwrap_or_default();
        let mut rest = frames.as_slice();
        while let Ok(Some(bytes)) = frame::split(&mut rest) {
            let Ok(ToHost::Settled { first, count, outcome: Outcome::Delivered, .. }) = ToHost::decode(bytes) else {
                continue;
            };
            for ticket in first..first + u64::from(count) {
                let message = &self.messages[ticket as usize - 1];
                assert!(peer.has(message.output, message.number), "{message:?} was answered as delivered");
            }
        }
    }
}

/// The hub's turn ends: commits are safe at once.
pub fn settle(hub: &mut Hub, now: Now) {
    hub.end_turn(now);
    while let Some(commit) = hub.poll_commit(now) {
        hub.handle_committed(now, commit.id, Ok(Default::default()));
        hub.end_turn(now);
    }
    // Nobody's socket is ever full here.
    while hub.take_output().is_some() {}
}
