//! The main thread of an instance: takes frames in their order, runs the callbacks, and writes once a batch.
//! No hop between reading a message, its callback, and its completion. Must never wait anywhere but at the socket.

use std::{
    sync::{Arc, atomic::Ordering::*},
    time::{Duration, Instant},
};

use abi_stable::std_types::{RSlice, RStr};

use crate::{
    raw::{Delivery, End, InstanceBox, end},
    wire::frame::{Completion, FromHost, ToHost, is_ordered, split},
};

use super::{
    EXIT_STOPPED,
    host::{BATCH_BYTES, CALLBACK, Callback},
    link::{INBOX_BYTES, Link, attention},
    state::{Deferral, Method},
    status::kind,
    watch,
};

/// A batch up to this size may be a single message, bytes.
const LONE_BYTES: usize = 2_048;

pub(super) struct Work {
    link: Arc<Link>,
    instance: InstanceBox,
    /// Frames that were read and scanned, and how far they are worked off.
    batch: Vec<u8>,
    at: usize,
    end: usize,
    tick_at: Option<Instant>,
    /// The watcher's clock when this batch was last broken for reading and writing, ms.
    broke_at_ms: u64,
    /// Nothing was done yet since the socket was last waited at.
    resumed: bool,
}

impl Work {
    pub(super) fn new(link: Arc<Link>, instance: InstanceBox) -> Work {
        Work {
            link,
            instance,
            batch: vec![0; INBOX_BYTES],
            at: 0,
            end: 0,
            tick_at: None,
            broke_at_ms: 0,
            resumed: true,
        }
    }

    /// Starts the instance. An error is text for a person.
    pub(super) fn start(&mut self, version: u64, desired: &str) -> Result<(), String> {
        let end = self.callback(kind::START, 0, |instance| instance.start(version, RStr::from_str(desired)));
        if end.code != end::OK {
            return Err(end.text.into());
        }
        self.schedule_tick();
        FromHost::Started.encode(&mut self.link.state().out);
        Ok(())
    }

    /// Until the stop, or the end of the link.
    pub(super) fn run(mut self) -> i32 {
        loop {
            self.work_off();
            if self.link.needs(attention::CLOSED) {
                return self.link.code.load(Relaxed);
            }
            if self.link.needs(attention::STOP) {
                return self.stop();
            }
            if !self.link.state().only_gathers() {
                self.flush();
            }
            self.link.busy.store(0, SeqCst);
            self.take_batch(true);
            watch::resume(&self.link);
        }
    }

    /// The batch, frame by frame. Returns early when something else has to be looked at.
    fn work_off(&mut self) {
        self.resumed = true;
        self.broke_at_ms = self.link.now_ms.load(Relaxed);
        loop {
            if self.link.needs(attention::STOP | attention::CLOSED) {
                return;
            }
            if self.tick_at.is_some() && (self.resumed || self.is_new_slice()) {
                self.tick_if_due();
            }
            self.resumed = false;
            if self.link.attention.load(Relaxed) != 0 {
                self.methods();
                // Ticks and methods go on; an input waits until the credit is back.
                if self.link.needs(attention::OVERDRAWN) && self.next_is_message() {
                    return;
                }
            }
            if self.is_new_slice() {
                self.break_batch();
            }
            let mut rest = &self.batch[self.at..self.end];
            // Scanned before: whole frames, and no other than these.
            let Ok(Some(frame)) = split(&mut rest) else { return };
            let frame_at = self.end - rest.len() - frame.len();
            let next = self.end - rest.len();
            if is_ordered(frame) {
                self.ordered(frame_at, next);
            }
            self.at = next;
        }
    }

