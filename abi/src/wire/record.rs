//! A message as bytes: written once by its sender's SDK, read once by its consumer's, and
//! carried unchanged through link, hub and disk in between. Must never trust its input:
//! what comes from a module is checked by `Record::parse` before anything else looks at it.
//!
//! Layout, little endian:
//!
//! ```text
//! u8 version = 1 | u8 reserved = 0 | u16 properties | u32 bytes of the property area
//! property area: each  u8 key (0 = application, else a system property)
//!                      [application only: u16 length, key]  u32 length (MAX = null), value
//! body: the rest
//! ```

use std::fmt;

/// Version byte of the layout above.
pub const RECORD_VERSION: u8 = 1;
/// Largest message, in bytes: body plus names and values of all properties. IoT Hub's own limit.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Most properties (application and system together) of one message. No limit stands in the field's
/// documents; a topic that carries more than this would pass no broker.
pub const PROPERTIES_MAX: usize = 1_024;
/// Longest name of an application property, bytes.
pub const PROPERTY_NAME_BYTES_MAX: usize = 1_024;

const HEADER: usize = 8;
const NULL: u32 = u32::MAX;

/// The system properties that a sender may set, with their name in the route language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum System {
    MessageId = 1,
    CorrelationId = 2,
    UserId = 3,
    To = 4,
    ContentType = 5,
    ContentEncoding = 6,
    CreationTime = 7,
    ExpiryTime = 8,
    MessageSchema = 9,
    Component = 10,
    InterfaceId = 11,
    Ack = 12,
    Operation = 13,
}

impl System {
    /// Every system property, in the order of its number.
    pub const ALL: [System; 13] = [
        System::MessageId,
        System::CorrelationId,
        System::UserId,
        System::To,
        System::ContentType,
        System::ContentEncoding,
        System::CreationTime,
        System::ExpiryTime,
        System::MessageSchema,
        System::Component,
        System::InterfaceId,
        System::Ack,
        System::Operation,
    ];

    /// The name that conditions and JSON use.
    pub fn name(self) -> &'static str {
        match self {
            System::MessageId => "messageId",
            System::CorrelationId => "cid",
            System::UserId => "userId",
            System::To => "to",
            System::ContentType => "contentType",
            System::ContentEncoding => "contentEncoding",
            System::CreationTime => "creationTime",
            System::ExpiryTime => "absolute-expiry-time",
            System::MessageSchema => "messageSchema",
            System::Component => "dt-subject",
            System::InterfaceId => "iothub-interface-id",
            System::Ack => "ack",
            System::Operation => "operation",
        }
    }

    /// The property of that name, letter case ignored; `correlationId` is taken for `cid`.
    pub fn from_name(name: &str) -> Option<System> {
        if name.eq_ignore_ascii_case("correlationId") {
            return Some(System::CorrelationId);
        }
        System::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name))
    }

    fn from_byte(byte: u8) -> Option<System> {
        System::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// Whose a property is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    System(System),
    Application(&'a str),
}

/// Why bytes are not a message. The text says what and where, and is fit for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordError {
    Malformed(&'static str),
    TooLarge { bytes: usize },
    TooManyProperties { count: usize },
    Name { name: String, why: &'static str },
    Twice { name: String },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Malformed(what) => write!(f, "malformed message: {what}"),
            RecordError::TooLarge { bytes } => {
                write!(f, "message of {bytes} bytes (body and properties): the limit is {MESSAGE_BYTES_MAX}")
            }
            RecordError::TooManyProperties { count } => {
                write!(f, "message with {count} properties: the limit is {PROPERTIES_MAX}")
            }
            RecordError::Name { name, why } => write!(f, "property name {name:?}: {why}"),
            RecordError::Twice { name } => write!(f, "property {name:?} is given twice"),
        }
    }
}

impl std::error::Error for RecordError {}

/// A checked message in its encoded form.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    bytes: &'a [u8],
    body_at: usize,
}

