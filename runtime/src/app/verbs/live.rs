//! Verbs that watch: `logs` and `tap`.
//! Must never hold a line back: each is printed as it comes.

use std::io::{self, Write};

use serde_json::Value;
use smol::LocalExecutor;

use super::{Outcome, Target, next, open, path};
use crate::app::cli::{Logs, Tap};
use crate::app::table::{cell, plain, show, time};
use crate::io::http::{Upload, escape};

pub fn logs(args: &Logs) -> Outcome {
    let tail = args.tail.map(|tail| tail.to_string());
    let follow = args.follow.then_some("true");
    let query = [("follow", follow), ("since", args.since.as_deref()), ("tail", tail.as_deref())];
    watch(&args.target(), &path(&["modules", &args.module, "logs"]), &query, log_line)
}

pub fn tap(args: &Tap) -> Outcome {
    let query = [("from", args.from.as_deref()), ("where", args.condition.as_deref())];
    watch(&args.target(), "/tap", &query, message_line)
}

fn watch(target: &Target, at: &str, query: &[(&str, Option<&str>)], text: fn(&Value) -> String) -> Outcome {
    let pairs: Vec<String> =
        query.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?)))).collect();
    let at = format!("{at}?{}", pairs.join("&"));
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, &target.socket, "GET", &at, Upload::Whole(Vec::new())).await?;
        let mut out = io::stdout();
        while let Some(line) = next(&mut response.body).await? {
            let line = if target.json { line.to_string() } else { text(&line) };
            writeln!(out, "{line}")?;
        }
        Ok(true)
    }))
}

/// Time, level, text; what else the line holds follows as `k=v`.
fn log_line(line: &Value) -> String {
    const PLACED: [&str; 4] = ["at", "level", "message", "module"];
    if line.get("message").is_none() {
        return show(line);
    }
    let more = line.as_object().into_iter().flatten().filter(|(key, _)| !PLACED.contains(&key.as_str()));
    let more: String = more.map(|(key, value)| format!(" {}={}", plain(key), show(value))).collect();
    format!("{} {:<5} {}{more}", time(line, "/at"), cell(line, "/level"), cell(line, "/message"))
}

/// Time, source, properties in brackets, body.
fn message_line(line: &Value) -> String {
    let Some(body) = line.get("body").or(line.get("bodyBase64")) else { return show(line) };
    let section = |name: &str| line[name].as_object().into_iter().flatten();
    let pairs: Vec<String> =
        section("system").chain(section("properties")).map(|(k, v)| format!("{}={}", plain(k), show(v))).collect();
    let body = if let Value::String(text) = body { plain(text) } else { body.to_string() };
    format!("{} {} [{}] {body}", time(line, "/at"), cell(line, "/from"), pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_for_people() {
        let log = json!({"at": 1_795_456_800_000i64, "level": "info", "message": "a\u{7}b", "target": "x"});
        assert_eq!(log_line(&log), "2026-11-23T18:00:00.000Z info  a\\u{7}b target=x");
        assert_eq!(log_line(&json!({"dropped": 3})), "dropped=3");
        let message = json!({"at": 1_795_456_800_000i64, "from": "/messages/modules/f/outputs/o",
            "body": {"t": 1}, "properties": {"level": "high"}, "system": {"messageId": "7"}});
        let expected = "2026-11-23T18:00:00.000Z /messages/modules/f/outputs/o [messageId=7 level=high] {\"t\":1}";
        assert_eq!(message_line(&message), expected);
    }
}
