//! The hub in a simulated world: a chain of modules that refuse, die and come back, a disk that fails, a runtime that is
//! killed. One number decides everything. After the faults everything must drain, and nothing acknowledged may be missing.

pub(super) mod disk;

use std::collections::{BTreeMap, BTreeSet};

use disk::Disk;

use super::tests::chain;
use super::*;
use crate::model::time::{Age, Wall};
use skerry_abi::wire::frame::{self, Completion, FromHost, Outcome, ToHost};
use skerry_abi::wire::record::{Record, Writer};

/// A generator that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

/// A module: what it was given and has not ended, what it sent and has no answer for.
#[derive(Default)]
struct Module {
    link: Option<LinkIx>,
    inbox: Vec<(u64, u32, u64)>,
    refused_streams: BTreeSet<u32>,
    tickets: BTreeMap<u64, u64>,
    next_ticket: u64,
}

struct Simulated {
    seed: u64,
    dice: Dice,
    hub: Hub,
    disk: Disk,
    ms: u64,
    modules: [Module; 3],
    next_number: u64,
    acknowledged: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    arrived: BTreeSet<u64>,
    commit: Option<Commit>,
    loads: Vec<LoadRequest>,
    faults: bool,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Half of the worlds have a small store; half of those evict.
fn has_quota(seed: u64) -> bool {
    seed % 4 == 1
}

/// In some worlds blocks rot.
fn rots(seed: u64) -> bool {
    seed % 8 == 2
}

/// Every third world has a time to live, short enough to expire much.
fn config(seed: u64) -> HubConfig {
    let ttl = seed.is_multiple_of(3).then_some(Duration::from_secs(9));
    let evict = seed % 8 == 5;
    HubConfig { memory_bytes: 32 * 1024, credit_messages: 40, refusals_max: 1000, ttl, evict, ..HubConfig::default() }
}

impl Simulated {
    fn new(seed: u64) -> Simulated {
        Simulated {
            dice: Dice(seed),
            seed,
            hub: Hub::new("d", config(seed), chain(), Restored::default()),
            disk: Disk::new(if has_quota(seed) { 24 * 1024 } else { 0 }),
            ms: 1_000,
            modules: Default::default(),
            next_number: 1,
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            arrived: BTreeSet::new(),
            commit: None,
            loads: Vec::new(),
            faults: true,
        }
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.ms), wall: Wall(0), age: Age(self.ms) }
    }

    fn step(&mut self) {
        match self.dice.roll(12) {
            0..=2 => self.send(),
            3..=5 => self.work(1),
            6..=7 => self.work(2),
            8 => self.ms += self.dice.roll(600),
            9 if self.faults && rots(self.seed) && self.dice.chance(30) => {
                let pick = self.dice.roll(1_000);
                self.disk.spoil(pick);
            }
            9 => self.storage(),
            10 if self.faults && self.dice.chance(6) => self.kill_module(),
            11 if self.faults && self.dice.chance(25) => self.kill_runtime(),
            _ => self.revive(),
        }
        self.turn();
    }

    fn send(&mut self) {
        let Some(link) = self.modules[0].link else { return };
        for _ in 0..=self.dice.roll(8) {
            if self.modules[0].tickets.len() >= 40 {
                return;
            }
            let number = self.next_number;
            self.next_number += 1;
            self.publish(0, link, number, &[]);
        }
    }

    fn publish(&mut self, module: usize, link: LinkIx, number: u64, parents: &[u64]) {
        self.modules[module].next_ticket += 1;
        let ticket = self.modules[module].next_ticket;
        self.modules[module].tickets.insert(ticket, number);
        let (mut record, mut bytes) = (Vec::new(), Vec::new());
        Writer::new(&mut record).finish(format!("{number:0200}").as_bytes()).unwrap();
        frame::publish(&mut bytes, ticket, 0, false, parents, &record);
        self.feed(link, &bytes);
    }

    fn feed(&mut self, link: LinkIx, bytes: &[u8]) {
        let (mut rest, now) = (bytes, self.now());
        while let Some(bytes) = frame::split(&mut rest).unwrap() {
            match FromHost::decode(bytes).unwrap() {
                FromHost::Publish { ticket, output, now: at_once, parents, record } => {
                    self.hub.publish(now, link, Sent { ticket, output, at_once, parents, record }).unwrap();
                }
                FromHost::Complete { first, count, completion, reason } => {
                    self.hub.complete(now, link, first, count, completion, reason).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn complete(&mut self, link: LinkIx, id: u64, completion: Completion) {
        let mut bytes = Vec::new();
        FromHost::Complete { first: id, count: 1, completion, reason: "no" }.encode(&mut bytes);
        self.feed(link, &bytes);
    }

    /// `b` passes everything on to `c`; `c` notes what arrives. Both in the order given, as a host does.
    fn work(&mut self, module: usize) {
        let Some(link) = self.modules[module].link else { return };
        for _ in 0..=self.dice.roll(6) {
            // Out of credit, a host runs no callback.
            if self.modules[module].inbox.is_empty() || self.modules[module].tickets.len() >= 40 {
                return;
            }
            let (id, stream, number) = self.modules[module].inbox.remove(0);
            if self.modules[module].refused_streams.contains(&stream) {
                self.complete(link, id, Completion::Returned);
                continue;
            }
            if self.faults && self.dice.chance(15) {
                self.modules[module].refused_streams.insert(stream);
                self.complete(link, id, Completion::Refused);
                continue;
            }
            if module == 1 {
                self.publish(1, link, number, &[id]);
            } else {
                // Older ones were here before, were never taken from their sender, or expired: none comes for the first
                // time behind a younger one.
                let newest = self.arrived.last().copied().unwrap_or(0);
                assert!(number > newest || self.arrived.contains(&number), "{number} arrived after {newest}");
                let older = (1..number).filter(|n| self.acknowledged.contains(n) && !self.arrived.contains(n));
                let missing: Vec<u64> = older.collect();
                assert!(missing.is_empty() || may_lose(&self.hub, self.seed), "{number} arrived before {missing:?}");
                self.arrived.insert(number);
            }
            self.complete(link, id, Completion::Done);
        }
    }

    fn storage(&mut self) {
        let now = self.now();
        if let Some(commit) = self.commit.take() {
            if self.faults && self.dice.chance(10) {
                self.hub.handle_committed(now, commit.id, Err("simulated".into()));
                self.hub.handle_reopened();
            } else {
                let wrote = self.disk.apply(&commit);
                self.hub.handle_committed(now, commit.id, Ok(wrote));
            }
        }
        for request in std::mem::take(&mut self.loads) {
            let loaded = self.disk.load(&request);
            self.hub.handle_loaded(now, request, loaded);
        }
    }

    fn kill_module(&mut self) {
        let module = self.dice.roll(3) as usize;
        let Some(link) = self.modules[module].link.take() else { return };
        let in_progress = self.modules[module].inbox.first().map(|(id, _, _)| *id);
        let now = self.now();
        self.hub.close_link(now, link, in_progress.map_or(Ending::Quietly, Ending::During));
        // Nobody knows what became of what it had sent; a real sender sends it again. Here it counts as not taken.
        if module == 0 {
            self.refused.extend(self.modules[0].tickets.values());
        }
        self.modules[module] = Module::default();
    }

    /// Everything in memory is gone. A commit that was under way is there, or not.
    fn kill_runtime(&mut self) {
        if let Some(commit) = self.commit.take()
            && self.dice.chance(2)
        {
            self.disk.apply(&commit);
        }
        self.refused.extend(self.modules[0].tickets.values());
        self.modules = Default::default();
        self.loads.clear();
        self.hub = Hub::new("d", config(self.seed), chain(), self.disk.restored());
    }

    fn revive(&mut self) {
        for (module, name) in NAMES.iter().enumerate() {
            if self.modules[module].link.is_none() && (!self.faults || self.dice.chance(3)) {
                let link = self.hub.open_link(name, &["out".into()], &["in".into()]);
                self.hub.ready(link);
                self.modules[module].link = Some(link);
            }
        }
    }

    fn turn(&mut self) {
        let now = self.now();
        if self.hub.next_timeout(now) <= now.mono {
            self.hub.on_timeout(now);
        }
        self.hub.end_turn(now);
        while let Some(link) = self.hub.take_output() {
            let out = std::mem::take(self.hub.output(link).unwrap());
            self.read(link, &out);
        }
        if let Some(commit) = self.hub.poll_commit(now) {
            assert!(self.commit.is_none());
            self.commit = Some(commit);
        }
        while let Some(request) = self.hub.poll_load() {
            self.loads.push(request);
        }
        self.check_memory();
    }

    fn read(&mut self, link: LinkIx, out: &[u8]) {
        let Some(module) = self.modules.iter().position(|m| m.link == Some(link)) else { return };
        let mut rest = out;
        while let Some(bytes) = frame::split(&mut rest).unwrap() {
            match ToHost::decode(bytes).unwrap() {
                ToHost::Deliver { id, queue, record, .. } => {
                    let body = Record::parse(record).unwrap().body();
                    let number = std::str::from_utf8(body).unwrap().parse().unwrap();
                    self.modules[module].inbox.push((id, queue, number));
                }
                ToHost::Settled { first, count, outcome, .. } => {
                    for ticket in first..first + u64::from(count) {
                        let number = self.modules[module].tickets.remove(&ticket).expect("answered once");
                        if module == 0 {
                            let taken = outcome != Outcome::Refused;
                            if taken {
                                self.acknowledged.insert(number)
                            } else {
                                self.refused.insert(number)
                            };
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The bound, and one commit and the windows of three modules above it.
    fn check_memory(&self) {
        let bytes = self.hub.overview().memory_bytes;
        assert!(bytes < 32 * 1024 + 3 * 40 * 400 + 2 * 16 * 1024, "{bytes} bytes in memory");
    }

    fn settled_unhappily(&self) -> u64 {
        let ledgers = self.hub.overview().queues.into_iter().map(|q| q.ledger);
        ledgers.map(|ledger| ledger.expired + ledger.evicted + ledger.dead_lettered).sum()
    }

    fn drain(&mut self) {
        self.faults = false;
        for _ in 0..20_000 {
            self.revive();
            self.work(1);
            self.work(2);
            self.storage();
            self.ms += 50;
            self.turn();
            let clean = self.hub.is_clean() || self.hub.overview().queues.iter().all(|q| q.ledger.pending == 0);
            if clean && self.disk.rows.is_empty() && self.commit.is_none() && self.modules[0].tickets.is_empty() {
                return;
            }
        }
        panic!("it does not drain: {:#?}", self.hub.overview());
    }
}

/// What was acknowledged may expire, be evicted, or rot away: then it is counted.
fn may_lose(hub: &Hub, seed: u64) -> bool {
    hub.config.ttl.is_some() || hub.config.evict || rots(seed)
}

fn run(seed: u64) {
    let mut world = Simulated::new(seed);
    world.revive();
    for _ in 0..600 {
        world.step();
    }
    world.drain();
    let lost: Vec<u64> = world.acknowledged.difference(&world.arrived).copied().collect();
    assert!(lost.is_empty() || may_lose(&world.hub, seed), "acknowledged and lost: {lost:?}");
    // Counts of a hub that was killed are gone with it, so this is a bound from one side only.
    assert!(
        !may_lose(&world.hub, seed) || world.settled_unhappily() > 0 || lost.is_empty(),
        "lost without being counted: {lost:?}"
    );
    assert!(world.disk.blocks.is_empty() && world.disk.rows.is_empty());
    for queue in world.hub.overview().queues {
        assert_eq!(queue.ledger.accepted(), queue.ledger.settled(), "{}", queue.endpoint);
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let (first, count) = match number("SKERRY_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("SKERRY_SEEDS").unwrap_or(50)),
    };
    for seed in first..first + count {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("again with: SKERRY_SEED={seed} cargo test -p skerry-runtime --lib hub::sim");
            std::panic::resume_unwind(panic);
        }
    }
}
