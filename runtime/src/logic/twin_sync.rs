//! Keeps a twin and its copy in the cloud equal: after each connect the whole is asked for, desired changes follow by their
//! versions, and what was reported goes up as one difference (spec iot-hub-wire 5.2). Must never apply a desired change twice or out
//! of turn, and never have more than one request open.

use std::time::Duration;

use serde_json::{Map, Value};

use super::twin::{Twin, difference};
use crate::model::time::Mono;

/// Before a request that failed is made again, doubled up to the next: a cloud that throttles is asked less and less.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Desired changes that may arrive while the whole is being asked for.
const HELD_MAX: usize = 16;

type Section = Map<String, Value>;

/// What the cloud is to be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Get { rid: u64 },
    Report { rid: u64, patch: Section },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Offline,
    /// Ask for the whole, not before.
    Wanted {
        at: Mono,
    },
    Getting {
        rid: u64,
        since: Mono,
    },
    /// The cloud's reported properties are known; the next difference goes up, not before.
    Known {
        at: Mono,
    },
    Reporting {
        rid: u64,
        since: Mono,
    },
}

#[derive(Debug)]
pub struct TwinSync {
    phase: Phase,
    next_rid: u64,
    /// Reported properties as the cloud has them.
    reported: Section,
    /// What is on its way to become that.
    on_its_way: Section,
    /// Desired changes that came while the whole was asked for.
    held: Vec<(u64, Section)>,
    /// The local desired section is the cloud's. Until somebody sets one there, the configured settings stand.
    follows: bool,
    /// A difference that the cloud refused; the same is not sent again.
    refused: Option<Section>,
    /// Requests that failed in a row.
    failures: u32,
    timeout: Duration,
}

impl TwinSync {
    pub fn new(timeout: Duration) -> TwinSync {
        TwinSync {
            phase: Phase::Offline,
            next_rid: 0,
            reported: Map::new(),
            on_its_way: Map::new(),
            held: Vec::new(),
            follows: false,
            refused: None,
            failures: 0,
            timeout,
        }
    }

    /// Subscribed: everything begins with asking for the whole.
    pub fn handle_ready(&mut self, now: Mono) {
        self.phase = Phase::Wanted { at: now };
        self.held.clear();
        (self.refused, self.failures) = (None, 0);
    }

    pub fn handle_lost(&mut self) {
        self.phase = Phase::Offline;
    }

    /// Both sides were equal when last heard of.
    pub fn is_in_step(&self, twin: &Twin) -> bool {
        matches!(self.phase, Phase::Known { .. }) && difference(&self.reported, twin.reported()).is_empty()
    }

    /// Something was reported that the cloud does not know, as far as is known while there is no connection.
    pub fn has_news(&self, twin: &Twin) -> bool {
        let patch = difference(&self.reported, twin.reported());
        !patch.is_empty() && self.refused.as_ref() != Some(&patch)
    }

    /// What to ask now, if anything. To be polled after every call, and whenever the module reported something.
    pub fn poll_request(&mut self, now: Mono, twin: &Twin) -> Option<Request> {
        match self.phase {
            Phase::Wanted { at } if at <= now => {
                let rid = self.rid();
                self.phase = Phase::Getting { rid, since: now };
                Some(Request::Get { rid })
            }
            Phase::Known { at } if at <= now => {
                let patch = difference(&self.reported, twin.reported());
                if patch.is_empty() || self.refused.as_ref() == Some(&patch) {
                    return None;
                }
                let rid = self.rid();
                self.on_its_way.clone_from(twin.reported());
                self.phase = Phase::Reporting { rid, since: now };
                Some(Request::Report { rid, patch })
            }
            _ => None,
        }
    }

    fn rid(&mut self) -> u64 {
        self.next_rid += 1;
        self.next_rid
    }

    /// Answer to a request. `Ok(true)`: the desired section changed. The error is for the log; it is tried again where that
    /// can help.
    pub fn handle_answer(
        &mut self,
        now: Mono,
        twin: &mut Twin,
        rid: u64,
        status: u16,
        body: &[u8],
    ) -> Result<bool, String> {
        match self.phase {
            Phase::Getting { rid: open, .. } if open == rid => {
                if status == 200
                    && let Some((desired, version, reported)) = sections(body)
                {
                    return Ok(self.take_whole(now, twin, desired, version, reported));
                }
                self.phase = Phase::Wanted { at: self.later(now) };
                Err(format!("asked for the twin, the cloud answered {status}{}; trying again", reason(body)))
            }
            Phase::Reporting { rid: open, .. } if open == rid => {
                if (200..300).contains(&status) {
                    self.reported = std::mem::take(&mut self.on_its_way);
                    (self.refused, self.failures) = (None, 0);
                    self.phase = Phase::Known { at: now };
                    return Ok(false);
                }
                let again = status == 429 || status >= 500;
                if !again {
                    self.refused = Some(difference(&self.reported, &self.on_its_way));
                }
                self.phase = Phase::Known { at: self.later(now) };
                let then = if again { "trying again" } else { "kept here until something else is reported" };
                Err(format!("the cloud refused reported properties with {status}{}; {then}", reason(body)))
            }
            // An answer to a connection that is gone.
            _ => Ok(false),
        }
    }

