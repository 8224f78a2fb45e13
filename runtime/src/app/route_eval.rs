//! `skerry route eval`: try routes on messages that stand in files, with no runtime and no network.
//! Prints what came out, and for one message why. Must never guess at a broken file: it names the file and the line.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::logic::routing::{
    Condition, Held, NamedRoute, RouteTable, Step, Subject, Truth, View, Warning, compile_condition, is_route,
    parse_route,
};

/// A message from a file.
struct Sample {
    properties: Map<String, Value>,
    system: Map<String, Value>,
    body: Vec<u8>,
}

impl Sample {
    /// `{"properties":{…},"system":{…},"body":…}`, everything optional. A body of null is empty, a text is taken byte by
    /// byte, anything else is written as JSON.
    fn new(row: &Map<String, Value>) -> Result<Sample, String> {
        let body = match row.get("body") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text.clone().into_bytes(),
            Some(other) => other.to_string().into_bytes(),
        };
        Ok(Sample { properties: texts(row, "properties")?, system: texts(row, "system")?, body })
    }
}

fn texts(row: &Map<String, Value>, key: &str) -> Result<Map<String, Value>, String> {
    let map = match row.get(key) {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(format!("\"{key}\" must be an object")),
    };
    match map.iter().find(|(_, value)| !value.is_string() && !value.is_null()) {
        Some((name, value)) => Err(format!("\"{key}\": {name} must be a text or null: write \"{value}\" in quotes")),
        None => Ok(map.clone()),
    }
}

fn held<'a>(map: &'a Map<String, Value>, name: &str) -> Held<'a> {
    let same = |key: &str| key.eq_ignore_ascii_case(name) || key.to_lowercase() == name.to_lowercase();
    match map.get(name).or_else(|| map.iter().find(|(key, _)| same(key)).map(|(_, value)| value)) {
        None => Held::Absent,
        Some(Value::String(text)) => Held::Text(text),
        Some(_) => Held::Null,
    }
}

impl Subject for Sample {
    fn application(&self, name: &str) -> Held<'_> {
        held(&self.properties, name)
    }

    fn system(&self, name: &str) -> Held<'_> {
        held(&self.system, name)
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Evaluates every row of a file: `condition`, the message, `expect` (true, false or "error"), perhaps `tri`
/// ("true", "false", "undefined"). Prints each mismatch and the sums; fails when there is a mismatch.
pub fn eval_cases(file: &Path, json: bool) -> ExitCode {
    print(cases(file, json))
}

/// Explains one decision: a whole route, or a condition alone, on the message of a file. Its `source`
/// (`/messages/modules/m/outputs/o`) is optional; with it the route's source counts too.
pub fn eval_one(route: &str, message_file: &Path, json: bool) -> ExitCode {
    print(one(route, message_file, json).map(|text| (text, true)))
}

fn print(outcome: Result<(String, bool), String>) -> ExitCode {
    match outcome {
        Ok((text, good)) => {
            println!("{}", text.trim_end());
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn load(file: &Path) -> Result<Value, String> {
    let name = file.display();
    let bytes = std::fs::read(file).map_err(|e| format!("{name}: can't be read: {e}"))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let text = e.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        format!("{name}:{}:{}: no valid JSON: {what}", e.line(), e.column())
    })
}

fn cases(file: &Path, json: bool) -> Result<(String, bool), String> {
    let Value::Array(rows) = load(file)? else {
        return Err(format!("{}: must be a list of rows: [{{\"condition\":…,\"expect\":…}}, …]", file.display()));
    };
    let mut mismatches = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let number = index + 1;
        let outcome = case(row).map_err(|why| format!("{}: row {number}: {why}", file.display()))?;
        if let Some((condition, expected, got)) = outcome {
            mismatches.push((number, condition, expected, got));
        }
    }
    let (failed, passed) = (mismatches.len(), rows.len() - mismatches.len());
    if json {
        let mismatches: Vec<Value> = mismatches
            .into_iter()
            .map(|(row, condition, expected, got)| json!({ "row": row, "condition": condition, "expected": expected, "got": got }))
            .collect();
        let all = json!({ "passed": passed, "failed": failed, "mismatches": mismatches });
        return Ok((all.to_string(), failed == 0));
    }
    let mut out = String::new();
    for (row, condition, expected, got) in mismatches {
        let _ = writeln!(out, "row {row}: {condition}\n  expected {expected}, got {got}");
    }
    let _ = writeln!(out, "{passed} passed, {failed} failed");
    Ok((out, failed == 0))
}

