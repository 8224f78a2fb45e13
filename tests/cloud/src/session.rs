//! The MQTT side of one connection, from CONNECT to the end: packets in, packets out, and its timers. Must never do I/O, and
//! never go on after a packet that breaks the rules.

mod packet;
mod registrant;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqtt_proto::v3::{
    Connack, Connect, ConnectReturnCode, Packet, Publish, Suback, Subscribe, SubscribeReturnCode, Unsubscribe,
};
use mqtt_proto::{Pid, QoS, QosPid, TopicName};
use serde_json::Value;

use crate::clock::unix_ms;
use crate::event::{Telemetry, What};
use crate::faults::{Acting, Spring};
use crate::peer::{Outgoing, Pass};
use crate::topic::{Channel, Upward, twin_answer};
use crate::world::{Denied, Order, World};
use packet::{check_size, packet_length, telemetry};
use registrant::Registrant;

const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// The cloud's ceiling, also for clients that want none.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(1767);
/// A token that lives longer outlives every run.
const TOKEN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

pub struct Session {
    link: u64,
    web_socket: bool,
    who: Option<Who>,
    /// Instead of `who`, of one who wants to be provisioned.
    registrant: Option<Registrant>,
    /// Not taken apart yet.
    input: Vec<u8>,
    output: Vec<u8>,
    acting: Acting,
    begun: Instant,
    heard: Instant,
    keep_alive: Duration,
    pass: Option<Pass>,
    token_end: Option<Instant>,
    /// Acknowledgements that are not sent yet, and when they may be.
    owed: VecDeque<(Instant, Pid)>,
    last_due: Instant,
    next_pid: Pid,
    /// Packet id to the number of the waiting message.
    in_flight: BTreeMap<u16, u64>,
    waiting_sent: u64,
}

struct Who {
    identity: String,
    device: String,
    module: Option<String>,
}

/// Why a connection ends by what it did or by a timer. What is in the output is still sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Stop {
    pub code: Option<u8>,
    pub reason: String,
}

fn stop<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop { code: None, reason: reason.into() })
}

impl Session {
    pub fn new(link: u64, web_socket: bool, now: Instant) -> Session {
        Session {
            link,
            web_socket,
            who: None,
            registrant: None,
            input: Vec::new(),
            output: Vec::new(),
            acting: Acting::default(),
            begun: now,
            heard: now,
            keep_alive: KEEP_ALIVE_MAX,
            pass: None,
            token_end: None,
            owed: VecDeque::new(),
            last_due: now,
            next_pid: Pid::default(),
            in_flight: BTreeMap::new(),
            waiting_sent: 0,
        }
    }

