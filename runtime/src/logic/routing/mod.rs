//! The route language of IoT Edge's hub: `FROM source WHERE condition INTO endpoint`, from text to targets.
//! The order of work: `lex`, `parse`, `check` (types), then `eval` for every message; `route` reads whole routes and
//! `table` holds the set in force. Must never wait, read a clock, or panic on any route text or message.

mod body;
mod builtins;
mod check;
mod condition;
mod date;
mod eval;
mod explain;
mod json;
mod lex;
mod number;
mod parse;
mod path;
mod route;
mod subject;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod warn;

pub use condition::{Condition, ConditionError, Truth, compile_condition};
pub use explain::{Step, reason};
pub use route::{FaultKind, ParsedRoute, RouteError, RouteText, Sink, SinkText, is_route, parse_route, split_route};
pub use subject::{Envelope, Held, Instant, RecordSubject, Subject, View};
pub use table::{Candidates, Counts, NamedRoute, RouteTable, TableError, Target, Verdicts, normal_source};
pub use warn::Warning;

/// Longest route or condition, in bytes. A twin's string is limited to 4,096; local configuration may be longer,
/// but a text beyond this is a mistake, and the tree's size follows from it.
pub const ROUTE_BYTES_MAX: usize = 16 * 1024;
/// Deepest tree of a condition (brackets, calls, and each operator of a chain). Bounds the stack of every walk.
pub const DEPTH_MAX: usize = 256;
/// Deepest nesting of a JSON body; one level more makes `$body` undefined. The field's JSON library has the same limit.
pub const BODY_DEPTH_MAX: usize = 64;

/// What is wrong, and at which byte of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into() }
    }
}

/// 1-based column in characters; line ends count as one character.
fn column(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).chars().count() + 1
}

fn too_long(text: &str) -> Option<Fault> {
    (text.len() > ROUTE_BYTES_MAX)
        .then(|| Fault::new(0, format!("the text has {} bytes: the limit is {ROUTE_BYTES_MAX}; split it", text.len())))
}
