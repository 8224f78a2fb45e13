//! Data tests of the language: the field's own rows, our rows for every rule, and random text that must not panic.
//! A new row needs no code: add it to `tests/data/routes.txt` (its head says how). Must never depend on a clock or a seed
//! that is not written here.

use serde_json::{Map, Value as Json};

use super::table::source_matches;
use super::*;

/// A message as the data files write it.
struct Sample {
    properties: Map<String, Json>,
    system: Map<String, Json>,
    body: Vec<u8>,
}

impl Sample {
    fn new(row: &Json) -> Sample {
        let object = |key: &str| row.get(key).and_then(Json::as_object).cloned().unwrap_or_default();
        let body = match row.get("body") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::String(text)) => text.clone().into_bytes(),
            Some(other) => other.to_string().into_bytes(),
        };
        Sample { properties: object("properties"), system: object("system"), body }
    }
}

fn find<'a>(map: &'a Map<String, Json>, name: &str) -> Held<'a> {
    match map.iter().find(|(key, _)| text::same_name(key, name)) {
        None => Held::Absent,
        Some((_, Json::String(value))) => Held::Text(value),
        Some(_) => Held::Null,
    }
}

impl Subject for Sample {
    fn application(&self, name: &str) -> Held<'_> {
        find(&self.properties, name)
    }
    fn system(&self, name: &str) -> Held<'_> {
        find(&self.system, name)
    }
    fn body(&self) -> &[u8] {
        &self.body
    }
}

fn check_case(row: &Json) -> Result<(), String> {
    let condition = row["condition"].as_str().unwrap();
    let sample = Sample::new(row);
    let got = compile_condition(condition).map(|compiled| {
        let view = View::new(&sample);
        let _ = compiled.explain(&view);
        compiled.evaluate(&view)
    });
    let fits = match &row["expect"] {
        Json::Bool(expected) => got.as_ref().is_ok_and(|truth| (*truth == Truth::True) == *expected),
        _ => got.is_err(),
    };
    let tri = row.get("tri").and_then(Json::as_str).unwrap_or("");
    let tri_fits = tri.is_empty() || got.as_ref().is_ok_and(|truth| truth.to_string() == tri);
    if fits && tri_fits { Ok(()) } else { Err(format!("{condition}: expected {} {tri}, got {got:?}", row["expect"])) }
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} rows:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_fields_conditions() {
    let rows: Vec<Json> = serde_json::from_str(include_str!("../../../../tests/data/route-cases.json")).unwrap();
    report(rows.iter().filter_map(|row| check_case(row).err()).collect());
}

#[test]
fn the_fields_routes() {
    let strings: Json = serde_json::from_str(include_str!("../../../../tests/data/route-strings.json")).unwrap();
    let mut failures = Vec::new();
    for row in strings["routes"].as_array().unwrap() {
        let route = row["route"].as_str().unwrap();
        let got = split_route(route);
        let fits = match &got {
            Err(_) => row["parse"] == "error",
            Ok(parts) => {
                let sink = match &parts.sink {
                    SinkText::System(name) => serde_json::json!({ "system": name }),
                    SinkText::Function { name, argument } => {
                        serde_json::json!({ "function": name, "argument": argument })
                    }
                };
                row["parse"] == "ok"
                    && row["source"] == parts.source.as_str()
                    && row["condition"] == parts.condition.as_str()
                    && row["sink"] == sink
            }
        };
        if !fits {
            failures.push(format!("{route}: {got:?}"));
        }
    }
    for row in strings["source_match"].as_array().unwrap() {
        let (route, message) = (row["route_source"].as_str().unwrap(), row["message_source"].as_str().unwrap());
        if source_matches(&normal_source(route), &normal_source(message)) != row["match"] {
            failures.push(format!("{route} on {message}"));
        }
    }
    report(failures);
}

/// One line of `routes.txt`; `Err` says what came out instead.
fn check_line(sample: &Sample, line: &str) -> Result<(), String> {
    let (text, expected) = line.rsplit_once(" => ").ok_or("no ' => '")?;
    let text = text.trim().replace("\\n", "\n");
    let got = match text.strip_prefix("route ") {
        Some(route) => show_route(route),
        None => {
            let text = if text == "(empty)" { "" } else { text.as_str() };
            match compile_condition(text) {
                Err(error) => format!("error@{} {}", error.column, error.message),
                Ok(condition) => condition.evaluate(&View::new(sample)).to_string(),
            }
        }
    };
    let expected = expected.trim();
    let fits = match expected.split_once(' ') {
        Some((place, part)) if place.contains('@') => {
            got.split("; ").any(|piece| piece.split_once(' ').is_some_and(|(p, m)| p == place && m.contains(part)))
        }
        _ if expected.contains('@') => got.starts_with(&format!("{expected} ")),
        _ => got == expected,
    };
    if fits { Ok(()) } else { Err(format!("{line}\n     got {got}")) }
}

fn show_route(route: &str) -> String {
    match parse_route(route) {
        Err(error) => format!("error@{} {}", error.column, error.message),
        Ok(parsed) => {
            let mut out = format!("{} {} {}", parsed.source, parsed.condition.text(), parsed.sink);
            for warning in parsed.warnings {
                out += &format!("; warn@{} {}", warning.column, warning.message);
            }
            out
        }
    }
}

#[test]
fn our_rows() {
    let mut sample = Sample::new(&Json::Null);
    let mut failures = Vec::new();
    for (number, line) in include_str!("../../../../tests/data/routes.txt").lines().enumerate() {
        let line = line.trim();
        if let Some(message) = line.strip_prefix("message ") {
            sample = Sample::new(&serde_json::from_str(message).unwrap_or_else(|e| panic!("line {}: {e}", number + 1)));
        } else if !line.is_empty()
            && !line.starts_with('#')
            && let Err(failure) = check_line(&sample, line)
        {
            failures.push(format!("{}: {failure}", number + 1));
        }
    }
    report(failures);
}

