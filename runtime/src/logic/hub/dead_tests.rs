//! Dead letters go back, or out: in the commit that makes it true, and never before.

use super::tests::{Play, Seen, chain, got};
use super::*;
use crate::model::time::Wall;
use skerry_abi::wire::frame::{Completion, Outcome};
use skerry_abi::wire::record::Writer;

fn letter(hub: &Hub, seq: u64) -> DeadLetter {
    let mut record = Vec::new();
    Writer::new(&mut record).finish(b"again").unwrap();
    let endpoint = Endpoint::Input { module: "b".into(), input: "in".into() };
    let queue = hub.queues.iter().find(|queue| queue.endpoint == endpoint).map_or(7, |queue| queue.id);
    let source = Source { module: "a".into(), output: "out".into() };
    let (reason, refusals, enqueued) = ("no".into(), 5, Wall(3));
    DeadLetter { seq, queue, endpoint: endpoint.to_string(), source, enqueued, refusals, reason, record }
}

/// A hub with one dead letter at `b` counted, and a place for another.
fn play() -> Play {
    let mut play = Play::with(chain(), Restored::default());
    play.hub.config.refusals_max = 1;
    let (a, b) = (play.open("a"), play.open("b"));
    play.send(a, 1, "poison");
    play.see(b);
    play.complete(b, 1, Completion::Refused);
    play.ms += 1_000;
    assert_eq!(play.commit().unwrap().dead.len(), 1);
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::DeadLettered }]);
    let now = play.now();
    play.hub.close_link(now, b, None);
    play
}

fn counts(play: &Play) -> [u64; 4] {
    let ledger = play.hub.overview().queues[0].ledger;
    [ledger.accepted(), ledger.delivered, ledger.dead_lettered, ledger.pending]
}

#[test]
fn a_replay_takes_the_letter_away_in_the_commit_that_stores_the_message() {
    let mut play = play();
    let letter = letter(&play.hub, 1);
    let id = (letter.seq, letter.queue);
    play.hub.replay(play.now(), letter.clone()).unwrap();
    assert!(play.hub.replay(play.now(), letter).unwrap_err().contains("already"));
    assert!(play.hub.purge(id).unwrap_err().contains("already"));
    let commit = play.hub.poll_commit(play.now()).expect("at once");
    assert_eq!((commit.blocks.len(), &commit.gone[..]), (1, &[(id, Gone::Replayed)][..]));
    let stored = commit.queues[0].ledger;
    assert_eq!((stored.accepted(), stored.dead_lettered, stored.stored), (2, 1, 1), "accepted once more");
    assert_eq!(play.hub.take_answered(), [], "it is not on disk yet");
    play.hub.handle_committed(play.now(), commit.id, Ok(Wrote::default()));
    assert_eq!(play.hub.take_answered(), [(id, Ok(()))]);
    let b = play.open("b");
    assert_eq!(play.see(b), [got(1, "again", 0)]);
    play.complete(b, 1, Completion::Done);
    assert_eq!(counts(&play), [2, 1, 1, 0]);
}

#[test]
fn what_cannot_be_stored_stays_a_dead_letter() {
    let mut play = play();
    let letter = letter(&play.hub, 1);
    let id = (letter.seq, letter.queue);
    play.hub.replay(play.now(), letter.clone()).unwrap();
    let commit = play.hub.poll_commit(play.now()).unwrap();
    play.hub.handle_committed(play.now(), commit.id, Err("disk".into()));
    let answered = play.hub.take_answered();
    assert!(matches!(&answered[..], [(found, Err(why))] if *found == id && why.contains("disk")), "{answered:?}");
    assert_eq!(counts(&play), [1, 0, 1, 0], "as if nothing had been asked");
    assert!(play.hub.replay(play.now(), letter.clone()).unwrap_err().contains("broken"));
    assert!(play.hub.purge(id).unwrap_err().contains("broken"));
    play.hub.handle_reopened();
    play.hub.replay(play.now(), letter).unwrap();
    assert!(play.commit().unwrap().gone.contains(&(id, Gone::Replayed)));
}

#[test]
fn one_that_is_consumed_before_it_is_stored_takes_its_letter_along() {
    let mut play = play();
    play.hub.room = 0;
    let b = play.open("b");
    let letter = letter(&play.hub, 1);
    let id = (letter.seq, letter.queue);
    play.hub.replay(play.now(), letter).unwrap();
    let commit = play.commit().expect("asked for, though it finds no room");
    assert!(commit.blocks.is_empty() && commit.gone.is_empty(), "{commit:?}");
    assert_eq!(play.see(b), [got(1, "again", 0)]);
    play.complete(b, 1, Completion::Done);
    let commit = play.commit().expect("at once");
    assert_eq!((commit.blocks.len(), &commit.gone[..]), (0, &[(id, Gone::Replayed)][..]));
    assert_eq!((commit.queues[0].ledger.delivered, commit.queues[0].ledger.accepted()), (1, 2));
    assert_eq!(play.hub.take_answered(), [(id, Ok(()))]);
}

#[test]
fn one_that_dies_again_is_a_new_letter_and_the_old_one_goes_with_it() {
    let mut play = play();
    let b = play.open("b");
    let letter = letter(&play.hub, 1);
    let id = (letter.seq, letter.queue);
    play.hub.replay(play.now(), letter).unwrap();
    let commit = play.hub.poll_commit(play.now()).unwrap();
    assert_eq!(play.see(b), [got(1, "again", 0)]);
    play.complete(b, 1, Completion::Refused);
    play.hub.handle_committed(play.now(), commit.id, Ok(Wrote::default()));
    play.ms += 1_000;
    let second = play.commit().unwrap();
    assert_eq!((&commit.gone[..], second.dead.len()), (&[(id, Gone::Replayed)][..], 1));
    assert!(second.dead[0].seq > id.0);
    assert_eq!(counts(&play), [2, 0, 2, 0]);
}

#[test]
fn a_purge_changes_no_count() {
    let mut play = play();
    let before = counts(&play);
    play.hub.purge((1, 1)).unwrap();
    let commit = play.hub.poll_commit(play.now()).unwrap();
    assert_eq!(commit.gone, [((1, 1), Gone::Purged)]);
    play.hub.handle_committed(play.now(), commit.id, Err("disk".into()));
    assert!(matches!(&play.hub.take_answered()[..], [(_, Err(_))]));
    play.hub.handle_reopened();
    play.hub.purge((1, 1)).unwrap();
    play.commit().unwrap();
    assert_eq!(play.hub.take_answered(), [((1, 1), Ok(()))]);
    assert_eq!(counts(&play), before);
}

#[test]
fn of_a_flood_of_them_only_so_many_are_in_memory() {
    let mut play = play();
    for seq in 0..crate::model::limits::REPLAYS_MAX as u64 {
        let letter = letter(&play.hub, 100 + seq);
        play.hub.replay(play.now(), letter).unwrap();
    }
    let one_more = letter(&play.hub, 99);
    assert!(play.hub.replay(play.now(), one_more).unwrap_err().contains("on their way back"));
}
