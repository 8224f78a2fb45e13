//! The way to the cloud as the hub sees it: a consumer that pauses, keeps what it has, and gives up single messages.

use super::tests::{Play, Seen, got};
use super::*;
use crate::logic::routing::NamedRoute;
use skerry_abi::wire::frame::{Completion, Outcome};

fn to_cloud() -> RouteTable {
    let route = |name: &str, text: &str, priority| NamedRoute {
        name: name.into(),
        text: text.into(),
        priority,
        ttl_secs: None,
    };
    RouteTable::new([
        route("all", "FROM /messages/modules/a/outputs/out INTO $upstream", None),
        route("urgent", "FROM /messages/modules/a/outputs/urgent INTO $upstream", Some(0)),
    ])
    .unwrap()
}

fn play() -> Play {
    Play::with(to_cloud(), Restored::default())
}

#[test]
fn each_identity_has_a_queue_of_its_own() {
    let mut play = play();
    let (a, cloud, other) = (play.open("a"), play.hub.open_upstream("a"), play.hub.open_upstream("b"));
    play.hub.ready(cloud);
    play.hub.ready(other);
    play.send(a, 1, "x");
    assert_eq!(play.see(cloud), [got(1, "x", 0)]);
    assert_eq!(play.see(other), []);
    play.complete(cloud, 1, Completion::Done);
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 1, outcome: Outcome::Delivered }]);
    assert!(play.commit().is_none(), "nothing was written");
}

#[test]
fn while_it_is_away_messages_become_durable_and_come_in_order() {
    let mut play = play();
    let a = play.hub.open_link("a", &["out".into(), "urgent".into()], &[]);
    let cloud = play.hub.open_upstream("a");
    play.hub.ready(cloud);
    play.send(a, 1, "1");
    assert_eq!(play.see(cloud), [got(1, "1", 0)]);
    play.hub.pause(cloud);
    play.send(a, 2, "2");
    play.send_by(a, 3, 1, "urgent");
    play.ms += 1_000;
    assert!(play.commit().is_some());
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 3, outcome: Outcome::Durable }]);
    assert_eq!(play.see(cloud), []);
    // Back: what it kept is its own; of the rest the urgent comes first.
    play.hub.ready(cloud);
    assert_eq!(play.see(cloud), [got(2, "urgent", 0), got(3, "2", 0)]);
    (1..=3).for_each(|id| play.complete(cloud, id, Completion::Done));
    play.see(cloud);
    assert!(play.hub.overview().queues.iter().all(|q| q.ledger.pending == 0));
}

#[test]
fn a_message_that_can_not_be_sent_goes_to_the_dead_letters_and_holds_up_nobody() {
    let mut play = play();
    let (a, cloud) = (play.open("a"), play.hub.open_upstream("a"));
    play.hub.ready(cloud);
    (1..=3).for_each(|n| play.send(a, n, &n.to_string()));
    assert_eq!(play.see(cloud).len(), 3);
    let now = play.now();
    play.hub.give_up(now, cloud, 2, "no");
    play.complete(cloud, 1, Completion::Done);
    play.complete(cloud, 3, Completion::Done);
    play.send(a, 4, "4");
    assert_eq!(play.see(cloud), [got(4, "4", 0)]);
    play.ms += 1_000;
    let commit = play.commit().unwrap();
    assert_eq!(commit.dead.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>(), ["no"]);
    let ledger = play.hub.overview().queues[0].ledger;
    assert_eq!((ledger.delivered, ledger.dead_lettered, ledger.pending), (2, 1, 1));
}

#[test]
fn what_is_held_for_an_absent_cloud_expires_in_its_window_too() {
    let mut play = play();
    let (a, cloud) = (play.open("a"), play.hub.open_upstream("a"));
    play.hub.ready(cloud);
    (1..=2).for_each(|n| play.send(a, n, &n.to_string()));
    play.see(cloud);
    play.ms += 3_600_000;
    play.send(a, 3, "3");
    play.see(cloud);
    play.ms += 3_600_000;
    let now = play.now();
    assert!(play.hub.expire_window(now, cloud).is_empty(), "it may still be answered");
    play.hub.pause(cloud);
    assert_eq!(play.hub.expire_window(now, cloud), [1_u64, 2]);
    assert_eq!(play.see(a), [Seen::Ack { first: 1, count: 2, outcome: Outcome::Expired }]);
    play.hub.ready(cloud);
    play.complete(cloud, 3, Completion::Done);
    play.see(cloud);
    let ledger = play.hub.overview().queues[0].ledger;
    assert_eq!((ledger.delivered, ledger.expired, ledger.pending), (1, 2, 0));
}

#[test]
fn at_a_stop_everything_is_the_hubs_again() {
    let mut play = play();
    let (a, cloud) = (play.open("a"), play.hub.open_upstream("a"));
    play.hub.ready(cloud);
    (1..=3).for_each(|n| play.send(a, n, &n.to_string()));
    play.see(cloud);
    play.hub.pause(cloud);
    let now = play.now();
    play.hub.close_link(now, cloud, Ending::Quietly);
    let commit = play.hub.final_commit(now).unwrap();
    assert_eq!(commit.rows.iter().map(|row| (row.total, row.settled)).collect::<Vec<_>>(), [(3, 0)]);
}
