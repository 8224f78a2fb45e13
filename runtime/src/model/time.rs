//! The three clocks, as types: nobody may compare a retry with a time to live by mistake.
//! Only values; nobody here asks what time it is.

use std::time::Duration;

/// Milliseconds on the boot-time clock of this run. For retries and time-outs; means nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since 1970, as the device believes. May jump either way: for display and for what the outside says,
/// never for deciding whether a message is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// Milliseconds that this store has lived, continued over restarts and never going back. Expiry is measured on it,
/// so a wall clock that jumps neither expires everything nor revives the dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(pub u64);

/// One reading of all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
    pub age: Age,
}

impl Mono {
    /// Later than anything that happens.
    pub const NEVER: Mono = Mono(u64::MAX);

    pub fn after(self, time: Duration) -> Mono {
        Mono(self.0.saturating_add(millis(time)))
    }

    pub fn plus(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Age {
    /// The expiry of what never expires.
    pub const NEVER: Age = Age(u64::MAX);

    pub fn after(self, time: Duration) -> Age {
        Age(self.0.saturating_add(millis(time)))
    }
}

impl Wall {
    /// RFC 3339 with milliseconds, UTC. Clamped to the years 0001 to 9999.
    pub fn to_rfc3339(self) -> String {
        const FIRST: i64 = -62_135_596_800_000;
        const LAST: i64 = 253_402_300_799_999;
        let ms = self.0.clamp(FIRST, LAST);
        let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let (h, m, s, f) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1_000 % 60, in_day % 1_000);
        format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{f:03}Z")
    }
}

/// Days since 1970 to year, month, day in the proleptic Gregorian calendar: years are counted from March,
/// so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Wall(ms).to_rfc3339(), text);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Age(5).after(Duration::MAX), Age::NEVER);
        assert_eq!(Mono(5).since(Mono(9)), 0);
    }
}
