//! After a panic the program begins again in its place: the same process, arguments and descriptors 0 to 2, everything else anew, as after
//! a kill. What modules were told is safe is on the disk; their processes end with their links. Must never go on with what
//! panicked, nor begin again for ever.

use std::os::unix::process::CommandExt;
use std::panic::PanicHookInfo;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clock;
use super::store::{self, Suspicion};
use crate::model::time::Mono;

/// Beginnings within `WITHIN_MS`; a program that fails more often is left to whoever started it.
const TIMES_MAX: usize = 3;
const WITHIN_MS: u64 = 60_000;
/// When it began again before, and why the last time. For itself alone: no module inherits its environment.
const TIMES: &str = "SKERRY_BEGUN_AGAIN";
const REASON: &str = "SKERRY_BEGUN_AGAIN_BECAUSE";
/// Bytes of the reason that are kept.
const REASON_BYTES: usize = 500;
/// As of any Rust program that panics.
const EXIT_CODE: i32 = 101;

/// From now on. What panics before that ends the program.
pub fn on_panic() {
    std::panic::set_hook(Box::new(panicked));
}

/// A sentence for the operator, if this is not the first beginning.
pub fn report() -> Option<String> {
    let times = Times::of(&std::env::var(TIMES).ok()?);
    let reason = std::env::var(REASON).ok()?;
    let count = times.0.len();
    let times = if count > 1 { format!(" ({count} times within a minute)") } else { String::new() };
    Some(format!("skerry failed and began again by itself{times}: {reason}; nothing acknowledged was lost"))
}

/// The thread never comes back from here, so nobody sees what it left half done.
fn panicked(panic: &PanicHookInfo<'_>) {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.swap(true, Ordering::AcqRel) {
        // Another thread panicked first, and all of them end.
        loop {
            std::thread::park();
        }
    }
    let reason = reason(panic);
    let thread = std::thread::current();
    log::error!("skerry status=failed thread={} reason={reason:?}", thread.name().unwrap_or("unnamed"));
    let suspicion = store::suspect(&reason);
    let mut times = Times::of(&std::env::var(TIMES).unwrap_or_default());
    // Each beginning brings the salvage further, so that it comes to an end.
    if suspicion != Suspicion::Copying && !times.add(clock::mono()) {
        log::error!(
            "skerry status=ended reason=\"it failed {} times within a minute\" exit={EXIT_CODE}",
            TIMES_MAX + 1
        );
        std::process::exit(EXIT_CODE);
    }
    log::warn!("skerry status=beginning-again store={suspicion:?}");
    let error = begin_again(&times, &reason);
    log::error!("skerry status=ended reason=\"it can't begin again: {error}\" exit={EXIT_CODE}");
    std::process::exit(EXIT_CODE);
}

/// Only returns if that failed. Descriptors are closed by the kernel, locks with them; other threads end.
fn begin_again(times: &Times, reason: &str) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "skerry".into());
    // The file that runs, also when an upgrade has replaced it meanwhile: hosts and state are this version's.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).env(TIMES, times.to_text()).env(REASON, reason);
    command.exec()
}

/// `hub/entry.rs:12: what it said`, one line.
fn reason(panic: &PanicHookInfo<'_>) -> String {
    let text = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map_or(String::new(), |at| format!("{}:{}: ", short(at.file()), at.line()));
    let mut line: String = format!("{place}{text}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(REASON_BYTES));
    line
}

/// Of a crate from the registry: from its name and version on.
fn short(file: &str) -> &str {
    file.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')).map_or(file, |(_, rest)| rest)
}

/// Beginnings of the last while, by the boot clock.
#[derive(Debug, PartialEq, Eq)]
struct Times(Vec<Mono>);

impl Times {
    fn of(text: &str) -> Times {
        Times(text.split(',').filter_map(|time| time.parse().ok()).map(Mono).take(TIMES_MAX).collect())
    }

    fn to_text(&self) -> String {
        self.0.iter().map(|time| time.0.to_string()).collect::<Vec<_>>().join(",")
    }

    /// False: that was too often.
    fn add(&mut self, now: Mono) -> bool {
        self.0.retain(|time| now.since(*time) < WITHIN_MS);
        if self.0.len() == TIMES_MAX {
            return false;
        }
        self.0.push(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_times_in_a_minute_and_not_once_more() {
        let mut times = Times::of("");
        for second in [0, 1, 2] {
            assert!(times.add(Mono(second * 1_000)));
            times = Times::of(&times.to_text());
        }
        assert!(!times.add(Mono(3_000)) && !times.add(Mono(59_999)));
        assert!(times.add(Mono(60_000)), "the first is a minute old");
        assert!(!times.add(Mono(60_500)));
        assert_eq!(times.to_text(), "1000,2000,60000");
        assert_eq!(Times::of("x,,-1,7").0, [Mono(7)]);
    }

    #[test]
    fn a_place_names_the_crate_and_not_the_machine() {
        assert_eq!(short("/cargo/registry/src/index-1/redb-4.6.0/src/db.rs"), "redb-4.6.0/src/db.rs");
        assert_eq!(short("runtime/src/lib.rs"), "runtime/src/lib.rs");
    }
}
