//! How files and functions are built: a header, and lengths that a reader can hold. Must never count what is no code of
//! the project's own: data files and generated ones are not looked at.

use super::Fault;
use super::source::{Source, words};

const FILE_LINES_MAX: usize = 450;
const FN_LINES_MAX: usize = 70;
const HEADER_LINES: std::ops::RangeInclusive<usize> = 2..=6;

/// The guide for module authors, and the layout of a format, are read there.
const LONG_HEADERS: &[&str] = &["abi/src/lib.rs", "abi/src/wire/record.rs"];

pub fn check(source: &Source, faults: &mut Vec<Fault>) {
    let header = source.lines.iter().take_while(|line| line.starts_with("//!")).count();
    // A test file, a wiring file of two lines: one line says it.
    let least = if source.is_test() || source.lines.len() <= 30 { 1 } else { *HEADER_LINES.start() };
    let most = if LONG_HEADERS.contains(&source.path.as_str()) { usize::MAX } else { *HEADER_LINES.end() };
    if header < least || header > most {
        let text = format!(
            "{header} lines of `//!` at the top, expected {least} to {}: what it is for, and what it must never do",
            HEADER_LINES.end()
        );
        faults.push(Fault::new("header", source, 0, text));
    }
    let lines = source.lines.len();
    if lines > FILE_LINES_MAX {
        let text = format!("{lines} lines, at most {FILE_LINES_MAX}: one idea a file");
        faults.push(Fault::sized("file-lines", source, 0, String::new(), lines, text));
    }
    for (at, name, length) in functions(&source.code) {
        if length > FN_LINES_MAX {
            let text = format!("fn {name} has {length} lines, at most {FN_LINES_MAX}");
            faults.push(Fault::sized("fn-lines", source, at, name, length, text));
        }
    }
}

/// Line, name and length of every function with a body.
fn functions(code: &[String]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let words: Vec<&str> = words(line).map(|(_, word)| word).collect();
        let named = words.iter().position(|word| *word == "fn").and_then(|i| words.get(i + 1));
        let Some(name) = named.filter(|_| !line.contains("fn(")) else { continue };
        if let Some(end) = end_of(code, at) {
            found.push((at, (*name).to_owned(), end - at + 1));
        }
    }
    found
}

/// The line of the brace that closes the body; `None` for a declaration.
fn end_of(code: &[String], at: usize) -> Option<usize> {
    let (mut depth, mut parentheses) = (0i32, 0i32);
    for (offset, line) in code[at..].iter().enumerate() {
        for c in line.chars() {
            match c {
                '(' | '[' => parentheses += 1,
                ')' | ']' => parentheses -= 1,
                ';' if depth == 0 && parentheses == 0 => return None,
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(at + offset);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured() {
        let source = Source::new("x.rs", "fn a() {\n  {}\n}\ntrait T {\n fn b(x: [u8; 2]);\n fn c() -> X\n {}\n}\n");
        let found = functions(&source.code);
        assert_eq!(found, [(0, "a".to_owned(), 3), (5, "c".to_owned(), 2)]);
    }
}
