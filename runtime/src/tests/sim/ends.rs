//! The two good ends: a clean stop, after which nothing comes twice, and the time without faults, in which everything drains.
//! Must never help: what is due has to be asked for by the hub and the store themselves.

use std::collections::BTreeSet;

use super::oracle::{At, How, Q, Uid};
use super::part::Kind;
use super::world::World;
use crate::model::time::Mono;
use crate::tasks::storage::Job;
use skerry_abi::wire::frame::{Completion, FromHost};

/// Steps within which a world without faults has to drain.
const DRAIN_STEPS: u32 = 4_000;

impl World {
    /// Modules give back what they have, everything is committed, the store is closed.
    pub fn stop(&mut self) {
        for at in 0..self.parts.len() {
            let mut bytes = Vec::new();
            let had: Vec<_> = self.parts[at].in_hand().copied().collect();
            if self.parts[at].kind != Kind::Cloud {
                for got in had {
                    self.oracle.ended(got, Completion::Returned, Vec::new());
                    FromHost::Complete { first: got.id, count: 1, completion: Completion::Returned, reason: "" }
                        .encode(&mut bytes);
                }
                self.parts[at].inbox.clear();
                self.parts[at].deferred.clear();
                self.parts[at].ready = false;
                if let Some(link) = self.parts[at].link {
                    self.turn(|hub, _| hub.pause(link));
                }
                self.feed(at, &bytes);
            }
            self.kill(at, false);
        }
        for _ in 0..20 {
            while self.hear() || self.runtime.as_ref().is_some_and(|r| !r.jobs.is_empty()) && self.storage() {}
            let Some(runtime) = &self.runtime else { return };
            if runtime.hub.is_clean() {
                return self.close();
            }
            let now = self.now();
            let commit = self.runtime.as_mut().and_then(|runtime| runtime.hub.final_commit(now));
            let Some(commit) = commit else { break };
            if let Some(runtime) = &mut self.runtime {
                runtime.jobs.push_back(Job::Commit(Box::new(commit.clone())));
            }
            self.built(commit);
        }
        // The store is broken or full: what it can't take is lost, and nobody was told otherwise.
        self.fall(false);
    }

    fn close(&mut self) {
        let settled = |at: At| matches!(at, At::Closed(how) if how != How::Lost);
        let is_open = |(id, uid): &(u32, Uid)| {
            let queue: Q = self.ids[id];
            let message = &self.oracle.messages[*uid as usize];
            !message.targets.iter().any(|t| t.queue == queue && settled(t.at) && t.at != At::Closed(How::Late))
        };
        let twice: Vec<_> = self.picture.open.keys().filter(|key| !is_open(key)).copied().collect();
        assert!(twice.is_empty(), "after a clean stop these come twice: {twice:?}");
        let stored: BTreeSet<(Q, Uid)> = self.picture.open.keys().map(|(id, uid)| (self.ids[id], *uid)).collect();
        for (queue, state) in self.oracle.queues.iter().enumerate() {
            let missing = state
                .waiting
                .iter()
                .find(|uid| !stored.contains(&(queue, **uid)) && !self.oracle.messages[**uid as usize].orphan);
            assert_eq!(missing, None, "after a clean stop it is not there, at {}", state.endpoint);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.close();
        }
        if self.disk.is_off() {
            self.disk.power_up(&mut self.dice);
        }
        self.disk.expect(None);
        self.commit = None;
        self.ms += self.dice.roll(2_000);
    }

    /// Nothing fails any more, everybody is there: everything has to be settled, and the store empty.
    pub fn drain(&mut self) {
        self.faults = false;
        self.disk.expect(None);
        self.disk.set_capacity(256 << 20);
        for _ in 0..DRAIN_STEPS {
            if !self.start() {
                self.ms += 1_000;
                continue;
            }
            self.revive();
            self.work(1);
            self.work(2);
            self.cloud();
            let worked = self.storage();
            let heard = self.hear();
            if !worked && !heard {
                self.wait_for_what_is_due();
            }
            if self.is_drained() {
                return self.check_end();
            }
        }
        let runtime = self.runtime.as_ref();
        let (idle, overview) = (runtime.map(super::runtime::Runtime::is_idle), runtime.map(|r| r.hub.overview()));
        let tickets: Vec<_> = self.parts.iter().map(|p| (p.name, p.kind, &p.tickets, p.in_hand().count())).collect();
        panic!(
            "it does not drain: idle {idle:?}, commit {}, on disk {:?}, unanswered {tickets:?}, {overview:#?}",
            self.commit.is_some(),
            self.picture.open
        );
    }

    fn wait_for_what_is_due(&mut self) {
        let now = self.now();
        let Some(runtime) = &self.runtime else { return };
        let due = runtime.hub.next_timeout(now);
        let left = if due == Mono::NEVER { 5_000 } else { due.since(now.mono).clamp(1, 5_000) };
        self.ms += left;
        self.turn(|_, _| ());
    }

    fn is_drained(&self) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let overview = runtime.hub.overview();
        let quiet = runtime.is_idle() && self.commit.is_none();
        let empty = overview.queues.iter().all(|q| q.ledger.pending == 0);
        quiet && empty && self.picture.open.is_empty() && self.parts.iter().all(|p| p.tickets.is_empty())
    }

    fn check_end(&mut self) {
        let left: u64 = self.oracle.queues.iter().map(|q| q.waiting.len() as u64 + q.in_hand).sum();
        let unheard: Vec<_> = self.oracle.queues.iter().flat_map(|q| &q.waiting).collect();
        let orphans = unheard.iter().all(|uid| self.oracle.messages[**uid as usize].orphan);
        assert!(left == 0 || orphans, "the hub has nothing left, and these have not come: {unheard:?}");
        let bytes = self.disk.bytes(|name| name.ends_with(".segment"));
        // What the newest segment may keep: a quarter of one, or half a MiB.
        let most = (self.plan.quota() / 64).min(512 * 1024) + 40 * 1024;
        assert!(bytes <= most, "{bytes} bytes are left of the log");
    }
}
