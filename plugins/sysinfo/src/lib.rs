//! Measures the machine that it runs on. The lesson: a source that works by ticks, and numbers what it sends, so that
//! anybody downstream can count. Must never block on a value that this machine does not have: it is left out.

mod machine;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, Context, Message, Module, Receipt, Result, export_module};

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
    /// The number up to which everything is safe, and the receipts of what came after it.
    safe: u64,
    receipts: VecDeque<Receipt>,
    /// A measurement was not taken: nothing behind it counts as safe "up to" any more.
    gap: bool,
    cpu: machine::CpuTimes,
}

/// One message.
#[derive(Serialize)]
struct Metrics<'a> {
    epoch: u64,
    seq: u64,
    /// Measurements up to this number are safe: delivered, or on disk.
    safe: u64,
    device: &'a str,
    time_ms: u64,
    #[serde(flatten)]
    machine: machine::Measurement,
}

impl Module for Sysinfo {
    type Settings = Settings;

    fn start(_: &Context, settings: Settings) -> Result<Sysinfo> {
        let cpu = machine::CpuTimes::read();
        Ok(Sysinfo { settings, epoch: now_ms(), seq: 0, safe: 0, receipts: VecDeque::new(), gap: false, cpu })
    }

    fn settings(&mut self, _: &Context, new: Settings) -> Result {
        self.settings = new;
        Ok(())
    }

    /// `count`: how many measurements this instance has sent, and up to which all are safe.
    fn method(&mut self, _: &Context, name: &str, _: Value) -> Result<Answer> {
        if name != "count" {
            return Ok(Answer::unknown(name));
        }
        self.take_receipts();
        Ok(json!({"epoch": self.epoch, "sent": self.seq, "safe": self.safe}).into())
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.settings.interval_ms.max(10)))
    }

    fn tick(&mut self, cx: &Context) -> Result {
        self.take_receipts();
        let metrics = Metrics {
            epoch: self.epoch,
            seq: self.seq + 1,
            safe: self.safe,
            device: cx.identity().device(),
            time_ms: now_ms(),
            machine: machine::measure(&mut self.cpu, &self.settings.disks),
        };
        let message = Message::from_json(&metrics)?
            .with("epoch", metrics.epoch.to_string().as_str())
            .with("seq", metrics.seq.to_string().as_str());
        self.receipts.push_back(cx.send("metrics", message)?);
        // Only now: a measurement that was not taken leaves no gap in the numbers.
        self.seq += 1;
        Ok(())
    }
}

impl Sysinfo {
    /// Receipts come in order, so the first open one ends the look. Their number is bounded by the credit.
    fn take_receipts(&mut self) {
        let mut task = TaskContext::from_waker(Waker::noop());
        while let Some(receipt) = self.receipts.front_mut() {
            match Pin::new(receipt).poll(&mut task) {
                Poll::Pending => return,
                Poll::Ready(Ok(_)) if self.gap => {}
                Poll::Ready(Ok(_)) => self.safe = self.seq + 1 - self.receipts.len() as u64,
                Poll::Ready(Err(error)) => {
                    log::warn!("a measurement was not taken: {error}");
                    self.gap = true;
                }
            }
            self.receipts.pop_front();
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

export_module!(Sysinfo);
