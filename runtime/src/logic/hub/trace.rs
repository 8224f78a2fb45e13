//! What became of the last messages, for `skerry trace`: a ring of small marks. While a message lives in memory its entry
//! knows everything; when it goes, its record and its targets move here instead of being freed, so that nothing is copied.
//! Must never keep a message alive, and never grow: its limits are in `model::limits`.

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use super::entry::{Entry, Key, Target, TargetState};
use super::{Hub, SourceIx};
use crate::logic::routing::{Truth, Verdicts};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::limits::{TRACE_MESSAGES, TRACE_RECORD_BYTES};
use crate::model::time::{Age, Mono, Now, Wall};
use skerry_abi::wire::frame::Outcome;
use skerry_abi::wire::record::Record;

/// The mark of a message that has none, because it was read back after its mark had gone.
pub(super) const NO_MARK: u64 = u64::MAX;

/// One message.
struct Mark {
    /// Of the store; for one that was not taken the next that would have been given, so that they never go down.
    seq: u64,
    source: SourceIx,
    /// Which routes were in force.
    epoch: u32,
    enqueued: Wall,
    since: Mono,
    verdicts: Verdicts,
    /// Length of its record, which is kept whole only if it is small.
    bytes: u32,
    fate: Fate,
    /// Once its entry is gone, or if it never had one.
    record: Box<[u8]>,
    targets: SmallVec<[Target; 2]>,
}

/// What the hub said to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Taken,
    /// No route was true.
    NoRoute,
    Refused(Box<str>),
}

#[derive(Default)]
pub(super) struct Trace {
    marks: VecDeque<Mark>,
    /// Number of the oldest mark; they count up.
    first: u64,
    epoch: u32,
}

/// What is known when a message is routed.
pub(super) struct Arrival {
    pub seq: u64,
    pub source: SourceIx,
    pub now: Now,
    pub verdicts: Verdicts,
}

impl Trace {
    /// A message that became an entry; the number is for that entry.
    pub fn taken(&mut self, arrival: &Arrival, bytes: usize) -> u64 {
        self.push(arrival, bytes, Fate::Taken, Box::default())
    }

    /// A message that goes nowhere.
    pub fn turned_away(&mut self, arrival: &Arrival, record: &[u8], fate: Fate) {
        self.push(arrival, record.len(), fate, small(record).into());
    }

    fn push(&mut self, arrival: &Arrival, bytes: usize, fate: Fate, record: Box<[u8]>) -> u64 {
        if self.marks.len() == TRACE_MESSAGES {
            self.marks.pop_front();
            self.first += 1;
        }
        let Arrival { seq, source, now, verdicts } = *arrival;
        self.marks.push_back(Mark {
            seq,
            source,
            epoch: self.epoch,
            enqueued: now.wall,
            since: now.mono,
            verdicts,
            bytes: bytes as u32,
            fate,
            record,
            targets: SmallVec::new(),
        });
        self.first + self.marks.len() as u64 - 1
    }

    /// The number of a message that is read back from disk.
    pub fn find(&self, seq: u64) -> u64 {
        let at = self.marks.partition_point(|mark| mark.seq < seq);
        // Those that were not taken share their number with the next one that was.
        let mut same = self.marks.range(at..).take_while(|mark| mark.seq == seq).zip(at as u64..);
        same.find(|(mark, _)| mark.fate == Fate::Taken).map_or(NO_MARK, |(_, at)| self.first + at)
    }

    /// The entry of a message goes.
    pub fn keep(&mut self, entry: Entry) {
        let Some(mark) = self.mark(entry.trace) else { return };
        let later = u32::try_from(entry.since.since(mark.since)).unwrap_or(u32::MAX);
        if mark.targets.is_empty() {
            mark.targets = entry.targets;
        } else {
            for target in entry.targets {
                let target = Target { at: target.at.saturating_add(later), ..target };
                match mark.targets.iter_mut().find(|t| t.queue == target.queue) {
                    Some(known) => *known = target,
                    None => mark.targets.push(target),
                }
            }
        }
        mark.record = if entry.record.len() <= TRACE_RECORD_BYTES { entry.record } else { small(&entry.record).into() };
    }

    /// It had been taken, and then the store failed.
    pub fn lost(&mut self, number: u64, reason: &str) {
        if let Some(mark) = self.mark(number) {
            mark.fate = Fate::Refused(reason.into());
        }
    }

    /// What is kept was judged by other routes than those that come.
    pub fn new_routes(&mut self) {
        self.epoch += 1;
    }

