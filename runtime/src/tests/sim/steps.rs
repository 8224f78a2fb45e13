//! What can happen in the simulated world, one step at a time.
//! Must never leave a step half done: what dies, dies with all that it had.

use super::oracle::{How, Q, Uid};
use super::part::{Got, Kind};
use super::ways;
use super::world::{A, World};
use crate::io::store::tests::disk::Trouble;
use crate::logic::hub::{Commit, Ending, Wrote};
use crate::tasks::storage::{Done, Job};
use skerry_abi::wire::frame::{Completion, FromHost};

impl World {
    pub fn step(&mut self) {
        if self.runtime.is_none() && !self.start() {
            self.ms += self.dice.roll(4_000);
            return;
        }
        let calm = self.plan.calm;
        match self.dice.roll(24) {
            0..=4 => self.send(),
            5..=7 => self.work(1),
            8..=10 => self.work(2),
            11..=12 => self.cloud(),
            13..=15 => drop(self.storage()),
            16..=18 => drop(self.hear()),
            19 => self.wait(if calm { 10 } else { 600 }),
            20 if calm => {}
            20 => self.wait(7_000),
            21 => self.mischief(),
            22 => self.trouble(),
            _ => self.revive(),
        }
        if calm {
            self.revive();
            (1..3).for_each(|part| self.work(part));
            self.cloud();
        }
    }

    pub fn wait(&mut self, most: u64) {
        self.ms += self.dice.roll(most);
        self.turn(|_, _| ());
    }

    fn send(&mut self) {
        let mut bytes = Vec::new();
        for _ in 0..=self.dice.roll(8) {
            if self.parts[A].link.is_none() || !self.parts[A].has_credit() {
                break;
            }
            let output = self.dice.roll(ways::OUTPUTS.len() as u64) as usize;
            bytes.extend(self.message(A, output, &[]).1);
        }
        self.feed(A, &bytes);
    }

    /// `b` passes everything on, `c` every third message.
    pub fn work(&mut self, at: usize) {
        let mut bytes = Vec::new();
        for _ in 0..=self.dice.roll(6) {
            if self.parts[at].link.is_none() || !self.parts[at].has_credit() {
                break;
            }
            self.end_deferred(at, &mut bytes);
            let Some(got) = self.parts[at].inbox.pop_front() else { break };
            if self.parts[at].refused_streams.contains(&got.stream) {
                self.end(got, Completion::Returned, Vec::new(), &mut bytes);
                continue;
            }
            self.oracle.handled(got.uid, got.queue);
            if self.faults && self.plan.refusals && self.dice.chance(12) {
                self.parts[at].refused_streams.insert(got.stream);
                self.end(got, Completion::Refused, Vec::new(), &mut bytes);
                continue;
            }
            let passes = self.parts[at].kind == Kind::Passer || got.uid.is_multiple_of(3);
            let mut children = Vec::new();
            for _ in 0..if passes { 1 + u64::from(self.dice.chance(8)) } else { 0 } {
                let (child, frame) = self.message(at, 0, &[got.id]);
                bytes.extend(frame);
                children.push(child);
            }
            if self.faults && self.plan.deaths && self.dice.chance(30) {
                self.feed(at, &bytes);
                self.parts[at].inbox.push_front(got);
                return self.kill(at, true);
            }
            if self.faults && self.plan.refusals && self.dice.chance(20) && children.is_empty() {
                self.parts[at].deferred.push(got);
                self.end(got, Completion::Deferred, Vec::new(), &mut bytes);
                continue;
            }
            self.end(got, Completion::Done, children, &mut bytes);
        }
        self.feed(at, &bytes);
    }

    fn end_deferred(&mut self, at: usize, bytes: &mut Vec<u8>) {
        let count = self.parts[at].deferred.len() as u64;
        if count > 0 && (!self.faults || self.dice.chance(4)) {
            let got = self.parts[at].deferred.swap_remove(self.dice.roll(count) as usize);
            self.end(got, Completion::Done, Vec::new(), bytes);
        }
    }

    fn end(&mut self, got: Got, completion: Completion, children: Vec<Uid>, bytes: &mut Vec<u8>) {
        self.trace.say(|| format!("{completion:?}: {got:?} with {children:?}"));
        self.oracle.ended(got, completion, children);
        FromHost::Complete { first: got.id, count: 1, completion, reason: "no" }.encode(bytes);
    }

    /// Both ways to the cloud take what they have, or lose their connection, or get it back.
    pub fn cloud(&mut self) {
        for at in 3..5 {
            let Some(link) = self.parts[at].link else { continue };
            if self.faults && !self.plan.calm && self.dice.chance(6) {
                self.parts[at].ready ^= true;
                let ready = self.parts[at].ready;
                self.turn(|hub, _| if ready { hub.ready(link) } else { hub.pause(link) });
                continue;
            }
            if !self.parts[at].ready {
                continue;
            }
            let mut bytes = Vec::new();
            for _ in 0..=self.dice.roll(6) {
                let Some(got) = self.parts[at].inbox.pop_front() else { break };
                self.oracle.handled(got.uid, got.queue);
                if self.faults && self.plan.dead_letters && self.dice.chance(20) {
                    self.feed(at, &std::mem::take(&mut bytes));
                    self.oracle.given_up(got);
                    self.turn(|hub, now| hub.give_up(now, link, got.id, "no"));
                    continue;
                }
                self.end(got, Completion::Done, Vec::new(), &mut bytes);
            }
            self.feed(at, &bytes);
        }
    }

