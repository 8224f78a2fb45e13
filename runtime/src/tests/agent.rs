//! The agent in a simulated device: the real plan, proofs and restart policy, images that crash, hang, fail later or take the whole device
//! down, steps that fail, pulls that take their time, and power that goes between any two things. Then calm, in which what runs must
//! become what was asked for, or the last good version of it. One `u64` decides everything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::logic::plan::{Present, Step, Wanted, plan};
use crate::logic::proof::{Proof, Start, Version};
use crate::logic::restart::{Limits, Next, Policy, Restart};
use crate::model::instance::Exit;
use crate::model::time::{Mono, Wall};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const IMAGES: u64 = 10;
/// Seconds of a window, and until the agent must have brought the last good version back.
const WINDOW_S: u64 = 12;
const FALL_BACK_S: u64 = 10;
/// Seconds in which everything goes wrong that can, and in which all must be well again after that.
const TROUBLE_S: u64 = 150;
const CALM_S: u64 = 900;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Good,
    CrashesAtOnce,
    FailsAfter(u64),
    /// The device goes down with it.
    TakesAllDown,
}

fn behaviour(digest: &str) -> Behaviour {
    match digest.trim_start_matches('i').parse::<u64>().expect("a number") % 5 {
        0 | 1 => Behaviour::Good,
        2 => Behaviour::CrashesAtOnce,
        3 => Behaviour::FailsAfter(5),
        _ => Behaviour::TakesAllDown,
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone)]
struct Asked {
    version: Version,
    running: bool,
    order: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Stopped,
    Starting,
    Running { since: u64 },
    Waiting { until: u64 },
    Ending,
}

struct Slot {
    told: Version,
    running: bool,
    order: u32,
    phase: Phase,
    restart: Restart,
}

struct Device {
    random: Random,
    now: u64,
    trouble: bool,
    asked: BTreeMap<String, Asked>,
    /// Images of the store, which outlive everything.
    stored: BTreeSet<String>,
    slots: BTreeMap<String, Slot>,
    proofs: BTreeMap<String, Proof>,
    /// What was committed of them, and what was not yet.
    disk: BTreeMap<String, Value>,
    dirty: BTreeSet<String>,
    /// The power went in this second.
    down: bool,
}

impl Device {
    fn new(seed: u64) -> Device {
        Device {
            random: Random(seed),
            now: 0,
            trouble: true,
            asked: BTreeMap::new(),
            stored: BTreeSet::new(),
            slots: BTreeMap::new(),
            proofs: BTreeMap::new(),
            disk: BTreeMap::new(),
            dirty: BTreeSet::new(),
            down: false,
        }
    }

    fn change_mind(&mut self) {
        for name in NAMES {
            match self.random.below(5) {
                0 => drop(self.asked.remove(name)),
                1 | 2 => {
                    let mut version =
                        Version { digest: format!("i{}", self.random.below(IMAGES)), ..Version::default() };
                    if self.random.one_in(3) {
                        version.setup.arguments = vec!["-v".to_owned()];
                    }
                    // Who has nothing to fall back on would go down for ever.
                    let good = self.proofs.get(name).is_some_and(|proof| proof.good().is_some());
                    if behaviour(&version.digest) == Behaviour::TakesAllDown && !good {
                        version.digest = "i0".to_owned();
                    }
                    let (running, order) = (!self.random.one_in(5), self.random.below(3) as u32);
                    self.asked.insert(name.to_owned(), Asked { version, running, order });
                }
                _ => {}
            }
        }
    }

    /// Everything but the disk and the image store is gone.
    fn cut(&mut self) {
        self.down = true;
        self.slots.clear();
        self.dirty.clear();
        self.proofs = self.disk.iter().map(|(name, kept)| (name.clone(), Proof::from_json(kept))).collect();
    }

    fn may_cut(&mut self, n: u64) -> bool {
        let cut = self.trouble && self.random.one_in(n);
        if cut {
            self.cut();
        }
        cut
    }

    fn commit(&mut self, name: &str) {
        match self.proofs.get(name) {
            Some(proof) => drop(self.disk.insert(name.to_owned(), proof.to_json())),
            None => drop(self.disk.remove(name)),
        }
        self.dirty.remove(name);
    }

    /// As the agent makes its targets.
    fn wanted(&mut self) -> BTreeMap<String, Wanted<Version>> {
        let mut wanted = BTreeMap::new();
        for (name, asked) in self.asked.clone() {
            let missing = !self.stored.contains(&asked.version.digest);
            let version = if missing {
                let good = self.proofs.get(&name).and_then(|proof| proof.good().cloned());
                let told = self.slots.get(&name).map(|slot| slot.told.clone());
                told.or(good).filter(|version| self.stored.contains(&version.digest))
            } else {
                Some(self.choose(&name, &asked.version))
            };
            wanted.insert(name, Wanted { version, missing, running: asked.running, order: asked.order });
        }
        wanted
    }

