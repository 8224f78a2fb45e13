//! Power cuts, failures and full disks under the real store with the real redb: whatever was acknowledged is there
//! afterwards, with its ledger, and never half of what was not. One number decides everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::super::{Opened, Options, Store, open};
use super::disk::{Dice, SimDisk, Trouble};
use super::model::{Model, Picture};
use crate::logic::hub::{Commit, Wrote};

const QUOTA: u64 = 1 << 20;

struct World {
    dice: Dice,
    disk: SimDisk,
    model: Model,
    store: Option<Store>,
    cuts: u64,
    /// What the store last said of its room.
    room: (u64, bool),
    seen: BTreeMap<&'static str, u64>,
}

fn options() -> Options {
    Options { quota_bytes: Some(QUOTA), allow_volatile_state: true, boot_id: "sim".into() }
}

impl World {
    fn new(seed: u64) -> World {
        let disk = SimDisk::new(64 << 20);
        World {
            dice: Dice(seed),
            disk,
            model: Model::default(),
            store: None,
            cuts: 0,
            room: (u64::MAX, false),
            seen: BTreeMap::new(),
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Opens, through more cuts if it must be; then what is there is what was acknowledged, with or without the commit that
    /// was under way.
    fn open(&mut self, mut acknowledged: Option<u64>, under_way: Option<&Commit>) {
        loop {
            let disk = Arc::new(self.disk.clone());
            match open::open_on(disk, Path::new("sim"), &options(), acknowledged) {
                Ok(Opened { store, restored, report, .. }) => {
                    assert_eq!(report, None, "a cut is no damage");
                    self.room = (restored.room, restored.full.is_some());
                    self.store = Some(store);
                    break;
                }
                Err(_) if self.disk.is_off() => {
                    self.saw("cut while opening");
                    // Whoever knew what was acknowledged is gone.
                    acknowledged = None;
                    self.power_up();
                }
                Err(error) if error.to_string().contains("simulated failure") => self.saw("failure while opening"),
                Err(error) => panic!("it does not open: {error}"),
            }
        }
        let Some(store) = &mut self.store else { return };
        let found = Picture::of(store).expect("it can be read");
        let expected = self.model.picture();
        let mut with = self.model.clone();
        if let Some(commit) = under_way.filter(|_| acknowledged.is_none()) {
            with.apply(commit);
            with.evict_as(&found, commit);
        }
        if found == with.picture() {
            self.model = with;
        } else {
            assert_eq!(found, expected, "neither what was acknowledged, nor that and the commit under way");
        }
        self.check();
    }

    fn power_up(&mut self) {
        self.cuts += 1;
        self.disk.power_up(&mut self.dice);
        let next = self.next_trouble();
        self.disk.expect(next);
    }

    fn next_trouble(&mut self) -> Option<Trouble> {
        match self.dice.roll(5) {
            0 => Some(Trouble::CutAtSync(self.dice.roll(8))),
            1 => Some(Trouble::CutAtSync(self.dice.roll(150))),
            2 => Some(Trouble::CutAtOperation(self.dice.roll(30))),
            3 => Some(Trouble::CutAtOperation(self.dice.roll(600))),
            _ => Some(Trouble::FailAtOperation(self.dice.roll(400))),
        }
    }

    fn check(&mut self) {
        self.model.check();
        let bytes = self.disk.bytes(|_| true);
        assert!(bytes <= QUOTA, "{bytes} bytes on a quota of {QUOTA}");
    }

    fn step(&mut self) {
        let Some(store) = &mut self.store else { return self.open(None, None) };
        if self.dice.chance(4) {
            let result = store.sweep();
            if result.is_err() {
                self.recover(None);
            }
            return self.check();
        }
        let commit = self.model.next_commit(&mut self.dice, self.room);
        match store.commit(&commit) {
            Ok(wrote) => self.committed(&commit, wrote),
            Err(_) => self.recover(Some(&commit)),
        }
        self.check();
        if self.dice.chance(40) {
            match self.store.as_mut().map(Picture::of) {
                Some(Ok(found)) => assert_eq!(found, self.model.picture()),
                Some(Err(_)) => self.recover(None),
                None => {}
            }
        }
    }

    fn committed(&mut self, commit: &Commit, wrote: Wrote) {
        if wrote.full.is_some() {
            self.saw("full");
        }
        if !wrote.evicted.is_empty() {
            self.saw("evicted");
        }
        if !wrote.expired.is_empty() {
            self.saw("expired");
        }
        self.room = (wrote.room, wrote.full.is_some());
        self.model.apply(commit);
        for evicted in &wrote.evicted {
            self.model.evict(evicted.queue, evicted.messages);
        }
        let mut expired = self.model.take_expired();
        expired.retain(|_, messages| *messages > 0);
        let told = wrote.expired.iter().filter(|e| e.messages > 0);
        let told: BTreeMap<u32, u64> = told.map(|e| (e.queue, e.messages)).collect();
        assert_eq!(told, expired);
    }

    /// After a cut everything in memory is gone; after a failure the store is opened again, and knows what was acknowledged.
    fn recover(&mut self, under_way: Option<&Commit>) {
        let acknowledged = self.store.take().map(|store| store.acknowledged());
        if self.disk.is_off() {
            self.saw("cut");
            self.power_up();
            self.open(None, under_way);
        } else {
            self.saw("failure");
            let next = self.next_trouble();
            self.disk.expect(next);
            self.open(acknowledged, under_way);
        }
    }

    /// Everything is settled, and the space is there again.
    fn drain(&mut self) {
        self.recover(None);
        self.disk.expect(None);
        if self.disk.is_off() {
            return self.drain();
        }
        let store = self.store.as_mut().expect("open");
        for commit in self.model.settle_all() {
            let wrote = store.commit(&commit).expect("nothing fails any more");
            self.model.apply(&commit);
            let _ = wrote;
        }
        let done = (0..1_000).any(|_| !store.sweep().expect("nothing fails any more"));
        assert!(done, "the sweep comes to an end");
        assert_eq!(Picture::of(store).unwrap(), self.model.picture());
        let bytes = self.disk.bytes(|name| name.ends_with(".segment"));
        assert!(bytes < 40 * 1024, "{bytes} bytes are left of the log");
        let segments: BTreeSet<String> = super::super::disk::Disk::names(&self.disk)
            .unwrap()
            .into_iter()
            .filter(|n| n.ends_with(".segment"))
            .collect();
        assert!(segments.len() <= 2, "{segments:?}");
    }
}

/// One world: returns how many cuts it went through, and what it saw.
fn run(seed: u64) -> (u64, BTreeMap<&'static str, u64>) {
    let mut world = World::new(seed);
    let first = world.next_trouble();
    world.disk.expect(first);
    world.open(None, None);
    for _ in 0..250 {
        world.step();
    }
    world.drain();
    (world.cuts, world.seen)
}

#[test]
fn what_was_acknowledged_survives_every_cut() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let wanted = number("SKERRY_CUTS").unwrap_or(300);
    let first = number("SKERRY_SEED").unwrap_or(1);
    let (mut cuts, mut worlds) = (0, 0);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    while cuts < wanted {
        let seed = first + worlds;
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((more, saw)) => {
                cuts += more;
                saw.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
            }
            Err(panic) => {
                eprintln!(
                    "again with: SKERRY_SEED={seed} SKERRY_CUTS=1 cargo test -p skerry-runtime --lib store::tests::cuts"
                );
                std::panic::resume_unwind(panic);
            }
        }
        worlds += 1;
    }
    println!("cuts={cuts} worlds={worlds} seeds={first}..{} seen={seen:?}", first + worlds);
    assert!(
        wanted < 300
            || ["full", "evicted", "expired", "failure", "cut while opening"].iter().all(|w| seen.contains_key(w))
    );
}
