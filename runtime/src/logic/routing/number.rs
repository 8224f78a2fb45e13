//! Text to number as .NET's `double.TryParse` does it with `NumberStyles.Any` and the invariant culture.
//! Must never accept what that refuses (hex, empty, a blank between sign and digits), nor round differently.

/// `None` when the text is no number; may be an infinity, and NaN for the word `NaN`.
pub(super) fn parse(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    if plain(bytes) {
        return text.parse().ok();
    }
    scan(text).or_else(|| special(text))
}

/// A hexadecimal literal with its `0x`: 64 bits, two's complement.
pub(super) fn hex(text: &str) -> Option<f64> {
    let digits = text[2..].trim_start_matches('0');
    if digits.is_empty() {
        return Some(0.0);
    }
    u64::from_str_radix(digits, 16).ok().map(|bits| bits as i64 as f64)
}

/// Digits with at most a leading minus and one point: by far the most common.
fn plain(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut points = 0;
    !digits.is_empty()
        && digits.iter().all(|b| {
            b.is_ascii_digit()
                || (*b == b'.' && {
                    points += 1;
                    points == 1
                })
        })
        && digits.len() > points
}

fn white(b: u8) -> bool {
    b == b' ' || (0x09..=0x0D).contains(&b)
}

const CURRENCY: &[u8] = "¤".as_bytes();

/// The states of the field's scanner, by name: which of its marks have been seen.
#[derive(Default)]
struct Scan {
    sign: bool,
    negative: bool,
    bracket: bool,
    currency: bool,
}

fn scan(text: &str) -> Option<f64> {
    // .NET takes trailing NULs for the end of a C string.
    let bytes = text.trim_end_matches('\0').as_bytes();
    let mut seen = Scan::default();
    let mut at = head(bytes, &mut seen);
    let mut digits = String::with_capacity(bytes.len() + 1);
    let mut point = false;
    let mut any = false;
    while let Some(&b) = bytes.get(at) {
        match b {
            b'0'..=b'9' => {
                any = true;
                digits.push(b as char);
            }
            b'.' if !point => {
                point = true;
                digits.push('.');
            }
            b',' if any && !point => {}
            _ => break,
        }
        at += 1;
    }
    if !any {
        return None;
    }
    at += exponent(&bytes[at..], &mut digits);
    if tail(&bytes[at..], &mut seen) != bytes.len() - at || seen.bracket {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    Some(if seen.negative { -number } else { number })
}

/// Blanks, sign, bracket and currency before the digits; a blank after a sign needs the currency between.
fn head(bytes: &[u8], seen: &mut Scan) -> usize {
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if white(b) && (!seen.sign || seen.currency) {
            at += 1;
        } else if matches!(b, b'+' | b'-') && !seen.sign {
            seen.sign = true;
            seen.negative = b == b'-';
            at += 1;
        } else if b == b'(' && !seen.sign {
            (seen.sign, seen.bracket, seen.negative) = (true, true, true);
            at += 1;
        } else if bytes[at..].starts_with(CURRENCY) && !seen.currency {
            seen.currency = true;
            at += CURRENCY.len();
        } else {
            break;
        }
    }
    at
}

fn exponent(bytes: &[u8], digits: &mut String) -> usize {
    if !matches!(bytes.first(), Some(b'e' | b'E')) {
        return 0;
    }
    let signed = usize::from(matches!(bytes.get(1), Some(b'+' | b'-')));
    let count = bytes[1 + signed..].iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 {
        return 0;
    }
    let length = 1 + signed + count;
    digits.extend(bytes[..length].iter().map(|b| *b as char));
    length
}

/// Blanks, a sign, the closing bracket and the currency after the digits.
fn tail(bytes: &[u8], seen: &mut Scan) -> usize {
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if white(b) {
            at += 1;
        } else if matches!(b, b'+' | b'-') && !seen.sign {
            seen.sign = true;
            seen.negative = b == b'-';
            at += 1;
        } else if b == b')' && seen.bracket {
            seen.bracket = false;
            at += 1;
        } else if bytes[at..].starts_with(CURRENCY) && !seen.currency {
            seen.currency = true;
            at += CURRENCY.len();
        } else {
            break;
        }
    }
    at
}

fn special(text: &str) -> Option<f64> {
    let word = text.trim();
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    if is("Infinity") || is("+Infinity") {
        Some(f64::INFINITY)
    } else if is("-Infinity") {
        Some(f64::NEG_INFINITY)
    } else if is("NaN") || is("+NaN") || is("-NaN") {
        Some(f64::NAN)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_dotnet_reads_it() {
        let yes = [
            ("25", 25.0),
            (" 25\t", 25.0),
            ("-5", -5.0),
            ("+5", 5.0),
            ("5-", -5.0),
            ("5 -", -5.0),
            ("(5)", -5.0),
            ("(5 )", -5.0),
            (" (1,234.5) ", -1234.5),
            ("1,2,3", 123.0),
            ("1,", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("1.5e+2", 150.0),
            ("10e1000", f64::INFINITY),
            ("¤5", 5.0),
            ("-¤ 5", -5.0),
            ("5¤", 5.0),
            ("infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("5\0\0", 5.0),
            ("007", 7.0),
        ];
        for (text, number) in yes {
            assert_eq!(parse(text), Some(number), "{text:?}");
        }
        let no = [
            "", " ", "-", ".", "abc", "0x10", "1e", "1 2", "- 5", "( 5)", "(5", "5)", "--5", "-(5)", "(-5)", ",1",
            "1.5,0", "1..2", "5.5.5", "$5", "5%", "1_000", "inf", "٣", "5\u{a0}",
        ];
        for text in no {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert!(parse("NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn hex_is_a_signed_64_bit_integer() {
        assert_eq!(hex("0xff"), Some(255.0));
        assert_eq!(hex("0XFFFFFFFFFFFFFFFF"), Some(-1.0));
        assert_eq!(hex("0x1FFFFFFFFFFFFFFFF"), None);
        assert_eq!(hex("0x000000000000000000001"), Some(1.0));
    }
}