/// xorshift64: the same soup on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const SOUP: &[&str] = &[
    "FROM ",
    "INTO ",
    "WHERE ",
    "SELECT ",
    "/messages",
    "/*",
    "*/",
    "*",
    "$upstream",
    "$body.",
    "$body.a[0]",
    "a",
    "'x'",
    "\"x\"",
    "'",
    "\"",
    "(",
    ")",
    ")",
    "(",
    ",",
    "as_number(",
    "substring(",
    "concat(",
    "is_null(",
    "-",
    "--",
    "3",
    "0x",
    "0xff",
    ".5",
    "1e9",
    "e5",
    " = ",
    "!=",
    "<>",
    "<",
    ">=",
    " and ",
    " OR ",
    "not ",
    "??",
    "?",
    "||",
    " ",
    "\n",
    "\\",
    "\\u00e9",
    "\\u12",
    "é",
    "日",
    "😀",
    "true",
    "null",
    "undefined",
    "{$a}",
    "{",
    "}",
    "[",
    "]",
    "[1]",
    ".",
    "..",
    "BrokeredEndpoint(\"/modules/a/inputs/b\")",
    "@",
    ";",
    "%",
];

const BODIES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"a\"",
    "'a'",
    "a",
    "1",
    "-1e5",
    "0x1f",
    "017",
    "tru",
    "true",
    "null",
    "\"\\u",
    "\\ud83d",
    "\"",
    "\\",
    "/*",
    "*/",
    "//",
    "\n",
    "é",
    "NaN",
    "-Infinity",
    "undefined",
    " ",
    "{\"a\":",
    "[[[[",
    "\u{feff}",
    "\"2020-01-02T03:04:05Z\"",
];

fn soup(random: &mut Random, words: &[&str], length: usize) -> String {
    (0..random.below(length)).map(|_| words[random.below(words.len())]).collect()
}

#[test]
fn no_text_and_no_message_panics() {
    let mut random = Random(0x5EED_CAFE_F00D_0001);
    for round in 0..20_000 {
        let text = soup(&mut random, SOUP, 14);
        let mut body = soup(&mut random, BODIES, 10).into_bytes();
        if round % 3 == 0 && !body.is_empty() {
            let at = random.below(body.len());
            body[at] = random.below(256) as u8;
        }
        let encoding = ["utf-8", "utf-16", "utf-32"][random.below(3)];
        let row = serde_json::json!({ "properties": { "a": "x", "é": null },
            "system": { "contentType": "application/json", "contentEncoding": encoding } });
        let sample = Sample { body, ..Sample::new(&row) };
        let view = View::new(&sample);
        for text in [text.clone(), format!("$body.a = {text}")] {
            if let Ok(condition) = compile_condition(&text) {
                let _ = (condition.evaluate(&view), condition.explain(&view));
            }
        }
        let _ = (parse_route(&text), parse_route(&format!("FROM /messages/* WHERE {text} INTO $upstream")));
    }
}

#[test]
fn every_mutation_of_a_good_route_is_survived() {
    let route = "SELECT * FROM /messages/modules/a/outputs/o WHERE $body.a.b[0] >= 3 AND NOT (substring(x, 1, 2) || 'é\\u0041' \
                 = \"y\" ?? {$cid}) INTO BrokeredEndpoint(\"/modules/b/inputs/i\")";
    let mut random = Random(42);
    for _ in 0..20_000 {
        let mut chars: Vec<char> = route.chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(chars.len());
            match random.below(3) {
                0 => drop(chars.remove(at)),
                1 => chars.insert(at, chars[random.below(chars.len())]),
                _ => chars[at] = ['(', ')', '\'', '"', ' ', '$', '/', '*', '[', '.', '-', '\\'][random.below(12)],
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(error) = parse_route(&text) {
            assert!(error.column >= 1 && error.column <= text.chars().count() + 1, "{text}: {error}");
        }
    }
}

#[test]
fn depth_is_limited_everywhere() {
    for (open, close) in [("(", ")"), ("NOT ", ""), ("- ", ""), ("abs(", ")"), ("(- ", ")")] {
        let text = format!("{}1{}", open.repeat(3_000), close.repeat(3_000));
        assert!(compile_condition(&text).is_err(), "{open}");
    }
    let chain = format!("true{}", " and true".repeat(1_500));
    assert!(compile_condition(&chain).unwrap_err().message.contains("levels deep"));
    let long_enough = format!("true{}", " and true".repeat(250));
    let compiled = compile_condition(&long_enough).unwrap();
    assert!(
        compile_condition(&format!("x = '{}'", "y".repeat(ROUTE_BYTES_MAX))).unwrap_err().message.contains("limit")
    );
    let system = serde_json::json!({ "contentType": "application/json", "contentEncoding": "utf-8" });
    for (depth, truth) in [(63, Truth::True), (64, Truth::Undefined), (100_000, Truth::Undefined)] {
        let body = format!("{{\"a\":{}{},\"b\":1}}", "[".repeat(depth), "]".repeat(depth));
        let sample = Sample::new(&serde_json::json!({ "system": system, "body": body }));
        let view = View::new(&sample);
        assert_eq!(compile_condition("$body.b = 1").unwrap().evaluate(&view), truth, "{depth}");
        assert_eq!(compiled.evaluate(&view), Truth::True);
        assert_eq!(compiled.explain(&view).len(), 250);
    }
}
