//! What is valid in the language and surely not meant: a blank forgotten, a wildcard that is none, a name that no message
//! has. Must never refuse anything, and must stay few: a warning that is usually wrong teaches to ignore all.

use super::column;
use super::lex::{Kind, Token, tokens};
use super::route::{RouteText, SinkText};

/// A hint on a route that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// 1-based, in characters.
    pub column: usize,
    pub message: String,
}

/// All names of system properties that a message can have.
const SYSTEM: [&str; 22] = [
    "messageId",
    "cid",
    "correlationId",
    "to",
    "userId",
    "ack",
    "contentType",
    "contentEncoding",
    "messageSchema",
    "creationTime",
    "absolute-expiry-time",
    "outputName",
    "connectionDeviceId",
    "connectionModuleId",
    "messageType",
    "edgeMessageId",
    "edgeHubOriginInterface",
    "enqueuedTime",
    "operation",
    "iothub-interface-id",
    "modelId",
    "dt-subject",
];

pub(super) fn route(text: &str, parts: &RouteText) -> Vec<Warning> {
    let mut out = Vec::new();
    let all = tokens(text);
    let from = all.iter().position(|t| t.kind == Kind::From).unwrap_or(0);
    let rest = parts.rest_column.unwrap_or(usize::MAX);
    let where_at =
        all.iter().skip(from).position(|t| matches!(t.kind, Kind::Where | Kind::Into)).map_or(all.len(), |n| n + from);
    source(text, parts, &all[from + 1..where_at], &mut out);
    if all.get(where_at).is_some_and(|t| t.kind == Kind::Where) {
        for (i, token) in all.iter().enumerate().skip(where_at) {
            // The sink and what follows it are no part of the condition.
            if column(text, token.from) >= parts.sink_column {
                break;
            }
            word(text, &all, i, *token, &mut out);
        }
    }
    if rest != usize::MAX {
        let sink = match &parts.sink {
            SinkText::System(name) => name.as_str(),
            SinkText::Function { name, .. } => name.as_str(),
        };
        let lost = text.chars().skip(rest - 1).take(5).collect::<String>().eq_ignore_ascii_case("where");
        let hint = if lost { ": the route is unconditional; WHERE belongs before INTO" } else { "" };
        out.push(Warning { column: rest, message: format!("the text after {sink} is ignored{hint}") });
    }
    out
}

fn source(text: &str, parts: &RouteText, path: &[Token], out: &mut Vec<Warning>) {
    let items: Vec<Token> = path.iter().copied().filter(|t| t.kind != Kind::Slash).collect();
    let stars = |t: &Token| text[t.from..t.to].bytes().all(|b| b == b'*');
    let trailing = usize::from(items.last().is_some_and(stars));
    for item in &items[..items.len() - trailing] {
        let words = &text[item.from..item.to];
        if words.ends_with('*') || stars(item) {
            let message = format!("'{words}' is compared letter by letter: only a whole last part may be a wildcard");
            out.push(Warning { column: column(text, item.from), message });
            return;
        }
    }
    if !produced(&parts.source) {
        let known = "/messages/modules/{module}/outputs/{output} and /twinChangeNotifications";
        let message = format!("no message ever has the source {}: there are {known}", parts.source);
        out.push(Warning { column: path.first().map_or(1, |t| column(text, t.from)), message });
    }
}

/// Whether some message's source can begin like this.
fn produced(source: &str) -> bool {
    let lower = source.to_ascii_lowercase();
    let mut items = lower.trim_matches('/').split('/');
    match items.next() {
        None | Some("") => true,
        Some("twinchangenotifications") => items.next().is_none(),
        Some("messages") => matches!(
            (items.next(), items.next(), items.next(), items.next(), items.next()),
            (None, ..) | (Some("modules"), _, None, ..) | (Some("modules"), _, Some("outputs"), _, None)
        ),
        Some(_) => false,
    }
}

fn word(text: &str, all: &[Token], i: usize, token: Token, out: &mut Vec<Warning>) {
    let words = &text[token.from..token.to];
    let next = all.get(i + 1).map_or(Kind::End, |t| t.kind);
    let message = match token.kind {
        Kind::Name => name(words, next),
        Kind::Real if words.trim_start_matches('-').starts_with(['e', 'E']) => {
            Some(format!("'{words}' is read as a number, not as a property"))
        }
        Kind::System => {
            let of_is_null = i >= 2
                && all[i - 1].kind == Kind::Open
                && text[all[i - 2].from..all[i - 2].to].eq_ignore_ascii_case("is_null");
            system(words, next, of_is_null)
        }
        _ => None,
    };
    if let Some(message) = message {
        out.push(Warning { column: column(text, token.from), message });
    }
}

fn name(words: &str, next: Kind) -> Option<String> {
    if next == Kind::Open {
        return None;
    }
    if words.ends_with('!') && next == Kind::Eq {
        return Some(format!("this reads the property '{words}': put a blank before !="));
    }
    if ["true", "false", "null", "undefined"].iter().any(|literal| words.eq_ignore_ascii_case(literal)) {
        return Some(format!("{words} is a property here: the literal is written {}", words.to_ascii_lowercase()));
    }
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let glued = words.contains(['+', '*', '%', '|', '&', '\''])
        || words.starts_with('-')
        || words.split_once('-').is_some_and(|(a, b)| digits(a) || digits(b));
    glued.then(|| format!("'{words}' is read as one property name: put blanks around operators"))
}

fn system(words: &str, next: Kind, of_is_null: bool) -> Option<String> {
    let name = &words[1..];
    let lower = name.to_ascii_lowercase();
    if words.ends_with('!') && next == Kind::Eq {
        return Some(format!("this reads '{words}': put a blank before !="));
    }
    if lower.starts_with("body.") {
        return of_is_null
            .then(|| format!("is_null of a $body value is true for texts and numbers too: write {words} = null"));
    }
    if lower == "body" || lower.starts_with("body[") {
        return Some("the body as a whole has no value: name a path, as in $body.temperature".to_owned());
    }
    if lower == "twin" || lower.starts_with("twin.") {
        return Some("twins can't be asked in a route on the edge: this is always undefined".to_owned());
    }
    if SYSTEM.iter().any(|known| lower.eq_ignore_ascii_case(known)) {
        return None;
    }
    Some(format!("there is no system property {name}: this reads an application property called {words}"))
}
