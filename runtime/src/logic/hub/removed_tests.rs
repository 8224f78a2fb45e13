//! What waits for a module that was removed: a day, for itself, and for no namesake. In logical time.

use std::collections::BTreeSet;

use super::tests::{Play, Seen, chain, got};
use super::*;
use crate::model::limits::REMOVED_KEPT;
use skerry_abi::wire::frame::Outcome;

const DAY: u64 = REMOVED_KEPT.as_millis() as u64;

/// Two messages wait for `b`, on disk and in memory.
fn play() -> (Play, LinkIx) {
    let mut play = Play::with(chain(), Restored::default());
    play.hub.config.ttl = None;
    let a = play.open("a");
    play.send(a, 1, "x");
    play.ms += 1_000;
    play.commit().unwrap();
    play.send(a, 2, "y");
    play.see(a);
    (play, a)
}

fn look(play: &mut Play, there: &[&str], generation: Option<&str>) {
    let there: BTreeSet<String> = there.iter().map(|name| (*name).to_owned()).collect();
    play.hub.set_modules(play.now(), &there, |_| true, |_| generation.map(str::to_owned));
}

fn counts(play: &Play) -> [u64; 4] {
    let ledger = play.hub.overview().queues[0].ledger;
    [ledger.accepted(), ledger.removed, ledger.expired, ledger.pending]
}

#[test]
fn after_a_day_it_is_removed_and_counted() {
    let (mut play, a) = play();
    look(&mut play, &["a"], None);
    let begin = play.ms;
    play.ms = begin + DAY - 1;
    play.hub.on_timeout(play.now());
    assert_eq!(counts(&play), [2, 0, 0, 2], "not yet");
    play.commit();
    // What came meanwhile has a day of its own.
    play.send(a, 3, "z");
    play.ms = begin + DAY;
    assert!(play.hub.next_timeout(play.now()) <= play.now().mono.plus(100));
    play.hub.on_timeout(play.now());
    assert_eq!(counts(&play), [3, 2, 0, 1]);
    play.ms += 1_000;
    let commit = play.commit().unwrap();
    let ledger = commit.queues[0].ledger;
    assert_eq!((ledger.removed, ledger.accepted() - ledger.pending), (2, 2), "in the same transaction");
    play.ms += DAY;
    play.hub.on_timeout(play.now());
    assert_eq!(counts(&play), [3, 2, 1, 0], "its time to live was cut to a day");
}

#[test]
fn who_comes_back_in_time_gets_it_all() {
    let (mut play, _) = play();
    look(&mut play, &["a"], Some("7"));
    play.ms += DAY / 2;
    look(&mut play, &["a", "b"], Some("7"));
    play.ms += DAY;
    play.hub.on_timeout(play.now());
    assert_eq!(counts(&play), [2, 0, 0, 2]);
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "x", 0), got(2, "y", 0)]);
}

#[test]
fn a_namesake_of_another_generation_gets_nothing() {
    let (mut play, a) = play();
    look(&mut play, &["a"], Some("7"));
    play.ms += 1_000;
    look(&mut play, &["a", "b"], Some("8"));
    assert_eq!(counts(&play), [2, 2, 0, 0]);
    assert_eq!(play.see(a), [Seen::Ack { first: 2, count: 1, outcome: Outcome::Removed }]);
    play.send(a, 3, "z");
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "z", 0)]);
}

#[test]
fn who_never_ran_was_never_removed() {
    let (mut play, _) = play();
    play.hub.set_modules(play.now(), &BTreeSet::new(), |_| false, |_| None);
    play.ms += 2 * DAY;
    play.hub.on_timeout(play.now());
    assert_eq!(counts(&play), [2, 0, 0, 2]);
}

#[test]
fn it_is_remembered_over_a_restart_and_what_lies_on_disk_alone_goes_by_range() {
    let (mut play, _) = play();
    look(&mut play, &["a"], None);
    let commit = play.hub.final_commit(play.now()).unwrap();
    let (name, text) = commit.documents.iter().find(|(name, _)| name.starts_with(REMOVED_DOCUMENTS)).unwrap().clone();
    assert_eq!(name, "removed/b");
    let restored = Restored {
        next_seq: commit.next_seq,
        next_block: commit.next_block,
        queues: commit.queues.clone(),
        ..Restored::default()
    };
    let ms = play.ms;
    let mut play = Play::with(chain(), restored);
    play.hub.restore_removed("b", &text.unwrap());
    play.ms = ms + DAY;
    play.hub.on_timeout(play.now());
    play.ms += 1_000;
    let commit = play.hub.poll_commit(play.now()).expect("a range is to go");
    let range = ExpireRange { queue: 1, from: 0, to: commit.next_block - 1 };
    assert_eq!((&commit.remove[..], commit.expire.len()), (&[range][..], 0));
    let settled = Settled { queue: 1, messages: 2, through: range.to };
    let wrote = Wrote { expired: vec![settled], ..Wrote::default() };
    play.hub.handle_committed(play.now(), commit.id, Ok(wrote));
    assert_eq!(counts(&play), [2, 2, 0, 0]);
}
