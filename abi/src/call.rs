//! A call of another module's method, on the same device. Must never be waited for inside a callback: the other module may
//! be waiting for this one.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use abi_stable::std_types::RSlice;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Result,
    context::Context,
    module::Answer,
    raw::{self, answer, ask, space},
    receipt::{Pending, span_ms, text},
    wire::frame::FromHost,
};

/// Largest payload of a call, and of its answer, as JSON in bytes: IoT Hub's limit.
pub const METHOD_BYTES_MAX: usize = 128 * 1024;
/// How long a module may take if nothing else is said; IoT Hub's default.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

impl Context {
    /// Calls a method of another module on this device. Nobody's network is needed for it. It fails at once when that module does
    /// not run, and after 30 s without an answer.
    ///
    /// ```no_run
    /// # use skerry_abi::*;
    /// # fn example(cx: &Context) -> Result<()> {
    /// let cx = cx.clone();
    /// cx.clone().spawn("calibrate", move || {
    ///     let answer = cx.call("scale", "zero", serde_json::json!({"times": 3}))?.wait()?;
    ///     log::info!("status {}: {}", answer.status, answer.payload);
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The payload can't be written as JSON. What comes of the call stands in its answer.
    pub fn call(&self, module: &str, method: &str, payload: impl Serialize) -> Result<Call> {
        self.call_within(module, method, payload, Duration::ZERO, RESPONSE_TIMEOUT)
    }

    /// Like [`call`](Context::call): waits up to `connect` for a module that does not run (yet), and then up to `response` for its
    /// answer. Each counts at most 300 s.
    ///
    /// # Errors
    /// As `call`.
    pub fn call_within(
        &self,
        module: &str,
        method: &str,
        payload: impl Serialize,
        connect: Duration,
        response: Duration,
    ) -> Result<Call> {
        let payload = serde_json::to_vec(&payload)?;
        let ms = |span: Duration| u32::try_from(span_ms(span)).unwrap_or(u32::MAX);
        let mut encoded = Vec::new();
        // What is too large for a frame is too large for a call; the runtime says so, and need not see all of it.
        let payload = &payload[..payload.len().min(METHOD_BYTES_MAX + 1)];
        let (connect_ms, response_ms) = (ms(connect), ms(response));
        FromHost::Call { rid: 0, module, name: method, payload, connect_ms, response_ms }.encode(&mut encoded);
        let id = self.host().ask(ask::CALL, RSlice::from_slice(&encoded));
        Ok(Call(Pending { context: self.clone(), space: space::CALL, id, open: true }))
    }
}

/// What another module answers, once it does: a future, or [`wait`](Call::wait). The method runs to its end also when this is dropped.
pub struct Call(Pending);

impl Call {
    /// Waits for the answer, at most for the times of the call. Not inside a callback: give it to a thread or a task.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn wait(mut self) -> Result<Answer, CallError> {
        // An older host knows neither the question nor the space of its answer.
        let host = self.0.context.host();
        let known = host.poll(space::ASK, self.0.id, abi_stable::std_types::RNone);
        if known.state == answer::THERE {
            self.0.open = false;
            return answered(known);
        }
        answered(self.0.wait(-1))
    }
}

impl Future for Call {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        // Where an older host has its answers, too.
        self.0.space = space::ASK;
        self.0.poll(cx.waker()).map(answered)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call {{ id: {} }}", self.0.id)
    }
}

/// Why a call has no answer of the module that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The runtime's status and reason: 404 no such module, or it does not run; 504 no answer in time; 413 the payload is too
    /// large; 429 too many calls; 400 a bad name; 501 a runtime that is older than calls.
    Refused {
        /// As HTTP has it.
        status: u16,
        /// For a person.
        reason: String,
    },
    /// Waiting inside a callback could stop two modules for good; await it elsewhere.
    InsideCallback,
    /// The link to the runtime has ended.
    LinkEnded,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused { status, reason } => write!(f, "{reason} ({status})"),
            CallError::InsideCallback => f.write_str("a call can't be waited for inside a callback"),
            CallError::LinkEnded => f.write_str("the link to the runtime has ended"),
        }
    }
}

impl std::error::Error for CallError {}

fn answered(answer: raw::Answer) -> Result<Answer, CallError> {
    match (answer.state, answer.code) {
        (answer::THERE, 200) => {
            let payload = serde_json::from_slice(answer.bytes.as_slice()).unwrap_or(Value::Null);
            Ok(Answer { status: answer.version as u32 as i32, payload })
        }
        (answer::THERE, status) => Err(CallError::Refused { status, reason: text(&answer) }),
        (answer::INSIDE, _) => Err(CallError::InsideCallback),
        _ => Err(CallError::LinkEnded),
    }
}
