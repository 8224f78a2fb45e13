//! The kit of the tests: a device of one's own with the real program, images made to order, and waiting for what can be
//! observed. Must never leave a process or a folder behind, and never sleep for a guess.

mod backend;
mod built;
mod cloud;
mod device;
mod http;
mod image;
mod manifest;
mod random;
mod registry;
mod sender;
mod stream;

pub use backend::Backend;
pub use built::program;
pub use cloud::{
    TESTER_ONLINE, TESTER_TO_CLOUD, all_there, cloud, stored, tell, to_cloud, wait_connected, wait_stored,
};
pub use device::{Device, Instance, Ran, is_alive, numbered};
pub use http::{request, text};
pub use image::{Image, c_program};
pub use manifest::{manifest, module};
pub use random::Random;
pub use registry::Registry;
pub use sender::Sender;
pub use stream::{Lines, Tap};

use std::time::{Duration, Instant};

/// For everything that is waited for: far more than it takes, far less than anybody waits for a broken test.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at what can't tell by itself that it changed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something to return. Panics at the deadline, with what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    let Some(found) = wait_within(DEADLINE, look) else { panic!("not within {DEADLINE:?}: {what}") };
    found
}

/// The same with a deadline of its own; `None` when it has passed.
pub fn wait_within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How often a test repeats itself: `full` times, or `quick` times where SKERRY_QUICK is set.
pub fn rounds(full: u32, quick: u32) -> u32 {
    if std::env::var_os("SKERRY_QUICK").is_some() { quick } else { full }
}
