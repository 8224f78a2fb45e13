//! The routes in force: which of them a source can match (asked once per output), and where a message goes.
//! Must never deliver a message to one endpoint twice, nor keep half of a set whose other half is wrong.

use std::fmt;

use super::condition::Truth;
use super::route::{ParsedRoute, Sink, parse_route};
use super::subject::View;
use super::text::starts_with_name;
use super::warn::Warning;
use crate::model::endpoint::PRIORITY_DEFAULT;

/// Largest priority that a route may name.
const PRIORITY_MAX: u32 = 9;

/// A route as configuration gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoute {
    pub name: String,
    pub text: String,
    /// 0 to 9.
    pub priority: Option<u32>,
    /// Seconds; none or 0 means the global time to live.
    pub ttl_secs: Option<u64>,
}

/// Why a set of routes is refused. The set before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    pub route: String,
    /// 1-based, in characters; none when not the text is wrong.
    pub column: Option<usize>,
    pub message: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "route {}, column {column}: {}", self.route, self.message),
            None => write!(f, "route {}: {}", self.route, self.message),
        }
    }
}

impl std::error::Error for TableError {}

/// How often a route's condition came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub matched: u64,
    pub unmatched: u64,
    pub undefined: u64,
}

/// Routes whose source matches one message source, most urgent first. Belongs to the table that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates(Vec<u32>);

impl Candidates {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Indices of the routes.
    pub fn routes(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|index| *index as usize)
    }
}

/// How the first candidates of a message came out, two bits each: few enough to be kept with every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(u64);

impl Verdicts {
    /// Routes of one source that are remembered.
    pub const MAX: usize = 32;

    fn set(&mut self, nth: usize, truth: Truth) {
        let bits = match truth {
            Truth::True => 1,
            Truth::False => 2,
            Truth::Undefined => 3,
        };
        if nth < Verdicts::MAX {
            self.0 |= bits << (2 * nth);
        }
    }

    /// Of the candidate at that place; `None` beyond those that are remembered.
    pub fn get(self, nth: usize) -> Option<Truth> {
        match if nth < Verdicts::MAX { self.0 >> (2 * nth) & 3 } else { 0 } {
            1 => Some(Truth::True),
            2 => Some(Truth::False),
            3 => Some(Truth::Undefined),
            _ => None,
        }
    }
}

/// One endpoint that a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index into [`RouteTable::endpoints`].
    pub endpoint: usize,
    pub priority: u32,
    pub ttl_secs: Option<u64>,
    /// Index of the route that won.
    pub route: usize,
}

struct Entry {
    name: String,
    route: ParsedRoute,
    endpoint: usize,
    priority: u32,
    ttl_secs: Option<u64>,
    counts: Counts,
}

/// See the head of this file.
#[derive(Default)]
pub struct RouteTable {
    entries: Vec<Entry>,
    endpoints: Vec<Sink>,
}

impl RouteTable {
    /// All or nothing: the first route that can't run refuses the set.
    pub fn new(routes: impl IntoIterator<Item = NamedRoute>) -> Result<RouteTable, TableError> {
        let mut table = RouteTable::default();
        for NamedRoute { name, text, priority, ttl_secs } in routes {
            let refuse = |column, message| TableError { route: name.clone(), column, message };
            if let Some(priority) = priority.filter(|p| *p > PRIORITY_MAX) {
                return Err(refuse(
                    None,
                    format!("priority {priority}: allowed are 0 (most urgent) to {PRIORITY_MAX}"),
                ));
            }
            if table.entries.iter().any(|entry| entry.name == name) {
                return Err(refuse(None, "the name is given twice".to_owned()));
            }
            let route = parse_route(&text).map_err(|e| refuse(Some(e.column), e.message))?;
            let endpoint = match table.endpoints.iter().position(|sink| *sink == route.sink) {
                Some(known) => known,
                None => {
                    table.endpoints.push(route.sink.clone());
                    table.endpoints.len() - 1
                }
            };
            let priority = priority.unwrap_or(PRIORITY_DEFAULT);
            let ttl_secs = ttl_secs.filter(|secs| *secs != 0);
            table.entries.push(Entry { name, route, endpoint, priority, ttl_secs, counts: Counts::default() });
        }
        Ok(table)
    }

