//! What became of the last messages, for `skerry trace`: a ring of small marks. While a message lives in memory its entry
//! knows everything; when it goes, its record and its targets move here instead of being freed, so that nothing is copied.
//! Must never keep a message alive, and never grow: its limits are in `model::limits`.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use smallvec::SmallVec;

use super::entry::{Entry, Key, Target, TargetState};
use super::{Hub, QueueIx, SourceIx};
use crate::logic::routing::{Truth, Verdicts};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::limits::{TRACE_BYTES, TRACE_MESSAGES, TRACE_RECORD_BYTES};
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
    /// Length of its record, also where that is not kept.
    bytes: u32,
    fate: Fate,
    /// Once its entry is gone, or if it never had one.
    record: Box<[u8]>,
    targets: SmallVec<[Target; 2]>,
    /// Where it lies, for those of them that are on disk.
    block: u64,
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
    /// Each at the place of its number; the oldest is overwritten.
    marks: Vec<Mark>,
    /// Number of the next mark.
    next: u64,
    /// Of the records that are kept, and the oldest mark that may have one.
    bytes: usize,
    kept_from: u64,
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
        let Arrival { seq, source, now, verdicts } = *arrival;
        let mark = Mark {
            seq,
            source,
            epoch: self.epoch,
            enqueued: now.wall,
            since: now.mono,
            verdicts,
            bytes: bytes as u32,
            fate,
            record: Box::default(),
            targets: SmallVec::new(),
            block: u64::MAX,
        };
        let number = self.next;
        self.next += 1;
        match self.marks.get_mut(place(number)) {
            Some(oldest) => {
                self.bytes -= oldest.record.len();
                *oldest = mark;
            }
            None => self.marks.push(mark),
        }
        if !record.is_empty() {
            self.keep_record(number, record);
        }
        number
    }

    /// Number of the oldest mark.
    fn first(&self) -> u64 {
        self.next - self.marks.len() as u64
    }

    /// The number of a message that is read back from disk.
    pub fn find(&self, seq: u64) -> u64 {
        let (mut from, mut to) = (self.first(), self.next);
        while from < to {
            let middle = from + (to - from) / 2;
            if self.marks[place(middle)].seq < seq { from = middle + 1 } else { to = middle }
        }
        // Those that were not taken share their number with the next one that was.
        let mut same = (from..self.next).take_while(|number| self.marks[place(*number)].seq == seq);
        same.find(|number| self.marks[place(*number)].fate == Fate::Taken).unwrap_or(NO_MARK)
    }

    /// The entry of a message goes: what it holds moves here.
    pub fn keep(&mut self, entry: &mut Entry) {
        let Some(mark) = self.mark(entry.trace) else { return };
        mark.block = entry.place.map_or(u64::MAX, |place| place.block);
        if mark.targets.is_empty() {
            mark.targets = std::mem::take(&mut entry.targets);
        } else {
            let later = u32::try_from(entry.since.since(mark.since)).unwrap_or(u32::MAX);
            for target in entry.targets.drain(..) {
                let target = Target { at: target.at.saturating_add(later), ..target };
                match mark.targets.iter_mut().find(|t| t.queue == target.queue) {
                    Some(known) => *known = target,
                    None => mark.targets.push(target),
                }
            }
        }
        let record = std::mem::take(&mut entry.record);
        let record = if record.len() <= TRACE_RECORD_BYTES { record } else { small(&record).into() };
        self.keep_record(entry.trace, record);
    }

    /// The newest are kept; a record moves, it is not copied.
    fn keep_record(&mut self, number: u64, record: Box<[u8]>) {
        if number < self.kept_from {
            return;
        }
        let mark = &mut self.marks[place(number)];
        self.bytes += record.len();
        self.bytes -= std::mem::replace(&mut mark.record, record).len();
        self.kept_from = self.kept_from.max(self.next - self.marks.len() as u64);
        while self.bytes > TRACE_BYTES {
            let oldest = &mut self.marks[place(self.kept_from)];
            self.bytes -= std::mem::take(&mut oldest.record).len();
            self.kept_from += 1;
        }
    }

    /// What of a queue lies in these blocks alone was settled there.
    pub fn settled_on_disk(&mut self, now: Mono, queue: QueueIx, blocks: RangeInclusive<u64>, outcome: Outcome) {
        for mark in self.marks.iter_mut().filter(|mark| blocks.contains(&mark.block)) {
            let at = u32::try_from(now.since(mark.since)).unwrap_or(u32::MAX);
            let lay = mark.targets.iter_mut().filter(|t| t.queue == queue && t.state == TargetState::OnDisk);
            lay.for_each(|target| (target.state, target.outcome, target.at) = (TargetState::Settled, outcome, at));
        }
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
        (number >= self.first() && number < self.next).then(|| &mut self.marks[place(number)])
    }
}

/// Of a number in the ring.
fn place(number: u64) -> usize {
    (number % TRACE_MESSAGES as u64) as usize
}

/// The record if it is not too large, else its properties without the body, else nothing.
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
        let all = (self.trace.first()..self.trace.next).rev().filter_map(|number| {
            let mark = &self.trace.marks[place(number)];
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
