//! Reads a TOML text key by key, and collects everything that is wrong with it, each with its line.
//! Must never stop at the first fault, and never let a key pass that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::logic::nearest::nearest;
use crate::logic::units;

/// Faults shown at once; more are counted.
const FAULTS_SHOWN_MAX: usize = 10;

/// Where faults are collected while a file is read.
pub struct Faults<'s> {
    file: String,
    source: &'s str,
    list: RefCell<Vec<(usize, usize, String)>>,
}

impl<'s> Faults<'s> {
    pub fn new(file: &str, source: &'s str) -> Faults<'s> {
        Faults { file: file.to_owned(), source, list: RefCell::default() }
    }

    /// A fault at a byte of the text.
    pub fn add(&self, at: usize, message: String) {
        let place = format!("{}:{}", self.file, self.line(at));
        self.push(at, format!("{place}: {message}"));
    }

    /// A fault in the content of a text value, `column` characters (from 1) into it, named with its column.
    pub fn add_in_text(&self, span: Range<usize>, column: usize, message: &str) {
        let at = byte_of(self.source, &span, column);
        let start = self.source[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let shown = self.source[start..at].chars().count() + 1;
        self.push(at, format!("{}:{}:{shown}: {message}", self.file, self.line(at)));
    }

    /// Line of a byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        1 + self.source.as_bytes()[..at.min(self.source.len())].iter().filter(|b| **b == b'\n').count()
    }

    /// The lines to show, in the order of the file; none when all is well.
    pub fn into_lines(self) -> Vec<String> {
        let mut list = self.list.into_inner();
        list.sort();
        let more = list.len().saturating_sub(FAULTS_SHOWN_MAX);
        let mut lines: Vec<String> = list.into_iter().take(FAULTS_SHOWN_MAX).map(|(_, _, text)| text).collect();
        if more > 0 {
            lines.push(format!("{}: and {more} more", self.file));
        }
        lines
    }

    fn push(&self, at: usize, text: String) {
        let mut list = self.list.borrow_mut();
        let number = list.len();
        list.push((at, number, text));
    }
}

/// Parses, noting what is not TOML; what was recognised is still looked at.
pub fn parse<'s>(source: &'s str, faults: &Faults<'s>) -> DeTable<'s> {
    let (table, errors) = DeTable::parse_recoverable(source);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        faults.add(at, format!("not TOML: {}", error.message()));
    }
    table.into_inner()
}

/// One table. Every key is asked for once; `end` notes those that were not.
pub struct Table<'a, 's> {
    faults: &'a Faults<'s>,
    path: String,
    left: BTreeMap<&'a str, (usize, &'a Spanned<DeValue<'s>>)>,
    known: Vec<&'static str>,
    /// Where the keys that were asked for stand.
    places: BTreeMap<&'static str, usize>,
}

impl<'a, 's> Table<'a, 's> {
    pub fn new(faults: &'a Faults<'s>, path: &str, table: &'a DeTable<'s>) -> Table<'a, 's> {
        let left = table.iter().map(|(key, value)| (&**key.get_ref(), (key.span().start, value))).collect();
        Table { faults, path: path.to_owned(), left, known: Vec::new(), places: BTreeMap::new() }
    }

