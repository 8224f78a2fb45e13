//! Driver, echo and sink of the benchmarks. The lesson: receipts as a window, and state that a test can read.
//! Must never put work of its own between the messages that it measures.

mod driver;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, Context, Message, Module, Result, export_module};

use driver::{Ring, Sink};

#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Settings {
    run: Run,
    pub count: u64,
    pub bytes: usize,
    pub window: usize,
    /// Bodies that do not compress; for `thread`.
    pub noise: bool,
    /// Between two messages, ms; for `thread`.
    pub pause_ms: u64,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
enum Run {
    #[serde(rename = "")]
    None,
    #[serde(rename = "thread")]
    Thread,
    #[serde(rename = "loop")]
    Loop,
    #[serde(rename = "one")]
    One,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { run: Run::None, count: 100_000, bytes: 256, window: 256, noise: false, pause_ms: 0 }
    }
}

pub struct Bench {
    settings: Settings,
    ring: Option<Ring>,
    sink: Sink,
}

impl Module for Bench {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Bench> {
        let mut bench = Bench { settings, ring: None, sink: Sink::default() };
        bench.run(cx)?;
        Ok(bench)
    }

    fn settings(&mut self, cx: &Context, new: Settings) -> Result {
        if new != self.settings {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH)?;
            cx.twin().report(&json!({ "settings_at_us": wall.as_micros() as u64 }))?;
            self.settings = new;
            self.run(cx)?;
        }
        Ok(())
    }

    /// `run` with settings of its own, `sink` for what was counted.
    fn method(&mut self, cx: &Context, name: &str, payload: Value) -> Result<Answer> {
        match name {
            "run" => {
                self.settings = serde_json::from_value(payload)?;
                self.run(cx)?;
                Ok(Answer::done())
            }
            "sink" => Ok(self.sink.state().into()),
            _ => Ok(Answer::unknown(name)),
        }
    }

    fn message(&mut self, cx: &Context, input: &str, message: Message) -> Result {
        match input {
            "echo" => drop(cx.send("reply", message)?),
            "sink" => self.sink.count(message.body().len()),
            _ => {
                if let Some(ring) = &mut self.ring
                    && let Some(result) = ring.back(cx)?
                {
                    self.ring = None;
                    cx.twin().report(&json!({ "result": result }))?;
                }
            }
        }
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    /// Reports the sink once it has come to rest.
    fn tick(&mut self, cx: &Context) -> Result {
        if self.sink.has_come_to_rest() {
            cx.twin().report(&json!({ "sink": self.sink.state() }))?;
        }
        Ok(())
    }
}

impl Bench {
    fn run(&mut self, cx: &Context) -> Result {
        let Settings { run, count, bytes, window, .. } = self.settings;
        if run != Run::None {
            cx.twin().report(&json!({ "result": null }))?;
        }
        match run {
            Run::None => {}
            Run::Thread => driver::thread(cx, self.settings.clone())?,
            Run::Loop => self.ring = Some(Ring::start(cx, count, bytes, window)?),
            Run::One => self.ring = Some(Ring::start(cx, count, bytes, 1)?),
        }
        Ok(())
    }
}

export_module!(Bench);
