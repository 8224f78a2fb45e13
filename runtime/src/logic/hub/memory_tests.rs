//! What bounds the hub's memory: credit that is lent from it, and backlogs that lie on disk. In logical time.

use super::commit_tests::{all_to_z, send};
use super::sim::disk::Disk;
use super::tests::{Play, Seen, chain};
use super::*;
use crate::logic::routing::NamedRoute;
use crate::model::limits::{CREDIT_OVERDRAFT_MESSAGES, ENTRY_BYTES};
use skerry_abi::wire::frame::{Completion, Outcome};

const MEMORY: u64 = limits::MEMORY_BYTES;

/// As many as there may be on a device, each with a full window, and a disk that does not answer.
#[test]
fn however_many_send_they_share_one_memory() {
    for (senders, bytes) in [(1, 100), (40, 100), (40, 1_000), (100, 16), (100, 8_000)] {
        let mut play = Play::with(all_to_z(), Restored::default());
        let links: Vec<_> = (0..senders).map(|n| play.open(&format!("m{n}"))).collect();
        links.iter().for_each(|link| drop(play.see(*link)));
        for link in links {
            // As a host counts: records, and the last message may be the one that fills the window.
            let (messages, window) = play.hub.credit(link);
            let (mut sent, mut taken) = (0, 0);
            while sent < messages && taken + bytes as u64 <= window {
                sent += 1;
                taken += bytes as u64;
                send(&mut play, link, u64::from(sent), bytes, false);
            }
            assert!(sent > 0, "everybody can send something");
        }
        let used = play.hub.overview().memory_bytes;
        assert!(used <= MEMORY * 3 / 4, "{used} bytes for {senders} senders of {bytes} bytes");
    }
}

#[test]
fn the_share_of_each_changes_with_those_who_come_and_go() {
    let mut play = Play::with(all_to_z(), Restored::default());
    let first = play.open("first");
    assert_eq!(play.hub.credit(first), (limits::CREDIT_MESSAGES, limits::CREDIT_BYTES));
    let others: Vec<_> = (0..19).map(|n| play.open(&format!("m{n}"))).collect();
    play.see(first);
    let (messages, bytes) = play.hub.credit(first);
    assert_eq!((u64::from(messages), bytes), (MEMORY / 40 / 3 / ENTRY_BYTES, MEMORY / 40 / 3 * 2), "it was told");
    for link in others {
        let now = play.now();
        play.hub.close_link(now, link, Ending::Quietly);
    }
    play.see(first);
    assert_eq!(play.hub.credit(first), (limits::CREDIT_MESSAGES, limits::CREDIT_BYTES));
}

/// A host waits for its hello and its start, and takes nothing else for them.
#[test]
fn nobody_is_told_of_its_share_before_it_runs() {
    let mut play = Play::with(all_to_z(), Restored::default());
    let first = play.hub.open_link("first", &["out".into()], &[]);
    let later: Vec<_> = (0..20).map(|n| play.hub.open_link(&format!("m{n}"), &["out".into()], &[])).collect();
    let second = later[19];
    play.hub.end_turn(play.now());
    assert_eq!(play.hub.take_output(), None);
    assert!(play.hub.credit(first) > play.hub.credit(second), "as their hellos have it");
    play.hub.ready(first);
    play.hub.end_turn(play.now());
    assert_eq!(play.hub.take_output(), Some(first));
    assert_eq!(play.hub.credit(first), play.hub.credit(second));
}

/// No host does that; a module that writes past its host is refused, and does not get further by dying.
#[test]
fn who_does_not_keep_to_its_credit_is_refused_also_as_its_successor() {
    let mut play = Play::with(chain(), Restored::default());
    play.hub.config.credit_messages = 10;
    let most = 20 + CREDIT_OVERDRAFT_MESSAGES;
    let mut refused = 0;
    for _ in 0..3 {
        let a = play.open("a");
        (1..=2 * most).for_each(|ticket| send(&mut play, a, ticket, 10, false));
        for seen in play.see(a) {
            if let Seen::Ack { count, outcome: Outcome::Refused, .. } = seen {
                refused += u64::from(count);
            }
        }
        assert_eq!(play.hub.overview().messages as u64, most);
        let now = play.now();
        play.hub.close_link(now, a, Ending::Quietly);
    }
    assert_eq!(refused, 5 * most);
    // By bytes as well.
    let mut play = Play::with(chain(), Restored::default());
    let a = play.open("a");
    (1..=1_000).for_each(|ticket| send(&mut play, a, ticket, 200_000, false));
    assert!(play.hub.overview().memory_bytes < 4 << 20, "{}", play.hub.overview().memory_bytes);
}

/// A commit of the play, on a disk.
fn commit(play: &mut Play, disk: &mut Disk) {
    play.ms += 1_000;
    while let Some(commit) = play.hub.poll_commit(play.now()) {
        let wrote = disk.apply(&commit);
        play.hub.handle_committed(play.now(), commit.id, Ok(wrote));
        play.hub.end_turn(play.now());
    }
}

