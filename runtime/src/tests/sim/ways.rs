//! The routes of the simulated world, as facts and as the text that the real route table is made of.
//! Must never ask the route table what is right.

use crate::logic::routing::{NamedRoute, RouteTable};
use crate::model::endpoint::{Endpoint, PRIORITY_DEFAULT, Priority};

/// Of module `a`; `b` and `c` have one, `out`.
pub const OUTPUTS: [&str; 6] = ["plain", "urgent", "fan", "short", "picky", "lost"];
/// Of module `c`; `b` has only the first.
pub const INPUTS: [&str; 2] = ["in", "side"];
/// Sets of routes that can be in force.
pub const VARIANTS: usize = 3;
/// Time to live of what leaves `a/short`.
pub const SHORT_S: u64 = 3;

struct Way {
    from: (&'static str, &'static str),
    /// Module and input; `None` for the cloud.
    to: Option<(&'static str, &'static str)>,
    priority: Option<u32>,
    ttl_s: Option<u64>,
    /// Only messages whose property `k` is `0`.
    picky: bool,
}

const fn way(
    from: (&'static str, &'static str),
    to: Option<(&'static str, &'static str)>,
    priority: Option<u32>,
) -> Way {
    Way { from, to, priority, ttl_s: None, picky: false }
}

const IN: Option<(&str, &str)> = Some(("b", "in"));

fn ways(variant: usize) -> Vec<Way> {
    let short = Way { ttl_s: Some(SHORT_S), ..way(("a", "short"), IN, None) };
    let picky = |to| Way { picky: true, ..way(("a", "picky"), to, None) };
    let mut ways = vec![way(("a", "urgent"), IN, Some(0)), way(("c", "out"), None, None), short];
    ways.extend(match variant {
        0 => vec![
            way(("a", "plain"), IN, None),
            way(("a", "fan"), IN, None),
            way(("a", "fan"), Some(("c", "side")), Some(5)),
            way(("a", "fan"), None, None),
            picky(Some(("c", "in"))),
            way(("b", "out"), Some(("c", "in")), None),
        ],
        1 => vec![
            way(("a", "plain"), IN, Some(7)),
            way(("a", "fan"), IN, None),
            way(("a", "fan"), None, Some(2)),
            picky(None),
            way(("b", "out"), Some(("c", "in")), None),
        ],
        _ => vec![
            way(("a", "plain"), IN, None),
            way(("a", "fan"), Some(("c", "side")), None),
            picky(Some(("c", "in"))),
            way(("b", "out"), Some(("c", "in")), Some(3)),
        ],
    });
    ways
}

pub fn table(variant: usize) -> RouteTable {
    let routes = ways(variant).into_iter().enumerate().map(|(at, way)| {
        let (module, output) = way.from;
        let condition = if way.picky { " WHERE k = '0'" } else { "" };
        let to = way.to.map_or("$upstream".to_owned(), |(module, input)| {
            format!("BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")")
        });
        NamedRoute {
            name: format!("r{at}"),
            text: format!("FROM /messages/modules/{module}/outputs/{output}{condition} INTO {to}"),
            priority: way.priority,
            ttl_secs: way.ttl_s,
        }
    });
    RouteTable::new(routes).expect("good routes")
}

/// Where a message goes: endpoint, priority, time to live in seconds if the route has one.
pub fn targets(variant: usize, from: (&str, &str), k: u64) -> Vec<(Endpoint, Priority, Option<u64>)> {
    let matching = ways(variant).into_iter().filter(|way| way.from == from && (!way.picky || k == 0));
    matching
        .map(|way| {
            let endpoint = match way.to {
                Some((module, input)) => Endpoint::Input { module: module.into(), input: input.into() },
                None => Endpoint::Upstream { identity: from.0.into() },
            };
            (endpoint, way.priority.unwrap_or(PRIORITY_DEFAULT), way.ttl_s)
        })
        .collect()
}
