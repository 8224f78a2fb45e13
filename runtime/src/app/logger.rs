//! The runtime's own log: one line an event on standard error, for journald, logread or a terminal.
//! Must never fail: a log that can't be written is no reason to end.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::io::clock;

struct Logger;

/// Twice is harmless.
pub fn install(level: LevelFilter) {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    /// Of libraries only what is wrong.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("skerry") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str();
            // A closed standard error must not end the runtime.
            let _ = writeln!(std::io::stderr(), "{} {level:<5} {}", clock::wall().to_rfc3339(), record.args());
        }
    }

    fn flush(&self) {}
}