    /// One job of the storage thread. False if there was nothing to do.
    pub fn storage(&mut self) -> bool {
        let mono = self.mono();
        let Some(runtime) = &mut self.runtime else { return false };
        let is_commit = matches!(runtime.jobs.front(), Some(Job::Commit(_)));
        let heard = runtime.dones.len();
        let worked = runtime.storage(mono);
        let result = runtime.dones.iter().skip(heard).find_map(|done| match done {
            Done::Committed { result, .. } => Some(result.clone()),
            _ => None,
        });
        if let Some(scan) = runtime.reopened() {
            self.limbo = None;
            self.picture.meets(&scan, None);
        }
        if is_commit {
            let commit = self.commit.clone().expect("it was built");
            self.stored(commit, &result.expect("the storage thread answers"));
        }
        if self.disk.is_off() {
            let power = !(self.plan.kills && self.dice.chance(2));
            self.fall(power);
            // What is read back after a kill may never have been synced; from then on it is kept like everything else.
            if !power && self.dice.chance(2) && self.start() {
                self.fall(true);
            }
        }
        if self.quiet_at.is_none() && self.runtime.as_ref().is_some_and(super::runtime::Runtime::is_idle) {
            self.quiet_at = Some(self.disk.counts().0);
        }
        self.check();
        worked
    }

    fn stored(&mut self, commit: Commit, result: &Result<Wrote, String>) {
        match result {
            Ok(wrote) => {
                self.picture.apply(&commit);
                let (expired, evicted) = self.picture.apply_wrote(&commit, wrote);
                self.picture.check();
                self.settled = (self.keys(&expired), self.keys(&evicted));
            }
            Err(reason) => {
                assert!(!reason.contains("inconsistent"), "the store panicked");
                let may_fail = self.plan.failures || self.plan.fills || self.plan.cuts;
                assert!(may_fail, "a commit failed for no reason: {reason}");
                // One that met a closed store wrote nothing.
                if !reason.contains("earlier failure") {
                    self.limbo = Some(commit);
                }
            }
        }
    }

    fn keys(&self, of: &[(u32, Uid)]) -> Vec<(Q, Uid)> {
        of.iter().map(|(id, uid)| (self.ids[id], *uid)).collect()
    }

    /// The hub hears one word of the storage thread. False if there was none.
    pub fn hear(&mut self) -> bool {
        let Some(done) = self.runtime.as_mut().and_then(|runtime| runtime.dones.pop_front()) else { return false };
        self.trace.say(|| match &done {
            Done::Committed { id, result } => format!("commit {id}: {result:?}"),
            Done::Loaded { request, result } => {
                format!("{request:?}: {:?}", result.as_ref().map(|b| b.as_ref().map(|b| b.block)))
            }
            Done::Room { room, full } => format!("room {room}, full {full:?}"),
            Done::Reopened => "reopened".to_owned(),
        });
        match done {
            Done::Committed { id, result } => {
                let commit = self.commit.take().expect("it was built");
                match &result {
                    Ok(_) => self.heard(&commit),
                    Err(_) => {
                        for (uid, ..) in super::picture::Picture::messages(&commit) {
                            self.oracle.message(uid).doubtful = true;
                        }
                    }
                }
                self.turn(|hub, now| hub.handle_committed(now, id, result));
            }
            Done::Loaded { request, result } => self.turn(|hub, now| match result {
                Ok(block) => hub.handle_loaded(now, request, block),
                Err(reason) => hub.handle_load_failed(request, &reason),
            }),
            Done::Room { room, full } => self.turn(|hub, now| hub.handle_room(now, room, full)),
            Done::Reopened => self.turn(|hub, _| hub.handle_reopened()),
        }
        true
    }

    fn heard(&mut self, commit: &Commit) {
        self.oracle.committed(commit, &self.ids);
        let (expired, evicted) = std::mem::take(&mut self.settled);
        self.oracle.settled_on_disk(&expired, How::Late);
        self.oracle.settled_on_disk(&evicted, How::Evicted);
    }

    /// Modules die, routes change, clocks jump.
    fn mischief(&mut self) {
        let plan = self.plan.clone();
        match self.dice.roll(5) {
            0 if plan.deaths => {
                let at = self.dice.roll(5) as usize;
                let died = self.dice.chance(2);
                self.kill(at, died);
            }
            1 if plan.new_routes => {
                self.variant = self.dice.roll(ways::VARIANTS as u64) as usize;
                let table = ways::table(self.variant);
                self.turn(|hub, _| hub.set_routes(table));
            }
            2 if plan.jumps => {
                let years = 365 * 86_400_000;
                self.wall_off = self.dice.roll(2 * years) as i64 - years as i64;
                self.turn(|_, _| ());
            }
            3 if plan.documents => {
                self.documents += 1;
                let name = format!("twin/{}", self.dice.roll(3));
                let text = (!self.dice.chance(5)).then(|| format!("{{\"n\":{}}}", self.documents).into_bytes());
                let urgent = self.dice.chance(2);
                self.turn(|hub, now| hub.put_document(now, &name, text, urgent));
            }
            _ => {}
        }
    }

