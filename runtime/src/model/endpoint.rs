//! Where a message comes from and where it can go.
//! Nouns only: must never know how routes or queues use them.

use std::fmt;

/// The output of a module, as messages carry it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub module: String,
    pub output: String,
}

impl Source {
    /// The source as the route language writes it.
    pub fn path(&self) -> String {
        format!("/messages/modules/{}/outputs/{}/", self.module, self.output)
    }
}

/// Where a message can go. `$upstream` is one queue per sending identity, so that one identity that can not
/// connect holds up nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Input { module: String, input: String },
    Upstream { identity: String },
}

impl Endpoint {
    pub fn parse(text: &str) -> Option<Endpoint> {
        if let Some(identity) = text.strip_prefix("upstream/") {
            return Some(Endpoint::Upstream { identity: identity.to_owned() });
        }
        let (module, input) = text.strip_prefix("modules/")?.split_once("/inputs/")?;
        Some(Endpoint::Input { module: module.to_owned(), input: input.to_owned() })
    }
}

/// `modules/filter/inputs/input1` or `upstream/sysinfo`; what `status`, the ledger and the store write.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Input { module, input } => write!(f, "modules/{module}/inputs/{input}"),
            Endpoint::Upstream { identity } => write!(f, "upstream/{identity}"),
        }
    }
}

/// 0 to 9 from a route, 0 first; without one, the field's own default, which comes last.
pub type Priority = u32;
/// What a route without a priority has.
pub const PRIORITY_DEFAULT: Priority = 2_000_000_000;
