//! `GetModuleLogs`: which modules, which of their lines, and in what form.
//! Must never answer a filter that it does not understand as if it were none.

use regex_lite::Regex;
use serde_json::{Value, json};

use super::log_ring::LogLine;
use super::units;
use crate::model::time::Wall;

/// The id that stands for every module.
const ALL: &str = "all";

/// What is asked for.
pub struct Request {
    items: Vec<Item>,
    pub gzip: bool,
    json: bool,
}

struct Item {
    /// Found anywhere in the module's name, in any case, as in the field; `None` is every module.
    id: Option<Regex>,
    tail: Option<usize>,
    since: Option<Wall>,
    until: Option<Wall>,
    level: Option<u8>,
    regex: Option<Regex>,
}

/// Reads the payload of the method. The error is a sentence for the caller; `now` is what "1h" ago is counted from.
pub fn parse(payload: &Value, now: Wall) -> Result<Request, String> {
    schema(payload)?;
    let word = |key: &str, words: [&str; 2], default: &str| {
        let text = payload[key].as_str().unwrap_or(default).to_lowercase();
        let bad = !payload[key].is_null() && !payload[key].is_string() || !words.contains(&text.as_str());
        if bad { Err(format!("{key}: expected {:?} or {:?}", words[0], words[1])) } else { Ok(text) }
    };
    let gzip = word("encoding", ["none", "gzip"], "none")? == "gzip";
    let json = word("contentType", ["text", "json"], "text")? == "json";
    let items = match &payload["items"] {
        Value::Array(items) if !items.is_empty() => items.iter().map(|one| item(one, now)).collect::<Result<_, _>>()?,
        one @ Value::Object(_) => vec![item(one, now)?],
        _ => return Err("items: expected {\"id\": NAME, \"filter\": {…}}, or a list of those".to_owned()),
    };
    Ok(Request { items, gzip, json })
}

/// Major version 1, as in all of the agent's methods.
pub fn schema(payload: &Value) -> Result<(), String> {
    let major = payload["schemaVersion"].as_str().and_then(|text| text.split('.').next());
    if major == Some("1") { Ok(()) } else { Err("schemaVersion: expected \"1.0\"".to_owned()) }
}

fn item(value: &Value, now: Wall) -> Result<Item, String> {
    let id = value["id"].as_str().ok_or("items.id: expected a module's name, or a regular expression")?;
    let filter = &value["filter"];
    if !filter.is_null() && !filter.is_object() {
        return Err("items.filter: expected an object".to_owned());
    }
    let known = ["tail", "since", "until", "loglevel", "regex"];
    if let Some(key) = filter.as_object().and_then(|f| f.keys().find(|key| !known.contains(&key.as_str()))) {
        return Err(format!("items.filter.{key}: not known; expected {}", known.join(", ")));
    }
    let time = |key: &str| match &filter[key] {
        Value::Null => Ok(None),
        value => moment(value, now).map(Some).ok_or_else(|| {
            format!(
                "items.filter.{key}: expected a time as \"1h\" (ago), \"2026-11-24T12:00:00Z\" or seconds since 1970"
            )
        }),
    };
    let whole = |key: &str, max: u64| match &filter[key] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|n| *n <= max) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("items.filter.{key}: expected a whole number, at most {max}")),
        },
    };
    let pattern = |key: &str, text: &str| Regex::new(text).map_err(|error| format!("items.{key}: {error}"));
    let regex = match &filter["regex"] {
        Value::Null => None,
        value => Some(pattern("filter.regex", value.as_str().ok_or("items.filter.regex: expected a text")?)?),
    };
    Ok(Item {
        id: match id.eq_ignore_ascii_case(ALL) {
            true => None,
            false => Some(pattern("id", &format!("(?i){id}"))?),
        },
        tail: whole("tail", 1_000_000)?.map(|n| n as usize),
        since: time("since")?,
        until: time("until")?,
        level: whole("loglevel", 7)?.map(|n| n as u8),
        regex,
    })
}

