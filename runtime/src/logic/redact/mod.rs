//! Takes secrets out of what is shown to others: a configuration, manifests, twins, logs. By what is known to be one, by the name
//! under which it stands, and by its shape. Must never show a value for being unsure.

mod json;
mod toml;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use data_encoding::{BASE64, HEXLOWER};
use regex_lite::Regex;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "(not shown)";
/// Characters of a known secret that is looked for everywhere: a shorter one would take pieces out of other words.
const KNOWN_CHARS_MIN: usize = 4;

/// The secrets that are known, and the rules for the others.
#[derive(Default)]
pub struct Redactor {
    /// The longest first: one may hold another.
    known: Vec<String>,
}

impl Redactor {
    /// A key or a password, in every form in which it may stand in a text.
    pub fn know(&mut self, secret: &[u8]) {
        let mut forms = BTreeSet::from([BASE64.encode(secret), HEXLOWER.encode(secret)]);
        forms.insert(BASE64.encode(secret).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
        forms.insert(BASE64.encode(secret).trim_end_matches('=').to_owned());
        if let Ok(text) = std::str::from_utf8(secret) {
            forms.insert(text.trim().to_owned());
            let quoted = serde_json::Value::from(text.trim()).to_string();
            forms.insert(quoted[1..quoted.len() - 1].to_owned());
        }
        forms.retain(|form| form.chars().count() >= KNOWN_CHARS_MIN && !self.known.contains(form));
        self.known.extend(forms);
        self.known.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// What stood in the place of a secret: a password, a connection string, a URL with a password in it.
    pub fn know_text(&mut self, text: &str) {
        let key = text.split(';').find_map(|part| part.trim().strip_prefix("SharedAccessKey="));
        let user = text.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        for secret in key.into_iter().chain(password).chain([text]) {
            self.know(secret.as_bytes());
        }
    }

    /// Any text: what is known, and what looks like a secret.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.known.iter().filter(|secret| secret.contains('\n')) {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        let mut out = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            // A private key in PEM runs over lines.
            if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----") {
                out.push_str(&format!("{HIDDEN}\n"));
                in_key = !line.contains("-----END ");
            } else if in_key {
                in_key = !line.contains("-----END ");
            } else {
                out.push_str(&self.line(line));
            }
        }
        out
    }

    fn line(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in self.known.iter().filter(|secret| line.contains(secret.as_str())).collect::<Vec<_>>() {
            line = line.replace(secret.as_str(), HIDDEN);
        }
        let lower = line.to_ascii_lowercase();
        if MARKS.iter().any(|mark| lower.contains(mark)) {
            for (shape, put) in SHAPES.iter() {
                line = shape.replace_all(&line, put.as_str()).into_owned();
            }
        }
        line
    }

    /// A JSON value: also by the names of its members. What stands under the name of a secret is known from then on.
    pub fn json(&mut self, value: &serde_json::Value) -> serde_json::Value {
        json::redact(value, self)
    }

    /// A configuration, also one that can't be read any further. Without its comments: an old key may stand there. Its secrets are known
    /// from then on.
    pub fn toml(&mut self, source: &str) -> String {
        let (shown, secrets) = toml::redact(source);
        secrets.iter().for_each(|secret| self.know_text(secret));
        self.text(&shown)
    }
}

/// Words without which no line is looked at any closer.
const MARKS: [&str; 11] =
    ["key=", "sig=", "://", "authorization", "bearer ", "basic ", "passw", "pwd", "secret", "token", "passphrase"];

