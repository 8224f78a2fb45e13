//! The plan in a world that carries out its steps at its own pace, fails at them, changes its mind and crashes: whatever happens, what runs becomes
//! what is wanted. Must never look inside of the plan.

use std::collections::{BTreeMap, BTreeSet};

use super::{Present, Step, Wanted, plan};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Rounds in which everything goes wrong that can, and then those in which nothing does.
const TROUBLE: u32 = 40;
const QUIET_MAX: u32 = 60;

struct Random(u64);

impl Random {
    /// 0 to `end` - 1.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy)]
struct Asked {
    version: u64,
    running: bool,
    order: u32,
}

struct Simulation {
    random: Random,
    asked: BTreeMap<String, Asked>,
    at_hand: BTreeSet<u64>,
    present: BTreeMap<String, Present<u64>>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        Simulation { random: Random(seed), asked: BTreeMap::new(), at_hand: BTreeSet::new(), present: BTreeMap::new() }
    }

    fn change_mind(&mut self) {
        for name in NAMES {
            match self.random.below(6) {
                0 => drop(self.asked.remove(name)),
                1 | 2 => {
                    let (version, order) = (self.random.below(4), self.random.below(3) as u32);
                    let running = !self.random.one_in(4);
                    self.asked.insert(name.to_owned(), Asked { version, running, order });
                }
                _ => {}
            }
        }
    }

    fn wanted(&self) -> BTreeMap<String, Wanted<u64>> {
        let one = |(name, asked): (&String, &Asked)| {
            let missing = !self.at_hand.contains(&asked.version);
            let before = self.present.get(name).map(|now| now.version);
            let version = if missing { before } else { Some(asked.version) };
            (name.clone(), Wanted { version, missing, running: asked.running, order: asked.order })
        };
        self.asked.iter().map(one).collect()
    }

    /// Processes come up (or fail to) and end when they like.
    fn pass(&mut self) {
        let names: Vec<String> = self.present.keys().cloned().collect();
        for name in names {
            if !self.random.one_in(2) {
                continue;
            }
            match self.present.get_mut(&name) {
                Some(now) if now.ending => drop(self.present.remove(&name)),
                Some(now) => now.starting = false,
                None => {}
            }
        }
    }

    fn carry_out(&mut self, step: &Step, wanted: &BTreeMap<String, Wanted<u64>>) {
        match step {
            Step::Fetch { name } => {
                if self.random.one_in(3) {
                    self.at_hand.insert(self.asked[name].version);
                }
            }
            Step::Remove { name } => self.present.get_mut(name).expect("it is there").ending = true,
            Step::Stop { name } => {
                let now = self.present.get_mut(name).expect("it is there");
                (now.running, now.starting) = (false, false);
            }
            Step::Create { name } | Step::Change { name } | Step::Start { name } => {
                let want = &wanted[name];
                self.in_order(name, want, wanted);
                let before = self.present.get(name).map(|now| now.version);
                assert_eq!(matches!(step, Step::Create { .. }), before.is_none(), "{step:?}");
                let version = if matches!(step, Step::Start { .. }) { before } else { want.version };
                let version = version.expect("it has an image");
                let now = Present {
                    version,
                    running: want.running,
                    order: want.order,
                    starting: want.running,
                    ending: false,
                };
                assert_ne!(self.present.get(name), Some(&now), "{step:?} changes nothing");
                self.present.insert(name.clone(), now);
            }
        }
    }

    /// Nothing starts before what has a lower order and can.
    fn in_order(&self, name: &str, want: &Wanted<u64>, wanted: &BTreeMap<String, Wanted<u64>>) {
        if !want.running {
            return;
        }
        for (other, before) in wanted.iter().filter(|(_, other)| other.order < want.order && other.running) {
            let is_up = self.present.get(other).is_some_and(|now| now.running && !now.starting && !now.ending);
            assert!(is_up || before.version.is_none(), "{name} starts before {other}");
        }
    }

    fn round(&mut self, trouble: bool) -> bool {
        if trouble && self.random.one_in(4) {
            self.change_mind();
        }
        let wanted = self.wanted();
        let before = self.present.clone();
        let steps = plan(&wanted, &before);
        for step in &steps {
            // The step fails, or everything goes down: processes don't outlive the runtime.
            if trouble && self.random.one_in(6) {
                break;
            }
            if trouble && self.random.one_in(20) {
                self.present.clear();
                break;
            }
            self.carry_out(step, &wanted);
        }
        // What needs no new process.
        for (name, asked) in &self.asked {
            if let Some(now) = self.present.get_mut(name) {
                now.order = asked.order;
            }
        }
        self.pass();
        steps.is_empty() && before == self.present
    }

    fn has_converged(&self) -> bool {
        let good = |(name, asked): (&String, &Asked)| {
            let now = self.present.get(name);
            now.is_some_and(|now| now.version == asked.version && now.running == asked.running && !now.ending)
        };
        self.present.len() == self.asked.len() && self.asked.iter().all(good)
    }
}

#[test]
fn it_converges_whatever_happens() {
    for seed in 0..2_000 {
        let mut simulation = Simulation::new(seed);
        simulation.change_mind();
        for _ in 0..TROUBLE {
            simulation.round(true);
        }
        let mut rounds = 0;
        while !(simulation.round(false) && simulation.has_converged()) {
            rounds += 1;
            assert!(
                rounds < QUIET_MAX,
                "seed {seed}: wanted {:?}, there is {:?}",
                simulation.wanted(),
                simulation.present
            );
        }
    }
}
