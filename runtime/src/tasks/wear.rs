//! Marks once in a while how much was written and received, for the rates that `status` shows.
//! Must never wake the device for more than that: six times an hour.

use std::rc::Rc;
use std::time::Duration;

use super::world::World;
use crate::logic::wear::{MARK_EVERY_MS, Sums};

/// What `status` says of both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes since midnight (UTC), or since the start.
    pub today: Option<u64>,
    pub per_day: Option<u64>,
    pub received_per_hour: Option<u64>,
}

/// For as long as the runtime runs.
pub async fn run(world: Rc<World>) {
    loop {
        smol::Timer::after(Duration::from_millis(MARK_EVERY_MS)).await;
        look(&world);
    }
}

pub fn look(world: &World) -> Written {
    let now = world.port.now();
    let written = written_bytes();
    let sums = Sums { written: written.unwrap_or(0), received: world.port.look(|hub| hub.received_bytes()) };
    let mut wear = world.wear.borrow_mut();
    wear.mark(now.mono, now.wall, sums);
    Written {
        today: written.map(|_| wear.written_today(sums)),
        per_day: written.and_then(|_| wear.written_per_day(now.mono, sums)),
        received_per_hour: wear.received_per_hour(now.mono, sums),
    }
}

/// Bytes that this process has had written to disk; `None` where the kernel does not count them.
pub fn written_bytes() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}
