//! What tasks say to each other: closed lists, so that one `match` shows everything that can happen.
//! Must never hold logic beyond the making of a value.

use std::rc::Rc;

use serde_json::Value;
use smol::channel::{Receiver, Sender};

use crate::logic::nearest::nearest;
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
    /// `since_ms` counts from 1970; `follow` keeps the answer open for what is logged later.
    Logs {
        module: String,
        since_ms: Option<i64>,
        tail: Option<usize>,
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
    /// The manifest in force.
    Deployment,
    /// Takes a manifest: a file of "set modules", or a list of one and its layers. `dry_run` only says what would be done.
    Deploy {
        manifest: Value,
        dry_run: bool,
    },
    /// Back to the drop-in folders and the configuration.
    Withdraw,
    /// Everything that is counted, in the text format of Prometheus.
    Metrics,
    /// Who the modules are in the hub.
    Identities,
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