    fn ordered(&mut self, at: usize, next: usize) {
        // Out of `self` while a callback borrows from it; put back without having moved.
        let batch = std::mem::take(&mut self.batch);
        match ToHost::decode(&batch[at..next]) {
            Ok(ToHost::Deliver { id, queue, input, attempts, enqueued_ms, source_module, source_output, record }) => {
                let delivery = Delivery {
                    id,
                    enqueued_ms,
                    input,
                    attempts,
                    source_module: RStr::from_str(source_module),
                    source_output: RStr::from_str(source_output),
                    record: RSlice::from_slice(record),
                };
                self.message(&delivery, queue);
            }
            Ok(ToHost::Desired { version, desired }) => {
                let end =
                    self.callback(kind::SETTINGS, 0, |instance| instance.settings(version, RStr::from_str(desired)));
                self.after(&end, "settings");
                self.schedule_tick();
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("skerry module host: the link is broken: {error}");
                self.link.close(super::EXIT_LINK);
            }
        }
        self.batch = batch;
    }

    fn message(&mut self, delivery: &Delivery<'_>, stream: u32) {
        let id = delivery.id;
        if self.link.refused.load(Relaxed) {
            let mut state = self.link.state();
            if state.refusals.contains(stream) {
                return state.complete(id, Completion::Returned, "");
            }
        }
        CALLBACK.set(Callback::Message { delivery: id, deferred: false });
        let end = self.entered(kind::MESSAGE, id, |instance| instance.message(delivery));
        let callback = CALLBACK.replace(Callback::None);
        let mut state = self.link.state();
        let deferral = match callback {
            Callback::Message { deferred: true, .. } => state.deferred.remove(&id),
            _ => None,
        };
        let (completion, reason) = match (end.code, deferral) {
            (end::OK, None) => (Completion::Done, String::new()),
            (end::OK, Some(Deferral::Early(completion, reason))) => (completion, reason),
            (end::OK, Some(_)) => {
                state.deferred.insert(id, Deferral::Open { stream });
                (Completion::Deferred, String::new())
            }
            // The handle of a message that was deferred and then refused ends nothing any more.
            _ => (Completion::Refused, refusal_text(&end)),
        };
        if end.code == end::PANICKED {
            state.seal();
            FromHost::Panicked { delivery: id, text: &end.text }.encode(&mut state.out);
        }
        state.complete(id, completion, &reason);
        if completion == Completion::Refused {
            state.refusals.refuse(stream);
            self.link.refused.store(true, Relaxed);
        }
        if state.out.len() > BATCH_BYTES {
            drop(state);
            self.flush();
        }
    }

    /// Calls wait for no message.
    fn methods(&mut self) {
        while self.link.needs(attention::METHODS) {
            let method = {
                let mut state = self.link.state();
                let method = state.methods.pop_front();
                if state.methods.is_empty() {
                    self.link.attention.fetch_and(!attention::METHODS, Relaxed);
                }
                method
            };
            let Some(Method { rid, name, payload, timeout_ms }) = method else { return };
            let called = self.callback(kind::METHOD, 0, |instance| {
                instance.method(RStr::from_str(&name), RSlice::from_slice(&payload), timeout_ms)
            });
            self.after(&called.end, "method");
            let answer = FromHost::MethodAnswer { rid, status: called.status, payload: called.payload.as_slice() };
            answer.encode(&mut self.link.state().out);
            self.flush();
            self.schedule_tick();
        }
    }

    fn tick_if_due(&mut self) {
        if self.tick_at.is_some_and(|at| at <= Instant::now()) {
            let end = self.callback(kind::TICK, 0, |instance| instance.tick());
            self.after(&end, "tick");
            self.tick_at = None;
            self.schedule_tick();
        }
    }

    /// A tick that is due stays due; one whose interval has changed is set anew.
    fn schedule_tick(&mut self) {
        let interval = self.instance.interval_ms();
        let next = (interval > 0).then(|| Instant::now().checked_add(Duration::from_millis(interval))).flatten();
        self.tick_at = match (self.tick_at, next) {
            (Some(at), Some(next)) => Some(at.min(next)),
            (_, next) => next,
        };
    }

    fn stop(mut self) -> i32 {
        self.return_rest();
        let end = self.callback(kind::STOP, 0, |instance| instance.stop());
        self.after(&end, "stop");
        let mut state = self.link.state();
        let mut open: Vec<u64> = state.deferred.drain().map(|(id, _)| id).collect();
        open.sort_unstable();
        open.into_iter().for_each(|id| state.complete(id, Completion::Returned, ""));
        state.seal();
        FromHost::Stopped.encode(&mut state.out);
        drop(state);
        self.flush();
        EXIT_STOPPED
    }

