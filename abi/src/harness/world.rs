//! The small runtime of a harness: queues with redelivery, receipts, twin, methods. Speaks the real frames.
//! Must never be kinder than the runtime: a queue that was refused goes on one message at a time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};

use crate::{
    Answer, Message,
    message::{Origin, Source},
    twin::merge,
    wire::frame::{Completion, FromHost, Outcome, ToHost, split},
};

use super::DEADLINE;

/// How a message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Completed, and everything that was sent for it is safe.
    Done,
    /// Refused too often; the last reason.
    GivenUp(String),
    /// Not begun when the instance was stopped.
    Returned,
}

/// A line that the module logged.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// 1 error to 5 trace.
    pub level: u8,
    /// The module path, usually.
    pub target: String,
    /// The text.
    pub text: String,
}

pub(super) struct World {
    socket: UnixStream,
    inner: Mutex<Inner>,
    changed: Condvar,
}

pub(super) struct Inner {
    pub(super) started: bool,
    pub(super) stopping: bool,
    pub(super) stopped: bool,
    pub(super) ended: bool,
    pub(super) failed: Option<String>,
    pub(super) outputs: Vec<VecDeque<Message>>,
    output_names: Vec<String>,
    pub(super) logs: Vec<LogLine>,
    pub(super) panics: Vec<String>,
    pub(super) reported: Value,
    reported_version: u64,
    pub(super) desired_version: u64,
    pub(super) answers: HashMap<u64, Answer>,
    /// What other modules answer, by module and method.
    pub(super) others: HashMap<(String, String), Answer>,
    pub(super) last_rid: u64,
    pub(super) pongs: u64,
    pub(super) unhealthy: Option<String>,
    pub(super) holds: bool,
    /// Tickets that are not safe, and whom they complete.
    pub(super) held: BTreeMap<u64, Vec<u64>>,
    pub(super) attempts_max: u16,
    pub(super) ends: BTreeMap<u64, End>,
    pub(super) refusals: Vec<String>,
    /// By input.
    queues: BTreeMap<u16, Queue>,
    /// By delivery id.
    under_way: BTreeMap<u64, Queued>,
    /// Deliveries that are done but for outputs that are not safe yet.
    half_done: BTreeMap<u64, u64>,
    last_delivery: u64,
    last_number: u64,
    last_stream: u32,
    last_ticket: u64,
}

#[derive(Default)]
struct Queue {
    /// By number.
    waiting: BTreeMap<u64, Queued>,
    /// After a refusal one goes at a time: the delivery that is tried.
    tried: Option<u64>,
    /// Its number on the link; another one after each refusal.
    stream: u32,
}

struct Queued {
    number: u64,
    input: u16,
    attempts: u16,
    record: Vec<u8>,
}

impl World {
    pub(super) fn new(socket: UnixStream, output_names: Vec<String>, reported: Value) -> std::io::Result<World> {
        let inner = Inner {
            started: false,
            stopping: false,
            stopped: false,
            ended: false,
            failed: None,
            outputs: output_names.iter().map(|_| VecDeque::new()).collect(),
            output_names,
            logs: Vec::new(),
            panics: Vec::new(),
            reported,
            reported_version: 1,
            desired_version: 1,
            answers: HashMap::new(),
            others: HashMap::new(),
            last_rid: 0,
            pongs: 0,
            unhealthy: None,
            holds: false,
            held: BTreeMap::new(),
            attempts_max: 10,
            ends: BTreeMap::new(),
            refusals: Vec::new(),
            queues: BTreeMap::new(),
            under_way: BTreeMap::new(),
            half_done: BTreeMap::new(),
            last_delivery: 0,
            last_number: 0,
            last_stream: u32::from(u16::MAX),
            last_ticket: 0,
        };
        Ok(World { socket, inner: Mutex::new(inner), changed: Condvar::new() })
    }

