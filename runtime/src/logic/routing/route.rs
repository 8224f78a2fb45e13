//! A whole route: `[SELECT *] FROM source [WHERE condition] INTO sink`.
//! `split_route` does what the field's route parser does, `parse_route` also what its condition compiler and its
//! endpoint factory find later. Must never accept a route that could not run.

use std::fmt;

use super::condition::{self, Condition};
use super::lex::{Kind, Token, tokens};
use super::parse::{condition_at, describe};
use super::table::normal_source;
use super::warn::{self, Warning};
use super::{Fault, column, too_long};

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sink {
    Module { module: String, input: String },
    Upstream,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Module { module, input } => write!(f, "BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")"),
            Sink::Upstream => f.write_str("$upstream"),
        }
    }
}

/// The sink as it is written, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkText {
    System(String),
    Function { name: String, argument: String },
}

/// A route cut into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteText {
    /// Normalised: begins and ends with `/`, no `*` at the end.
    pub source: String,
    /// `true` when there is no WHERE.
    pub condition: String,
    pub sink: SinkText,
    /// Columns (1-based, characters) of the parts; `rest` is what follows the sink and is ignored.
    pub condition_column: usize,
    pub sink_column: usize,
    pub rest_column: Option<usize>,
    condition_at: usize,
}

/// Which part of the work refused the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The route can't be read. The field's hub refuses the configuration for this too.
    Syntax,
    /// The condition does not compile. The field's hub logs it and keeps the old routes.
    Condition,
    /// There is no such endpoint.
    Sink,
}

/// Why a route is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// 1-based, in characters.
    pub column: usize,
    pub message: String,
    pub kind: FaultKind,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

impl std::error::Error for RouteError {}

/// A route that can run.
#[derive(Debug)]
pub struct ParsedRoute {
    /// See [`RouteText::source`].
    pub source: String,
    pub condition: Condition,
    pub sink: Sink,
    /// What is valid but surely not meant.
    pub warnings: Vec<Warning>,
}

/// Reads, compiles and resolves a route.
pub fn parse_route(text: &str) -> Result<ParsedRoute, RouteError> {
    let parts = split_route(text)?;
    let error = |column, message, kind| RouteError { column, message, kind };
    let condition = condition::compile(&parts.condition)
        .map_err(|fault| error(column(text, parts.condition_at + fault.at), fault.message, FaultKind::Condition))?;
    let sink = resolve(&parts.sink).map_err(|message| error(parts.sink_column, message, FaultKind::Sink))?;
    let mut warnings = warn::route(text, &parts);
    if let Some(trailing) = condition.trailing() {
        let message = "the rest of the condition from here is ignored: remove the ')' too many".to_owned();
        warnings.push(Warning { column: parts.condition_column + trailing - 1, message });
    }
    Ok(ParsedRoute { source: parts.source, condition, sink, warnings })
}

/// Whether the text means to be a whole route: no condition begins with SELECT or FROM.
pub fn is_route(text: &str) -> bool {
    matches!(tokens(text)[0].kind, Kind::Select | Kind::From)
}

/// Cuts a route into its parts; the condition is read but its types are not checked.
pub fn split_route(text: &str) -> Result<RouteText, RouteError> {
    split(text).map_err(|fault| RouteError {
        column: column(text, fault.at),
        message: fault.message,
        kind: FaultKind::Syntax,
    })
}

fn split(text: &str) -> Result<RouteText, Fault> {
    if let Some(fault) = too_long(text) {
        return Err(fault);
    }
    let tokens = tokens(text);
    if tokens[0].kind == Kind::End {
        return Err(Fault::new(0, "the route is empty: write FROM … INTO …, or remove it"));
    }
    let mut cut = Cut { text, tokens: &tokens, at: 0 };
    if cut.token().kind == Kind::Select {
        cut.at += 1;
        cut.expect(Kind::Star, "'*' after SELECT")?;
    }
    cut.expect(Kind::From, "FROM at the beginning of the route")?;
    let source = cut.source()?;
    let (condition, condition_at) = cut.condition()?;
    cut.expect(Kind::Into, "INTO")?;
    let sink_from = cut.token().from;
    let sink = cut.sink()?;
    let rest = cut.token();
    Ok(RouteText {
        source: normal_source(&source),
        condition,
        sink,
        condition_column: column(text, condition_at),
        sink_column: column(text, sink_from),
        rest_column: (rest.kind != Kind::End).then(|| column(text, rest.from)),
        condition_at,
    })
}

