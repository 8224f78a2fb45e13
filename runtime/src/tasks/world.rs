//! What every task of the runtime is handed: made once, in the wiring.
//! Must never hold what only one task needs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::io::executor::Executor;

use super::board::{Board, Slot};
use super::mailbox::Refusal;
use super::port::Port;
use super::tally::Of;
use crate::io::clock::{self, TimeFloor};
use crate::io::crash_report::CrashReports;
use crate::io::hosts::Hosts;
use crate::io::images::Images;
use crate::io::peer::PeerRefusal;
use crate::io::proved::Proved;
use crate::io::secret::Keys;
use crate::io::ws::Dialler;
use crate::logic::session::Idle;
use crate::logic::version;
use crate::logic::wear::Wear;
use crate::model::config::Config;
use crate::model::image::Image;
use crate::model::limits::{IDLE_CLOSE_GONE, REST_MAX};
use crate::model::manifest::{Setup, SetupSpec};
use crate::model::time::Wall;
use skerry_abi::wire::frame::ToHost;

pub struct World {
    pub config: Config,
    pub port: Rc<Port>,
    pub board: Board,
    pub images: Images,
    pub pulls: super::pulls::Pulls,
    pub proved: Arc<Proved>,
    /// Absent: what modules log is in memory only.
    pub logs: Option<super::log_writer::LogWriter>,
    pub own_log: super::own_log::OwnLog,
    pub keys: Keys,
    /// The best guess at the time where the clock is behind.
    pub floor: Arc<TimeFloor>,
    /// The way to the cloud; absent without one.
    pub dialler: Option<Rc<Dialler>>,
    pub hosts: RefCell<Hosts>,
    /// Written by other threads.
    pub crashes: Arc<Mutex<CrashReports>>,
    pub senders: RefCell<super::senders::Senders>,
    pub wear: RefCell<Wear>,
    pub executor: Rc<Executor>,
    /// Bytes read from a link, before they are taken apart; what is left of a frame moves to the link's own buffer.
    pub scratch: RefCell<Vec<u8>>,
    pub started: crate::model::time::Mono,
    /// The same on the wall clock, once somebody has asked.
    pub begun: Cell<Option<Wall>>,
    /// Wakes who sees to identities: an instance came.
    pub came: smol::channel::Sender<()>,
    /// Asks the agent what it would do.
    pub previews: smol::channel::Sender<super::mailbox::Preview>,
    /// Wakes who reports for the agent: something is another than before.
    pub report: smol::channel::Sender<()>,
    /// To who sees to identities.
    pub errands: smol::channel::Sender<super::mailbox::Errand>,
    /// Wakes the agent: something ended, or a folder changed.
    pub replan: smol::channel::Sender<()>,
}

impl World {
    pub fn slot(&self, module: &str) -> Result<Rc<Slot>, Refusal> {
        let slots = self.board.slots.borrow();
        let found = slots.get(module).cloned();
        found.ok_or_else(|| Refusal::no_such_module(module, slots.keys().map(String::as_str)))
    }

    /// What a module of this device is called in the field's labels.
    pub fn named(&self, module: &str) -> String {
        format!("{}/{module}", self.config.device_id)
    }

    /// Everything is as the manifest in force asks for.
    pub fn deployed(&self) {
        if let Some(taken) = self.board.taken_at.take() {
            self.board.tally.time(Of::Deployment, &[], self.port.now().mono.since(taken));
        }
    }

    /// Somebody may not use the control socket. A module that tries stands in its own books.
    pub fn refuse_peer(&self, refused: &PeerRefusal) {
        let of = |slot: &&Rc<Slot>| refused.child.is_some() && slot.pid.get() == refused.child;
        let slot = self.board.slots.borrow().values().find(of).cloned();
        match slot {
            Some(slot) => slot.refuse_scope("the control socket"),
            None => log::warn!("control socket refused pid={} why=\"{}\"", refused.pid, refused.why),
        }
    }

    /// When the connection of an identity is given up for want of use. One that somebody listens on stays, unless it was configured
    /// otherwise: the cloud has desired properties and methods for it. That of a module that is gone has only what waits to be sent.
    pub fn idle_of(&self, module: &str) -> Option<Idle> {
        let (board, cloud) = (&self.board, &self.config.cloud);
        let is_heard = board.slots.borrow().contains_key(module) || cloud.modules.contains_key(module);
        if board.seats.borrow().contains_key(module) {
            None
        } else if is_heard {
            cloud.idle_close.map(|after| Idle { after, rest_max: Some(REST_MAX) })
        } else {
            let after = cloud.idle_close.unwrap_or(IDLE_CLOSE_GONE).min(IDLE_CLOSE_GONE);
            Some(Idle { after, rest_max: None })
        }
    }

