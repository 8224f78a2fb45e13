//! The hub, played by hand: what goes in, what comes out, in logical time.

use std::time::Duration;

use super::*;
use crate::logic::routing::{NamedRoute, RouteTable};
use crate::model::time::{Age, Wall};
use skerry_abi::wire::frame::{self, Completion, Outcome, Parents, ToHost};
use skerry_abi::wire::record::Writer;

fn record(body: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes).finish(body.as_bytes()).unwrap();
    bytes
}

/// `a/out -> b/in`, `b/out -> c/in`.
pub(super) fn chain() -> RouteTable {
    let route =
        |name: &str, text: &str| NamedRoute { name: name.into(), text: text.into(), priority: None, ttl_secs: None };
    RouteTable::new([
        route("ab", "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")"),
        route("bc", "FROM /messages/modules/b/outputs/out INTO BrokeredEndpoint(\"/modules/c/inputs/in\")"),
    ])
    .unwrap()
}

pub(super) struct Play {
    pub hub: Hub,
    pub ms: u64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Got { id: u64, body: String, attempts: u16 },
    Ack { first: u64, count: u32, outcome: Outcome },
}

impl Play {
    fn new(restored: Restored) -> Play {
        Play::with(chain(), restored)
    }

    pub fn with(routes: RouteTable, restored: Restored) -> Play {
        Play { hub: Hub::new("d", HubConfig::default(), routes, restored), ms: 1000 }
    }

    pub fn now(&self) -> Now {
        Now { mono: Mono(self.ms), wall: Wall(self.ms as i64), age: Age(self.ms) }
    }

    pub fn open(&mut self, module: &str) -> LinkIx {
        let link = self.hub.open_link(module, &["out".into()], &["in".into()]);
        self.hub.ready(link);
        link
    }

    pub fn send(&mut self, link: LinkIx, ticket: u64, body: &str) {
        self.send_by(link, ticket, 0, body);
    }

    pub fn send_by(&mut self, link: LinkIx, ticket: u64, output: u16, body: &str) {
        let sent = Sent { ticket, output, at_once: false, parents: Parents::NONE, record: &record(body) };
        self.hub.publish(self.now(), link, sent).unwrap();
    }

    pub fn complete(&mut self, link: LinkIx, id: u64, completion: Completion) {
        self.hub.complete(self.now(), link, id, 1, completion, "no").unwrap();
    }

    pub fn child(&mut self, link: LinkIx, ticket: u64, parent: u64, body: &str) {
        let mut frame = Vec::new();
        frame::publish(&mut frame, ticket, 0, false, &[parent], &record(body));
        let mut rest = &frame[..];
        match skerry_abi::wire::frame::FromHost::decode(frame::split(&mut rest).unwrap().unwrap()).unwrap() {
            skerry_abi::wire::frame::FromHost::Publish { ticket, output, now: at_once, parents, record } => {
                self.hub.publish(self.now(), link, Sent { ticket, output, at_once, parents, record }).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn see(&mut self, link: LinkIx) -> Vec<Seen> {
        self.hub.end_turn(self.now());
        while self.hub.take_output().is_some() {}
        let out = std::mem::take(self.hub.output(link).unwrap());
        let mut rest = &out[..];
        let mut seen = Vec::new();
        while let Some(frame) = frame::split(&mut rest).unwrap() {
            match ToHost::decode(frame).unwrap() {
                ToHost::Deliver { id, attempts, record, .. } => {
                    let body = skerry_abi::wire::record::Record::parse(record).unwrap().body();
                    seen.push(Seen::Got { id, body: String::from_utf8(body.to_vec()).unwrap(), attempts });
                }
                ToHost::Settled { first, count, outcome, .. } => seen.push(Seen::Ack { first, count, outcome }),
                _ => {}
            }
        }
        seen
    }

    pub fn commit(&mut self) -> Option<Commit> {
        let commit = self.hub.poll_commit(self.now())?;
        self.hub.handle_committed(self.now(), commit.id, Ok(Wrote::default()));
        self.hub.end_turn(self.now());
        Some(commit)
    }
}

pub(super) fn got(id: u64, body: &str, attempts: u16) -> Seen {
    Seen::Got { id, body: body.into(), attempts }
}

#[test]
fn what_is_consumed_in_time_is_never_written() {
    let mut play = Play::new(Restored::default());
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "x");
    play.send(a, 2, "y");
    assert_eq!(play.see(b), [got(1, "x", 0), got(2, "y", 0)]);
    play.complete(b, 1, Completion::Done);
    play.complete(b, 2, Completion::Done);
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 2, outcome: Outcome::Delivered }]);
    play.ms += 10_000;
    assert!(play.commit().is_none());
}

