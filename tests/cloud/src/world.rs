//! The cloud's state, and every decision about it: who may come in, what is stored, what a client is told. Must never wait
//! for a client; what concerns a connection is an order to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_channel::Sender;
use mqtt_proto::v3::Connect;
use serde_json::Value;

use crate::clock::{iso, unix_ms};
use crate::dps::Dps;
use crate::event::{Telemetry, What};
use crate::faults::Faults;
use crate::journal::Journal;
use crate::peer::{Outgoing, Pass, Peer};
use crate::topic::Properties;

/// Connections at a time, those without a name included.
const LINKS_MAX: usize = 1_000;

pub struct World {
    pub host: String,
    pub grace_s: u64,
    /// Of back ends.
    pub policy_key: String,
    pub dps: Dps,
    pub keep_telemetry: bool,
    pub faults: Faults,
    pub journal: Arc<Journal>,
    pub peers: BTreeMap<String, Peer>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// Calls of methods that are not answered yet.
    calls: BTreeMap<String, Calling>,
    next_rid: u64,
    /// Bytes of connections that never had a name.
    pub nameless_bytes: (u64, u64),
}

/// Who was asked, and who waits for the answer beside the journal.
struct Calling {
    identity: String,
    answer: Option<Sender<(i64, Value)>>,
}

/// A connection, seen from here.
struct Link {
    identity: Option<String>,
    orders: Sender<Order>,
    end: Sender<End>,
    traffic: Arc<Traffic>,
    quiet: bool,
    /// What is stored when it ends without a DISCONNECT.
    will: Option<Telemetry>,
}

/// To a connection. A full inbox loses only `Wake`s, which say nothing new then.
#[derive(Debug)]
pub enum Order {
    /// Something changed: look again.
    Wake,
    Send(Outgoing),
    /// Into the MQTT stream as it is.
    Bytes(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Close,
    Reset,
}

/// Bytes on the TCP connection.
#[derive(Debug, Default)]
pub struct Traffic {
    pub read: AtomicU64,
    pub written: AtomicU64,
}

/// A CONNECT that is accepted.
pub struct Accepted {
    pub identity: String,
    pub session_present: bool,
    pub pass: Pass,
}

/// A CONNECT that is not.
pub struct Denied {
    pub code: u8,
    pub reason: String,
}

impl Traffic {
    fn both(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }
}

impl World {
    pub fn new(host: &str, peers: Vec<Peer>, dps: Dps, journal: Arc<Journal>) -> World {
        World {
            host: host.to_owned(),
            grace_s: 0,
            policy_key: String::new(),
            dps,
            keep_telemetry: true,
            faults: Faults::default(),
            journal,
            peers: peers.into_iter().map(|peer| (peer.id(), peer)).collect(),
            links: BTreeMap::new(),
            next_link: 1,
            calls: BTreeMap::new(),
            next_rid: 1,
            nameless_bytes: (0, 0),
        }
    }

    pub fn say(&self, what: What) {
        self.journal.push(unix_ms(), what);
    }

    pub fn peer(&mut self, identity: &str) -> Result<&mut Peer, String> {
        self.peers.get_mut(identity).ok_or_else(|| format!("there is no identity `{identity}`"))
    }

    /// `None` when there are too many.
    pub fn begin(&mut self, orders: Sender<Order>, end: Sender<End>, traffic: Arc<Traffic>) -> Option<u64> {
        if self.links.len() == LINKS_MAX {
            return None;
        }
        let link = self.next_link;
        self.next_link += 1;
        self.links.insert(link, Link { identity: None, orders, end, traffic, quiet: false, will: None });
        Some(link)
    }

    pub fn is_live(&self, link: u64) -> bool {
        self.links.contains_key(&link)
    }

    pub fn is_stalled(&self, link: u64) -> bool {
        let identity = self.links.get(&link).and_then(|link| link.identity.as_deref());
        self.faults.acting(identity).stall
    }

    /// It speaks HTTP only: that it ends is nothing to tell.
    pub fn quiet(&mut self, link: u64) {
        if let Some(link) = self.links.get_mut(&link) {
            link.quiet = true;
        }
    }

