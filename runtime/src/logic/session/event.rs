//! What a session tells its shell and is told by it.
//! Plain values; must never hold a key.

use std::time::Duration;

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Dial,
    /// Write what is left, then close.
    HangUp,
}

/// How a connection, or the attempt at one, ended, as the shell saw it. The text says what and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There never was one.
    Unreachable(String),
    /// The cloud is there and takes no connection now; it asks to wait so long, zero where it does not say.
    Busy { why: String, asked: Duration },
    /// The other side, or something on the way, ended it.
    Ended(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The cloud accepted the identity.
    Up,
    /// Subscribed: twin and methods can be used.
    Ready,
    /// Not connected any more; `None` where that was planned. The text is for the operator.
    Down {
        why: Option<String>,
        retry_in_ms: u64,
        /// It answered CONNECT with a refusal of who we are.
        refused: bool,
    },
    /// Hung up since there was nothing to say; it connects again when there is.
    Rested,
    /// The cloud has these.
    Acked {
        first: u64,
        count: u32,
    },
    /// This message can't be sent, ever.
    Rejected {
        delivery: u64,
        reason: String,
    },
    TwinAnswer {
        rid: u64,
        status: u16,
        version: Option<u64>,
        body: Vec<u8>,
    },
    Desired {
        version: Option<u64>,
        body: Vec<u8>,
    },
    Method {
        name: String,
        rid: String,
        payload: Vec<u8>,
    },
}
