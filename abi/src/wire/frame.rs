//! The frames of the link between the runtime and a module host. The one owner of this format:
//! both sides encode and decode here. Must never trust a length or a tag that it reads.
//!
//! Every frame is `u32 length of what follows | u8 kind | payload`, little endian. Many frames
//! travel in one write. Strings and byte fields are `u32 length | bytes`, except that the last
//! field of a frame that carries a record is the rest of the frame.

mod fields;
mod from_host;
mod to_host;

use std::fmt;

pub use from_host::publish;

/// The version both sides say in `Hello`. A difference ends the link before anything else is read.
pub const LINK_VERSION: u16 = 1;
/// Longest frame, bytes after the length field: a largest message with room for its envelope.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

const LENGTH: usize = 4;

/// What became of a message, as its sender is told. Everything but `Refused` is safe in the sense of the
/// hub's promise: it is on disk, or every endpoint is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Every endpoint has acknowledged it.
    Delivered = 0,
    /// On disk, synced, for every endpoint that has not acknowledged it.
    Durable = 1,
    /// No route led anywhere; it was dropped and counted.
    NoRoute = 2,
    /// Its time to live ended at an endpoint before it was delivered.
    Expired = 3,
    /// Made to give way at the quota of the store.
    Evicted = 4,
    /// Its endpoint's module was removed.
    Removed = 5,
    /// An endpoint refused it too often; it lies in the dead letters.
    DeadLettered = 6,
    /// Not taken: the reason says why. It is nowhere; the sender still has it.
    Refused = 7,
}

impl Outcome {
    /// The outcome with that number.
    pub fn from_byte(byte: u8) -> Option<Outcome> {
        outcome_from(byte)
    }
}

/// How a consumer ended one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Completion {
    /// Done with it. It settles when everything that was sent while handling it is safe.
    Done = 0,
    /// The module refused it: counted, and delivered again.
    Refused = 1,
    /// Given back untouched, because an earlier message of its stream was refused or the instance stops. Not counted.
    Returned = 2,
    /// Not an end: the module keeps it (`Message::defer`) and ends it later with another completion. Sent when the callback
    /// returns, so that the runtime makes room in the delivery window.
    Deferred = 3,
}

impl Completion {
    /// The completion with that number.
    pub fn from_byte(byte: u8) -> Option<Completion> {
        completion_from(byte)
    }
}

/// Where a module was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FailureKind {
    /// The image could not be opened or its ABI does not fit.
    Image = 0,
    /// `start` returned an error or panicked.
    Start = 1,
    /// A thread that was started with `Context::spawn` panicked.
    Thread = 2,
    /// The module asked to be restarted (`Context::fail`).
    Asked = 3,
    /// The host could not confine itself as it was told to.
    Confinement = 4,
}

impl FailureKind {
    /// The kind with that number.
    pub fn from_byte(byte: u8) -> Option<FailureKind> {
        failure_from(byte)
    }
}

/// Runtime to host.
#[derive(Clone, Debug, PartialEq)]
pub enum ToHost<'a> {
    /// First frame. Ids, and the window of messages that may be unacknowledged.
    Hello {
        link_version: u16,
        device: &'a str,
        module: &'a str,
        generation: u64,
        credit_messages: u32,
        credit_bytes: u64,
    },
    /// Second frame, after the host's own `Hello`: open the image and start. Documents are JSON objects.
    Start {
        desired_version: u64,
        desired: &'a str,
        reported_version: u64,
        reported: &'a str,
        state_dir: &'a str,
    },
    /// `id`s of one link count up by one from 1. `input` is an index into the image's inputs. `queue` names an ordered stream:
    /// after a delivery was refused, the host gives back (`Returned`) that stream's later deliveries, those in its inbox and
    /// every one that still arrives, for good; the runtime delivers them again under a new stream number.
    Deliver {
        id: u64,
        queue: u32,
        input: u16,
        attempts: u16,
        enqueued_ms: i64,
        source_module: &'a str,
        source_output: &'a str,
        record: &'a [u8],
    },
    /// The messages with tickets `first .. first + count` came to `outcome`. `reason` is empty unless refused.
    Settled {
        first: u64,
        count: u32,
        outcome: Outcome,
        reason: &'a str,
    },
    /// The window from now on.
    Credit {
        messages: u32,
        bytes: u64,
    },
    /// The whole desired section; comes before every message that was delivered after the change.
    Desired {
        version: u64,
        desired: &'a str,
    },
    /// The answer to `Report`: an HTTP-like status, the new version, and a reason when refused.
    Reported {
        rid: u64,
        status: u16,
        version: u64,
        reason: &'a str,
    },
    Method {
        rid: u64,
        name: &'a str,
        payload: &'a [u8],
        timeout_ms: u32,
    },
    /// The answer to `Sign`: a digest, or an error when the digest is empty.
    Signed {
        rid: u64,
        digest: &'a [u8],
        error: &'a str,
    },
    /// The answer to `Call`: 200 with the module's own status and payload, or why there is none: then the payload is the reason.
    Called {
        rid: u64,
        code: u16,
        status: i32,
        payload: &'a [u8],
    },
    Ping {
        n: u64,
    },
    /// Finish the callback in progress, call `stop`, answer `Stopped` and exit, all within the time.
    Stop {
        grace_ms: u32,
    },
}

