//! When a commit is made, each reason by itself, and what bounds a sender until then. In logical time.

use super::tests::{Play, Seen, chain, got};
use super::*;
use crate::logic::routing::NamedRoute;
use crate::model::endpoint::Endpoint;
use crate::model::limits::{COMMIT_BYTES, STALLED_AFTER};
use crate::model::time::Wall;
use skerry_abi::wire::frame::{Completion, Outcome, Parents};
use skerry_abi::wire::record::Writer;

fn play() -> Play {
    Play::with(chain(), Restored::default())
}

fn record(bytes: usize) -> Vec<u8> {
    let mut record = Vec::new();
    Writer::new(&mut record).finish(&vec![7; bytes]).unwrap();
    record
}

pub(super) fn all_to_z() -> RouteTable {
    let text = "FROM /messages/* INTO BrokeredEndpoint(\"/modules/z/inputs/in\")".to_owned();
    RouteTable::new([NamedRoute { name: "all".into(), text, priority: None, ttl_secs: None }]).unwrap()
}

pub(super) fn send(play: &mut Play, link: LinkIx, ticket: u64, bytes: usize, at_once: bool) {
    let record = record(bytes);
    let sent = Sent { ticket, output: 0, at_once, parents: Parents::NONE, record: &record };
    play.hub.publish(play.now(), link, sent).unwrap();
}

#[test]
fn trigger_age_the_oldest_is_as_old_as_the_flush_interval() {
    let mut play = play();
    let a = play.open("a");
    play.send(a, 1, "x");
    play.ms += 999;
    play.send(a, 2, "y");
    assert!(play.commit().is_none());
    play.ms += 1;
    let commit = play.commit().expect("the first is a second old");
    assert_eq!(commit.rows[0].total, 2, "the second goes with it");
}

#[test]
fn trigger_credit_a_sender_without_any_waits_for_an_endpoint_that_is_away_or_silent() {
    let mut play = play();
    play.hub.config.credit_messages = 1;
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "x");
    assert_eq!(play.see(b), [got(1, "x", 0)]);
    play.ms += STALLED_AFTER.as_millis() as u64 - 1;
    assert!(play.commit().is_none(), "it may still answer");
    play.ms += 1;
    assert!(play.commit().is_some(), "silent for 20 ms");
    let now = play.now();
    play.hub.close_link(now, b, Ending::Quietly);
    play.send(a, 2, "y");
    assert!(play.commit().is_some(), "nobody is there: at once");
}

#[test]
fn trigger_credit_waits_until_the_writer_is_idle_and_then_takes_all() {
    let mut play = play();
    play.hub.config.credit_messages = 2;
    let a = play.open("a");
    play.send(a, 1, "w");
    play.send(a, 2, "x");
    let first = play.hub.poll_commit(play.now()).expect("at once");
    play.send(a, 3, "y");
    play.send(a, 4, "z");
    assert!(play.hub.poll_commit(play.now()).is_none(), "one is under way");
    play.hub.handle_committed(play.now(), first.id, Ok(Wrote::default()));
    assert_eq!(play.commit().expect("now").rows[0].total, 2, "what was admitted meanwhile");
}

#[test]
fn trigger_now_a_sender_asks_for_it() {
    let mut play = play();
    let a = play.open("a");
    send(&mut play, a, 1, 10, false);
    assert!(play.commit().is_none());
    send(&mut play, a, 2, 10, true);
    assert_eq!(play.commit().expect("at once").rows[0].total, 2, "with everything before it");
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 2, outcome: Outcome::Durable }]);
    send(&mut play, a, 3, 10, false);
    assert!(play.commit().is_none(), "it asked for one");
}

/// Each sender keeps to its share, and is gone before the next one comes: what it left is in memory all the same.
#[test]
fn trigger_memory_it_is_short() {
    let mut play = Play::with(all_to_z(), Restored::default());
    play.hub.config.memory_bytes = 64 * 1024;
    for sender in 0..100 {
        let link = play.open(&format!("m{sender}"));
        (1..=8).for_each(|ticket| send(&mut play, link, ticket, 1_000, false));
        let now = play.now();
        play.hub.close_link(now, link, Ending::Quietly);
        let bytes = play.hub.entries.bytes();
        if bytes > 48 * 1024 {
            assert!(play.commit().is_some(), "three quarters are in use");
            return;
        }
        assert!(play.commit().is_none(), "{bytes} bytes are not short");
    }
    panic!("it was never short");
}

#[test]
fn no_trigger_an_input_that_waits_for_its_outputs() {
    let mut play = play();
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "in");
    assert_eq!(play.see(b), [got(1, "in", 0)]);
    play.ms += 500;
    play.child(b, 1, 1, "out");
    play.complete(b, 1, Completion::Done);
    play.ms += 500;
    let commit = play.commit().expect("the input is a second old");
    // Its output is made safe, and that settles it: it is not written at all.
    assert_eq!((commit.blocks.len(), commit.rows.len()), (1, 1));
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Delivered }]);
}