    /// The value of a key through `read`, which says what it expected when it can't.
    pub fn get<T>(&mut self, key: &'static str, read: impl FnOnce(&DeValue<'s>) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let read = read(value.get_ref());
        read.map_err(|expected| self.unexpected(key, value, &expected)).ok()
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key, |value| value.as_str().map(str::to_owned).ok_or("a text".to_owned()))
    }

    pub fn bool(&mut self, key: &'static str) -> Option<bool> {
        self.get(key, |value| value.as_bool().ok_or("true or false".to_owned()))
    }

    pub fn whole(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.get(key, |value| whole(value).filter(|number| range.contains(number)).ok_or(expected))
    }

    /// A duration of at least `min`, at most `max`.
    pub fn duration(&mut self, key: &'static str, min: Duration, max: Duration) -> Option<Duration> {
        self.get(key, |value| {
            let duration = amount(value, units::duration).ok_or_else(|| units::DURATION_EXPECTED.to_owned())?;
            let range = || format!("from {} to {}", units::show_duration(min), units::show_duration(max));
            (min..=max).contains(&duration).then_some(duration).ok_or_else(range)
        })
    }

    pub fn bytes(&mut self, key: &'static str, min: u64) -> Option<u64> {
        self.get(key, |value| {
            let bytes = amount(value, units::bytes).ok_or_else(|| units::BYTES_EXPECTED.to_owned())?;
            (bytes >= min).then_some(bytes).ok_or_else(|| format!("at least {}", units::show_bytes(min)))
        })
    }

    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.get(key, |value| {
            let texts = value.as_array().and_then(|array| {
                array.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            });
            texts.ok_or("a list of texts".to_owned())
        })
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.get(key, |value| {
            let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
            found
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or "))
        })
    }

    /// A table of texts, as environments are.
    pub fn text_map(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let mut table = self.table(key)?;
        let mut map = BTreeMap::new();
        for (key, at, value) in table.drain() {
            match value.get_ref().as_str() {
                Some(text) => drop(map.insert(key.to_owned(), text.to_owned())),
                None => table.fault(at, key, &format!("expected a text, found {}", show(value.get_ref()))),
            }
        }
        Some(map)
    }

    /// A table that becomes JSON as it is.
    pub fn json(&mut self, key: &'static str) -> Option<Map<String, Value>> {
        self.get(key, |value| match json(value) {
            Some(Value::Object(map)) => Ok(map),
            _ => Err("a table of values that JSON can hold".to_owned()),
        })
    }

    /// A table within this one.
    pub fn table(&mut self, key: &'static str) -> Option<Table<'a, 's>> {
        let value = self.take(key)?;
        self.inner(key, value)
    }

    /// `value` of this table as a table; a fault if it is none.
    pub fn inner(&self, key: &str, value: &'a Spanned<DeValue<'s>>) -> Option<Table<'a, 's>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Table::new(self.faults, &self.name(key), table)),
            _ => {
                self.unexpected(key, value, "a table");
                None
            }
        }
    }

    /// Where a key stands that was asked for, if it was there.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'s>>> {
        self.known.push(key);
        let (at, value) = self.left.remove(key)?;
        self.places.insert(key, at);
        Some(value)
    }

    /// What was not asked for yet, for tables whose keys are names: key, place, value.
    pub fn drain(&mut self) -> Vec<(&'a str, usize, &'a Spanned<DeValue<'s>>)> {
        std::mem::take(&mut self.left).into_iter().map(|(key, (at, value))| (key, at, value)).collect()
    }

    /// A fault of the key, with its path.
    pub fn fault(&self, at: usize, key: &str, message: &str) {
        self.faults.add(at, format!("`{}`: {message}", self.name(key)));
    }

    pub fn unexpected(&self, key: &str, value: &Spanned<DeValue<'s>>, expected: &str) {
        self.fault(value.span().start, key, &format!("expected {expected}, found {}", show(value.get_ref())));
    }

    /// A key that is not known here.
    pub fn unknown(&self, key: &str, at: usize) {
        let hint = match nearest(key, self.known.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", self.known.join(", ")),
        };
        self.faults.add(at, format!("unknown key `{}`: {hint}", self.name(key)));
    }

    /// Notes every key that was not asked for.
    pub fn end(mut self) {
        for (key, at, _) in self.drain() {
            self.unknown(key, at);
        }
    }

    fn name(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let key = if bare { key.to_owned() } else { format!("{key:?}") };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// A whole number that is not negative.
pub fn whole(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn amount<T>(value: &DeValue<'_>, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    match whole(value) {
        Some(number) => read(&number.to_string()),
        None => read(value.as_str()?),
    }
}

fn json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.into(),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| json(item.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| Some((key.get_ref().to_string(), json(value.get_ref())?)));
            Value::Object(pairs.collect::<Option<_>>()?)
        }
    })
}

fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The byte of the file at which character `column` (from 1) of a text value stands, escapes and line ends counted as
/// TOML reads them.
fn byte_of(source: &str, span: &Range<usize>, column: usize) -> usize {
    let raw = &source[span.clone()];
    let (quotes, escapes) = match raw {
        _ if raw.starts_with("\"\"\"") => (3, true),
        _ if raw.starts_with("'''") => (3, false),
        _ => (1, raw.starts_with('"')),
    };
    let mut rest = raw.get(quotes..).unwrap_or("");
    if quotes == 3 {
        rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')).unwrap_or(rest);
    }
    for _ in 1..column {
        let mut chars = rest.chars();
        let taken = match (chars.next(), chars.next()) {
            (None, _) => break,
            (Some('\\'), Some('u')) if escapes => 6,
            (Some('\\'), Some('U')) if escapes => 10,
            (Some('\\'), Some('x')) if escapes => 4,
            (Some('\\'), Some(' ' | '\t' | '\r' | '\n')) if escapes => {
                // A line that ends in a backslash goes on at the next visible character.
                let next = rest[1..].trim_start();
                rest.len() - next.len() + next.chars().next().map_or(0, char::len_utf8)
            }
            (Some('\\'), Some(_)) if escapes => 2,
            (Some('\r'), Some('\n')) => 2,
            (Some(c), _) => c.len_utf8(),
        };
        rest = rest.get(taken..).unwrap_or("");
    }
    span.start + raw.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, column: usize, expected: &str) {
        let start = source.find(['"', '\'']).unwrap();
        let faults = Faults::new("f", source);
        faults.add_in_text(start..source.len(), column, "m");
        assert_eq!(faults.into_lines(), [format!("f:{expected}: m")], "{source}");
    }

    #[test]
    fn a_column_in_a_text_becomes_a_place_in_the_file() {
        check("a = \"FROM x\"", 6, "1:11");
        check("\n# ü\na = 'ü FROM x'", 3, "3:8");
        check(r#"a = "\"\u0041x""#, 3, "1:14");
        check("a = \"\"\"\nFROM\nx\"\"\"", 6, "3:1");
        check("a = \"\"\"FROM \\\n   x y\"\"\"", 7, "2:5");
        check("a = \"x\"", 99, "1:8");
    }
}
