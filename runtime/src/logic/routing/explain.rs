//! Why a condition came out as it did: each sub-expression, its value, and for undefined ones the reason.
//! Must never evaluate by rules of its own: values come from `eval`.

use super::builtins::Builtin;
use super::check::{Kind, Node};
use super::eval;
use super::subject::{Held, View};
use super::value::Value;

/// One sub-expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// 0 for the whole condition.
    pub depth: usize,
    pub text: String,
    /// As a literal of the language would be written.
    pub value: String,
    /// Why it is undefined, or has a value that surprises.
    pub why: Option<String>,
}

pub(super) fn steps(text: &str, root: &Node, view: &View<'_>) -> Vec<Step> {
    let mut out = Vec::new();
    walk(text, root, view, 0, &mut out);
    out
}

/// One sentence: of an undefined condition what was missing, of a false one the values that it went by.
pub fn reason(steps: &[Step]) -> Option<String> {
    let whole = steps.first()?;
    if whole.value == "undefined" {
        // The innermost part that is undefined tells why; those around it only pass it on.
        let mut at = 0;
        while let Some(next) = steps[at + 1..]
            .iter()
            .take_while(|s| s.depth > steps[at].depth)
            .position(|s| s.depth == steps[at].depth + 1 && s.value == "undefined")
        {
            at += next + 1;
        }
        return steps[at].why.clone();
    }
    if whole.value == "true" {
        return None;
    }
    let inner = |at: usize| steps.get(at + 1).is_some_and(|next| next.depth > steps[at].depth);
    let leaves =
        (1..steps.len()).filter(|at| !inner(*at)).map(|at| format!("{} is {}", steps[at].text, steps[at].value));
    let mut said: Vec<String> = Vec::new();
    leaves.for_each(|leaf| {
        if !said.contains(&leaf) {
            said.push(leaf);
        }
    });
    (!said.is_empty()).then(|| said.join(", "))
}

fn walk(text: &str, node: &Node, view: &View<'_>, depth: usize, out: &mut Vec<Step>) {
    let value = eval::value(node, view);
    let at = out.len();
    out.push(Step { depth, text: words(text, node).to_owned(), value: show(&value), why: None });
    let before = out.len();
    for part in parts(node) {
        // A literal explains itself.
        if !matches!(part.kind, Kind::Text(_) | Kind::Number(_) | Kind::Bool(_) | Kind::Null) {
            walk(text, part, view, depth + 1, out);
        }
    }
    let blamed = out[before..].iter().find(|s| s.depth == depth + 1 && s.value == "undefined").map(|s| s.text.clone());
    out[at].why = why(text, node, &value, view, blamed);
}

fn words<'t>(text: &'t str, node: &Node) -> &'t str {
    text.get(node.from as usize..node.to as usize).unwrap_or("")
}

fn parts(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::Negate(inner) | Kind::Not(inner) => std::slice::from_ref(inner),
        Kind::Arithmetic { sides, .. } | Kind::Compare { sides, .. } | Kind::Logic { sides, .. } => &sides[..],
        Kind::Coalesce(sides) => &sides[..],
        Kind::Call { arguments, .. } => arguments,
        Kind::Fixed { parts, .. } => parts,
        _ => &[],
    }
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Undefined => "undefined".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(text) => format!("'{text}'"),
        Value::NullText | Value::Null | Value::Missing => "null".to_owned(),
    }
}

fn why(text: &str, node: &Node, value: &Value<'_>, view: &View<'_>, blamed: Option<String>) -> Option<String> {
    match (&node.kind, value) {
        (Kind::Body { .. }, Value::Missing) => {
            return Some("the path leads nowhere in the body: null, which outranks every number and text".to_owned());
        }
        (_, Value::NullText) => return Some("the property is there without a value".to_owned()),
        (_, Value::Undefined) => {}
        _ => return None,
    }
    Some(match &node.kind {
        Kind::Undefined(why) => (*why).to_owned(),
        Kind::Application(name) => {
            let system = view.subject.system(name) != Held::Absent;
            let hint = if system { format!(": the system property is ${name}") } else { String::new() };
            format!("the message has no application property {name}{hint}")
        }
        Kind::Either(name) => {
            format!("the message has no application property {name} and no system property {}", &name[1..])
        }
        Kind::System(name) => format!("the message has no system property {name}"),
        Kind::Body { path, .. } => match view.document() {
            Err(unreadable) => unreadable.to_string(),
            Ok(_) if path.steps.is_none() => "the path can't be followed".to_owned(),
            Ok(_) => "an object, a list or a date: conditions have no such values".to_owned(),
        },
        _ => match blamed {
            Some(part) => format!("{part} is undefined"),
            None => no_value(text, node, view),
        },
    })
}

/// Undefined although no part is.
fn no_value(text: &str, node: &Node, view: &View<'_>) -> String {
    let values: Vec<String> =
        parts(node).iter().map(|part| format!("{} is {}", words(text, part), show(&eval::value(part, view)))).collect();
    let values = values.join(", ");
    match &node.kind {
        Kind::Call { builtin: Builtin::AsNumber, .. } => format!("{values}: not a number"),
        Kind::Call { builtin: Builtin::Substring, .. } => format!("{values}: out of range"),
        Kind::Arithmetic { .. } => format!("{values}: no number comes out"),
        Kind::Logic { .. } => format!("{values}: a $body value decides only as a bool, with a bool on the other side"),
        _ if values.is_empty() => "written so".to_owned(),
        _ => format!("{values}: not what the operation needs"),
    }
}