    /// Ends a connection. From here on nothing that it sends counts any more. The first reason stays.
    pub fn end(&mut self, link: u64, how: End, code: Option<u8>, reason: &str) {
        let Some(gone) = self.links.remove(&link) else { return };
        let _ = gone.end.try_send(how);
        let (read, written) = gone.traffic.both();
        let own = gone.identity.as_ref().and_then(|identity| self.peers.get_mut(identity));
        let bytes = match own {
            Some(peer) => {
                peer.link = None;
                peer.record.connection_changed_ms = unix_ms();
                &mut peer.bytes
            }
            None => &mut self.nameless_bytes,
        };
        *bytes = (bytes.0 + read, bytes.1 + written);
        if let Some(will) = gone.will {
            self.store(Telemetry { at_ms: unix_ms(), ..will });
        }
        if gone.quiet {
            return;
        }
        let reason = reason.to_owned();
        self.say(match gone.identity {
            Some(identity) => What::Disconnected { identity, reason },
            None => What::Refused { identity: None, code, reason },
        });
    }

    pub fn keep_will(&mut self, link: u64, will: Telemetry) {
        if let Some(link) = self.links.get_mut(&link) {
            link.will = Some(will);
        }
    }

    pub fn forget_will(&mut self, link: u64) {
        if let Some(link) = self.links.get_mut(&link) {
            link.will = None;
        }
    }

    /// All connections of these; `None` for all that there are.
    pub fn end_of(&mut self, identity: Option<&str>, how: End, reason: &str) {
        let fits = |link: &Link| identity.is_none() || link.identity.as_deref() == identity;
        let links: Vec<u64> = self.links.iter().filter(|(_, link)| fits(link)).map(|(number, _)| *number).collect();
        links.into_iter().for_each(|link| self.end(link, how, None, reason));
    }

    pub fn wake(&self) {
        self.links.values().for_each(|link| drop(link.orders.try_send(Order::Wake)));
    }

    /// `false` when it is not connected. A client that reads nothing while hundreds are sent to it is cut off.
    pub fn order(&mut self, identity: &str, order: Order) -> bool {
        let Some(link) = self.peers.get(identity).and_then(|peer| peer.link) else { return false };
        let taken = self.links.get(&link).is_some_and(|link| link.orders.try_send(order).is_ok());
        if !taken {
            self.end(link, End::Close, None, "too much waits to be sent");
        }
        taken
    }

    /// Received and sent, by identity; those of connections that never had a name under the empty one.
    pub fn bytes(&self) -> BTreeMap<String, (u64, u64)> {
        let mut bytes: BTreeMap<String, (u64, u64)> =
            self.peers.iter().map(|(id, peer)| (id.clone(), peer.bytes)).collect();
        bytes.insert(String::new(), self.nameless_bytes);
        for link in self.links.values() {
            let (read, written) = link.traffic.both();
            let sum = bytes.entry(link.identity.clone().unwrap_or_default()).or_default();
            *sum = (sum.0 + read, sum.1 + written);
        }
        bytes
    }

    pub fn connect(&mut self, link: u64, connect: &Connect, web_socket: bool) -> Result<Accepted, Denied> {
        let identity = connect.client_id.to_string();
        let user_name = connect.username.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(code) = self.faults.acting(Some(&identity)).connack {
            return Err(Denied { code, reason: "by command".to_owned() });
        }
        let pass = self.admit(&identity, &user_name, connect).map_err(|reason| Denied { code: 5, reason })?;
        if let Some(older) = self.peers.get(&identity).and_then(|peer| peer.link) {
            self.end(older, End::Close, None, "a newer connection of the same identity");
        }
        let mut session_present = false;
        if let Some(peer) = self.peers.get_mut(&identity) {
            session_present = peer.begin_session(connect.clean_session);
            peer.link = Some(link);
            peer.connects += 1;
            peer.record.connection_changed_ms = unix_ms();
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.identity = Some(identity.clone());
        }
        self.say(What::Connected { identity: identity.clone(), session_present, user_name, web_socket });
        Ok(Accepted { identity, session_present, pass })
    }

    /// For a connection that is none of the hub's.
    pub fn name_link(&mut self, link: u64, name: String, user_name: &str, web_socket: bool) {
        if let Some(link) = self.links.get_mut(&link) {
            link.identity = Some(name.clone());
        }
        let user_name = user_name.to_owned();
        self.say(What::Connected { identity: name, session_present: false, user_name, web_socket });
    }

    /// What the cloud takes the time to be, ms since 1970.
    pub fn clock_ms(&self) -> u64 {
        unix_ms().saturating_add_signed(self.faults.clock_skew_s.saturating_mul(1_000))
    }

