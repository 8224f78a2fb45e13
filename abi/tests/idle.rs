//! An instance that has nothing to do does nothing: neither of the pump's threads wakes up.
//! Alone in its process, because it counts the wake-ups of all of them.

mod subject;

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use skerry_abi::{Harness, Message, harness::DEADLINE};
use subject::{Subject, gate, stopped_at};

/// How long nothing may happen.
const QUIET: Duration = Duration::from_millis(500);

/// Of both threads; `None` when one has no name yet.
fn wakeups() -> Option<u64> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let count = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        matches!(name.trim(), "skerry-watch" | "harness-main").then(|| line.trim().parse::<u64>().ok())?
    };
    let counts: Vec<u64> = tasks.filter_map(count).collect();
    (counts.len() == 2).then(|| counts.iter().sum())
}

#[test]
fn an_idle_instance_sleeps() {
    // Used by the other tests of this subject.
    let _ = (gate, stopped_at);
    let mut harness = Harness::start::<Subject>(json!({}));
    for _ in 0..2 {
        harness.send("work", Message::from_json(&json!({"do": "pass"})).unwrap());
        harness.receive("out");
        harness.wait_done();
        let begin = Instant::now();
        loop {
            let before = wakeups();
            std::thread::sleep(QUIET);
            let after = wakeups();
            if before.is_some() && after == before {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "the pump's threads do not rest: {before:?} {after:?} in {QUIET:?}");
        }
    }
}
