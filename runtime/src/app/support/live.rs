//! What only a running skerry knows: its status, the ledger, twins, identities, the manifest in force, and logs in memory.
//! Must never ask for a message: bodies are somebody's.

use std::collections::BTreeSet;
use std::io;

use serde_json::{Value, json};

use super::Bundle;
use crate::app::config::Config;
use crate::app::verbs;
use crate::io::http::escape;
use crate::logic::log_ring::LogLine;
use crate::logic::log_text;
use crate::logic::manifest::{AGENT, HUB};
use crate::model::time::Wall;
use crate::tasks::own_log;

/// Of the runtime that answers, if one does.
pub fn status(bundle: &mut Bundle, config: &Config) -> Option<Value> {
    match verbs::ask(&config.control_socket, "GET", "/status", Vec::new()) {
        Ok(status) => Some(status),
        Err(fault) => {
            for name in ["status.json", "metrics.txt"] {
                bundle.missing(name, &fault);
            }
            None
        }
    }
}

/// What became of every message, alone.
fn ledger(status: &Value) -> Value {
    let keys = ["queues", "deadLetters", "noRoute", "refused", "memory", "time", "uptimeSeconds"];
    keys.into_iter().map(|key| (key.to_owned(), status[key].clone())).collect()
}

pub fn add(bundle: &mut Bundle, config: &Config, status: &Value, since: Option<&str>) -> io::Result<()> {
    for (name, at) in
        [("deployment.json", "/deployment"), ("images.json", "/images"), ("identities.json", "/identities")]
    {
        match verbs::ask(&config.control_socket, "GET", at, Vec::new()) {
            Ok(json) => bundle.json(name, &json)?,
            Err(fault) => bundle.missing(name, fault),
        }
    }
    bundle.json("status.json", status)?;
    bundle.json("ledger.json", &ledger(status))?;
    match verbs::fetch(&config.control_socket, "/metrics") {
        Ok(bytes) => bundle.text("metrics.txt", &String::from_utf8_lossy(&bytes))?,
        Err(fault) => bundle.missing("metrics.txt", fault),
    }
    let modules = status["modules"].as_array().into_iter().flatten().filter_map(|module| module["name"].as_str());
    let modules: BTreeSet<&str> = modules.collect();
    for module in modules.iter().copied().chain([AGENT, HUB]) {
        let name = format!("twins/{module}.json");
        match verbs::ask(&config.control_socket, "GET", &format!("/modules/{}/twin", escape(module)), Vec::new()) {
            Ok(twin) => bundle.json(&name, &twin)?,
            Err(fault) => bundle.missing(&name, fault),
        }
    }
    for module in modules.into_iter().chain([own_log::NAME]) {
        let name = if module == own_log::NAME { "logs/skerry.log".to_owned() } else { format!("logs/{module}.log") };
        let since = since.map_or(String::new(), |since| format!("?since={}", escape(since)));
        match verbs::fetch(&config.control_socket, &format!("/modules/{}/logs{since}", escape(module))) {
            Ok(lines) => bundle.text(&name, &text_of(&lines))?,
            Err(fault) => bundle.missing(&name, fault),
        }
    }
    Ok(())
}

/// As they lie in files; what is no line of a log is put in as it came.
fn text_of(lines: &[u8]) -> String {
    let lines = String::from_utf8_lossy(lines);
    let line = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap_or(json!(null));
        let level = LogLine::level_named(json["level"].as_str().unwrap_or_default());
        match (json["at"].as_i64(), level, json["target"].as_str(), json["message"].as_str()) {
            (Some(at), Some(level), Some(stream), Some(text)) => {
                log_text::write(&LogLine { at: Wall(at), level, stream: stream.to_owned(), text: text.to_owned() })
            }
            _ => format!("{line}\n"),
        }
    };
    lines.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_in_files() {
        let told = json!({"at": 1_795_456_800_000i64, "level": "warn", "message": "a\nb", "target": "x"});
        let text = text_of(format!("{told}\n{{\"dropped\":3}}\n").as_bytes());
        assert_eq!(text, "2026-11-23T18:00:00.000Z warn x: a\n\tb\n{\"dropped\":3}\n");
    }
}
