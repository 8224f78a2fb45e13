//! What a condition may ask of a message, and the two ways to offer it: any `Subject`, or a `Record` from the link.
//! A `View` reads the body at most once for all routes of a message. Must never copy a property or a body to answer.

use std::cell::OnceCell;

use skerry_abi::wire::record::{Key, Record, System};

use super::body::{Document, Unreadable};
use super::text::same_name;
use crate::model::time::Wall;

/// A property's value: absent and null are two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    Absent,
    Null,
    Text(&'a str),
}

impl<'a> From<Option<&'a str>> for Held<'a> {
    fn from(value: Option<&'a str>) -> Held<'a> {
        value.map_or(Held::Absent, Held::Text)
    }
}

/// A message as conditions see it. Names are looked up ignoring case.
pub trait Subject {
    fn application(&self, name: &str) -> Held<'_>;
    /// By the names of the route language (`contentType`, `cid`, `connectionDeviceId` …), without the `$`.
    fn system(&self, name: &str) -> Held<'_>;
    fn body(&self) -> &[u8];
}

/// One message while routes are evaluated on it.
pub struct View<'a> {
    pub(super) subject: &'a dyn Subject,
    document: OnceCell<Result<Document<'a>, Unreadable>>,
}

impl<'a> View<'a> {
    pub fn new(subject: &'a dyn Subject) -> View<'a> {
        View { subject, document: OnceCell::new() }
    }

    /// Reads the body at the first call.
    pub(super) fn document(&self) -> Result<&Document<'a>, &Unreadable> {
        self.document.get_or_init(|| Document::read(self.subject)).as_ref()
    }
}

/// What the hub knows of a message beside its record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    pub device_id: &'a str,
    pub module_id: Option<&'a str>,
    pub output: Option<&'a str>,
    /// When the hub accepted the message.
    pub enqueued_time: Option<&'a Instant>,
    pub edge_message_id: Option<&'a str>,
    /// `twinChangeNotification` for those; it is also their message schema.
    pub message_type: Option<&'a str>,
    pub model_id: Option<&'a str>,
    /// From another device than this one.
    pub downstream: bool,
}

/// A time that becomes text, ISO 8601, only when a condition asks for it.
#[derive(Clone, Debug)]
pub struct Instant {
    wall: Wall,
    text: OnceCell<String>,
}

impl Instant {
    pub fn new(wall: Wall) -> Instant {
        Instant { wall, text: OnceCell::new() }
    }

    fn text(&self) -> &str {
        self.text.get_or_init(|| self.wall.to_rfc3339())
    }
}

/// A record and its envelope.
#[derive(Clone, Copy, Debug)]
pub struct RecordSubject<'a> {
    pub record: Record<'a>,
    pub envelope: Envelope<'a>,
}

impl Subject for RecordSubject<'_> {
    fn application(&self, name: &str) -> Held<'_> {
        for (key, value) in self.record.properties() {
            if let Key::Application(found) = key
                && same_name(found, name)
            {
                return value.map_or(Held::Null, Held::Text);
            }
        }
        Held::Absent
    }

    fn system(&self, name: &str) -> Held<'_> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let envelope = &self.envelope;
        // The hub's own word first: a sender can't pass for another identity.
        if is("connectionDeviceId") {
            Held::Text(envelope.device_id)
        } else if is("connectionModuleId") {
            envelope.module_id.into()
        } else if is("outputName") {
            envelope.output.into()
        } else if is("enqueuedTime") {
            envelope.enqueued_time.map(Instant::text).into()
        } else if is("edgeMessageId") {
            envelope.edge_message_id.into()
        } else if is("messageType") {
            envelope.message_type.into()
        } else if is("modelId") {
            envelope.model_id.into()
        } else if is("edgeHubOriginInterface") {
            Held::Text(if envelope.downstream { "downstream" } else { "internal" })
        } else {
            self.sent(name)
        }
    }

    fn body(&self) -> &[u8] {
        self.record.body()
    }
}

impl RecordSubject<'_> {
    /// By name, not by `System::from_name`: that takes `correlationId` for `cid`, which conditions do not.
    fn sent(&self, name: &str) -> Held<'_> {
        let Some(system) = System::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name)) else {
            return Held::Absent;
        };
        for (key, value) in self.record.properties() {
            if key == Key::System(system) {
                return value.map_or(Held::Null, Held::Text);
            }
        }
        if system == System::MessageSchema { self.envelope.message_type.into() } else { Held::Absent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_abi::wire::record::Writer;

    #[test]
    fn a_record_and_its_envelope_answer_by_the_names_of_the_language() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.system(System::CorrelationId, Some("c-1"));
        writer.system(System::ContentType, Some("application/json"));
        writer.system(System::UserId, None);
        writer.application("Level", Some("high"));
        writer.application("messageId", None);
        writer.application("outputName", Some("forged"));
        writer.finish(b"{}").unwrap();
        let record = Record::parse(&bytes).unwrap();
        let envelope = Envelope { device_id: "d", module_id: Some("m"), output: Some("o"), ..Envelope::default() };
        let subject = RecordSubject { record, envelope };
        for (name, value) in [
            ("cid", Held::Text("c-1")),
            ("correlationId", Held::Absent),
            ("CONTENTTYPE", Held::Text("application/json")),
            ("userId", Held::Null),
            ("connectionDeviceId", Held::Text("d")),
            ("connectionModuleId", Held::Text("m")),
            ("outputName", Held::Text("o")),
            ("edgeHubOriginInterface", Held::Text("internal")),
            ("enqueuedTime", Held::Absent),
            ("messageType", Held::Absent),
            ("messageId", Held::Absent),
            ("level", Held::Absent),
        ] {
            assert_eq!(subject.system(name), value, "{name}");
        }
        assert_eq!(subject.application("LEVEL"), Held::Text("high"));
        assert_eq!(subject.application("messageid"), Held::Null);
        assert_eq!(subject.application("cid"), Held::Absent);
        let twin = Envelope { message_type: Some("twinChangeNotification"), downstream: true, ..envelope };
        let subject = RecordSubject { record, envelope: twin };
        assert_eq!(subject.system("messageSchema"), Held::Text("twinChangeNotification"));
        assert_eq!(subject.system("edgeHubOriginInterface"), Held::Text("downstream"));
    }
}
