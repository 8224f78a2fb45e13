//! The functions of the language: names, types, and what they do with values.
//! An undefined argument gives an undefined result, but for the `is_` family. Must never panic on any value.

use std::borrow::Cow;

use super::check::Fixed;
use super::number;
use super::text;
use super::value::{Type, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    Abs,
    Exp,
    Power,
    Square,
    Ceiling,
    Floor,
    Sign,
    Sqrt,
    AsNumber,
    IsBool,
    IsDefined,
    IsNull,
    IsNumber,
    IsString,
    Concat,
    Length,
    Lower,
    Upper,
    Substring,
    IndexOf,
    StartsWith,
    EndsWith,
    Contains,
}

const ALL: [(&str, Builtin); 23] = [
    ("abs", Builtin::Abs),
    ("exp", Builtin::Exp),
    ("power", Builtin::Power),
    ("square", Builtin::Square),
    ("ceiling", Builtin::Ceiling),
    ("floor", Builtin::Floor),
    ("sign", Builtin::Sign),
    ("sqrt", Builtin::Sqrt),
    ("as_number", Builtin::AsNumber),
    ("is_bool", Builtin::IsBool),
    ("is_defined", Builtin::IsDefined),
    ("is_null", Builtin::IsNull),
    ("is_number", Builtin::IsNumber),
    ("is_string", Builtin::IsString),
    ("concat", Builtin::Concat),
    ("length", Builtin::Length),
    ("lower", Builtin::Lower),
    ("upper", Builtin::Upper),
    ("substring", Builtin::Substring),
    ("index_of", Builtin::IndexOf),
    ("starts_with", Builtin::StartsWith),
    ("ends_with", Builtin::EndsWith),
    ("contains", Builtin::Contains),
];

impl Builtin {
    pub(super) fn name(self) -> &'static str {
        ALL.iter().find(|(_, b)| *b == self).map_or("", |(name, _)| name)
    }

    /// For errors: what the arguments must be.
    pub(super) fn needs(self) -> &'static str {
        use Builtin::*;
        match self {
            Abs | Exp | Square | Ceiling | Floor | Sign | Sqrt => "one number",
            Power => "two numbers",
            AsNumber => "one text or number",
            IsBool | IsDefined | IsNull | IsNumber | IsString => "one value",
            Concat => "two or more texts",
            Length | Lower | Upper => "one text",
            Substring => "a text, a number and perhaps another number",
            IndexOf | StartsWith | EndsWith | Contains => "two texts",
        }
    }
}

pub(super) fn find(name: &str) -> Option<Builtin> {
    ALL.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, builtin)| *builtin)
}

/// The sentence for a function that is not there, with the one that was probably meant.
pub(super) fn unknown(name: &str) -> String {
    const MEANT: [(&str, &str); 12] = [
        ("ceil", "it is called ceiling"),
        ("startswith", "it is called starts_with"),
        ("endswith", "it is called ends_with"),
        ("indexof", "it is called index_of"),
        ("len", "it is called length"),
        ("pow", "it is called power"),
        ("to_number", "it is called as_number"),
        ("is_object", "objects are undefined here: use NOT is_defined(…)"),
        ("is_array", "lists are undefined here: use NOT is_defined(…)"),
        ("as_string", "there is no way from a number to a text"),
        ("twin_change_includes", "it is not available on the edge"),
        ("round", "use floor(x + 0.5)"),
    ];
    let hint = MEANT.iter().find(|(wrong, _)| name.eq_ignore_ascii_case(wrong));
    if let Some((_, hint)) = hint {
        return format!("there is no function {name}: {hint}");
    }
    if let Some(builtin) = name.strip_prefix('-').and_then(find) {
        return format!("there is no function {name}: put a blank after '-' to negate {}", builtin.name());
    }
    let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    format!("there is no function {name}: there are {}", names.join(", "))
}

/// How a call with fitting types goes on.
pub(super) enum Fit {
    Call,
    Fixed(Fixed, Type),
}

/// `None` when count or types do not fit.
pub(super) fn check(builtin: Builtin, types: &[Type]) -> Option<Fit> {
    use Builtin::*;
    let fits = |wanted: &[Type]| types.len() == wanted.len() && types.iter().zip(wanted).all(|(t, w)| t.fits(*w));
    let fixed = |value| Some(Fit::Fixed(value, Type::Bool));
    let one = |wanted: Type| match types {
        [ty] if *ty == Type::Dynamic || *ty == wanted => Some(Fit::Call),
        [_] => fixed(Fixed::False),
        _ => None,
    };
    let good = match builtin {
        Abs | Exp | Square | Ceiling | Floor | Sign | Sqrt => fits(&[Type::Number]),
        Power => fits(&[Type::Number; 2]),
        AsNumber => fits(&[Type::Text]) || types == [Type::Number],
        Length | Lower | Upper => fits(&[Type::Text]),
        IndexOf | StartsWith | EndsWith | Contains => fits(&[Type::Text; 2]),
        Substring => fits(&[Type::Text, Type::Number]) || fits(&[Type::Text, Type::Number, Type::Number]),
        Concat => types.len() >= 2 && types.iter().all(|ty| ty.fits(Type::Text)),
        IsBool => return one(Type::Bool),
        IsNumber => return one(Type::Number),
        IsString => return one(Type::Text),
        IsNull => {
            return match types {
                [Type::Null] => fixed(Fixed::True),
                _ => one(Type::Text),
            };
        }
        IsDefined => {
            return match types {
                [Type::Undefined] => fixed(Fixed::False),
                [Type::Null] => fixed(Fixed::True),
                [_] => Some(Fit::Call),
                _ => None,
            };
        }
    };
    good.then_some(Fit::Call)
}

