//! A twin and its copy in a simulated cloud: lost answers, lost changes, reconnects. Must end equal on both sides.

use serde_json::{Map, Value, json};

use super::{Request, TwinSync};
use crate::logic::twin::{Twin, merge};
use crate::model::time::Mono;
use std::collections::VecDeque;
use std::time::Duration;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn whole(desired: Value, version: u64, reported: Value) -> Vec<u8> {
    let mut desired = object(desired);
    desired.insert("$version".into(), version.into());
    json!({"desired": desired, "reported": reported}).to_string().into_bytes()
}

fn ready() -> TwinSync {
    let mut sync = TwinSync::new(Duration::from_secs(20));
    sync.handle_ready(Mono(0));
    sync
}

#[test]
fn settings_stand_until_somebody_sets_one_in_the_cloud() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    twin.apply_desired(&json!({"threshold": 20})).unwrap();
    let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else { panic!() };
    assert_eq!(sync.handle_answer(Mono(1), &mut twin, rid, 200, &whole(json!({}), 1, json!({}))), Ok(false));
    assert_eq!(twin.desired()["threshold"], 20);
    // The first change there makes the whole the cloud's.
    assert_eq!(sync.handle_desired(Mono(2), &mut twin, Some(2), br#"{"other":1,"$version":2}"#), Ok(false));
    let Some(Request::Get { rid }) = sync.poll_request(Mono(2), &twin) else { panic!() };
    assert_eq!(sync.handle_answer(Mono(3), &mut twin, rid, 200, &whole(json!({"other": 1}), 2, json!({}))), Ok(true));
    assert_eq!((twin.desired().clone(), twin.desired_version()), (object(json!({"other": 1})), 2));
}

#[test]
fn desired_changes_follow_their_versions() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else { panic!() };
    // One overtakes the answer, and another is in it already.
    assert_eq!(sync.handle_desired(Mono(1), &mut twin, Some(5), br#"{"a":5}"#), Ok(false));
    assert_eq!(sync.handle_desired(Mono(1), &mut twin, Some(6), br#"{"a":6}"#), Ok(false));
    assert_eq!(sync.handle_answer(Mono(2), &mut twin, rid, 200, &whole(json!({"a": 5}), 5, json!({}))), Ok(true));
    assert_eq!((twin.desired()["a"].clone(), twin.desired_version()), (json!(6), 6));
    assert_eq!(sync.handle_desired(Mono(3), &mut twin, None, br#"{"a":null,"$version":7}"#), Ok(true));
    assert_eq!(sync.handle_desired(Mono(4), &mut twin, Some(7), br#"{"a":1}"#), Ok(false), "the same version twice");
    assert!(twin.desired().is_empty());
    assert_eq!(sync.handle_desired(Mono(5), &mut twin, Some(9), br#"{"a":1}"#), Ok(false), "one is missing");
    assert!(matches!(sync.poll_request(Mono(5), &twin), Some(Request::Get { .. })));
}

#[test]
fn reported_changes_go_up_as_one_difference() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    twin.apply_reported(&json!({"a": 1, "b": {"c": 2}})).unwrap();
    let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else { panic!() };
    sync.handle_answer(Mono(1), &mut twin, rid, 200, &whole(json!({}), 1, json!({"a": 1, "old": true, "$version": 4})))
        .unwrap();
    let Some(Request::Report { rid, patch }) = sync.poll_request(Mono(1), &twin) else { panic!() };
    assert_eq!(patch, object(json!({"old": null, "b": {"c": 2}})));
    // What is reported meanwhile waits, and becomes one patch.
    twin.apply_reported(&json!({"a": 2})).unwrap();
    twin.apply_reported(&json!({"a": 3})).unwrap();
    assert_eq!(sync.poll_request(Mono(2), &twin), None);
    sync.handle_answer(Mono(3), &mut twin, rid, 204, b"").unwrap();
    let Some(Request::Report { rid, patch }) = sync.poll_request(Mono(3), &twin) else { panic!() };
    assert_eq!(patch, object(json!({"a": 3})));
    let refused = sync.handle_answer(Mono(4), &mut twin, rid, 400, br#"{"message":"too large"}"#).unwrap_err();
    assert!(refused.contains("400 (too large)"), "{refused}");
    assert_eq!(sync.poll_request(Mono(60_000), &twin), None, "the same is not sent again");
    twin.apply_reported(&json!({"a": 4})).unwrap();
    assert!(matches!(sync.poll_request(Mono(60_000), &twin), Some(Request::Report { .. })));
}

#[test]
fn an_instance_that_lost_its_reported_properties_gets_them_back() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else { panic!() };
    sync.handle_answer(Mono(1), &mut twin, rid, 200, &whole(json!({}), 1, json!({"a": 1}))).unwrap();
    assert_eq!(sync.poll_request(Mono(1), &twin), None);
    assert_eq!(twin.reported()["a"], 1);
}

#[test]
fn a_cloud_that_throttles_is_asked_less_and_less() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    let (mut now, mut waits) = (Mono(0), Vec::new());
    for _ in 0..9 {
        let Some(Request::Get { rid }) = sync.poll_request(now, &twin) else { panic!() };
        assert!(sync.handle_answer(now, &mut twin, rid, 429, b"").is_err());
        waits.push(sync.next_timeout(now).since(now) / 1_000);
        now = sync.next_timeout(now);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    // What was reported meanwhile is not lost, and the next failure begins anew.
    twin.apply_reported(&json!({"a": 1})).unwrap();
    let Some(Request::Get { rid }) = sync.poll_request(now, &twin) else { panic!() };
    sync.handle_answer(now, &mut twin, rid, 200, &whole(json!({}), 1, json!({}))).unwrap();
    let Some(Request::Report { rid, .. }) = sync.poll_request(now, &twin) else { panic!() };
    assert!(sync.handle_answer(now, &mut twin, rid, 429, b"").is_err());
    assert_eq!(sync.next_timeout(now).since(now), 5_000);
}

#[test]
fn rubbish_is_refused_and_asked_for_again() {
    let (mut sync, mut twin) = (ready(), Twin::new());
    for body in [&b""[..], b"[]", b"{\"desired\":1}", b"\xff"] {
        let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else { panic!() };
        assert!(sync.handle_answer(Mono(0), &mut twin, rid, 200, body).is_err());
        assert_eq!(sync.next_timeout(Mono(0)), Mono(5_000));
        sync.handle_ready(Mono(0));
    }
    assert!(sync.handle_desired(Mono(0), &mut twin, None, b"{}").is_err());
    assert!(sync.handle_desired(Mono(0), &mut twin, Some(2), b"7").is_err());
}

/// A cloud and a wire between that loses, delays and breaks; afterwards calm, and both sides must be equal.
#[test]
fn both_sides_converge() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, count) = (number("SKERRY_SEED").unwrap_or(1), number("SKERRY_SEEDS").unwrap_or(400));
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        let played = std::panic::catch_unwind(|| World::new(seed).run());
        played.unwrap_or_else(|_| panic!("twin: again with: cargo xtask sim --seeds 1 --seed {seed}"));
    }
    println!("twin: seeds={count} from={first}");
}

struct World {
    random: u64,
    now: u64,
    sync: TwinSync,
    twin: Twin,
    desired: Map<String, Value>,
    version: u64,
    reported: Map<String, Value>,
    connected: bool,
    up: VecDeque<Request>,
    down: VecDeque<Down>,
}

enum Down {
    Answer { rid: u64, status: u16, body: Vec<u8> },
    Desired { version: u64, body: Vec<u8> },
}

impl World {
    fn new(seed: u64) -> World {
        World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 0,
            sync: TwinSync::new(Duration::from_secs(20)),
            twin: Twin::new(),
            desired: Map::new(),
            version: 1,
            reported: Map::new(),
            connected: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn run(mut self) {
        for _ in 0..300 {
            self.step(true);
        }
        for _ in 0..60 {
            self.now += 10_000;
            if !self.connected {
                self.connect();
            }
            (0..8).for_each(|_| self.carry(false));
        }
        assert_eq!(self.reported, *self.twin.reported());
        if self.version > 1 {
            assert_eq!((&self.desired, self.version), (self.twin.desired(), self.twin.desired_version()));
        }
        assert!(self.sync.is_in_step(&self.twin));
    }

    fn step(&mut self, faults: bool) {
        self.now += self.next(4_000);
        let key = ["a", "b", "c"][self.next(3) as usize];
        let value = match self.next(4) {
            0 => Value::Null,
            1 => json!({"x": self.next(3)}),
            _ => json!(self.next(5)),
        };
        match self.next(10) {
            0 | 1 => drop(self.twin.apply_reported(&json!({ key: value }))),
            2 | 3 => {
                let patch = object(json!({ key: value }));
                merge(&mut self.desired, &patch);
                self.version += 1;
                if self.connected {
                    let body = Value::Object(patch).to_string().into_bytes();
                    self.down.push_back(Down::Desired { version: self.version, body });
                }
            }
            4 if self.connected => {
                self.connected = false;
                self.up.clear();
                self.down.clear();
                self.sync.handle_lost();
            }
            5 if !self.connected => self.connect(),
            _ => self.carry(faults),
        }
        let (now, before) = (Mono(self.now), self.twin.desired_version());
        self.sync.on_timeout(now);
        assert!(self.twin.desired_version() >= before);
    }

    fn connect(&mut self) {
        self.connected = true;
        self.sync.handle_ready(Mono(self.now));
    }

    /// One request up, or one answer down, perhaps lost on the way.
    fn carry(&mut self, faults: bool) {
        let now = Mono(self.now);
        self.sync.on_timeout(now);
        if self.connected
            && let Some(request) = self.sync.poll_request(now, &self.twin)
        {
            self.up.push_back(request);
        }
        if let Some(request) = self.up.pop_front() {
            if faults && self.next(6) == 0 {
                return;
            }
            let answer = match request {
                Request::Get { rid } => {
                    let body =
                        whole(Value::Object(self.desired.clone()), self.version, Value::Object(self.reported.clone()));
                    Down::Answer { rid, status: 200, body }
                }
                Request::Report { rid, .. } if faults && self.next(8) == 0 => {
                    Down::Answer { rid, status: 429, body: vec![] }
                }
                Request::Report { rid, patch } => {
                    merge(&mut self.reported, &patch);
                    Down::Answer { rid, status: 204, body: vec![] }
                }
            };
            if !(faults && self.next(6) == 0) {
                self.down.push_back(answer);
            }
        } else if let Some(down) = self.down.pop_front() {
            let before = self.twin.desired_version();
            let changed = match down {
                Down::Answer { rid, status, body } => self.sync.handle_answer(now, &mut self.twin, rid, status, &body),
                Down::Desired { version, body } => self.sync.handle_desired(now, &mut self.twin, Some(version), &body),
            };
            // What the module hears: each version once, in its order.
            assert!(changed != Ok(true) || self.twin.desired_version() > before);
        }
    }
}