    /// What the cloud says the time is, which is proved by its certificate. True when that was news.
    pub fn learn_time(&self, date: Wall) -> bool {
        if !self.floor.learn(date) || clock::wall() >= date {
            return false;
        }
        log::warn!("clock=behind cloud_says={} clock_says={}", date.to_rfc3339(), clock::wall().to_rfc3339());
        if let Err(error) = clock::keep_floor(&self.config.state_folder, date) {
            log::warn!("clock floor=not-kept reason=\"{error}\"");
        }
        true
    }

    /// Stores the twin, commits it at once, and tells the instance its desired properties.
    pub fn desired_changed(&self, module: &str) {
        let twins = self.board.twins.borrow();
        let Some(twin) = twins.get(module) else { return };
        let desired = serde_json::Value::Object(twin.desired().clone()).to_string();
        let bytes = twin.to_json().to_string().into_bytes();
        self.port.turn(|hub, now| hub.put_document(now, &format!("twin/{module}"), Some(bytes), true));
        if let Some(link) = self.board.slot(module).and_then(|s| s.link.get()) {
            self.port.send(link, &ToHost::Desired { version: twin.desired_version(), desired: &desired });
        }
        if let Some(seat) = self.board.seats.borrow().get(module) {
            seat.desired_changed();
        }
    }

    /// Stores the twin, which can wait, and has the cloud told.
    pub fn reported_changed(&self, module: &str) {
        let twins = self.board.twins.borrow();
        let Some(twin) = twins.get(module) else { return };
        let bytes = twin.to_json().to_string().into_bytes();
        self.port.turn(|hub, now| hub.put_document(now, &format!("twin/{module}"), Some(bytes), false));
        if let Some(uplink) = self.board.uplinks.borrow().get(module) {
            let _ = uplink.wake.try_send(());
        }
    }

    /// An instance ran long enough on it. Where it is allowed to go back, what proved itself last counts.
    pub fn image_proved(&self, image: &Image) {
        let before = self.proved.version(&image.name);
        let older = before.is_some_and(|before| version::is_newer(&before, &image.version));
        if older && !self.config.images.allow_rollback {
            return;
        }
        if !self.proved.set(&image.name, &image.version) {
            return;
        }
        let (proved, name, version) = (Arc::clone(&self.proved), image.name.clone(), image.version.clone());
        let noting = async move {
            if let Err(error) = smol::unblock(move || proved.write()).await {
                log::warn!("image={name} version={version} is not noted as one that ran well: {error}");
            }
        };
        self.executor.spawn(noting).detach();
    }

    /// How an instance runs: as its manifest says, and else as this device has it.
    pub fn setup(&self, name: &str, spec: &SetupSpec) -> Setup {
        let limits = self.config.modules.instances.get(name).map_or(&self.config.limits, |i| &i.limits);
        spec.complete(limits, self.config.restart.health_window)
    }

    /// How long this version of the instance must still run well to count as good; `None`: it does.
    pub fn window(&self, slot: &Slot) -> Option<Duration> {
        let open = self.board.proofs.borrow().get(&slot.name).is_none_or(|proof| proof.is_open(&slot.version()));
        open.then(|| slot.setup.borrow().health_window)
    }

    /// It is the good version from now on.
    pub fn ran_well(&self, slot: &Slot) {
        let news = {
            let mut proofs = self.board.proofs.borrow_mut();
            proofs.entry(slot.name.clone()).or_default().handle_well(&slot.version())
        };
        self.image_proved(&slot.image.borrow());
        if news {
            slot.log_version("proved");
            self.keep_proof(&slot.name);
            let _ = self.replan.try_send(());
        }
    }

    /// Stores what is known of an instance's versions at once; without any, removes it.
    pub fn keep_proof(&self, name: &str) {
        let proof = self.board.proofs.borrow().get(name).map(|proof| proof.to_json().to_string().into_bytes());
        let mut committed = self.port.when_committed();
        self.port.turn(|hub, now| hub.put_document(now, &format!("{PROOFS}{name}"), proof, true));
        let (port, unkept, replan) = (Rc::clone(&self.port), Rc::clone(&self.board.proofs_unkept), self.replan.clone());
        unkept.set(unkept.get() + 1);
        let kept = async move {
            // What could not be written is in the next commit.
            while let Ok(Err(_)) = committed.recv().await {
                committed = port.when_committed();
            }
            unkept.set(unkept.get() - 1);
            let _ = replan.try_send(());
        };
        self.executor.spawn(kept).detach();
    }
}

/// Documents of the store: what is known of an instance's versions.
pub const PROOFS: &str = "proof/";
