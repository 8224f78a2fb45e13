//! Types, before any message: from the parsed tree to the one that is evaluated.
//! Refuses exactly what the field's condition compiler refuses, so that a route that can never work is found when it is
//! set. Must never look at a message.

use super::Fault;
use super::builtins::{self, Builtin};
use super::lex::Kind as Token;
use super::number;
use super::parse::{Expr, Operator, Shape};
use super::path::{self, Path};
use super::value::Type;

/// A checked expression with its byte range in the condition.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub from: u32,
    pub to: u32,
}

#[derive(Debug)]
pub(super) enum Kind {
    Text(Box<str>),
    Number(f64),
    Bool(bool),
    Null,
    /// With the reason.
    Undefined(&'static str),
    Application(Box<str>),
    /// `$name`: the application property of that name with its `$`, else the system property without.
    Either(Box<str>),
    System(Box<str>),
    /// An application property of that very name goes first, unless written in braces.
    Body {
        application: Option<Box<str>>,
        path: Path,
    },
    Negate(Box<Node>),
    Not(Box<Node>),
    Arithmetic {
        operator: Operator,
        dynamic: bool,
        sides: Box<[Node; 2]>,
    },
    Compare {
        operator: Operator,
        dynamic: bool,
        sides: Box<[Node; 2]>,
    },
    Logic {
        or: bool,
        dynamic: bool,
        sides: Box<[Node; 2]>,
    },
    Coalesce(Box<[Node; 2]>),
    Call {
        builtin: Builtin,
        dynamic: bool,
        arguments: Box<[Node]>,
    },
    /// Decided by the types alone; the parts are kept to be explained.
    Fixed {
        value: Fixed,
        parts: Box<[Node]>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    True,
    False,
    Null,
    Undefined,
    /// The value of that part.
    Part(usize),
}

pub(super) struct Checker<'a> {
    pub text: &'a str,
}

type Checked = Result<(Node, Type), Fault>;

impl Checker<'_> {
    pub(super) fn check(&self, expr: &Expr) -> Checked {
        let (kind, ty) = self.kind(expr)?;
        Ok((Node { kind, from: expr.from as u32, to: expr.to as u32 }, ty))
    }

    fn words(&self, expr: &Expr) -> &str {
        &self.text[expr.from..expr.to]
    }

