//! A value while a condition is evaluated, and the static types that `check` works with.
//! Must never decide what an operator does: that is `eval` and `builtins`.

use std::borrow::Cow;

/// What `check` knows before any message is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
    Null,
    Undefined,
    /// `$body…`: known when a message is there.
    Dynamic,
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Text => "a text",
            Type::Number => "a number",
            Type::Bool => "a bool",
            Type::Null => "null",
            Type::Undefined => "undefined",
            Type::Dynamic => "a $body value",
        }
    }

    /// Whether a value of this type may stand where `wanted` is needed; undefined never stands for a $body value.
    pub(super) fn fits(self, wanted: Type) -> bool {
        self == wanted
            || (self == Type::Dynamic && wanted != Type::Undefined)
            || (wanted == Type::Dynamic && self != Type::Undefined)
    }
}

/// Borrowed from the condition or the message wherever possible.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'v> {
    Undefined,
    Bool(bool),
    /// NaN only from arithmetic between `$body` values, where the field's hub keeps it as a defined number.
    Number(f64),
    Text(Cow<'v, str>),
    /// A property that is there without a value.
    NullText,
    Null,
    /// A `$body` path that leads nowhere: null for every operator, but `is_null` tells the two apart.
    Missing,
}

impl Value<'_> {
    /// For numbers of static type, where NaN means undefined.
    pub(super) fn number(number: f64) -> Value<'static> {
        if number.is_nan() { Value::Undefined } else { Value::Number(number) }
    }
}
