//! What each command does. Must never wait for a client: what comes of a command is an event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use mqtt_proto::TopicName;
use serde_json::{Value, json};

use crate::Cloud;
use crate::command::Command;
use crate::event::What;
use crate::faults::{Acting, Faults, Own, Refusing, Spring};
use crate::peer::{Outgoing, Peer, random_key};
use crate::ports::Job;
use crate::topic::{self, Channel};
use crate::twin::Change;
use crate::world::{End, Order, World};

/// For the answer to a method.
const METHOD_TIMEOUT_S: f64 = 30.0;
const METHOD_TIMEOUT_MAX_S: f64 = 300.0;

/// Ten years.
const CLOCK_SKEW_MAX_S: i64 = 315_360_000;

impl Cloud {
    /// Carries it out before it returns, as far as it is about the cloud itself. What it has to say comes back: the
    /// `version` of desired properties, the `rid` of a method, otherwise null.
    pub fn command(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Cut => self.ask(Job::Cut),
            Command::Heal => self.ask(Job::Heal),
            Command::WrongCertificate { kind } => {
                self.shared.set_tls(self.shared.authority.server(kind)?);
                self.shared.world().faults.wrong = kind;
                Ok(Value::Null)
            }
            Command::Calm => {
                self.shared.set_tls(self.shared.authority.server(None)?);
                let mut world = self.shared.world();
                world.faults = Faults::default();
                world.wake();
                drop(world);
                self.ask(Job::Heal)
            }
            Command::Method { identity, name, payload, timeout_s } => {
                let timeout_s = timeout_s.unwrap_or(METHOD_TIMEOUT_S);
                if !(0.0..=METHOD_TIMEOUT_MAX_S).contains(&timeout_s) {
                    return Err(format!("timeout_s: 0 to {METHOD_TIMEOUT_MAX_S}"));
                }
                let rid = self.shared.world().call(&identity, &name, &payload)?;
                let until = Instant::now() + Duration::from_secs_f64(timeout_s);
                self.send(Job::Call { identity, rid: rid.clone(), until })?;
                Ok(json!({"rid": rid}))
            }
            other => self.shared.world().apply(other),
        }
    }
}

impl World {
    fn apply(&mut self, command: Command) -> Result<Value, String> {
        match command {
            Command::Drop { identity } => self.end_known(identity, End::Reset, "dropped by command")?,
            Command::Close { identity } => self.end_known(identity, End::Close, "closed by command")?,
            Command::Refuse { on } => self.faults.refuse = on,
            Command::Http { status, retry_after_s } => {
                self.faults.http = (status != 0).then_some((status, retry_after_s));
            }
            Command::FrameBytes { max } => self.faults.frame_bytes_max = (max != 0).then_some(max),
            Command::Date { skew_s } => self.faults.date_skew_s = skew_s,
            Command::Clock { skew_s } => self.faults.clock_skew_s = skew_s.clamp(-CLOCK_SKEW_MAX_S, CLOCK_SKEW_MAX_S),
            Command::DenyProxy { on } => self.faults.deny_proxy = on,
            Command::Stall { on, identity } => self.set(identity, |now| now.stall = on)?,
            Command::Connack { code, identity } => {
                self.set(identity, |now| now.connack = (code != 0).then_some(code))?;
            }
            Command::NoPuback { on, identity } => self.set(identity, |now| now.no_puback = on)?,
            Command::Throttle { per_second, identity } => {
                self.set(identity, |now| now.per_second = (per_second > 0.0).then_some(per_second))?;
            }
            Command::Latency { ms, identity } => {
                let ms = ms.min(3_600_000);
                self.set(identity, |now| now.latency_ms = (ms != 0).then_some(ms))?;
            }
            Command::TokenLife { seconds, identity } => {
                self.set(identity, |now| now.token_life_s = (seconds != 0).then_some(seconds))?;
            }
            Command::TwinStatus { status, identity } => {
                self.set(identity, |now| now.twin_status = (status != 0).then_some(status))?;
            }
            Command::CloseOnPublish { trap, identity } => self.own(identity)?.set_trap(trap, Spring::BeforeStored)?,
            Command::CloseAfterPublish { trap, identity } => {
                self.own(identity)?.set_trap(trap, Spring::InsteadOfPuback)?;
            }
            Command::CloseMidFrame { identity } => self.own(identity)?.close_mid_frame = true,
            Command::ExpireTokens { identity } => {
                self.known(identity.as_deref())?;
                let fits = |id: &str| identity.as_deref().is_none_or(|identity| identity == id);
                self.peers.iter_mut().filter(|(id, _)| fits(id)).for_each(|(_, peer)| peer.refuse_tokens());
                self.end_of(identity.as_deref(), End::Close, "the token expired, by command");
            }
            Command::Revoke { identity } => {
                self.peer(&identity)?.keys = [random_key()?, random_key()?];
                self.say(What::Revoked { identity: identity.clone() });
                self.end_of(Some(&identity), End::Close, "the keys were replaced");
            }
            Command::Desired { identity, patch } => {
                let change = Change { desired: Some(patch), ..Change::default() };
                return Ok(json!({"version": self.change_twin(&identity, change)?}));
            }
            Command::C2d { identity, body, properties } => self.message_device(&identity, &body, properties)?,
            Command::Input { identity, input, body, properties } => {
                self.message_input(&identity, &input, &body, &properties)?;
            }
            Command::Bytes { identity, base64 } => {
                let bytes = BASE64.decode(base64.as_bytes()).map_err(|e| format!("base64: {e}"))?;
                self.peer(&identity)?;
                if !self.order(&identity, Order::Bytes(bytes)) {
                    return Err(format!("`{identity}` is not connected"));
                }
            }
            other => return self.apply_to_registry(other),
        }
        Ok(Value::Null)
    }