impl<'a> Record<'a> {
    /// Checks every rule: layout, UTF-8, names, doubles, and the limits of this file.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let record = Record::parse_trusted(bytes).ok_or(RecordError::Malformed("header"))?;
        let count = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
        if count > PROPERTIES_MAX {
            return Err(RecordError::TooManyProperties { count });
        }
        let mut rest = &bytes[HEADER..record.body_at];
        let mut payload = bytes.len() - record.body_at;
        for _ in 0..count {
            let (key, value) = take_property(&mut rest).ok_or(RecordError::Malformed("property area"))?;
            if let Key::Application(name) = key {
                check_name(name)?;
                payload += name.len();
            } else if let Key::System(system) = key {
                payload += system.name().len();
            }
            payload += value.map_or(0, str::len);
        }
        if !rest.is_empty() {
            return Err(RecordError::Malformed("bytes after the last property"));
        }
        if payload > MESSAGE_BYTES_MAX {
            return Err(RecordError::TooLarge { bytes: payload });
        }
        record.check_doubles(count)?;
        Ok(record)
    }

    /// For bytes that `parse` has accepted before. `None` if even the header is wrong.
    pub fn parse_trusted(bytes: &'a [u8]) -> Option<Record<'a>> {
        let header = bytes.get(..HEADER)?;
        if header[0] != RECORD_VERSION {
            return None;
        }
        let area = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body_at = HEADER.checked_add(area)?;
        (body_at <= bytes.len()).then_some(Record { bytes, body_at })
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body_at..]
    }

    /// In the order in which the sender wrote them. A value of `None` is null.
    pub fn properties(&self) -> Properties<'a> {
        Properties { rest: &self.bytes[HEADER..self.body_at] }
    }

    /// A system property, if it is there and not null.
    pub fn system(&self, system: System) -> Option<&'a str> {
        self.properties().find(|(key, _)| *key == Key::System(system)).and_then(|(_, value)| value)
    }

    fn check_doubles(&self, count: usize) -> Result<(), RecordError> {
        const FEW: usize = 16;
        let twice = |key: Key<'_>| RecordError::Twice {
            name: match key {
                Key::System(system) => system.name().to_owned(),
                Key::Application(name) => name.to_owned(),
            },
        };
        if count <= FEW {
            for (i, (key, _)) in self.properties().enumerate() {
                if self.properties().take(i).any(|(other, _)| other == key) {
                    return Err(twice(key));
                }
            }
            return Ok(());
        }
        let mut keys: Vec<(u8, &str)> = self
            .properties()
            .map(|(key, _)| match key {
                Key::System(system) => (system as u8, ""),
                Key::Application(name) => (0, name),
            })
            .collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(twice(System::from_byte(pair[0].0).map_or(Key::Application(pair[0].1), Key::System))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<_> = self.properties().collect();
        write!(f, "Record {{ properties: {properties:?}, body: {} bytes }}", self.body().len())
    }
}

/// See [`Record::properties`].
#[derive(Clone)]
pub struct Properties<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Properties<'a> {
    type Item = (Key<'a>, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        take_property(&mut self.rest)
    }
}

/// Writes one message, properties first.
///
/// ```
/// use skerry_abi::wire::record::{Record, System, Writer};
/// let mut bytes = Vec::new();
/// let mut writer = Writer::new(&mut bytes);
/// writer.system(System::ContentType, Some("application/json"));
/// writer.application("level", Some("critical"));
/// writer.finish(br#"{"t":25}"#).unwrap();
/// assert_eq!(Record::parse(&bytes).unwrap().body(), br#"{"t":25}"#);
/// ```
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: usize,
}