#[test]
fn what_nobody_takes_is_written_after_the_flush_interval_and_then_acknowledged() {
    let mut play = Play::new(Restored::default());
    let a = play.open("a");
    play.send(a, 1, "x");
    assert_eq!(play.see(a), []);
    assert!(play.commit().is_none());
    play.ms += 1000;
    let commit = play.commit().unwrap();
    assert_eq!((commit.blocks.len(), commit.rows.len(), commit.rows[0].total), (1, 1, 1));
    assert_eq!((commit.queues[0].ledger.stored, commit.queues[0].ledger.pending), (1, 1));
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Durable }]);
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "x", 0)]);
    play.complete(b, 1, Completion::Done);
    play.ms += 1000;
    let commit = play.commit().unwrap();
    assert_eq!((commit.rows[0].total, commit.rows[0].settled), (1, 1));
    assert_eq!((commit.queues[0].ledger.stored, commit.queues[0].ledger.delivered), (0, 1));
    play.ms += 1000;
    assert!(play.commit().is_none());
}

#[test]
fn an_input_completes_only_with_its_output() {
    let mut play = Play::new(Restored::default());
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "in");
    assert_eq!(play.see(b), [got(1, "in", 0)]);
    play.child(b, 1, 1, "out");
    play.complete(b, 1, Completion::Done);
    assert_eq!(play.see(a), []);
    play.ms += 1000;
    // One block with the output alone: the input is settled in the same transaction and never written.
    let commit = play.commit().unwrap();
    assert_eq!((commit.blocks.len(), commit.rows.len()), (1, 1));
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Delivered }]);
    assert_eq!(play.see(b), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Durable }]);
    let ledgers: Vec<_> = play.hub.overview().queues.iter().map(|q| (q.ledger.delivered, q.ledger.pending)).collect();
    assert_eq!(ledgers, [(1, 0), (0, 1)]);
}

#[test]
fn a_refused_message_comes_again_before_the_later_ones() {
    let mut play = Play::new(Restored::default());
    let (a, b) = (play.open("a"), play.open("b"));
    for (ticket, body) in [(1, "x"), (2, "y"), (3, "z")] {
        play.send(a, ticket, body);
    }
    assert_eq!(play.see(b).len(), 3);
    play.complete(b, 1, Completion::Done);
    play.complete(b, 2, Completion::Refused);
    play.complete(b, 3, Completion::Returned);
    assert_eq!(play.see(b), []);
    play.ms += 100;
    play.hub.on_timeout(play.now());
    assert_eq!(play.see(b), [got(4, "y", 1), got(5, "z", 0)]);
}

#[test]
fn a_message_that_kills_goes_to_the_dead_letters() {
    kills(Ending::During(1), 5);
}

/// The first death has two suspects, and none is blamed; from then on there is one.
#[test]
fn a_message_that_kills_unseen_goes_to_the_dead_letters() {
    kills(Ending::Somewhere, 6);
}