    /// What concerns identities beside their connections, and the REST interfaces.
    fn apply_to_registry(&mut self, command: Command) -> Result<Value, String> {
        match command {
            Command::RestStatus { status, retry_after_s, count } => {
                self.faults.rest = refusing(status, retry_after_s, count)?;
            }
            Command::DpsStatus { status, retry_after_s, count } => {
                self.faults.dps = refusing(status, retry_after_s, count)?;
            }
            Command::DpsOutcome { outcome } => self.faults.dps_outcome = outcome,
            Command::Disable { identity } => self.set_enabled(&identity, false)?,
            Command::Enable { identity } => self.set_enabled(&identity, true)?,
            Command::Make { identity } => {
                let (device, module) = identity.split_once('/').map_or((&*identity, None), |(d, m)| (d, Some(m)));
                let peer = Peer::new(device, module, [random_key()?, random_key()?]);
                self.add(peer, "command").map_err(|why| why.message)?;
            }
            Command::Remove { identity } => {
                self.peer(&identity)?;
                self.remove(&identity, "command");
            }
            Command::Enrol { registration, device, key } => {
                return Ok(json!({"key": self.dps.enrol(&registration, device, key)?}));
            }
            _ => return Err("not for the world".to_owned()),
        }
        Ok(Value::Null)
    }

    fn known(&self, identity: Option<&str>) -> Result<(), String> {
        match identity {
            Some(identity) if !self.peers.contains_key(identity) => Err(format!("there is no identity `{identity}`")),
            _ => Ok(()),
        }
    }

    /// Faults of this one, or of all.
    fn own(&mut self, identity: Option<String>) -> Result<&mut Own, String> {
        self.known(identity.as_deref())?;
        Ok(self.faults.of(identity))
    }

    fn end_known(&mut self, identity: Option<String>, how: End, reason: &str) -> Result<(), String> {
        self.known(identity.as_deref())?;
        self.end_of(identity.as_deref(), how, reason);
        Ok(())
    }

    fn set(&mut self, identity: Option<String>, set: impl FnOnce(&mut Acting)) -> Result<(), String> {
        set(&mut self.own(identity)?.now);
        self.wake();
        Ok(())
    }

    fn message_device(
        &mut self,
        identity: &str,
        body: &Value,
        mut properties: BTreeMap<String, String>,
    ) -> Result<(), String> {
        let peer = self.peer(identity)?;
        if peer.module.is_some() {
            return Err(format!("`{identity}` is a module; it gets messages at its inputs"));
        }
        properties.insert("$.to".to_owned(), format!("/devices/{identity}/messages/deviceBound"));
        let topic = check(topic::cloud_to_device(identity, &properties))?;
        peer.push_waiting(Outgoing { topic, body: bytes(body), channel: Channel::CloudToDevice })?;
        self.order(identity, Order::Wake);
        Ok(())
    }

    fn message_input(
        &mut self,
        identity: &str,
        input: &str,
        body: &Value,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let peer = self.peer(identity)?;
        let module = peer.module.clone().ok_or_else(|| format!("`{identity}` is no module"))?;
        let topic = check(topic::input(&peer.device, &module, input, properties))?;
        peer.push_waiting(Outgoing { topic, body: bytes(body), channel: Channel::Inputs })?;
        self.order(identity, Order::Wake);
        Ok(())
    }

    /// The number of the call.
    fn call(&mut self, identity: &str, name: &str, payload: &Value) -> Result<String, String> {
        let subscribed = self.peer(identity)?.subscriptions.contains_key(&Channel::Methods);
        check(name.to_owned())?;
        let rid = self.new_call(identity, None);
        let outgoing = Outgoing { topic: topic::method(name, &rid), body: bytes(payload), channel: Channel::Methods };
        if !(subscribed && self.order(identity, Order::Send(outgoing))) {
            self.answer_call(identity, &rid, 404, Value::Null);
        }
        Ok(rid)
    }
}

/// 0 is none.
fn refusing(status: u16, retry_after_s: Option<u32>, count: Option<u32>) -> Result<Option<Refusing>, String> {
    match status {
        0 => Ok(None),
        400..600 => Ok(Some(Refusing { status, retry_after_s, count })),
        other => Err(format!("status: {other} is no HTTP error")),
    }
}

/// Names go into topics raw.
fn check(topic: String) -> Result<String, String> {
    if TopicName::is_invalid(&topic) { Err(format!("`{topic}` can't be a topic")) } else { Ok(topic) }
}

/// A text is sent as it is, anything else as JSON.
fn bytes(body: &Value) -> Vec<u8> {
    match body {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}
