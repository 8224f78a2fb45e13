//! The text format of Prometheus: families of samples with their help, escaped as it asks for.
//! Must never let a name or a text of a module break a line, nor put out one family twice.

use std::fmt::Write;

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, until whoever counts starts anew.
    Counter,
    Gauge,
    /// Here always without quantiles: a sum and a count.
    Summary,
}

/// One page of metrics.
pub struct Page {
    text: String,
    /// Labels that every sample carries, as text: `a="b",c="d"`.
    everywhere: String,
    families: Vec<&'static str>,
}

/// The samples of one family; see [`Page::family`].
pub struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Page {
    pub fn new(everywhere: &[(&str, &str)]) -> Page {
        let mut labels = String::new();
        everywhere.iter().for_each(|(name, value)| label(&mut labels, name, value));
        Page { text: String::new(), everywhere: labels, families: Vec::new() }
    }

    /// Begins a family; `help` is one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        assert!(!self.families.contains(&name), "{name} is put out twice");
        self.families.push(name);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: self, name }
    }

    pub fn text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) -> &mut Self {
        self.write("", labels, value.into())
    }

    /// Both samples of a summary.
    pub fn summary(&mut self, labels: &[(&str, &str)], sum: u64, count: u64) -> &mut Self {
        self.write("_sum", labels, sum.into()).write("_count", labels, count.into())
    }

    /// The same of times: a sum of milliseconds, which goes out in seconds.
    pub fn seconds(&mut self, labels: &[(&str, &str)], sum_ms: u64, count: u64) -> &mut Self {
        let sum = sum_ms as f64 / 1000.0;
        self.write("_sum", labels, sum.into()).write("_count", labels, count.into())
    }

    fn write(&mut self, end: &str, labels: &[(&str, &str)], value: Number) -> &mut Self {
        let mut all = self.page.everywhere.clone();
        labels.iter().for_each(|(name, value)| label(&mut all, name, value));
        let braces = if all.is_empty() { String::new() } else { format!("{{{all}}}") };
        let (text, name) = (&mut self.page.text, self.name);
        let _ = match value {
            Number::Whole(value) => writeln!(text, "{name}{end}{braces} {value}"),
            Number::Part(value) => writeln!(text, "{name}{end}{braces} {value}"),
        };
        self
    }
}

/// A value; whole ones keep all their digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(u64),
    Part(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Number {
        Number::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Part(value)
    }
}

fn label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    let _ = write!(out, "{name}=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            // Allowed by the format, and the end of a line for careless readers.
            '\r' => out.push_str("\\\\r"),
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_prometheus_reads_it() {
        let mut page = Page::new(&[("edge_device", "d1")]);
        page.family("sent_total", Kind::Counter, "Sent\nso \\ far.")
            .sample(&[("from", "a\"b\\c\nd"), ("to", "ü\r")], u64::MAX)
            .sample(&[], 0u64);
        page.family("up", Kind::Gauge, "Whether.").sample(&[("x", "")], true).sample(&[], 0.25);
        page.family("size_bytes", Kind::Summary, "Sizes.").summary(&[("id", "m")], 700, 7);
        page.family("wait_seconds", Kind::Summary, "Times.").seconds(&[], 1_250, 2);
        let expected = r##"# HELP sent_total Sent\nso \\ far.
# TYPE sent_total counter
sent_total{edge_device="d1",from="a\"b\\c\nd",to="ü\\r"} 18446744073709551615
sent_total{edge_device="d1"} 0
# HELP up Whether.
# TYPE up gauge
up{edge_device="d1",x=""} 1
up{edge_device="d1"} 0.25
# HELP size_bytes Sizes.
# TYPE size_bytes summary
size_bytes_sum{edge_device="d1",id="m"} 700
size_bytes_count{edge_device="d1",id="m"} 7
# HELP wait_seconds Times.
# TYPE wait_seconds summary
wait_seconds_sum{edge_device="d1"} 1.25
wait_seconds_count{edge_device="d1"} 2
"##;
        assert_eq!(page.text(), expected);
        let mut bare = Page::new(&[]);
        bare.family("a", Kind::Gauge, "A.").sample(&[], 1u64);
        assert!(bare.text().ends_with("\na 1\n"));
    }

    #[test]
    #[should_panic(expected = "put out twice")]
    fn a_family_comes_once() {
        let mut page = Page::new(&[]);
        page.family("a", Kind::Gauge, "A.");
        page.family("a", Kind::Gauge, "A.");
    }
}