    fn kind(&self, expr: &Expr) -> Result<(Kind, Type), Fault> {
        match &expr.shape {
            Shape::Literal(token) => Ok(literal(*token, self.words(expr))),
            Shape::Property => Ok((Kind::Application(self.words(expr).into()), Type::Text)),
            Shape::System => self.system(expr.from, self.words(expr), false),
            Shape::Escaped(from, to) => self.system(*from, &self.text[*from..*to], true),
            Shape::Nested(inner) => {
                let (node, ty) = self.check(inner)?;
                Ok((node.kind, ty))
            }
            Shape::Negate(inner) => self.negate(expr, inner),
            Shape::Not(inner) => self.not(expr, inner),
            Shape::Binary { operator, at, left, right } => self.binary(*operator, *at, left, right),
            Shape::Call { name, arguments } => {
                let mut nodes = Vec::with_capacity(arguments.len());
                let mut types = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    let (node, ty) = self.check(argument)?;
                    nodes.push(node);
                    types.push(ty);
                }
                self.call(&self.text[name.from..name.to], name.from, nodes, &types)
            }
            Shape::Bad => Err(Fault::new(expr.from, "this can't be read")),
        }
    }

    fn system(&self, at: usize, name: &str, escaped: bool) -> Result<(Kind, Type), Fault> {
        const BODY: &str = "$body.";
        if name.get(..BODY.len()).is_some_and(|start| start.eq_ignore_ascii_case(BODY)) {
            let path = path::parse(&name[BODY.len()..])
                .map_err(|(offset, message)| Fault::new(at + BODY.len() + offset, message))?;
            // Names of application properties have no brackets here.
            let application = (!escaped && !name.contains(['[', ']'])).then(|| name.into());
            return Ok((Kind::Body { application, path }, Type::Dynamic));
        }
        if name.contains(['[', ']']) {
            return Ok((Kind::Undefined("only $body. paths may have brackets"), Type::Undefined));
        }
        Ok((if escaped { Kind::System(name[1..].into()) } else { Kind::Either(name.into()) }, Type::Text))
    }

    fn negate(&self, expr: &Expr, inner: &Expr) -> Result<(Kind, Type), Fault> {
        let (node, ty) = self.check(inner)?;
        match ty {
            Type::Number => Ok((Kind::Negate(Box::new(node)), Type::Number)),
            Type::Dynamic => Err(Fault::new(
                expr.from,
                format!("'-' does not work on a $body value: write 0 - {}", self.words(inner)),
            )),
            _ => Err(Fault::new(
                expr.from,
                format!("'-' needs a number, not {}{}", ty.name(), self.as_number(inner, ty)),
            )),
        }
    }

    fn not(&self, expr: &Expr, inner: &Expr) -> Result<(Kind, Type), Fault> {
        let (node, ty) = self.check(inner)?;
        match ty {
            Type::Null => Ok((Kind::Fixed { value: Fixed::True, parts: Box::new([node]) }, Type::Bool)),
            Type::Bool | Type::Dynamic => Ok((Kind::Not(Box::new(node)), Type::Bool)),
            _ => Err(Fault::new(
                expr.from,
                format!(
                    "NOT needs a bool, not {}: it binds tighter than a comparison, so write NOT ({} = …)",
                    ty.name(),
                    self.words(inner)
                ),
            )),
        }
    }

    fn binary(&self, operator: Operator, at: usize, left: &Expr, right: &Expr) -> Result<(Kind, Type), Fault> {
        let ((l, lt), (r, rt)) = (self.check(left)?, self.check(right)?);
        let dynamic = lt == Type::Dynamic || rt == Type::Dynamic;
        let symbol = symbol(operator);
        let wrong = |expected: String| {
            Fault::new(
                at,
                format!(
                    "'{symbol}' {expected}, but has {} and {}{}",
                    lt.name(),
                    rt.name(),
                    self.hint(left, lt, right, rt)
                ),
            )
        };
        let sides = |l, r| Box::new([l, r]);
        match operator {
            Operator::And | Operator::Or => self.logic(operator, at, (l, lt), (r, rt)),
            Operator::Join => {
                if !lt.fits(Type::Text) || !rt.fits(Type::Text) {
                    return Err(wrong("joins two texts".to_owned()));
                }
                Ok((Kind::Call { builtin: Builtin::Concat, dynamic, arguments: Box::new([l, r]) }, Type::Text))
            }
            Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                if !lt.fits(Type::Number) || !rt.fits(Type::Number) {
                    return Err(wrong("needs two numbers".to_owned()));
                }
                if dynamic && operator == Operator::Modulo {
                    return Err(Fault::new(at, "'%' does not work on a $body value: write as_number($body…) % n"));
                }
                let ty = if dynamic { Type::Dynamic } else { Type::Number };
                Ok((Kind::Arithmetic { operator, dynamic, sides: sides(l, r) }, ty))
            }
            Operator::Coalesce => {
                if !rt.fits(lt) {
                    return Err(wrong("needs the same type on both sides".to_owned()));
                }
                let ty = if dynamic { Type::Dynamic } else { lt };
                Ok((Kind::Coalesce(sides(l, r)), ty))
            }
            _ => {
                if !rt.fits(lt) {
                    return Err(wrong("compares values of one type".to_owned()));
                }
                let value = match lt {
                    Type::Null if !dynamic => match operator {
                        Operator::Eq | Operator::Le | Operator::Ge => Fixed::True,
                        _ => Fixed::False,
                    },
                    Type::Undefined => Fixed::Undefined,
                    _ => return Ok((Kind::Compare { operator, dynamic, sides: sides(l, r) }, Type::Bool)),
                };
                Ok((Kind::Fixed { value, parts: Box::new([l, r]) }, Type::Bool))
            }
        }
    }

    /// The field's rules, odd ones included: what is right of a `$body` value is not checked, what is right of anything
    /// else must be a bool and no `$body` value.
    fn logic(
        &self,
        operator: Operator,
        at: usize,
        (l, lt): (Node, Type),
        (r, rt): (Node, Type),
    ) -> Result<(Kind, Type), Fault> {
        let or = operator == Operator::Or;
        let symbol = symbol(operator);
        let plain = |ty| matches!(ty, Type::Null | Type::Bool | Type::Undefined);
        if lt == Type::Dynamic {
            if rt == Type::Null && !or {
                return Err(Fault::new(at, format!("'{symbol}' can't have null on its right: compare with = null")));
            }
            return Ok((Kind::Logic { or, dynamic: true, sides: Box::new([l, r]) }, Type::Bool));
        }
        if plain(lt) && rt == Type::Dynamic {
            let body = &self.text[r.from as usize..r.to as usize];
            let fix = format!("write {body} = true, or put it on the left");
            return Err(Fault::new(at, format!("'{symbol}' can't have a bare $body value on its right: {fix}")));
        }
        if !plain(lt) || !plain(rt) {
            let message = format!("'{symbol}' needs two bools, but has {} and {}", lt.name(), rt.name());
            return Err(Fault::new(at, format!("{message}: compare the value with something, as in level = 'high'")));
        }
        let (value, ty) = match (lt, rt) {
            (Type::Null, Type::Undefined) | (Type::Undefined, Type::Null) => {
                return Err(Fault::new(at, format!("'{symbol}' can't join null and undefined")));
            }
            (Type::Null, Type::Null) => (Fixed::Null, Type::Null),
            (Type::Null, Type::Bool) if or => (Fixed::Part(1), Type::Bool),
            (Type::Bool, Type::Null) if or => (Fixed::Part(0), Type::Bool),
            (Type::Null, _) | (_, Type::Null) => (Fixed::Null, Type::Null),
            _ => return Ok((Kind::Logic { or, dynamic: false, sides: Box::new([l, r]) }, Type::Bool)),
        };
        Ok((Kind::Fixed { value, parts: Box::new([l, r]) }, ty))
    }

    fn call(&self, name: &str, at: usize, nodes: Vec<Node>, types: &[Type]) -> Result<(Kind, Type), Fault> {
        let Some(builtin) = builtins::find(name) else {
            return Err(Fault::new(at, builtins::unknown(name)));
        };
        let dynamic = types.contains(&Type::Dynamic);
        let arguments = nodes.into_boxed_slice();
        match builtins::check(builtin, types) {
            Some(builtins::Fit::Call) => Ok((Kind::Call { builtin, dynamic, arguments }, builtins::result(builtin))),
            Some(builtins::Fit::Fixed(value, ty)) => Ok((Kind::Fixed { value, parts: arguments }, ty)),
            None => {
                let given: Vec<&str> = types.iter().map(|ty| ty.name()).collect();
                let given = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
                Err(Fault::new(at, format!("{} needs {}, but got {given}", builtin.name(), builtin.needs())))
            }
        }
    }

    fn hint(&self, left: &Expr, lt: Type, right: &Expr, rt: Type) -> String {
        match (lt, rt) {
            (Type::Text, Type::Number) => self.as_number(left, lt),
            (Type::Number, Type::Text) => self.as_number(right, rt),
            (Type::Text, Type::Bool) => format!(": properties are texts, so write '{}' in quotes", self.words(right)),
            (Type::Bool, Type::Text) => format!(": properties are texts, so write '{}' in quotes", self.words(left)),
            (Type::Text, Type::Null) | (Type::Null, Type::Text) => {
                ": write is_null(name) or NOT is_defined(name)".to_owned()
            }
            _ => String::new(),
        }
    }

    fn as_number(&self, expr: &Expr, ty: Type) -> String {
        if ty == Type::Text && !matches!(expr.shape, Shape::Literal(_)) {
            format!(": write as_number({})", self.words(expr))
        } else {
            String::new()
        }
    }
}

