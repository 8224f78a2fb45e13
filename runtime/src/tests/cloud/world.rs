//! The simulated world: who does what next, what fails, what time it is, and the judgement at the end. One number decides everything.
//! Must never draw from the dice for a check, or the check would change the run.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::end::{End, OUTPUTS, settle};
use super::iot_hub::{At, Cloud, Peer, Section, Side};
use super::plan::Plan;
use super::wire::Wire;
use crate::io::clock::TimeFloor;
use crate::io::store::tests::disk::Dice;
use crate::logic::hub::{Hub, HubConfig, Restored};
use crate::logic::routing::{NamedRoute, RouteTable};
use crate::logic::session::{Action, Loss, Session};
use crate::logic::twin::difference;
use crate::model::endpoint::Endpoint;
use crate::model::identity::{Credentials, Secret};
use crate::model::time::{Age, Mono, Now, Wall};

/// The true time of day when the world begins, ms since 1970.
pub const DAY_ONE: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;
/// When it was built, and the days on which the cloud's certificate is good.
const BUILT: i64 = DAY_ONE - 200 * DAY;
const GOOD: std::ops::Range<i64> = DAY_ONE - 300 * DAY..DAY_ONE + 165 * DAY;
const NAMES: [&str; 2] = ["a", "b"];
/// After the faults: so long things still happen, and at least so long it must all go well. Tokens live for 60 s.
const NEWS_MS: u64 = 60_000;
const CALM_MS: u64 = 260_000;
const CALM_MAX_MS: u64 = 1_800_000;

pub struct World {
    dice: Dice,
    pub plan: Plan,
    /// True time since the world began, and since the device was switched on.
    pub ms: u64,
    hub: Hub,
    ends: Vec<End>,
    cloud: Cloud,
    wires: BTreeMap<u64, (Wire, Side)>,
    next_wire: u64,
    floor: TimeFloor,
    /// How far the device's clock is off.
    clock_off: i64,
    unreachable_until: u64,
    pub trace: u64,
}

fn routes() -> RouteTable {
    let route = |module: &str, output: &str, priority| NamedRoute {
        name: format!("{module}-{output}"),
        text: format!("FROM /messages/modules/{module}/outputs/{output} INTO $upstream"),
        priority,
        ttl_secs: None,
    };
    let of = |module| [route(module, OUTPUTS[0], None), route(module, OUTPUTS[1], Some(0))];
    RouteTable::new(NAMES.into_iter().flat_map(of)).expect("routes")
}

