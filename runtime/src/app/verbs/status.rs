//! `status` and `list`, and `version`: what is, as tables. Must never hide a field of the
//! answer for being new: what has no place in a table is printed below it.

use std::io::{self, Write};

use serde_json::Value;

use super::{Outcome, Target, ask};
use crate::app::table::{bytes, cell, plain, render, show, time};
use crate::logic::units;
use crate::tasks::control;

/// Fields of a status that have a place of their own.
const PLACED: [&str; 10] =
    ["device", "version", "uptimeSeconds", "state", "isolation", "routes", "queues", "modules", "upstream", "warnings"];

pub fn status(target: &Target) -> Outcome {
    let answer = ask(&target.socket, "GET", "/status", Vec::new())?;
    let mut out = io::stdout().lock();
    if target.json {
        writeln!(out, "{answer}")?;
    } else {
        out.write_all(status_text(&answer).as_bytes())?;
    }
    Ok(true)
}

pub fn list(target: &Target) -> Outcome {
    let answer = ask(&target.socket, "GET", "/modules", Vec::new())?;
    let mut out = io::stdout().lock();
    if target.json {
        writeln!(out, "{answer}")?;
    } else {
        // A bare list, or under its name as in a status.
        let modules = answer.get("modules").unwrap_or(&answer);
        out.write_all(modules_table(modules).as_bytes())?;
        out.write_all(problems_text(modules).as_bytes())?;
    }
    Ok(true)
}

pub fn version(json: bool) -> Outcome {
    let version = control::version();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{version}")?;
    } else {
        writeln!(out, "{} {}", cell(&version, "/name"), cell(&version, "/version"))?;
    }
    Ok(true)
}

/// A line for each module that is not as it was asked for. A status has them among its warnings.
fn problems_text(modules: &Value) -> String {
    let modules = modules.as_array().into_iter().flatten().filter(|module| !module["problem"].is_null());
    modules.map(|module| format!("{}: {}\n", cell(module, "/name"), cell(module, "/problem"))).collect()
}

fn status_text(status: &Value) -> String {
    let uptime = status["uptimeSeconds"].as_f64().map(std::time::Duration::try_from_secs_f64);
    let uptime = uptime.and_then(Result::ok).map_or("-".to_owned(), units::show_duration);
    let mut text = format!("{}: skerry {}, up {uptime}\n", cell(status, "/device"), cell(status, "/version"));
    let store = format!(
        "store {} of {}, {} written today",
        bytes(status, "/state/store/bytes"),
        bytes(status, "/state/store/quota"),
        bytes(status, "/state/store/writtenToday")
    );
    let store = store + &wear(status);
    text.push_str(&format!("state: {} ({store})\n", cell(status, "/state/folder")));
    text.push_str(&format!("isolation: {}\n", cell(status, "/isolation")));
    for (key, value) in status.as_object().into_iter().flatten().filter(|(key, _)| !PLACED.contains(&key.as_str())) {
        text.push_str(&format!("{}: {}\n", plain(key), show(value)));
    }
    let warnings = status["warnings"].as_array().into_iter().flatten();
    let more = status["routes"].as_array().into_iter().flatten().flat_map(|route| {
        let warnings = route["warnings"].as_array().into_iter().flatten();
        warnings.map(|warning| format!("route {}: {}", cell(route, "/name"), show(warning)))
    });
    for warning in warnings.map(show).chain(more) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&format!("\n{}", modules_table(&status["modules"])));
    if let Some(uplinks) = status["upstream"].as_array().filter(|uplinks| !uplinks.is_empty()) {
        text.push_str(&format!("\n{}", uplinks_table(uplinks)));
    }
    if let Some(queues) = status["queues"].as_array().filter(|queues| !queues.is_empty()) {
        text.push_str(&format!("\n{}", queues_table(queues)));
    }
    if let Some(routes) = status["routes"].as_array().filter(|routes| !routes.is_empty()) {
        let row = |r: &Value| ["/name", "/true", "/false", "/undefined", "/route"].map(|at| cell(r, at)).to_vec();
        let rows: Vec<_> = routes.iter().map(row).collect();
        text.push_str(&format!("\n{}", render(&["ROUTE", "TRUE", "FALSE", "UNDEFINED", "TEXT"], &rows)));
    }
    text
}

/// What the store does to the flash, once that can be said.
fn wear(status: &Value) -> String {
    let store = &status["state"]["store"];
    let (Some(_), Some(share)) = (store["writtenPerDay"].as_u64(), store["wearPerDay"].as_f64()) else {
        return String::new();
    };
    let each = bytes(store, "/writtenPerDay");
    format!("; at this rate {each} a day, {share:.1} times its quota")
}

