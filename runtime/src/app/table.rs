//! Aligned columns for people, and values of JSON answers as cells. Must never let a control
//! character through to the terminal: names and texts come from modules.

use serde_json::Value;

use crate::logic::units;

/// Times in milliseconds since 1970 are above this; smaller numbers are counts.
const MS_MIN: i64 = 100_000_000_000;

/// Columns two blanks apart; a column of numbers is aligned to the right.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([head[i].chars().count()]).max();
    let widths: Vec<usize> = (0..head.len()).map(|i| width(i).unwrap_or(0)).collect();
    let is_number = |cell: &str| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit());
    let numeric: Vec<bool> = (0..head.len()).map(|i| rows.iter().all(|row| is_number(&row[i]))).collect();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - cell.chars().count());
            let cell = if numeric[i] { pad + cell } else { cell.clone() + &pad };
            line.push_str(&cell);
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A value at a pointer as a cell: "-" when it is missing, `k=v` for an object.
pub fn cell(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map_or_else(|| "-".to_owned(), show)
}

/// As [`cell`], for bytes.
pub fn bytes(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_u64).map_or_else(|| cell(value, pointer), units::show_bytes)
}

/// As [`cell`], for a point in time.
pub fn time(value: &Value, pointer: &str) -> String {
    let ms = value.pointer(pointer).and_then(Value::as_i64).filter(|ms| *ms > MS_MIN);
    ms.map_or_else(|| cell(value, pointer), units::show_timestamp)
}

pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{}={}", plain(key), show(value))).collect();
            if pairs.is_empty() { "-".to_owned() } else { pairs.join(" ") }
        }
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Control characters become visible; a tab stays.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["filter".to_owned(), "7".to_owned()], vec!["ü".to_owned(), "1200".to_owned()]];
        assert_eq!(render(&["MODULE", "PID"], &rows), "MODULE   PID\nfilter     7\nü       1200\n");
    }

    #[test]
    fn values_become_cells() {
        let value = json!({"a": {"b": "x\u{1b}[2J"}, "n": 5, "t": 1_795_456_800_000i64, "m": 2048, "l": [1, "z"]});
        assert_eq!(cell(&value, "/a"), "b=x\\u{1b}[2J");
        assert_eq!(
            (cell(&value, "/n"), cell(&value, "/no"), cell(&value, "/l")),
            ("5".into(), "-".into(), "1, z".into())
        );
        assert_eq!((time(&value, "/t"), bytes(&value, "/m")), ("2026-11-23T18:00:00.000Z".into(), "2KiB".into()));
    }
}
