//! What an author writes: a type that implements `Module`. Only `start` has to be there.
//! Must never gain a callback without a default: an author's code would no longer compile.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Context, Error, Message, Result};

/// A module: what runs in an instance's process.
///
/// All callbacks run on one thread, one after the other. One that panics counts as one that failed; the instance
/// goes on. What takes long belongs on a thread of its own ([`Context::spawn`]): while a callback runs, no message
/// is taken, and one that runs longer than the runtime's `hang_after` makes the instance unhealthy.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use skerry_abi::{Context, Message, Module, Result};
///
/// #[derive(Deserialize, Serialize)]
/// #[serde(default)]
/// struct Settings {
///     threshold: f64,
/// }
///
/// impl Default for Settings {
///     fn default() -> Self {
///         Settings { threshold: 25.0 }
///     }
/// }
///
/// #[derive(Deserialize)]
/// struct Reading {
///     temperature: f64,
/// }
///
/// struct Filter {
///     settings: Settings,
/// }
///
/// impl Module for Filter {
///     type Settings = Settings;
///
///     fn start(_: &Context, settings: Settings) -> Result<Self> {
///         Ok(Filter { settings })
///     }
///
///     fn settings(&mut self, _: &Context, new: Settings) -> Result<()> {
///         self.settings = new;
///         Ok(())
///     }
///
///     fn message(&mut self, cx: &Context, _input: &str, message: Message) -> Result<()> {
///         let reading: Reading = message.json()?;
///         if reading.temperature > self.settings.threshold {
///             cx.send("alerts", message)?;
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Module: Sized + Send + 'static {
    /// The desired properties, with a default for each. [`NoSettings`](crate::NoSettings) for none.
    type Settings: Serialize + DeserializeOwned + Default;

    /// Begins. Gets the desired properties as they were last known, or the defaults when those do not fit.
    ///
    /// # Errors
    /// An error (or a panic) fails the instance; the runtime starts it anew, by the restart policy.
    fn start(cx: &Context, settings: Self::Settings) -> Result<Self>;

    /// A message has come in. `Ok` acknowledges it when everything that was sent inside this callback is safe.
    ///
    /// # Errors
    /// An error (or a panic) asks for redelivery, of this message and then of all later ones of its queue. A
    /// message that is refused too often goes to the dead letters.
    fn message(&mut self, cx: &Context, input: &str, message: Message) -> Result<()> {
        let _ = (cx, message);
        Err(Error::new(format!("this module takes no messages; one came to input {input:?}")))
    }

    /// The desired properties have changed and fit the type. Messages that follow were delivered after the change.
    ///
    /// # Errors
    /// An error keeps the module as it is, and is reported in the twin.
    fn settings(&mut self, cx: &Context, new: Self::Settings) -> Result<()> {
        let _ = (cx, new);
        Err(Error::new("this module takes new settings only when it starts: restart it"))
    }

    /// A direct method was called. `payload` is null when the caller gave none.
    ///
    /// # Errors
    /// An error is answered to the caller as status 500 with its text.
    fn method(&mut self, cx: &Context, name: &str, payload: Value) -> Result<Answer> {
        let _ = (cx, payload);
        Ok(Answer::unknown(name))
    }

    /// The time from one [`tick`](Module::tick) to the next. Asked after the start, and after every tick, method
    /// and change of settings.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Some time has passed, see [`interval`](Module::interval).
    ///
    /// # Errors
    /// An error is logged; the ticks go on.
    fn tick(&mut self, cx: &Context) -> Result<()> {
        let _ = cx;
        Ok(())
    }

    /// The instance is to stop, within the runtime's grace time. No message comes any more; what is sent here still goes out.
    ///
    /// # Errors
    /// An error is logged.
    fn stop(&mut self, cx: &Context) -> Result<()> {
        let _ = cx;
        Ok(())
    }
}

/// The answer to a direct method.
///
/// ```
/// use skerry_abi::Answer;
/// let answer: Answer = serde_json::json!({"reset": true}).into();
/// assert_eq!(answer.status, 200);
/// assert_eq!(Answer::status(409, "busy").payload, "busy");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Like HTTP's: 200 for success.
    pub status: i32,
    /// Any JSON value.
    pub payload: Value,
}

impl Answer {
    /// An answer with this status.
    pub fn status(status: i32, payload: impl Into<Value>) -> Answer {
        Answer { status, payload: payload.into() }
    }

    /// Status 200 and null.
    pub fn done() -> Answer {
        Answer::status(200, Value::Null)
    }

    /// Status 404: the module has no such method.
    pub fn unknown(name: &str) -> Answer {
        Answer::status(404, format!("no method {name:?}"))
    }
}

impl From<Value> for Answer {
    fn from(payload: Value) -> Answer {
        Answer::status(200, payload)
    }
}
