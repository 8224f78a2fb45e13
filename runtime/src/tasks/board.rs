//! What tasks post for each other to read: the instances there are, their twins, their last log lines, and warnings.
//! Plain values behind cells, all on one thread. Must never decide or wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};
use smol::channel::{Receiver, Sender};

use super::deployment::Deployment;
use super::log_writer::LogWriter;
use super::system::SeatEnds;
use super::tally::Tally;
use crate::io::assignment::Assigned;
use crate::logic::hub::{LinkIx, Tapped};
use crate::logic::log_ring::{LogLine, LogRing};
use crate::logic::proof::{Proof, Version};
use crate::logic::twin::Twin;
use crate::model::identity::Credentials;
use crate::model::image::Image;
use crate::model::manifest::{ModuleSpec, RestartPolicy, Setup};
use crate::model::time::{Mono, Now, Wall};

/// Log kept of one instance, bytes. What a crash report keeps, too.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// Warnings kept; older ones go.
const WARNINGS_MAX: usize = 64;

/// The state that `list` shows, in the words of IoT Edge's `runtimeStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Starting,
    Running,
    Backoff,
    Unhealthy,
    Stopped,
    Failed,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Backoff => "backoff",
            Status::Unhealthy => "unhealthy",
            Status::Stopped => "stopped",
            Status::Failed => "failed",
        }
    }
}

/// What an instance's task can be told.
#[derive(Debug)]
pub enum Order {
    /// End for good.
    End,
    /// End, and stay until told to start.
    Stop,
    Start,
    /// End and start at once; clears the history of failures.
    Restart,
    /// The same as another version.
    Become(Rc<Image>, Rc<Setup>),
}

/// What an instance was told to be last: by the agent alone.
#[derive(Clone, Debug)]
pub struct Told {
    pub version: Version,
    pub running: bool,
    pub order: u32,
}

/// What is asked for under an instance's name, and why it is not there as asked.
#[derive(Clone)]
pub struct Asked {
    pub spec: Rc<ModuleSpec>,
    /// One sentence: its image is not at hand, or was rejected.
    pub problem: Option<String>,
    /// Its image is on its way here, which is no fault.
    pub coming: bool,
}

/// How the last process of an instance ended.
#[derive(Clone, Debug)]
pub struct LastExit {
    pub at: Wall,
    pub text: String,
    pub code: i32,
}

/// Status and payload.
pub type MethodAnswer = (i32, Vec<u8>);

/// One instance, as everybody may see it. Only its own task writes.
pub struct Slot {
    pub name: String,
    pub image: RefCell<Rc<Image>>,
    pub setup: RefCell<Rc<Setup>>,
    /// By the agent.
    pub told: RefCell<Told>,
    /// By the agent.
    pub policy: Cell<RestartPolicy>,
    pub status: Cell<Status>,
    pub generation: Cell<u64>,
    pub pid: Cell<Option<i32>>,
    pub isolation: RefCell<String>,
    /// Processes after the first, whoever wanted them.
    pub restarts: Cell<u64>,
    /// Those that the restart policy made, since it last ran well.
    pub policy_restarts: Cell<u32>,
    pub last_start: Cell<Option<Wall>>,
    pub last_restart: Cell<Option<Wall>>,
    pub since: Cell<Wall>,
    pub last_exit: RefCell<Option<LastExit>>,
    /// What it says is wrong with itself; empty when it is well.
    pub unhealthy: RefCell<String>,
    /// When it came to be wanted.
    made: Mono,
    running_since: Cell<Option<Mono>>,
    /// Processes that came as far as to run.
    pub connects: Cell<u64>,
    ran_ms: Cell<u64>,
    /// The link of the process that runs, once it said hello.
    pub link: Cell<Option<LinkIx>>,
    pub ending: Cell<bool>,
    pub orders: Sender<Order>,
    pub log: RefCell<LogRing>,
    /// Where lines go as well, under the instance's name.
    pub files: Option<(Arc<str>, LogWriter)>,
    /// Who follows the log.
    pub followers: RefCell<Vec<Sender<Value>>>,
    /// Method calls without an answer.
    pub methods: RefCell<HashMap<u64, Sender<MethodAnswer>>>,
    /// Numbers the calls over all generations: who answers one that was never asked is making it up.
    pub last_call: Cell<u64>,
    /// Calls of other modules that it waits for.
    pub calls: Cell<usize>,
    /// What it tried that was not its own to do.
    pub scope_refused: Cell<u64>,
}

