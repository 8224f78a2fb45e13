//! Durations, sizes and points in time as people write them ("500ms", "64KiB", "2026-11-23T18:00:00Z"),
//! read and printed. Must never guess a unit: what is not in the lists below is an error that names them.

use std::time::Duration;

/// What an error says that it expected.
pub const DURATION_EXPECTED: &str =
    "a duration such as \"500ms\", \"30s\", \"10min\", \"2h\" or \"7d\" (a plain number is seconds)";
/// What an error says that it expected.
pub const BYTES_EXPECTED: &str =
    "a size such as \"64KiB\", \"8MiB\" or \"1GiB\" (also kB, MB, GB; a plain number is bytes)";

/// Milliseconds of one of each.
const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Bytes of one of each.
const BYTE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// "90s", "1h 30min", "90". `None` also for more than the clock can count.
pub fn duration(text: &str) -> Option<Duration> {
    amount(text, &DURATION_UNITS, 1_000).map(Duration::from_millis)
}

/// "64KiB", "65536". `None` also for more than 2^64.
pub fn bytes(text: &str) -> Option<u64> {
    amount(text, &BYTE_UNITS, 1)
}

/// The inverse of [`duration`], in at most two units.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis() as u64;
    let mut parts = Vec::new();
    for (unit, ms) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= ms && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / ms));
            rest %= ms;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// "812B", "4.5MiB": three digits are enough to judge by.
pub fn show_bytes(bytes: u64) -> String {
    let (unit, size) = match bytes {
        0..1024 => return format!("{bytes}B"),
        1024..0x10_0000 => ("KiB", 1u64 << 10),
        0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    let tenths = bytes.saturating_mul(10) / size;
    if tenths.is_multiple_of(10) || tenths >= 1_000 {
        format!("{}{unit}", tenths / 10)
    } else {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

/// Milliseconds since 1970 of "2026-11-23T18:00:00.250Z" or "…+01:00" (RFC 3339).
pub fn timestamp_ms(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut date = date.split('-');
    let (year, month, day) = (digits(date.next()?, 4)?, digits(date.next()?, 2)?, digits(date.next()?, 2)?);
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let mut time = time.split(':');
    let (hour, minute, second) = (digits(time.next()?, 2)?, digits(time.next()?, 2)?, digits(time.next()?, 2)?);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let ms = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        None => return None,
        Some(f) if f.is_empty() || !f.bytes().all(|b| b.is_ascii_digit()) => return None,
        Some(f) => format!("{f:0<3}").get(..3)?.parse().ok()?,
    };
    let offset_min = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, zone) => {
            let (h, m) = zone.split_once(':')?;
            let minutes = digits(h, 2)? * 60 + digits(m, 2)?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    valid.then(|| (days(year, month, day) * 1_440 + hour * 60 + minute - offset_min) * 60_000 + second * 1_000 + ms)
}

/// The inverse of [`timestamp_ms`], in UTC, to the millisecond.
pub fn show_timestamp(ms: i64) -> String {
    let (day, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Howard Hinnant's civil_from_days: years begin in March, so the leap day is the last.
    let z = day + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    let (s, ms) = (rest / 1_000, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3_600, s / 60 % 60, s % 60)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let good = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

/// Sums "NUMBER UNIT" pairs; a number alone is in `plain`.
fn amount(text: &str, units: &[(&str, u64)], plain: u64) -> Option<u64> {
    let mut rest = text.trim();
    if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        return rest.parse::<u64>().ok()?.checked_mul(plain);
    }
    let mut sum = 0u64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit())?;
        let (count, after) = rest.split_at(number);
        let after = after.trim_start();
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let size = units.iter().find(|(name, _)| *name == unit)?.1;
        sum = sum.checked_add(count.parse::<u64>().ok()?.checked_mul(size)?)?;
        rest = after.trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1h 30min", 5_400_000),
            ("1h30m", 5_400_000),
            ("7", 7_000),
            ("0s", 0),
            ("3 s", 3_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", " ", "s", "-1s", "1.5h", "2 hours", "5x", "99999999999999999999s", "s5"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(93_784_005)), "1d 2h");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes() {
        for (text, expected) in [("64KiB", 65_536), ("1GiB", 1 << 30), ("5kB", 5_000), ("17", 17), ("3B", 3)] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "64K", "1kib", "KiB", "99999999999GiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        let shown: Vec<_> = [812, 4_718_592, 1 << 30, 134_217_728].map(show_bytes).to_vec();
        assert_eq!(shown, ["812B", "4.5MiB", "1GiB", "128MiB"]);
    }

    #[test]
    fn timestamps() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-23T18:00:00Z", 1_795_456_800_000),
            ("2026-11-23T19:00:00.25+01:00", 1_795_456_800_250),
            ("2024-02-29 23:59:59.999999Z", 1_709_251_199_999),
        ] {
            assert_eq!(timestamp_ms(text), Some(ms), "{text}");
            assert_eq!(timestamp_ms(&show_timestamp(ms)), Some(ms), "{text}");
        }
        for text in
            ["", "2026-11-23", "2026-13-01T00:00:00Z", "2026-11-23T18:00:00", "2026-11-23T18:00:00.Z", "äääääääääää"]
        {
            assert_eq!(timestamp_ms(text), None, "{text}");
        }
        assert_eq!(show_timestamp(1_795_456_800_250), "2026-11-23T18:00:00.250Z");
    }
}