/// What a secret looks like, and what is left of it.
static SHAPES: LazyLock<Vec<(Regex, String)>> = LazyLock::new(|| {
    let shapes = [
        // Connection strings, tokens, and everything that is written as NAME=VALUE.
        (r#"(?i)([a-z_]*(?:key|sig|passw(?:or)?d|passphrase|pwd|secret|token)=)[^;&\s"',)]+"#, "${1}HIDDEN"),
        // The same as JSON, and as people log it.
        (r#"(?i)([a-z_]*(?:passw(?:or)?d|passphrase|pwd|secret|token)"?\s*:\s*)"[^"]*""#, "${1}\"HIDDEN\""),
        (r#"(?i)([a-z_]*(?:passw(?:or)?d|passphrase|pwd|secret|token)\s*:\s*)[^\s"',;{\[]+"#, "${1}HIDDEN"),
        // http://USER:PASSWORD@HOST
        (r"([a-z][a-z0-9+.-]*://)[^/@\s]*@", "${1}HIDDEN@"),
        (r"(?i)\b(bearer|basic) [a-z0-9+/=._~-]{6,}", "${1} HIDDEN"),
        (r#"(?i)(authorization"?\s*[:=]\s*)[^"\n]+"#, "${1}HIDDEN"),
    ];
    // A shape that is no expression would be seen by every test.
    let made = |(shape, put): (&str, &str)| Some((Regex::new(shape).ok()?, put.replace("HIDDEN", HIDDEN)));
    shapes.into_iter().filter_map(made).collect()
});

/// Whether what stands under this name is a secret.
fn is_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    // Where it lies, and how long it lives, may be known.
    if ["file", "path", "ttl", "uri", "name", "id"].iter().any(|end| name.ends_with(end)) {
        return false;
    }
    let parts =
        ["passw", "passphrase", "secret", "token", "sharedaccess", "connectionstring", "authorization", "cookie"];
    let ends = ["key", "pwd", "psk", "sas", "sasurl", "pin"];
    parts.iter().any(|part| name.contains(part)) || ends.iter().any(|end| name.ends_with(end))
}

/// Whether each value below this name may be one: who passes secrets to a process does it by its environment.
fn is_environment(name: &str) -> bool {
    name.eq_ignore_ascii_case("env")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let mut redactor = Redactor::default();
        redactor.know(b"hunter2 \"x\"");
        redactor.know(&[0xfb, 0xef, 0xff, 0x3e, 0x10]);
        redactor.know(b"abc");
        assert_eq!(redactor.text(text), expected.replace("HIDDEN", HIDDEN), "{text}");
    }

    #[test]
    fn what_is_known_is_nowhere() {
        check("it is hunter2 \"x\" here\n", "it is HIDDEN here\n");
        check(r#"{"p": "hunter2 \"x\""}"#, r#"{"p": "HIDDEN"}"#);
        check(
            "b64 ++//PhA= or ++//PhA, url %2B%2B%2F%2FPhA%3D, hex fbefff3e10",
            "b64 HIDDEN or HIDDEN, url HIDDEN, hex HIDDEN",
        );
        // Too short to be looked for.
        check("abc abcd", "abc abcd");
    }

    #[test]
    fn what_looks_like_one_goes() {
        check("HostName=h;DeviceId=d;SharedAccessKey=QUJD+/8=;X=1", "HostName=h;DeviceId=d;SharedAccessKey=HIDDEN;X=1");
        check("SharedAccessSignature sr=h%2Fd&sig=abc%2F&se=17", "SharedAccessSignature sr=h%2Fd&sig=HIDDEN&se=17");
        check("GET https://me:pw@host:1/x?a=b", "GET https://HIDDEN@host:1/x?a=b");
        check("GET https://host:1/x?a=b@c", "GET https://host:1/x?a=b@c");
        check("Authorization: Bearer a.b.c", "Authorization: HIDDEN");
        check("sent Bearer abcdefgh twice", "sent Bearer HIDDEN twice");
        check("mqtt_password=x, user=y", "mqtt_password=HIDDEN, user=y");
        check(r#"{"api_token": "x y", "n": 1}"#, r#"{"api_token": "HIDDEN", "n": 1}"#);
        check("password: x", "password: HIDDEN");
        check("nothing of that kind: key figures", "nothing of that kind: key figures");
        check("a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb\n", "a\nHIDDEN\nb\n");
        assert_eq!(SHAPES.len(), 6);
    }

    #[test]
    fn names_tell() {
        for name in
            ["password", "mqttPassword", "symmetric_key", "connection_string", "apiKey", "SAS", "access-token", "key"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["token_ttl", "password_file", "key_id", "trust_keys", "keyboard", "threshold", "spindle"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
