//! What the demo shows: events that stay, and below them a picture that is drawn anew. Without a terminal, plain lines.
//! Must never show a number that it was not given.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::watch::{FIELDS, Seen};

/// How often the picture is drawn, and how often a plain line is printed.
const DRAW: Duration = Duration::from_millis(120);
const PLAIN: Duration = Duration::from_secs(2);

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const OFF: &str = "\x1b[0m";
/// To the start of the line, N up, and clear everything below.
const CLEAR_BELOW: &str = "\x1b[J";

pub struct View {
    terminal: bool,
    colour: bool,
    begin: Instant,
    drawn: Option<Instant>,
    /// Lines of the picture on the screen.
    lines: usize,
}

/// What the picture is made of.
pub struct Picture<'a> {
    pub seen: &'a Seen,
    pub modules: &'a Value,
    pub field: usize,
    pub threshold: f64,
    pub doing: &'a str,
}

impl View {
    pub fn new() -> View {
        let terminal = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        View { terminal, colour, begin: Instant::now(), drawn: None, lines: 0 }
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        self.clear();
        let seconds = self.begin.elapsed().as_secs_f64();
        self.put(&format!("{}{seconds:5.1} s{}  {text}\n", self.paint(DIM), self.paint(OFF)));
    }

    /// A claim that was put to the test.
    pub fn claim(&mut self, holds: bool, text: &str) {
        let (colour, mark) = if holds { (GREEN, "ok  ") } else { (RED, "FAIL") };
        let line = format!("{}{mark}{} {text}", self.paint(colour), self.paint(OFF));
        self.say(&line);
    }

    /// Lines without a time: titles and tables.
    pub fn table(&mut self, text: &str) {
        self.clear();
        self.put(text);
    }

    pub fn bold(&self, text: &str) -> String {
        format!("{}{text}{}", self.paint(BOLD), self.paint(OFF))
    }

    pub fn draw(&mut self, picture: &Picture<'_>) {
        let every = if self.terminal { DRAW } else { PLAIN };
        if self.drawn.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.drawn = Some(Instant::now());
        if self.terminal {
            let text = self.picture(picture);
            self.clear();
            self.lines = text.lines().count();
            self.put(&text);
        } else {
            let line = plain(picture);
            self.say(&line);
        }
    }

    /// Takes the picture away.
    pub fn clear(&mut self) {
        if self.lines > 0 {
            self.put(&format!("\r\x1b[{}A{CLEAR_BELOW}", self.lines));
            self.lines = 0;
        }
    }

    fn picture(&self, p: &Picture<'_>) -> String {
        let (bold, dim, off, cyan) = (self.paint(BOLD), self.paint(DIM), self.paint(OFF), self.paint(CYAN));
        let mut text = format!("\n  {bold}sysinfo{off} ──▶ {bold}filter{off} ──▶ {bold}window{off} ──▶ $upstream");
        text += &format!("      {cyan}{}{off}\n\n", p.doing);
        text += &format!("  {dim}{:<10}{:>8}{:>6}  {:<10}{:>9}{off}\n", "module", "pid", "life", "state", "memory");
        for module in p.modules.as_array().into_iter().flatten() {
            let state = module["status"].as_str().unwrap_or("?");
            let colour = if state == "running" { self.paint(GREEN) } else { self.paint(RED) };
            let memory = module["memoryBytes"].as_f64().map_or("-".to_owned(), |b| format!("{:.1} MB", b / 1e6));
            text += &format!(
                "  {:<10}{:>8}{:>6}  {colour}{state:<10}{off}{memory:>9}\n",
                module["name"].as_str().unwrap_or("?"),
                module["pid"].as_i64().map_or("-".to_owned(), |pid| pid.to_string()),
                module["generation"].as_u64().unwrap_or(0),
            );
        }
        let field = &FIELDS[p.field];
        text += &format!("\n  {:<12}{}\n", field.name, self.bars(p));
        text += &format!("  {dim}{:<12}{}{off}\n", "", summary(p));
        text += &format!("  {:<12}{}\n", "window", window(p));
        text
    }

    /// One bar a reading; bright ones passed the filter.
    fn bars(&self, p: &Picture<'_>) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let values: Vec<f64> = p.seen.recent.iter().filter_map(|n| p.seen.value(*n, p.field)).collect();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let mut text = String::new();
        for number in &p.seen.recent {
            let Some(value) = p.seen.value(*number, p.field) else { continue };
            let step = if high > low { (value - low) / (high - low) * 7.0 } else { 3.0 };
            let colour = if p.seen.alerts.contains(number) { GREEN } else { DIM };
            text += &format!("{}{}{}", self.paint(colour), BARS[(step.round() as usize).min(7)], self.paint(OFF));
        }
        text
    }

    fn paint<'c>(&self, code: &'c str) -> &'c str {
        if self.colour { code } else { "" }
    }

    /// A reader that went away is no reason to stop before everything is put away.
    fn put(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn summary(p: &Picture<'_>) -> String {
    let field = &FIELDS[p.field];
    let now = p.seen.recent.back().and_then(|n| p.seen.value(*n, p.field)).map_or("-".to_owned(), |v| field.show(v));
    let threshold = if p.threshold < 0.0 { "none: all pass".to_owned() } else { field.show(p.threshold) };
    format!("now {now}, threshold {threshold}; {} readings, {} passed", p.seen.readings, p.seen.alerts.len())
}

fn window(p: &Picture<'_>) -> String {
    let Some(body) = &p.seen.last_window else { return "-".to_owned() };
    let shown = |name: &str| {
        let field = FIELDS.iter().find(|field| body["field"] == field.path).unwrap_or(&FIELDS[p.field]);
        body[name].as_f64().map_or("-".to_owned(), |value| field.show(value))
    };
    let count = &body["count"];
    format!("{count} readings: min {}, mean {}, max {}", shown("min"), shown("mean"), shown("max"))
}

fn plain(p: &Picture<'_>) -> String {
    format!("     {}: {}; window of {}", FIELDS[p.field].name, summary(p), window(p))
}
