//! Ctrl-C and its like, as something to ask for. Must never end the process itself: whoever asks has others to end first.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static CAUGHT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// What an interrupted command returns as its error.
pub const INTERRUPTED: &str = "interrupted";

/// From here on signals are remembered instead of ending this process. A second one ends it at once.
pub fn catch() -> Result<(), String> {
    let caught = CAUGHT.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(caught));
        let flag = armed.and_then(|_| signal_hook::flag::register(signal, Arc::clone(caught)));
        flag.map_err(|e| format!("can't catch signals: {e}"))?;
    }
    Ok(())
}

pub fn check() -> Result<(), String> {
    match CAUGHT.get() {
        Some(caught) if caught.load(Ordering::Relaxed) => Err(INTERRUPTED.to_owned()),
        _ => Ok(()),
    }
}
