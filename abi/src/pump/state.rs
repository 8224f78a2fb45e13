//! What all threads of an instance share under one lock: frames to be written, messages under way, questions,
//! credit. Never blocks and never calls the author's code: wakers are handed out to be called without the lock.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{
    raw::{Answer, WakeBox, answer},
    wire::frame::{Completion, FromHost, Outcome, ToHost},
};

use super::{
    answers::{Asks, Tickets},
    credit::Credit,
    refusals::Refusals,
};

/// Method calls that wait for their turn; more are answered with status 429.
const METHODS_MAX: usize = 64;
/// Refusals that nobody holds a receipt for are logged at most this often.
const REFUSED_LOG_INTERVAL_MS: u128 = 1_000;

pub(super) struct State {
    /// Frames to be written.
    pub(super) out: Vec<u8>,
    /// Deliveries that ended alike and stand in no frame yet: first, count and how.
    run: (u64, u32, Completion),
    pub(super) tickets: Tickets,
    pub(super) asks: Asks,
    pub(super) credit: Credit,
    pub(super) methods: VecDeque<Method>,
    pub(super) deferred: HashMap<u64, Deferral>,
    pub(super) refusals: Refusals,
    /// When frames were last taken off `out` to be written.
    pub(super) written_at: Instant,
    /// The bell was rung for what stands in `out`.
    pub(super) rung: bool,
    /// Bytes at the front of `out` that are messages which gather.
    pub(super) gathering: usize,
    /// Threads that wait for credit.
    pub(super) credit_waiters: u32,
    /// Threads that sleep on the condition variable.
    pub(super) sleepers: u32,
    refused: (u32, Option<Instant>),
    /// What the module last said of its own health; empty when it is well.
    health: String,
}

pub(super) struct Method {
    pub(super) rid: u64,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) timeout_ms: u32,
}

/// A delivery that its module completes later.
pub(super) enum Deferral {
    /// Its callback is still in progress.
    InCallback,
    /// It was ended before its callback was.
    Early(Completion, String),
    Open {
        stream: u32,
    },
}

/// What the arrival of a frame means for others.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) wakers: Vec<WakeBox>,
    /// Somebody may wait for what has come.
    pub(super) notify: bool,
    pub(super) stop: bool,
}

impl State {
    pub(super) fn new(credit: Credit) -> State {
        State {
            out: Vec::new(),
            run: (0, 0, Completion::Done),
            tickets: Tickets::new(),
            asks: Asks::default(),
            credit,
            methods: VecDeque::new(),
            deferred: HashMap::new(),
            refusals: Refusals::default(),
            written_at: Instant::now(),
            rung: false,
            gathering: 0,
            credit_waiters: 0,
            sleepers: 0,
            refused: (0, None),
            health: String::new(),
        }
    }

    /// Ends a delivery, or puts it aside. Those that follow each other and end alike, without a reason, become one frame.
    #[inline]
    pub(super) fn complete(&mut self, delivery: u64, completion: Completion, reason: &str) {
        let (first, count, kind) = &mut self.run;
        if *count > 0 && *kind == completion && *first + u64::from(*count) == delivery && reason.is_empty() {
            *count += 1;
            return;
        }
        self.seal();
        if reason.is_empty() {
            self.run = (delivery, 1, completion);
        } else {
            FromHost::Complete { first: delivery, count: 1, completion, reason }.encode(&mut self.out);
        }
    }