#[track_caller]
fn kills(ending: Ending, deaths: u16) {
    let mut play = Play::new(Restored::default());
    let a = play.open("a");
    play.send(a, 1, "poison");
    play.send(a, 2, "fine");
    for death in 1..=deaths {
        let b = play.open("b");
        let seen = play.see(b);
        assert_eq!(seen[0], got(1, "poison", (death + 4).saturating_sub(deaths)), "{seen:?}");
        assert_eq!(seen.len(), if death == 1 { 2 } else { 1 }, "one at a time after a death");
        let now = play.now();
        play.hub.close_link(now, b, ending);
        play.ms += 40_000;
        play.commit();
    }
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "fine", 0)]);
    assert_eq!(play.hub.overview().queues[0].ledger.dead_lettered, 1);
}

#[test]
fn a_backlog_is_read_back_in_order_and_expires() {
    let mut play = Play::new(Restored::default());
    play.hub.config.memory_bytes = 64 * 1024;
    let a = play.open("a");
    let mut ticket = 0;
    let mut blocks: Vec<Commit> = Vec::new();
    for _ in 0..20 {
        for _ in 0..30 {
            ticket += 1;
            play.send(a, ticket, &format!("{ticket:01000}"));
        }
        play.see(a);
        play.ms += 1000;
        blocks.extend(play.commit());
    }
    assert!(play.hub.overview().memory_bytes < 64 * 1024, "{}", play.hub.overview().memory_bytes);
    let b = play.open("b");
    let mut expected = 1;
    for _ in 0..2000 {
        for seen in play.see(b) {
            let Seen::Got { id, body, .. } = seen else { continue };
            assert_eq!(body, format!("{expected:01000}"));
            expected += 1;
            play.complete(b, id, Completion::Done);
        }
        while let Some(request) = play.hub.poll_load() {
            let loaded = load(&blocks, &request);
            play.hub.handle_loaded(play.now(), request, loaded);
        }
    }
    assert_eq!(expected, 601);
    assert_eq!(play.hub.overview().queues[0].ledger.accepted(), 600);
    assert_eq!(play.hub.overview().queues[0].ledger.stored, 0);
    play.see(a);
    play.send(a, ticket + 1, "old");
    let now = play.now();
    play.hub.close_link(now, b, Ending::Quietly);
    play.ms += 7_200_001;
    play.hub.on_timeout(play.now());
    assert_eq!(play.see(a), [Seen::Ack { first: 601, count: 1, outcome: Outcome::Expired }]);
}

fn load(commits: &[Commit], request: &LoadRequest) -> Option<LoadedBlock> {
    let rows = commits.iter().flat_map(|c| c.rows.iter().zip(std::iter::repeat(c)));
    let (row, commit) =
        rows.filter(|(r, _)| r.settled == 0).find(|(r, _)| r.block >= request.from && r.block <= request.to)?;
    let bytes = &commit.blocks.iter().find(|b| b.block == row.block)?.bytes;
    let mut messages = Vec::new();
    crate::logic::block::Block::parse(bytes)
        .unwrap()
        .for_each(|m| {
            messages.push(LoadedMessage {
                index: m.index,
                seq: m.seq,
                source: m.source.clone(),
                enqueued: m.enqueued,
                expiry: m.expiry(request.queue).unwrap(),
                attempts: 0,
                record: m.record.into(),
            })
        })
        .unwrap();
    Some(LoadedBlock {
        block: row.block,
        total: row.total,
        settled: 0,
        bits: vec![],
        last_expiry: row.last_expiry,
        messages,
        unreadable: None,
    })
}

#[test]
fn a_blocked_sender_is_helped_by_the_disk_at_once_when_nobody_is_there() {
    let mut play = Play::new(Restored::default());
    play.hub.config.credit_messages = 2;
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "x");
    play.send(a, 2, "y");
    play.see(b);
    assert!(play.commit().is_none(), "the consumer is there, and was not silent for long");
    play.ms += STALL;
    assert!(play.commit().is_some());
    let now = play.now();
    play.hub.close_link(now, b, Ending::Quietly);
    play.send(a, 3, "x");
    assert!(play.commit().is_none());
    play.send(a, 4, "y");
    assert!(play.commit().is_some());
}
const STALL: u64 = 20;

