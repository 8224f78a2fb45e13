//! The simulated world: who does what next, what fails, what time it is. One number decides everything.
//! Must never draw from the dice for a check, or the check would change the run.

use std::collections::{BTreeMap, BTreeSet};

use super::ledgers::Count;
use super::oracle::{Keys, Message, Oracle, Q, Target, Uid};
use super::part::{self, Got, Kind, Part, uid_of};
use super::picture::{Picture, Scan};
use super::plan::Plan;
use super::runtime::{self, Runtime, Start};
use super::trace::Trace;
use super::ways;
use crate::io::store::Options;
use crate::io::store::tests::disk::{Dice, SimDisk};
use crate::logic::hub::{Commit, Hub, LinkIx, QueueRow, Sent};
use crate::model::time::{Age, Mono, Now, Wall};
use skerry_abi::wire::frame::{self, FromHost, ToHost};

pub const A: usize = 0;
/// The time of day when the world begins, ms since 1970.
const DAY_ONE: i64 = 1_700_000_000_000;

pub struct World {
    pub dice: Dice,
    pub plan: Plan,
    pub disk: SimDisk,
    pub options: Options,
    pub runtime: Option<Runtime>,
    pub parts: [Part; 5],
    pub oracle: Oracle,
    pub picture: Picture,
    /// Queues of the store.
    pub ids: BTreeMap<u32, Q>,
    /// True time since the world began, ms.
    pub ms: u64,
    pub booted_at: u64,
    pub boot: u32,
    /// How far the wall clock is off, ms.
    pub wall_off: i64,
    pub variant: usize,
    pub faults: bool,
    /// The commit that was built and of which the store has not said anything.
    pub commit: Option<Commit>,
    /// The commit that failed, until the store was opened again.
    pub limbo: Option<Commit>,
    /// What the store expired and evicted in the last commit, until the hub hears of it.
    pub settled: (Keys, Keys),
    /// Operations of the disk when the store had nothing left to do for the first time.
    pub quiet_at: Option<u64>,
    pub documents: u64,
    pub trace: Trace,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let plan = Plan::draw(&mut dice);
        let boot_id = "boot 0".to_owned();
        let options = Options { quota_bytes: Some(plan.quota()), allow_volatile_state: true, boot_id };
        let mut parts =
            [("a", Kind::Source), ("b", Kind::Passer), ("c", Kind::Sink), ("a", Kind::Cloud), ("c", Kind::Cloud)]
                .map(|(name, kind)| Part::new(name, kind));
        parts.iter_mut().for_each(Part::reset);
        World {
            oracle: Oracle { refusals_max: plan.config().refusals_max, ..Oracle::default() },
            dice,
            plan,
            disk: SimDisk::new(256 << 20),
            options,
            runtime: None,
            parts,
            picture: Picture::new(),
            ids: BTreeMap::new(),
            ms: 1_000,
            booted_at: 0,
            boot: 0,
            wall_off: 0,
            variant: 0,
            faults: true,
            commit: None,
            limbo: None,
            settled: Default::default(),
            quiet_at: None,
            documents: 0,
            trace: Trace::default(),
        }
    }

    pub fn mono(&self) -> Mono {
        Mono(self.ms - self.booted_at)
    }

    fn wall(&self) -> Wall {
        Wall(DAY_ONE + self.ms as i64 + self.wall_off)
    }

    pub fn now(&self) -> Now {
        let runtime = self.runtime.as_ref().expect("it runs");
        runtime.now(self.mono(), self.wall())
    }

    /// Starts the runtime if it does not run. False if the store does not open this time.
    pub fn start(&mut self) -> bool {
        if self.runtime.is_some() {
            return true;
        }
        self.options.boot_id = format!("boot {}", self.boot);
        let (opened, scan) = match runtime::open(&self.disk, &self.options, None) {
            Ok(found) => found,
            Err(_) if self.disk.is_off() => {
                self.disk.power_up(&mut self.dice);
                return false;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(self.faults && (text.contains("simulated") || self.plan.fills), "it does not open: {text}");
                return false;
            }
        };
        let under_way = self.limbo.take();
        let (rows, last_age) = (opened.restored.queues.clone(), opened.clock.age);
        let boot = self.options.boot_id.clone();
        let at = Start { boot: &boot, mono: self.mono() };
        let config = self.plan.config();
        self.runtime = Some(Runtime::start(&self.disk, &self.options, opened, config, self.variant, &at));
        let age = self.now().age;
        assert!(age >= last_age, "the age of the store goes back over a restart");
        self.found(&scan, under_way.as_ref(), &rows, age);
        true
    }

    /// What the store holds after it was opened.
    fn found(&mut self, scan: &Scan, under_way: Option<&Commit>, rows: &[QueueRow], age: Age) {
        self.trace.say(|| format!("{} ms: started, {:?}", self.ms, scan));
        self.picture.meets(scan, under_way);
        self.picture.check();
        for row in rows {
            let queue = self.oracle.queue(&row.endpoint, row.priority);
            self.ids.insert(row.id, queue);
        }
        let open: BTreeSet<(Q, Uid)> = self.picture.open.keys().map(|(id, uid)| (self.ids[id], *uid)).collect();
        self.oracle.younger_again(age);
        self.oracle.begin(rows, &open);
        self.trace.note(&[open.len() as u64, age.0]);
    }

    /// Nothing failed and nobody was slow: nothing was written.
    pub fn check_calm(&self) {
        let counts = self.quiet_at.map(|_| self.disk.counts().0);
        assert_eq!(counts, self.quiet_at, "something was written while everything was online");
    }

    /// A turn of the hub, and whatever can be seen of it.
    pub fn turn<R>(&mut self, act: impl FnOnce(&mut Hub, Now) -> R) -> R {
        let now = self.now();
        self.oracle.grow(now.age);
        let runtime = self.runtime.as_mut().expect("it runs");
        let (result, turned) = runtime.turn(now, |hub| act(hub, now));
        // What became of the old first: it may be what the new ones waited for.
        for is_answer in [true, false] {
            turned.frames.iter().for_each(|(link, bytes)| self.read(*link, bytes, is_answer));
        }
        self.oracle.finish();
        self.oracle.check_told();
        if let Some(commit) = turned.commit {
            self.built(commit);
        }
        self.check();
        result
    }

    pub fn built(&mut self, commit: Commit) {
        for row in &commit.queues {
            let queue = self.oracle.queue(&row.endpoint, row.priority);
            self.ids.insert(row.id, queue);
        }
        self.trace.note(&[commit.id, commit.blocks.len() as u64, commit.rows.len() as u64, commit.dead.len() as u64]);
        self.trace.say(|| {
            let adds: Vec<_> =
                Picture::messages(&commit).iter().map(|(uid, id, at)| (*uid, *id, at.block, at.index)).collect();
            format!("commit {} with {adds:?}, {:?}, {:?}", commit.id, commit.rows, commit.queues)
        });
        self.oracle.built(&commit, &self.picture, &self.ids, self.plan.evict);
        assert!(self.commit.is_none(), "two commits are under way");
        self.commit = Some(commit);
    }

    fn read(&mut self, link: LinkIx, bytes: &[u8], answers: bool) {
        self.trace.bytes(bytes);
        let Some(at) = self.parts.iter().position(|part| part.link == Some(link)) else { return };
        let mut rest = bytes;
        while let Some(one) = frame::split(&mut rest).expect("whole frames") {
            let frame = ToHost::decode(one).expect("good frames");
            if matches!(frame, ToHost::Deliver { .. }) == answers {
                continue;
            }
            match frame {
                ToHost::Settled { first, count, outcome, reason } => {
                    self.trace
                        .say(|| format!("{} tickets {first} and {count}: {outcome:?} {reason}", self.parts[at].name));
                    for ticket in first..first + u64::from(count) {
                        let (uid, _) = self.parts[at].tickets.remove(&ticket).expect("a ticket is answered once");
                        self.oracle.told(uid, outcome);
                    }
                }
                ToHost::Credit { messages, bytes } => self.parts[at].credit = (messages, bytes),
                deliver @ ToHost::Deliver { .. } => self.deliver(at, &deliver),
                other => panic!("{other:?}"),
            }
        }
        assert!(rest.is_empty(), "half a frame");
    }

    fn deliver(&mut self, at: usize, frame: &ToHost<'_>) {
        let ToHost::Deliver { id, queue: stream, input, attempts, enqueued_ms, source_module, source_output, record } =
            *frame
        else {
            return;
        };
        let uid = uid_of(record).expect("a message comes as it was sent");
        let message = &self.oracle.messages[uid as usize];
        assert_eq!((source_module, source_output, enqueued_ms), (message.source.0, message.source.1, message.wall));
        let part = &self.parts[at];
        assert!(part.ready, "{} is given something while it is away", part.name);
        let wanted = |q: &&Target| {
            let endpoint = &self.oracle.queues[q.queue].endpoint;
            match endpoint {
                crate::model::endpoint::Endpoint::Input { module, input: name } => {
                    part.kind != Kind::Cloud && module == part.name && name == ways::INPUTS[usize::from(input)]
                }
                crate::model::endpoint::Endpoint::Upstream { identity } => {
                    part.kind == Kind::Cloud && identity == part.name
                }
            }
        };
        let target = message.targets.iter().find(wanted);
        let queue =
            target.unwrap_or_else(|| panic!("message {uid} comes to {}, where no route leads it", part.name)).queue;
        self.trace.say(|| format!("message {uid} to {} as {id}, queue {queue}, attempts {attempts}", part.name));
        self.oracle.delivered(uid, queue, attempts);
        self.parts[at].inbox.push_back(Got { id, stream, uid, queue });
    }

    /// A message of a module: its number and its frame.
    pub fn message(&mut self, at: usize, output: usize, parents: &[u64]) -> (Uid, Vec<u8>) {
        let now = self.now();
        let from = (self.parts[at].name, if at == A { ways::OUTPUTS[output] } else { "out" });
        let uid = self.oracle.next_uid();
        let routed = ways::targets(self.variant, from, uid % 4);
        let global = self.plan.config().ttl;
        let mut targets = Vec::new();
        for (endpoint, priority, ttl_s) in routed {
            let ttl = ttl_s.map(std::time::Duration::from_secs).or(global);
            let expiry = ttl.map_or(Age::NEVER, |ttl| now.age.after(ttl));
            let queue = self.oracle.queue(&endpoint, priority);
            let at = super::oracle::At::Waiting;
            targets.push(Target { queue, expiry, at, committed: false, handled: false, refusals: 0 });
        }
        let (source, wall) = (from, now.wall.0);
        let message = Message { source, wall, targets, told: None, orphan: false, doubtful: false };
        self.trace
            .say(|| format!("{} ms: message {uid} from {from:?}, {parents:?}, to {:?}", self.ms, message.targets));
        self.oracle.sent(message);
        let length = self.dice.roll(self.plan.body);
        let record = part::record(uid, length);
        let at_once = self.dice.chance(40) && !self.plan.calm;
        let part = &mut self.parts[at];
        let ticket = part.next_ticket;
        part.next_ticket += 1;
        part.tickets.insert(ticket, (uid, record.len() as u64));
        (uid, part::publish(ticket, output as u16, at_once, parents, &record))
    }

    /// Bytes from a module's host.
    pub fn feed(&mut self, at: usize, bytes: &[u8]) {
        let Some(link) = self.parts[at].link else { return };
        self.turn(|hub, now| feed(hub, now, link, bytes));
    }

    /// After every turn, and after everything that the store does.
    pub fn check(&mut self) {
        let bytes = self.disk.bytes(|_| true);
        assert!(bytes <= self.plan.quota(), "{bytes} bytes on a quota of {}", self.plan.quota());
        let Some(runtime) = &self.runtime else { return };
        let overview = runtime.hub.overview();
        self.oracle.check_ledgers(&overview, self.plan.evict);
        let memory = self.plan.memory;
        // Of each queue a few messages may be in memory even if it is short; a sender may overdraw by what one callback sends.
        let windows = 3 * (memory / 4 + 6 * (self.plan.body + 400)) + 3 * 40 * 160;
        let most = memory + windows + (4_096 + self.plan.body + 400) * overview.queues.len() as u64;
        assert!(overview.memory_bytes <= most, "{} bytes in memory, at most {most}", overview.memory_bytes);
        if overview.memory_bytes >= memory / 2 {
            self.oracle.queues.iter_mut().for_each(|q| q.may_lie_on_disk = true);
        }
        let count = |q: &super::oracle::Queue| {
            let Count { admitted, delivered, dead, late, .. } = q.count;
            admitted ^ delivered.rotate_left(16) ^ dead.rotate_left(32) ^ late.rotate_left(48)
        };
        let counts = self.oracle.queues.iter().map(count).fold(0, |sum, n| sum ^ n);
        let (operations, syncs) = self.disk.counts();
        self.trace.note(&[self.ms, counts, overview.memory_bytes, bytes, operations, syncs]);
    }
}

/// As the reader of a link does.
fn feed(hub: &mut Hub, now: Now, link: LinkIx, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(one) = frame::split(&mut rest).expect("whole frames") {
        match FromHost::decode(one).expect("good frames") {
            FromHost::Publish { ticket, output, now: at_once, parents, record } => {
                hub.publish(now, link, Sent { ticket, output, at_once, parents, record }).expect("the rules are kept");
            }
            FromHost::Complete { first, count, completion, reason } => {
                hub.complete(now, link, first, count, completion, reason).expect("the rules are kept");
            }
            other => panic!("{other:?}"),
        }
    }
}
