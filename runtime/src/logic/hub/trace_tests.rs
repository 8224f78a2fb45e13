//! What the trace says of messages in every state, in logical time.

use super::tests::{Play, chain};
use super::*;
use crate::logic::routing::{NamedRoute, RouteTable, Truth};
use crate::model::limits::{TRACE_BYTES, TRACE_MESSAGES, TRACE_RECORD_BYTES};
use crate::model::time::Wall;
use skerry_abi::wire::frame::{Completion, Outcome};

fn play() -> Play {
    Play::with(chain(), Restored::default())
}

fn newest(play: &Play) -> Traced {
    play.hub.traced(play.now(), 1, |_, _| true).pop().expect("a mark")
}

/// State, when, refusals of the newest message's only endpoint.
fn end(play: &Play) -> (EndState, Wall, u16) {
    let ends = newest(play).ends;
    assert_eq!(ends.len(), 1, "{ends:?}");
    (ends[0].state, ends[0].at, ends[0].refusals)
}

#[test]
fn a_message_is_followed_to_its_consumer_and_beyond() {
    let mut play = play();
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "x");
    assert_eq!(end(&play), (EndState::Waiting, Wall(1_000), 0));
    play.ms += 5;
    play.see(b);
    assert_eq!(end(&play), (EndState::Consumer, Wall(1_005), 0));
    play.ms += 5;
    play.complete(b, 1, Completion::Refused);
    assert_eq!(end(&play), (EndState::Waiting, Wall(1_010), 1));
    play.ms += 1_000;
    let now = play.now();
    play.hub.on_timeout(now);
    play.see(b);
    play.ms += 7;
    play.complete(b, 2, Completion::Done);
    assert_eq!(end(&play), (EndState::Settled(Outcome::Delivered), Wall(2_017), 1));
    let traced = newest(&play);
    assert_eq!(
        (traced.enqueued, traced.fate, traced.routes),
        (Wall(1_000), Fate::Taken, Some(vec![(0, Some(Truth::True))]))
    );
    assert_eq!(traced.record.len(), traced.bytes as usize);
}

#[test]
fn on_disk_read_back_delivered_or_too_old() {
    let mut play = play();
    let a = play.open("a");
    play.send(a, 1, "x");
    play.ms += 2_000;
    play.commit().expect("a commit");
    assert_eq!(end(&play), (EndState::Stored, Wall(3_000), 0));
    play.ms += 7_200_000;
    assert_eq!(end(&play).0, EndState::Settled(Outcome::Expired));
    assert_eq!(end(&play).1, Wall(7_201_000), "when it became too old, not when it was asked");
}

#[test]
fn dead_letters_say_so() {
    let mut play = play();
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "x");
    for id in 1..=5 {
        play.see(b);
        play.complete(b, id, Completion::Refused);
        play.ms += 60_000;
        let now = play.now();
        play.hub.on_timeout(now);
    }
    assert_eq!(end(&play).0, EndState::Dying);
    play.commit().expect("a commit");
    assert_eq!((end(&play).0, end(&play).2), (EndState::Settled(Outcome::DeadLettered), 5));
}

#[test]
fn what_was_not_taken_is_told_with_its_reason() {
    let route = NamedRoute {
        name: "r".into(),
        text: "FROM /* WHERE level = 'high' INTO BrokeredEndpoint('/modules/b/inputs/in')".into(),
        priority: None,
        ttl_secs: None,
    };
    let mut play = Play::with(RouteTable::new([route]).unwrap(), Restored::default());
    let a = play.open("a");
    play.send(a, 1, "x");
    let traced = newest(&play);
    assert_eq!((traced.fate, traced.ends.len()), (Fate::NoRoute, 0));
    assert_eq!(traced.routes, Some(vec![(0, Some(Truth::Undefined))]));
    play.hub.set_routes(chain());
    assert_eq!(newest(&play).routes, None);
    play.send(a, 2, "y");
    play.ms += 2_000;
    let now = play.now();
    let commit = play.hub.poll_commit(now).expect("a commit");
    play.hub.handle_committed(now, commit.id, Err("no space".into()));
    assert_eq!(newest(&play).fate, Fate::Refused("the store is broken: no space".into()));
    play.send(a, 3, "z");
    let refused = newest(&play).fate;
    assert!(matches!(&refused, Fate::Refused(why) if why.contains("no space")), "{refused:?}");
    let counts = &play.hub.sources()[0];
    assert_eq!((counts.received, counts.no_route, counts.unstored), (3, 1, 2));
}

#[test]
fn it_is_bounded_and_can_be_asked_for_some() {
    let mut play = play();
    let (a, b) = (play.open("a"), play.open("b"));
    let (middle, long) = ("x".repeat(TRACE_RECORD_BYTES - 8), "x".repeat(TRACE_RECORD_BYTES));
    for ticket in 1..=TRACE_MESSAGES as u64 + 7 {
        play.send(a, ticket, [&middle, &long, "y"][ticket as usize % 3]);
        play.see(b);
        play.complete(b, ticket, Completion::Done);
        play.ms += 1;
    }
    let all = play.hub.traced(play.now(), usize::MAX, |_, _| true);
    assert_eq!((all.len(), all[0].seq, all[999].seq), (TRACE_MESSAGES, 1_007, 8));
    let kept: usize = all.iter().map(|t| t.record.len()).sum();
    assert!((TRACE_BYTES - TRACE_RECORD_BYTES..=TRACE_BYTES).contains(&kept), "{kept}");
    assert_eq!((all[0].record.len(), all[1].record.len(), all[2].record.len()), (9, 8, TRACE_RECORD_BYTES));
    assert_eq!((all[1].bytes as usize, all[999].record.len()), (TRACE_RECORD_BYTES + 8, 0));
    let large = play.hub.traced(play.now(), 3, |_, record| record.len() > 9);
    assert_eq!(large.len(), 3);
    assert!(play.hub.traced(play.now(), 3, |source, _| source.module == "b").is_empty());
}

#[test]
fn what_was_evicted_on_disk_is_told_as_evicted() {
    let mut play = play();
    play.hub.config.memory_bytes = 4 * 1024;
    play.hub.config.evict = true;
    let a = play.open("a");
    // Each in a block of its own; the older ones leave memory.
    for ticket in 1..=5 {
        play.send(a, ticket, &"x".repeat(3_000));
        play.ms += 1_000;
        play.commit().expect("a block");
    }
    let oldest = |play: &Play| play.hub.traced(play.now(), usize::MAX, |_, _| true).pop().unwrap().ends[0].state;
    let gap = play.hub.queues[0].gap.expect("something lies on disk alone");
    let told = |play: &Play, at: usize| play.hub.traced(play.now(), usize::MAX, |_, _| true)[at].ends[0].state;
    let last = 5 - gap.to as usize;
    assert_eq!(told(&play, last), EndState::Stored);
    play.hub.handle_room(play.now(), 10_000, Some("small".into()));
    play.send(a, 6, "y");
    let commit = play.hub.poll_commit(play.now()).expect("room is to be made");
    assert!(!commit.evict.is_empty(), "{commit:?}");
    let through = commit.evict[0].to;
    let messages = through + 1 - gap.from;
    let evicted = vec![Settled { queue: commit.evict[0].queue, messages, through }];
    play.hub.handle_committed(play.now(), commit.id, Ok(Wrote { evicted, ..Wrote::default() }));
    assert_eq!(told(&play, last + 1), EndState::Settled(Outcome::Evicted), "one newer than before is in front");
    assert_eq!(oldest(&play), EndState::Settled(Outcome::Evicted), "those in memory, too");
}
