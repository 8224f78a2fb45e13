//! `cargo xtask cloud`: the emulator of the cloud as a program: events on stdout, commands on stdin. Must never decide
//! anything itself: all of that is in `tests/cloud`.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Event, Identity, Options};

use crate::interrupt;

/// Between two looks at whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What was typed.
pub struct Wanted {
    /// The first one has what the others have not: modules that name no device.
    pub devices: Vec<String>,
    /// `insight`, or `Hannover02/insight`.
    pub modules: Vec<String>,
    pub listen: Option<SocketAddr>,
    pub key: Option<String>,
    pub grace_s: u64,
    pub json: bool,
    pub stay: bool,
}

/// Until stdin ends, or a signal comes.
pub fn run(wanted: Wanted) -> Result<bool, String> {
    interrupt::catch()?;
    let Wanted { devices, modules, listen, key, grace_s, json, stay } = wanted;
    let (named, modules): (Vec<String>, Vec<String>) = modules.into_iter().partition(|module| module.contains('/'));
    let mut devices = devices.into_iter();
    let device = devices.next().unwrap_or_else(|| Options::default().device);
    let others = devices.chain(named).collect();
    let options = Options { device, modules, others, listen, key, grace_s, ..Options::default() };
    let cloud = Arc::new(Cloud::start(options)?);
    let mut events = cloud.events_from(0);
    show(json, &ready(&cloud))?;
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    // It waits for a line that may never come, and so must not be what keeps the cloud alive.
    let weak = Arc::downgrade(&cloud);
    std::thread::spawn(move || {
        obey(&weak, json);
        ended.store(!stay, Ordering::Relaxed);
    });
    loop {
        if let Some(event) = events.next(LOOK_EVERY) {
            show(json, &line(&event))?;
        } else if over.load(Ordering::Relaxed) || interrupt::check().is_err() {
            return Ok(true);
        }
    }
}

fn ready(cloud: &Cloud) -> Value {
    let ready = cloud.ready();
    let identities: Vec<&Identity> =
        std::iter::once(&ready.device).chain(&ready.modules).chain(&ready.others).collect();
    json!({
        "event": "ready",
        "address": ready.address,
        "proxy": ready.proxy,
        "caFile": ready.ca_file,
        "hostName": ready.host_name,
        "policyConnectionString": ready.policy_connection_string,
        "dps": ready.dps,
        "identities": identities,
    })
}

fn obey(cloud: &Weak<Cloud>, json: bool) {
    for line in io::stdin().lock().lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
        let Some(cloud) = cloud.upgrade() else { return };
        let answer = Command::from_json(&line).and_then(|command| cloud.command(command));
        let said = match answer {
            Ok(Value::Null) => continue,
            Ok(value) => json!({"event": "answer", "value": value}),
            Err(message) => json!({"event": "error", "message": message}),
        };
        if show(json, &said).is_err() {
            return;
        }
    }
}

fn line(event: &Event) -> Value {
    serde_json::to_value(event).unwrap_or_else(|e| json!({"event": "error", "message": e.to_string()}))
}

/// One line, as JSON or as words.
fn show(json: bool, value: &Value) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = if json { writeln!(out, "{value}") } else { writeln!(out, "{}", words(value)) };
    written.and_then(|()| out.flush()).map_err(|e| format!("stdout: {e}"))
}

/// `telemetry identity=Hannover01/insight body={"n":1} …`; the time is for machines.
fn words(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let mut text = format!("{:<13}", fields.get("event").and_then(Value::as_str).unwrap_or_default());
    let shown = |name: &str| !matches!(name, "event" | "at_ms" | "identities" | "policyConnectionString");
    for (name, value) in fields.iter().filter(|(name, value)| shown(name) && !value.is_null()) {
        text += &value.as_str().map_or_else(|| format!(" {name}={value}"), |word| format!(" {name}={word}"));
    }
    if let Some(policy) = fields.get("policyConnectionString").and_then(Value::as_str) {
        text += &format!("\n  back end: {policy}");
    }
    for identity in fields.get("identities").and_then(Value::as_array).into_iter().flatten() {
        let part = |name: &str| identity[name].as_str().unwrap_or_default();
        text += &format!("\n  {}: {}", part("id"), part("connectionString"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_of_words() {
        let event = json!({"at_ms": 1, "event": "method", "rid": "7", "status": 200, "payload": {"a": 1}, "x": null});
        assert_eq!(words(&event), "method        payload={\"a\":1} rid=7 status=200");
    }
}