#[test]
fn a_failed_commit_tells_the_sender_and_later_ones_go_on() {
    let mut play = Play::new(Restored::default());
    let a = play.open("a");
    play.send(a, 1, "x");
    play.ms += 1000;
    let commit = play.hub.poll_commit(play.now()).unwrap();
    play.hub.handle_committed(play.now(), commit.id, Err("disk".into()));
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Refused }]);
    play.send(a, 2, "y");
    assert_eq!(play.see(a), [Seen::Ack { first: 2, count: 1, outcome: Outcome::Refused }]);
    play.hub.handle_reopened();
    play.send(a, 3, "z");
    play.ms += 1000;
    assert_eq!(play.commit().unwrap().rows[0].total, 1);
    assert_eq!(play.see(a), [Seen::Ack { first: 3, count: 1, outcome: Outcome::Durable }]);
    assert_eq!(play.hub.config.flush_interval, Duration::from_secs(1));
}

#[test]
fn a_row_that_is_broken_on_disk_leaves_no_phantom_behind() {
    // Three were stored, one of which was settled; the row that said so can't be read.
    let queue = QueueRow {
        id: 1,
        endpoint: Endpoint::Input { module: "b".into(), input: "in".into() },
        priority: crate::model::endpoint::PRIORITY_DEFAULT,
        ledger: Ledger { delivered: 1, stored: 2, ..Ledger::default() },
    };
    let mut play = Play::new(Restored { next_seq: 10, next_block: 2, queues: vec![queue], ..Restored::default() });
    let request = play.hub.poll_load().expect("how old is it?");
    assert!(request.peek);
    let message = |index: u32| LoadedMessage {
        index,
        seq: u64::from(index) + 1,
        source: crate::model::endpoint::Source { module: "a".into(), output: "out".into() },
        enqueued: Wall(0),
        expiry: Age::NEVER,
        attempts: 0,
        record: record(&index.to_string()).into(),
    };
    let messages = (0..3).map(message).collect();
    let unreadable = Some("broken".to_owned());
    let loaded = LoadedBlock { block: 1, total: 3, settled: 1, messages, unreadable, ..LoadedBlock::default() };
    play.hub.handle_loaded(play.now(), request, Some(loaded));
    let ledger = play.hub.overview().queues[0].ledger;
    assert_eq!((ledger.accepted(), ledger.pending, ledger.stored), (4, 3, 3), "the one in doubt is accepted again");
    play.ms += 1_000;
    let commit = play.commit().expect("its row is written anew");
    assert_eq!((commit.rows[0].total, commit.rows[0].settled, commit.queues[0].ledger.stored), (3, 0, 3));
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "0", 0), got(2, "1", 0), got(3, "2", 0)]);
    (1..=3).for_each(|id| play.complete(b, id, Completion::Done));
    play.ms += 1_000;
    let commit = play.commit().unwrap();
    assert_eq!((commit.rows[0].total, commit.rows[0].settled), (3, 3));
    let ledger = play.hub.overview().queues[0].ledger;
    assert_eq!((ledger.accepted(), ledger.delivered, ledger.pending, ledger.stored), (4, 4, 0, 0));
    play.ms += 10_000;
    assert!(play.commit().is_none(), "and nothing is written for it any more");
}

/// The SDK lets a callback overdraw a small window by 64, a larger one by itself, and one that died may have left as much: 2 and 66 twice
/// fit, and so do 100 and 200.
#[test]
fn windows_are_overdrawn_at_least_as_far_as_the_sdk_does() {
    for (window, most) in [(2, 132), (100, 328)] {
        let mut play = Play::new(Restored::default());
        play.hub.config.credit_messages = window;
        let a = play.open("a");
        (1..=most + 1).for_each(|ticket| play.send(a, ticket, "x"));
        let refused = Seen::Ack { first: most + 1, count: 1, outcome: Outcome::Refused };
        assert_eq!(play.see(a), [refused], "a window of {window}");
    }
}
