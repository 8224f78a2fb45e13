//! A message as an author sees it: body, properties, and where it came from. Bytes that came over the
//! link are kept as they are and go out again unchanged unless a property was changed.
//! Must never copy a body more often than it is written.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    deferred::Deferred,
    wire::record::{Key, Record, RecordError, System, Writer},
};

/// One message.
///
/// ```
/// use skerry_abi::{Message, System};
/// let message = Message::from_json(&serde_json::json!({"temperature": 25.5}))
///     .unwrap()
///     .with("level", "critical");
/// assert_eq!(message.property("level"), Some("critical"));
/// assert_eq!(message.system(System::ContentType), Some("application/json"));
/// assert_eq!(message.json::<serde_json::Value>().unwrap()["temperature"], 25.5);
/// ```
#[derive(Clone, Default)]
pub struct Message {
    /// The whole record as it came, or just the body.
    bytes: Vec<u8>,
    body_at: usize,
    /// `None`: as they stand encoded in front of the body.
    properties: Option<Vec<(Name, Option<String>)>>,
    origin: Option<Origin>,
}

#[derive(Clone, PartialEq, Eq)]
enum Name {
    System(System),
    Application(String),
}

/// Where a message that was delivered comes from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) source: Arc<Source>,
    pub(crate) delivery: u64,
    pub(crate) enqueued_ms: i64,
    pub(crate) attempts: u16,
}

/// What many messages share.
pub(crate) struct Source {
    pub(crate) input: String,
    pub(crate) module: String,
    pub(crate) output: String,
}

impl Message {
    /// A message with this body and no properties.
    pub fn new(body: impl Into<Vec<u8>>) -> Message {
        Message { bytes: body.into(), body_at: 0, properties: Some(Vec::new()), origin: None }
    }