    fn later(&mut self, now: Mono) -> Mono {
        let wait = AGAIN.saturating_mul(1 << self.failures.min(16)).min(AGAIN_MAX);
        self.failures += 1;
        now.after(wait)
    }

    fn take_whole(&mut self, now: Mono, twin: &mut Twin, desired: Section, version: u64, reported: Section) -> bool {
        (self.phase, self.failures) = (Phase::Known { at: now }, 0);
        // A twin that never reported anything has lost what it knew; the cloud has not.
        if twin.reported_version() <= 1 && twin.reported().is_empty() {
            twin.adopt_reported(reported.clone());
        }
        self.reported = reported;
        let nobody_set_it = desired.is_empty() && version <= 1;
        let mut changed = false;
        if !nobody_set_it {
            changed = *twin.desired() != desired || twin.desired_version() != version;
            twin.adopt_desired(desired, version);
        }
        self.follows = !nobody_set_it;
        for (version, patch) in std::mem::take(&mut self.held) {
            changed |= self.follow(now, twin, version, &patch);
        }
        changed
    }

    /// A desired change. `Ok(true)`: the desired section changed.
    pub fn handle_desired(
        &mut self,
        now: Mono,
        twin: &mut Twin,
        version: Option<u64>,
        body: &[u8],
    ) -> Result<bool, String> {
        let patch: Result<Section, _> = serde_json::from_slice(body);
        let Some((mut patch, version)) = patch.ok().and_then(|mut patch| {
            let inside = patch.remove("$version").and_then(|v| v.as_u64());
            Some((patch, version.or(inside)?))
        }) else {
            self.want(now);
            return Err(
                "the cloud sent a desired change that is no object with a version; asking for the whole".to_owned()
            );
        };
        patch.remove("$metadata");
        match self.phase {
            Phase::Offline => Ok(false),
            Phase::Wanted { .. } | Phase::Getting { .. } => {
                if self.held.len() < HELD_MAX {
                    self.held.push((version, patch));
                } else {
                    self.want(now);
                }
                Ok(false)
            }
            Phase::Known { .. } | Phase::Reporting { .. } => Ok(self.follow(now, twin, version, &patch)),
        }
    }

    fn follow(&mut self, now: Mono, twin: &mut Twin, version: u64, patch: &Section) -> bool {
        if self.follows && version <= twin.desired_version() {
            return false;
        }
        if self.follows && twin.follow_desired(patch, version) {
            return true;
        }
        // One was missed, or what is here did not come from there.
        self.want(now);
        false
    }

    /// Asks for the whole; an answer that is on its way counts as none.
    fn want(&mut self, now: Mono) {
        if self.phase != Phase::Offline {
            self.held.clear();
            self.phase = Phase::Wanted { at: now };
        }
    }

    pub fn next_timeout(&self, now: Mono) -> Mono {
        match self.phase {
            Phase::Wanted { at } | Phase::Known { at } if at > now => at,
            Phase::Offline | Phase::Wanted { .. } | Phase::Known { .. } => Mono::NEVER,
            Phase::Getting { since, .. } | Phase::Reporting { since, .. } => since.after(self.timeout),
        }
    }

    /// The answer to a request is late: the request is made again.
    pub fn on_timeout(&mut self, now: Mono) {
        match self.phase {
            Phase::Getting { since, .. } if since.after(self.timeout) <= now => self.phase = Phase::Wanted { at: now },
            // Whether it arrived is not known, so what the cloud has is not known either.
            Phase::Reporting { since, .. } if since.after(self.timeout) <= now => {
                self.phase = Phase::Wanted { at: now }
            }
            _ => {}
        }
    }
}

/// Desired section, its version, and the reported section of the answer to a GET.
fn sections(body: &[u8]) -> Option<(Section, u64, Section)> {
    let mut twin: Section = serde_json::from_slice(body).ok()?;
    let mut section = |name: &str| match twin.remove(name) {
        Some(Value::Object(section)) => Some(section),
        None => Some(Map::new()),
        Some(_) => None,
    };
    let (mut desired, mut reported) = (section("desired")?, section("reported")?);
    let version = desired.remove("$version").and_then(|v| v.as_u64()).unwrap_or(1);
    for section in [&mut desired, &mut reported] {
        section.remove("$version");
        section.remove("$metadata");
    }
    Some((desired, version, reported))
}

/// What the cloud says in the body of an error.
fn reason(body: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|body| body.get("message")?.as_str());
    message.map_or(String::new(), |message| format!(" ({})", message.chars().take(200).collect::<String>()))
}

#[cfg(test)]
#[path = "twin_sync_tests.rs"]
mod tests;
