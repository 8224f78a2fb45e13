//! Secrets of a TOML text, by the names of keys. It is taken apart by tokens and not parsed, since what is wrong with a
//! configuration is the reason why somebody is asked to look at it. Must never need a good one.

use super::{HIDDEN, is_environment, is_secret};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// A text over lines without its end: nobody knows what it has swallowed.
    Unclosed,
    /// A key, number, date or word.
    Bare,
    /// `[ ] { } = , .`
    Mark,
    Space,
    Newline,
    Comment,
}

/// What may be shown, and the texts that may not, where their own name says so.
pub(super) fn redact(source: &str) -> (String, Vec<&str>) {
    let mut secrets = Vec::new();
    let tokens: Vec<(Kind, &str)> = tokens(source);
    let mut out = String::with_capacity(source.len());
    // Values of the whole section are secrets.
    let mut section = false;
    // Brackets around what comes, each with whether everything in it is a secret.
    let mut around: Vec<bool> = Vec::new();
    let mut line_begins = true;
    let mut at = 0;
    while let Some((kind, text)) = tokens.get(at).copied() {
        if line_begins && text == "[" && around.is_empty() {
            let end = tokens[at..].iter().position(|(kind, _)| *kind == Kind::Newline).map_or(tokens.len(), |n| at + n);
            let mut names = tokens[at..end].iter().filter(|(kind, _)| matches!(kind, Kind::Text | Kind::Bare));
            section = names.next_back().is_some_and(|(_, name)| all_below(name));
            tokens[at..end].iter().filter(|(kind, _)| *kind != Kind::Comment).for_each(|(_, text)| out.push_str(text));
            at = end;
            continue;
        }
        line_begins = match kind {
            Kind::Newline => true,
            Kind::Space => line_begins,
            _ => false,
        };
        match (kind, text) {
            (Kind::Comment, _) => {}
            (Kind::Unclosed, _) => out.push_str(&format!("\"{HIDDEN}\"")),
            (_, "[" | "{") => {
                around.push(around.last().copied().unwrap_or(section));
                out.push_str(text);
            }
            (_, "]" | "}") => {
                around.pop();
                out.push_str(text);
            }
            (_, "=") => {
                out.push_str(text);
                if around.last().copied().unwrap_or(section) || is_secret_key(&tokens[..at]) {
                    let end = value_end(&tokens, at + 1);
                    learn(&tokens[..end], at, &mut secrets);
                    at = end;
                    out.push_str(&format!(" \"{HIDDEN}\""));
                    continue;
                }
            }
            _ => out.push_str(text),
        }
        at += 1;
    }
    (out, secrets)
}

/// The texts of the value behind the `=` at this place, if its key or one within says that they are secret.
fn learn<'s>(tokens: &[(Kind, &'s str)], at: usize, secrets: &mut Vec<&'s str>) {
    let mut secret = false;
    for (at, (kind, text)) in tokens.iter().enumerate().skip(at) {
        match kind {
            // `env` alone says nothing of what is in it.
            Kind::Mark if *text == "=" => secret = key_before(&tokens[..at]).any(|(_, name)| is_secret(bare(name))),
            Kind::Text if secret => secrets.push(bare(text)),
            _ => {}
        }
    }
}

/// Without its quotes.
fn bare(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

/// Whether one of the names of the key that ends here, dots and all, is that of a secret.
fn is_secret_key(before: &[(Kind, &str)]) -> bool {
    key_before(before).any(|(_, name)| all_below(name))
}

fn key_before<'a, 's>(before: &'a [(Kind, &'s str)]) -> impl Iterator<Item = &'a (Kind, &'s str)> {
    let key = before.iter().rev().filter(|(kind, _)| *kind != Kind::Space);
    key.take_while(|(kind, text)| matches!(kind, Kind::Text | Kind::Bare) || *text == ".")
}

fn all_below(name: &str) -> bool {
    let name = bare(name);
    is_secret(name) || is_environment(name)
}

/// Behind the value that begins here, with everything in it.
fn value_end(tokens: &[(Kind, &str)], from: usize) -> usize {
    let mut depth = 0;
    for (at, (kind, text)) in tokens.iter().enumerate().skip(from) {
        match (*kind, *text) {
            (_, "[" | "{") => depth += 1,
            (_, "]" | "}") if depth == 0 => return at,
            (_, "]" | "}") => depth -= 1,
            (Kind::Newline, _) | (_, ",") if depth == 0 => return at,
            _ => {}
        }
    }
    tokens.len()
}