pub(super) fn result(builtin: Builtin) -> Type {
    use Builtin::*;
    match builtin {
        Abs | Exp | Power | Square | Ceiling | Floor | Sign | Sqrt | AsNumber | Length | IndexOf => Type::Number,
        IsBool | IsDefined | IsNull | IsNumber | IsString | StartsWith | EndsWith | Contains => Type::Bool,
        Concat | Lower | Upper | Substring => Type::Text,
    }
}

/// One argument. `dynamic` says that its static type is a `$body` value.
pub(super) fn one<'v>(builtin: Builtin, dynamic: bool, value: Value<'v>) -> Value<'v> {
    use Builtin::*;
    match (builtin, value) {
        (IsDefined, value) => Value::Bool(value != Value::Undefined),
        (IsBool, Value::Undefined) => Value::Undefined,
        (IsBool, value) => Value::Bool(matches!(value, Value::Bool(_))),
        (IsNumber, value) => Value::Bool(matches!(value, Value::Number(n) if n.is_finite())),
        (IsString, value) => Value::Bool(matches!(value, Value::Text(_))),
        // The field's oddity: of a $body value it asks "is it not the null that stands for a missing path".
        (IsNull, Value::Undefined) if dynamic => Value::Undefined,
        (IsNull, value) if dynamic => Value::Bool(value != Value::Missing),
        (IsNull, value) => Value::Bool(value == Value::NullText),
        (AsNumber, Value::Text(text)) => number::parse(&text).map_or(Value::Undefined, Value::number),
        (AsNumber, Value::Number(n)) => Value::number(n),
        (Length, Value::Text(text)) => Value::Number(text::units(&text) as f64),
        (Lower, Value::Text(text)) => Value::Text(changed(text, text::lower)),
        (Upper, Value::Text(text)) => Value::Text(changed(text, text::upper)),
        (_, Value::Number(n)) => Value::number(match builtin {
            Abs => n.abs(),
            Exp => n.exp(),
            Square => n * n,
            Ceiling => n.ceil(),
            Floor => n.floor(),
            Sqrt => n.sqrt(),
            Sign if n > 0.0 => 1.0,
            Sign if n < 0.0 => -1.0,
            Sign if n == 0.0 => 0.0,
            _ => f64::NAN,
        }),
        _ => Value::Undefined,
    }
}

fn changed<'v>(text: Cow<'v, str>, change: fn(&str) -> Cow<'_, str>) -> Cow<'v, str> {
    match text {
        Cow::Borrowed(text) => change(text),
        Cow::Owned(text) => Cow::Owned(change(&text).into_owned()),
    }
}

/// Two arguments, `substring` with a start alone included.
pub(super) fn two<'v>(builtin: Builtin, a: &Value<'_>, b: &Value<'_>) -> Value<'v> {
    use Builtin::*;
    match (builtin, a, b) {
        (Power, Value::Number(x), Value::Number(y)) => Value::number(x.powf(*y)),
        (StartsWith, Value::Text(x), Value::Text(y)) => Value::Bool(x.starts_with(&**y)),
        (EndsWith, Value::Text(x), Value::Text(y)) => Value::Bool(x.ends_with(&**y)),
        (Contains, Value::Text(x), Value::Text(y)) => Value::Bool(x.contains(&**y)),
        (IndexOf, Value::Text(x), Value::Text(y)) => Value::Number(text::index_of(x, y).map_or(-1.0, |at| at as f64)),
        (Substring, Value::Text(x), Value::Number(start)) => {
            let length = text::units(x);
            if *start >= 0.0 && *start <= length as f64 {
                let start = *start as usize;
                Value::Text(Cow::Owned(text::substring(x, start, length - start).into_owned()))
            } else {
                Value::Undefined
            }
        }
        _ => Value::Undefined,
    }
}

/// `substring` with start and length. The bounds are compared before fractions are cut.
pub(super) fn substring<'v>(text: &Value<'_>, start: &Value<'_>, count: &Value<'_>) -> Value<'v> {
    let (Value::Text(text), Value::Number(start), Value::Number(count)) = (text, start, count) else {
        return Value::Undefined;
    };
    let length = text::units(text) as f64;
    if *start >= 0.0 && *start < length && *count >= 0.0 && *count <= length - start {
        Value::Text(Cow::Owned(text::substring(text, *start as usize, *count as usize).into_owned()))
    } else {
        Value::Undefined
    }
}

/// Texts joined; a property without a value counts as empty.
pub(super) fn concat<'v>(parts: impl Iterator<Item = Value<'v>>) -> Value<'v> {
    let mut joined = String::new();
    for part in parts {
        match part {
            Value::Text(text) => joined.push_str(&text),
            Value::NullText => {}
            _ => return Value::Undefined,
        }
    }
    Value::Text(Cow::Owned(joined))
}