/// Host to runtime.
#[derive(Clone, Debug, PartialEq)]
pub enum FromHost<'a> {
    Hello {
        link_version: u16,
        sdk_version: &'a str,
        isolation: &'a str,
    },
    /// `start` returned.
    Started,
    /// `ticket`s of one link count up by one from 1. `parents` are the deliveries whose completion waits for this message.
    Publish {
        ticket: u64,
        output: u16,
        now: bool,
        parents: Parents<'a>,
        record: &'a [u8],
    },
    /// The deliveries `first .. first + count` ended. `reason` is empty unless refused.
    Complete {
        first: u64,
        count: u32,
        completion: Completion,
        reason: &'a str,
    },
    /// A merge patch for the reported section.
    Report {
        rid: u64,
        patch: &'a str,
    },
    MethodAnswer {
        rid: u64,
        status: i32,
        payload: &'a [u8],
    },
    Sign {
        rid: u64,
        data: &'a [u8],
    },
    /// Calls a method of another module on this device. The payload is JSON. Waits so long for a module that does not run,
    /// and then so long for its answer.
    Call {
        rid: u64,
        module: &'a str,
        name: &'a str,
        payload: &'a [u8],
        connect_ms: u32,
        response_ms: u32,
    },
    /// `level` as in the `log` crate: 1 error to 5 trace. `time_ms` is wall time since 1970.
    Log {
        level: u8,
        time_ms: i64,
        target: &'a str,
        text: &'a str,
    },
    /// Last words; the host exits after them.
    Failed {
        kind: FailureKind,
        text: &'a str,
    },
    Pong {
        n: u64,
    },
    /// What the module says of itself: empty when it is well, and otherwise what is wrong. Sent when that changes.
    Health {
        text: &'a str,
    },
    Stopped,
    /// A callback panicked (and was caught). `delivery` is the message in progress or 0.
    Panicked {
        delivery: u64,
        text: &'a str,
    },
}

/// A list of delivery ids inside a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parents<'a>(&'a [u8]);

impl<'a> Parents<'a> {
    pub const NONE: Parents<'static> = Parents(&[]);

    pub fn iter(&self) -> impl Iterator<Item = u64> + 'a {
        self.0.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
    }

    pub fn len(&self) -> usize {
        self.0.len() / 8
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Parents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What is wrong with bytes that should be a frame. The link can not go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    TooLong { bytes: usize },
    Kind(u8),
    Short { kind: u8 },
    Text { kind: u8 },
    Tag { kind: u8, value: u8 },
    Trailing { kind: u8 },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { bytes } => write!(f, "frame of {bytes} bytes, the limit is {FRAME_BYTES_MAX}"),
            FrameError::Kind(kind) => write!(f, "unknown frame kind {kind}"),
            FrameError::Short { kind } => write!(f, "frame of kind {kind} ends early"),
            FrameError::Text { kind } => write!(f, "frame of kind {kind} holds text that is not UTF-8"),
            FrameError::Tag { kind, value } => write!(f, "frame of kind {kind} holds the unknown tag {value}"),
            FrameError::Trailing { kind } => write!(f, "frame of kind {kind} has bytes after its last field"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes the first whole frame (kind and payload, without its length) off `bytes`.
/// `Ok(None)`: more bytes are needed.
pub fn split<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, FrameError> {
    let Some(head) = bytes.get(..LENGTH) else { return Ok(None) };
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length });
    }
    let Some(frame) = bytes.get(LENGTH..LENGTH + length) else { return Ok(None) };
    *bytes = &bytes[LENGTH + length..];
    Ok(Some(frame))
}

/// Whether a frame from the runtime has to wait its turn in the stream: a delivery, or a change of settings.
/// The others may overtake these.
#[inline]
pub fn is_ordered(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(&kind::DELIVER | &kind::DESIRED))
}

mod kind {
    pub const HELLO: u8 = 1;
    pub const START: u8 = 2;
    pub const DELIVER: u8 = 3;
    pub const SETTLED: u8 = 4;
    pub const CREDIT: u8 = 5;
    pub const DESIRED: u8 = 6;
    pub const REPORTED: u8 = 7;
    pub const METHOD: u8 = 8;
    pub const SIGNED: u8 = 9;
    pub const PING: u8 = 10;
    pub const STOP: u8 = 11;
    pub const CALLED: u8 = 12;

    pub const HOST_HELLO: u8 = 65;
    pub const STARTED: u8 = 66;
    pub const PUBLISH: u8 = 67;
    pub const COMPLETE: u8 = 68;
    pub const REPORT: u8 = 69;
    pub const METHOD_ANSWER: u8 = 70;
    pub const SIGN: u8 = 71;
    pub const LOG: u8 = 72;
    pub const FAILED: u8 = 73;
    pub const PONG: u8 = 74;
    pub const STOPPED: u8 = 75;
    pub const PANICKED: u8 = 76;
    pub const CALL: u8 = 77;
    pub const HEALTH: u8 = 78;
}

fn outcome_from(byte: u8) -> Option<Outcome> {
    use Outcome::*;
    [Delivered, Durable, NoRoute, Expired, Evicted, Removed, DeadLettered, Refused].get(usize::from(byte)).copied()
}

fn completion_from(byte: u8) -> Option<Completion> {
    [Completion::Done, Completion::Refused, Completion::Returned, Completion::Deferred].get(usize::from(byte)).copied()
}

fn failure_from(byte: u8) -> Option<FailureKind> {
    use FailureKind::*;
    [Image, Start, Thread, Asked, Confinement].get(usize::from(byte)).copied()
}

#[cfg(test)]
mod tests;
