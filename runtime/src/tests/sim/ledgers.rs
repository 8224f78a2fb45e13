//! The equation of the ledger, term by term against what the oracle counted, and what commits may hold.
//! Must never take a term from the others.

use super::oracle::{At, How, Oracle, Q, Uid};
use super::part::uid_of;
use super::picture::Picture;
use crate::logic::hub::{Commit, Ledger, Overview};
use std::collections::{BTreeMap, BTreeSet};

/// Of one queue, since the runtime started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// What the store had.
    pub base: Ledger,
    pub admitted: u64,
    /// Taken back, and its sender told.
    pub withdrawn: u64,
    pub delivered: u64,
    pub dead: u64,
    pub evicted: u64,
    /// Its time is over; the hub may not have looked yet.
    pub late: u64,
    /// Withdrawn or expired: nobody outside can tell.
    pub unsure: u64,
}

impl Oracle {
    /// After every step.
    pub fn check_ledgers(&mut self, overview: &Overview, lags: bool) {
        for view in &overview.queues {
            let queue = self.queue(&view.endpoint, view.priority);
            let (lost, late) = self.orphans(queue);
            let Count { base, admitted, withdrawn, delivered, dead, evicted, .. } = self.queues[queue].count;
            let count = self.queues[queue].count;
            let ledger = view.ledger;
            let what = || format!("{} at {}: {ledger:?} for {count:?}", view.endpoint, view.priority);
            let accepted = base.accepted() + admitted - withdrawn;
            // One whose time is over may count as lost, and as unsure besides.
            let least = accepted.saturating_sub(lost + count.unsure);
            assert!((least..=accepted).contains(&ledger.accepted()), "accepted is not {accepted}: {}", what());
            assert_eq!(ledger.dead_lettered - base.dead_lettered, dead, "dead letters: {}", what());
            // One whose time is over may be evicted before the hub sees that.
            let evictions = ledger.evicted - base.evicted;
            assert!((evicted..=evicted + count.late).contains(&evictions), "evicted: {}", what());
            assert!(ledger.expired - base.expired <= count.late + late, "expired: {}", what());
            let waits = self.finishing.iter().filter(|f| f.queue == queue);
            let maybe = waits.filter(|f| f.children.iter().all(|child| self.is_safe(*child, true))).count() as u64;
            let now = ledger.delivered - base.delivered;
            assert!(now <= delivered + maybe && (now >= delivered || lags), "delivered: {}", what());
            assert!(ledger.stored <= ledger.pending, "stored: {}", what());
        }
        let known = |q: &&super::oracle::Queue| {
            let view = overview.queues.iter().find(|v| v.endpoint == q.endpoint && v.priority == q.priority);
            view.is_none() && q.count.admitted > q.count.withdrawn
        };
        assert!(
            self.queues.iter().find(known).is_none_or(|q| q.waiting.iter().all(|u| self.messages[*u as usize].orphan))
        );
    }

    /// Messages of senders that are gone, of which nobody knows whether they were given back; and those of them that may
    /// have expired.
    fn orphans(&self, queue: Q) -> (u64, u64) {
        let waiting = self.queues[queue].waiting.iter();
        let lost = waiting.filter(|uid| {
            let message = &self.messages[**uid as usize];
            message.orphan && message.targets.iter().any(|t| t.queue == queue && !t.committed)
        });
        (lost.count() as u64 + self.queues[queue].count.late, 0)
    }

    /// A commit was built: whatever it settles is settled, whatever it writes has to be written.
    pub fn built(&mut self, commit: &Commit, picture: &Picture, ids: &BTreeMap<u32, Q>, evicts: bool) {
        let adds: BTreeSet<(Q, Uid)> = Picture::messages(commit).iter().map(|(uid, id, _)| (ids[id], *uid)).collect();
        for (queue, uid) in &adds {
            let at = self.target(*uid, *queue).at;
            let settled = matches!(at, At::Closed(how) if how != How::Late);
            assert!(!settled, "message {uid} is written for {}, which is done with it", self.queues[*queue].endpoint);
        }
        let dead: BTreeSet<(Q, Uid)> =
            commit.dead.iter().map(|d| (ids[&d.queue], uid_of(&d.record).expect("as it was"))).collect();
        for (queue, uid) in &dead {
            assert_eq!(self.target(*uid, *queue).at, At::Dying, "message {uid} goes to the dead letters");
        }
        for (id, uid) in picture.settled_by(&commit.rows) {
            let queue = ids[&id];
            let right = match self.target(uid, queue).at {
                At::Closed(_) => true,
                At::Done => self.foreseen(uid, queue, &adds, &dead),
                At::Dying => dead.contains(&(queue, uid)),
                At::Waiting if evicts => {
                    self.close(uid, queue, How::Evicted);
                    true
                }
                At::Waiting | At::InHand => false,
            };
            let at = self.target(uid, queue).at;
            assert!(right, "message {uid} is written as settled for {}, and it is {at:?}", self.queues[queue].endpoint);
        }
    }

    /// Done, and everything that was sent on the way is safe once the commit is.
    fn foreseen(&self, uid: Uid, queue: Q, adds: &BTreeSet<(Q, Uid)>, dead: &BTreeSet<(Q, Uid)>) -> bool {
        let safe = |child: &Uid| {
            self.messages[*child as usize].targets.iter().all(|t| match t.at {
                At::Closed(_) => true,
                _ if t.committed || adds.contains(&(t.queue, *child)) => true,
                At::Dying => dead.contains(&(t.queue, *child)),
                At::Done => self.foreseen(*child, t.queue, adds, dead),
                At::Waiting | At::InHand => false,
            })
        };
        let found = self.finishing.iter().find(|f| f.uid == uid && f.queue == queue);
        found.is_none_or(|f| f.children.iter().all(safe))
    }

    /// The hub is about to hear that the commit succeeded.
    pub fn committed(&mut self, commit: &Commit, ids: &BTreeMap<u32, Q>) {
        for (uid, id, _) in Picture::messages(commit) {
            self.target(uid, ids[&id]).committed = true;
        }
        for letter in &commit.dead {
            let uid = uid_of(&letter.record).expect("as it was");
            self.close(uid, ids[&letter.queue], How::Dead);
        }
    }

    /// What the store settled in it.
    pub fn settled_on_disk(&mut self, keys: &[(Q, Uid)], how: How) {
        for (queue, uid) in keys {
            let at = self.target(*uid, *queue).at;
            match (at, how) {
                (At::Closed(How::Late), How::Evicted) => {
                    self.queues[*queue].count.evicted += 1;
                    self.queues[*queue].count.unsure += 1;
                }
                (At::Closed(How::Late), _) => {}
                (At::Waiting, How::Evicted) => self.close(*uid, *queue, how),
                _ => panic!("message {uid} is settled on disk as {how:?}, and it is {at:?}"),
            }
        }
    }
}