    /// Where the bytes of the stream are to be appended before `handle_input`.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub fn identity(&self) -> Option<&str> {
        self.who.as_ref().map(|who| who.identity.as_str())
    }

    pub fn handle_input(&mut self, world: &mut World, now: Instant) -> Result<(), Stop> {
        self.heard = now;
        self.refresh(world);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(length) = packet_length(rest)? {
            let (packet, behind) = rest.split_at(length);
            rest = behind;
            // All of it is here: an end inside of it is a fault, and not a reason to wait.
            match Packet::decode(packet) {
                Ok(Some(packet)) => self.handle_packet(world, now, packet)?,
                Ok(None) => return stop("malformed: a packet is shorter than what it holds"),
                Err(error) => return stop(format!("malformed: {error}")),
            }
            // Its connection may have been ended by what it did.
            if !world.is_live(self.link) {
                return stop("ended");
            }
        }
        self.input = rest.to_vec();
        self.release(now);
        Ok(())
    }

    pub fn handle_order(&mut self, world: &mut World, now: Instant, order: Order) {
        self.refresh(world);
        match order {
            Order::Wake => {}
            Order::Send(outgoing) => self.send(world, &outgoing, None),
            Order::Bytes(bytes) => self.output.extend(bytes),
        }
        self.send_waiting(world);
        self.release(now);
    }

    pub fn next_timeout(&self) -> Instant {
        if !self.is_named() {
            return self.begun + CONNECT_WITHIN;
        }
        let mut next = self.heard + self.keep_alive;
        if let Some(end) = self.token_end {
            next = next.min(end);
        }
        match self.owed.front() {
            Some((due, _)) if !self.acting.no_puback => next.min(*due),
            _ => next,
        }
    }

    pub fn on_timeout(&mut self, now: Instant) -> Result<(), Stop> {
        if !self.is_named() && now >= self.begun + CONNECT_WITHIN {
            return stop("no CONNECT within a minute");
        }
        if self.is_named() && now >= self.heard + self.keep_alive {
            return stop("nothing heard for one and a half times the keep-alive");
        }
        if self.token_end.is_some_and(|end| now >= end) {
            return stop("the token expired");
        }
        self.release(now);
        Ok(())
    }

    /// Faults may have changed since.
    fn refresh(&mut self, world: &World) {
        self.acting = world.faults.acting(self.identity());
        let Some(pass) = self.pass else { return };
        let expiry_ms = pass.expiry.saturating_add(world.grace_s).saturating_mul(1000);
        let left = Duration::from_millis(expiry_ms.saturating_sub(world.clock_ms())).min(TOKEN_MAX);
        let end = Instant::now() + left;
        let life = self.acting.token_life_s.map(|life| pass.first_used + Duration::from_secs(life).min(TOKEN_MAX));
        self.token_end = Some(life.map_or(end, |life| life.min(end)));
    }

    fn handle_packet(&mut self, world: &mut World, now: Instant, packet: Packet) -> Result<(), Stop> {
        if self.registrant.is_some() {
            return self.handle_registrant(world, packet);
        }
        match (packet, self.who.is_some()) {
            (Packet::Connect(connect), false) => self.connect(world, &connect),
            (_, false) => stop("the first packet was no CONNECT"),
            (Packet::Connect(_), true) => stop("a second CONNECT"),
            (Packet::Publish(publish), true) => self.publish(world, now, publish),
            (Packet::Puback(pid), true) => {
                self.acknowledged(world, pid);
                Ok(())
            }
            (Packet::Subscribe(subscribe), true) => {
                self.subscribe(world, &subscribe);
                Ok(())
            }
            (Packet::Unsubscribe(unsubscribe), true) => {
                self.unsubscribe(world, &unsubscribe);
                Ok(())
            }
            (Packet::Pingreq, true) => {
                self.put(&Packet::Pingresp);
                Ok(())
            }
            (Packet::Disconnect, true) => {
                world.forget_will(self.link);
                stop("the client said DISCONNECT")
            }
            (other, true) => stop(format!("a client sends no {:?}", other.get_type())),
        }
    }

    fn is_named(&self) -> bool {
        self.who.is_some() || self.registrant.is_some()
    }

    fn set_keep_alive(&mut self, seconds: u16) {
        let asked = Duration::from_millis(u64::from(seconds) * 1500);
        self.keep_alive = if asked.is_zero() { KEEP_ALIVE_MAX } else { asked.min(KEEP_ALIVE_MAX) };
    }

    fn connect(&mut self, world: &mut World, connect: &Connect) -> Result<(), Stop> {
        if let Some(registered) = self.connect_registrant(world, connect) {
            return registered;
        }
        match world.connect(self.link, connect, self.web_socket) {
            Ok(accepted) => {
                let (device, module) = match accepted.identity.split_once('/') {
                    Some((device, module)) => (device.to_owned(), Some(module.to_owned())),
                    None => (accepted.identity.clone(), None),
                };
                if let Some(will) = &connect.last_will {
                    let message = telemetry(&accepted.identity, &will.topic_name, &will.message)?;
                    world.keep_will(self.link, Telemetry { qos: will.qos as u8, ..message });
                }
                self.who = Some(Who { identity: accepted.identity, device, module });
                self.pass = Some(accepted.pass);
                self.set_keep_alive(connect.keep_alive);
                self.put(&Connack::new(accepted.session_present, ConnectReturnCode::Accepted).into());
                self.refresh(world);
                self.send_waiting(world);
                Ok(())
            }
            Err(Denied { code, reason }) => {
                // As bytes: the command may ask for a code that the standard does not have.
                self.output.extend_from_slice(&[0x20, 2, 0, code]);
                Err(Stop { code: Some(code), reason })
            }
        }
    }

    fn publish(&mut self, world: &mut World, now: Instant, publish: Publish) -> Result<(), Stop> {
        let pid = match publish.qos_pid {
            QosPid::Level0 => None,
            QosPid::Level1(pid) => Some(pid),
            QosPid::Level2(_) => return stop("a publish with QoS 2"),
        };
        let Some(who) = &self.who else { return stop("no CONNECT") };
        let identity = who.identity.clone();
        let topic: &str = &publish.topic_name;
        match Upward::parse(topic).map_err(|reason| Stop { code: None, reason })? {
            Upward::Telemetry { device, module, system, mut properties } => {
                if device != who.device || module != who.module {
                    return stop(format!("`{topic}` is not the topic of {identity}"));
                }
                check_size(&publish.payload, &system, &properties)?;
                let spring = world.faults.springs(&identity, &publish.payload);
                if spring == Some(Spring::BeforeStored) {
                    return stop("by command, before a publish was stored");
                }
                if publish.retain {
                    properties.insert("mqtt-retain".to_owned(), Some("true".to_owned()));
                }
                let (topic, body, dup) = (topic.to_owned(), Vec::from(publish.payload), publish.dup);
                let (qos, at_ms) = (u8::from(pid.is_some()), unix_ms());
                world.store(Telemetry { identity, topic, properties, system, body, dup, qos, at_ms });
                if spring == Some(Spring::InsteadOfPuback) {
                    return stop("by command, instead of a PUBACK");
                }
            }
            Upward::TwinGet { rid } | Upward::Reported { rid } if self.acting.twin_status.is_some() => {
                let body = br#"{"errorCode":500000,"message":"by command"}"#.to_vec();
                let status = self.acting.twin_status.unwrap_or_default();
                self.answer(world, twin_answer(status, &rid, None), body);
            }
            Upward::TwinGet { rid } => {
                let view = world.peer(&identity).map(|peer| peer.twin.view()).unwrap_or_default();
                world.say(What::TwinGet { identity: identity.clone() });
                let topic = twin_answer(200, &rid, None);
                self.answer(world, topic, view.to_string().into_bytes());
            }
            Upward::Reported { rid } => {
                let (status, version, body) = world.report(&identity, &publish.payload);
                self.answer(world, twin_answer(status, &rid, version), body);
            }
            Upward::MethodAnswer { status, rid } => {
                let payload = serde_json::from_slice::<Value>(&publish.payload).unwrap_or_default();
                world.answer_call(&identity, &rid, status, payload);
            }
        }
        if let Some(pid) = pid {
            self.acknowledge(now, pid);
        }
        Ok(())
    }

    fn acknowledge(&mut self, now: Instant, pid: Pid) {
        let Acting { no_puback, per_second, latency_ms, .. } = self.acting;
        if self.owed.is_empty() && !no_puback && per_second.is_none() && latency_ms.is_none() {
            return self.put(&Packet::Puback(pid));
        }
        let interval = per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate.max(0.001)));
        let due = (now + Duration::from_millis(latency_ms.unwrap_or(0))).max(self.last_due + interval);
        self.last_due = due;
        self.owed.push_back((due, pid));
    }

    /// Acknowledgements whose time has come; all of them when nothing holds them back any more.
    fn release(&mut self, now: Instant) {
        let Acting { no_puback, per_second, latency_ms, .. } = self.acting;
        let free = per_second.is_none() && latency_ms.is_none();
        while let Some((due, pid)) = self.owed.front().copied() {
            if no_puback || !(free || due <= now) {
                return;
            }
            self.owed.pop_front();
            self.put(&Packet::Puback(pid));
        }
    }

    fn acknowledged(&mut self, world: &mut World, pid: Pid) {
        let (Some(who), Some(number)) = (&self.who, self.in_flight.remove(&pid.value())) else { return };
        if let Some(count) = world.peer(&who.identity).ok().and_then(|peer| peer.delivered(number)) {
            world.say(What::Delivered { identity: who.identity.clone(), count });
        }
    }

    fn subscribe(&mut self, world: &mut World, subscribe: &Subscribe) {
        let Some(who) = &self.who else { return };
        let mut codes = Vec::new();
        for (filter, qos) in &subscribe.topics {
            let channel = Channel::parse(filter, &who.device, who.module.as_deref());
            let granted = channel.map(|_| (*qos as u8).min(1));
            if let (Some(channel), Some(granted), Ok(peer)) = (channel, granted, world.peer(&who.identity)) {
                peer.subscriptions.insert(channel, granted);
            }
            codes.push(granted.unwrap_or(0x80));
            let (identity, filter) = (who.identity.clone(), filter.to_string());
            world.say(What::Subscribed { identity, filter, granted });
        }
        let places = vec![SubscribeReturnCode::MaxLevel0; codes.len()];
        self.put(&Suback::new(subscribe.pid, places).into());
        // The codec writes a refusal as 3 and not as 0x80.
        let codes_at = self.output.len() - codes.len();
        self.output[codes_at..].copy_from_slice(&codes);
        self.send_waiting(world);
    }

    fn unsubscribe(&mut self, world: &mut World, unsubscribe: &Unsubscribe) {
        let Some(who) = &self.who else { return };
        for filter in &unsubscribe.topics {
            let channel = Channel::parse(filter, &who.device, who.module.as_deref());
            if let (Some(channel), Ok(peer)) = (channel, world.peer(&who.identity)) {
                peer.subscriptions.remove(&channel);
            }
            world.say(What::Unsubscribed { identity: who.identity.clone(), filter: filter.to_string() });
        }
        self.put(&Packet::Unsuback(unsubscribe.pid));
    }

    fn answer(&mut self, world: &mut World, topic: String, body: Vec<u8>) {
        self.send(world, &Outgoing { topic, body, channel: Channel::TwinAnswers }, None);
    }

    fn send_waiting(&mut self, world: &mut World) {
        let Some(peer) = self.who.as_ref().and_then(|who| world.peer(&who.identity).ok()) else { return };
        for (number, outgoing, _) in peer.waiting_after(self.waiting_sent) {
            self.waiting_sent = number;
            self.send(world, &outgoing, Some(number));
        }
    }

    /// With the QoS of the subscription; lost without one.
    fn send(&mut self, world: &mut World, outgoing: &Outgoing, number: Option<u64>) {
        let Some(who) = &self.who else { return };
        let identity = who.identity.clone();
        let granted = world.peer(&identity).ok().and_then(|peer| peer.subscriptions.get(&outgoing.channel).copied());
        let (Some(qos), Ok(topic)) = (granted, TopicName::try_from(outgoing.topic.as_str())) else {
            let message = format!("{identity} has no subscription for `{}`", outgoing.topic);
            return world.say(What::Error { message });
        };
        let qos_pid = if qos == QoS::Level0 as u8 {
            if let Some(count) = number.and_then(|number| world.peer(&identity).ok()?.delivered(number)) {
                world.say(What::Delivered { identity, count });
            }
            QosPid::Level0
        } else {
            let pid = self.next_pid;
            self.next_pid += 1;
            if let Some(number) = number {
                self.in_flight.insert(pid.value(), number);
            }
            QosPid::Level1(pid)
        };
        self.put(&Publish::new(qos_pid, topic, Bytes::copy_from_slice(&outgoing.body)).into());
    }

    fn put(&mut self, packet: &Packet) {
        // It fails for what is longer than MQTT can write, which nothing here is.
        if let Ok(bytes) = packet.encode() {
            self.output.extend_from_slice(bytes.as_ref());
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
