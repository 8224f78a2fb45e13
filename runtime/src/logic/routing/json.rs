//! Reads a JSON body into a flat list of nodes, with the leniency of the field's JSON library (single quotes, bare
//! names, comments, trailing commas, octal and hex numbers, `NaN`), so that the same bodies have values here and there.
//! Must never recurse deeper than `BODY_DEPTH_MAX`, and never fail on a body that the library reads.

use super::BODY_DEPTH_MAX;
use super::date::looks_like_date;

/// A piece of the text, or of `Tape::unescaped` where escapes had to be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    from: u32,
    length: u32,
    unescaped: bool,
}

/// One node; containers name the index just past their last member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    /// A date, `undefined` or an empty place in a list: a value that conditions see as undefined.
    Opaque,
    Bool(bool),
    Number(f64),
    Text(Piece),
    Key(Piece),
    List {
        end: u32,
    },
    Object {
        end: u32,
    },
}

/// A body that could be read; node 0 is the root object.
#[derive(Debug)]
pub(super) struct Tape {
    pub nodes: Vec<Node>,
    unescaped: String,
}

impl Tape {
    pub(super) fn piece<'a>(&'a self, text: &'a str, piece: Piece) -> &'a str {
        let from = if piece.unescaped { self.unescaped.as_str() } else { text };
        &from[piece.from as usize..(piece.from + piece.length) as usize]
    }

    /// The index just past the value at `at`.
    pub(super) fn after(&self, at: usize) -> usize {
        match self.nodes[at] {
            Node::List { end } | Node::Object { end } => end as usize,
            _ => at + 1,
        }
    }
}

/// Why a body has no values; the byte is where reading stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub at: usize,
    pub why: &'static str,
}

pub(super) fn read(text: &str) -> Result<Tape, Broken> {
    let mut reader = Reader {
        text,
        bytes: text.as_bytes(),
        at: 0,
        depth: 0,
        tape: Tape { nodes: Vec::with_capacity(text.len().min(4096) / 6), unescaped: String::new() },
    };
    reader.blank()?;
    if reader.peek() != Some(b'{') {
        return reader.fail(if reader.peek().is_none() { "the body is empty" } else { "the body is no JSON object" });
    }
    reader.value()?;
    reader.blank()?;
    if reader.peek().is_some() {
        return reader.fail("there is text after the JSON object");
    }
    Ok(reader.tape)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    tape: Tape,
}