    fn choose(&mut self, name: &str, wanted: &Version) -> Version {
        let Some(proof) = self.proofs.get_mut(name) else { return wanted.clone() };
        let (version, news) = proof.choose(wanted);
        if news {
            self.dirty.insert(name.to_owned());
        }
        assert!(self.stored.contains(&version.digest), "{name}: the last good image was collected");
        version
    }

    fn present(&self) -> BTreeMap<String, Present<Version>> {
        let one = |(name, slot): (&String, &Slot)| {
            let now = Present {
                version: slot.told.clone(),
                running: slot.running,
                order: slot.order,
                starting: slot.phase == Phase::Starting,
                ending: slot.phase == Phase::Ending,
            };
            (name.clone(), now)
        };
        self.slots.iter().map(one).collect()
    }

    fn look(&mut self) {
        let wanted = self.wanted();
        for step in plan(&wanted, &self.present()) {
            // It fails, and is asked for again with the next look.
            if self.trouble && self.random.one_in(8) {
                continue;
            }
            self.carry_out(&step, &wanted);
            if self.down || self.may_cut(60) {
                return;
            }
        }
        for (name, asked) in &self.asked {
            if let Some(slot) = self.slots.get_mut(name) {
                slot.order = asked.order;
            }
        }
        let gone = |name: &String| !self.asked.contains_key(name) && !self.slots.contains_key(name);
        let gone: Vec<String> = self.proofs.keys().filter(|name| gone(name)).cloned().collect();
        for name in gone {
            self.proofs.remove(&name);
            self.dirty.insert(name);
        }
        self.collect();
    }

    fn carry_out(&mut self, step: &Step, wanted: &BTreeMap<String, Wanted<Version>>) {
        match step {
            Step::Fetch { name } => {
                if !self.trouble || self.random.one_in(4) {
                    self.stored.insert(self.asked[name].version.digest.clone());
                }
            }
            Step::Remove { name } => self.slots.get_mut(name).expect("it is there").phase = Phase::Ending,
            Step::Stop { name } => {
                let slot = self.slots.get_mut(name).expect("it is there");
                (slot.running, slot.phase) = (false, Phase::Stopped);
            }
            Step::Create { name } | Step::Change { name } | Step::Start { name } => {
                let want = &wanted[name];
                let before = self.slots.remove(name).map(|slot| slot.told);
                let told = want.version.clone().filter(|_| !matches!(step, Step::Start { .. })).or(before);
                let told = told.expect("a version");
                let restart = Restart::new(Limits::default(), Policy::Always);
                let slot = Slot { told, running: want.running, order: want.order, phase: Phase::Stopped, restart };
                self.slots.insert(name.clone(), slot);
                if want.running {
                    self.start(name);
                }
            }
        }
    }

    /// What nobody needs goes, but never while the disk knows less than the agent.
    fn collect(&mut self) {
        if !self.dirty.is_empty() {
            return;
        }
        let mut needed: BTreeSet<String> = self.asked.values().map(|asked| asked.version.digest.clone()).collect();
        needed.extend(self.slots.values().map(|slot| slot.told.digest.clone()));
        needed.extend(self.proofs.values().flat_map(|proof| proof.digests().map(str::to_owned)));
        self.stored.retain(|digest| needed.contains(digest));
    }

    /// One process, as `instance` starts it.
    fn start(&mut self, name: &str) {
        let version = self.slots[name].told.clone();
        assert!(self.stored.contains(&version.digest), "{name} has no image to start");
        let start = self.proofs.entry(name.to_owned()).or_default().handle_start(&version, Wall(self.now as i64));
        match start {
            Start::Trial { keep: true } => {
                if self.may_cut(20) {
                    return;
                }
                self.commit(name);
            }
            Start::Rejected => {
                self.dirty.insert(name.to_owned());
                return self.exited(name);
            }
            Start::Trial { keep: false } | Start::Good | Start::First => {}
        }
        match behaviour(&version.digest) {
            Behaviour::TakesAllDown => self.cut(),
            Behaviour::CrashesAtOnce => self.exited(name),
            _ => self.slots.get_mut(name).expect("it is there").phase = Phase::Starting,
        }
    }

    fn exited(&mut self, name: &str) {
        let rejected = self.proofs.entry(name.to_owned()).or_default().handle_failed("it ended", Wall(self.now as i64));
        if rejected {
            self.dirty.insert(name.to_owned());
        }
        let now = Mono(self.now * 1_000);
        let slot = self.slots.get_mut(name).expect("it is there");
        slot.phase = match slot.restart.handle_exit(now, &Exit::Code(1)) {
            _ if rejected => Phase::Waiting { until: self.now + FALL_BACK_S },
            Next::Restart { at } => Phase::Waiting { until: at.0 / 1_000 },
            Next::Stay | Next::GiveUp => Phase::Stopped,
        };
    }

