//! The runtime as the SDK sees it: what a module's calls do to the link. Runs on any thread of the module.
//! Must never block inside a callback, but for an answer that the runtime has at hand.

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use abi_stable::std_types::{ROption, RSlice, RStr};

use crate::{
    raw::{Answer, Document, Host, Sent, WakeBox, answer, ask, publish, sent, space},
    wire::frame::{self, Completion, FRAME_BYTES_MAX, FailureKind, FromHost},
};

use super::{
    answers::{self, Until},
    link::{Link, attention},
    state::{Deferral, State},
};

/// Room for the fixed fields of a `Publish` frame, bytes.
const ENVELOPE_BYTES: usize = 64;
/// Inside a callback frames are written once this much has gathered, and otherwise when the batch ends, bytes.
pub(super) const BATCH_BYTES: usize = 64 * 1024;

/// What the main thread is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Callback {
    None,
    /// A callback that is not about a message.
    Other,
    Message {
        delivery: u64,
        /// Its module deferred it.
        deferred: bool,
    },
}

thread_local! {
    /// Per thread, because a call from a thread of the module's own is in no callback.
    pub(super) static CALLBACK: Cell<Callback> = const { Cell::new(Callback::None) };
}

pub(super) struct PumpHost(pub(super) Arc<Link>);

impl Host for PumpHost {
    fn device(&self) -> RStr<'_> {
        RStr::from_str(&self.0.facts.device)
    }

    fn module(&self) -> RStr<'_> {
        RStr::from_str(&self.0.facts.module)
    }

    fn generation(&self) -> u64 {
        self.0.facts.generation
    }

    fn state_dir(&self) -> RStr<'_> {
        RStr::from_str(&self.0.facts.state_dir)
    }

    fn reported(&self) -> Document {
        Document { version: self.0.facts.reported_version, json: self.0.facts.reported.as_str().into() }
    }

    fn log_level(&self) -> u8 {
        self.0.facts.log_level
    }

    fn log(&self, level: u8, target: RStr<'_>, text: RStr<'_>) {
        let mut state = self.0.state();
        state.log(level, &target, &text);
        if level <= 2 {
            // What goes wrong is on its way before the process can die of it.
            drop(state);
            self.0.flush(false);
        } else if CALLBACK.get() == Callback::None {
            self.0.nudge(state);
        }
    }

    fn publish(&self, output: u16, flags: u32, parents: RSlice<'_, u64>, record: RSlice<'_, u8>) -> Sent {
        let (parents, record) = (parents.as_slice(), record.as_slice());
        if record.len() + parents.len() * 8 + ENVELOPE_BYTES > FRAME_BYTES_MAX {
            return not_sent(sent::TOO_LARGE);
        }
        let callback = CALLBACK.get();
        if callback != Callback::None {
            return self.publish_inside(callback, output, flags, parents, record);
        }
        let link = &*self.0;
        if link.needs(attention::STOP | attention::CLOSED) {
            return not_sent(sent::STOPPING);
        }
        let mut state = link.state();
        if !state.credit.has_room(record.len()) {
            if flags & publish::TRY != 0 {
                return not_sent(sent::NO_CREDIT);
            }
            state.credit_waiters += 1;
            drop(state);
            let mut before = 0;
            let room = link.wait_until(None, |state| {
                if link.needs(attention::STOP | attention::CLOSED) {
                    return Some(None);
                }
                // Put in at once, before another thread takes the room.
                let room = state.credit.has_room(record.len());
                before = state.out.len();
                room.then(|| Some(put(state, output, flags, parents, record)))
            });
            let mut state = link.state();
            state.credit_waiters -= 1;
            let Some(Some(sent)) = room else { return not_sent(sent::STOPPING) };
            link.nudge_message(state, before);
            return sent;
        }
        let before = state.out.len();
        let sent = put(&mut state, output, flags, parents, record);
        link.nudge_message(state, before);
        sent
    }

    fn defer(&self, delivery: u64) -> bool {
        let Callback::Message { delivery: current, deferred: false } = CALLBACK.get() else { return false };
        if current != delivery {
            return false;
        }
        CALLBACK.set(Callback::Message { delivery, deferred: true });
        self.0.state().deferred.insert(delivery, Deferral::InCallback);
        true
    }

    fn complete(&self, delivery: u64, completion: u8, reason: RStr<'_>) {
        let Some(completion) = Completion::from_byte(completion) else { return };
        let mut state = self.0.state();
        state.complete_deferred(delivery, completion, &reason);
        if completion == Completion::Refused {
            self.0.refused.store(true, Relaxed);
        }
        if CALLBACK.get() == Callback::None && state.has_output() {
            self.0.nudge(state);
        }
    }

    fn ask(&self, kind: u8, payload: RSlice<'_, u8>) -> u64 {
        let link = &*self.0;
        let mut state = link.state();
        let rid = state.asks.push(match kind {
            ask::STOP => Until::Stop,
            ask::CREDIT => Until::Credit,
            _ => Until::Frame,
        });
        match (kind, std::str::from_utf8(payload.as_slice())) {
            (ask::REPORT, Ok(patch)) => FromHost::Report { rid, patch }.encode(&mut state.out),
            (ask::CALL, _) if answers::put_call(&mut state.out, rid, payload.as_slice()) => {}
            (ask::HEALTH, Ok(text)) => state.say_health(rid, text),
            (ask::SIGN, _) => FromHost::Sign { rid, data: payload.as_slice() }.encode(&mut state.out),
            (ask::STOP | ask::CREDIT, _) => {
                // Nobody polls them yet, so there is nobody to wake.
                if link.needs(attention::STOP | attention::CLOSED) {
                    state.asks.stop();
                } else if kind == ask::CREDIT && state.credit.has_room(1) {
                    let there = Answer { code: 200, ..answers::state(answer::THERE) };
                    state.asks.forget(rid);
                    state.asks.put(rid, there);
                }
                return rid;
            }
            _ => {
                let bytes = b"this runtime does not know the question".as_slice().into();
                state.asks.answer(rid, Answer { state: answer::THERE, code: 501, version: 0, bytes });
                return rid;
            }
        }
        if CALLBACK.get() == Callback::None {
            link.nudge(state);
        }
        rid
    }

    fn poll(&self, space: u8, id: u64, wake: ROption<WakeBox>) -> Answer {
        poll(&mut self.0.state(), space, id, wake.into_option())
    }

    fn wait(&self, space: u8, id: u64, timeout_ms: i64) -> Answer {
        let first = poll(&mut self.0.state(), space, id, None);
        if first.state != answer::PENDING {
            return first;
        }
        if matches!(space, space::MESSAGE | space::CALL) && CALLBACK.get() != Callback::None {
            return answers::state(answer::INSIDE);
        }
        let span = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let deadline = span.and_then(|span| Instant::now().checked_add(span));
        let there = self.0.wait_until(deadline, |state| {
            let answer = poll(state, space, id, None);
            (answer.state != answer::PENDING).then_some(answer)
        });
        there.unwrap_or_else(|| answers::state(if self.0.is_closed() { answer::CLOSED } else { answer::PENDING }))
    }

    fn forget(&self, space: u8, id: u64) {
        let mut state = self.0.state();
        match space {
            space::MESSAGE => state.tickets.forget(id),
            _ => state.asks.forget(id),
        }
    }

    fn stopping(&self) -> bool {
        self.0.needs(attention::STOP | attention::CLOSED)
    }

    fn fail(&self, kind: u8, text: RStr<'_>) {
        let kind = FailureKind::from_byte(kind).unwrap_or(FailureKind::Asked);
        if self.0.is_closed() {
            return;
        }
        FromHost::Failed { kind, text: &text }.encode(&mut self.0.state().out);
        self.0.flush(true);
        self.0.close(super::EXIT_FAILED);
    }
}