#[test]
fn a_backlog_on_disk_leaves_nothing_in_memory() {
    let (mut play, mut disk) = (Play::with(all_to_z(), Restored::default()), Disk::new(0));
    play.hub.config.memory_bytes = 256 * 1024;
    let link = play.open("a");
    let (mut ticket, mut most) = (0, 0);
    for _ in 0..400 {
        for _ in 0..20 {
            ticket += 1;
            send(&mut play, link, ticket, 1_000, false);
        }
        play.see(link);
        commit(&mut play, &mut disk);
        most = most.max(play.hub.blocks.len());
    }
    assert!(disk.blocks.len() >= 400);
    assert!(most < 20, "{most} blocks are remembered");
    assert!(play.hub.overview().memory_bytes < 256 * 1024);
}

/// As a module does that makes a sum of a long time.
#[test]
fn what_a_module_puts_aside_is_bounded_by_memory_too() {
    let (mut play, mut disk) = (Play::with(to_each(2), Restored::default()), Disk::new(0));
    play.hub.config.memory_bytes = 1024 * 1024;
    let link = play.open("a");
    let mut ticket = 0;
    for _ in 0..100 {
        for _ in 0..50 {
            ticket += 1;
            send(&mut play, link, ticket, 1_000, false);
        }
        play.see(link);
        commit(&mut play, &mut disk);
    }
    let (hoarder, other) = (play.open("m0"), play.open("m1"));
    let (mut aside, mut done, mut seen) = (Vec::new(), 0, 0);
    for round in 0..3_000 {
        for consumer in [hoarder, other] {
            for got in play.see(consumer) {
                let Seen::Got { id, .. } = got else { continue };
                if consumer == hoarder {
                    play.complete(hoarder, id, Completion::Deferred);
                    aside.push(id);
                } else {
                    play.complete(other, id, Completion::Done);
                    seen += 1;
                }
            }
            while let Some(request) = play.hub.poll_load() {
                let loaded = disk.load(&request);
                play.hub.handle_loaded(play.now(), request, loaded);
            }
        }
        let used = play.hub.overview().memory_bytes;
        assert!(used < 1024 * 1024 * 3 / 4, "{used} bytes, {} of them put aside", aside.len() * 1_160);
        if round > 1_000 {
            // Its sum is made: some go, and others come.
            let few = aside.len().min(100);
            done += few as u64;
            aside.drain(..few).for_each(|id| play.complete(hoarder, id, Completion::Done));
        } else if round == 1_000 {
            assert!(aside.len() > 300, "it is given {}, as many as there is memory for", aside.len());
            assert_eq!(seen, ticket, "the other is not held up");
        }
        if round % 20 == 0 {
            commit(&mut play, &mut disk);
        }
        if done == ticket {
            return;
        }
    }
    panic!("{done} of {ticket}");
}

/// `a` to a hundred consumers, one property each.
fn to_each(consumers: u32) -> RouteTable {
    let route = |n: u32| {
        let text = format!("FROM /messages/* INTO BrokeredEndpoint(\"/modules/m{n}/inputs/in\")");
        NamedRoute { name: format!("r{n}"), text, priority: None, ttl_secs: None }
    };
    RouteTable::new((0..consumers).map(route)).unwrap()
}

#[test]
fn however_many_consumers_are_slow_their_backlogs_stay_on_disk() {
    const CONSUMERS: u32 = 50;
    let (mut play, mut disk) = (Play::with(to_each(CONSUMERS), Restored::default()), Disk::new(0));
    play.hub.config.memory_bytes = 1024 * 1024;
    let link = play.open("a");
    let mut ticket = 0;
    for _ in 0..60 {
        for _ in 0..50 {
            ticket += 1;
            send(&mut play, link, ticket, 1_000, false);
        }
        play.see(link);
        commit(&mut play, &mut disk);
    }
    let consumers: Vec<_> = (0..CONSUMERS).map(|n| play.open(&format!("m{n}"))).collect();
    let mut counts = vec![0; consumers.len()];
    let (mut hands, mut most) = (vec![Vec::new(); consumers.len()], 0);
    for round in 0..4_000 {
        for (at, consumer) in consumers.iter().enumerate() {
            for seen in play.see(*consumer) {
                if let Seen::Got { id, .. } = seen {
                    hands[at].push(id);
                }
            }
            while let Some(request) = play.hub.poll_load() {
                let loaded = disk.load(&request);
                play.hub.handle_loaded(play.now(), request, loaded);
            }
            most = most.max(play.hub.overview().memory_bytes);
            // The first half of them does nothing for a long time, and holds up nobody.
            if round > 2_000 || at >= consumers.len() / 2 {
                for id in std::mem::take(&mut hands[at]) {
                    counts[at] += 1;
                    play.complete(consumers[at], id, Completion::Done);
                }
            }
        }
        if round == 2_000 {
            assert!(counts[consumers.len() / 2..].iter().all(|count| *count == ticket), "{counts:?}");
        }
        if round % 20 == 0 {
            commit(&mut play, &mut disk);
        }
        if counts.iter().all(|count| *count == ticket) {
            break;
        }
    }
    assert!(counts.iter().all(|count| *count == ticket), "{counts:?}");
    assert!(most <= 1024 * 1024, "{most} bytes in memory");
}
