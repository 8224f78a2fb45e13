//! The runtime's own log: one line an event on standard error, for journald, logread or a terminal; the last ones are kept as well.
//! Must never fail: a log that can't be written is no reason to end.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::io::clock;
use crate::logic::log_ring::LogLine;
use crate::tasks::own_log::OwnLog;

struct Logger(OwnLog);

/// Where the last lines are. Twice is harmless: then they are with the first.
pub fn install(level: LevelFilter) -> OwnLog {
    let kept = OwnLog::default();
    if log::set_boxed_logger(Box::new(Logger(kept.clone()))).is_ok() {
        log::set_max_level(level);
    }
    kept
}

impl Log for Logger {
    /// Of libraries only what is wrong.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("skerry") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (at, level, text) = (clock::wall(), record.level(), record.args().to_string());
            // A closed standard error must not end the runtime.
            let _ = writeln!(std::io::stderr(), "{} {:<5} {text}", at.to_rfc3339(), level.as_str());
            self.0.push(LogLine { at, level: level as u8, stream: record.target().to_owned(), text });
        }
    }

    fn flush(&self) {}
}