impl<'a> Writer<'a> {
    /// Appends to `out`; what `out` holds already is left alone.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        let start = out.len();
        out.extend_from_slice(&[RECORD_VERSION, 0, 0, 0, 0, 0, 0, 0]);
        Writer { out, start, count: 0 }
    }

    pub fn system(&mut self, system: System, value: Option<&str>) {
        self.out.push(system as u8);
        self.value(value);
    }

    /// A name over 65,535 bytes is cut; `parse` refuses it long before.
    pub fn application(&mut self, name: &str, value: Option<&str>) {
        let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
        self.out.push(0);
        self.out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.out.extend_from_slice(name);
        self.value(value);
    }

    /// Ends the record. Fails, leaving `out` as it was at `new`, when there are more properties than the count can hold.
    pub fn finish(self, body: &[u8]) -> Result<(), RecordError> {
        let Ok(count) = u16::try_from(self.count) else {
            self.out.truncate(self.start);
            return Err(RecordError::TooManyProperties { count: self.count });
        };
        let area = (self.out.len() - self.start - HEADER) as u32;
        self.out[self.start + 2..self.start + 4].copy_from_slice(&count.to_le_bytes());
        self.out[self.start + 4..self.start + 8].copy_from_slice(&area.to_le_bytes());
        self.out.extend_from_slice(body);
        Ok(())
    }

    fn value(&mut self, value: Option<&str>) {
        self.count += 1;
        match value {
            None => self.out.extend_from_slice(&NULL.to_le_bytes()),
            Some(text) => {
                self.out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                self.out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn take_property<'a>(rest: &mut &'a [u8]) -> Option<(Key<'a>, Option<&'a str>)> {
    let (&tag, after) = rest.split_first()?;
    *rest = after;
    let key = if tag == 0 {
        let length = u16::from_le_bytes(take(rest, 2)?.try_into().ok()?);
        Key::Application(std::str::from_utf8(take(rest, usize::from(length))?).ok()?)
    } else {
        Key::System(System::from_byte(tag)?)
    };
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    if length == NULL {
        return Some((key, None));
    }
    Some((key, Some(std::str::from_utf8(take(rest, length as usize)?).ok()?)))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn check_name(name: &str) -> Result<(), RecordError> {
    let refuse = |why| Err(RecordError::Name { name: name.chars().take(64).collect(), why });
    if name.is_empty() {
        refuse("is empty")
    } else if name.len() > PROPERTY_NAME_BYTES_MAX {
        refuse("is longer than 1,024 bytes")
    } else if name.chars().any(char::is_control) {
        refuse("has a control character")
    } else if name.starts_with("$.") {
        refuse("begins with \"$.\", which is kept for system properties on the wire")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(properties: &[(&str, Option<&str>)], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (name, value) in properties {
            writer.application(name, *value);
        }
        writer.finish(body).unwrap();
        bytes
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.system(System::MessageId, Some("m"));
        writer.application("a", None);
        writer.finish(b"B").unwrap();
        assert_eq!(bytes, b"\x01\x00\x02\x00\x0e\x00\x00\x00\x01\x01\x00\x00\x00m\x00\x01\x00a\xff\xff\xff\xffB");
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write(&[("level", Some("high")), ("é", Some("")), ("nul", None)], b"body");
        let record = Record::parse(&bytes).unwrap();
        let all: Vec<_> = record.properties().collect();
        assert_eq!(
            all,
            [
                (Key::Application("level"), Some("high")),
                (Key::Application("é"), Some("")),
                (Key::Application("nul"), None)
            ]
        );
        assert_eq!(record.body(), b"body");
    }

    #[test]
    fn every_rule_is_checked() {
        let many: Vec<(String, Option<&str>)> = (0..10_000).map(|i| (format!("k{i}"), None)).collect();
        let many: Vec<(&str, Option<&str>)> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(Record::parse(&write(&many, b"")).unwrap_err(), RecordError::TooManyProperties { count: 10_000 });
        assert_eq!(
            Record::parse(&write(&[], &vec![0; MESSAGE_BYTES_MAX + 1])).unwrap_err(),
            RecordError::TooLarge { bytes: MESSAGE_BYTES_MAX + 1 }
        );
        assert!(Record::parse(&write(&[], &vec![0; MESSAGE_BYTES_MAX])).is_ok());
        for name in ["", "a\u{7}", "$.mid"] {
            assert!(matches!(Record::parse(&write(&[(name, None)], b"")), Err(RecordError::Name { .. })), "{name:?}");
        }
        assert!(matches!(Record::parse(&write(&[("a", None), ("a", None)], b"")), Err(RecordError::Twice { .. })));
        let mut doubled: Vec<(&str, Option<&str>)> = many[..40].to_vec();
        doubled.push(("k7", None));
        assert_eq!(Record::parse(&write(&doubled, b"")).unwrap_err(), RecordError::Twice { name: "k7".into() });
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let bytes = write(&[("level", Some("high")), ("b", None)], b"body");
        for end in 0..bytes.len() {
            let _ = Record::parse(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[at] ^= 1 << bit;
                if let Ok(record) = Record::parse(&broken) {
                    let _ = (record.properties().count(), record.body().len());
                }
            }
        }
    }
}