    fn ran_well(&mut self, name: &str, version: &Version) {
        if self.proofs.entry(name.to_owned()).or_default().handle_well(version) {
            self.dirty.insert(name.to_owned());
        }
    }

    /// A second of every process.
    fn pass(&mut self) {
        for name in NAMES {
            let Some((phase, version)) = self.slots.get(name).map(|slot| (slot.phase, slot.told.clone())) else {
                continue;
            };
            match phase {
                Phase::Ending => drop(self.slots.remove(name)),
                Phase::Starting if self.random.one_in(2) => {
                    let slot = self.slots.get_mut(name).expect("it is there");
                    slot.phase = Phase::Running { since: self.now };
                    slot.restart.handle_started(Mono(self.now * 1_000));
                }
                Phase::Running { since } => match behaviour(&version.digest) {
                    Behaviour::FailsAfter(span) if self.now >= since + span => self.exited(name),
                    _ if self.now >= since + WINDOW_S => self.ran_well(name, &version),
                    _ => {}
                },
                Phase::Waiting { until } if self.now >= until => self.start(name),
                _ => {}
            }
            if self.down {
                return;
            }
        }
    }

    fn second(&mut self) {
        self.now += 1;
        self.down = false;
        if self.trouble && self.random.one_in(10) {
            self.change_mind();
        }
        self.look();
        if !self.down {
            self.pass();
        }
        if !self.down && (!self.trouble || self.random.one_in(2)) {
            for name in std::mem::take(&mut self.dirty) {
                self.commit(&name);
            }
        }
        self.may_cut(40);
    }

    /// Nothing goes wrong any more but what images do themselves. One that would take the device down for ever is asked for by nobody.
    fn calm_down(&mut self) {
        self.trouble = false;
        for name in std::mem::take(&mut self.dirty) {
            self.commit(&name);
        }
        for (name, asked) in &mut self.asked {
            let good = self.proofs.get(name).is_some_and(|proof| proof.good().is_some());
            if behaviour(&asked.version.digest) == Behaviour::TakesAllDown && !good {
                asked.version.digest = "i0".to_owned();
            }
        }
    }

    /// What is asked for runs, or what ran well before where that does not.
    fn is_as_asked(&self) -> Result<(), String> {
        for (name, asked) in &self.asked {
            let Some(slot) = self.slots.get(name) else { return Err(format!("{name} is not there")) };
            if slot.running != asked.running {
                return Err(format!("{name} is told another status"));
            }
            let proof = self.proofs.get(name);
            let rejected = proof.and_then(Proof::rejected).is_some_and(|rejected| rejected.version == asked.version);
            let expected = match (behaviour(&asked.version.digest), proof.and_then(Proof::good)) {
                // A good one, too, when the power went too often while it was on trial.
                (_, Some(good)) if rejected => good,
                (Behaviour::Good, _) => &asked.version,
                // What was never good has nothing to come back to: it is tried for ever. A stopped one proves nothing.
                (_, None) if slot.told == asked.version => continue,
                (_, None) => return Err(format!("{name} was not tried")),
                _ if !asked.running => continue,
                (_, Some(_)) => return Err(format!("{name} is bad and was not rejected")),
            };
            if slot.told != *expected {
                return Err(format!("{name} is {:?}, not {:?}", slot.told.digest, expected.digest));
            }
            if asked.running && !matches!(slot.phase, Phase::Running { .. }) {
                return Err(format!("{name} does not run: {:?}", slot.phase));
            }
        }
        let more = self.slots.keys().find(|name| !self.asked.contains_key(*name));
        more.map_or(Ok(()), |name| Err(format!("{name} is still there")))
    }
}

#[test]
fn whatever_happens_one_good_version_runs() {
    let (mut fell_back, mut cuts) = (0, 0);
    for seed in 0..1_500 {
        let mut device = Device::new(seed);
        device.change_mind();
        for _ in 0..TROUBLE_S {
            device.second();
            cuts += u64::from(device.down);
        }
        device.calm_down();
        let mut calm = 0;
        while let Err(why) = device.is_as_asked() {
            calm += 1;
            assert!(calm < CALM_S, "seed {seed}: {why}");
            device.second();
        }
        // And it stays so.
        for _ in 0..2 * WINDOW_S {
            device.second();
            assert_eq!(device.is_as_asked(), Ok(()), "seed {seed}: it changes again");
        }
        fell_back += device.proofs.values().filter(|proof| proof.rejected().is_some()).count();
    }
    // It would prove nothing if nothing went wrong.
    assert!(fell_back > 300 && cuts > 3_000, "{fell_back} {cuts}");
}
