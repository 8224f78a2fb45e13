//! The session against a simulated cloud: connections that fail, stall, break in the middle of a packet and lose answers, tokens that
//! the cloud ends early. From one seed: faults, then calm; then every message must be there, in order.

use std::collections::VecDeque;

use super::*;
use crate::model::identity::Secret;

const MESSAGES: u64 = 200;

struct World {
    random: u64,
    now: u64,
    session: Session,
    /// Bytes each way; `None`: no connection.
    wire: Option<Wire>,
    sent: u64,
    acked: u64,
    /// First arrivals, in order.
    arrived: Vec<u64>,
    duplicates_unmarked: u64,
    rests: u64,
}

#[derive(Default)]
struct Wire {
    up: Vec<u8>,
    down: VecDeque<Vec<u8>>,
    /// When the cloud ends it.
    token_ends: u64,
    stalled: bool,
}

#[test]
fn every_message_arrives_in_order() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, count) = (number("SKERRY_SEED").unwrap_or(1), number("SKERRY_SEEDS").unwrap_or(300));
    let mut rests = 0;
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        let played = std::panic::catch_unwind(|| World::new(seed).run());
        rests += played.unwrap_or_else(|_| panic!("session: again with: cargo xtask sim --seeds 1 --seed {seed}"));
    }
    assert!(rests > 0 || count < 10, "this test rests nothing");
    println!("session: seeds={count} from={first}");
}

impl World {
    fn new(seed: u64) -> World {
        let identity =
            Credentials { host_name: "h".into(), device_id: "d".into(), module_id: None, key: Secret::new(vec![1]) };
        let config = SessionConfig {
            keep_alive: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(5),
            token_ttl: Duration::from_secs(60),
            retry_max: Duration::from_secs(20),
        };
        World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 1,
            session: Session::new(identity, config, seed),
            wire: None,
            sent: 0,
            acked: 0,
            arrived: Vec::new(),
            duplicates_unmarked: 0,
            rests: 0,
        }
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn run(mut self) -> u64 {
        let mut steps = 0;
        // In some worlds connections are given up when nobody uses them for a moment.
        let idle = Idle { after: Duration::from_millis(500), rest_max: None };
        let idle = self.chance(2).then_some(idle);
        self.session.set_idle(Mono(self.now), idle);
        while self.acked < MESSAGES {
            steps += 1;
            if idle.is_some() && self.chance(20) {
                self.now += 3_000;
            }
            assert!(steps < 400_000, "it does not come to an end: {} of {MESSAGES}", self.acked);
            let faults = steps < 3_000;
            self.now += self.below(200);
            if self.sent < MESSAGES && self.session.in_flight() < 20 && self.chance(2) {
                self.sent += 1;
                let (now, delivery) = (Mono(self.now), self.sent);
                self.session.publish(now, delivery, "devices/d/messages/events/", &delivery.to_le_bytes());
            }
            self.step(faults);
        }
        assert_eq!(self.arrived, (1..=MESSAGES).collect::<Vec<_>>());
        assert_eq!(self.duplicates_unmarked, 0);
        self.rests
    }

    fn step(&mut self, faults: bool) {
        let now = Mono(self.now);
        if self.session.next_timeout() <= now {
            self.session.on_timeout(now);
        }
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Dial if faults && self.chance(3) => {
                    self.session.handle_closed(now, Loss::Unreachable("no".into()));
                }
                Action::Dial => {
                    let token_ends = self.now + 5_000 + self.below(40_000);
                    self.wire = Some(Wire { token_ends, ..Wire::default() });
                    self.session.handle_open(now, Wall(0));
                }
                Action::HangUp => {
                    self.wire = None;
                    self.session.handle_closed(now, Loss::Ended(String::new()));
                }
            }
        }
        if self.wire.is_some() {
            self.carry(faults);
        }
        while let Some(event) = self.session.poll_event() {
            assert!(!matches!(event, Event::Rejected { .. }), "a good message was given up");
            self.rests += u64::from(event == Event::Rested);
            if let Event::Acked { first, count } = event {
                // Acknowledged means arrived.
                assert!((first..first + u64::from(count)).all(|d| self.arrived.contains(&d)));
                self.acked += u64::from(count);
            }
        }
    }

    fn carry(&mut self, faults: bool) {
        let out = self.session.take_output();
        let (cut, stall) = (faults && self.chance(60), faults && self.chance(150));
        let part = self.below(out.len() as u64 + 1) as usize;
        let now = self.now;
        let Some(wire) = &mut self.wire else { return };
        wire.stalled |= stall;
        // A cut may come in the middle of a packet.
        wire.up.extend_from_slice(if cut { &out[..part] } else { &out });
        let over = cut || wire.token_ends <= now;
        if !wire.stalled {
            self.cloud(faults);
        }
        if over {
            self.wire = None;
            return self.session.handle_closed(Mono(now), Loss::Ended("cut".into()));
        }
        let half = self.chance(4);
        if let Some(wire) = self.wire.as_mut().filter(|w| !w.stalled)
            && let Some(mut bytes) = wire.down.pop_front()
        {
            if half && bytes.len() > 1 {
                let rest = bytes.split_off(bytes.len() / 2);
                wire.down.push_front(rest);
            }
            self.session.handle_bytes(Mono(now), &bytes);
        }
    }

    /// Reads whole packets, takes messages, and answers; an answer may be lost, a connection refused.
    fn cloud(&mut self, faults: bool) {
        loop {
            let (lose, refuse) = (faults && self.chance(40), faults && self.chance(10));
            let Some(wire) = &mut self.wire else { return };
            let Some(packet) = take_packet(&mut wire.up) else { return };
            match packet[0] >> 4 {
                1 => wire.down.push_back(vec![0x20, 2, 0, if refuse { 3 } else { 0 }]),
                3 if packet[0] & 0b110 != 0 => {
                    let at = packet.len() - 8;
                    let number = u64::from_le_bytes(packet[at..].try_into().unwrap());
                    let pid = [packet[at - 2], packet[at - 1]];
                    if !self.arrived.contains(&number) {
                        self.arrived.push(number);
                    } else if packet[0] & 0b1000 == 0 {
                        self.duplicates_unmarked += 1;
                    }
                    if !lose {
                        wire.down.push_back(vec![0x40, 2, pid[0], pid[1]]);
                    }
                }
                8 => wire.down.push_back(vec![0x90, 5, packet[2], packet[3], 1, 1, 1]),
                12 => wire.down.push_back(vec![0xd0, 0]),
                _ => {}
            }
        }
    }
}

fn take_packet(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let rest = (bytes.len() >= at + length).then(|| bytes.split_off(at + length))?;
    Some(std::mem::replace(bytes, rest))
}