fn tokens(source: &str) -> Vec<(Kind, &str)> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let (kind, length) = match c {
            '\n' => (Kind::Newline, 1),
            '#' => (Kind::Comment, rest.find('\n').unwrap_or(rest.len())),
            '"' | '\'' => match text_end(rest, c) {
                Some(end) => (Kind::Text, end),
                None => (Kind::Unclosed, rest.len()),
            },
            '[' | ']' | '{' | '}' | '=' | ',' | '.' => (Kind::Mark, 1),
            c if c.is_whitespace() => (Kind::Space, c.len_utf8()),
            _ => {
                let ends = |c: char| c.is_whitespace() || "#\"'[]{}=,.".contains(c);
                (Kind::Bare, rest.find(ends).unwrap_or(rest.len()))
            }
        };
        let (token, later) = rest.split_at(length);
        tokens.push((kind, token));
        rest = later;
    }
    tokens
}

/// Of a text in quotes. One that is not closed ends with its line; `None` for one that may have more of them.
fn text_end(text: &str, quote: char) -> Option<usize> {
    let three: String = [quote; 3].iter().collect();
    let (open, many) = if text.starts_with(&three) { (three.as_str(), true) } else { (&three[..1], false) };
    let mut at = open.len();
    while let Some(c) = text[at..].chars().next() {
        match c {
            '\\' if quote == '"' => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            '\n' if !many => return Some(at),
            c if c == quote && text[at..].starts_with(open) => {
                at += open.len();
                // Up to two more quotes belong to the text.
                while many && text[at..].starts_with(quote) {
                    at += 1;
                }
                return Some(at);
            }
            c => at += c.len_utf8(),
        }
    }
    (!many).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(redact(source).0, expected.replace("HIDDEN", &format!("\"{HIDDEN}\"")), "{source}");
    }

    #[test]
    fn values_of_secret_names_go() {
        check("[a]\nid = \"x\" # old: k\nkey = \"K\"\n", "[a]\nid = \"x\" \nkey = HIDDEN\n");
        check("symmetric_key = { value = \"K\" }\nb = 1", "symmetric_key = HIDDEN\nb = 1");
        check("a = { user = \"u\", password = 'p' }", "a = { user = \"u\", password = HIDDEN}");
        check("\"api_token\" = [\n  \"x\", # c\n  \"y\",\n]\nb = [1, 2]\n", "\"api_token\" = HIDDEN\nb = [1, 2]\n");
        check("m.connection_string = \"\"\"\nA=\"\nB\"\"\"\nc = 2", "m.connection_string = HIDDEN\nc = 2");
        check("password = \"a\\\"b\" # \"\nc = 2", "password = HIDDEN\nc = 2");
        check(
            "connection_string_file = \"d.key\"\ntoken_ttl = \"1h\"",
            "connection_string_file = \"d.key\"\ntoken_ttl = \"1h\"",
        );
    }

    #[test]
    fn environments_go_as_a_whole() {
        check("[m.x]\nenv = { A = \"1\", B = 2 }\n", "[m.x]\nenv = HIDDEN\n");
        check("[m.x.env]\nA = \"1\"\n[m.y]\nB = \"2\"\n", "[m.x.env]\nA = HIDDEN\n[m.y]\nB = \"2\"\n");
        check("env.A = \"1\"\n", "env.A = HIDDEN\n");
    }

    #[test]
    fn what_was_secret_is_learned() {
        let source = "key = \"K\"\n[m]\nenv = { A = \"a\", API_TOKEN = 'T' }\n[m.env]\nPASSWORD = \"P\"\nB = \"b\"\nk = { password = \"Q\" }";
        assert_eq!(redact(source).1, ["K", "T", "P", "Q"]);
    }

    #[test]
    fn a_broken_file_is_redacted_too() {
        check("[a\nkey = \"K\nb = ]\npassword = K", "[a\nkey = HIDDEN\nb = ]\npassword = HIDDEN");
        check("password =", "password = HIDDEN");
        check("x = \"\"\"\nkey = 1", "x = HIDDEN");
        for end in 0..40 {
            let _ = redact(&"[a]\nk = { key = \"\\\"K\" } # x\n\"b\".c = '''"[..end.min(38)]);
        }
    }
}
