//! The cloud's side: who may connect with which token, what it stored, each twin with every version that it ever had.
//! Must never let a mistake of the device pass: what a real one would punish is a panic here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::packets::{self, FromClient};
use super::plan::Plan;
use super::wire::Wire;
use super::world::DAY_ONE;
use crate::io::store::tests::disk::Dice;
use crate::logic::sas;
use crate::logic::twin::merge;
use crate::model::identity::Credentials;

/// The cloud waits for one and a half of the keep-alive that it was told.
const SILENCE_MS: u64 = 45_000;

pub type Section = Map<String, Value>;

/// What an identity is in the cloud.
pub struct Peer {
    identity: Credentials,
    pub revoked: bool,
    /// By output, in the order of their first arrival.
    pub arrived: BTreeMap<String, Vec<u64>>,
    seen: BTreeSet<(String, u64)>,
    pub desired: Section,
    pub version: u64,
    /// Every desired section that there was, by version.
    pub history: BTreeMap<u64, Section>,
    pub reported: Section,
    /// The wire that it is connected by.
    open: Option<u64>,
    /// Changes that it did not acknowledge: identifier and body.
    unacknowledged: Vec<(u16, Vec<u8>)>,
    next_pid: u16,
    /// Tokens that ran out while the connection was up.
    pub expired: u64,
}

/// The cloud's end of a wire.
#[derive(Default)]
pub struct Side {
    buffer: Vec<u8>,
    who: Option<usize>,
    subscribed: bool,
    token_ends: u64,
    heard: u64,
    /// Stores, and acknowledges nothing.
    mute: bool,
}

pub struct Cloud {
    pub peers: Vec<Peer>,
    pub busy: bool,
    pub faults: bool,
    pub plan: Plan,
}

/// What it hands out with the answer, and what everything is judged by.
pub struct At<'a> {
    pub ms: u64,
    pub dice: &'a mut Dice,
}

impl Peer {
    pub fn new(identity: Credentials) -> Peer {
        Peer {
            identity,
            revoked: false,
            arrived: BTreeMap::new(),
            seen: BTreeSet::new(),
            desired: Map::new(),
            version: 1,
            history: BTreeMap::from([(1, Map::new())]),
            reported: Map::new(),
            open: None,
            unacknowledged: Vec::new(),
            next_pid: 0,
            expired: 0,
        }
    }

    pub fn has(&self, output: &str, number: u64) -> bool {
        self.seen.contains(&(output.to_owned(), number))
    }

    fn pid(&mut self) -> u16 {
        self.next_pid = self.next_pid % 60_000 + 1;
        self.next_pid
    }
}

impl Side {
    pub fn new(ms: u64) -> Side {
        Side { heard: ms, token_ends: u64::MAX, ..Side::default() }
    }
}

impl Cloud {
    /// Reads what has arrived on a wire, and answers.
    pub fn read(&mut self, at: &mut At<'_>, id: u64, wire: &mut Wire, side: &mut Side) -> Option<u64> {
        if wire.closed {
            return None;
        }
        let mut ended = None;
        side.buffer.extend(wire.take_up(at.ms));
        while let Some(packet) = packets::take(&mut side.buffer) {
            side.heard = at.ms;
            ended = ended.or(self.packet(at, id, wire, side, packet));
            if wire.closed {
                break;
            }
        }
        if side.who.is_some() && side.token_ends <= at.ms && !wire.closed {
            self.peers[side.who.unwrap_or_default()].expired += 1;
            self.close(wire, side);
        }
        if side.heard + SILENCE_MS <= at.ms || (wire.left && wire.up.is_empty()) {
            self.close(wire, side);
        }
        ended
    }

    fn close(&mut self, wire: &mut Wire, side: &mut Side) {
        wire.closed = true;
        if let Some(peer) = side.who.take() {
            self.peers[peer].open = None;
        }
    }

    /// It broke.
    pub fn lost(&mut self, id: u64, side: &mut Side) {
        if let Some(peer) = side.who.take().map(|who| &mut self.peers[who])
            && peer.open == Some(id)
        {
            peer.open = None;
        }
    }

    /// Returns a wire that ends because of this one.
    fn packet(
        &mut self,
        at: &mut At<'_>,
        id: u64,
        wire: &mut Wire,
        side: &mut Side,
        packet: FromClient,
    ) -> Option<u64> {
        match packet {
            FromClient::Connect { client, user, password } => {
                return self.connect(at, id, wire, side, (&client, &user, &password));
            }
            FromClient::Subscribe { pid, filters } => {
                side.subscribed = true;
                wire.send_down(at.ms, at.dice, packets::suback(pid, filters));
                self.again(at, wire, side);
            }
            FromClient::Ping => wire.send_down(at.ms, at.dice, packets::pong()),
            FromClient::Disconnect => self.close(wire, side),
            FromClient::PubAck { pid } => {
                let who = side.who.expect("acknowledged before it was connected");
                self.peers[who].unacknowledged.retain(|(open, _)| *open != pid);
            }
            FromClient::Publish { topic, payload, pid, dup } => {
                let who = side.who.expect("published before it was connected");
                match pid {
                    Some(pid) => self.store(at, wire, side, (who, &topic, &payload, pid, dup)),
                    None => self.asked(at, wire, side, (who, &topic, &payload)),
                }
            }
        }
        None
    }