    /// A message whose body is this value as JSON; sets `contentType` and `contentEncoding`, so that routes can
    /// look into the body.
    ///
    /// # Errors
    /// The value can't be written as JSON (a map whose keys are no strings, for example).
    pub fn from_json(value: &impl Serialize) -> Result<Message> {
        let mut message = Message::new(serde_json::to_vec(value)?);
        message.set_system(System::ContentType, Some("application/json"));
        message.set_system(System::ContentEncoding, Some("utf-8"));
        Ok(message)
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at..]
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// The body is not JSON, or not of this type; the text says where.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(self.body()).map_err(|error| Error::from(error).during("the body as JSON"))
    }

    /// Like [`json`](Message::json), for types that own all they hold.
    ///
    /// # Errors
    /// As `json`.
    pub fn into_json<T: DeserializeOwned>(self) -> Result<T> {
        self.json()
    }

    /// Replaces the body; properties stay.
    pub fn set_body(&mut self, body: impl Into<Vec<u8>>) {
        self.own_properties();
        self.bytes = body.into();
        self.body_at = 0;
    }

    /// An application property. `None` also when it is null.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.find(|key| key == Key::Application(name))
    }

    /// A system property. `None` also when it is null.
    pub fn system(&self, system: System) -> Option<&str> {
        self.find(|key| key == Key::System(system))
    }

    /// All application properties, in the order in which they were set. A value of `None` is null.
    pub fn properties(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.all().filter_map(|(key, value)| match key {
            Key::Application(name) => Some((name, value)),
            Key::System(_) => None,
        })
    }

    /// All system properties, in the order in which they were set. A value of `None` is null.
    pub fn system_properties(&self) -> impl Iterator<Item = (System, Option<&str>)> {
        self.all().filter_map(|(key, value)| match key {
            Key::System(system) => Some((system, value)),
            Key::Application(_) => None,
        })
    }

    /// Sets an application property; one of that name is replaced. `None` is null.
    ///
    /// ```
    /// let mut message = skerry_abi::Message::new("body");
    /// message.set("room", "12");
    /// message.set("floor", None);
    /// assert_eq!(message.properties().collect::<Vec<_>>(), [("room", Some("12")), ("floor", None)]);
    /// ```
    pub fn set<'v>(&mut self, name: &str, value: impl Into<Option<&'v str>>) {
        self.put(Name::Application(name.to_owned()), value.into());
    }

    /// Sets a system property; `None` is null.
    pub fn set_system<'v>(&mut self, system: System, value: impl Into<Option<&'v str>>) {
        self.put(Name::System(system), value.into());
    }

    /// Takes an application property away.
    pub fn remove(&mut self, name: &str) {
        self.own_properties().retain(|(key, _)| !matches!(key, Name::Application(other) if other == name));
    }

    /// The same message with an application property more.
    #[must_use]
    pub fn with<'v>(mut self, name: &str, value: impl Into<Option<&'v str>>) -> Message {
        self.set(name, value);
        self
    }

    /// The module that sent it; empty for a message of one's own.
    pub fn source_module(&self) -> &str {
        self.origin.as_ref().map_or("", |origin| &origin.source.module)
    }

    /// The output that it was sent to; empty for a message of one's own.
    pub fn source_output(&self) -> &str {
        self.origin.as_ref().map_or("", |origin| &origin.source.output)
    }

    /// The input that it came in through; empty for a message of one's own.
    pub fn input(&self) -> &str {
        self.origin.as_ref().map_or("", |origin| &origin.source.input)
    }

    /// When the runtime accepted it, by the device's wall clock at that time. `None` for a message of one's own.
    pub fn enqueued(&self) -> Option<SystemTime> {
        let ms = self.origin.as_ref()?.enqueued_ms;
        let span = Duration::from_millis(ms.unsigned_abs());
        if ms < 0 { SystemTime::UNIX_EPOCH.checked_sub(span) } else { SystemTime::UNIX_EPOCH.checked_add(span) }
    }

    /// How often it was refused before: 0 at the first delivery.
    pub fn attempts(&self) -> u16 {
        self.origin.as_ref().map_or(0, |origin| origin.attempts)
    }

    /// Keeps the message open after its callback has returned `Ok`: it is done when the handle says so.
    /// A module that holds state across messages does this, so that a power cut loses none of them.
    ///
    /// ```no_run
    /// # use skerry_abi::*;
    /// # fn example(held: &mut Vec<Deferred>, message: &Message) -> Result<()> {
    /// held.push(message.defer()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Outside of the callback that the message was given to, and when it was deferred before.
    pub fn defer(&self) -> Result<Deferred> {
        let delivery = self.origin.as_ref().map(|origin| origin.delivery);
        let delivery = delivery.ok_or_else(|| Error::new("a message of one's own can't be deferred"))?;
        Deferred::take(delivery).ok_or_else(|| {
            Error::new("a message can be deferred once, and only inside the callback that it was given to")
        })
    }

    /// A delivered message; `record` is copied once.
    pub(crate) fn delivered(record: &[u8], origin: Origin) -> Option<Message> {
        let body_at = record.len() - Record::parse_trusted(record)?.body().len();
        Some(Message { bytes: record.to_vec(), body_at, properties: None, origin: Some(origin) })
    }

    /// Appends the encoded message, and checks what was not checked before. On an error `out` is as it was.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let Some(properties) = &self.properties else {
            out.extend_from_slice(&self.bytes);
            return Ok(());
        };
        let start = out.len();
        let mut writer = Writer::new(out);
        for (name, value) in properties {
            match name {
                Name::System(system) => writer.system(*system, value.as_deref()),
                Name::Application(name) => writer.application(name, value.as_deref()),
            }
        }
        writer.finish(self.body())?;
        if let Err(error) = Record::parse(&out[start..]) {
            out.truncate(start);
            return Err(error);
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = (Key<'_>, Option<&str>)> {
        let encoded = match &self.properties {
            None => Record::parse_trusted(&self.bytes).map(|record| record.properties()),
            Some(_) => None,
        };
        let own = self.properties.iter().flatten().map(|(name, value)| {
            let key = match name {
                Name::System(system) => Key::System(*system),
                Name::Application(name) => Key::Application(name),
            };
            (key, value.as_deref())
        });
        encoded.into_iter().flatten().chain(own)
    }

    fn find<'a>(&'a self, is: impl Fn(Key<'a>) -> bool) -> Option<&'a str> {
        self.all().find(|(key, _)| is(*key)).and_then(|(_, value)| value)
    }

    fn put(&mut self, name: Name, value: Option<&str>) {
        let properties = self.own_properties();
        let value = value.map(str::to_owned);
        match properties.iter_mut().find(|(other, _)| *other == name) {
            Some(property) => property.1 = value,
            None => properties.push((name, value)),
        }
    }

    fn own_properties(&mut self) -> &mut Vec<(Name, Option<String>)> {
        if self.properties.is_none() {
            let owned = self.all().map(|(key, value)| {
                let name = match key {
                    Key::System(system) => Name::System(system),
                    Key::Application(name) => Name::Application(name.to_owned()),
                };
                (name, value.map(str::to_owned))
            });
            self.properties = Some(owned.collect());
        }
        self.properties.get_or_insert_default()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<_> = self.all().collect();
        write!(f, "Message {{ properties: {properties:?}, body: {} bytes }}", self.body().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(message: &Message) -> Message {
        let mut record = Vec::new();
        message.encode(&mut record).unwrap();
        let source = Arc::new(Source { input: "in".into(), module: "m".into(), output: "o".into() });
        Message::delivered(&record, Origin { source, delivery: 7, enqueued_ms: 1_500, attempts: 2 }).unwrap()
    }

    #[test]
    fn a_message_passes_unchanged_and_keeps_what_is_changed() {
        let mut message = delivered(&Message::new("body").with("a", "1").with("nul", None));
        assert_eq!((message.source_module(), message.source_output(), message.input()), ("m", "o", "in"));
        assert_eq!(message.attempts(), 2);
        assert_eq!(message.enqueued(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)));
        message.set("a", "2");
        message.set("b", "3");
        message.remove("nul");
        message.set_system(System::MessageId, "id");
        let again = delivered(&message);
        assert_eq!(again.properties().collect::<Vec<_>>(), [("a", Some("2")), ("b", Some("3"))]);
        assert_eq!(again.system_properties().collect::<Vec<_>>(), [(System::MessageId, Some("id"))]);
        assert_eq!(again.body(), b"body");
    }

    #[test]
    fn what_breaks_a_rule_is_not_encoded() {
        let mut out = vec![1, 2];
        let broken = Message::new("x").with("", "1");
        assert!(matches!(broken.encode(&mut out), Err(RecordError::Name { .. })));
        let large = Message::new(vec![0; 300_000]);
        assert!(matches!(large.encode(&mut out), Err(RecordError::TooLarge { .. })));
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn a_new_body_keeps_the_properties() {
        let mut message = delivered(&Message::new("body").with("a", "1"));
        message.set_body("new");
        assert_eq!((message.body(), message.property("a")), (&b"new"[..], Some("1")));
    }

    #[test]
    fn only_a_delivered_message_can_be_deferred() {
        assert!(Message::new("x").defer().is_err());
    }
}
