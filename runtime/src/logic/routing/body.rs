//! A message's body as `$body` sees it: decoded by its declared encoding, read once, walked by path.
//! Must never fail a route: whatever is wrong makes the value undefined, with a reason that `explain` can show.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::json::{self, Broken, Node, Tape};
use super::path::{Path, Step};
use super::subject::{Held, Subject};
use super::value::Value;

/// A body that could be read.
#[derive(Debug)]
pub(super) struct Document<'a> {
    text: Cow<'a, str>,
    tape: Tape,
}

/// Why every `$body` value of a message is undefined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    ContentType(Option<String>),
    ContentEncoding(Option<String>),
    Json(Broken),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::ContentType(None) => f.write_str("the message has no contentType: it must be application/json"),
            Unreadable::ContentType(Some(found)) => {
                write!(f, "contentType is '{found}': it must be application/json and nothing more")
            }
            Unreadable::ContentEncoding(None) => {
                f.write_str("the message has no contentEncoding: it must be utf-8, utf-16 or utf-32")
            }
            Unreadable::ContentEncoding(Some(found)) => {
                write!(f, "contentEncoding is '{found}': it must be utf-8, utf-16 or utf-32")
            }
            Unreadable::Json(Broken { at, why }) => write!(f, "the body can't be read: {why} (byte {at})"),
        }
    }
}

impl<'a> Document<'a> {
    pub(super) fn read(subject: &'a dyn Subject) -> Result<Document<'a>, Unreadable> {
        match subject.system("contentType") {
            Held::Text(found) if found.eq_ignore_ascii_case("application/json") => {}
            Held::Text(found) => return Err(Unreadable::ContentType(Some(found.to_owned()))),
            Held::Absent | Held::Null => return Err(Unreadable::ContentType(None)),
        }
        let body = subject.body();
        let text = match subject.system("contentEncoding") {
            Held::Text(name) if name.eq_ignore_ascii_case("utf-8") => String::from_utf8_lossy(body),
            Held::Text(name) if name.eq_ignore_ascii_case("utf-16") => Cow::Owned(utf16(body)),
            Held::Text(name) if name.eq_ignore_ascii_case("utf-32") => Cow::Owned(utf32(body)),
            Held::Text(found) => return Err(Unreadable::ContentEncoding(Some(found.to_owned()))),
            Held::Absent | Held::Null => return Err(Unreadable::ContentEncoding(None)),
        };
        let tape = json::read(&text).map_err(Unreadable::Json)?;
        Ok(Document { text, tape })
    }

    /// A leaf, `Missing`, or undefined for objects, lists, dates and several values at once.
    pub(super) fn value(&self, path: &Path) -> Value<'_> {
        let Some(steps) = &path.steps else { return Value::Undefined };
        if steps.contains(&Step::Every) {
            return self.every(steps);
        }
        let mut at = 0;
        for step in steps {
            match self.step(at, step) {
                Some(next) => at = next,
                None => return Value::Missing,
            }
        }
        self.leaf(at)
    }

    fn every(&self, steps: &[Step]) -> Value<'_> {
        let mut found = vec![0];
        for step in steps {
            found = match step {
                Step::Every => found.iter().flat_map(|at| self.members(*at)).collect(),
                step => found.iter().filter_map(|at| self.step(*at, step)).collect(),
            };
        }
        match found[..] {
            [] => Value::Missing,
            [one] => self.leaf(one),
            _ => Value::Undefined,
        }
    }

    fn leaf(&self, at: usize) -> Value<'_> {
        match self.tape.nodes[at] {
            Node::Null => Value::Null,
            Node::Bool(b) => Value::Bool(b),
            Node::Number(n) => Value::Number(n),
            Node::Text(piece) => Value::Text(Cow::Borrowed(self.tape.piece(&self.text, piece))),
            Node::Opaque | Node::Key(_) | Node::List { .. } | Node::Object { .. } => Value::Undefined,
        }
    }

    /// Of two members with one name the last counts.
    fn step(&self, at: usize, step: &Step) -> Option<usize> {
        match (step, self.tape.nodes[at]) {
            (Step::Field(name), Node::Object { end }) => {
                let mut found = None;
                let mut key = at + 1;
                while key < end as usize {
                    if let Node::Key(piece) = self.tape.nodes[key]
                        && self.tape.piece(&self.text, piece) == &**name
                    {
                        found = Some(key + 1);
                    }
                    key = self.tape.after(key + 1);
                }
                found
            }
            (Step::Index(index), Node::List { end }) => {
                let mut element = at + 1;
                for _ in 0..*index {
                    if element >= end as usize {
                        return None;
                    }
                    element = self.tape.after(element);
                }
                (element < end as usize).then_some(element)
            }
            _ => None,
        }
    }

    /// The values of an object's members; of several with one name, the last. A map, since a body may have a hundred
    /// thousand members and comparing each with each would hold up the hub.
    fn members(&self, at: usize) -> Vec<usize> {
        let Node::Object { end } = self.tape.nodes[at] else { return Vec::new() };
        let mut all: BTreeMap<&str, usize> = BTreeMap::new();
        let mut key = at + 1;
        while key < end as usize {
            if let Node::Key(piece) = self.tape.nodes[key] {
                all.insert(self.tape.piece(&self.text, piece), key + 1);
            }
            key = self.tape.after(key + 1);
        }
        all.into_values().collect()
    }
}

fn utf16(body: &[u8]) -> String {
    let pairs = body.chunks_exact(2);
    let odd = !pairs.remainder().is_empty();
    let units = pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let mut text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
    text.extend(odd.then_some('\u{fffd}'));
    text
}

fn utf32(body: &[u8]) -> String {
    let quads = body.chunks_exact(4);
    let odd = !quads.remainder().is_empty();
    let mut text: String =
        quads.map(|q| char::from_u32(u32::from_le_bytes([q[0], q[1], q[2], q[3]])).unwrap_or('\u{fffd}')).collect();
    text.extend(odd.then_some('\u{fffd}'));
    text
}