    /// Power, disk and runtime.
    fn trouble(&mut self) {
        let plan = self.plan.clone();
        match self.dice.roll(8) {
            0 if plan.cuts => self.fall(true),
            1 if plan.cuts => self.fall(false),
            2 if plan.cuts => {
                let trouble = match self.dice.roll(3) {
                    0 => Trouble::CutAtSync(self.dice.roll(12)),
                    1 => Trouble::CutAtOperation(self.dice.roll(20)),
                    _ => Trouble::CutAtOperation(self.dice.roll(120)),
                };
                self.disk.expect(Some(trouble));
            }
            3..=4 if plan.failures => {
                let after = self.dice.roll(40);
                let reads = self.dice.chance(3);
                self.disk.expect(Some(if reads {
                    Trouble::FailAtRead(after)
                } else {
                    Trouble::FailAtOperation(after)
                }));
            }
            5 if plan.fills => {
                let left = self.dice.roll(400_000);
                let used = self.disk.bytes(|_| true);
                self.disk.set_capacity(if self.dice.chance(2) { used + left } else { 256 << 20 });
            }
            6 if !plan.calm => self.stop(),
            _ => {}
        }
    }

    pub fn kill(&mut self, at: usize, died: bool) {
        let Some(link) = self.parts[at].link else { return };
        self.trace.say(|| format!("{} {:?} goes, died: {died}", self.parts[at].name, self.parts[at].kind));
        let in_progress = self.parts[at].inbox.front().filter(|_| died).map(|got| got.id);
        let had: Vec<Got> = self.parts[at].in_hand().copied().collect();
        let unanswered: Vec<Uid> = self.parts[at].tickets.values().map(|(uid, _)| *uid).collect();
        // All its queues go one at a time until it has done something.
        self.oracle.queues.iter_mut().for_each(|queue| queue.calm = false);
        for got in had {
            self.oracle.orphaned(got, in_progress == Some(got.id));
        }
        unanswered.into_iter().for_each(|uid| self.oracle.sender_gone(uid));
        self.parts[at].reset();
        self.turn(|hub, now| hub.close_link(now, link, in_progress.map_or(Ending::Quietly, Ending::During)));
    }

    pub fn revive(&mut self) {
        for at in 0..self.parts.len() {
            let absent = self.parts[at].link.is_none();
            if absent && (!self.faults || self.plan.calm || self.dice.chance(3)) {
                let (name, kind) = (self.parts[at].name, self.parts[at].kind);
                let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
                let (outputs, inputs) = match kind {
                    Kind::Source => (texts(&ways::OUTPUTS), Vec::new()),
                    Kind::Passer => (texts(&["out"]), texts(&ways::INPUTS[..1])),
                    _ => (texts(&["out"]), texts(&ways::INPUTS)),
                };
                let cloud = kind == Kind::Cloud;
                let runtime = self.runtime.as_mut().expect("it runs");
                let hub = &mut runtime.hub;
                let link = if cloud { hub.open_upstream(name) } else { hub.open_link(name, &outputs, &inputs) };
                let part = &mut self.parts[at];
                part.credit = hub.credit(link);
                part.link = Some(link);
                part.ready = true;
                self.turn(|hub, _| hub.ready(link));
            } else if !absent && !self.faults && !self.parts[at].ready {
                let link = self.parts[at].link.expect("it is there");
                self.parts[at].ready = true;
                self.turn(|hub, _| hub.ready(link));
            }
        }
    }

    /// The power fails, or the runtime is killed and the disk goes on.
    pub fn fall(&mut self, power: bool) {
        let Some(runtime) = self.runtime.take() else { return };
        self.trace.say(|| format!("{} ms: the runtime falls, power cut: {power}", self.ms));
        // One that was not carried out is gone; one that failed half-way is in limbo.
        self.commit = None;
        self.disk.freeze(true);
        drop(runtime);
        if power {
            self.disk.power_up(&mut self.dice);
            self.boot += 1;
            self.ms += self.dice.roll(20_000);
            self.booted_at = self.ms - 5;
        } else {
            self.disk.freeze(false);
            self.disk.expect(None);
            self.ms += self.dice.roll(2_000);
        }
        self.settled = Default::default();
        let unanswered: Vec<Uid> = self.parts.iter().flat_map(|p| p.tickets.values().map(|(uid, _)| *uid)).collect();
        unanswered.into_iter().for_each(|uid| self.oracle.sender_gone(uid));
        self.parts.iter_mut().for_each(super::part::Part::reset);
    }
}
