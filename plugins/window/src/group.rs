//! The readings of one key in one window: their sum, which they were, and their handles.
//! Must never let go of a handle before the aggregate is sent.

use std::collections::BTreeMap;

use serde::Serialize;
use skerry_abi::{Deferred, Message};

use crate::numbers::Numbers;

#[derive(Default)]
pub struct Group {
    handles: Vec<Deferred>,
    sum: f64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
    /// By source and epoch.
    covers: BTreeMap<(String, String), Covered>,
}

/// Which messages of one source an aggregate stands for.
#[derive(Clone, Default, Serialize)]
struct Covered {
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<u64>,
    count: u64,
}

/// The body that is sent.
#[derive(Serialize)]
pub struct Aggregate<'a> {
    epoch: u64,
    seq: u64,
    /// Aggregates up to this number are safe.
    safe: u64,
    field: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    count: usize,
    min: f64,
    max: f64,
    mean: f64,
    first: f64,
    last: f64,
    covers: Vec<Covers<'a>>,
}

#[derive(Serialize)]
struct Covers<'a> {
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    epoch: &'a str,
    #[serde(flatten)]
    covered: Covered,
}

impl Group {
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    pub fn handles(&mut self) -> &mut Vec<Deferred> {
        &mut self.handles
    }

    pub fn add(&mut self, value: f64, message: &Message, handle: Deferred) {
        if self.handles.is_empty() {
            (self.first, self.min, self.max) = (value, value, value);
        }
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.last = value;
        self.handles.push(handle);
        let epoch = message.property("epoch").unwrap_or_default();
        let covered = self.covers.entry((message.source_module().to_owned(), epoch.to_owned())).or_default();
        covered.count += 1;
        if let Some(seq) = message.property("seq").and_then(|seq| seq.parse().ok()) {
            covered.first_seq = Some(covered.first_seq.map_or(seq, |first| first.min(seq)));
            covered.last_seq = Some(covered.last_seq.map_or(seq, |last| last.max(seq)));
        }
    }

    pub fn aggregate<'a>(&'a self, numbers: &Numbers, field: &'a str, key: &'a str) -> Aggregate<'a> {
        let covers =
            self.covers.iter().map(|((source, epoch), covered)| Covers { source, epoch, covered: covered.clone() });
        Aggregate {
            epoch: numbers.epoch(),
            seq: numbers.sent() + 1,
            safe: numbers.safe(),
            field,
            key,
            count: self.len(),
            min: self.min,
            max: self.max,
            mean: self.sum / self.len() as f64,
            first: self.first,
            last: self.last,
            covers: covers.collect(),
        }
    }
}