#[test]
fn a_batch_is_cut_at_its_limit_and_the_rest_comes_next() {
    let mut play = play();
    play.hub.config.credit_bytes = u64::MAX;
    let a = play.open("a");
    let count = COMMIT_BYTES as u64 / 100_000 + 5;
    (1..=count).for_each(|ticket| send(&mut play, a, ticket, 100_000, false));
    play.ms += 1_000;
    let total = |commit: &Commit| commit.rows.iter().map(|row| u64::from(row.total)).sum::<u64>();
    let first = play.commit().unwrap();
    let bytes: usize = first.blocks.iter().map(|b| b.bytes.len()).sum();
    assert!(bytes <= COMMIT_BYTES + 64 * 1024 && total(&first) < count, "{bytes} bytes");
    assert_eq!(total(&first) + total(&play.commit().unwrap()), count);
}

/// `a/out` to b and, if it is hot, to c.
fn two_routes() -> RouteTable {
    let route =
        |name: &str, text: &str| NamedRoute { name: name.into(), text: text.into(), priority: None, ttl_secs: None };
    RouteTable::new([
        route("fast", "FROM /messages/modules/a/outputs/out INTO BrokeredEndpoint(\"/modules/b/inputs/in\")"),
        route("slow", "FROM /messages/modules/x/outputs/out INTO BrokeredEndpoint(\"/modules/c/inputs/in\")"),
    ])
    .unwrap()
}

#[test]
fn a_slow_consumer_has_nothing_written_that_others_settled() {
    let mut play = Play::with(two_routes(), Restored::default());
    let (a, x, b) = (play.open("a"), play.open("x"), play.open("b"));
    play.open("c");
    for ticket in 1..=100 {
        play.send(a, ticket, "fast");
        if ticket % 10 == 0 {
            play.send(x, ticket / 10, "slow");
        }
        assert_eq!(play.see(b), [got(ticket, "fast", 0)]);
        play.complete(b, ticket, Completion::Done);
    }
    play.ms += 1_000;
    let commit = play.commit().expect("for what c has not answered");
    let queues: Vec<_> = commit.rows.iter().map(|row| (row.queue, row.total)).collect();
    let slow =
        play.hub.queues.iter().find(|q| q.endpoint == Endpoint::Input { module: "c".into(), input: "in".into() });
    assert_eq!(queues, [(slow.unwrap().id, 10)], "ten messages of one queue, and none of the hundred others");
    let mut written = 0;
    let block = crate::logic::block::Block::parse(&commit.blocks[0].bytes).unwrap();
    block.for_each(|_| written += 1).unwrap();
    assert_eq!(written, 10);
}

#[test]
fn a_sender_that_crashes_and_comes_back_gains_no_credit() {
    let mut play = play();
    play.hub.config.credit_messages = 10;
    for generation in 0..5 {
        let a = play.open("a");
        let (credit, _) = play.hub.credit(a);
        // The first fills its window; each later one inherits what is still unanswered.
        assert_eq!(credit, if generation == 0 { 10 } else { 1 }, "generation {generation}");
        let left = if generation == 0 { 10 } else { 0 };
        (1..=left).for_each(|ticket| play.send(a, ticket, "x"));
        let now = play.now();
        play.hub.close_link(now, a, Ending::Quietly);
    }
    assert_eq!(play.hub.overview().messages, 10, "one window, however often it came back");
    play.ms += 1_000;
    play.commit().unwrap();
    let a = play.open("a");
    assert_eq!(play.hub.credit(a).0, 10, "what was answered is given back");
}

#[test]
fn a_wall_clock_that_jumps_expires_nothing_and_revives_nothing() {
    let mut play = play();
    play.hub.config.ttl = Some(Duration::from_secs(60));
    let a = play.open("a");
    play.send(a, 1, "x");
    let hour = 3_600_000;
    for wall in [-100 * hour, 1_000 * hour] {
        let now = Now { wall: Wall(wall), ..play.now() };
        play.hub.on_timeout(now);
        play.hub.end_turn(now);
        assert_eq!(play.hub.overview().queues[0].ledger.pending, 1, "the wall clock says {wall}");
    }
    play.ms += 60_000;
    let now = Now { wall: Wall(0), ..play.now() };
    play.hub.on_timeout(now);
    assert_eq!(play.hub.overview().queues[0].ledger.expired, 1);
    assert_eq!(play.hub.overview().memory_bytes, 0, "and its memory is free at once");
}

#[test]
fn a_time_to_live_without_end_is_added_without_harm() {
    let mut play = play();
    play.hub.config.ttl = Some(Duration::MAX);
    play.ms = u64::MAX / 2;
    let a = play.open("a");
    play.send(a, 1, "x");
    play.ms += 1_000_000_000;
    play.hub.on_timeout(play.now());
    assert_eq!(play.hub.overview().queues[0].ledger.pending, 1);
}
