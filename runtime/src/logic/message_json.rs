//! A message as one line of JSON, the form of the control socket: `{"body":…,"properties":{},"system":{}}`.
//! Must never drop or rename anything: what can't be said in a message is an error with its place.

use std::sync::LazyLock;

use data_encoding::{BASE64, BASE64_NOPAD, Encoding};
use serde_json::{Map, Value, json};
use skerry_abi::wire::record::{Key, Record, RecordError, System, Writer};

use super::nearest::nearest;

/// Why a line is not a message; the text is for the one who wrote the line.
#[derive(Debug, PartialEq, Eq)]
pub struct LineFault {
    pub too_large: bool,
    pub message: String,
}

const KEYS: [&str; 4] = ["body", "bodyBase64", "properties", "system"];

/// Encodes a line. JSON that is not a text says so in its content type, because conditions on `$body` look there.
pub fn record_from_line(line: &[u8]) -> Result<Vec<u8>, LineFault> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|e| fault(format!("not JSON: {}", without_line(&e.to_string(), e.line(), e.column()))))?;
    let Value::Object(mut fields) = value else {
        return Err(fault("expected an object {\"body\": …, \"properties\": {…}, \"system\": {…}}".to_owned()));
    };
    if let Some(unknown) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let hint = nearest(unknown, KEYS).map_or(String::new(), |key| format!(": did you mean {key:?}?"));
        return Err(fault(format!("unknown key {unknown:?}{hint} (known: body, bodyBase64, properties, system)")));
    }
    let (body, is_json) = match (fields.remove("body"), fields.remove("bodyBase64")) {
        (Some(_), Some(_)) => return Err(fault("both \"body\" and \"bodyBase64\" are given".to_owned())),
        (None, None) => return Err(fault("neither \"body\" nor \"bodyBase64\" is given".to_owned())),
        (Some(Value::String(text)), None) => (text.into_bytes(), false),
        (Some(value), None) => (value.to_string().into_bytes(), true),
        (None, Some(Value::String(text))) => {
            (from_base64(&text).ok_or_else(|| fault("\"bodyBase64\" is not base64".to_owned()))?, false)
        }
        (None, Some(_)) => return Err(fault("\"bodyBase64\" must be a text".to_owned())),
    };
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut writer = Writer::new(&mut out);
    let mut typed = false;
    for (name, value) in section(&mut fields, "system")? {
        let system = System::from_name(&name).ok_or_else(|| {
            let hint = nearest(&name, System::ALL.map(System::name))
                .map_or(String::new(), |s| format!(": did you mean {s:?}?"));
            fault(format!("unknown system property {name:?}{hint}"))
        })?;
        typed |= matches!(system, System::ContentType | System::ContentEncoding);
        writer.system(system, text_or_null(&name, &value)?);
    }
    if is_json && !typed {
        writer.system(System::ContentType, Some("application/json"));
        writer.system(System::ContentEncoding, Some("utf-8"));
    }
    for (name, value) in section(&mut fields, "properties")? {
        if name.len() > usize::from(u16::MAX) {
            return Err(fault(format!("the name of a property has {} bytes", name.len())));
        }
        writer.application(&name, text_or_null(&name, &value)?);
    }
    writer.finish(&body).map_err(of_record)?;
    Record::parse(&out).map_err(of_record)?;
    Ok(out)
}

/// The inverse: a body that is JSON by its content type, or UTF-8, is shown as such; any other as base64.
pub fn record_to_json(record: &Record<'_>) -> Map<String, Value> {
    let (mut system, mut properties) = (Map::new(), Map::new());
    for (key, value) in record.properties() {
        let value = value.map_or(Value::Null, Value::from);
        match key {
            Key::System(key) => system.insert(key.name().to_owned(), value),
            Key::Application(key) => properties.insert(key.to_owned(), value),
        };
    }
    let is_json = record.system(System::ContentType).is_some_and(|t| t.to_ascii_lowercase().contains("json"));
    let mut out = Map::new();
    match (std::str::from_utf8(record.body()), serde_json::from_slice::<Value>(record.body())) {
        (_, Ok(value)) if is_json => out.insert("body".to_owned(), value),
        (Ok(text), _) => out.insert("body".to_owned(), json!(text)),
        (Err(_), _) => out.insert("bodyBase64".to_owned(), json!(to_base64(record.body()))),
    };
    out.insert("properties".to_owned(), Value::Object(properties));
    out.insert("system".to_owned(), Value::Object(system));
    out
}

