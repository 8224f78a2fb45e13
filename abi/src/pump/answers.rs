//! What is still to be heard from the runtime: a ring of tickets for messages under way, and the questions that
//! were asked. Constant work a message; an outcome is kept only while somebody holds its receipt.
//! Must never call a waker: those run the author's code, and go out to be called without a lock held.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use crate::{
    raw::{Answer, WakeBox, answer},
    wire::frame::{self, FromHost, Outcome},
};

type ById<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// Messages under way.
pub(super) struct Tickets {
    /// Ticket of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    /// Outcomes that a receipt waits to take.
    outcomes: ById<Answer>,
    wakers: ById<WakeBox>,
}

#[derive(Clone, Copy)]
struct Slot {
    bytes: u32,
    state: SlotState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// Nobody holds the receipt.
    Open,
    Held,
    /// Its number has to stay until those before it are settled too.
    Settled,
}

/// What came of one `Settled` frame.
#[derive(Default)]
pub(super) struct SettledRun {
    pub(super) wakers: Vec<WakeBox>,
    /// Somebody may wait for one of these.
    pub(super) held: bool,
    /// Refused, with nobody to tell.
    pub(super) refused_unheard: u32,
}

impl Tickets {
    pub(super) fn new() -> Tickets {
        Tickets { base: 1, slots: VecDeque::new(), outcomes: ById::default(), wakers: ById::default() }
    }

    /// The next ticket.
    #[inline]
    pub(super) fn push(&mut self, bytes: usize, held: bool) -> u64 {
        let state = if held { SlotState::Held } else { SlotState::Open };
        self.slots.push_back(Slot { bytes: bytes as u32, state });
        self.base + self.slots.len() as u64 - 1
    }

    /// Messages from the first that is not settled on.
    #[inline]
    pub(super) fn under_way(&self) -> usize {
        self.slots.len()
    }

    /// Ends a run of tickets; `returned` is called with the size of each. Tickets that are not under way are ignored.
    pub(super) fn settle(
        &mut self,
        first: u64,
        count: u32,
        outcome: Outcome,
        reason: &str,
        mut returned: impl FnMut(u32),
    ) -> SettledRun {
        let mut run = SettledRun::default();
        let start = first.max(self.base);
        let end = first.saturating_add(u64::from(count)).min(self.base + self.slots.len() as u64);
        for ticket in start..end {
            let slot = &mut self.slots[(ticket - self.base) as usize];
            let state = std::mem::replace(&mut slot.state, SlotState::Settled);
            match state {
                SlotState::Settled => continue,
                SlotState::Open => run.refused_unheard += u32::from(outcome == Outcome::Refused),
                SlotState::Held => {
                    run.held = true;
                    let bytes = reason.as_bytes().into();
                    let answer = Answer { state: answer::THERE, code: outcome as u16, version: 0, bytes };
                    self.outcomes.insert(ticket, answer);
                    if !self.wakers.is_empty() {
                        run.wakers.extend(self.wakers.remove(&ticket));
                    }
                }
            }
            returned(slot.bytes);
        }
        while self.slots.front().is_some_and(|slot| slot.state == SlotState::Settled) {
            self.slots.pop_front();
            self.base += 1;
        }
        run
    }

    /// The outcome, which is then forgotten, or `PENDING`. A ticket that nobody can hold is `CLOSED`.
    pub(super) fn poll(&mut self, ticket: u64, wake: Option<WakeBox>) -> Answer {
        if let Some(answer) = self.outcomes.remove(&ticket) {
            return answer;
        }
        if !matches!(self.slot(ticket), Some(Slot { state: SlotState::Held, .. })) {
            return state(answer::CLOSED);
        }
        if let Some(wake) = wake {
            self.wakers.insert(ticket, wake);
        }
        state(answer::PENDING)
    }

    #[inline]
    pub(super) fn forget(&mut self, ticket: u64) {
        match self.slot(ticket) {
            Some(slot) if slot.state == SlotState::Held => {
                slot.state = SlotState::Open;
                if !self.wakers.is_empty() {
                    self.wakers.remove(&ticket);
                }
            }
            _ => drop(self.outcomes.remove(&ticket)),
        }
    }

    /// Nothing will come any more: everyone who waits is to look again.
    pub(super) fn close(&mut self) -> Vec<WakeBox> {
        self.slots.clear();
        self.wakers.drain().map(|(_, wake)| wake).collect()
    }

    fn slot(&mut self, ticket: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(ticket.checked_sub(self.base)?).ok()?)
    }
}

/// Questions to the runtime.
#[derive(Default)]
pub(super) struct Asks {
    last: u64,
    open: ById<Ask>,
    /// Of the open ones without an answer.
    until_credit: u32,
}

#[derive(Default)]
struct Ask {
    answer: Option<Answer>,
    wake: Option<WakeBox>,
    until: Until,
}

/// What answers a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Until {
    /// A frame with its number.
    #[default]
    Frame,
    Stop,
    /// Credit, or the stop.
    Credit,
}

impl Asks {
    /// The id of a new question.
    pub(super) fn push(&mut self, until: Until) -> u64 {
        self.last += 1;
        self.until_credit += u32::from(until == Until::Credit);
        self.open.insert(self.last, Ask { until, ..Ask::default() });
        self.last
    }

    pub(super) fn wait_for_credit(&self) -> bool {
        self.until_credit > 0
    }

    /// A question that is answered already.
    pub(super) fn put(&mut self, rid: u64, answer: Answer) {
        self.open.insert(rid, Ask { answer: Some(answer), ..Ask::default() });
    }

    /// Ignored when nobody waits for it any more.
    pub(super) fn answer(&mut self, rid: u64, answer: Answer) -> Option<WakeBox> {
        let ask = self.open.get_mut(&rid)?;
        ask.answer = Some(answer);
        ask.wake.take()
    }