fn modules_table(modules: &Value) -> String {
    let Some(modules) = modules.as_array().filter(|modules| !modules.is_empty()) else {
        return "no modules\n".to_owned();
    };
    let row = |m: &Value| {
        let image = match cell(m, "/image/version").as_str() {
            "-" => cell(m, "/image/name"),
            version => format!("{}@{version}", cell(m, "/image/name")),
        };
        let [name, status, generation, pid, restarts] =
            ["/name", "/status", "/generation", "/pid", "/restarts"].map(|at| cell(m, at));
        let (memory, since) = (bytes(m, "/memoryBytes"), time(m, "/since"));
        vec![name, status, image, generation, pid, restarts, memory, since, cell(m, "/isolation"), cell(m, "/lastExit")]
    };
    let head = ["MODULE", "STATUS", "IMAGE", "GEN", "PID", "RESTARTS", "MEMORY", "SINCE", "ISOLATION", "LAST EXIT"];
    render(&head, &modules.iter().map(row).collect::<Vec<_>>())
}

fn uplinks_table(uplinks: &[Value]) -> String {
    let row = |uplink: &Value| {
        let status = match (&uplink["connected"], &uplink["idle"]) {
            (Value::Bool(true), _) => "connected",
            (_, Value::Bool(true)) => "idle",
            _ => "disconnected",
        };
        let [identity, host, in_flight, reason] =
            ["/identity", "/host", "/inFlight", "/reason"].map(|at| cell(uplink, at));
        vec![identity, host, status.to_owned(), time(uplink, "/since"), in_flight, reason]
    };
    render(
        &["IDENTITY", "CLOUD", "STATUS", "SINCE", "IN FLIGHT", "REASON"],
        &uplinks.iter().map(row).collect::<Vec<_>>(),
    )
}

fn queues_table(queues: &[Value]) -> String {
    const COUNTS: [&str; 8] =
        ["accepted", "delivered", "pending", "expired", "evicted", "deadLettered", "removed", "refused"];
    let row = |queue: &Value| {
        let counts = COUNTS.iter().map(|count| cell(queue, &format!("/{count}")));
        [cell(queue, "/endpoint"), cell(queue, "/priority")].into_iter().chain(counts).collect()
    };
    let head =
        ["QUEUE", "PRIORITY", "ACCEPTED", "DELIVERED", "PENDING", "EXPIRED", "EVICTED", "DEAD", "REMOVED", "REFUSED"];
    render(&head, &queues.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_readable_and_loses_nothing() {
        let text = status_text(&json!({
            "device": "Hannover01", "version": "0.1.0", "uptimeSeconds": 11_520, "isolation": "uid",
            "state": {"folder": "/s", "store": {"bytes": 4_718_592, "quota": 1_073_741_824, "writtenToday": 0,
                "writtenPerDay": 2_147_483_648u64, "wearPerDay": 2.0}},
            "routes": [{"name": "all", "route": "FROM /* INTO $upstream", "true": 7, "false": 0, "undefined": 0, "warnings": ["w2"]}],
            "queues": [{"endpoint": "upstream", "priority": 2_000_000_000u32, "accepted": 7, "pending": 7}],
            "modules": [{"name": "filter", "image": {"name": "filter", "version": "1.2.0"}, "status": "running",
                "generation": 3, "pid": 77, "restarts": 0, "lastExit": {"signal": 11}, "memoryBytes": 2_097_152}],
            "warnings": ["w1"], "clock": {"floor": 5},
        }));
        let expected = "\
Hannover01: skerry 0.1.0, up 3h 12min
state: /s (store 4.5MiB of 1GiB, 0B written today; at this rate 2GiB a day, 2.0 times its quota)
isolation: uid
clock: floor=5
warning: w1
warning: route all: w2

MODULE  STATUS   IMAGE         GEN  PID  RESTARTS  MEMORY  SINCE  ISOLATION  LAST EXIT
filter  running  filter@1.2.0    3   77         0    2MiB      -          -  signal=11

QUEUE       PRIORITY  ACCEPTED  DELIVERED  PENDING  EXPIRED  EVICTED  DEAD  REMOVED  REFUSED
upstream  2000000000         7          -        7        -        -     -        -        -

ROUTE  TRUE  FALSE  UNDEFINED  TEXT
all       7      0          0  FROM /* INTO $upstream
";
        assert_eq!(text, expected);
        assert!(status_text(&json!({})).contains("no modules"));
    }

    #[test]
    fn what_is_not_as_asked_is_told_below_the_list() {
        let modules = json!([{"name": "a", "problem": null}, {"name": "b", "problem": "it has no image"}]);
        assert_eq!(problems_text(&modules), "b: it has no image\n");
    }
}
