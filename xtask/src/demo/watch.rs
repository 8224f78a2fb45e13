//! What passes on the device, as `tap` shows it, and what the cloud has stored of it. Must never make up a number: what
//! the tap missed while the runtime was down is missing here, unless the cloud has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use skerry_cloud::Telemetry;

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
/// Messages in the cloud that the view draws.
const LATEST_MAX: usize = 6;

/// A message's number: the life of its source, and the sequence within it.
pub type Number = (u64, u64);

pub struct Reading {
    /// When it was measured, ms since 1970.
    pub at_ms: i64,
    pub values: [Option<f64>; FIELDS.len()],
}

/// One number in the cloud: when it came, and when it came again, each with whether it was marked as a duplicate.
pub struct Arrival {
    pub first_ms: i64,
    pub again: Vec<(i64, bool)>,
}

/// What the cloud has of one source.
#[derive(Default)]
pub struct Arrived {
    pub numbers: BTreeMap<Number, Arrival>,
    pub messages: usize,
    /// Numbers that came for the first time after a higher one.
    pub out_of_order: usize,
    pub last: Option<Arc<Telemetry>>,
}

/// What an aggregate of the window stands for: so many alerts of a life, from one number to another.
pub struct Cover {
    pub epoch: u64,
    pub first: u64,
    pub last: u64,
    pub count: usize,
}

#[derive(Default)]
pub struct Seen {
    pub readings: BTreeMap<Number, Reading>,
    /// As the hub took them.
    pub alerts: BTreeSet<Number>,
    /// By source and life: the highest number that the source said it was acknowledged for.
    pub promised: BTreeMap<String, BTreeMap<u64, u64>>,
    /// By source.
    pub cloud: BTreeMap<String, Arrived>,
    /// Of the aggregates in the cloud.
    pub covers: Vec<Cover>,
    pub recent: VecDeque<Number>,
    pub last_window: Option<Value>,
    pub latest: VecDeque<Arc<Telemetry>>,
}

impl Seen {
    /// A line of the tap.
    pub fn take(&mut self, line: &Value) {
        let source = line["from"].as_str().unwrap_or_default().split('/').nth(3).unwrap_or_default();
        let body = &line["body"];
        let Some(number) = self.note(source, body) else { return };
        match source {
            "filter" => drop(self.alerts.insert(number)),
            "window" => self.last_window = Some(body.clone()),
            _ => {}
        }
    }

    /// A message that the cloud has stored.
    pub fn arrive(&mut self, message: Arc<Telemetry>) {
        let source = message.identity.rsplit('/').next().unwrap_or_default().to_owned();
        let body = message.json().unwrap_or_default();
        if let Some(number) = self.note(&source, &body) {
            if source == "window" {
                self.covers.extend(body["covers"].as_array().into_iter().flatten().filter_map(Cover::read));
            }
            self.cloud.entry(source).or_default().count(number, &message);
        }
        self.latest.push_back(message);
        if self.latest.len() > LATEST_MAX {
            self.latest.pop_front();
        }
    }

    /// An answer of a source, by word of itself.
    pub fn promise(&mut self, source: &str, said: &Value) {
        let known = self.promised.entry(source.to_owned()).or_default();
        if let Some((epoch, safe)) = said["epoch"].as_u64().zip(said["safe"].as_u64()) {
            let known = known.entry(epoch).or_default();
            *known = safe.max(*known);
        }
    }

    fn note(&mut self, source: &str, body: &Value) -> Option<Number> {
        let number = body["epoch"].as_u64().zip(body["seq"].as_u64())?;
        // The filter passes the body of the reading on as it is.
        let author = if source == "filter" { "sysinfo" } else { source };
        self.promise(author, body);
        if author == "sysinfo" && !self.readings.contains_key(&number) {
            let value = |field: &Field| body.pointer(&format!("/{}", field.path.replace('.', "/")))?.as_f64();
            let at_ms = body["time_ms"].as_i64().unwrap_or(0);
            self.readings.insert(number, Reading { at_ms, values: FIELDS.each_ref().map(value) });
            self.recent.push_back(number);
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
        Some(number)
    }

    pub fn value(&self, number: Number, field: usize) -> Option<f64> {
        self.readings.get(&number)?.values[field]
    }

    /// Values that were measured since then, in the order of their numbers.
    pub fn since(&self, at_ms: i64, field: usize) -> Vec<(Number, f64)> {
        let late = self.readings.iter().filter(|(_, reading)| reading.at_ms >= at_ms);
        late.filter_map(|(number, reading)| Some((*number, reading.values[field]?))).collect()
    }

    /// Messages of a source that the cloud has stored, also those that came again.
    pub fn in_cloud(&self, source: &str) -> usize {
        self.cloud.get(source).map_or(0, |arrived| arrived.messages)
    }

    pub fn out_of_order(&self) -> usize {
        self.cloud.values().map(|arrived| arrived.out_of_order).sum()
    }

    /// Lives of the source of readings.
    pub fn lives(&self) -> usize {
        self.promised.get("sysinfo").map_or(0, BTreeMap::len)
    }
}

impl Arrived {
    fn count(&mut self, number: Number, message: &Arc<Telemetry>) {
        let at_ms = message.at_ms as i64;
        self.messages += 1;
        self.last = Some(message.clone());
        let newest = self.numbers.keys().next_back().copied();
        if let Some(arrival) = self.numbers.get_mut(&number) {
            arrival.again.push((at_ms, message.dup));
            return;
        }
        self.out_of_order += usize::from(newest.is_some_and(|newest| newest > number));
        self.numbers.insert(number, Arrival { first_ms: at_ms, again: Vec::new() });
    }
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