struct Cut<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Cut<'_> {
    fn token(&self) -> Token {
        self.tokens[self.at]
    }

    fn words(&self, token: Token) -> &str {
        &self.text[token.from..token.to]
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<Token, Fault> {
        let token = self.token();
        if token.kind != kind {
            let found = describe(self.text, token);
            return Err(Fault::new(token.from, format!("expected {what}, but found {found}{}", self.glued(kind))));
        }
        self.at += 1;
        Ok(token)
    }

    /// A keyword that ran into its neighbour: almost everything may stand in a name.
    fn glued(&self, kind: Kind) -> String {
        let keywords = match kind {
            Kind::From => &["from"][..],
            Kind::Into => &["where", "into"],
            _ => return String::new(),
        };
        for token in self.tokens[self.at.saturating_sub(1)..].iter().take(2).filter(|t| t.kind == Kind::Name) {
            let word = self.words(*token);
            let lower = word.to_ascii_lowercase();
            if let Some(keyword) = keywords.iter().find(|k| lower.ends_with(**k) || lower.starts_with(**k)) {
                return format!(": '{word}' is read as one name, put blanks around {}", keyword.to_ascii_uppercase());
            }
        }
        if kind == Kind::Into {
            ": AND, OR, NOT and comparisons are the only ways to go on after a condition".to_owned()
        } else {
            String::new()
        }
    }

    fn source(&mut self) -> Result<String, Fault> {
        let mut source = String::new();
        let first = self.token();
        if first.kind != Kind::Slash {
            let found = describe(self.text, first);
            return Err(Fault::new(
                first.from,
                format!("expected a source like /messages/* after FROM, but found {found}"),
            ));
        }
        while self.token().kind == Kind::Slash {
            self.at += 1;
            let item = self.token();
            if !matches!(item.kind, Kind::Name | Kind::Star) {
                return Err(Fault::new(item.from, self.no_item(item, source.is_empty())));
            }
            source.push('/');
            source.push_str(self.words(item));
            self.at += 1;
        }
        let next = self.token();
        if !matches!(next.kind, Kind::Where | Kind::Into) {
            let found = describe(self.text, next);
            let glued = self.glued(Kind::Into);
            let glued = if glued.contains("one name") { glued } else { String::new() };
            return Err(Fault::new(
                next.from,
                format!("expected WHERE or INTO after the source, but found {found}{glued}"),
            ));
        }
        Ok(source)
    }

    fn no_item(&self, item: Token, first: bool) -> String {
        let found = describe(self.text, item);
        match item.kind {
            Kind::Where | Kind::Into | Kind::End if first => {
                "the source '/' alone can't be written: write /* for every message".to_owned()
            }
            Kind::Where | Kind::Into | Kind::End => {
                format!("the source ends with '/' before {found}: remove it, or write /*")
            }
            Kind::Integer | Kind::Real | Kind::Hex => {
                format!("{found} can't be part of a source, being a number: rename the module or output")
            }
            Kind::System => format!("{found} can't be part of a source, since it begins with $"),
            _ => format!("{found} can't be part of a source: rename the module or output"),
        }
    }

    /// Text of the condition, and where it begins (at INTO when there is none).
    fn condition(&mut self) -> Result<(String, usize), Fault> {
        if self.token().kind != Kind::Where {
            return Ok(("true".to_owned(), self.token().from));
        }
        self.at += 1;
        let from = self.token().from;
        let parsed = condition_at(self.text, self.tokens, self.at)?;
        self.at = parsed.next;
        Ok((self.text[from..self.tokens[self.at - 1].to].to_owned(), from))
    }

    fn sink(&mut self) -> Result<SinkText, Fault> {
        let token = self.token();
        match token.kind {
            Kind::System => {
                self.at += 1;
                Ok(SinkText::System(self.words(token).to_owned()))
            }
            Kind::Name => {
                self.at += 1;
                let name = self.words(token).to_owned();
                self.expect(Kind::Open, &format!("'(' after {name}"))?;
                let argument = self.expect(Kind::Text, "the endpoint in quotes, as in \"/modules/m/inputs/i\"")?;
                let argument = self.words(argument);
                let argument = argument[1..argument.len() - 1].to_owned();
                self.expect(Kind::Close, "')' after the endpoint")?;
                Ok(SinkText::Function { name, argument })
            }
            _ => {
                let found = describe(self.text, token);
                let forms = "$upstream or BrokeredEndpoint(\"/modules/m/inputs/i\")";
                Err(Fault::new(token.from, format!("expected {forms} after INTO, but found {found}")))
            }
        }
    }
}

fn resolve(sink: &SinkText) -> Result<Sink, String> {
    match sink {
        SinkText::System(name) if name.eq_ignore_ascii_case("$upstream") => Ok(Sink::Upstream),
        SinkText::System(name) => Err(format!("there is no endpoint {name}: the only system endpoint is $upstream")),
        SinkText::Function { name, .. } if !name.eq_ignore_ascii_case("BrokeredEndpoint") => {
            Err(format!("there is no endpoint function {name}: the only one is BrokeredEndpoint"))
        }
        SinkText::Function { argument, .. } => {
            let trimmed = argument.trim();
            let trimmed = trimmed.strip_prefix('/').unwrap_or(trimmed);
            let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
            let parts: Vec<&str> = trimmed.split('/').collect();
            match parts[..] {
                [a, module, b, input] if [a, module, b, input].iter().all(|part| !part.trim().is_empty()) => {
                    Ok(Sink::Module { module: module.to_owned(), input: input.to_owned() })
                }
                _ => Err(format!("the endpoint '{argument}' is not of the form /modules/{{module}}/inputs/{{input}}")),
            }
        }
    }
}