    /// Answers those that wait for the stop, and those that it leaves nothing to wait for.
    pub(super) fn stop(&mut self) -> Vec<WakeBox> {
        self.answer_all(|until| until != Until::Frame)
    }

    /// Answers those that wait for credit.
    pub(super) fn credit(&mut self) -> Vec<WakeBox> {
        self.answer_all(|until| until == Until::Credit)
    }

    fn answer_all(&mut self, is: impl Fn(Until) -> bool) -> Vec<WakeBox> {
        let asks = self.open.values_mut().filter(|ask| ask.answer.is_none() && is(ask.until));
        let wakers = asks.filter_map(|ask| {
            ask.answer = Some(Answer { code: 200, ..state(answer::THERE) });
            self.until_credit -= u32::from(ask.until == Until::Credit);
            ask.wake.take()
        });
        wakers.collect()
    }

    /// As [`Tickets::poll`].
    pub(super) fn poll(&mut self, rid: u64, wake: Option<WakeBox>) -> Answer {
        let Some(ask) = self.open.get_mut(&rid) else { return state(answer::CLOSED) };
        match ask.answer.take() {
            Some(answer) => {
                self.open.remove(&rid);
                answer
            }
            None => {
                if wake.is_some() {
                    ask.wake = wake;
                }
                state(answer::PENDING)
            }
        }
    }

    pub(super) fn forget(&mut self, rid: u64) {
        if let Some(ask) = self.open.remove(&rid) {
            self.until_credit -= u32::from(ask.until == Until::Credit && ask.answer.is_none());
        }
    }

    /// As [`Tickets::close`].
    pub(super) fn close(&mut self) -> Vec<WakeBox> {
        let wakers = self.stop().into_iter().chain(self.open.values_mut().filter_map(|ask| ask.wake.take())).collect();
        self.open.retain(|_, ask| ask.answer.is_some());
        wakers
    }
}

/// The call under its number; false where it is none.
pub(super) fn put_call(out: &mut Vec<u8>, number: u64, mut encoded: &[u8]) -> bool {
    let Ok(Some(bytes)) = frame::split(&mut encoded) else { return false };
    let Ok(FromHost::Call { module, name, payload, connect_ms, response_ms, .. }) = FromHost::decode(bytes) else {
        return false;
    };
    FromHost::Call { rid: number, module, name, payload, connect_ms, response_ms }.encode(out);
    true
}

/// An answer that says only how matters stand.
pub(super) fn state(state: u8) -> Answer {
    Answer { state, code: 0, version: 0, bytes: Vec::new().into() }
}

/// Ids count up: spreading them is all a hash has to do.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(tickets: &mut Tickets, first: u64, count: u32) -> (u32, SettledRun) {
        let mut bytes = 0;
        let run = tickets.settle(first, count, Outcome::Delivered, "", |b| bytes += b);
        (bytes, run)
    }

    #[test]
    fn tickets_settle_once_and_in_any_order() {
        let mut tickets = Tickets::new();
        assert_eq!((1..=4).map(|b| tickets.push(b, b == 2)).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(settle(&mut tickets, 3, 9).0, 7);
        assert_eq!(settle(&mut tickets, 3, 1).0, 0);
        assert_eq!(tickets.slots.len(), 4);
        assert_eq!(tickets.poll(2, None).state, answer::PENDING);
        assert_eq!(tickets.poll(1, None).state, answer::CLOSED);
        let (bytes, run) = settle(&mut tickets, 0, 3);
        assert_eq!((bytes, run.held), (3, true));
        assert_eq!(tickets.slots.len(), 0);
        assert_eq!(tickets.poll(2, None).state, answer::THERE);
        assert_eq!(tickets.poll(2, None).state, answer::CLOSED);
        assert_eq!(tickets.push(1, false), 5);
    }

    #[test]
    fn a_forgotten_receipt_keeps_nothing() {
        let mut tickets = Tickets::new();
        let before = tickets.push(1, true);
        tickets.forget(before);
        let after = tickets.push(1, true);
        settle(&mut tickets, 1, 2);
        assert_eq!(tickets.outcomes.len(), 1);
        tickets.forget(after);
        assert_eq!(tickets.outcomes.len(), 0);
    }

    #[test]
    fn a_refusal_that_nobody_hears_is_counted() {
        let mut tickets = Tickets::new();
        tickets.push(1, false);
        tickets.push(1, true);
        let run = tickets.settle(1, 2, Outcome::Refused, "quota", |_| {});
        assert_eq!(run.refused_unheard, 1);
        assert_eq!(tickets.poll(2, None).bytes.as_slice(), b"quota");
    }

    #[test]
    fn asks_are_answered_once() {
        let mut asks = Asks::default();
        let (a, b) = (asks.push(Until::Frame), asks.push(Until::Stop));
        assert_eq!(asks.poll(a, None).state, answer::PENDING);
        assert!(asks.answer(a, Answer { code: 204, ..state(answer::THERE) }).is_none());
        assert_eq!(asks.poll(a, None).code, 204);
        assert_eq!(asks.poll(a, None).state, answer::CLOSED);
        asks.stop();
        assert_eq!(asks.poll(b, None).code, 200);
        assert!(asks.open.is_empty());
    }

    #[test]
    fn those_who_wait_for_credit_are_counted() {
        let mut asks = Asks::default();
        let (a, b) = (asks.push(Until::Credit), asks.push(Until::Credit));
        asks.forget(a);
        assert!(asks.wait_for_credit());
        asks.credit();
        assert!(!asks.wait_for_credit());
        asks.forget(b);
        asks.push(Until::Credit);
        asks.stop();
        assert!(!asks.wait_for_credit());
    }
}
