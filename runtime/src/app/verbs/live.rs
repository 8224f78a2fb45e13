//! Verbs that watch: `logs`, `tap` and `trace`.
//! Must never hold a line back: each is printed as it comes.

use std::io::{self, Write};

use crate::io::executor::Executor;
use serde_json::Value;

use super::{Outcome, Target, next, open, path};
use crate::app::cli::{Logs, Tap, Trace};
use crate::app::table::{bytes, cell, plain, show, time};
use crate::io::http::{Upload, escape};

pub fn logs(args: &Logs) -> Outcome {
    let tail = args.tail.map(|tail| tail.to_string());
    let follow = args.follow.then_some("true");
    let [since, until] = [&args.since, &args.until].map(|time| time.as_deref());
    let query = [("follow", follow), ("since", since), ("until", until), ("tail", tail.as_deref())];
    watch(&args.target(), &path(&["modules", &args.module, "logs"]), &query, log_line)
}

pub fn tap(args: &Tap) -> Outcome {
    let query = [("from", args.from.as_deref()), ("where", args.condition.as_deref())];
    watch(&args.target(), "/tap", &query, message_line)
}

pub fn trace(args: &Trace) -> Outcome {
    let limit = args.limit.map(|limit| limit.to_string());
    let [source, output, id] = [&args.source, &args.output, &args.id].map(|text| text.as_deref());
    let query = [("source", source), ("output", output), ("id", id), ("limit", limit.as_deref())];
    watch(&args.target(), "/trace", &query, traced_text)
}

fn watch(target: &Target, at: &str, query: &[(&str, Option<&str>)], text: fn(&Value) -> String) -> Outcome {
    let pairs: Vec<String> =
        query.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?)))).collect();
    let at = format!("{at}?{}", pairs.join("&"));
    let executor = Executor::new();
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

/// The message, then a line a route and a line an endpoint.
fn traced_text(line: &Value) -> String {
    let id = line.pointer("/system/messageId").map_or(String::new(), |id| format!(" id={}", show(id)));
    let size = bytes(line, "/bytes");
    let mut text = format!("{} {}{id} {size}", time(line, "/at"), cell(line, "/from"));
    let why = |value: &Value| value["why"].as_str().map_or(String::new(), |why| format!(": {}", plain(why)));
    match line["outcome"].as_str() {
        Some("noRoute") => text.push_str("\n  dropped: it matched no route"),
        Some("refused") => text.push_str(&format!("\n  refused: {}", cell(line, "/reason"))),
        _ => {}
    }
    match line["routes"].as_array() {
        None => text.push_str("\n  the routes have changed since"),
        Some(routes) if routes.is_empty() => text.push_str("\n  no route is for messages from there"),
        Some(routes) => {
            let routes =
                routes.iter().map(|r| format!("\n  route {} {}{}", cell(r, "/name"), cell(r, "/result"), why(r)));
            text.extend(routes);
        }
    }
    for end in line["endpoints"].as_array().into_iter().flatten() {
        let consumer = cell(end, "/consumer");
        let state = match end["state"].as_str().unwrap_or_default() {
            "waiting" => format!("waiting for {consumer}"),
            "stored" => format!("stored on disk, waiting for {consumer}"),
            "consumer" => format!("with {consumer}"),
            "givenUp" => "given up, about to be a dead letter".to_owned(),
            "deadLettered" => "dead letter".to_owned(),
            other => plain(other),
        };
        let refusals = match end["refusals"].as_u64() {
            None | Some(0) => String::new(),
            Some(count) => format!(", refused {count} times"),
        };
        let open = ["waiting", "stored", "consumer", "givenUp"].contains(&end["state"].as_str().unwrap_or_default());
        let when = if open { "since" } else { "at" };
        text.push_str(&format!("\n  {} {state} {when} {}{refusals}", cell(end, "/endpoint"), time(end, "/at")));
    }
    text
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
        let end = |state: &str, refusals: u64| {
            json!({"endpoint": "modules/f/inputs/i", "consumer": "f", "state": state, "at": 1_795_456_800_250i64,
                "refusals": refusals})
        };
        let traced = json!({"at": 1_795_456_800_000i64, "from": "/messages/modules/m/outputs/o/", "bytes": 300,
            "outcome": "taken", "system": {"messageId": "7"},
            "routes": [{"name": "hot", "result": "undefined", "why": "no a\u{7}"}, {"name": "all", "result": "true", "why": null}],
            "endpoints": [end("stored", 0), end("consumer", 2), end("delivered", 0)]});
        let at = "2026-11-23T18:00:00.250Z";
        let expected = format!(
            "2026-11-23T18:00:00.000Z /messages/modules/m/outputs/o/ id=7 300B\n  route hot undefined: no a\\u{{7}}\n  route all \
             true\n  modules/f/inputs/i stored on disk, waiting for f since {at}\n  modules/f/inputs/i with f since {at}, \
             refused 2 times\n  modules/f/inputs/i delivered at {at}"
        );
        assert_eq!(traced_text(&traced), expected);
        let gone = json!({"outcome": "noRoute", "routes": []});
        assert_eq!(traced_text(&gone), "- - -\n  dropped: it matched no route\n  no route is for messages from there");
        assert!(
            traced_text(&json!({"outcome": "refused", "reason": "full"})).contains("refused: full\n  the routes have")
        );
        let message = json!({"at": 1_795_456_800_000i64, "from": "/messages/modules/f/outputs/o",
            "body": {"t": 1}, "properties": {"level": "high"}, "system": {"messageId": "7"}});
        let expected = "2026-11-23T18:00:00.000Z /messages/modules/f/outputs/o [messageId=7 level=high] {\"t\":1}";
        assert_eq!(message_line(&message), expected);
    }
}