fn identity(name: &str) -> Credentials {
    Credentials {
        host_name: "h".into(),
        device_id: "d".into(),
        module_id: Some(name.into()),
        key: Secret::new(name.as_bytes().repeat(32)),
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let plan = Plan::draw(&mut dice);
        let config = HubConfig { ttl: plan.ttl, refusals_max: 1_000, ..HubConfig::default() };
        let mut hub = Hub::new("d", config, routes(), Restored::default());
        let ends = NAMES.map(|name| End::new(&mut hub, identity(name), &plan, dice.roll(u64::MAX)));
        let peers = NAMES.map(|name| Peer::new(identity(name))).into();
        let cloud = Cloud { peers, busy: false, faults: true, plan: plan.clone() };
        let clock_off = if plan.in_1970 { -DAY_ONE } else { 0 };
        World {
            dice,
            plan,
            ms: 1,
            hub,
            ends: ends.into(),
            cloud,
            wires: BTreeMap::new(),
            next_wire: 1,
            floor: TimeFloor::known_at(Mono(1), Wall(BUILT)),
            clock_off,
            unreachable_until: 0,
            trace: seed,
        }
    }

    fn now(&self) -> Now {
        let wall = Wall(DAY_ONE + self.ms as i64 + self.clock_off);
        Now { mono: Mono(self.ms), wall, age: Age(self.ms) }
    }

    /// What tokens and certificates are judged by on the device.
    fn clock(&self) -> Wall {
        let now = self.now();
        self.floor.at(now.mono, now.wall)
    }

    pub fn step(&mut self) {
        self.ms += 1 + self.dice.roll(250);
        match self.dice.roll(40) {
            0..=9 => self.news(),
            10 | 11 if self.plan.cuts => self.cut(),
            12 if self.plan.stalls => {
                if let Some((wire, _)) = pick(&mut self.dice, &mut self.wires) {
                    wire.stalled = true;
                }
            }
            13 if self.plan.outages && self.dice.chance(10) => {
                self.unreachable_until = self.ms + self.dice.roll(50_000);
                (0..4).for_each(|_| self.cut());
            }
            14 if self.plan.busy => self.cloud.busy = self.dice.chance(2),
            15 if self.plan.jumps && self.dice.chance(5) => {
                let anywhere = self.dice.roll(400 * DAY as u64) as i64 - 200 * DAY;
                self.clock_off =
                    [0, -DAY_ONE, -3 * 3_600_000, 7_200_000, 400 * DAY, anywhere][self.dice.roll(6) as usize];
            }
            16 if self.plan.revoked && self.dice.chance(20) => self.revoke(),
            17 if self.plan.restarts && self.dice.chance(10) => {
                let ix = self.dice.roll(NAMES.len() as u64) as usize;
                self.restart(ix);
            }
            _ => {}
        }
        self.carry();
    }

    /// Something happens that is no fault.
    fn news(&mut self) {
        let ix = self.dice.roll(NAMES.len() as u64) as usize;
        let now = self.now();
        match self.dice.roll(4) {
            0 | 1 => {
                for _ in 0..=self.dice.roll(4) {
                    let output = usize::from(self.dice.chance(4));
                    self.ends[ix].send(&mut self.hub, now, output);
                }
                settle(&mut self.hub, now);
            }
            2 => {
                let patch = self.patch();
                let _ = self.ends[ix].twin.apply_reported(&Value::Object(patch));
            }
            _ => {
                let patch = self.patch();
                let told = self.cloud.desire(&mut self.dice, ix, patch);
                if let Some((id, bytes)) = told
                    && let Some((wire, _)) = self.wires.get_mut(&id)
                {
                    wire.send_down(self.ms, &mut self.dice, bytes);
                }
            }
        }
    }

    fn patch(&mut self) -> Section {
        let name = ["a", "b", "c"][self.dice.roll(3) as usize];
        let value = match self.dice.roll(4) {
            0 => Value::Null,
            1 => json!({"x": self.dice.roll(3)}),
            _ => json!(self.dice.roll(5)),
        };
        Map::from_iter([(name.to_owned(), value)])
    }

    fn cut(&mut self) {
        let Some(id) = pick_id(&mut self.dice, &self.wires) else { return };
        if let Some((wire, side)) = self.wires.get_mut(&id) {
            wire.cut(&mut self.dice);
            self.cloud.lost(id, side);
        }
    }

    /// The second identity gets other keys, and its connection ends.
    fn revoke(&mut self) {
        let peer = &mut self.cloud.peers[1];
        peer.revoked = true;
        for id in self.ends[1].wire.into_iter().collect::<Vec<_>>() {
            if let Some((wire, side)) = self.wires.get_mut(&id) {
                wire.closed = true;
                self.cloud.lost(id, side);
            }
        }
    }

    fn restart(&mut self, ix: usize) {
        if let Some((wire, _)) = self.ends[ix].wire.and_then(|id| self.wires.get_mut(&id)) {
            wire.left = true;
        }
        let (now, seed) = (self.now(), self.dice.roll(u64::MAX));
        self.ends[ix].restart(&mut self.hub, now, &self.plan, seed);
        settle(&mut self.hub, now);
    }

    /// Everything that is due by now, on both sides.
    fn carry(&mut self) {
        let now = self.now();
        self.hub.on_timeout(now);
        settle(&mut self.hub, now);
        let mut ended = Vec::new();
        for (id, (wire, side)) in &mut self.wires {
            let mut at = At { ms: self.ms, dice: &mut self.dice };
            ended.extend(self.cloud.read(&mut at, *id, wire, side));
        }
        for id in ended {
            if let Some((wire, _)) = self.wires.get_mut(&id) {
                wire.closed = true;
            }
        }
        for ix in 0..self.ends.len() {
            self.carry_end(ix);
        }
        let used: Vec<u64> = self.ends.iter().filter_map(|end| end.wire).collect();
        self.wires.retain(|id, (wire, _)| used.contains(id) || !wire.closed);
        let arrived: usize = self.cloud.peers.iter().flat_map(|peer| peer.arrived.values().map(Vec::len)).sum();
        self.trace = (self.trace ^ self.ms ^ arrived as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn turn(&mut self, ix: usize, act: impl FnOnce(&mut Session, Mono)) {
        let now = self.now();
        self.ends[ix].turn(&mut self.hub, now, &self.plan, &self.cloud.peers[ix], act);
    }

    fn carry_end(&mut self, ix: usize) {
        if self.ends[ix].dialling.is_some_and(|at| at <= self.ms) {
            self.ends[ix].dialling = None;
            self.connect(ix);
        }
        if let Some(id) = self.ends[ix].wire {
            let (wire, _) = self.wires.get_mut(&id).expect("it is used");
            let (bytes, ms) = (wire.take_down(self.ms), self.ms);
            let over = wire.is_over();
            if !bytes.is_empty() {
                self.turn(ix, |session, _| session.handle_bytes(Mono(ms), &bytes));
            }
            if over && self.ends[ix].wire == Some(id) {
                self.ends[ix].wire = None;
                self.turn(ix, |session, now| session.handle_closed(now, Loss::Ended("closed".into())));
            }
        }
        self.turn(ix, |_, _| ());
        while let Some(action) = self.ends[ix].session.poll_action() {
            match action {
                Action::Dial => {
                    let now = self.now();
                    self.ends[ix].expire(&mut self.hub, now);
                    self.ends[ix].dialling = Some(self.ms + 1 + self.dice.roll(self.plan.latency_ms));
                }
                Action::HangUp => self.hang_up(ix),
            }
        }
        self.write(ix);
        self.ends[ix].hear(&mut self.hub, &self.cloud.peers[ix]);
    }

    fn write(&mut self, ix: usize) {
        let bytes = self.ends[ix].session.take_output();
        if let Some((wire, _)) = self.ends[ix].wire.and_then(|id| self.wires.get_mut(&id)) {
            wire.send_up(self.ms, &mut self.dice, bytes);
        }
    }

    fn hang_up(&mut self, ix: usize) {
        self.write(ix);
        let Some(id) = self.ends[ix].wire.take() else { return };
        if let Some((wire, _)) = self.wires.get_mut(&id) {
            wire.left = true;
        }
        self.turn(ix, |session, now| session.handle_closed(now, Loss::Ended(String::new())));
    }

    fn connect(&mut self, ix: usize) {
        if self.ms < self.unreachable_until || !GOOD.contains(&self.clock().0) {
            return self.turn(ix, |session, now| session.handle_closed(now, Loss::Unreachable("no way".into())));
        }
        let (now, id) = (self.now(), self.next_wire);
        self.next_wire += 1;
        // The upgrade's answer says what time it is, in whole seconds.
        let date = Wall((DAY_ONE + self.ms as i64) / 1_000 * 1_000);
        self.floor.learn_at(now.mono, now.wall, date);
        self.wires.insert(id, (Wire::new(self.plan.latency_ms), Side::new(self.ms)));
        self.ends[ix].wire = Some(id);
        let clock = self.clock();
        self.turn(ix, |session, now| session.handle_open(now, clock));
    }

    /// No more faults; some more news; then on until both sides have nothing to say.
    pub fn calm_down(&mut self) {
        (self.cloud.faults, self.cloud.busy) = (false, false);
        (self.clock_off, self.unreachable_until) = (self.plan.off_at_last_ms, 0);
        let begin = self.ms;
        let mut renewed = Vec::new();
        while self.ms - begin < CALM_MS || !self.is_quiet() {
            assert!(self.ms - begin < CALM_MAX_MS, "it does not come to rest: {}", self.picture());
            self.ms = self.next_at().clamp(self.ms + 1, self.ms + 1_000);
            if self.ms - begin < NEWS_MS && self.dice.chance(20) {
                self.news();
            }
            self.carry();
            if self.ms - begin >= NEWS_MS && renewed.is_empty() {
                renewed = self.cloud.peers.iter().map(|peer| peer.expired).collect();
            }
        }
        for (peer, before) in self.cloud.peers.iter().zip(renewed) {
            assert_eq!(peer.expired, before, "a token ran out that could have been renewed");
        }
    }

    fn next_at(&self) -> u64 {
        let now = self.now();
        let ends = self.ends.iter().flat_map(|end| {
            let timers = end.session.next_timeout().min(end.sync.next_timeout(now.mono)).0;
            [timers, end.dialling.unwrap_or(u64::MAX)]
        });
        let wires = self.wires.values().map(|(wire, _)| wire.next_at());
        ends.chain(wires).chain([self.hub.next_timeout(now).0]).min().unwrap_or(u64::MAX)
    }

    fn is_there(&self, ix: usize) -> bool {
        !self.cloud.peers[ix].revoked
    }

    fn pending(&self, ix: usize) -> u64 {
        self.ledgers(ix).map(|(pending, _, _)| pending).sum()
    }

    /// Pending, expired and dead letters of each queue of the identity.
    fn ledgers(&self, ix: usize) -> impl Iterator<Item = (u64, u64, u64)> {
        let own =
            move |endpoint: &Endpoint| matches!(endpoint, Endpoint::Upstream { identity } if identity == NAMES[ix]);
        let queues = self.hub.overview().queues.into_iter().filter(move |queue| own(&queue.endpoint));
        queues.map(|queue| (queue.ledger.pending, queue.ledger.expired, queue.ledger.dead_lettered))
    }

    fn is_quiet(&self) -> bool {
        (0..NAMES.len()).filter(|ix| self.is_there(*ix)).all(|ix| {
            let (end, peer) = (&self.ends[ix], &self.cloud.peers[ix]);
            let reported = difference(&peer.reported, end.twin.reported()).is_empty();
            let desired = peer.version == 1 || end.twin.desired_version() == peer.version;
            self.pending(ix) == 0 && reported && desired
        })
    }

    fn picture(&self) -> String {
        let of = |ix: usize| {
            let (end, peer) = (&self.ends[ix], &self.cloud.peers[ix]);
            let (here, there) = (end.twin.to_json(), (peer.version, &peer.desired, &peer.reported));
            format!(
                "{}: ledgers {:?}, up {}, in flight {}, twin {here} against {there:?}",
                NAMES[ix],
                self.ledgers(ix).collect::<Vec<_>>(),
                end.session.is_up(),
                end.session.in_flight()
            )
        };
        format!("{:?}; {}; {}", self.plan, of(0), of(1))
    }

    pub fn judge(&self) {
        for (ix, name) in NAMES.iter().enumerate() {
            let (end, peer) = (&self.ends[ix], &self.cloud.peers[ix]);
            for output in OUTPUTS {
                let arrived = peer.arrived.get(output).map_or(&[][..], Vec::as_slice);
                assert!(arrived.is_sorted(), "{output} of {name} is out of order: {arrived:?}");
            }
            self.judge_missing(ix);
            if !self.is_there(ix) {
                continue;
            }
            assert_eq!(&peer.reported, end.twin.reported());
            if peer.version > 1 {
                let there = (peer.version, &peer.desired);
                assert_eq!((end.twin.desired_version(), end.twin.desired()), there);
                let told = end.told.last().map(|(version, section)| (*version, section));
                assert_eq!(told, Some(there), "what the module heard last");
            }
        }
    }

    /// What is not in the cloud is too old, given up, or held for an identity that may not connect.
    fn judge_missing(&self, ix: usize) {
        let (end, peer) = (&self.ends[ix], &self.cloud.peers[ix]);
        let missing: Vec<_> = end.messages.iter().filter(|m| !peer.has(m.output, m.number)).collect();
        let ttl_ms = self.plan.ttl.map_or(u64::MAX, |ttl| ttl.as_millis() as u64);
        let held = self.pending(ix);
        for message in &missing {
            let is_old = message.sent_ms.saturating_add(ttl_ms) <= self.ms;
            assert!(is_old || message.given_up || held > 0, "{message:?} of {} is lost: {}", NAMES[ix], self.picture());
        }
        let (expired, dead) = self.ledgers(ix).fold((0, 0), |sum, (_, expired, dead)| (sum.0 + expired, sum.1 + dead));
        // Of what expired some may have arrived all the same, without an acknowledgement.
        assert!(expired + dead + held >= missing.len() as u64, "{} are lost: {}", missing.len(), self.picture());
        if self.is_there(ix) || self.plan.ttl.is_some() {
            assert_eq!(held, 0, "messages wait for ever: {}", self.picture());
        }
    }
}

fn pick_id(dice: &mut Dice, wires: &BTreeMap<u64, (Wire, Side)>) -> Option<u64> {
    let at = dice.roll(wires.len() as u64) as usize;
    wires.keys().nth(at).copied()
}

fn pick<'a>(dice: &mut Dice, wires: &'a mut BTreeMap<u64, (Wire, Side)>) -> Option<&'a mut (Wire, Side)> {
    let id = pick_id(dice, wires)?;
    wires.get_mut(&id)
}