    /// Turns the ends that gather into a frame. Before anything is taken off `out`.
    #[inline]
    pub(super) fn seal(&mut self) {
        let (first, count, completion) = self.run;
        if count > 0 {
            self.run.1 = 0;
            FromHost::Complete { first, count, completion, reason: "" }.encode(&mut self.out);
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.run.1 > 0
    }

    /// Nothing of what is to be written is more than messages which gather.
    pub(super) fn only_gathers(&self) -> bool {
        self.out.len() == self.gathering && self.run.1 == 0
    }

    /// Ends a deferred delivery from anywhere. Unknown ones are ignored: the refusal of a callback ends them too.
    pub(super) fn complete_deferred(&mut self, delivery: u64, completion: Completion, reason: &str) {
        match self.deferred.remove(&delivery) {
            Some(Deferral::Open { stream }) => {
                self.complete(delivery, completion, reason);
                if completion == Completion::Refused {
                    self.refusals.refuse(stream);
                }
            }
            Some(Deferral::InCallback) => {
                self.deferred.insert(delivery, Deferral::Early(completion, reason.to_owned()));
            }
            Some(early @ Deferral::Early(..)) => {
                self.deferred.insert(delivery, early);
            }
            None => {}
        }
    }

    /// Applies a frame that needs no turn in the stream.
    pub(super) fn apply(&mut self, frame: ToHost<'_>, effects: &mut Effects) {
        match frame {
            ToHost::Settled { first, count, outcome, reason } => self.settle(first, count, outcome, reason, effects),
            ToHost::Credit { messages, bytes } => {
                self.credit.set_window(messages, bytes);
                self.credit_is_back(effects);
            }
            ToHost::Reported { rid, status, version, reason } => {
                let bytes = reason.as_bytes().into();
                self.answer(rid, Answer { state: answer::THERE, code: status, version, bytes }, effects);
            }
            ToHost::Signed { rid, digest, error } => {
                let (code, bytes) = if digest.is_empty() { (500, error.as_bytes()) } else { (200, digest) };
                self.answer(rid, Answer { state: answer::THERE, code, version: 0, bytes: bytes.into() }, effects);
            }
            ToHost::Called { rid, code, status, payload } => {
                let version = u64::from(status as u32);
                self.answer(rid, Answer { state: answer::THERE, code, version, bytes: payload.into() }, effects);
            }
            ToHost::Method { rid, name, payload, timeout_ms } => self.method(rid, name, payload, timeout_ms),
            ToHost::Ping { n } => FromHost::Pong { n }.encode(&mut self.out),
            ToHost::Stop { .. } => {
                effects.stop = true;
                effects.notify = true;
                effects.wakers.extend(self.asks.stop());
            }
            // The first two come once, before this; the others have their turn in the stream.
            ToHost::Hello { .. } | ToHost::Start { .. } | ToHost::Deliver { .. } | ToHost::Desired { .. } => {}
        }
    }

    fn settle(&mut self, first: u64, count: u32, outcome: Outcome, reason: &str, effects: &mut Effects) {
        let credit = &mut self.credit;
        let run = self.tickets.settle(first, count, outcome, reason, |bytes| credit.give_back(bytes));
        effects.notify |= run.held;
        effects.wakers.extend(run.wakers);
        self.credit_is_back(effects);
        if run.refused_unheard == 0 {
            return;
        }
        self.refused.0 += run.refused_unheard;
        let due = self.refused.1.is_none_or(|last| last.elapsed().as_millis() >= REFUSED_LOG_INTERVAL_MS);
        if due {
            let text = format!("messages_refused={} last_reason={reason:?}", self.refused.0);
            self.refused = (0, Some(Instant::now()));
            self.log(2, "skerry", &text);
        }
    }

    fn credit_is_back(&mut self, effects: &mut Effects) {
        effects.notify |= self.credit_waiters > 0;
        if self.asks.wait_for_credit() && self.credit.has_room(1) {
            effects.wakers.extend(self.asks.credit());
            effects.notify = true;
        }
    }

    fn answer(&mut self, rid: u64, answer: Answer, effects: &mut Effects) {
        effects.wakers.extend(self.asks.answer(rid, answer));
        effects.notify = true;
    }

    fn method(&mut self, rid: u64, name: &str, payload: &[u8], timeout_ms: u32) {
        if self.methods.len() == METHODS_MAX {
            let payload = br#""too many calls are waiting""#;
            FromHost::MethodAnswer { rid, status: 429, payload }.encode(&mut self.out);
            return;
        }
        self.methods.push_back(Method { rid, name: name.to_owned(), payload: payload.to_vec(), timeout_ms });
    }

    /// The same again is not said again: a module may say it with every tick.
    pub(super) fn say_health(&mut self, rid: u64, text: &str) {
        if self.health != text {
            text.clone_into(&mut self.health);
            FromHost::Health { text }.encode(&mut self.out);
        }
        self.asks.answer(rid, Answer { state: answer::THERE, code: 200, version: 0, bytes: Vec::new().into() });
    }

    pub(super) fn log(&mut self, level: u8, target: &str, text: &str) {
        let time_ms = super::clock::wall_ms();
        FromHost::Log { level, time_ms, target, text }.encode(&mut self.out);
    }
}