fn moment(value: &Value, now: Wall) -> Option<Wall> {
    if let Some(secs) = value.as_i64() {
        return secs.checked_mul(1_000).map(Wall);
    }
    let text = value.as_str()?.trim();
    if let Ok(secs) = text.parse::<i64>() {
        return secs.checked_mul(1_000).map(Wall);
    }
    if let Some(ms) = units::timestamp_ms(text) {
        return Some(Wall(ms));
    }
    ago_ms(text).map(|ms| Wall(now.0.saturating_sub(ms)))
}

/// "90m", "1 day", "2 days 3 hours 2 minutes".
fn ago_ms(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "d" | "day" | "days" => 86_400_000,
            "h" | "hour" | "hours" => 3_600_000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "s" | "sec" | "second" | "seconds" => 1_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(total)
}

impl Request {
    pub fn asks_for(&self, module: &str) -> bool {
        self.of(module).is_some()
    }

    /// Whether this module is asked for, and by which item first.
    fn of(&self, module: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id.as_ref().is_none_or(|id| id.is_match(module)))
    }

    /// The text of one module's lines; `None` when it is not asked for. First the time, then the last lines, then the rest of the filter,
    /// in the order of IoT Edge.
    pub fn text(&self, device: &str, hub: &str, module: &str, lines: &[&LogLine]) -> Option<String> {
        let item = self.of(module)?;
        let inside = |line: &&LogLine| {
            item.since.is_none_or(|since| line.at >= since) && item.until.is_none_or(|until| line.at <= until)
        };
        let lines: Vec<&LogLine> = lines.iter().copied().filter(inside).collect();
        let skip = item.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        let chosen = lines.into_iter().skip(skip).filter(|line| {
            item.level.is_none_or(|level| level == severity(line).0)
                && item.regex.as_ref().is_none_or(|regex| regex.is_match(severity(line).1))
        });
        if !self.json {
            return Some(chosen.map(|line| format!("{}\n", shown(line))).collect());
        }
        let lines: Vec<Value> = chosen
            .map(|line| {
                let (level, text) = severity(line);
                json!({"iothub": hub, "device": device, "id": module, "stream": line.stream, "loglevel": level,
                    "timestamp": line.at.to_rfc3339(), "text": text})
            })
            .collect();
        Some(Value::Array(lines).to_string())
    }
}

/// As the field's modules log: severity of syslog, time, text.
fn shown(line: &LogLine) -> String {
    let (level, text) = severity(line);
    format!("<{level}> {} {}: {text}", line.at.to_rfc3339(), line.stream)
}

/// Of syslog, and the text. What a module printed counts as information, unless it begins with its severity, as the field's modules print:
/// `<4> 2026-11-24 …`.
fn severity(line: &LogLine) -> (u8, &str) {
    let level = match line.level {
        0 => return printed(&line.text).unwrap_or((6, &line.text)),
        1 => 3,
        2 => 4,
        4 | 5 => 7,
        _ => 6,
    };
    (level, &line.text)
}

