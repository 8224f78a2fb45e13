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

fn wakeups() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let count = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        matches!(name.trim(), "skerry-watch" | "harness-main").then(|| line.trim().parse::<u64>().ok())?
    };
    tasks.filter_map(count).sum()
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
            assert!(before > 0);
            std::thread::sleep(QUIET);
            if wakeups() == before {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "the pump's threads wake up {} times in {QUIET:?}", wakeups() - before);
        }
    }
}
