//! The time as the cloud writes it. Must never fail on a time that it can't write: it writes the first one then.

use std::time::SystemTime;

use time::OffsetDateTime;

/// What the cloud writes for "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";
/// 100 ns pieces from the year 1 to 1970, for the numbers that generations have.
const TICKS_TO_1970: u64 = 621_355_968_000_000_000;

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-12-01T08:30:00.0150000Z`; `NEVER` for 0.
pub fn iso(ms: u64) -> String {
    if ms == 0 {
        return NEVER.to_owned();
    }
    let (date, (h, m, s)) = parts(ms);
    format!("{}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{:03}0000Z", date.0, date.1, date.2, ms % 1000)
}

/// `12/01/2026 08:30:00`, as in what clients are told about errors.
pub fn american(ms: u64) -> String {
    let ((year, month, day), (h, m, s)) = parts(ms);
    format!("{month:02}/{day:02}/{year} {h:02}:{m:02}:{s:02}")
}

pub fn ticks(ms: u64) -> u64 {
    TICKS_TO_1970.saturating_add(ms.saturating_mul(10_000))
}

fn parts(ms: u64) -> ((i32, u8, u8), (u8, u8, u8)) {
    let seconds = i64::try_from(ms / 1000).unwrap_or(0);
    let then = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    ((then.year(), u8::from(then.month()), then.day()), (then.hour(), then.minute(), then.second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_cloud_does() {
        assert_eq!(iso(1_535_132_973_201), "2018-08-24T17:49:33.2010000Z");
        assert_eq!(american(1_535_132_973_201), "08/24/2018 17:49:33");
        assert_eq!(iso(0), NEVER);
        assert_eq!(iso(u64::MAX), "1970-01-01T00:00:00.6150000Z");
        assert_eq!(ticks(1), 621_355_968_000_010_000);
    }
}
