//! Which JSON strings the field's JSON library turns into a date, so that a condition sees them as undefined.
//! Follows that library's reader step by step, with its odd corners (nine digits of a second pass, eight do not).
//! Must never be made more lenient or stricter to look tidier: the decision is visible to users.

/// Whether the string becomes a date.
pub(super) fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'/') => bytes.len() >= 9 && microsoft(text),
        // The library counts UTF-16 units, but a text with a character beyond ASCII is no date in either count.
        Some(b'0'..=b'9') => (19..=40).contains(&bytes.len()) && bytes[10] == b'T' && iso(bytes),
        _ => false,
    }
}

/// `/Date(1700000000000)/`, with an optional offset `+hhmm`.
fn microsoft(text: &str) -> bool {
    let Some(inside) = text.strip_prefix("/Date(").and_then(|t| t.strip_suffix(")/")) else { return false };
    let Some(first) = inside.chars().next() else { return false };
    let sign = inside[first.len_utf8()..].find(['+', '-']).map(|at| at + first.len_utf8());
    let (ticks, offset) = match sign {
        Some(at) => inside.split_at(at),
        None => (inside, ""),
    };
    let offset = offset.get(1..).unwrap_or("");
    let offset_fits = offset.is_empty() && sign.is_none()
        || matches!(offset.len(), 2 | 4) && offset.bytes().all(|b| b.is_ascii_digit());
    let digits = ticks.strip_prefix('-').unwrap_or(ticks);
    offset_fits && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && ticks.parse::<i64>().is_ok()
}

fn iso(text: &[u8]) -> bool {
    date(text) && time(text).is_some_and(|at| zone(text, at))
}

fn two(text: &[u8], at: usize) -> Option<u32> {
    let (a, b) = (*text.get(at)?, *text.get(at + 1)?);
    (a.is_ascii_digit() && b.is_ascii_digit()).then(|| u32::from(a - b'0') * 10 + u32::from(b - b'0'))
}

fn is(text: &[u8], at: usize, byte: u8) -> bool {
    text.get(at) == Some(&byte)
}

fn date(text: &[u8]) -> bool {
    let (Some(century), Some(years), Some(month), Some(day)) = (two(text, 0), two(text, 2), two(text, 5), two(text, 8))
    else {
        return false;
    };
    let year = century * 100 + years;
    is(text, 4, b'-') && is(text, 7, b'-') && year >= 1 && (1..=12).contains(&month) && {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        (1..=days[month as usize - 1]).contains(&day)
    }
}

/// Where the zone begins.
fn time(text: &[u8]) -> Option<usize> {
    let (hour, minute, second) = (two(text, 11)?, two(text, 14)?, two(text, 17)?);
    let fits = is(text, 13, b':')
        && is(text, 16, b':')
        && hour <= 24
        && minute < 60
        && second < 60
        && (hour != 24 || minute == 0 && second == 0);
    if !fits {
        return None;
    }
    let mut at = 19;
    if is(text, at, b'.') {
        let (mut digits, mut zero) = (0, true);
        at += 1;
        while digits < 7 && text.get(at).is_some_and(u8::is_ascii_digit) {
            zero &= text[at] == b'0';
            digits += 1;
            at += 1;
        }
        if digits == 0 || (hour == 24 && !zero) {
            return None;
        }
    }
    Some(at)
}

fn zone(text: &[u8], mut at: usize) -> bool {
    if at < text.len() {
        let c = text[at];
        if c == b'Z' || c == b'z' {
            at += 1;
        } else {
            if at + 2 < text.len() && two(text, at + 1).is_some() && (c == b'-' || c == b'+') {
                at += 3;
            }
            if at < text.len() {
                if is(text, at, b':') {
                    at += 1;
                }
                if at + 1 < text.len() && two(text, at).is_some() {
                    at += 2;
                }
            }
        }
    }
    at == text.len()
}

#[cfg(test)]
mod tests {
    use super::looks_like_date;

    #[test]
    fn dates_and_near_misses() {
        for yes in [
            "2020-01-02T03:04:05Z",
            "2020-01-02T03:04:05",
            "2020-01-02T03:04:05z",
            "2017-03-09T00:00:00.000Z",
            "2020-02-29T24:00:00",
            "2020-01-02T03:04:05+01:00",
            "2020-01-02T03:04:05-0130",
            "2020-01-02T03:04:05+01",
            "2020-01-02T03:04:05.1234567+01:00",
            "2020-01-02T03:04:05.123456789",
            "0001-01-01T00:00:00Z",
            "/Date(1700000000000)/",
            "/Date(-1)/",
            "/Date(1700000000000+0100)/",
        ] {
            assert!(looks_like_date(yes), "{yes}");
        }
        for no in [
            "",
            "2020-01-02",
            "2020-01-02 03:04:05",
            "2020-01-02t03:04:05Z",
            "2020-1-02T03:04:05Z",
            "2020-13-02T03:04:05Z",
            "2021-02-29T03:04:05Z",
            "2020-01-02T25:04:05Z",
            "2020-01-02T24:00:01Z",
            "2020-01-02T03:60:05Z",
            "2020-01-02T03:04:05.Z",
            "2020-01-02T03:04:05.12345678",
            "2020-01-02T03:04:05Zx",
            "2020-01-02T03:04",
            "0000-01-01T00:00:00Z",
            "/Date()/",
            "/Date(x)/",
            "/date(5)/",
            "Thu, 02 Jan 2020 03:04:05 GMT",
        ] {
            assert!(!looks_like_date(no), "{no}");
        }
    }
}
