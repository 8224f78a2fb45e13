//! Measures the machine that it runs on. The lesson: a source that works by ticks, and numbers what it sends, so that
//! anybody downstream can count. Must never block on a value that this machine does not have: it is left out.

mod machine;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use skerry_abi::{Context, Message, Module, Result, export_module};

#[derive(Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    interval_ms: u64,
    disks: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { interval_ms: 10_000, disks: vec!["/".to_owned()] }
    }
}

pub struct Sysinfo {
    settings: Settings,
    /// When this instance started, ms since 1970: numbers begin again with it.
    epoch: u64,
    /// Of the last message that was taken.
    seq: u64,
    cpu: machine::CpuTimes,
}

/// One message.
#[derive(Serialize)]
struct Metrics<'a> {
    epoch: u64,
    seq: u64,
    device: &'a str,
    time_ms: u64,
    #[serde(flatten)]
    machine: machine::Measurement,
}

impl Module for Sysinfo {
    type Settings = Settings;

    fn start(_: &Context, settings: Settings) -> Result<Sysinfo> {
        Ok(Sysinfo { settings, epoch: now_ms(), seq: 0, cpu: machine::CpuTimes::read() })
    }

    fn settings(&mut self, _: &Context, new: Settings) -> Result {
        self.settings = new;
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.settings.interval_ms.max(10)))
    }

    fn tick(&mut self, cx: &Context) -> Result {
        let metrics = Metrics {
            epoch: self.epoch,
            seq: self.seq + 1,
            device: cx.identity().device(),
            time_ms: now_ms(),
            machine: machine::measure(&mut self.cpu, &self.settings.disks),
        };
        let message = Message::from_json(&metrics)?
            .with("epoch", metrics.epoch.to_string().as_str())
            .with("seq", metrics.seq.to_string().as_str());
        cx.send("metrics", message)?;
        // Only now: a measurement that was not taken leaves no gap in the numbers.
        self.seq += 1;
        Ok(())
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

export_module!(Sysinfo);