/// Bits after the last byte are not looked at: some encoders leave rubbish there.
static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut rules = BASE64_NOPAD.specification();
    rules.check_trailing_bits = false;
    rules.encoding().expect("a known alphabet with one rule less")
});

/// Standard alphabet, with padding.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Standard alphabet; padding may be left out. `None` for anything else.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    LENIENT.decode(text.as_bytes()).ok()
}

fn section(fields: &mut Map<String, Value>, name: &str) -> Result<Map<String, Value>, LineFault> {
    match fields.remove(name) {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(fault(format!("{name:?} must be an object of texts"))),
    }
}

fn text_or_null<'a>(name: &str, value: &'a Value) -> Result<Option<&'a str>, LineFault> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(fault(format!("property {name:?} must be a text or null: write {:?}", value.to_string()))),
    }
}

fn of_record(error: RecordError) -> LineFault {
    LineFault { too_large: matches!(error, RecordError::TooLarge { .. }), message: error.to_string() }
}

fn fault(message: String) -> LineFault {
    LineFault { too_large: false, message }
}

/// A message is one line of many, so serde's "at line 1" would mislead.
fn without_line(text: &str, line: usize, column: usize) -> String {
    text.replace(&format!("at line {line} column {column}"), &format!("at column {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<&str, &str>) {
        match record_from_line(line.as_bytes()) {
            Ok(record) => {
                let shown = Value::Object(record_to_json(&Record::parse(&record).unwrap())).to_string();
                assert_eq!(Ok(shown.as_str()), expected, "{line}");
            }
            Err(fault) => assert_eq!(Err(fault.message.as_str()), expected, "{line}"),
        }
    }

    #[test]
    fn lines_and_messages() {
        check(r#"{"body":"text"}"#, Ok(r#"{"body":"text","properties":{},"system":{}}"#));
        check(
            r#"{"body":{"t":1}}"#,
            Ok(
                r#"{"body":{"t":1},"properties":{},"system":{"contentEncoding":"utf-8","contentType":"application/json"}}"#,
            ),
        );
        check(
            r#"{"bodyBase64":"/wA=","properties":{"a":"b","n":null},"system":{"messageId":"7"}}"#,
            Ok(r#"{"bodyBase64":"/wA=","properties":{"a":"b","n":null},"system":{"messageId":"7"}}"#),
        );
        check("{\"body\":", Err("not JSON: EOF while parsing a value at column 8"));
        check("[1]", Err("expected an object {\"body\": …, \"properties\": {…}, \"system\": {…}}"));
        check(
            r#"{"bdy":1}"#,
            Err("unknown key \"bdy\": did you mean \"body\"? (known: body, bodyBase64, properties, system)"),
        );
        check("{}", Err("neither \"body\" nor \"bodyBase64\" is given"));
        check(r#"{"body":1,"bodyBase64":""}"#, Err("both \"body\" and \"bodyBase64\" are given"));
        check(r#"{"bodyBase64":"?"}"#, Err("\"bodyBase64\" is not base64"));
        check(r#"{"body":1,"properties":{"n":5}}"#, Err("property \"n\" must be a text or null: write \"5\""));
        check(
            r#"{"body":1,"system":{"contenttyp":"x"}}"#,
            Err("unknown system property \"contenttyp\": did you mean \"contentType\"?"),
        );
        check(r#"{"body":1,"properties":{"":"x"}}"#, Err("property name \"\": is empty"));
    }

    #[test]
    fn too_large_is_told_apart() {
        let line = format!("{{\"body\":\"{}\"}}", "x".repeat(256 * 1024 + 1));
        assert!(record_from_line(line.as_bytes()).unwrap_err().too_large);
    }

    #[test]
    fn base64_both_ways() {
        for (bytes, text) in [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")]
        {
            assert_eq!(to_base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(from_base64("Zg").as_deref(), Some(&b"f"[..]));
        assert_eq!(from_base64("Zh=").as_deref(), Some(&b"f"[..]));
        assert_eq!(from_base64("Z"), None);
        assert_eq!(from_base64("Zm8=Zm8="), None);
    }
}