    /// How wrong the `Date` is that it tells.
    pub fn date_skew_s(&self) -> i64 {
        self.faults.date_skew_s.saturating_add(self.faults.clock_skew_s)
    }

    fn admit(&mut self, identity: &str, user_name: &str, connect: &Connect) -> Result<Pass, String> {
        let (host, id) = user(user_name)?;
        if !host.eq_ignore_ascii_case(&self.host) {
            return Err(format!("the user name's host is `{host}`"));
        }
        if id != identity {
            return Err(format!("the client id `{identity}` is not the user name's `{id}`"));
        }
        let password = connect.password.as_deref().ok_or("there is no password")?;
        let password = std::str::from_utf8(password).map_err(|_| "the password is no text")?;
        let life = self.faults.acting(Some(identity)).token_life_s.map(Duration::from_secs);
        let (host, grace_s, now_s) = (self.host.clone(), self.grace_s, self.clock_ms() / 1000);
        let device = identity.split('/').next().unwrap_or_default();
        for id in [device, identity] {
            if self.peers.get(id).is_some_and(|peer| !peer.record.enabled) {
                return Err(format!("`{id}` is disabled"));
            }
        }
        let peer = self.peer(identity)?;
        peer.check(&host, password, (Instant::now(), now_s), (grace_s, life))
    }

    /// Keeps it, or at least counts it.
    pub fn store(&mut self, telemetry: Telemetry) {
        self.journal.count(&telemetry.identity, telemetry.body.len(), telemetry.dup);
        if self.keep_telemetry {
            self.journal.keep(telemetry);
        }
    }

    /// The status, the version and the body of the answer.
    pub fn report(&mut self, identity: &str, patch: &[u8]) -> (u16, Option<u64>, Vec<u8>) {
        let read = serde_json::from_slice::<Value>(patch).map_err(|e| format!("no JSON: {e}"));
        let patch = read.as_ref().ok().cloned().unwrap_or_default();
        let result = read.and_then(|patch| self.peer(identity)?.twin.set_reported(patch, &iso(unix_ms())));
        let (version, error) = (result.as_ref().ok().copied(), result.err());
        let body = error.as_ref().map(|message| {
            let body = serde_json::json!({"errorCode": 400_004, "message": message, "trackingId": "emulator"});
            body.to_string().into_bytes()
        });
        self.say(What::Twin { identity: identity.to_owned(), patch, version, error });
        (if version.is_some() { 204 } else { 400 }, version, body.unwrap_or_default())
    }

    /// A number for a call of a method.
    pub fn new_call(&mut self, identity: &str, answer: Option<Sender<(i64, Value)>>) -> String {
        let rid = self.next_rid.to_string();
        self.next_rid += 1;
        self.calls.insert(rid.clone(), Calling { identity: identity.to_owned(), answer });
        rid
    }

    pub fn forget_call(&mut self, rid: &str) {
        self.calls.remove(rid);
    }

    /// Only the one who was asked can, and only once.
    pub fn answer_call(&mut self, identity: &str, rid: &str, status: i64, payload: Value) {
        if self.calls.get(rid).is_none_or(|call| call.identity != identity) {
            return;
        }
        let waiting = self.calls.remove(rid).and_then(|call| call.answer);
        if let Some(waiting) = waiting {
            // Nobody waits any more when it fails.
            let _ = waiting.try_send((status, payload.clone()));
        }
        let (identity, rid) = (identity.to_owned(), rid.to_owned());
        self.say(What::Method { identity, rid, status, payload });
    }
}

/// Host and identity: `{host}/{device}[/{module}]/[?]api-version=…`.
fn user(name: &str) -> Result<(&str, &str), String> {
    let (path, query) = name.rsplit_once('/').ok_or("the user name has no api-version")?;
    let query = query.strip_prefix('?').unwrap_or(query);
    if !query.split('&').any(|pair| pair.starts_with("api-version=")) {
        return Err("the user name has no api-version".to_owned());
    }
    let (host, id) = path.split_once('/').ok_or("the user name has no device")?;
    if id.split('/').count() > 2 || id.split('/').any(str::is_empty) {
        return Err(format!("`{id}` is no device and no module"));
    }
    Ok((host, id))
}

/// What the will is marked with.
pub fn will_property() -> Properties {
    Properties::from([("iothub-MessageType".to_owned(), Some("Will".to_owned()))])
}
