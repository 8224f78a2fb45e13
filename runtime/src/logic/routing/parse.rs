//! From tokens to a tree: precedence and brackets, nothing about types.
//! Two kinds of fault: *hard* ones end the parse, *soft* ones (a bracket too many, an open string) are what the
//! field's route parser lets through and its condition compiler refuses. Must never recurse deeper than `DEPTH_MAX`.

use super::lex::{Kind, Token, tokens};
use super::{DEPTH_MAX, Fault};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Multiply,
    Divide,
    Modulo,
    Add,
    Subtract,
    Join,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    And,
    Or,
    Coalesce,
}

#[derive(Debug)]
pub(super) enum Shape {
    /// The token says which literal it is.
    Literal(Kind),
    Property,
    /// `$name`.
    System,
    /// `{$name}`; the range is that of `$name`.
    Escaped(usize, usize),
    Call {
        name: Token,
        arguments: Vec<Expr>,
    },
    Negate(Box<Expr>),
    Not(Box<Expr>),
    Binary {
        operator: Operator,
        at: usize,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Nested(Box<Expr>),
    /// A soft fault stands here.
    Bad,
}

/// A sub-expression, with its byte range.
#[derive(Debug)]
pub(super) struct Expr {
    pub shape: Shape,
    pub from: usize,
    pub to: usize,
    depth: usize,
}

/// What a parse of one condition gives.
pub(super) struct Parsed {
    /// `None` for an empty condition.
    pub expr: Option<Expr>,
    pub soft: Option<Fault>,
    /// Where the first token stands that does not belong to the condition.
    pub next: usize,
}

/// The stand-alone form: what follows a complete condition is not looked at.
pub(super) fn condition(text: &str) -> Result<Parsed, Fault> {
    let tokens = tokens(text);
    if tokens[0].kind == Kind::End {
        return Ok(Parsed { expr: None, soft: None, next: 0 });
    }
    parse(text, &tokens, 0, false)
}

/// A condition inside a route, from the token with that index.
pub(super) fn condition_at(text: &str, tokens: &[Token], at: usize) -> Result<Parsed, Fault> {
    parse(text, tokens, at, true)
}

fn parse(text: &str, tokens: &[Token], at: usize, in_route: bool) -> Result<Parsed, Fault> {
    let mut parser = Parser { text, tokens, at, in_route, open: 0, depth: 0, soft: None };
    let from = at;
    let expr = parser.expression(0)?;
    parser.close_too_many(from);
    Ok(Parsed { expr: Some(expr), soft: parser.soft, next: parser.at })
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
    in_route: bool,
    /// Brackets that wait for their `)`.
    open: usize,
    depth: usize,
    soft: Option<Fault>,
}

impl Parser<'_> {
    fn token(&self) -> Token {
        self.tokens[self.at]
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.at];
        if token.kind != Kind::End {
            self.at += 1;
        }
        token
    }

    fn words(&self, token: Token) -> &str {
        &self.text[token.from..token.to]
    }

    fn soft(&mut self, at: usize, message: String) {
        self.soft.get_or_insert(Fault { at, message });
    }

    fn make(&self, shape: Shape, from: usize, depth: usize) -> Result<Expr, Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::new(from, too_deep()));
        }
        let to = if self.at == 0 { from } else { self.tokens[self.at - 1].to };
        Ok(Expr { shape, from, to, depth })
    }

    fn expression(&mut self, binding_min: u8) -> Result<Expr, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::new(self.token().from, too_deep()));
        }
        let mut left = self.prefix()?;
        loop {
            let token = self.token();
            if token.kind == Kind::Unknown {
                left = self.unknown_between(left)?;
                continue;
            }
            let Some((operator, binding)) = binary(token.kind) else { break };
            if binding < binding_min {
                break;
            }
            self.take();
            let right = self.expression(binding + 1)?;
            let (from, depth) = (left.from, left.depth.max(right.depth) + 1);
            let shape = Shape::Binary { operator, at: token.from, left: Box::new(left), right: Box::new(right) };
            left = self.make(shape, from, depth)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn unknown_between(&mut self, left: Expr) -> Result<Expr, Fault> {
        let token = self.take();
        self.soft(token.from, unknown(self.words(token)));
        let right = self.expression(0)?;
        self.make(Shape::Bad, left.from, left.depth.max(right.depth) + 1)
    }

    fn prefix(&mut self) -> Result<Expr, Fault> {
        let token = self.token();
        match token.kind {
            Kind::Minus | Kind::Not => {
                self.take();
                // Binds tighter than every binary operator: `NOT a = 'x'` is `(NOT a) = 'x'`.
                let inner = self.expression(u8::MAX)?;
                let depth = inner.depth + 1;
                let inner = Box::new(inner);
                let shape = if token.kind == Kind::Not { Shape::Not(inner) } else { Shape::Negate(inner) };
                self.make(shape, token.from, depth)
            }
            Kind::Unknown => {
                self.take();
                self.soft(token.from, unknown(self.words(token)));
                if starts_expression(self.token().kind) {
                    self.expression(u8::MAX)?;
                }
                self.make(Shape::Bad, token.from, 1)
            }
            Kind::Open => self.nested(),
            Kind::Name if self.tokens[self.at + 1].kind == Kind::Open => self.call(),
            Kind::Name => {
                self.take();
                self.make(Shape::Property, token.from, 1)
            }
            Kind::System => {
                self.take();
                self.make(Shape::System, token.from, 1)
            }
            Kind::OpenBrace => self.escaped(),
            Kind::OpenText => {
                self.take();
                self.soft(token.from, open_text(self.words(token), &self.text[token.to..]));
                self.make(Shape::Bad, token.from, 1)
            }
            kind if is_literal(kind) => {
                self.take();
                self.make(Shape::Literal(kind), token.from, 1)
            }
            _ => Err(Fault::new(token.from, self.expected_value(token))),
        }
    }

    fn nested(&mut self) -> Result<Expr, Fault> {
        let open = self.take();
        self.open += 1;
        let inner = self.expression(0)?;
        self.open -= 1;
        let depth = inner.depth + 1;
        if self.token().kind != Kind::Close {
            self.soft(open.from, "this '(' is never closed: add a ')'".to_owned());
            return self.make(Shape::Bad, open.from, depth);
        }
        self.take();
        self.extra_close();
        self.make(Shape::Nested(Box::new(inner)), open.from, depth)
    }

    /// A `)` after a complete condition. The field takes it for text that follows, and so ignores it, unless its grammar
    /// finds an earlier bracket to give it to (two that close in a row) or an operator behind it.
    fn close_too_many(&mut self, from: usize) {
        let token = self.token();
        if token.kind != Kind::Close {
            return;
        }
        let closes = |token: &Token| token.kind == Kind::Close;
        let taken = &self.tokens[from..self.at];
        let after_call = taken.last().is_some_and(closes);
        let behind = self.tokens[self.at + 1].kind;
        let refused = if after_call {
            taken.iter().rev().nth(1).is_some_and(closes)
                || binary(behind).is_some()
                || matches!(behind, Kind::Unknown | Kind::Close)
        } else {
            taken.windows(2).any(|pair| pair.iter().all(closes))
        };
        if refused {
            self.soft(token.from, "this ')' closes nothing: remove it".to_owned());
            self.take();
        } else if self.in_route && after_call {
            self.take();
        }
    }

    fn extra_close(&mut self) {
        if self.open == 0 && self.token().kind == Kind::Close {
            let token = self.take();
            self.soft(token.from, "this ')' closes nothing: remove it".to_owned());
        }
    }

    fn call(&mut self) -> Result<Expr, Fault> {
        let name = self.take();
        let open = self.take();
        self.open += 1;
        let mut arguments = Vec::new();
        if self.token().kind != Kind::Close {
            loop {
                arguments.push(self.expression(0)?);
                if self.token().kind != Kind::Comma {
                    break;
                }
                self.take();
            }
        }
        self.open -= 1;
        if self.token().kind != Kind::Close {
            let function = self.words(name).to_owned();
            let found = self.describe(self.token());
            return Err(Fault::new(
                self.token().from,
                format!(
                    "expected ',' or ')' in the arguments of {function} (opened at column {}), but found {found}",
                    { super::column(self.text, open.from) }
                ),
            ));
        }
        self.take();
        let depth = 1 + arguments.iter().map(|a| a.depth).max().unwrap_or(0);
        self.make(Shape::Call { name, arguments }, name.from, depth)
    }

    fn escaped(&mut self) -> Result<Expr, Fault> {
        let brace = self.take();
        let name = self.token();
        if name.kind != Kind::System {
            let found = self.describe(name);
            return Err(Fault::new(
                name.from,
                format!("expected a system property like $contentType after '{{', but found {found}"),
            ));
        }
        self.take();
        if self.token().kind != Kind::CloseBrace {
            let found = self.describe(self.token());
            return Err(Fault::new(
                self.token().from,
                format!("expected '}}' after {}, but found {found}", self.words(name)),
            ));
        }
        self.take();
        self.make(Shape::Escaped(name.from, name.to), brace.from, 1)
    }

    fn describe(&self, token: Token) -> String {
        describe(self.text, token)
    }

    fn expected_value(&self, token: Token) -> String {
        let found = self.describe(token);
        match token.kind {
            Kind::Path => format!("{found} is no property: only $body paths may have brackets, as in $body.list[0]"),
            Kind::Eq => format!("expected a value, but found {found}: equality is written with a single ="),
            _ => format!("expected a property, a literal, a function or '(', but found {found}"),
        }
    }
}

