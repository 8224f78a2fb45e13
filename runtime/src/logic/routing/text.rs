//! Text as .NET sees it: UTF-16 units, ordinal order, letter case without language or locale.
//! Must never count or compare in UTF-8 where the two differ. A half of a surrogate pair cut off by `substring`
//! becomes U+FFFD: it is one unit long and equals nothing, like the half that the field's hub would keep.

use std::borrow::Cow;
use std::cmp::Ordering;

/// Ordinal order by UTF-16 units. Only characters above U+FFFF sort differently from their UTF-8 bytes.
pub(super) fn ordinal(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    match a.iter().zip(b).find(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some((x, y)) => unit_rank(*x).cmp(&unit_rank(*y)),
    }
}

/// Lead bytes EE and EF (U+E000 to U+FFFF) come after the surrogates that F0 to F4 stand for.
fn unit_rank(byte: u8) -> u8 {
    if matches!(byte, 0xEE | 0xEF) { byte + 0x10 } else { byte }
}

/// Names are equal ignoring case: each character by its one-to-one upper case, no language rules.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    if a.is_ascii() || b.is_ascii() {
        // A one-to-one upper case leads from non-ASCII to ASCII for two letters only, and .NET maps neither in names.
        return false;
    }
    a.chars().map(upper_one).eq(b.chars().map(upper_one))
}

/// Whether `text` begins with `prefix`, ignoring case as in `same_name`.
pub(super) fn starts_with_name(text: &str, prefix: &str) -> bool {
    let mut text = text.chars().map(upper_one);
    prefix.chars().map(upper_one).all(|p| text.next() == Some(p))
}

pub(super) fn upper(text: &str) -> Cow<'_, str> {
    map(text, upper_one)
}

pub(super) fn lower(text: &str) -> Cow<'_, str> {
    map(text, lower_one)
}

fn map(text: &str, one: fn(char) -> char) -> Cow<'_, str> {
    if text.chars().all(|c| one(c) == c) { Cow::Borrowed(text) } else { Cow::Owned(text.chars().map(one).collect()) }
}

/// Letters whose upper case is longer (`ß`) stay, as do the dotless and the dotted i.
fn upper_one(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    let mut all = c.to_uppercase();
    match (all.next(), all.next()) {
        (Some(one), None) if c != 'ı' && c != 'ſ' => one,
        _ => c,
    }
}

fn lower_one(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut all = c.to_lowercase();
    match (all.next(), all.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// Length in UTF-16 units.
pub(super) fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// Where `part` begins, in UTF-16 units.
pub(super) fn index_of(text: &str, part: &str) -> Option<usize> {
    text.find(part).map(|at| units(&text[..at]))
}

/// `length` units from unit `start`; both must lie within the text.
pub(super) fn substring<'a>(text: &'a Cow<'a, str>, start: usize, length: usize) -> Cow<'a, str> {
    if text.is_ascii() {
        return Cow::Borrowed(&text[start..start + length]);
    }
    let units: Vec<u16> = text.encode_utf16().skip(start).take(length).collect();
    Cow::Owned(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_utf16_units() {
        assert_eq!(ordinal("\u{10000}", "\u{ffff}"), Ordering::Less);
        assert_eq!(ordinal("\u{10000}", "\u{d7ff}"), Ordering::Greater);
        assert_eq!(ordinal("a", "ab"), Ordering::Less);
        assert_eq!(ordinal("é", "z"), Ordering::Greater);
        let words = ["", "a", "Z", "é", "\u{ffff}", "\u{e000}", "😀", "\u{10ffff}", "ab", "日本"];
        for a in words {
            for b in words {
                assert_eq!(ordinal(a, b), a.encode_utf16().cmp(b.encode_utf16()), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn case_is_one_to_one() {
        assert_eq!(upper("straße é ı 😀"), "STRAßE É ı 😀");
        assert_eq!(lower("ÀÉ İ"), "àé İ");
        assert!(same_name("Émile", "éMILE"));
        assert!(!same_name("ss", "ß"));
    }

    #[test]
    fn units_and_parts() {
        assert_eq!(units("a😀"), 3);
        assert_eq!(index_of("😀x", "x"), Some(2));
        assert_eq!(substring(&Cow::Borrowed("😀x"), 1, 2), "\u{fffd}x");
    }
}
