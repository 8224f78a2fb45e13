//! The handle of a message whose completion was put off. Must never leave its message open: a handle
//! that is dropped gives the message back.

use std::fmt;

use abi_stable::std_types::RStr;

use crate::{context::Context, wire::frame::Completion};

/// A message that stays open until this handle ends it. See [`Message::defer`](crate::Message::defer).
///
/// A dropped handle refuses its message, which is then delivered again; while the instance stops, it gives it back uncounted.
#[must_use = "a dropped handle refuses its message"]
pub struct Deferred {
    context: Context,
    delivery: u64,
    open: bool,
}

impl Deferred {
    /// `None` unless the callback of `delivery` is in progress on this thread.
    pub(crate) fn take(delivery: u64) -> Option<Deferred> {
        let context = Context::current()?;
        context.host().defer(delivery).then(|| Deferred { delivery, context, open: true })
    }

    /// The message is done. It settles at once.
    pub fn complete(mut self) {
        self.end(Completion::Done, "");
    }

    /// The message is to be delivered again; `reason` is for a person, and the refusal counts.
    pub fn refuse(mut self, reason: &str) {
        self.end(Completion::Refused, reason);
    }

    pub(crate) fn delivery(&self) -> u64 {
        self.delivery
    }

    fn end(&mut self, completion: Completion, reason: &str) {
        self.open = false;
        self.context.host().complete(self.delivery, completion as u8, RStr::from_str(reason));
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        if self.context.is_stopping() {
            self.end(Completion::Returned, "");
        } else {
            self.end(Completion::Refused, "the module dropped the message's handle without ending it");
        }
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deferred {{ delivery: {} }}", self.delivery)
    }
}
