//! What every task of the runtime is handed: made once, in the wiring.
//! Must never hold what only one task needs.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use smol::LocalExecutor;

use super::board::{Board, Slot};
use super::mailbox::Refusal;
use super::port::Port;
use crate::io::clock::TimeFloor;
use crate::io::crash_report::CrashReports;
use crate::io::images::Images;
use crate::io::process::HostBinary;
use crate::io::secret::Keys;
use crate::logic::wear::Wear;
use crate::model::config::{Config, Limits};
use skerry_abi::wire::frame::ToHost;

pub struct World {
    pub config: Config,
    pub port: Rc<Port>,
    pub board: Board,
    pub images: Images,
    pub keys: Keys,
    /// The best guess at the time where the clock is behind.
    pub floor: Arc<TimeFloor>,
    pub host: HostBinary,
    pub crashes: RefCell<CrashReports>,
    pub senders: RefCell<super::senders::Senders>,
    pub wear: RefCell<Wear>,
    pub executor: Rc<LocalExecutor<'static>>,
    /// Bytes read from a link, before they are taken apart; what is left of a frame moves to the link's own buffer.
    pub scratch: RefCell<Vec<u8>>,
    pub started: crate::model::time::Mono,
    /// Wakes the agent: something ended, or a folder changed.
    pub replan: smol::channel::Sender<()>,
}

impl World {
    pub fn slot(&self, module: &str) -> Result<Rc<Slot>, Refusal> {
        let slots = self.board.slots.borrow();
        let found = slots.get(module).cloned();
        found.ok_or_else(|| Refusal::no_such_module(module, slots.keys().map(String::as_str)))
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
    }

    /// The limits of an instance: its own, or those of all.
    pub fn limits(&self, name: &str) -> &Limits {
        self.config.modules.instances.get(name).map_or(&self.config.limits, |i| &i.limits)
    }
}
