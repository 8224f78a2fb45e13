//! Cuts route text into tokens by the longest match, keyword before number before name on equal length.
//! The identifier alphabet is wide (`level!`, `a-b`, `'x'and` are names): that is the language, not a mistake here.
//! Must never fail: what fits nothing becomes `Unknown`, and the parser says so.

/// What a token is. `Path` is a name with brackets, which only means something after a `$`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Select,
    From,
    Where,
    Into,
    Text,
    OpenText,
    Integer,
    Hex,
    Real,
    True,
    False,
    Null,
    Undefined,
    Open,
    Close,
    Comma,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Join,
    Coalesce,
    System,
    Name,
    Path,
    OpenBrace,
    CloseBrace,
    Unknown,
    End,
}

/// Byte range in the text that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    pub from: usize,
    pub to: usize,
}

/// All tokens, the last one being `End` (empty, at the end of the text).
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            at += 1;
            continue;
        }
        if let Some(length) = comment(rest) {
            at += length;
            continue;
        }
        let (kind, length) = token(c, rest);
        out.push(Token { kind, from: at, to: at + length });
        at += length;
    }
    out.push(Token { kind: Kind::End, from: at, to: at });
    out
}

/// Whether a character may stand in a name.
pub(super) fn is_name(c: char) -> bool {
    is_path(c) && c != '[' && c != ']'
}

fn is_path(c: char) -> bool {
    !matches!(
        c,
        '(' | ')'
            | '<'
            | '>'
            | '@'
            | ','
            | ';'
            | ':'
            | '\\'
            | '"'
            | '/'
            | '?'
            | '='
            | '{'
            | '}'
            | ' '
            | '\t'
            | '\n'
            | '\r'
    )
}

/// A comment that is never closed is none: `/messages/*` begins with `/*` too.
fn comment(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix("/*")?;
    Some(2 + inside.find("*/")? + 2)
}

fn token(c: char, rest: &str) -> (Kind, usize) {
    if is_path(c) {
        return word(c, rest);
    }
    let two = |second: char| rest[1..].starts_with(second);
    match c {
        '"' => string(rest, '"'),
        '(' => (Kind::Open, 1),
        ')' => (Kind::Close, 1),
        ',' => (Kind::Comma, 1),
        '/' => (Kind::Slash, 1),
        '{' => (Kind::OpenBrace, 1),
        '}' => (Kind::CloseBrace, 1),
        '=' => (Kind::Eq, 1),
        '<' if two('>') => (Kind::Ne, 2),
        '<' if two('=') => (Kind::Le, 2),
        '<' => (Kind::Lt, 1),
        '>' if two('=') => (Kind::Ge, 2),
        '>' => (Kind::Gt, 1),
        '?' if two('?') => (Kind::Coalesce, 2),
        _ => (Kind::Unknown, c.len_utf8()),
    }
}

fn word(c: char, rest: &str) -> (Kind, usize) {
    let path = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
    let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    if c == '\'' {
        let (kind, length) = string(rest, '\'');
        if length >= path {
            return (kind, length);
        }
    }
    if c == '!' && path == 1 && rest[1..].starts_with('=') {
        return (Kind::Ne, 2);
    }
    if c == '$' && path >= 2 {
        return (Kind::System, path);
    }
    if path > name {
        return (Kind::Path, path);
    }
    (classify(&rest[..name]), name)
}

fn string(rest: &str, quote: char) -> (Kind, usize) {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b if b == quote as u8 => return (Kind::Text, at + 1),
            b'\\' => match bytes.get(at + 1) {
                Some(b'"' | b'\'' | b'\\') => at += 2,
                Some(b'u') if bytes.get(at + 2..at + 6).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) => at += 6,
                _ => return (Kind::OpenText, at),
            },
            _ => at += 1,
        }
    }
    (Kind::OpenText, at)
}

fn classify(word: &str) -> Kind {
    match word {
        "true" => return Kind::True,
        "false" => return Kind::False,
        "null" => return Kind::Null,
        "undefined" => return Kind::Undefined,
        "+" => return Kind::Plus,
        "-" => return Kind::Minus,
        "*" => return Kind::Star,
        "%" => return Kind::Percent,
        "||" => return Kind::Join,
        _ => {}
    }
    const ANY_CASE: [(&str, Kind); 7] = [
        ("select", Kind::Select),
        ("from", Kind::From),
        ("where", Kind::Where),
        ("into", Kind::Into),
        ("and", Kind::And),
        ("or", Kind::Or),
        ("not", Kind::Not),
    ];
    if let Some((_, kind)) = ANY_CASE.into_iter().find(|(keyword, _)| word.eq_ignore_ascii_case(keyword)) {
        return kind;
    }
    number(word).unwrap_or(Kind::Name)
}

/// Only a word that is a number as a whole is one: `5.` and `12ab` are names.
fn number(word: &str) -> Option<Kind> {
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return (!hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(Kind::Hex);
    }
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    if rest.is_empty() {
        return (whole > 0).then_some(Kind::Integer);
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if count == 0 {
            return None;
        }
        rest = &fraction[count..];
        if rest.is_empty() {
            return Some(Kind::Real);
        }
    }
    let exponent = rest.strip_prefix(['e', 'E'])?;
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    (!exponent.is_empty() && digits(exponent) == exponent.len()).then_some(Kind::Real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        let all = tokens(text);
        all[..all.len() - 1].iter().map(|t| (t.kind, &text[t.from..t.to])).collect()
    }

    #[test]
    fn longest_match_wins() {
        use Kind::*;
        assert_eq!(kinds("level!='x'"), [(Name, "level!"), (Eq, "="), (Text, "'x'")]);
        assert_eq!(kinds("x='1'and"), [(Name, "x"), (Eq, "="), (Name, "'1'and")]);
        assert_eq!(kinds("\"1\"and"), [(Text, "\"1\""), (And, "and")]);
        assert_eq!(kinds("a != 'x y'"), [(Name, "a"), (Ne, "!="), (Text, "'x y'")]);
        assert_eq!(
            kinds("3 -2 5. .5 1e3 0xF -x"),
            [(Integer, "3"), (Integer, "-2"), (Name, "5."), (Real, ".5"), (Real, "1e3"), (Hex, "0xF"), (Name, "-x")]
        );
        assert_eq!(
            kinds("$body['n'] a[0] $ '"),
            [(System, "$body['n']"), (Path, "a[0]"), (Name, "$"), (OpenText, "'")]
        );
        assert_eq!(kinds("/m/* /* c */ x"), [(Slash, "/"), (Name, "m"), (Name, "x")]);
        assert_eq!(kinds("a ?? b ? ; 'a\\q'")[1..4], [(Coalesce, "??"), (Name, "b"), (Unknown, "?")]);
        assert_eq!(kinds("'a'||'b'"), [(Name, "'a'||'b'")]);
    }
}