    fn connect(
        &mut self,
        at: &mut At<'_>,
        id: u64,
        wire: &mut Wire,
        side: &mut Side,
        (client, user, password): (&str, &str, &str),
    ) -> Option<u64> {
        assert!(side.who.is_none(), "two CONNECTs");
        let who = self.peers.iter().position(|peer| peer.identity.client_id() == client).expect("a known identity");
        let peer = &mut self.peers[who];
        assert!(user.starts_with(&format!("h/{client}/?api-version=")), "{user}");
        let expiry: i64 = password.rsplit_once("&se=").and_then(|(_, se)| se.parse().ok()).expect("a token");
        let token = sas::token(&peer.identity.key, &peer.identity.resource_uri(), expiry);
        assert_eq!(password, token, "a token of somebody else");
        let ends = u64::try_from(expiry * 1_000 - DAY_ONE).unwrap_or(0);
        // The cloud has said what time it is before the token was made: whatever the device's clock says, it is good.
        assert!(ends > at.ms, "the token ended {} ms ago", at.ms - ends);
        let code = match () {
            () if peer.revoked => 5,
            () if self.busy && at.dice.chance(2) => 3,
            () => 0,
        };
        wire.send_down(at.ms, at.dice, packets::connack(code));
        if code != 0 {
            wire.closed = true;
            return None;
        }
        side.who = Some(who);
        let early = self.faults && self.plan.early_tokens && at.dice.chance(2);
        side.token_ends = if early { ends.min(at.ms + 4_000 + at.dice.roll(30_000)) } else { ends };
        side.mute = self.faults && self.plan.lost_answers && at.dice.chance(5);
        // One connection an identity: the newer one ends the older.
        peer.open.replace(id).filter(|old| *old != id)
    }

    /// What was not acknowledged comes again, before anything is asked.
    fn again(&mut self, at: &mut At<'_>, wire: &mut Wire, side: &Side) {
        let Some(peer) = side.who.map(|who| &mut self.peers[who]) else { return };
        if self.plan.duplicates {
            for (pid, body) in &peer.unacknowledged {
                wire.send_down(at.ms, at.dice, packets::publish(&desired_topic(body), body, Some(*pid), true));
            }
        } else {
            peer.unacknowledged.clear();
        }
    }

    fn store(
        &mut self,
        at: &mut At<'_>,
        wire: &mut Wire,
        side: &Side,
        (who, topic, payload, pid, dup): (usize, &str, &[u8], u16, bool),
    ) {
        let peer = &mut self.peers[who];
        let module = peer.identity.module_id.as_deref().unwrap_or_default();
        assert!(topic.starts_with(&format!("devices/d/modules/{module}/messages/events/")), "{topic}");
        let text = std::str::from_utf8(payload).expect("text");
        let (output, number) = text.split_once(' ').expect("output and number");
        let number: u64 = number.parse().expect("a number");
        if peer.seen.insert((output.to_owned(), number)) {
            peer.arrived.entry(output.to_owned()).or_default().push(number);
        } else {
            // One that begins anew does not know what its predecessor sent.
            assert!(dup || self.plan.restarts, "{text} came again without its mark");
        }
        if !side.mute {
            wire.send_down(at.ms, at.dice, packets::puback(pid));
        }
    }

    fn asked(&mut self, at: &mut At<'_>, wire: &mut Wire, side: &Side, (who, topic, payload): (usize, &str, &[u8])) {
        assert!(side.subscribed, "an answer to {topic} would get lost");
        let (what, rid) = topic.split_once("?$rid=").expect("a request");
        let chance = |dice: &mut Dice, one_in| self.faults && self.plan.lost_answers && dice.chance(one_in);
        if chance(at.dice, 10) {
            return;
        }
        let says_no = chance(at.dice, 8);
        let peer = &mut self.peers[who];
        let (status, body) = match what {
            _ if says_no => (if at.dice.chance(2) { 429 } else { 500 }, Vec::new()),
            "$iothub/twin/GET/" => {
                let mut desired = peer.desired.clone();
                desired.insert("$version".to_owned(), peer.version.into());
                (200, json!({"desired": desired, "reported": peer.reported}).to_string().into_bytes())
            }
            "$iothub/twin/PATCH/properties/reported/" => {
                let patch: Section = serde_json::from_slice(payload).expect("a patch");
                assert!(!patch.is_empty(), "a patch that says nothing");
                merge(&mut peer.reported, &patch);
                (204, Vec::new())
            }
            other => panic!("asked for {other}"),
        };
        if !chance(at.dice, 10) {
            let topic = format!("$iothub/twin/res/{status}/?$rid={rid}");
            wire.send_down(at.ms, at.dice, packets::publish(&topic, &body, None, false));
        }
    }

    /// A back end changes desired properties. Returns the wire by which the identity is to hear of it, with the packets.
    pub fn desire(&mut self, dice: &mut Dice, who: usize, patch: Section) -> Option<(u64, Vec<u8>)> {
        let peer = &mut self.peers[who];
        merge(&mut peer.desired, &patch);
        peer.version += 1;
        peer.history.insert(peer.version, peer.desired.clone());
        let mut body = patch;
        body.insert("$version".to_owned(), peer.version.into());
        let body = Value::Object(body).to_string().into_bytes();
        let open = peer.open?;
        // One that was never sent leaves a gap in the versions.
        if self.faults && self.plan.lost_answers && dice.chance(6) {
            return None;
        }
        let pid = peer.pid();
        peer.unacknowledged.push((pid, body.clone()));
        let once = packets::publish(&desired_topic(&body), &body, Some(pid), false);
        let mut bytes = once.clone();
        if self.faults && self.plan.duplicates && dice.chance(4) {
            bytes.extend(packets::publish(&desired_topic(&body), &body, Some(pid), true));
        }
        Some((open, bytes))
    }
}

fn desired_topic(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).expect("our own");
    format!("$iothub/twin/PATCH/properties/desired/?$version={}", body["$version"])
}
