//! Answers that come later: the receipt of a message, the answer to a report. Each is a future for any
//! executor and can be waited for by a thread. Must never need an executor of its own.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RNone, RSome},
};

use crate::{
    context::Context,
    error::AnswerError,
    raw::{Answer, Wake, Wake_TO, WakeBox, answer, space},
    wire::frame::Outcome,
};

/// What became of a message, once it is known: a future, or [`wait`](Receipt::wait).
///
/// A receipt that is dropped costs nothing; the message goes its way all the same.
///
/// ```no_run
/// # use skerry_abi::*;
/// # async fn example(cx: Context) -> Result<()> {
/// let outcome = cx.send("alerts", Message::new("too hot"))?.await?;
/// log::info!("the alert is safe: {outcome:?}");
/// # Ok(())
/// # }
/// ```
pub struct Receipt(Pending);

impl Receipt {
    pub(crate) fn new(context: Context, ticket: u64) -> Receipt {
        Receipt(Pending { context, space: space::MESSAGE, id: ticket, open: true })
    }

    /// Waits until the message is safe, for as long as that takes: on a device without a network and without
    /// disk space that may be long.
    ///
    /// # Errors
    /// `Refused` with the reason, `InsideCallback`, or `LinkEnded`.
    pub fn wait(mut self) -> Result<Outcome, AnswerError> {
        outcome(self.0.wait(-1))
    }

    /// Waits up to `span`; the receipt can be asked again after `TimedOut`.
    ///
    /// # Errors
    /// As [`wait`](Receipt::wait), and `TimedOut`.
    pub fn wait_for(&mut self, span: Duration) -> Result<Outcome, AnswerError> {
        outcome(self.0.wait(span_ms(span)))
    }
}

impl Future for Receipt {
    type Output = Result<Outcome, AnswerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.0.poll(cx.waker()).map(outcome)
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt {{ ticket: {} }}", self.0.id)
    }
}

/// The runtime's answer to [`Twin::report`](crate::Twin::report): the new version of the reported section.
/// A future, or [`wait`](Report::wait).
pub struct Report(Pending);

impl Report {
    pub(crate) fn new(context: Context, rid: u64) -> Report {
        Report(Pending { context, space: space::ASK, id: rid, open: true })
    }

    /// Waits for the answer. Allowed inside a callback: the runtime answers at once.
    ///
    /// # Errors
    /// `Refused` with the reason, or `LinkEnded`.
    pub fn wait(mut self) -> Result<u64, AnswerError> {
        version(self.0.wait(-1))
    }
}

impl Future for Report {
    type Output = Result<u64, AnswerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.0.poll(cx.waker()).map(version)
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report {{ rid: {} }}", self.0.id)
    }
}

/// A future that ends when the instance is asked to stop. See [`Context::stopped`].
pub struct Stopped(pub(crate) Pending);

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.0.poll(cx.waker()).map(drop)
    }
}

/// A future that ends when there is credit. See [`Context::room`].
pub struct Room(pub(crate) Pending);

impl Future for Room {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.0.poll(cx.waker()).map(drop)
    }
}

/// An answer that the host keeps until it is taken or this is dropped.
pub(crate) struct Pending {
    pub(crate) context: Context,
    pub(crate) space: u8,
    pub(crate) id: u64,
    pub(crate) open: bool,
}

impl Pending {
    pub(crate) fn wait(&mut self, timeout_ms: i64) -> Answer {
        let answer = self.context.host().wait(self.space, self.id, timeout_ms);
        self.open = matches!(answer.state, answer::PENDING | answer::INSIDE);
        answer
    }

    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Answer> {
        let host = self.context.host();
        let mut answer = host.poll(self.space, self.id, RNone);
        if answer.state == answer::PENDING {
            // Asks again while it leaves the waker, so an answer in between is not missed.
            answer = host.poll(self.space, self.id, RSome(wake_box(waker)));
        }
        if answer.state == answer::PENDING {
            return Poll::Pending;
        }
        self.open = false;
        Poll::Ready(answer)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.open {
            self.context.host().forget(self.space, self.id);
        }
    }
}

/// Rounds up, so that a short wait is not none.
pub(crate) fn span_ms(span: Duration) -> i64 {
    i64::try_from(span.as_micros().div_ceil(1_000)).unwrap_or(i64::MAX)
}

fn wake_box(waker: &Waker) -> WakeBox {
    struct Woken(Waker);
    impl Wake for Woken {
        fn wake(&self) {
            // A waker that panics would end the process at the boundary.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.0.wake_by_ref()));
        }
    }
    Wake_TO::from_value(Woken(waker.clone()), TD_Opaque)
}

fn outcome(answer: Answer) -> Result<Outcome, AnswerError> {
    let answer = there(answer)?;
    match u8::try_from(answer.code).ok().and_then(Outcome::from_byte) {
        Some(Outcome::Refused) | None => Err(AnswerError::Refused(text(&answer))),
        Some(outcome) => Ok(outcome),
    }
}

fn version(answer: Answer) -> Result<u64, AnswerError> {
    let answer = there(answer)?;
    if answer.code < 300 { Ok(answer.version) } else { Err(AnswerError::Refused(text(&answer))) }
}

pub(crate) fn there(answer: Answer) -> Result<Answer, AnswerError> {
    match answer.state {
        answer::THERE => Ok(answer),
        answer::PENDING => Err(AnswerError::TimedOut),
        answer::INSIDE => Err(AnswerError::InsideCallback),
        _ => Err(AnswerError::LinkEnded),
    }
}

pub(crate) fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(answer.bytes.as_slice()).into_owned()
}
