//! Percent-encoding as the official SDKs write it: UTF-8, everything but the unreserved characters of RFC 3986, a blank as
//! `%20`. Must never turn a plus into a blank.

use std::borrow::Cow;

/// Appends `text`, encoded.
pub fn encode(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// `None` where an escape is cut short, has no two hexadecimal digits, or the bytes are not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push((digit()? * 16 + digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let mut out = String::new();
        encode(&mut out, "a b+c/ü%~");
        assert_eq!(out, "a%20b%2Bc%2F%C3%BC%25~");
        assert_eq!(decode(&out).as_deref(), Some("a b+c/ü%~"));
        assert_eq!(decode("a+b").as_deref(), Some("a+b"));
        for bad in ["%", "%2", "%zz", "%ff", "a%C3"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
