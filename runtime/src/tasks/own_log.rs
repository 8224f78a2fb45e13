//! The last lines of the runtime's own log, for who can't see its standard error: `skerry logs edgeAgent`, the cloud, a support bundle.
//! Must never log anything itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use smol::channel::Sender;

use super::board::line_json;
use crate::logic::log_ring::{LogLine, LogRing};

/// What the field calls the module whose log this is.
pub const NAME: &str = "edgeAgent";
/// As much as is kept of an instance.
const BYTES_MAX: usize = 64 * 1024;

/// Clones are the same. Lines come from any thread.
#[derive(Clone)]
pub struct OwnLog(Arc<Mutex<Kept>>);

struct Kept {
    ring: LogRing,
    followers: Vec<Sender<Value>>,
}

impl Default for OwnLog {
    fn default() -> OwnLog {
        OwnLog(Arc::new(Mutex::new(Kept { ring: LogRing::new(BYTES_MAX), followers: Vec::new() })))
    }
}

impl OwnLog {
    pub fn push(&self, line: LogLine) {
        let mut kept = self.kept();
        if !kept.followers.is_empty() {
            let value = line_json(&line);
            // Who reads too slowly misses lines.
            kept.followers.retain(|f| !matches!(f.try_send(value.clone()), Err(error) if error.is_closed()));
        }
        kept.ring.push(line);
    }

    /// What there is, and with a follower what comes: nothing is missed between.
    pub fn lines(&self, follower: Option<Sender<Value>>) -> Vec<LogLine> {
        let mut kept = self.kept();
        kept.followers.extend(follower);
        kept.ring.lines()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also as the identity is called.
pub fn is_own(module: &str) -> bool {
    module.strip_prefix('$').unwrap_or(module) == NAME
}
