//! The value of a checked expression for one message. No allocation unless text is joined, cut or changed in case.
//! Must never decide a type: where static and dynamic differ, the node says which it is.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::builtins::{self, Builtin};
use super::check::{Fixed, Kind, Node};
use super::parse::Operator;
use super::subject::{Held, View};
use super::text;
use super::value::Value;

pub(super) fn value<'v>(node: &'v Node, view: &'v View<'_>) -> Value<'v> {
    match &node.kind {
        Kind::Text(text) => Value::Text(Cow::Borrowed(text)),
        Kind::Number(n) => Value::Number(*n),
        Kind::Bool(b) => Value::Bool(*b),
        Kind::Null => Value::Null,
        Kind::Undefined(_) => Value::Undefined,
        Kind::Application(name) => held(view.subject.application(name)),
        Kind::Either(name) => match view.subject.application(name) {
            Held::Absent => held(view.subject.system(&name[1..])),
            found => held(found),
        },
        Kind::System(name) => held(view.subject.system(name)),
        Kind::Body { application, path } => {
            if let Some(name) = application {
                let found = view.subject.application(name);
                if found != Held::Absent {
                    return held(found);
                }
            }
            view.document().map_or(Value::Undefined, |document| document.value(path))
        }
        Kind::Negate(inner) => match value(inner, view) {
            Value::Number(n) => Value::Number(-n),
            _ => Value::Undefined,
        },
        Kind::Not(inner) => match value(inner, view) {
            Value::Bool(b) => Value::Bool(!b),
            _ => Value::Undefined,
        },
        Kind::Arithmetic { operator, dynamic, sides } => {
            arithmetic(*operator, *dynamic, &value(&sides[0], view), &value(&sides[1], view))
        }
        Kind::Compare { operator, dynamic, sides } => {
            compare(*operator, *dynamic, &value(&sides[0], view), &value(&sides[1], view))
        }
        Kind::Logic { or, dynamic, sides } => {
            let left = value(&sides[0], view);
            // Both tables agree here, and it spares reading a body for nothing.
            if !*dynamic && left == Value::Bool(*or) {
                return left;
            }
            logic(*or, *dynamic, left, value(&sides[1], view))
        }
        Kind::Coalesce(sides) => match value(&sides[0], view) {
            Value::Undefined => value(&sides[1], view),
            left => left,
        },
        Kind::Call { builtin, dynamic, arguments } => call(*builtin, *dynamic, arguments, view),
        Kind::Fixed { value: fixed, parts } => match fixed {
            Fixed::True => Value::Bool(true),
            Fixed::False => Value::Bool(false),
            Fixed::Null => Value::Null,
            Fixed::Undefined => Value::Undefined,
            Fixed::Part(part) => value(&parts[*part], view),
        },
    }
}

fn held(held: Held<'_>) -> Value<'_> {
    match held {
        Held::Absent => Value::Undefined,
        Held::Null => Value::NullText,
        Held::Text(text) => Value::Text(Cow::Borrowed(text)),
    }
}

fn call<'v>(builtin: Builtin, dynamic: bool, arguments: &'v [Node], view: &'v View<'_>) -> Value<'v> {
    match (builtin, arguments) {
        (Builtin::Concat, all) => builtins::concat(all.iter().map(|node| value(node, view))),
        (_, [a]) => builtins::one(builtin, dynamic, value(a, view)),
        (_, [a, b]) => builtins::two(builtin, &value(a, view), &value(b, view)),
        (_, [a, b, c]) => builtins::substring(&value(a, view), &value(b, view), &value(c, view)),
        _ => Value::Undefined,
    }
}

fn arithmetic<'v>(operator: Operator, dynamic: bool, a: &Value<'_>, b: &Value<'_>) -> Value<'v> {
    let (Value::Number(a), Value::Number(b)) = (a, b) else { return Value::Undefined };
    let number = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        _ => a % b,
    };
    if dynamic { Value::Number(number) } else { Value::number(number) }
}

fn logic<'v>(or: bool, dynamic: bool, a: Value<'v>, b: Value<'v>) -> Value<'v> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Value::Bool(if or { a || b } else { a && b }),
        (_, Value::Bool(b)) if !dynamic && b == or => Value::Bool(b),
        _ => Value::Undefined,
    }
}

fn compare<'v>(operator: Operator, dynamic: bool, a: &Value<'_>, b: &Value<'_>) -> Value<'v> {
    let order = if dynamic { dynamic_order(a, b) } else { static_order(a, b) };
    let Some(order) = order else { return Value::Undefined };
    Value::Bool(match operator {
        Operator::Eq => order == Ordering::Equal,
        Operator::Ne => order != Ordering::Equal,
        Operator::Lt => order == Ordering::Less,
        Operator::Le => order != Ordering::Greater,
        Operator::Gt => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

fn static_order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(text::ordinal(a, b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// With a `$body` value on a side: bool < number < text < null, whatever the values.
fn dynamic_order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let (rank_a, rank_b) = (rank(a)?, rank(b)?);
    Some(match (a, b) {
        // NaN equals itself and is less than every number, as in .NET.
        (Value::Number(a), Value::Number(b)) => match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(b)?,
            (a, b) => b.cmp(&a),
        },
        (Value::Text(a), Value::Text(b)) => text::ordinal(a, b),
        (Value::NullText, Value::Text(_)) => Ordering::Less,
        (Value::Text(_), Value::NullText) => Ordering::Greater,
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => rank_a.cmp(&rank_b),
    })
}

fn rank(value: &Value<'_>) -> Option<u8> {
    match value {
        Value::Undefined => None,
        Value::Bool(_) => Some(1),
        Value::Number(_) => Some(2),
        Value::Text(_) | Value::NullText => Some(3),
        Value::Null | Value::Missing => Some(4),
    }
}
