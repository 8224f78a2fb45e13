//! A compiled condition: made once when routes are set, evaluated for every message.
//! Must never deliver on anything but true: undefined, null, texts and numbers are not.

use std::fmt;

use super::check::{Checker, Node};
use super::explain::{self, Step};
use super::parse;
use super::subject::View;
use super::value::{Type, Value};
use super::{Fault, column, eval, too_long};

/// Three values: only `True` delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    True,
    False,
    Undefined,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Truth::True => "true",
            Truth::False => "false",
            Truth::Undefined => "undefined",
        })
    }
}

/// Why a condition does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError {
    /// 1-based, in characters.
    pub column: usize,
    pub message: String,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

impl std::error::Error for ConditionError {}

/// Compiled; independent of the text it was made from.
#[derive(Debug)]
pub struct Condition {
    text: Box<str>,
    root: Option<(Node, Type)>,
    trailing: Option<usize>,
}

/// Compiles a condition that stands alone: an empty one is undefined, and what follows a complete one is ignored, as in
/// the field's compiler. In a whole route such text is an error (`parse_route`).
pub fn compile_condition(text: &str) -> Result<Condition, ConditionError> {
    compile(text).map_err(|fault| ConditionError { column: column(text, fault.at), message: fault.message })
}

pub(super) fn compile(text: &str) -> Result<Condition, Fault> {
    if let Some(fault) = too_long(text) {
        return Err(fault);
    }
    let parsed = parse::condition(text)?;
    if let Some(fault) = parsed.soft {
        return Err(fault);
    }
    let Some(expr) = parsed.expr else {
        return Ok(Condition { text: text.into(), root: None, trailing: None });
    };
    let root = Checker { text }.check(&expr)?;
    let end = expr.to;
    let rest = text[end..].trim_start_matches([' ', '\t', '\r', '\n']);
    let trailing = (!rest.is_empty() && !rest.starts_with("/*")).then(|| column(text, text.len() - rest.len()));
    Ok(Condition { text: text.into(), root: Some(root), trailing })
}

impl Condition {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Column of text after the condition that nothing looks at, if there is any.
    pub fn trailing(&self) -> Option<usize> {
        self.trailing
    }

    pub fn evaluate(&self, view: &View<'_>) -> Truth {
        let Some((root, ty)) = &self.root else { return Truth::Undefined };
        match eval::value(root, view) {
            Value::Bool(true) => Truth::True,
            Value::Bool(false) => Truth::False,
            // The null of a literal is false as a condition, that of a body is undefined.
            Value::Null if *ty == Type::Null => Truth::False,
            _ => Truth::Undefined,
        }
    }

    /// Every sub-expression with its value, outermost first.
    pub fn explain(&self, view: &View<'_>) -> Vec<Step> {
        self.root.as_ref().map_or_else(Vec::new, |(root, _)| explain::steps(&self.text, root, view))
    }
}
