//! What every task of the runtime is handed: made once, in the wiring.
//! Must never hold what only one task needs.

use std::cell::RefCell;
use std::rc::Rc;

use smol::LocalExecutor;

use super::board::Board;
use super::port::Port;
use crate::io::crash_report::CrashReports;
use crate::io::images::Images;
use crate::io::process::HostBinary;
use crate::io::secret::Keys;
use crate::model::config::{Config, Limits};

pub struct World {
    pub config: Config,
    pub port: Rc<Port>,
    pub board: Board,
    pub images: Images,
    pub keys: Keys,
    pub host: HostBinary,
    pub crashes: RefCell<CrashReports>,
    pub senders: RefCell<super::senders::Senders>,
    /// (day, bytes this process had written when it began), for "written today".
    pub day: std::cell::Cell<(i64, u64)>,
    pub executor: Rc<LocalExecutor<'static>>,
    /// Bytes read from a link, before they are taken apart; what is left of a frame moves to the link's own buffer.
    pub scratch: RefCell<Vec<u8>>,
    pub started: crate::model::time::Mono,
    /// Wakes the agent: something ended, or a folder changed.
    pub replan: smol::channel::Sender<()>,
}

impl World {
    /// The limits of an instance: its own, or those of all.
    pub fn limits(&self, name: &str) -> &Limits {
        self.config.modules.instances.get(name).map_or(&self.config.limits, |i| &i.limits)
    }
}
