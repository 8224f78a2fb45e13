//! What tasks say to each other: closed lists, so that one `match` shows everything that can happen.
//! Must never hold logic beyond the making of a value.

use std::rc::Rc;

use serde_json::Value;
use smol::channel::{Receiver, Sender};

use crate::logic::hub::LetterId;
use crate::logic::log_ring::Choice;
use crate::logic::nearest::nearest;
use crate::model::limits::REPLAYS_MAX;
use crate::model::manifest::Manifest;

/// What an operator asks of the runtime, over the control socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Status,
    Modules,
    Module {
        module: String,
    },
    Twin {
        module: String,
    },
    /// `patch` is a merge patch of the desired section.
    PatchDesired {
        module: String,
        patch: Value,
    },
    Restart {
        module: String,
    },
    Method {
        module: String,
        name: String,
        payload: Vec<u8>,
        timeout_ms: u32,
    },
    /// `follow` keeps the answer open for what is logged later.
    Logs {
        module: String,
        choice: Choice,
        follow: bool,
    },
    /// Copies of messages as they are accepted; both filters in the route language.
    Tap {
        from: Option<String>,
        condition: Option<String>,
    },
    /// What became of the last messages, newest first.
    Trace {
        source: Option<String>,
        output: Option<String>,
        id: Option<String>,
        limit: usize,
    },
    /// Without their bodies, oldest first.
    DeadLetters {
        endpoint: Option<String>,
        limit: usize,
    },
    DeadLetter {
        id: LetterId,
    },
    ReplayDead(Which),
    PurgeDead(Which),
    /// The manifest in force.
    Deployment,
    /// Takes a manifest: a file of "set modules", or a list of one and its layers. `dry_run` only says what would be done.
    Deploy {
        manifest: Value,
        dry_run: bool,
    },
    /// Back to the drop-in folders and the configuration.
    Withdraw,
    /// Those that are stored.
    Images,
    /// Bring one here.
    Pull {
        reference: String,
    },
    /// Everything that is counted, in the text format of Prometheus.
    Metrics,
    /// Who the modules are in the hub; `hub`: as the hub says itself.
    Identities {
        hub: bool,
    },
    RemoveIdentity {
        module: String,
    },
    /// A message as if `module` had sent it; answered when the hub has acknowledged it.
    Send {
        module: String,
        output: String,
        /// `skerry_abi::wire::record`, already checked.
        record: Vec<u8>,
    },
}

/// Of the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Ids(Vec<LetterId>),
    /// As `status` writes it.
    Endpoint(String),
    All,
}

/// From a query: exactly one of some ids, an endpoint, all of them in words. Nobody purges everything by leaving something out.
pub fn which(query: &[(String, String)]) -> Result<Which, Refusal> {
    let of = |key: &'static str| query.iter().filter(move |(k, _)| k == key).map(|(_, value)| value);
    let mut ids = of("id").map(|id| letter_id(id)).collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    ids.dedup();
    let (endpoints, all): (Vec<&String>, Vec<&String>) = (of("endpoint").collect(), of("all").collect());
    match (ids.is_empty(), endpoints.as_slice(), all.as_slice()) {
        (false, [], []) if ids.len() <= REPLAYS_MAX => Ok(Which::Ids(ids)),
        (true, [endpoint], []) => Ok(Which::Endpoint((*endpoint).clone())),
        (true, [], [word]) if *word == "true" => Ok(Which::All),
        _ => Err(Refusal::new(400, format!("expected id (at most {REPLAYS_MAX}), or one endpoint, or all=true"))),
    }
}

/// What stands for yes and no in a query; a key alone means yes.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        "false" | "0" => Some(false),
        "true" | "1" | "" => Some(true),
        _ => None,
    }
}

pub fn letter_id(text: &str) -> Result<LetterId, Refusal> {
    let wrong = || Refusal::new(400, format!("{text:?} is no dead letter's id: expected one as \"17-3\""));
    letter_named(text).ok_or_else(wrong)
}

/// `17-3`: the message and the queue.
pub fn letter_name((seq, queue): LetterId) -> String {
    format!("{seq}-{queue}")
}

fn letter_named(text: &str) -> Option<LetterId> {
    let (seq, queue) = text.split_once('-')?;
    Some((seq.parse().ok()?, queue.parse().ok()?))
}

/// What it gets.
#[derive(Debug)]
pub enum Answer {
    Json(Value),
    /// JSON lines until the sender closes. The reader may be slow: send with `try_send`, and drop and count when it
    /// is full, so that nobody who watches can hold up what is watched.
    Lines(Receiver<Value>),
    /// Lines for a program that is not ours.
    Text(String),
    /// A method's own status and payload.
    Raw {
        status: u16,
        body: Vec<u8>,
    },
}

/// Why not, with the HTTP status that says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }

    /// 404, with the name that was probably meant.
    pub fn no_such_module<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Refusal {
        let hint = nearest(name, known).map_or(String::new(), |known| format!(": did you mean {known:?}?"));
        Refusal::new(404, format!("no module {name:?}{hint}"))
    }
}

/// What the agent would do for a manifest: one JSON object a step.
#[derive(Debug)]
pub struct Preview {
    pub manifest: Rc<Manifest>,
    pub answer: Sender<Vec<Value>>,
}

/// For who sees to identities.
#[derive(Debug)]
pub enum Errand {
    Remove(Removal),
    /// Those of the hub, beside those that are known here.
    List(Sender<Result<Value, Refusal>>),
}

/// The identity of this module is to be removed in the hub, and here.
#[derive(Debug)]
pub struct Removal {
    pub module: String,
    pub answer: Sender<Result<Value, Refusal>>,
}

/// One question with the place for its one answer.
#[derive(Debug)]
pub struct Call {
    pub ask: Ask,
    pub answer: Sender<Result<Answer, Refusal>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(letter_id(&letter_name((17, 3))), Ok((17, 3)));
        for wrong in ["", "17", "17-", "-3", "a-b", "17-3-1", "17-99999999999"] {
            assert!(letter_id(wrong).unwrap_err().message.contains("expected one as \"17-3\""), "{wrong}");
        }
    }

    #[test]
    fn nobody_gets_all_by_leaving_something_out() {
        let which = |pairs: &[(&str, &str)]| {
            let query: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            which(&query).map_err(|refusal| refusal.status)
        };
        assert_eq!(which(&[("all", "true")]), Ok(Which::All));
        assert_eq!(which(&[("endpoint", "upstream/a")]), Ok(Which::Endpoint("upstream/a".into())));
        assert_eq!(which(&[("id", "2-1"), ("id", "1-1"), ("id", "2-1")]), Ok(Which::Ids(vec![(1, 1), (2, 1)])));
        for wrong in [&[][..], &[("all", "false")], &[("all", "true"), ("id", "1-1")], &[("id", "x")]] {
            assert_eq!(which(wrong), Err(400), "{wrong:?}");
        }
    }
}
