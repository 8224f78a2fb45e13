//! What passes on the device, as `tap` shows it: readings, alerts, windows. Must never make up a number: what the tap
//! missed while the runtime was down is missing here, and the ledger reads the recorder's file instead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::control;

/// Fields of a reading that a filter can work on: path, name, what to divide it by, unit.
pub const FIELDS: [Field; 2] = [
    Field { path: "cpu_percent", name: "CPU", unit: "%", divisor: 1.0 },
    Field { path: "memory.available_bytes", name: "free memory", unit: "MB", divisor: 1e6 },
];

pub struct Field {
    pub path: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub divisor: f64,
}

impl Field {
    pub fn show(&self, value: f64) -> String {
        format!("{:.1} {}", value / self.divisor, self.unit)
    }
}

/// Readings that the view draws.
const RECENT_MAX: usize = 56;

pub struct Reading {
    /// When the hub took it, ms since 1970.
    pub at_ms: i64,
    pub values: [Option<f64>; FIELDS.len()],
}

/// One life of the source: its numbers begin again at 1.
#[derive(Default)]
pub struct Epoch {
    pub readings: BTreeMap<u64, Reading>,
    /// Highest number that the source said is safe.
    pub safe: u64,
}

/// A message's number: epoch and sequence.
pub type Number = (u64, u64);

/// What an aggregate of the window stands for: so many messages of an epoch, from one number to another.
pub struct Cover {
    pub epoch: u64,
    pub first: u64,
    pub last: u64,
    pub count: usize,
}

impl Cover {
    fn read(cover: &Value) -> Option<Cover> {
        Some(Cover {
            epoch: cover["epoch"].as_str()?.parse().ok()?,
            first: cover["first_seq"].as_u64()?,
            last: cover["last_seq"].as_u64()?,
            count: usize::try_from(cover["count"].as_u64()?).ok()?,
        })
    }
}

#[derive(Default)]
pub struct Seen {
    pub epochs: BTreeMap<u64, Epoch>,
    pub alerts: BTreeSet<Number>,
    pub recent: VecDeque<Number>,
    pub readings: u64,
    pub windows: u64,
    pub covers: Vec<Cover>,
    pub last_window: Option<Value>,
}

impl Seen {
    pub fn take(&mut self, line: &Value) {
        let number = |name: &str| line["properties"][name].as_str().and_then(|text| text.parse::<u64>().ok());
        let source = line["from"].as_str().unwrap_or_default();
        match (source.split('/').nth(3), number("epoch").zip(number("seq"))) {
            (Some("sysinfo"), Some(number)) => self.reading(number, line),
            (Some("filter"), Some(number)) => drop(self.alerts.insert(number)),
            (Some("window"), _) => {
                self.windows += 1;
                self.covers.extend(line["body"]["covers"].as_array().into_iter().flatten().filter_map(Cover::read));
                self.last_window = Some(line["body"].clone());
            }
            _ => {}
        }
    }

    fn reading(&mut self, number: Number, line: &Value) {
        let value = |field: &Field| line["body"].pointer(&format!("/{}", field.path.replace('.', "/")))?.as_f64();
        let reading = Reading { at_ms: line["at"].as_i64().unwrap_or(0), values: FIELDS.each_ref().map(value) };
        let epoch = self.epochs.entry(number.0).or_default();
        epoch.safe = epoch.safe.max(line["body"]["safe"].as_u64().unwrap_or(0));
        epoch.readings.insert(number.1, reading);
        self.readings += 1;
        self.recent.push_back(number);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    pub fn value(&self, number: Number, field: usize) -> Option<f64> {
        self.epochs.get(&number.0)?.readings.get(&number.1)?.values[field]
    }

    /// Values that the hub took since then, in the order of their numbers.
    pub fn since(&self, at_ms: i64, field: usize) -> Vec<(Number, f64)> {
        let all = self.epochs.iter().flat_map(|(epoch, e)| e.readings.iter().map(move |(seq, r)| ((*epoch, *seq), r)));
        all.filter(|(_, r)| r.at_ms >= at_ms).filter_map(|(number, r)| Some((number, r.values[field]?))).collect()
    }
}

/// Taps for as long as this program runs, through every restart of the runtime.
pub fn tap(socket: PathBuf, to: SyncSender<Value>) {
    // Short: what passes before the tap is connected is not seen.
    const RETRY: Duration = Duration::from_millis(2);
    thread::spawn(move || {
        loop {
            if let Ok(lines) = control::lines(&socket, "/tap") {
                for line in lines {
                    if to.send(line).is_err() {
                        return;
                    }
                }
            }
            thread::sleep(RETRY);
        }
    });
}