/// A token as an error message names it.
pub(super) fn describe(text: &str, token: Token) -> String {
    match token.kind {
        Kind::End => "the end of the text".to_owned(),
        Kind::Select | Kind::From | Kind::Where | Kind::Into | Kind::And | Kind::Or | Kind::Not => {
            format!("the keyword {}", text[token.from..token.to].to_uppercase())
        }
        _ => format!("'{}'", text[token.from..token.to].chars().take(40).collect::<String>()),
    }
}

fn binary(kind: Kind) -> Option<(Operator, u8)> {
    Some(match kind {
        Kind::Coalesce => (Operator::Coalesce, 1),
        Kind::Or => (Operator::Or, 2),
        Kind::And => (Operator::And, 3),
        Kind::Eq => (Operator::Eq, 4),
        Kind::Ne => (Operator::Ne, 4),
        Kind::Lt => (Operator::Lt, 5),
        Kind::Le => (Operator::Le, 5),
        Kind::Gt => (Operator::Gt, 5),
        Kind::Ge => (Operator::Ge, 5),
        Kind::Plus => (Operator::Add, 6),
        Kind::Minus => (Operator::Subtract, 6),
        Kind::Join => (Operator::Join, 6),
        Kind::Star => (Operator::Multiply, 7),
        Kind::Slash => (Operator::Divide, 7),
        Kind::Percent => (Operator::Modulo, 7),
        _ => return None,
    })
}

fn is_literal(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Text | Kind::Integer | Kind::Hex | Kind::Real | Kind::True | Kind::False | Kind::Null | Kind::Undefined
    )
}

fn starts_expression(kind: Kind) -> bool {
    is_literal(kind)
        || matches!(
            kind,
            Kind::Name | Kind::System | Kind::Open | Kind::OpenBrace | Kind::Minus | Kind::Not | Kind::OpenText
        )
}

fn unknown(symbol: &str) -> String {
    format!("the symbol '{symbol}' means nothing in a condition: remove it, or put it into a text in quotes")
}

fn open_text(found: &str, after: &str) -> String {
    if after.starts_with('\\') {
        return r#"a text may only escape \' \" \\ and \uXXXX: write a backslash as \\"#.to_owned();
    }
    format!("this text is never closed: add a {}", &found[..1])
}

fn too_deep() -> String {
    format!("the condition is nested more than {DEPTH_MAX} levels deep: split it into several routes")
}
