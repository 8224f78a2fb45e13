//! The clocks of this device. The one place that asks what time it is; `logic` is told.
//! Must never let a wall clock that jumps make a message older or younger.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::store::LastClock;
use crate::model::time::{Age, Mono, Now, Wall};

/// Continues the age of the store from its last commit. Time while the device was off counts only once the wall clock
/// is believable, that is, not before the floor: a device without a battery boots in 1970.
pub struct Clock {
    age_at_start: Cell<Age>,
    mono_at_start: Mono,
    floor: Wall,
    /// The wall time of the last commit, until the time off was counted.
    off_since: Cell<Option<Wall>>,
}

impl Clock {
    pub fn start(last: &LastClock, floor: Wall) -> Clock {
        Clock::resume(last, floor, &boot_id(), mono())
    }

    /// The same in the boot of that name, at that time.
    pub fn resume(last: &LastClock, floor: Wall, boot_id: &str, mono: Mono) -> Clock {
        let same_boot = last.boot_id == boot_id && mono >= last.mono;
        let age = if same_boot { last.age.0.saturating_add(mono.since(last.mono)) } else { last.age.0 };
        let known = !last.boot_id.is_empty();
        Clock {
            age_at_start: Cell::new(Age(age)),
            mono_at_start: mono,
            floor: floor.max(last.wall),
            off_since: Cell::new((known && !same_boot).then_some(last.wall)),
        }
    }

    pub fn now(&self) -> Now {
        self.at(mono(), wall())
    }

    /// What these two readings mean.
    pub fn at(&self, mono: Mono, wall: Wall) -> Now {
        let ran = mono.since(self.mono_at_start);
        if let Some(since) = self.off_since.get()
            && wall >= self.floor
        {
            self.off_since.set(None);
            let off = u64::try_from(wall.0 - since.0).unwrap_or(0).saturating_sub(ran);
            self.age_at_start.set(Age(self.age_at_start.get().0.saturating_add(off)));
        }
        Now { mono, wall, age: Age(self.age_at_start.get().0.saturating_add(ran)) }
    }

    /// The wall clock is behind what has certainly passed.
    pub fn is_behind(&self) -> bool {
        wall() < self.floor
    }
}

/// The latest time that is certain, running on from when it was learned: no build, no file of the state folder and no
/// word of the cloud is from the future. Certificates and tokens are judged by it where the clock is behind.
#[derive(Debug)]
pub struct TimeFloor {
    /// What the certain time was when the device booted, ms since 1970.
    at_boot: AtomicI64,
}

impl TimeFloor {
    pub fn new(known: Wall) -> TimeFloor {
        TimeFloor::known_at(mono(), known)
    }

    /// The same at that reading of the boot-time clock.
    pub fn known_at(mono: Mono, known: Wall) -> TimeFloor {
        TimeFloor { at_boot: AtomicI64::new(known.0.saturating_sub(mono.0 as i64)) }
    }

    /// The best guess at the time: the clock, unless it is certainly behind.
    pub fn now(&self) -> Wall {
        self.at(mono(), wall())
    }

    /// What these two readings mean.
    pub fn at(&self, mono: Mono, wall: Wall) -> Wall {
        wall.max(self.certain(mono))
    }

    pub fn is_ahead(&self) -> bool {
        self.certain(mono()) > wall()
    }

    /// It is at least this late. True when that is news, and the clock does not say so itself.
    pub fn learn(&self, at_least: Wall) -> bool {
        self.learn_at(mono(), wall(), at_least)
    }

    /// The same at these two readings.
    pub fn learn_at(&self, mono: Mono, wall: Wall, at_least: Wall) -> bool {
        let news = at_least > self.at(mono, wall);
        self.at_boot.fetch_max(at_least.0.saturating_sub(mono.0 as i64), Ordering::Relaxed);
        news
    }

    fn certain(&self, mono: Mono) -> Wall {
        Wall(self.at_boot.load(Ordering::Relaxed).saturating_add(mono.0 as i64))
    }
}

/// Keeps what was learned over a restart, as the time of a file.
pub fn keep_floor(state: &Path, floor: Wall) -> std::io::Result<()> {
    let time = UNIX_EPOCH + Duration::from_millis(floor.0.max(0) as u64);
    let file = fs::OpenOptions::new().create(true).append(true).open(state.join("time-floor"))?;
    file.set_modified(time)
}

/// What is known when the runtime starts: when it was built, and the newest file of the state folder.
pub fn floor(state: &Path) -> Wall {
    let newest = fs::read_dir(state).into_iter().flatten().flatten().filter_map(|entry| {
        let modified = entry.metadata().ok()?.modified().ok()?;
        modified.duration_since(UNIX_EPOCH).ok()
    });
    let newest = newest.max().map_or(0, |time| time.as_millis() as i64);
    let built = env!("SKERRY_BUILT").parse::<i64>().unwrap_or(0).saturating_mul(1_000);
    Wall(newest.max(built))
}

/// The `Date` of an HTTP answer.
pub fn http_date(text: &[u8]) -> Option<Wall> {
    let date = httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()?;
    Some(Wall(date.duration_since(UNIX_EPOCH).ok()?.as_millis() as i64))
}

/// A text that differs between boots; empty where the kernel does not tell.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|t| t.trim().to_owned()).unwrap_or_default()
}

/// Time since boot, sleep included.
pub fn mono() -> Mono {
    let time = clock_gettime(ClockId::Boottime);
    Mono(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}

pub fn wall() -> Wall {
    // The standard library's: it asks libc, so that a test can put another clock in its place.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Wall(since.map_or_else(|before| -(before.duration().as_millis() as i64), |since| since.as_millis() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(age: u64, wall: i64, boot: &str) -> LastClock {
        LastClock { age: Age(age), mono: Mono(0), wall: Wall(wall), boot_id: boot.into() }
    }

    #[test]
    fn age_goes_on_in_the_same_boot_whatever_the_wall_clock_says() {
        let clock = Clock::start(&last(500, i64::MAX, &boot_id()), Wall(0));
        assert!(clock.now().age.0 >= 500 + clock.now().mono.0.saturating_sub(1000));
    }

    #[test]
    fn time_off_counts_once_the_wall_clock_is_believable() {
        let hour_ago = wall().0 - 3_600_000;
        let clock = Clock::start(&last(500, hour_ago, "another"), Wall(0));
        assert!((3_600_500..3_610_000).contains(&clock.now().age.0), "{:?}", clock.now());
        let ahead = Clock::start(&last(500, wall().0 + 3_600_000, "another"), Wall(0));
        assert!(ahead.now().age.0 < 10_000);
        assert!(ahead.is_behind());
    }
}