/// `None` when the row fits, else condition, expectation and result.
fn case(row: &Value) -> Result<Option<(String, String, String)>, String> {
    let row = row.as_object().ok_or("must be an object")?;
    let condition = row.get("condition").and_then(Value::as_str).ok_or("\"condition\" must be a text")?;
    let sample = Sample::new(row)?;
    let tri = match row.get("tri") {
        None | Some(Value::Null) => None,
        Some(Value::String(tri)) => Some(tri.as_str()),
        Some(_) => return Err("\"tri\" must be \"true\", \"false\" or \"undefined\"".to_owned()),
    };
    let outcome = compile_condition(condition).map(|compiled| compiled.evaluate(&View::new(&sample)));
    let fits = match row.get("expect") {
        Some(Value::Bool(expected)) => outcome.as_ref().is_ok_and(|truth| (*truth == Truth::True) == *expected),
        Some(Value::String(word)) if word == "error" => outcome.is_err(),
        _ => return Err("\"expect\" must be true, false or \"error\"".to_owned()),
    };
    let tri_fits =
        outcome.is_err() || tri.is_none_or(|tri| outcome.as_ref().is_ok_and(|truth| truth.to_string() == tri));
    if fits && tri_fits {
        return Ok(None);
    }
    let expected = match (&row["expect"], tri) {
        (Value::Bool(_), Some(tri)) => tri.to_owned(),
        (Value::Bool(expected), None) => expected.to_string(),
        _ => "error".to_owned(),
    };
    let got = match outcome {
        Ok(truth) => truth.to_string(),
        Err(error) => format!("error ({error})"),
    };
    Ok(Some((condition.to_owned(), expected, got)))
}

/// What is told of one decision.
struct Decision<'a> {
    source_matches: Option<bool>,
    endpoint: Option<String>,
    truth: Truth,
    condition: &'a Condition,
    steps: Vec<Step>,
    warnings: Vec<Warning>,
}

fn one(route: &str, message_file: &Path, json: bool) -> Result<String, String> {
    let message = load(message_file)?;
    let wrong = |why: String| format!("{}: {why}", message_file.display());
    let message = message.as_object().ok_or_else(|| wrong("must be a JSON object".to_owned()))?;
    let sample = Sample::new(message).map_err(wrong)?;
    let source = match message.get("source") {
        None | Some(Value::Null) => None,
        Some(Value::String(source)) => Some(source.as_str()),
        Some(_) => return Err(wrong("\"source\" must be a text like /messages/modules/m/outputs/o".to_owned())),
    };
    let view = View::new(&sample);
    if !is_route(route) {
        let condition = compile_condition(route).map_err(|e| pointed(route, e.column, &e.message))?;
        let warnings = condition
            .trailing()
            .map(|column| Warning {
                column,
                message: "the text after the condition is ignored here, and an error in a route".to_owned(),
            })
            .into_iter()
            .collect();
        let (truth, steps) = (condition.evaluate(&view), condition.explain(&view));
        let decision = Decision { source_matches: None, endpoint: None, truth, condition: &condition, steps, warnings };
        return Ok(show(&decision, json));
    }
    let parsed = parse_route(route).map_err(|e| pointed(route, e.column, &e.message))?;
    let source_matches = match source {
        None => None,
        Some(source) => {
            let named = NamedRoute { name: "route".to_owned(), text: route.to_owned(), priority: None, ttl_secs: None };
            let table = RouteTable::new([named]).map_err(|e| e.to_string())?;
            Some(!table.candidates(source).is_empty())
        }
    };
    let decision = Decision {
        source_matches,
        endpoint: Some(parsed.sink.to_string()),
        truth: parsed.condition.evaluate(&view),
        steps: parsed.condition.explain(&view),
        condition: &parsed.condition,
        warnings: parsed.warnings,
    };
    Ok(show(&decision, json))
}

/// The sentence, and below it the text with a mark under the column.
fn pointed(text: &str, column: usize, message: &str) -> String {
    let flat = text.replace(['\n', '\r', '\t'], " ");
    format!("column {column}: {message}\n  {flat}\n  {}^", " ".repeat(column.saturating_sub(1)))
}

