//! The errors of the SDK: one that carries text for a person, and one that says why a message was not taken.
//! Must never hold a key or a message's body.

use std::fmt;

use crate::wire::record::RecordError;

/// What the callbacks of a [`Module`](crate::Module) return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why a callback failed: text for a person, made from any error with `?`.
///
/// ```
/// use skerry_abi::{Error, Result};
/// fn parse(text: &str) -> Result<i32> {
///     if text.is_empty() {
///         return Err(Error::new("nothing to parse"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("").unwrap_err().to_string(), "nothing to parse");
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
pub struct Error(String);

impl Error {
    /// An error with this text.
    pub fn new(text: impl fmt::Display) -> Error {
        Error(text.to_string())
    }

    /// The same error with what was being done in front of it: `doing: error`.
    ///
    /// ```
    /// let error = skerry_abi::Error::new("no such file").during("reading the calibration");
    /// assert_eq!(error.to_string(), "reading the calibration: no such file");
    /// ```
    pub fn during(self, doing: impl fmt::Display) -> Error {
        Error(format!("{doing}: {}", self.0))
    }
}

// `Error` itself is no `std::error::Error`: that is what lets this one conversion exist for all of them.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors print their source themselves.
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Error(text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a message was not taken. It is nowhere: the sender still has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The output is not among the `outputs` of the module's `settings.json`.
    UndeclaredOutput(String),
    /// The message breaks a rule of the format: too large, too many properties, a bad name.
    Message(RecordError),
    /// No credit is left, and this call does not wait for it: `try_send`, or a `send` inside a callback
    /// that has overdrawn as far as it may.
    NoCredit,
    /// The instance is to stop, or the link to the runtime has ended.
    Stopping,
    /// More handles than one message can complete. The field is the limit.
    TooManyHandles(usize),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::UndeclaredOutput(name) => {
                write!(f, "output {name:?} is not declared under \"outputs\" in the module's settings.json")
            }
            SendError::Message(error) => error.fmt(f),
            SendError::NoCredit => f.write_str("no credit is left: too many messages of this module are not yet safe"),
            SendError::Stopping => f.write_str("the instance is stopping"),
            SendError::TooManyHandles(limit) => write!(f, "one message can complete at most {limit} others"),
        }
    }
}

impl std::error::Error for SendError {}

/// Why a receipt or a report has no good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The runtime refused: its reason. A message that was refused is nowhere.
    Refused(String),
    /// Waiting for a receipt inside a callback would stop the very input that has to go on; await it elsewhere.
    InsideCallback,
    /// No answer within the time given. Only from the calls that take a time.
    TimedOut,
    /// The link to the runtime has ended; no answer will come.
    LinkEnded,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnswerError::Refused(reason) => write!(f, "refused: {reason}"),
            AnswerError::InsideCallback => f.write_str("a receipt can't be waited for inside a callback"),
            AnswerError::TimedOut => f.write_str("no answer in time"),
            AnswerError::LinkEnded => f.write_str("the link to the runtime has ended"),
        }
    }
}

impl std::error::Error for AnswerError {}
