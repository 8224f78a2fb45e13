//! What the emulator saw, as values and as JSON lines. Must never hold a key or a token.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::topic::Properties;

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A CONNECT was accepted.
    Connected {
        identity: String,
        session_present: bool,
        user_name: String,
        web_socket: bool,
    },
    /// A connection whose CONNECT had been accepted ended.
    Disconnected {
        identity: String,
        reason: String,
    },
    /// A connection ended before that.
    Refused {
        identity: Option<String>,
        code: Option<u8>,
        reason: String,
    },
    /// Something went through the proxy, or tried to.
    Proxy {
        target: String,
        status: u16,
    },
    /// An HTTP request.
    Http {
        path: String,
        status: u16,
    },
    Subscribed {
        identity: String,
        filter: String,
        granted: Option<u8>,
    },
    Unsubscribed {
        identity: String,
        filter: String,
    },
    Telemetry(Arc<Telemetry>),
    /// A client read its twin.
    TwinGet {
        identity: String,
    },
    /// A client reported properties; `error` says why they were refused.
    Twin {
        identity: String,
        patch: Value,
        version: Option<u64>,
        error: Option<String>,
    },
    /// Desired properties were set; `notified` when the client was there to hear of it.
    Desired {
        identity: String,
        patch: Value,
        version: u64,
        notified: bool,
    },
    /// A client answered a method, or there is no answer: 404 not there, 504 too late.
    Method {
        identity: String,
        rid: String,
        status: i64,
        payload: Value,
    },
    /// A client acknowledged a message; `count` of those sent to it.
    Delivered {
        identity: String,
        count: u64,
    },
    /// New keys.
    Revoked {
        identity: String,
    },
    /// `by`: the policy, `device` for its own modules, `deployment` or `dps`.
    IdentityCreated {
        identity: String,
        by: String,
        generation: String,
    },
    IdentityUpdated {
        identity: String,
        by: String,
    },
    IdentityDeleted {
        identity: String,
        by: String,
    },
    /// It was switched on or off.
    IdentityStatus {
        identity: String,
        enabled: bool,
    },
    /// A back end changed a twin; with `replaces` it gave the whole. What the client is told is in `desired`.
    TwinPatched {
        identity: String,
        tags: Option<Value>,
        desired: Option<Value>,
        replaces: bool,
    },
    /// A deployment for one device.
    Configured {
        device: String,
        modules: Vec<String>,
    },
    /// Of the provisioning side: `assigning`, then what came of it; `refused` with the reason when the key was not proved.
    Registration {
        registration: String,
        status: String,
        device: Option<String>,
        reason: Option<String>,
    },
    Error {
        message: String,
    },
}

/// A message that was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    pub identity: String,
    pub topic: String,
    /// Application properties; `None` is a key without `=`.
    pub properties: Properties,
    /// System properties by their names on the wire, such as `$.ct`.
    pub system: Properties,
    pub body: Vec<u8>,
    pub dup: bool,
    pub qos: u8,
    pub at_ms: u64,
}

impl Telemetry {
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)?.as_deref()
    }

    /// The module's output that it came from.
    pub fn output(&self) -> Option<&str> {
        self.system.get("$.on")?.as_deref()
    }
}

/// The time stands in the event. A body that is JSON is `body`; other text is `text`, and the rest `base64`.
impl Serialize for Telemetry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map::new();
        map.insert("identity".to_owned(), json!(self.identity));
        map.insert("topic".to_owned(), json!(self.topic));
        map.insert("properties".to_owned(), json!(self.properties));
        map.insert("system".to_owned(), json!(self.system));
        match (self.json(), self.text()) {
            (Some(value), _) => map.insert("body".to_owned(), value),
            (None, Some(text)) => map.insert("text".to_owned(), json!(text)),
            (None, None) => map.insert("base64".to_owned(), json!(data_encoding::BASE64.encode(&self.body))),
        };
        map.insert("dup".to_owned(), json!(self.dup));
        map.insert("qos".to_owned(), json!(self.qos));
        map.serialize(serializer)
    }
}
