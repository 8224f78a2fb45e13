//! The part of the query language that finds twins: `SELECT * FROM devices` or `devices.modules`, with comparisons joined
//! by `AND`. Must never return something for a query that it does not understand in full.

use serde_json::{Value, json};

use super::record::{object, text};
use super::reply::{Outcome, Refusal, Reply};
use crate::upgrade::Request;
use crate::world::World;

const QUERY_BYTES_MAX: usize = 8 * 1024;
const CONDITIONS_MAX: usize = 20;
/// Of one answer, unless fewer are wanted.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Debug, PartialEq)]
struct Query {
    modules: bool,
    conditions: Vec<Condition>,
}

#[derive(Debug, PartialEq)]
struct Condition {
    path: String,
    equal: bool,
    value: Value,
}

impl World {
    pub fn query(&self, request: &Request, body: &[u8]) -> Outcome {
        let body = object(body)?;
        let written = text(&body, "query")?.ok_or_else(|| Refusal::argument("query is missing"))?;
        let query = Query::parse(&written).map_err(Refusal::argument)?;
        let number = |name: &'static str| match request.header(name) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| Refusal::argument(format!("{name}: `{text}`"))),
        };
        let page = number("x-ms-max-item-count")?.filter(|page| *page > 0).unwrap_or(PAGE).min(PAGE_MAX);
        // A place in the list is enough for what changes as little as a registry of tests.
        let from = number("x-ms-continuation")?.unwrap_or(0);
        let peers = self.peers.values().filter(|peer| peer.module.is_some() == query.modules);
        let mut found = peers.map(|peer| self.twin_view(peer)).filter(|twin| query.fits(twin)).skip(from);
        let twins: Vec<Value> = found.by_ref().take(page).collect();
        let is_more = found.next().is_some();
        let next = from + twins.len();
        let reply = Reply::new(200, json!(twins)).with("x-ms-item-type", "Twin".to_owned());
        Ok(if is_more { reply.with("x-ms-continuation", next.to_string()) } else { reply })
    }
}

impl Query {
    fn parse(text: &str) -> Result<Query, String> {
        if text.len() > QUERY_BYTES_MAX {
            return Err(format!("a query has at most {QUERY_BYTES_MAX} bytes"));
        }
        let words = words(text)?;
        let mut words = words.iter().map(String::as_str).peekable();
        for expected in ["SELECT", "*", "FROM"] {
            let word = words.next().unwrap_or_default();
            if !word.eq_ignore_ascii_case(expected) {
                return Err(format!("`{word}` where `{expected}` was expected: only SELECT * FROM … is understood"));
            }
        }
        let modules = match words.next() {
            Some(word) if word.eq_ignore_ascii_case("devices") => false,
            Some(word) if word.eq_ignore_ascii_case("devices.modules") => true,
            other => return Err(format!("`{}` is neither devices nor devices.modules", other.unwrap_or_default())),
        };
        let mut query = Query { modules, conditions: Vec::new() };
        let mut joint = "WHERE";
        while let Some(word) = words.next() {
            if !word.eq_ignore_ascii_case(joint) || query.conditions.len() == CONDITIONS_MAX {
                return Err(format!("`{word}` is not understood here"));
            }
            joint = "AND";
            query.conditions.push(condition([words.next(), words.next(), words.next()])?);
        }
        Ok(query)
    }

    fn fits(&self, twin: &Value) -> bool {
        self.conditions.iter().all(|Condition { path, equal, value }| {
            let found = path.split('.').try_fold(twin, |value, name| value.get(name));
            // What is not there is null.
            let found = found.unwrap_or(&Value::Null);
            (found == value) == *equal
        })
    }
}

fn condition(words: [Option<&str>; 3]) -> Result<Condition, String> {
    let [Some(path), Some(compared), Some(value)] = words else { return Err("a condition is cut off".to_owned()) };
    let equal = match compared {
        "=" => true,
        "!=" | "<>" => false,
        other => return Err(format!("`{other}` is none of =, != and <>")),
    };
    let value = match value.strip_prefix('\'') {
        Some(text) => json!(text),
        None => serde_json::from_str(value).map_err(|_| format!("`{value}` is no value"))?,
    };
    if !path.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("`{path}` is no property"));
    }
    Ok(Condition { path: path.to_owned(), equal, value })
}

/// Names, comparisons and literals; a text keeps its first quote, and nothing of its others.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, behind) = if first == '\'' || first == '"' {
            let (inside, behind) = rest[1..].split_once(first).ok_or("a text has no end")?;
            (format!("'{inside}"), behind)
        } else {
            let is_sign = |c: char| "=!<>".contains(c);
            let ends = |c: char| c.is_whitespace() || "'\"".contains(c) || is_sign(c) != is_sign(first);
            let (word, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
            (word.to_owned(), behind)
        };
        words.push(word);
        rest = behind.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        type Expected<'a> = Result<(bool, &'a [(&'a str, bool, Value)]), &'a str>;
        let check = |text: &str, expected: Expected<'_>| {
            let read = Query::parse(text);
            match (read, expected) {
                (Ok(query), Ok((modules, conditions))) => {
                    let all = conditions.iter().map(|(path, equal, value)| {
                        let path = (*path).to_owned();
                        Condition { path, equal: *equal, value: value.clone() }
                    });
                    assert_eq!(query, Query { modules, conditions: all.collect() }, "{text}");
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (came, expected) => panic!("{text}: {came:?}, expected {expected:?}"),
            }
        };
        check("SELECT * FROM devices", Ok((false, &[])));
        check("select * from devices.modules where deviceId='a b'", Ok((true, &[("deviceId", true, json!("a b"))])));
        check(
            "SELECT * FROM devices WHERE tags.floor != 3 AND status = \"enabled\"",
            Ok((false, &[("tags.floor", false, json!(3)), ("status", true, json!("enabled"))])),
        );
        check("SELECT deviceId FROM devices", Err("`deviceId`"));
        check("SELECT * FROM jobs", Err("jobs"));
        check("SELECT * FROM devices WHERE", Err("cut off"));
        check("SELECT * FROM devices WHERE a > 1", Err("`>`"));
        check("SELECT * FROM devices WHERE a = 'x", Err("no end"));
        check("SELECT * FROM devices WHERE a = x", Err("`x`"));
        check("SELECT * FROM devices WHERE a = 1 OR b = 2", Err("`OR`"));
        check("SELECT * FROM devices LIMIT 1", Err("`LIMIT`"));
        check("", Err("SELECT"));
        check("\u{fc}", Err("SELECT"));
    }

    #[test]
    fn conditions_look_into_the_twin() {
        let twin = json!({"deviceId": "d", "tags": {"floor": 3}});
        for (text, expected) in [
            ("tags.floor = 3", true),
            ("tags.floor <> 3", false),
            ("tags.room = null", true),
            ("deviceId = 'd' AND tags.floor = 4", false),
        ] {
            let query = Query::parse(&format!("SELECT * FROM devices WHERE {text}")).expect(text);
            assert_eq!(query.fits(&twin), expected, "{text}");
        }
    }
}
