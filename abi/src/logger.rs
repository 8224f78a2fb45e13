//! Takes what the module says through the `log` macros to the runtime. Every image has its own copy of
//! `log`, so this is the module's logger and nobody else's. Must never log itself.

use std::sync::{Mutex, PoisonError};

use abi_stable::std_types::RStr;
use log::{LevelFilter, Log, Metadata, Record};

use crate::context::Context;

/// Longest text of one line, bytes; what is longer is cut.
const LINE_BYTES_MAX: usize = 16 * 1024;

static LOGGER: Logger = Logger { last: Mutex::new(None) };

struct Logger {
    /// For threads that the SDK did not start. There is one instance in a process, but for tests.
    last: Mutex<Option<Context>>,
}

pub(crate) fn install(cx: &Context) {
    *LOGGER.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.clone());
    let level = match cx.host().log_level() {
        0 => LevelFilter::Off,
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    // A test may have set a logger of its own; then that one gets the lines.
    if log::set_logger(&LOGGER).is_ok() || log::max_level() < level {
        log::set_max_level(level);
    }
}

/// Lets go of an instance that has ended, in a process that goes on: a test.
pub(crate) fn forget(cx: &Context) {
    let mut last = LOGGER.last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.as_ref().is_some_and(|last| last.is(cx)) {
        *last = None;
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(cx) = Context::current().or_else(last) else { return };
        let mut text = record.args().to_string();
        if text.len() > LINE_BYTES_MAX {
            text.truncate(text.floor_char_boundary(LINE_BYTES_MAX));
            text.push('…');
        }
        cx.host().log(record.level() as u8, RStr::from_str(record.target()), RStr::from_str(&text));
    }

    fn flush(&self) {}
}
