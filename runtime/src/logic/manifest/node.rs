//! One value of a manifest with its JSON path, and what was found about it. Reading goes on after a fault, so that all of them are known.
//! Must never let a key pass in silence.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde_json::{Map, Value};

use super::Refusal;
use crate::logic::nearest::nearest;

/// What became of one thing in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub path: String,
    pub verdict: Verdict,
    /// What it is here, why it does nothing, or what to do instead.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Mapped,
    Ignored,
    Refused,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Mapped => "mapped",
            Verdict::Ignored => "ignored",
            Verdict::Refused => "refused",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.verdict.word(), self.path, self.text)
    }
}

#[derive(Default)]
pub(super) struct Findings {
    notes: RefCell<Vec<Note>>,
    code: Cell<Option<u16>>,
}

impl Findings {
    pub fn map(&self, path: &str, text: &str) {
        self.add(path, Verdict::Mapped, text);
    }

    pub fn ignore(&self, path: &str, text: &str) {
        self.add(path, Verdict::Ignored, text);
    }

    pub fn refuse(&self, path: &str, text: &str) {
        self.code.set(self.code.get().or(Some(400)));
        self.add(path, Verdict::Refused, text);
    }

    pub fn refuse_schema(&self, path: &str, text: &str) {
        self.code.set(Some(412));
        self.add(path, Verdict::Refused, text);
    }

    pub fn empty(&self, path: &str) {
        self.code.set(self.code.get().or(Some(417)));
        self.add(path, Verdict::Refused, "it is missing or empty; a manifest has both $edgeAgent and $edgeHub");
    }

    fn add(&self, path: &str, verdict: Verdict, text: &str) {
        self.notes.borrow_mut().push(Note { path: path.to_owned(), verdict, text: text.to_owned() });
    }

    /// The notes, and the first refusal of the kind that decides the code.
    pub fn into_parts(self) -> (Vec<Note>, Option<Refusal>) {
        let notes = self.notes.into_inner();
        let refusal = self.code.get().map(|code| {
            let mut refused = notes.iter().filter(|note| note.verdict == Verdict::Refused);
            let schema = |note: &&Note| code == 412 && note.path.ends_with("schemaVersion");
            let first = notes.iter().find(|n| n.verdict == Verdict::Refused && schema(n)).or_else(|| refused.next());
            let message = first.map_or(String::new(), |note| format!("{}: {}", note.path, note.text));
            Refusal { code, message }
        });
        (notes, refusal)
    }
}

/// A value that is there.
pub(super) struct Node<'a> {
    pub value: &'a Value,
    pub path: String,
    pub findings: &'a Findings,
}

impl<'a> Node<'a> {
    pub fn new(value: &'a Value, path: String, findings: &'a Findings) -> Node<'a> {
        Node { value, path, findings }
    }

    pub fn refuse(&self, text: &str) {
        self.findings.refuse(&self.path, text);
    }

    pub fn map(&self, text: &str) {
        self.findings.map(&self.path, text);
    }

    pub fn ignore(&self, text: &str) {
        self.findings.ignore(&self.path, text);
    }

    /// Refused where it is none.
    pub fn object(&self) -> Option<&'a Map<String, Value>> {
        let object = self.value.as_object();
        if object.is_none() {
            self.refuse("expected an object");
        }
        object
    }

    /// As in a twin, null is absent.
    pub fn child(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.as_object()?.get(key).filter(|value| !value.is_null())?;
        Some(Node::new(value, format!("{}.{key}", self.path), self.findings))
    }

    pub fn required(&self, key: &str) -> Option<Node<'a>> {
        let child = self.child(key);
        if child.is_none() {
            self.findings.refuse(&format!("{}.{key}", self.path), "it is missing");
        }
        child
    }

    /// Everything in it, by name.
    pub fn children(&self) -> Vec<(&'a str, Node<'a>)> {
        let Some(object) = self.object() else { return Vec::new() };
        let there = object.iter().filter(|(_, value)| !value.is_null());
        there
            .map(|(key, value)| (key.as_str(), Node::new(value, format!("{}.{key}", self.path), self.findings)))
            .collect()
    }

    pub fn text(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.refuse("expected a text");
        }
        text
    }

    /// One of a few words, as they are written.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.refuse(&format!("expected {}, found {text:?}", all.join(" or ")));
        }
        found
    }

    /// A whole number in a range.
    pub fn whole(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let number = self.value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            let found = self.value;
            self.refuse(&format!("expected a whole number from {} to {}, found {found}", range.start(), range.end()));
        }
        number
    }

    /// Notes every key that nobody knows. It does nothing, as in IoT Edge.
    pub fn only(&self, known: &[&str]) {
        for (key, child) in self.children() {
            if !known.contains(&key) {
                let hint = nearest(key, known.iter().copied());
                let hint = hint.map_or(String::new(), |known| format!("; did you mean {known:?}?"));
                child.ignore(&format!("not a key that is known here{hint}"));
            }
        }
    }
}
