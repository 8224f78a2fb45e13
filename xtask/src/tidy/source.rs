//! A Rust file as tidy reads it: its lines as they are, and the same lines with comments and the insides of literals
//! blanked out. Must never fail on a file that compiles: what it can't read it takes for code.

pub struct Source {
    /// From the root of the workspace.
    pub path: String,
    pub lines: Vec<String>,
    /// As many lines as `lines`, each as long.
    pub code: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let lines = text.lines().map(str::to_owned).collect();
        let code = blank(text).lines().map(str::to_owned).collect();
        Source { path: path.to_owned(), lines, code }
    }

    /// Where its tests begin: they stand last.
    pub fn tests_at(&self) -> usize {
        let at = self.code.iter().position(|line| line.trim_start().starts_with("#[cfg(test)]"));
        at.unwrap_or(self.code.len())
    }

    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.starts_with("tests/") || self.path.ends_with("tests.rs")
    }
}

enum State {
    Code,
    Line,
    Block(usize),
    /// The number of `#` around a raw one.
    Text(Option<usize>),
}

fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut state = State::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let mut skip = 1;
        match state {
            State::Code if c == '/' && at(i + 1) == '/' => state = State::Line,
            State::Code if c == '/' && at(i + 1) == '*' => (state, skip) = (State::Block(1), 2),
            State::Code if c == '"' => state = State::Text(None),
            State::Code if c == 'r' && !is_name(at(i.wrapping_sub(1))) => {
                let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
                if at(i + 1 + hashes) == '"' {
                    (state, skip) = (State::Text(Some(hashes)), 2 + hashes);
                }
            }
            State::Code if c == '\'' => skip = char_length(&at, i),
            State::Line if c == '\n' => state = State::Code,
            State::Block(depth) if c == '*' && at(i + 1) == '/' => {
                (state, skip) = (if depth == 1 { State::Code } else { State::Block(depth - 1) }, 2);
                out.push_str("  ");
                i += skip;
                continue;
            }
            State::Block(depth) if c == '/' && at(i + 1) == '*' => (state, skip) = (State::Block(depth + 1), 2),
            State::Text(None) if c == '\\' => skip = 2,
            State::Text(None) if c == '"' => (state, skip) = (State::Code, 1),
            State::Text(Some(hashes)) if c == '"' && (1..=hashes).all(|k| at(i + k) == '#') => {
                (state, skip) = (State::Code, 1 + hashes);
            }
            _ => {}
        }
        let keep = matches!(state, State::Code) && skip == 1 && c != '"';
        for c in &chars[i..(i + skip).min(chars.len())] {
            out.push(if *c == '\n' || keep { *c } else { ' ' });
        }
        i += skip;
    }
    out
}

/// Of a character literal; 1 when it is the tick of a lifetime.
fn char_length(at: &impl Fn(usize) -> char, i: usize) -> usize {
    if at(i + 1) == '\\' {
        return (i + 3..i + 14).find(|j| at(*j) == '\'').map_or(1, |j| j + 1 - i);
    }
    if at(i + 2) == '\'' { 3 } else { 1 }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The names in a line of code, with the column of each, counted in bytes from 0.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_name)?;
        let end = code[start..].find(|c| !is_name(c)).map_or(code.len(), |at| start + at);
        rest = end;
        Some((start, &code[start..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str) {
        let source = Source::new("x.rs", text);
        assert_eq!(source.code.join("\n").split_whitespace().collect::<Vec<_>>().join(" "), code, "{text:?}");
        assert_eq!(source.code.len(), source.lines.len());
    }

    #[test]
    fn only_code_is_left() {
        check("a(); // unsafe", "a();");
        check("a(/* x /* y */ z */ b);", "a( b);");
        check(r#"f("todo!() \" {", 'x', '\'', 1);"#, "f( , , , 1);");
        check("fn f<'a>(x: &'a str) { '{'; }", "fn f<'a>(x: &'a str) { ; }");
        check("r##\"a \"# b\"## + x", "+ x");
        check("let s = \"a\nb { c\"; d", "let s = ; d");
    }

    #[test]
    fn words_have_their_column() {
        assert_eq!(words("  fn a_1(b)").collect::<Vec<_>>(), [(2, "fn"), (5, "a_1"), (9, "b")]);
    }
}