fn printed(text: &str) -> Option<(u8, &str)> {
    let (level, rest) = text.strip_prefix('<')?.split_once('>')?;
    let level = level.parse::<u8>().ok().filter(|level| *level <= 7 && text.len() >= 3)?;
    Some((level, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn lines() -> Vec<LogLine> {
        let line = |at, level, text: &str| LogLine { at: Wall(at), level, stream: "m".into(), text: text.into() };
        vec![line(0, 3, "old"), line(HOUR, 1, "bad one"), line(2 * HOUR, 3, "good one"), line(3 * HOUR, 4, "detail")]
    }

    #[track_caller]
    fn check(filter: Value, expected: &[&str]) {
        let payload = json!({"schemaVersion": "1.0", "items": {"id": "m", "filter": filter}});
        let request = parse(&payload, Wall(3 * HOUR)).unwrap_or_else(|e| panic!("{e}"));
        let lines = lines();
        let text = request.text("d", "h", "m", &lines.iter().collect::<Vec<_>>()).unwrap();
        let found: Vec<&str> = text.lines().filter_map(|line| line.split(": ").nth(1)).collect();
        assert_eq!(found, expected, "{filter}");
    }

    #[test]
    fn filters_choose_lines() {
        check(Value::Null, &["old", "bad one", "good one", "detail"]);
        check(json!({"tail": 2}), &["good one", "detail"]);
        check(json!({"since": "1h"}), &["good one", "detail"]);
        check(json!({"since": "1 hour 30 minutes", "until": "30m"}), &["good one"]);
        check(json!({"since": 3600, "until": "1970-01-01T02:00:00Z"}), &["bad one", "good one"]);
        check(json!({"loglevel": 3}), &["bad one"]);
        check(json!({"regex": "one$"}), &["bad one", "good one"]);
        check(json!({"tail": 2, "regex": "one$"}), &["good one"]);
        check(json!({"tail": 0}), &[]);
    }

    #[test]
    fn forms_are_those_of_the_field() {
        let ask = |content: &str| {
            let payload = json!({"schemaVersion": "1.0", "items": [{"id": "m.*"}], "contentType": content});
            parse(&payload, Wall(0)).unwrap()
        };
        let lines = lines();
        let all: Vec<&LogLine> = lines.iter().collect();
        assert!(ask("text").text("d", "h", "mm", &all).unwrap().starts_with("<6> 1970-01-01T00:00:00.000Z m: old\n"));
        // As .NET's expressions are used there: anywhere in the name, in any case.
        assert!(ask("text").text("d", "h", "AM", &all).is_some());
        assert!(ask("text").text("d", "h", "other", &all).is_none());
        let json: Value = serde_json::from_str(&ask("json").text("d", "h", "m", &all).unwrap()).unwrap();
        let expected = json!({"iothub": "h", "device": "d", "id": "m", "stream": "m", "loglevel": 3,
            "timestamp": "1970-01-01T01:00:00.000Z", "text": "bad one"});
        assert_eq!(json[1], expected);
    }

    #[test]
    fn every_module_and_each_severity() {
        let payload =
            json!({"schemaVersion": "1.0", "items": {"id": "ALL", "filter": {"loglevel": 4, "regex": "^hot"}}});
        let request = parse(&payload, Wall(0)).unwrap();
        let line = |level, text: &str| LogLine { at: Wall(0), level, stream: "stdout".into(), text: text.into() };
        let lines = [line(0, "<4> hot"), line(0, "hot"), line(2, "hot too"), line(0, "<9> hot"), line(3, "<4> hot")];
        let text = request.text("d", "h", "any", &lines.iter().collect::<Vec<_>>()).unwrap();
        let at = "1970-01-01T00:00:00.000Z stdout";
        assert_eq!(text, format!("<4> {at}: hot\n<4> {at}: hot too\n"));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let check = |mut payload: Value, part: &str| {
            if payload["schemaVersion"].is_null() {
                payload["schemaVersion"] = "1.0".into();
            }
            let error = parse(&payload, Wall(0)).err().unwrap_or_else(|| panic!("{payload} is good"));
            assert!(error.contains(part), "{error}");
        };
        check(json!({"schemaVersion": "2.0"}), "schemaVersion: expected");
        check(json!({}), "items: expected");
        check(json!({"items": []}), "items: expected");
        check(json!({"items": {}}), "items.id: expected");
        check(json!({"items": {"id": "("}}), "items.id: ");
        check(json!({"items": {"id": "m", "filter": {"tial": 5}}}), "items.filter.tial: not known");
        check(json!({"items": {"id": "m", "filter": {"tail": -5}}}), "items.filter.tail: expected");
        check(json!({"items": {"id": "m", "filter": {"since": "yesterday"}}}), "items.filter.since: expected");
        check(json!({"items": {"id": "m", "filter": {"loglevel": 8}}}), "items.filter.loglevel: expected");
        check(json!({"items": {"id": "m", "filter": {"regex": "["}}}), "items.filter.regex: ");
        check(json!({"items": {"id": "m"}, "encoding": "zip"}), "encoding: expected");
        check(json!({"items": {"id": "m"}, "contentType": "xml"}), "contentType: expected");
    }
}
