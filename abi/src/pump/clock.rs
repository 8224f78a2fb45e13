//! The clocks of a host. The only file of the pump that asks for the time of day or since boot.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_BOOTTIME`: goes on while the device sleeps, and is the same for every process.
pub(super) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64) * 1_000 + (now.tv_nsec as u64) / 1_000_000
}

/// Milliseconds since 1970, by a clock that may jump: for lines that a person reads.
pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