impl Slot {
    pub fn new(
        name: &str,
        image: Rc<Image>,
        told: Told,
        policy: RestartPolicy,
        orders: Sender<Order>,
        now: Now,
        files: Option<LogWriter>,
    ) -> Slot {
        Slot {
            files: files.map(|files| (name.into(), files)),
            name: name.to_owned(),
            image: RefCell::new(image),
            setup: RefCell::new(Rc::new(told.version.setup.clone())),
            told: RefCell::new(told),
            policy: Cell::new(policy),
            status: Cell::new(Status::Starting),
            generation: Cell::new(0),
            pid: Cell::new(None),
            isolation: RefCell::default(),
            restarts: Cell::new(0),
            policy_restarts: Cell::new(0),
            last_start: Cell::new(None),
            last_restart: Cell::new(None),
            since: Cell::new(now.wall),
            last_exit: RefCell::default(),
            unhealthy: RefCell::default(),
            made: now.mono,
            running_since: Cell::new(None),
            connects: Cell::new(0),
            ran_ms: Cell::new(0),
            link: Cell::new(None),
            ending: Cell::new(false),
            orders,
            log: RefCell::new(LogRing::new(LOG_BYTES_MAX)),
            followers: RefCell::default(),
            methods: RefCell::default(),
            last_call: Cell::new(0),
            calls: Cell::new(0),
            scope_refused: Cell::new(0),
        }
    }

    /// Counts an attempt at what is another's. One that tries all day does not fill the log.
    pub fn refuse_scope(&self, what: &str) {
        let count = self.scope_refused.get() + 1;
        self.scope_refused.set(count);
        if count.is_power_of_two() {
            log::warn!("instance={}/{} scope=refused count={count} what={what:?}", self.name, self.generation.get());
        }
    }

    pub fn set_status(&self, status: Status, now: Now) {
        let before = self.status.replace(status);
        if before == status {
            return;
        }
        self.since.set(now.wall);
        let connects = status == Status::Running && before != Status::Unhealthy;
        self.connects.set(self.connects.get() + u64::from(connects));
        if let Some(since) = self.running_since.replace((status == Status::Running).then_some(now.mono)) {
            self.ran_ms.set(self.ran_ms.get() + now.mono.since(since));
        }
    }

    /// How long it has run as it should, of how long it should have, ms.
    pub fn ran_of(&self, now: Mono) -> (u64, u64) {
        let running = self.running_since.get().map_or(0, |since| now.since(since));
        (self.ran_ms.get() + running, now.since(self.made))
    }

    /// What it runs as.
    pub fn version(&self) -> Version {
        Version { digest: self.image.borrow().digest.clone(), setup: (**self.setup.borrow()).clone() }
    }

    /// That this version has reached a stage of its proof.
    pub fn log_version(&self, stage: &str) {
        let image = self.image.borrow();
        log::info!(
            "instance={}/{} {stage}=true image={}@{}",
            self.name,
            self.generation.get(),
            image.name,
            image.version
        );
    }

    pub fn log(&self, line: LogLine) {
        let mut followers = self.followers.borrow_mut();
        if !followers.is_empty() {
            let value = line_json(&line);
            // Who reads too slowly misses lines rather than holding up the module.
            followers.retain(|f| !f.is_closed() && !matches!(f.try_send(value.clone()), Err(e) if e.is_closed()));
        }
        if let Some((name, files)) = &self.files {
            files.write(name, &line);
        }
        self.log.borrow_mut().push(line);
    }

    /// What it logged: all that is in its files, or else the last lines that are in memory. What is logged after the call is not in it,
    /// whenever the answer is waited for.
    pub fn logged(&self) -> impl Future<Output = Vec<LogLine>> + use<> {
        let asked = self.files.as_ref().filter(|(_, files)| files.problem().is_none());
        let asked = asked.and_then(|(name, files)| files.read(name));
        let memory: Vec<LogLine> = self.log.borrow().lines();
        async move {
            let Some(asked) = asked else { return memory };
            asked.recv().await.ok().and_then(Result::ok).unwrap_or(memory)
        }
    }
}

pub fn line_json(line: &LogLine) -> Value {
    json!({"at": line.at.0, "level": line.level_name(), "message": line.text, "target": line.stream})
}

/// An identity's way to the cloud, as everybody may see it. Only its own task writes.
pub struct Uplink {
    pub module: String,
    /// What the protocol calls the client id.
    pub identity: String,
    pub host: String,
    pub connected: Cell<bool>,
    /// Not connected, since there is nothing to say.
    pub resting: Cell<bool>,
    /// When that last changed.
    pub since: Cell<Wall>,
    /// Why it is not connected.
    pub fault: RefCell<Option<String>>,
    pub connects: Cell<u64>,
    /// Messages that the cloud has not acknowledged.
    pub in_flight: Cell<usize>,
    /// Of the protocol, without TLS.
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
    pub twin_in_step: Cell<bool>,
    /// Method calls without an answer.
    pub methods: Cell<usize>,
    /// The hub did not accept its token last time.
    pub refused: Cell<bool>,
    /// The hub knows the device, and not this identity or not its key any more.
    pub revoked: RefCell<Option<String>>,
    pub ending: Cell<bool>,
    /// Messages wait, something was reported, or it is to end.
    pub wake: Sender<()>,
}