impl PumpHost {
    /// Never waits: may overdraw.
    fn publish_inside(&self, callback: Callback, output: u16, flags: u32, parents: &[u64], record: &[u8]) -> Sent {
        let link = &*self.0;
        let mut state = link.state();
        let credit = &state.credit;
        let room = credit.has_room(record.len()) || (flags & publish::TRY == 0 && credit.has_overdraft(record.len()));
        if !room {
            return not_sent(sent::NO_CREDIT);
        }
        let sent = match callback {
            Callback::Message { delivery, .. } if parents.is_empty() => {
                put(&mut state, output, flags, &[delivery], record)
            }
            Callback::Message { delivery, .. } if !parents.contains(&delivery) => {
                let parents: Vec<u64> = parents.iter().copied().chain([delivery]).collect();
                put(&mut state, output, flags, &parents, record)
            }
            _ => put(&mut state, output, flags, parents, record),
        };
        if state.credit.is_overdrawn() {
            link.attention.fetch_or(attention::OVERDRAWN, Relaxed);
        }
        if state.out.len() > BATCH_BYTES {
            drop(state);
            link.flush(false);
        }
        sent
    }
}

fn put(state: &mut State, output: u16, flags: u32, parents: &[u64], record: &[u8]) -> Sent {
    state.credit.take(record.len());
    let ticket = state.tickets.push(record.len(), flags & publish::RECEIPT != 0);
    frame::publish(&mut state.out, ticket, output, flags & publish::NOW != 0, parents, record);
    Sent { code: sent::TAKEN, ticket }
}

fn poll(state: &mut State, space: u8, id: u64, wake: Option<WakeBox>) -> Answer {
    match space {
        space::MESSAGE => state.tickets.poll(id, wake),
        space::ASK | space::CALL => state.asks.poll(id, wake),
        _ => answers::state(answer::CLOSED),
    }
}

fn not_sent(code: u8) -> Sent {
    Sent { code, ticket: 0 }
}