type Read<T = ()> = Result<T, Broken>;

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&self, why: &'static str) -> Read<T> {
        Err(Broken { at: self.at, why })
    }

    fn push(&mut self, node: Node) {
        self.tape.nodes.push(node);
    }

    /// White space and comments.
    fn blank(&mut self) -> Read {
        loop {
            match self.peek() {
                Some(b'!'..=b'.' | b'0'..=b'~') => return Ok(()),
                Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C) => self.at += 1,
                Some(b'/') => self.comment()?,
                Some(0x80..) => match self.text[self.at..].chars().next() {
                    Some(c) if c.is_whitespace() => self.at += c.len_utf8(),
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Read {
        let rest = &self.text[self.at..];
        if rest.starts_with("//") {
            self.at += rest.find(['\r', '\n']).unwrap_or(rest.len());
            return Ok(());
        }
        match rest.strip_prefix("/*").and_then(|inside| inside.find("*/")) {
            Some(length) => self.at += length + 4,
            None => return self.fail("a comment is not closed"),
        }
        Ok(())
    }

    fn value(&mut self) -> Read {
        match self.peek() {
            Some(b'{') => self.nested(Self::members, |end| Node::Object { end }),
            Some(b'[') => self.nested(Self::elements, |end| Node::List { end }),
            Some(quote @ (b'"' | b'\'')) => {
                let piece = self.string(quote)?;
                let date = looks_like_date(self.tape.piece(self.text, piece));
                self.push(if date { Node::Opaque } else { Node::Text(piece) });
                Ok(())
            }
            Some(b'-') if self.bytes.get(self.at + 1) == Some(&b'I') => {
                self.word("-Infinity", Node::Number(f64::NEG_INFINITY))
            }
            Some(b'0'..=b'9' | b'-' | b'.') => self.number(),
            Some(b't') => self.word("true", Node::Bool(true)),
            Some(b'f') => self.word("false", Node::Bool(false)),
            Some(b'n') => self.word("null", Node::Null),
            Some(b'u') => self.word("undefined", Node::Opaque),
            Some(b'N') => self.word("NaN", Node::Number(f64::NAN)),
            Some(b'I') => self.word("Infinity", Node::Number(f64::INFINITY)),
            None => self.fail("the JSON ends too early"),
            Some(_) => self.fail("no JSON value begins like this"),
        }
    }

    fn nested(&mut self, inside: fn(&mut Self) -> Read, node: fn(u32) -> Node) -> Read {
        self.depth += 1;
        if self.depth > BODY_DEPTH_MAX {
            return self.fail("the JSON is nested more than 64 levels deep");
        }
        let at = self.tape.nodes.len();
        self.push(node(0));
        self.at += 1;
        inside(self)?;
        self.tape.nodes[at] = node(self.tape.nodes.len() as u32);
        self.depth -= 1;
        Ok(())
    }

    fn members(&mut self) -> Read {
        loop {
            self.blank()?;
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(());
            }
            let key = self.key()?;
            self.push(Node::Key(key));
            self.blank()?;
            if self.peek() != Some(b':') {
                return self.fail("expected ':' after a name");
            }
            self.at += 1;
            self.blank()?;
            if self.peek() == Some(b',') {
                self.push(Node::Opaque);
            } else {
                self.value()?;
            }
            if self.separator(b'}')? {
                return Ok(());
            }
        }
    }

    fn elements(&mut self) -> Read {
        loop {
            self.blank()?;
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => self.push(Node::Opaque),
                _ => self.value()?,
            }
            if self.separator(b']')? {
                return Ok(());
            }
        }
    }

    /// True at the closing bracket, false after a comma.
    fn separator(&mut self, close: u8) -> Read<bool> {
        self.blank()?;
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(false)
            }
            Some(b) if b == close => {
                self.at += 1;
                Ok(true)
            }
            _ => self.fail("expected ',' or a closing bracket after a value"),
        }
    }

    fn key(&mut self) -> Read<Piece> {
        if let Some(quote @ (b'"' | b'\'')) = self.peek() {
            return self.string(quote);
        }
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
        if length == 0 {
            return self.fail("expected a name in quotes");
        }
        let piece = Piece { from: self.at as u32, length: length as u32, unescaped: false };
        self.at += length;
        Ok(piece)
    }

    fn word(&mut self, word: &'static str, node: Node) -> Read {
        let rest = &self.bytes[self.at..];
        if !rest.starts_with(word.as_bytes()) || !separates(&rest[word.len()..]) {
            return self.fail("no JSON value begins like this");
        }
        self.at += word.len();
        self.push(node);
        Ok(())
    }

    fn number(&mut self) -> Read {
        let rest = &self.text[self.at..];
        let part = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'x' | b'X' | b'+' | b'-' | b'.');
        let length = rest.bytes().position(|b| !part(&b)).unwrap_or(rest.len());
        let number = &rest[..length];
        if !separates(&rest.as_bytes()[length..]) {
            return self.fail("a number is followed by something else");
        }
        let Some(value) = to_number(number) else { return self.fail("not a number") };
        self.at += length;
        self.push(Node::Number(value));
        Ok(())
    }

    fn string(&mut self, quote: u8) -> Read<Piece> {
        self.at += 1;
        let from = self.at;
        let rest = &self.bytes[from..];
        match rest.iter().position(|b| *b == quote || *b == b'\\') {
            None => return self.fail("a text in the JSON is not closed"),
            Some(length) => self.at += length,
        }
        if self.peek() == Some(b'\\') {
            return self.escaped(quote, from);
        }
        let piece = Piece { from: from as u32, length: (self.at - from) as u32, unescaped: false };
        self.at += 1;
        Ok(piece)
    }

    /// The slow way, from the first backslash on.
    fn escaped(&mut self, quote: u8, from: usize) -> Read<Piece> {
        let start = self.tape.unescaped.len();
        self.tape.unescaped.push_str(&self.text[from..self.at]);
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(['\\', quote as char]).unwrap_or(rest.len());
            self.tape.unescaped.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                None => return self.fail("a text in the JSON is not closed"),
                Some(b'\\') => self.escape()?,
                Some(_) => break,
            }
        }
        self.at += 1;
        let length = self.tape.unescaped.len() - start;
        Ok(Piece { from: start as u32, length: length as u32, unescaped: true })
    }

    fn escape(&mut self) -> Read {
        let Some(&b) = self.bytes.get(self.at + 1) else { return self.fail("a text in the JSON is not closed") };
        let c = match b {
            b'b' => '\u{8}',
            b't' => '\t',
            b'n' => '\n',
            b'f' => '\u{c}',
            b'r' => '\r',
            b'"' | b'\'' | b'/' | b'\\' => b as char,
            b'u' => return self.unicode(),
            _ => return self.fail("unknown escape in a JSON text"),
        };
        self.tape.unescaped.push(c);
        self.at += 2;
        Ok(())
    }

    /// `\uXXXX`, joined with a following low half; a half alone becomes U+FFFD, as in the field's library.
    fn unicode(&mut self) -> Read {
        let Some(unit) = self.hex4(self.at + 2) else { return self.fail("\\u needs four hex digits") };
        self.at += 6;
        let mut c = char::from_u32(unit);
        if (0xD800..0xDC00).contains(&unit)
            && self.bytes[self.at..].starts_with(b"\\u")
            && let Some(low @ 0xDC00..0xE000) = self.hex4(self.at + 2)
        {
            c = char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
            self.at += 6;
        }
        self.tape.unescaped.push(c.unwrap_or('\u{fffd}'));
        Ok(())
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4)?;
        digits.iter().try_fold(0, |sum, b| Some(sum * 16 + (*b as char).to_digit(16)?))
    }
}

/// What may follow a word or a number.
fn separates(rest: &[u8]) -> bool {
    match rest.first() {
        None => true,
        Some(b'/') => matches!(rest.get(1), Some(b'/' | b'*')),
        Some(b) => matches!(b, b',' | b'}' | b']') || b.is_ascii_whitespace() || *b == 0x0B || *b >= 0x80,
    }
}

fn to_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    if bytes[0] == b'0' && bytes.len() > 1 && !matches!(bytes[1], b'.' | b'e' | b'E') {
        let (digits, base) = match bytes[1] {
            b'x' | b'X' => (&text[2..], 16),
            _ => (text, 8),
        };
        return u64::from_str_radix(digits, base).ok().map(|bits| bits as i64 as f64);
    }
    if !bytes.iter().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    text.parse().ok()
}