impl Uplink {
    pub fn new(module: &str, identity: &Credentials, wake: Sender<()>, now: Wall) -> Uplink {
        Uplink {
            module: module.to_owned(),
            identity: identity.client_id(),
            host: identity.host_name.clone(),
            connected: Cell::new(false),
            resting: Cell::new(false),
            since: Cell::new(now),
            fault: RefCell::default(),
            connects: Cell::new(0),
            in_flight: Cell::new(0),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            twin_in_step: Cell::new(false),
            methods: Cell::new(0),
            refused: Cell::new(false),
            revoked: RefCell::default(),
            ending: Cell::new(false),
            wake,
        }
    }

    /// Hangs up for good; it leaves the board when that is done.
    pub fn end(&self) {
        self.ending.set(true);
        let _ = self.wake.try_send(());
    }
}

/// What the provisioning service said.
#[derive(Clone, Debug, Default)]
pub struct Provisioned {
    /// Hub and device id.
    pub assigned: Option<Assigned>,
    pub since: Wall,
    /// Why it is not assigned (again).
    pub fault: Option<String>,
}

impl Provisioned {
    pub fn assigned(assigned: &Assigned, now: Wall) -> Provisioned {
        Provisioned { assigned: Some(assigned.clone()), since: now, fault: None }
    }

    /// What was assigned before stays in force.
    pub fn failed(&mut self, why: &str, now: Wall) {
        if self.fault.is_none() {
            self.since = now;
        }
        self.fault = Some(why.to_owned());
    }
}

/// Somebody who watches messages pass.
pub struct Tap {
    pub accepts: Box<dyn Fn(&Tapped) -> bool>,
    pub to: Sender<Value>,
}

#[derive(Default)]
pub struct Board {
    pub slots: RefCell<BTreeMap<String, Rc<Slot>>>,
    pub twins: RefCell<BTreeMap<String, Twin>>,
    /// Which version of an instance is good, by its name.
    pub proofs: RefCell<BTreeMap<String, Proof>>,
    /// Changes of proofs that are not on disk yet: after a power cut the device knows less than now, and needs the images of then.
    pub proofs_unkept: Rc<Cell<usize>>,
    /// What the agent was asked for, by name.
    pub asked: RefCell<BTreeMap<String, Asked>>,
    pub deployment: RefCell<Deployment>,
    /// What was made in the hub's registry, by module.
    pub identities: RefCell<BTreeMap<String, Value>>,
    /// Identities of the runtime itself.
    pub seats: RefCell<BTreeMap<String, Rc<SeatEnds>>>,
    pub provisioned: RefCell<Provisioned>,
    /// By module.
    pub uplinks: RefCell<BTreeMap<String, Rc<Uplink>>>,
    pub taps: RefCell<Vec<Tap>>,
    pub tally: Tally,
    /// Everything ends; nothing is started any more.
    pub stopping: Cell<bool>,
    /// When the manifest in force was taken, until everything is as it asks for.
    pub taken_at: Cell<Option<Mono>>,
    /// Who waits for an instance to run.
    arrivals: RefCell<Vec<Sender<()>>>,
    warnings: RefCell<VecDeque<String>>,
    /// Files of the drop-in folders that are no images, with the reason.
    pub rejected: RefCell<BTreeMap<String, String>>,
}

impl Board {
    pub fn slot(&self, name: &str) -> Option<Rc<Slot>> {
        self.slots.borrow().get(name).cloned()
    }

    /// Woken when an instance has come to run, whichever; look again then.
    pub fn next_arrival(&self) -> Receiver<()> {
        let (come, comes) = smol::channel::bounded(1);
        let mut arrivals = self.arrivals.borrow_mut();
        arrivals.retain(|waiting| !waiting.is_closed());
        arrivals.push(come);
        comes
    }

    pub fn arrived(&self) {
        for waiting in self.arrivals.take() {
            let _ = waiting.try_send(());
        }
    }

    /// Shown in `status` until the runtime ends, and logged once.
    pub fn warn(&self, text: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.contains(&text) {
            return;
        }
        log::warn!("{text}");
        warnings.push_back(text);
        if warnings.len() > WARNINGS_MAX {
            warnings.pop_front();
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().iter().cloned().collect()
    }
}