    fn mark(&mut self, number: u64) -> Option<&mut Mark> {
        self.marks.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// The record if it is small, else its properties without the body, else nothing.
fn small(record: &[u8]) -> &[u8] {
    if record.len() <= TRACE_RECORD_BYTES {
        return record;
    }
    let body = Record::parse_trusted(record).map_or(record.len(), |r| r.body().len());
    let head = &record[..record.len() - body];
    if head.len() <= TRACE_RECORD_BYTES { head } else { &[] }
}

/// One message, as `trace` tells of it.
#[derive(Clone, Debug)]
pub struct Traced {
    pub seq: u64,
    pub source: Source,
    pub enqueued: Wall,
    /// Of the record.
    pub bytes: u32,
    /// The record, or its head alone, or nothing: see `bytes`.
    pub record: Box<[u8]>,
    pub fate: Fate,
    /// Each route that its source can match: its index, and how it came out where that is known. `None`: other routes
    /// are in force since.
    pub routes: Option<Vec<(usize, Option<Truth>)>>,
    pub ends: Vec<TracedEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedEnd {
    pub endpoint: Endpoint,
    pub priority: Priority,
    pub state: EndState,
    /// Since when.
    pub at: Wall,
    pub refusals: u16,
}

/// Where a message is on its way to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// In memory only.
    Waiting,
    /// On disk, and still to be delivered.
    Stored,
    /// With the consumer.
    Consumer,
    /// Refused too often; the next commit writes it to the dead letters.
    Dying,
    Settled(Outcome),
}

impl Hub {
    /// The last messages that `wanted` takes, newest first, at most `limit`.
    pub fn traced(&self, now: Now, limit: usize, wanted: impl Fn(&Source, &[u8]) -> bool) -> Vec<Traced> {
        let mut alive: HashMap<u64, SmallVec<[Key; 1]>> = HashMap::new();
        for (key, entry) in self.entries.iter() {
            alive.entry(entry.trace).or_default().push(key);
        }
        let numbered = self.trace.marks.iter().enumerate().rev();
        let all = numbered.filter_map(|(at, mark)| {
            let number = self.trace.first + at as u64;
            let keys = alive.get(&number).map_or(&[][..], |keys| keys);
            let record = keys.first().map_or(&*mark.record, |key| small(&self.entries[*key].record));
            let source = &self.sources[mark.source as usize].source;
            wanted(source, record).then(|| self.told(now, mark, keys, record))
        });
        all.take(limit).collect()
    }

    fn told(&self, now: Now, mark: &Mark, keys: &[Key], record: &[u8]) -> Traced {
        let source = &self.sources[mark.source as usize];
        let candidates = source.candidates.routes().enumerate();
        let routes = (mark.epoch == self.trace.epoch)
            .then(|| candidates.map(|(nth, route)| (route, mark.verdicts.get(nth))).collect());
        let mut ends: Vec<TracedEnd> = Vec::new();
        for key in keys {
            let entry = &self.entries[*key];
            ends.extend(entry.targets.iter().map(|target| self.end(now, mark, target, entry.since)));
        }
        for target in &mark.targets {
            let end = self.end(now, mark, target, mark.since);
            if !ends.iter().any(|e| e.endpoint == end.endpoint && e.priority == end.priority) {
                ends.push(end);
            }
        }
        Traced {
            seq: mark.seq,
            source: source.source.clone(),
            enqueued: mark.enqueued,
            bytes: mark.bytes,
            record: record.into(),
            fate: mark.fate.clone(),
            routes,
            ends,
        }
    }

    fn end(&self, now: Now, mark: &Mark, target: &Target, since: Mono) -> TracedEnd {
        let queue = &self.queues[target.queue as usize];
        let after = since.since(mark.since) + u64::from(target.at);
        let mut at = Wall(mark.enqueued.0.saturating_add_unsigned(after));
        // Nothing that is too old is ever delivered, so it is as good as expired wherever it still lies.
        let too_old = target.expiry != Age::NEVER && target.expiry <= now.age;
        let state = match target.state {
            TargetState::Waiting | TargetState::OnDisk if too_old => {
                at = Wall(now.wall.0.saturating_sub_unsigned(now.age.0 - target.expiry.0));
                EndState::Settled(Outcome::Expired)
            }
            TargetState::OnDisk => EndState::Stored,
            TargetState::Waiting if target.stored => EndState::Stored,
            TargetState::Waiting => EndState::Waiting,
            TargetState::Flying => EndState::Consumer,
            TargetState::Dying => EndState::Dying,
            TargetState::Settled => EndState::Settled(target.outcome),
        };
        let (endpoint, priority) = (queue.endpoint.clone(), queue.priority);
        TracedEnd { endpoint, priority, state, at, refusals: target.attempts }
    }
}