    /// Every endpoint that a route of this table leads to, each once.
    pub fn endpoints(&self) -> &[Sink] {
        &self.endpoints
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn name(&self, route: usize) -> &str {
        &self.entries[route].name
    }

    pub fn route(&self, route: usize) -> &ParsedRoute {
        &self.entries[route].route
    }

    pub fn counts(&self, route: usize) -> Counts {
        self.entries[route].counts
    }

    /// Name of the route and what is odd about it.
    pub fn warnings(&self) -> impl Iterator<Item = (&str, &Warning)> {
        self.entries.iter().flat_map(|entry| entry.route.warnings.iter().map(|w| (entry.name.as_str(), w)))
    }

    /// The routes for messages of that source (`/messages/modules/m/outputs/o`, with or without the last `/`).
    pub fn candidates(&self, source: &str) -> Candidates {
        let source = normal_source(source);
        let mut indices: Vec<u32> = (0..self.entries.len())
            .filter(|index| source_matches(&self.entries[*index].route.source, &source))
            .map(|index| index as u32)
            .collect();
        indices.sort_by_key(|index| self.entries[*index as usize].priority);
        Candidates(indices)
    }

    /// Where the message goes, most urgent first, each endpoint once with the smallest priority and that route's TTL.
    /// `out` is cleared. Counts every candidate.
    pub fn select(&mut self, candidates: &Candidates, view: &View<'_>, out: &mut Vec<Target>) -> Verdicts {
        out.clear();
        let mut verdicts = Verdicts::default();
        for (nth, route) in candidates.routes().enumerate() {
            let entry = &mut self.entries[route];
            let truth = entry.route.condition.evaluate(view);
            verdicts.set(nth, truth);
            match truth {
                Truth::True => entry.counts.matched += 1,
                Truth::False => {
                    entry.counts.unmatched += 1;
                    continue;
                }
                Truth::Undefined => {
                    entry.counts.undefined += 1;
                    continue;
                }
            }
            if out.iter().all(|target| target.endpoint != entry.endpoint) {
                out.push(Target {
                    endpoint: entry.endpoint,
                    priority: entry.priority,
                    ttl_secs: entry.ttl_secs,
                    route,
                });
            }
        }
        verdicts
    }

    /// `candidates` and `select` in one, for a message that comes alone.
    pub fn resolve(&mut self, source: &str, view: &View<'_>) -> Vec<Target> {
        let candidates = self.candidates(source);
        let mut out = Vec::new();
        self.select(&candidates, view, &mut out);
        out
    }
}

/// Without the `*` at the end, then without the `/` there, and with one `/` again: `/messages/*/` keeps its star.
pub fn normal_source(source: &str) -> String {
    format!("{}/", source.trim_end_matches('*').trim_end_matches('/'))
}

/// Both sides normalised. A prefix, ignoring case; there is no other wildcard.
pub(super) fn source_matches(route: &str, message: &str) -> bool {
    starts_with_name(message, route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::routing::{Held, Subject};

    struct Level(&'static str);

    impl Subject for Level {
        fn application(&self, name: &str) -> Held<'_> {
            if name == "level" { Held::Text(self.0) } else { Held::Absent }
        }
        fn system(&self, _: &str) -> Held<'_> {
            Held::Absent
        }
        fn body(&self) -> &[u8] {
            b""
        }
    }

    fn named(name: &str, text: &str, priority: Option<u32>, ttl_secs: Option<u64>) -> NamedRoute {
        NamedRoute { name: name.to_owned(), text: text.to_owned(), priority, ttl_secs }
    }

    #[test]
    fn one_target_an_endpoint_with_the_smallest_priority_and_its_ttl() {
        let mut table = RouteTable::new([
            named("all", "FROM /messages/* INTO $upstream", None, Some(60)),
            named("high", "FROM /messages/modules/m/* WHERE level = 'high' INTO $UPSTREAM", Some(1), Some(0)),
            named("local", "FROM /* INTO BrokeredEndpoint(\"/modules/b/inputs/i\")", Some(9), Some(5)),
            named("same", "FROM /* INTO brokeredendpoint('a/b/c/i')", None, None),
            named("other", "FROM /messages/modules/n INTO $upstream", Some(0), None),
            named("odd", "FROM /messages WHERE missing = 'x' INTO $upstream", Some(0), None),
        ])
        .unwrap();
        let module = |input: &str| Sink::Module { module: "b".to_owned(), input: input.to_owned() };
        assert_eq!(table.endpoints(), [Sink::Upstream, module("i")]);
        let high = table.resolve("/messages/modules/m/outputs/o", &View::new(&Level("high")));
        let target = |endpoint, priority, ttl_secs, route| Target { endpoint, priority, ttl_secs, route };
        assert_eq!(high, [target(0, 1, None, 1), target(1, 9, Some(5), 2)]);
        let low = table.resolve("/messages/modules/M/outputs/o/", &View::new(&Level("low")));
        assert_eq!(low, [target(1, 9, Some(5), 2), target(0, PRIORITY_DEFAULT, Some(60), 0)]);
        let twin = table.resolve("/twinChangeNotifications/", &View::new(&Level("high")));
        assert_eq!(twin, [target(1, 9, Some(5), 2)]);
        assert_eq!(table.counts(1), Counts { matched: 1, unmatched: 1, undefined: 0 });
        assert_eq!(table.counts(5), Counts { matched: 0, unmatched: 0, undefined: 2 });
        assert_eq!(table.counts(4), Counts::default());
    }

    #[test]
    fn one_wrong_route_refuses_the_set() {
        let good = || named("good", "FROM /* INTO $upstream", None, None);
        let check = |bad: NamedRoute, text: &str| {
            let error = RouteTable::new([good(), bad]).err().unwrap().to_string();
            assert!(error.starts_with(text), "{error}");
        };
        check(named("r", "FROM /* WHERE a > 5 INTO $upstream", None, None), "route r, column 17: '>' compares");
        check(named("r", "FROM /* INTO $upstream", Some(10), None), "route r: priority 10: allowed are 0");
        check(named("r", "", None, None), "route r, column 1: the route is empty");
        check(good(), "route good: the name is given twice");
        assert!(RouteTable::new([good()]).unwrap().candidates("/messages/").routes().eq([0]));
        assert!(RouteTable::default().candidates("/messages/").is_empty());
    }
}
