//! The last lines that one instance logged: bounded bytes, oldest dropped. Kept in memory only, so that a chatty
//! module wears out no flash.

use std::collections::VecDeque;

use crate::model::time::Wall;

/// One line. `stream` is `stdout`, `stderr`, or the target of a log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub at: Wall,
    /// As in the `log` crate, 1 error to 5 trace; 0 for captured output.
    pub level: u8,
    pub stream: String,
    pub text: String,
}

const LEVELS: [&str; 6] = ["output", "error", "warn", "info", "debug", "trace"];

impl LogLine {
    fn bytes(&self) -> usize {
        self.stream.len() + self.text.len() + size_of::<LogLine>()
    }

    pub fn level_name(&self) -> &'static str {
        LEVELS.get(usize::from(self.level)).unwrap_or(&"trace")
    }

    pub fn level_named(name: &str) -> Option<u8> {
        LEVELS.iter().position(|level| *level == name).map(|level| level as u8)
    }
}

pub struct LogRing {
    lines: VecDeque<LogLine>,
    bytes: usize,
    bytes_max: usize,
}

/// Which lines somebody asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub since: Option<Wall>,
    pub until: Option<Wall>,
    /// Only so many of the newest of those.
    pub tail: Option<usize>,
}

impl Choice {
    /// Oldest first.
    pub fn of(&self, mut lines: Vec<LogLine>) -> Vec<LogLine> {
        let Choice { since, until, tail } = *self;
        lines.retain(|l| since.is_none_or(|since| l.at >= since) && until.is_none_or(|until| l.at <= until));
        let skip = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        lines.split_off(skip)
    }
}

impl LogRing {
    pub fn new(bytes_max: usize) -> LogRing {
        LogRing { lines: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub fn push(&mut self, line: LogLine) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
        while self.bytes > self.bytes_max && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |l| l.bytes());
        }
    }

    /// Oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        self.lines.iter().cloned().collect()
    }

    /// Everything as text, for a crash report.
    pub fn text(&self) -> String {
        let line = |l: &LogLine| format!("{} {} {}: {}\n", l.at.to_rfc3339(), l.level_name(), l.stream, l.text);
        self.lines.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64) -> LogLine {
        LogLine { at: Wall(at), level: 3, stream: "s".into(), text: format!("line {at}") }
    }

    #[test]
    fn the_oldest_lines_go_and_the_rest_can_be_chosen() {
        let mut ring = LogRing::new(10 * line(10).bytes());
        (0..100).for_each(|at| ring.push(line(at)));
        let choose = |since, until, tail| Choice { since, until, tail }.of(ring.lines());
        let all = choose(None, None, None);
        assert_eq!((all.len(), all[0].at), (10, Wall(90)));
        assert_eq!(choose(Some(Wall(95)), None, None).len(), 5);
        assert_eq!(choose(Some(Wall(95)), None, Some(2))[0].at, Wall(98));
        assert_eq!(choose(None, Some(Wall(95)), Some(2))[1].at, Wall(95));
        assert!(ring.text().ends_with("1970-01-01T00:00:00.099Z info s: line 99\n"));
    }
}