    pub(super) fn write(&self, frame: &ToHost<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write_bytes(&self.lock(), &bytes);
    }

    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.lock())
    }

    /// Panics when nothing has come at the deadline.
    pub(super) fn wait<T>(&self, what: &str, ready: impl FnMut(&mut Inner) -> Option<T>) -> T {
        match self.wait_within(DEADLINE, ready) {
            Some(there) => there,
            None => {
                let inner = self.lock();
                let logs: Vec<_> = inner.logs.iter().map(|line| format!("  {}: {}", line.target, line.text)).collect();
                let failed = inner.failed.as_deref().unwrap_or("no");
                panic!(
                    "{what} did not come within {DEADLINE:?}\nfailed: {failed}\nrefusals: {:?}\npanics: {:?}\nlog:\n{}",
                    inner.refusals,
                    inner.panics,
                    logs.join("\n")
                );
            }
        }
    }

    pub(super) fn wait_within<T>(&self, span: Duration, mut ready: impl FnMut(&mut Inner) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + span;
        let mut inner = self.lock();
        loop {
            if let Some(there) = ready(&mut inner) {
                return Some(there);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn deliver(&self, input: u16, record: Vec<u8>) -> u64 {
        let mut inner = self.lock();
        inner.last_number += 1;
        let number = inner.last_number;
        let queued = Queued { number, input, attempts: 0, record };
        inner.queues.entry(input).or_default().waiting.insert(number, queued);
        let mut frames = Vec::new();
        inner.send_waiting(input, &mut frames);
        self.write_bytes(&inner, &frames);
        number
    }

    pub(super) fn release(&self, outcome: Outcome, reason: &str) {
        let mut inner = self.lock();
        inner.holds = false;
        let mut frames = Vec::new();
        for (ticket, parents) in std::mem::take(&mut inner.held) {
            inner.settle(ticket, parents, outcome, reason, &mut frames);
        }
        self.write_bytes(&inner, &frames);
        drop(inner);
        self.changed.notify_all();
    }

    /// Until the link ends.
    pub(super) fn read(&self) {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(count @ 1..) = (&self.socket).read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let mut rest = &bytes[..];
            let mut frames = Vec::new();
            let mut inner = self.lock();
            loop {
                match split(&mut rest).and_then(|frame| frame.map(FromHost::decode).transpose()) {
                    Ok(Some(frame)) => inner.apply(frame, &mut frames),
                    Ok(None) => break,
                    Err(error) => {
                        inner.failed = Some(format!("the instance broke the link: {error}"));
                        self.close();
                        break;
                    }
                }
            }
            self.write_bytes(&inner, &frames);
            drop(inner);
            bytes.drain(..bytes.len() - rest.len());
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Under the lock, because ids must arrive in their order. The pump always reads, so this ends.
    fn write_bytes(&self, _: &MutexGuard<'_, Inner>, bytes: &[u8]) {
        // An instance that has gone is noticed by the reader.
        let _ = (&self.socket).write_all(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn is_done(&self) -> bool {
        self.ends.len() as u64 == self.last_number
    }

    fn apply(&mut self, frame: FromHost<'_>, frames: &mut Vec<u8>) {
        match frame {
            FromHost::Hello { .. } => {}
            FromHost::Started => self.started = true,
            FromHost::Stopped => self.stopped = true,
            FromHost::Pong { n } => self.pongs = n,
            FromHost::Health { text } => self.unhealthy = Some(text.to_owned()).filter(|text| !text.is_empty()),
            FromHost::Failed { text, .. } => self.failed = Some(text.to_owned()),
            FromHost::Panicked { text, .. } => self.panics.push(text.to_owned()),
            FromHost::Log { level, target, text, .. } => {
                self.logs.push(LogLine { level, target: target.to_owned(), text: text.to_owned() });
            }
            FromHost::Publish { ticket, output, parents, record, .. } => {
                self.last_ticket += 1;
                if ticket != self.last_ticket {
                    self.failed = Some(format!("the instance sent ticket {ticket} after {}", self.last_ticket - 1));
                }
                let parents: Vec<u64> = parents.iter().collect();
                self.publish(output, record);
                self.held.insert(ticket, parents);
                if !self.holds {
                    let parents = self.held.remove(&ticket).unwrap_or_default();
                    self.settle(ticket, parents, Outcome::Delivered, "", frames);
                }
            }
            FromHost::Complete { first, count, completion, reason } => {
                for id in first..first + u64::from(count) {
                    self.complete(id, completion, reason, frames);
                }
            }
            FromHost::Report { rid, patch } => {
                let patch: Map<String, Value> = serde_json::from_str(patch).unwrap_or_default();
                merge(&mut self.reported, patch);
                self.reported_version += 1;
                ToHost::Reported { rid, status: 204, version: self.reported_version, reason: "" }.encode(frames);
            }
            FromHost::MethodAnswer { rid, status, payload } => {
                let payload = serde_json::from_slice(payload).unwrap_or(Value::Null);
                self.answers.insert(rid, Answer { status, payload });
            }
            FromHost::Call { rid, module, name, .. } => {
                let key = (module.to_owned(), name.to_owned());
                match self.others.get(&key) {
                    Some(Answer { status, payload }) => {
                        let (status, payload) = (*status, payload.to_string());
                        ToHost::Called { rid, code: 200, status, payload: payload.as_bytes() }.encode(frames);
                    }
                    None => {
                        let reason = format!("no module {module:?} with a method {name:?}: see Harness::answer_call");
                        ToHost::Called { rid, code: 404, status: 0, payload: reason.as_bytes() }.encode(frames);
                    }
                }
            }
            FromHost::Sign { rid, data } => {
                // No signature, but as long as one, and different for different data.
                let mut digest = [0_u8; 32];
                data.iter().enumerate().for_each(|(i, byte)| digest[i % 32] = digest[i % 32].rotate_left(3) ^ byte);
                ToHost::Signed { rid, digest: &digest, error: "" }.encode(frames);
            }
        }
    }

    fn publish(&mut self, output: u16, record: &[u8]) {
        let index = usize::from(output);
        let name = self.output_names.get(index).cloned().unwrap_or_default();
        let source = Arc::new(Source { input: String::new(), module: "module".to_owned(), output: name });
        let origin = Origin { source, delivery: 0, enqueued_ms: now_ms(), attempts: 0 };
        let message = Message::delivered(record, origin);
        match (self.outputs.get_mut(index), message) {
            (Some(queue), Some(message)) => queue.push_back(message),
            _ => self.failed = Some(format!("the instance sent what can't be read, to output {output}")),
        }
    }

    fn complete(&mut self, id: u64, completion: Completion, reason: &str, frames: &mut Vec<u8>) {
        let Some(mut queued) = self.under_way.remove(&id) else {
            self.failed = Some(format!("the instance completed delivery {id}, which is not under way"));
            return;
        };
        let input = queued.input;
        let queue = self.queues.entry(input).or_default();
        if queue.tried == Some(id) {
            queue.tried = None;
        }
        match completion {
            Completion::Done => {
                self.half_done.insert(id, queued.number);
                self.finish(id);
            }
            Completion::Deferred => {
                self.under_way.insert(id, queued);
            }
            Completion::Returned if self.stopping => {
                self.ends.insert(queued.number, End::Returned);
            }
            Completion::Returned => {
                queue.waiting.insert(queued.number, queued);
            }
            Completion::Refused => {
                self.refusals.push(reason.to_owned());
                self.last_stream += 1;
                queue.stream = self.last_stream;
                queued.attempts += 1;
                if queued.attempts >= self.attempts_max {
                    self.ends.insert(queued.number, End::GivenUp(reason.to_owned()));
                } else {
                    queue.waiting.insert(queued.number, queued);
                }
                self.send_first(input, frames);
            }
        }
        self.send_waiting(input, frames);
    }

    /// Done for good, unless something that was sent for it is not safe.
    fn finish(&mut self, id: u64) {
        if !self.held.values().any(|parents| parents.contains(&id))
            && let Some(number) = self.half_done.remove(&id)
        {
            self.ends.insert(number, End::Done);
        }
    }

    fn settle(&mut self, ticket: u64, parents: Vec<u64>, outcome: Outcome, reason: &str, frames: &mut Vec<u8>) {
        ToHost::Settled { first: ticket, count: 1, outcome, reason }.encode(frames);
        parents.into_iter().for_each(|id| self.finish(id));
    }

    fn send_waiting(&mut self, input: u16, frames: &mut Vec<u8>) {
        while !self.stopping && self.queues.get(&input).is_some_and(|queue| queue.tried.is_none()) {
            if self.send_one(input, frames).is_none() {
                return;
            }
        }
    }

    fn send_first(&mut self, input: u16, frames: &mut Vec<u8>) {
        if !self.stopping && self.queues.get(&input).is_some_and(|queue| queue.tried.is_none()) {
            let tried = self.send_one(input, frames);
            self.queues.entry(input).or_default().tried = tried;
        }
    }

    fn send_one(&mut self, input: u16, frames: &mut Vec<u8>) -> Option<u64> {
        let queue = self.queues.get_mut(&input)?;
        let (_, queued) = queue.waiting.pop_first()?;
        // The first streams have the numbers of the inputs.
        let stream = if queue.stream == 0 { u32::from(input) } else { queue.stream };
        self.last_delivery += 1;
        let id = self.last_delivery;
        ToHost::Deliver {
            id,
            queue: stream,
            input,
            attempts: queued.attempts,
            enqueued_ms: now_ms() + queued.number as i64,
            source_module: "harness",
            source_output: "output",
            record: &queued.record,
        }
        .encode(frames);
        self.under_way.insert(id, queued);
        Some(id)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
