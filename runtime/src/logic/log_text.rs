//! The lines of a module's log as text, as they lie in files: what is written is read back the same.
//! Must never let a line of one module look like two.

use super::log_ring::LogLine;
use super::units;
use crate::model::time::Wall;

/// `TIME LEVEL STREAM: TEXT`; what a text has of further lines begins with a tab.
pub fn write(line: &LogLine) -> String {
    let stream = line.stream.replace(['\n', ' '], "_");
    let text = line.text.replace('\n', "\n\t");
    format!("{} {} {stream}: {text}\n", line.at.to_rfc3339(), line.level_name())
}

/// What was written. Half a line at the beginning or the end, as a power cut leaves it, is no line.
pub fn read(text: &str) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    for piece in text.split_inclusive('\n').filter_map(|piece| piece.strip_suffix('\n')) {
        match (piece.strip_prefix('\t'), lines.last_mut()) {
            (Some(more), Some(line)) => {
                line.text.push('\n');
                line.text.push_str(more);
            }
            _ => lines.extend(one(piece)),
        }
    }
    lines
}

fn one(text: &str) -> Option<LogLine> {
    let (time, rest) = text.split_once(' ')?;
    let (level, rest) = rest.split_once(' ')?;
    let (stream, text) = rest.split_once(": ")?;
    let at = Wall(units::timestamp_ms(time)?);
    let level = LogLine::level_named(level)?;
    Some(LogLine { at, level, stream: stream.to_owned(), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let line = |level, stream: &str, text: &str| LogLine {
            at: Wall(1_763_900_000_123),
            level,
            stream: stream.to_owned(),
            text: text.to_owned(),
        };
        let lines = [
            line(0, "stdout", "plain"),
            line(1, "skerry_filter::inner", "a: b: c"),
            line(5, "m", ""),
            line(3, "m", "two\nlines\n\tand a tab"),
            line(2, "m", "2026-11-24T00:00:00.000Z info m: not a line of its own"),
        ];
        let text: String = lines.iter().map(write).collect();
        assert_eq!(read(&text), lines);
        // Cut anywhere, what is whole is there.
        for end in 0..text.len() {
            let Some(cut) = text.get(..end) else { continue };
            assert!(read(cut).len() <= lines.len());
        }
        assert_eq!(read("half a line\n").len(), 0);
        assert_eq!(read(&write(&line(3, "a b: c", "x")))[0].stream, "a_b:_c");
    }
}