fn show(decision: &Decision<'_>, json: bool) -> String {
    let delivers = decision.truth == Truth::True && decision.source_matches != Some(false);
    if json {
        let steps: Vec<Value> = decision
            .steps
            .iter()
            .map(|step| json!({ "depth": step.depth, "text": step.text, "value": step.value, "why": step.why }))
            .collect();
        let warnings: Vec<Value> =
            decision.warnings.iter().map(|w| json!({ "column": w.column, "message": w.message })).collect();
        return json!({
            "condition": decision.condition.text(),
            "result": decision.truth.to_string(),
            "delivers": delivers,
            "source_matches": decision.source_matches,
            "endpoint": decision.endpoint,
            "steps": steps,
            "warnings": warnings,
        })
        .to_string();
    }
    let mut out = String::new();
    if let Some(matches) = decision.source_matches {
        let _ = writeln!(out, "source: {}", if matches { "matches" } else { "does not match" });
    }
    let target = decision.endpoint.as_ref().map_or(String::new(), |endpoint| format!(" to {endpoint}"));
    let verdict = if delivers { "delivered" } else { "not delivered" };
    let _ = writeln!(out, "condition: {} -> {verdict}{target}", decision.truth);
    let width = decision.steps.iter().map(|step| 2 * step.depth + step.text.chars().count()).max().unwrap_or(0).min(60);
    for step in &decision.steps {
        let text = format!("{}{}", "  ".repeat(step.depth), step.text);
        let _ = write!(out, "  {text:width$}  {}", step.value);
        let _ = match &step.why {
            Some(why) => writeln!(out, "  ({why})"),
            None => writeln!(out),
        };
    }
    for warning in &decision.warnings {
        let _ = writeln!(out, "warning, column {}: {}", warning.column, warning.message);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_fields_rows_pass() {
        let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/route-cases.json");
        let (text, good) = cases(&rows, false).unwrap();
        assert!(good, "{text}");
        assert_eq!(text, "170 passed, 0 failed\n");
    }

    #[test]
    fn a_mismatch_names_row_condition_and_both_results() {
        let rows = file(
            r#"[{"condition":"true","expect":true},{"condition":"x = 'y'","properties":{"x":"z"},"expect":true},
                {"condition":"x = 5","expect":false},{"condition":"m = 'x'","expect":false,"tri":"false"},
                {"condition":"true","expect":"error"}]"#,
        );
        let (text, good) = cases(rows.path(), false).unwrap();
        assert!(!good);
        assert!(text.contains("row 2: x = 'y'\n  expected true, got false\n"), "{text}");
        assert!(text.contains("row 3: x = 5\n  expected false, got error (column 3: "), "{text}");
        assert!(text.contains("row 4: m = 'x'\n  expected false, got undefined\n"), "{text}");
        assert!(text.ends_with("1 passed, 4 failed\n"), "{text}");
        let (text, _) = cases(rows.path(), true).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((all["passed"].as_u64(), all["failed"].as_u64()), (Some(1), Some(4)));
        assert_eq!(all["mismatches"][0]["row"], 2);
    }

    #[test]
    fn broken_files_are_named() {
        let check = |text: &str, part: &str| {
            let file = file(text);
            let error = cases(file.path(), false).unwrap_err();
            assert!(error.starts_with(&file.path().display().to_string()) && error.contains(part), "{error}");
            assert!(!error.contains('\n'), "{error}");
        };
        check("[\n{\"condition\": }]", ":2:15: no valid JSON");
        check("{}", "must be a list");
        check("[{\"expect\":true}]", "row 1: \"condition\" must be a text");
        check("[{\"condition\":\"true\"}]", "row 1: \"expect\" must be");
        check("[{\"condition\":\"true\",\"expect\":true,\"properties\":{\"a\":5}}]", "write \"5\" in quotes");
        assert!(cases(Path::new("/nowhere/at/all.json"), false).unwrap_err().contains("can't be read"));
    }

    #[test]
    fn one_decision_is_explained() {
        let message = file(
            r#"{"properties":{"level":"high"},"system":{"contentType":"application/json"},"body":{"t":26},
                "source":"/messages/modules/m/outputs/o"}"#,
        );
        let text = one(
            "FROM /messages/modules/m/* WHERE level = 'high' AND $body.t > 25 INTO $upstream",
            message.path(),
            false,
        );
        let text = text.unwrap();
        for part in [
            "source: matches",
            "condition: undefined -> not delivered to $upstream",
            "level = 'high'",
            "$body.t > 25",
            "the message has no contentEncoding",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = one("FROM /messages/modules/n INTO $upstream", message.path(), true).unwrap();
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&told["delivers"], &told["source_matches"]), (&json!(false), &json!(false)));
        let text = one("level = 'high' rest", message.path(), false).unwrap();
        assert!(text.contains("true -> delivered") && text.contains("warning, column 16"), "{text}");
        let error = one("level > 5", message.path(), false).unwrap_err();
        assert!(error.starts_with("column 7: '>'") && error.ends_with("\n  level > 5\n        ^"), "{error}");
    }
}
