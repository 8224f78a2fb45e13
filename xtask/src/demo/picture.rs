//! What is drawn: the device, its values, what waits, and what the cloud got last; as a picture and as a line. Must never
//! show a number that it was not given.

use std::fmt;

use serde_json::Value;
use skerry_cloud::Telemetry;

use super::MODULES;
use super::view::{Paint, View};
use super::watch::{FIELDS, Seen};

/// Columns of a body.
const BODY_MAX: usize = 44;
/// What is for counting, and not for a reader: left out of what is shown.
const NUMBERS: [&str; 6] = ["epoch", "seq", "safe", "device", "time_ms", "covers"];

pub struct Picture<'a> {
    pub seen: &'a Seen,
    /// Null when the device does not answer.
    pub status: &'a Value,
    pub field: usize,
    pub threshold: f64,
    pub doing: &'a str,
}

/// Messages for the cloud that are still on the device.
#[derive(Clone, Copy, Default)]
pub struct Waiting {
    pub pending: u64,
    /// Of these, on disk.
    pub stored: u64,
    pub bytes: u64,
}

impl Waiting {
    pub fn of(status: &Value) -> Waiting {
        let queues = status["queues"].as_array().into_iter().flatten();
        let upstream = queues.filter(|q| q["endpoint"].as_str().is_some_and(|e| e.starts_with("upstream/")));
        let mut waiting =
            Waiting { bytes: status["state"]["store"]["blockBytes"].as_u64().unwrap_or(0), ..Waiting::default() };
        for queue in upstream {
            waiting.pending += queue["pending"].as_u64().unwrap_or(0);
            waiting.stored += queue["stored"].as_u64().unwrap_or(0);
        }
        waiting
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { pending, stored, bytes } = self;
        write!(f, "{pending} messages wait for the cloud, {stored} of them on disk, in {:.1} kB", *bytes as f64 / 1e3)
    }
}

/// Identity, properties, the number, and the beginning of the body.
pub fn message(message: &Telemetry) -> String {
    let properties = message.properties.iter().filter(|(name, _)| !NUMBERS.contains(&name.as_str()));
    let properties: Vec<String> =
        properties.map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or_default())).collect();
    let mut body = message.json().unwrap_or_default();
    let seq = body["seq"].as_u64().unwrap_or(0);
    if let Value::Object(map) = &mut body {
        map.retain(|name, _| !NUMBERS.contains(&name.as_str()));
    }
    format!(
        "{:<19}{}#{seq:<4}{:<18} {}",
        message.identity,
        if message.dup { "DUP " } else { "" },
        properties.join("&"),
        short(&body.to_string(), BODY_MAX)
    )
}

fn short(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

impl Picture<'_> {
    /// For a terminal, drawn anew again and again.
    pub fn lines(&self, view: &View) -> String {
        let [bold, dim, off, cyan] = [Paint::Bold, Paint::Dim, Paint::Off, Paint::Cyan].map(|p| view.paint(p));
        let mut text = format!("\n  {bold}sysinfo{off} ──▶ {bold}filter{off} ──▶ {bold}window{off} ──▶ $upstream");
        text += &format!("      {cyan}{}{off}\n\n", self.doing);
        text += &format!(
            "  {dim}{:<10}{:>8}{:>6}  {:<10}{:>9}  {:<13}{:>9}{:>8}{off}\n",
            "module", "pid", "life", "state", "memory", "to the cloud", "waiting", "there"
        );
        for module in self.status["modules"].as_array().into_iter().flatten() {
            text += &self.module(view, module);
        }
        let field = &FIELDS[self.field];
        text += &format!("\n  {:<12}{}\n", field.name, self.bars(view));
        text += &format!("  {dim}{:<12}{}{off}\n", "", self.summary());
        text += &format!("  {:<12}{}\n", "window", self.window());
        text += &format!("  {:<12}{}\n\n", "store", Waiting::of(self.status));
        for latest in &self.seen.latest {
            text += &format!("  {cyan}cloud <-{off} {dim}{}{off}\n", message(latest));
        }
        text
    }

    fn module(&self, view: &View, module: &Value) -> String {
        let name = module["name"].as_str().unwrap_or("?");
        let state = module["status"].as_str().unwrap_or("?");
        let (off, red, green) = (view.paint(Paint::Off), view.paint(Paint::Red), view.paint(Paint::Green));
        let of = |list: &str, key: &str, value: &str| {
            let found = self.status[list].as_array().into_iter().flatten().find(|entry| entry[key] == *value);
            found.cloned().unwrap_or_default()
        };
        let is_connected = of("upstream", "module", name)["connected"] == true;
        let (line, line_colour) = if is_connected { ("connected", green) } else { ("cut off", red) };
        format!(
            "  {name:<10}{:>8}{:>6}  {}{state:<10}{off}{:>9}  {line_colour}{line:<13}{off}{:>9}{:>8}\n",
            module["pid"].as_i64().map_or("-".to_owned(), |pid| pid.to_string()),
            module["generation"].as_u64().unwrap_or(0),
            if state == "running" { green } else { red },
            module["memoryBytes"].as_f64().map_or("-".to_owned(), |b| format!("{:.1} MB", b / 1e6)),
            of("queues", "endpoint", &format!("upstream/{name}"))["pending"].as_u64().unwrap_or(0),
            self.seen.in_cloud(name),
        )
    }

    /// One bar a reading; bright ones passed the filter.
    fn bars(&self, view: &View) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let values: Vec<f64> = self.seen.recent.iter().filter_map(|n| self.seen.value(*n, self.field)).collect();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let mut text = String::new();
        for number in &self.seen.recent {
            let Some(value) = self.seen.value(*number, self.field) else { continue };
            let step = if high > low { (value - low) / (high - low) * 7.0 } else { 3.0 };
            let paint = if self.seen.alerts.contains(number) { Paint::Green } else { Paint::Dim };
            let bar = BARS[(step.round() as usize).min(7)];
            text += &format!("{}{bar}{}", view.paint(paint), view.paint(Paint::Off));
        }
        text
    }

    fn summary(&self) -> String {
        let field = &FIELDS[self.field];
        let last = self.seen.recent.back().and_then(|n| self.seen.value(*n, self.field));
        let now = last.map_or("-".to_owned(), |v| field.show(v));
        let threshold = if self.threshold < 0.0 { "none: all pass".to_owned() } else { field.show(self.threshold) };
        let seen = &self.seen;
        format!("now {now}, threshold {threshold}; {} readings, {} passed", seen.readings.len(), seen.alerts.len())
    }

    fn window(&self) -> String {
        let Some(body) = &self.seen.last_window else { return "-".to_owned() };
        let shown = |name: &str| {
            let field = FIELDS.iter().find(|field| body["field"] == field.path).unwrap_or(&FIELDS[self.field]);
            body[name].as_f64().map_or("-".to_owned(), |value| field.show(value))
        };
        format!("{} readings: min {}, mean {}, max {}", body["count"], shown("min"), shown("mean"), shown("max"))
    }

    /// For a log.
    pub fn line(&self) -> String {
        let there = MODULES.map(|module| format!("{module} {}", self.seen.in_cloud(module))).join(", ");
        let Waiting { pending, stored, bytes } = Waiting::of(self.status);
        let field = &FIELDS[self.field];
        let last = self.seen.recent.back().and_then(|n| self.seen.value(*n, self.field));
        format!(
            "     {} {}; in the cloud: {there}; waiting: {pending}, on disk {stored}, {:.1} kB",
            field.name,
            last.map_or("-".to_owned(), |v| field.show(v)),
            bytes as f64 / 1e3
        )
    }
}