    /// Gives back what was delivered and not begun.
    fn return_rest(&mut self) {
        loop {
            let mut rest = &self.batch[self.at..self.end];
            let mut state = self.link.state();
            while let Ok(Some(frame)) = split(&mut rest) {
                if let Ok(ToHost::Deliver { id, .. }) = ToHost::decode(frame) {
                    state.complete(id, Completion::Returned, "");
                }
            }
            drop(state);
            self.at = self.end;
            self.take_batch(false);
            if self.at == self.end {
                return;
            }
        }
    }

    /// What is between two messages of a long batch: others get their answers, and what has come is seen.
    fn break_batch(&mut self) {
        self.broke_at_ms = self.link.now_ms.load(Relaxed);
        self.flush();
        let link = self.link.clone();
        let mut reader = link.take_place();
        link.read(&mut reader);
    }

    /// The watcher's clock has moved on since the batch was last broken.
    fn is_new_slice(&self) -> bool {
        self.link.now_ms.load(Relaxed) != self.broke_at_ms
    }

    /// Swaps in what was read. With `wait`, reads when there is nothing, until there is or a tick is due.
    fn take_batch(&mut self, wait: bool) {
        let link = self.link.clone();
        let mut reader = link.take_place();
        let waits_for_credit = self.at < self.end;
        if wait && (reader.scanned == 0 || waits_for_credit) {
            let timeout = self.tick_at.map(|at| at.saturating_duration_since(Instant::now()));
            // In a stream there is more already; after a lone message there is not, and asking costs a call.
            let in_stream = self.end > LONE_BYTES;
            if !(in_stream && link.read(&mut reader)) {
                link.turn(&mut reader, timeout);
            }
        }
        if waits_for_credit || reader.scanned == 0 {
            return;
        }
        std::mem::swap(&mut reader.buffer, &mut self.batch);
        (self.at, self.end) = (0, reader.scanned);
        let (scanned, end) = (reader.scanned, reader.end);
        if reader.buffer.len() > INBOX_BYTES || reader.buffer.len() < end - scanned {
            reader.buffer = vec![0; INBOX_BYTES.max(end - scanned)];
        }
        reader.buffer[..end - scanned].copy_from_slice(&self.batch[scanned..end]);
        (reader.end, reader.scanned) = (end - scanned, 0);
    }

    fn next_is_message(&self) -> bool {
        let mut rest = &self.batch[self.at..self.end];
        while let Ok(Some(frame)) = split(&mut rest) {
            if is_ordered(frame) {
                return true;
            }
        }
        false
    }

    /// Writes what has gathered. While the socket is full it reads, because the other side may be waiting to write.
    fn flush(&self) {
        while !self.link.flush(false) && !self.link.is_closed() {
            let mut reader = self.link.take_place();
            self.link.read_until_writable(&mut reader);
        }
    }

    fn callback<T>(&mut self, kind: u64, delivery: u64, run: impl FnOnce(&mut InstanceBox) -> T) -> T {
        CALLBACK.set(Callback::Other);
        let end = self.entered(kind, delivery, run);
        CALLBACK.set(Callback::None);
        end
    }

    fn entered<T>(&mut self, kind: u64, delivery: u64, run: impl FnOnce(&mut InstanceBox) -> T) -> T {
        let link = &*self.link;
        watch::busy(link);
        link.status.begin(kind, delivery, link.now_ms.load(Relaxed));
        let end = run(&mut self.instance);
        link.status.end();
        end
    }

    /// Says what went wrong in a callback that refuses no message.
    fn after(&self, end: &End, callback: &str) {
        let mut state = self.link.state();
        match end.code {
            end::OK => {}
            end::PANICKED => FromHost::Panicked { delivery: 0, text: &end.text }.encode(&mut state.out),
            _ => state.log(1, "skerry", &format!("callback={callback} error={:?}", end.text.as_str())),
        }
    }
}

fn refusal_text(end: &End) -> String {
    if end.text.is_empty() { "refused without a reason".to_owned() } else { end.text.to_string() }
}
