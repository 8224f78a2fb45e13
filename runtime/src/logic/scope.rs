//! What an identity may have signed: its own tokens, and anything that is no token. Must never let a module prove that it is
//! somebody else.

use super::percent;

/// Whether bytes that are to be signed are a token's (`{resource}\n{expiry}`, spec iot-hub-wire 3) for somebody else: then for whom.
pub fn foreign_audience(bytes: &[u8], device: &str, module: &str) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (resource, expiry) = text.rsplit_once('\n')?;
    if expiry.is_empty() || !expiry.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Some SDKs encode each id and then the whole.
    let once = percent::decode(resource).map_or(resource.to_owned(), |text| text.into_owned());
    let decoded = percent::decode(&once).map_or(once.clone(), |text| text.into_owned());
    let own = format!("{device}/modules/{module}");
    let is_own = [&once, &decoded].into_iter().any(|resource| {
        let inside = resource.split_once("/devices/").map(|(_, inside)| inside);
        inside.is_some_and(|inside| inside.eq_ignore_ascii_case(&own))
    });
    (!is_own).then(|| decoded.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, foreign: bool) {
        assert_eq!(foreign_audience(text.as_bytes(), "d1", "$m").is_some(), foreign, "{text:?}");
    }

    #[test]
    fn only_ones_own_audience_is_signed() {
        check("h.example%2Fdevices%2Fd1%2Fmodules%2F%24m\n1795456800", false);
        check("h.example%2Fdevices%2Fd1%2Fmodules%2F%2524m\n1795456800", false);
        check("h.example/devices/D1/modules/$M\n1", false);
        check("h.example%2Fdevices%2Fd1\n1795456800", true);
        check("h.example%2Fdevices%2Fd1%2Fmodules%2Fother\n1", true);
        check("h.example%2Fdevices%2Fd1%2Fmodules%2F%24m2\n1", true);
        check("h.example%2Fdevices%2Fd2%2Fmodules%2F%24m\n1", true);
        check("h.example\n1", true);
        check("0ne1%2Fregistrations%2Fd1\n1", true);
        check("h.example/devices/d1/modules/$m/../other\n1", true);
        // No token, and nobody's business.
        check("a challenge", false);
        check("a report of\n3 lines", false);
        check("", false);
        assert_eq!(foreign_audience(b"\xff\n1", "d1", "$m"), None);
    }
}