fn literal(token: Token, words: &str) -> (Kind, Type) {
    let number = |n: Option<f64>| match n {
        Some(n) => (Kind::Number(n), Type::Number),
        None => (Kind::Undefined("the number can't be represented"), Type::Undefined),
    };
    match token {
        Token::Text => (Kind::Text(unescape(&words[1..words.len() - 1])), Type::Text),
        Token::Integer | Token::Real => number(number::parse(words)),
        Token::Hex => number(number::hex(words)),
        Token::True => (Kind::Bool(true), Type::Bool),
        Token::False => (Kind::Bool(false), Type::Bool),
        Token::Null => (Kind::Null, Type::Null),
        _ => (Kind::Undefined("written so"), Type::Undefined),
    }
}

/// Two passes as in the field: first `\uXXXX`, then `\'` `\"` `\\`, so that `\\u0041` is a backslash and an A.
fn unescape(raw: &str) -> Box<str> {
    if !raw.contains('\\') {
        return raw.into();
    }
    let mut units: Vec<u16> = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let hex = rest.strip_prefix("\\u").or_else(|| rest.strip_prefix("\\U")).and_then(|r| r.get(..4));
        match hex.filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|h| u16::from_str_radix(h, 16).ok()) {
            Some(unit) => {
                units.push(unit);
                rest = &rest[6..];
            }
            None => {
                units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    let once = String::from_utf16_lossy(&units);
    let mut out = String::with_capacity(once.len());
    let mut chars = once.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(&next @ ('"' | '\'' | '\\')) if c == '\\' => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out.into()
}

pub(super) fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Modulo => "%",
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Join => "||",
        Operator::Lt => "<",
        Operator::Le => "<=",
        Operator::Gt => ">",
        Operator::Ge => ">=",
        Operator::Eq => "=",
        Operator::Ne => "!=",
        Operator::And => "AND",
        Operator::Or => "OR",
        Operator::Coalesce => "??",
    }
}
