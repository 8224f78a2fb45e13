//! Findings, and how they are told: a line each for people, a list for programs.
//! Must never let a control character of a file's name through to the terminal.

use serde_json::{Value, json};

use crate::app::table::plain;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Success,
    Warning,
    Error,
    Skipped,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub id: &'static str,
    pub level: Level,
    pub what: String,
    /// Empty when there is nothing to do.
    pub to_do: String,
}

impl Finding {
    pub fn success(id: &'static str, what: impl Into<String>) -> Finding {
        Finding { id, level: Level::Success, what: what.into(), to_do: String::new() }
    }

    pub fn skipped(id: &'static str, why: impl Into<String>) -> Finding {
        Finding { id, level: Level::Skipped, what: why.into(), to_do: String::new() }
    }

    pub fn warning(id: &'static str, what: impl Into<String>, to_do: impl Into<String>) -> Finding {
        Finding { id, level: Level::Warning, what: what.into(), to_do: to_do.into() }
    }

    pub fn error(id: &'static str, what: impl Into<String>, to_do: impl Into<String>) -> Finding {
        Finding { id, level: Level::Error, what: what.into(), to_do: to_do.into() }
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Success => "success",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Several of one check, or the good news if there is none.
    pub fn add_all(&mut self, findings: Vec<Finding>, good: Finding) {
        if findings.is_empty() {
            self.add(good);
        }
        self.findings.extend(findings);
    }

    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }

    pub fn has(&self, id: &str) -> bool {
        self.findings.iter().any(|finding| finding.id == id)
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { id, level, what, to_do } in &self.findings {
            let mut lines = what.lines().map(plain);
            text.push_str(&format!("{:<8} {id:<16} {}\n", level.name(), lines.next().unwrap_or_default()));
            let more = lines.chain((!to_do.is_empty()).then(|| format!("-> {}", plain(to_do))));
            more.for_each(|line| text.push_str(&format!("{:25} {line}\n", "")));
        }
        let [good, warnings, errors, skipped] =
            [Level::Success, Level::Warning, Level::Error, Level::Skipped].map(|level| self.count(level));
        text.push_str(&format!("{good} good, {warnings} warnings, {errors} errors, {skipped} skipped\n"));
        text
    }

    pub fn json(&self) -> String {
        let one = |finding: &Finding| {
            let Finding { id, level, what, to_do } = finding;
            let to_do = (!to_do.is_empty()).then_some(to_do);
            json!({"id": id, "result": level.name(), "what": what, "toDo": to_do})
        };
        let checks: Vec<Value> = self.findings.iter().map(one).collect();
        format!("{}\n", json!({"checks": checks, "good": !self.has_errors()}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_readable_and_can_be_read_by_programs() {
        let mut report = Report::default();
        report.add(Finding::success("clock", "right"));
        report.add_all(
            vec![Finding::warning("routes-match", "route a\u{7}: odd", "mend it")],
            Finding::success("x", "y"),
        );
        assert!(!report.has_errors());
        report.add(Finding::error("configuration", "c.toml:1: bad\nc.toml:2: worse", "correct it"));
        report.add_all(Vec::new(), Finding::skipped("outlook", "nobody to ask"));
        let expected = "\
success  clock            right
warning  routes-match     route a\\u{7}: odd
                          -> mend it
error    configuration    c.toml:1: bad
                          c.toml:2: worse
                          -> correct it
skipped  outlook          nobody to ask
1 good, 1 warnings, 1 errors, 1 skipped
";
        assert_eq!(report.text(), expected);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["good"], false);
        assert_eq!(json["checks"][0], json!({"id": "clock", "result": "success", "what": "right", "toDo": null}));
        assert_eq!(json["checks"][2]["toDo"], "correct it");
        assert!(report.has("outlook") && !report.has("x"));
    }
}
