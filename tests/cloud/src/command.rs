//! What can be asked of the emulator while it runs: faults, and what a back end in the cloud would do. As values, and as
//! JSON lines. Must never take a line that has a key which nobody reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `identity`: `Hannover01` or `Hannover01/insight`; where it is optional, its absence means all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Ends every connection with a reset.
    Drop {
        identity: Option<String>,
    },
    /// Ends every connection in peace.
    Close {
        identity: Option<String>,
    },
    /// Ends every connection, and refuses new ones like a machine that is down.
    Cut,
    /// Listens again, on the same ports.
    Heal,
    /// Reads nothing and answers nothing, like a network that swallows packets.
    Stall {
        #[serde(default = "yes")]
        on: bool,
        identity: Option<String>,
    },
    /// Accepts connections and closes them at once.
    Refuse {
        #[serde(default = "yes")]
        on: bool,
    },
    /// Answers every CONNECT with this code; 0 ends it.
    Connack {
        code: u8,
        identity: Option<String>,
    },
    /// Answers every upgrade to WebSocket with this HTTP status; 0 ends it.
    Http {
        status: u16,
        retry_after_s: Option<u32>,
    },
    /// Stores what is published, but holds back the acknowledgements until it ends.
    NoPuback {
        #[serde(default = "yes")]
        on: bool,
        identity: Option<String>,
    },
    /// At most so many acknowledgements a second and connection; 0 ends it.
    Throttle {
        per_second: f64,
        identity: Option<String>,
    },
    /// Each acknowledgement comes so much later; 0 ends it.
    Latency {
        ms: u64,
        identity: Option<String>,
    },
    /// Ends every connection, and refuses the tokens that were used so far.
    ExpireTokens {
        identity: Option<String>,
    },
    /// Tokens expire so long after they were first used, if not before; 0 ends it.
    TokenLife {
        seconds: u64,
        identity: Option<String>,
    },
    /// Answers what concerns the twin with this status, and does nothing; 0 ends it.
    TwinStatus {
        status: u16,
        identity: Option<String>,
    },
    /// Closes before a publish is stored.
    CloseOnPublish {
        #[serde(flatten)]
        trap: Trap,
        identity: Option<String>,
    },
    /// Stores a publish, and closes instead of acknowledging it.
    CloseAfterPublish {
        #[serde(flatten)]
        trap: Trap,
        identity: Option<String>,
    },
    /// Sends half of the next frame, and closes.
    CloseMidFrame {
        identity: Option<String>,
    },
    /// Cuts what is sent into frames of at most so many bytes, across packets; 0 ends it.
    FrameBytes {
        max: usize,
    },
    /// For connections from now on; without `kind` the good one again.
    WrongCertificate {
        kind: Option<Wrong>,
    },
    /// Of the `Date` in HTTP answers.
    Date {
        skew_s: i64,
    },
    /// The cloud's own clock: tokens are judged by it, and it is the `Date`. For connections from now on.
    Clock {
        skew_s: i64,
    },
    /// New keys; the connection is closed, and old tokens are refused.
    Revoke {
        identity: String,
    },
    /// Off, as a back end switches a device off: its connection is closed, and it cannot come back.
    Disable {
        identity: String,
    },
    Enable {
        identity: String,
    },
    /// A module's identity, or a device, with keys of its own; like any that a back end makes.
    Make {
        identity: String,
    },
    /// As a back end deletes it, with its modules: its connections are closed.
    Remove {
        identity: String,
    },
    /// Answers REST requests with this HTTP status, `count` of them or until 0 ends it.
    RestStatus {
        status: u16,
        retry_after_s: Option<u32>,
        count: Option<u32>,
    },
    /// The same for the provisioning side.
    DpsStatus {
        status: u16,
        retry_after_s: Option<u32>,
        count: Option<u32>,
    },
    /// What registrations come to; without `outcome` they are assigned again.
    DpsOutcome {
        outcome: Option<DpsOutcome>,
    },
    /// Enrols one device for itself; its key comes back.
    Enrol {
        registration: String,
        device: Option<String>,
        key: Option<String>,
    },
    /// The proxy answers 403.
    DenyProxy {
        #[serde(default = "yes")]
        on: bool,
    },
    /// Ends all faults.
    Calm,
    /// Patches desired properties.
    Desired {
        identity: String,
        patch: Value,
    },
    /// Calls a method; its answer is an event.
    Method {
        identity: String,
        name: String,
        #[serde(default)]
        payload: Value,
        timeout_s: Option<f64>,
    },
    /// A message to a device.
    C2d {
        identity: String,
        body: Value,
        #[serde(default)]
        properties: BTreeMap<String, String>,
    },
    /// A message to an input of a module.
    Input {
        identity: String,
        input: String,
        body: Value,
        #[serde(default)]
        properties: BTreeMap<String, String>,
    },
    /// Bytes as they are into the MQTT stream, in base64: for clients that must bear nonsense.
    Bytes {
        identity: String,
        base64: String,
    },
}

/// Which publish it is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trap {
    /// The n-th from now of those that fit, from 1 (default).
    pub nth: Option<u64>,
    /// Only those whose body holds this.
    pub contains: Option<String>,
    /// Every n-th, and not only once.
    #[serde(default)]
    pub always: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    OtherCa,
    OtherHost,
    Expired,
}

/// Of a registration, instead of `assigned`; `assigning` never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpsOutcome {
    Assigning,
    Failed,
    Disabled,
    Unassigned,
}

fn yes() -> bool {
    true
}

impl Command {
    /// Names the key that is wrong.
    pub fn from_json(line: &str) -> Result<Command, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("no JSON: {e}"))?;
        let Value::Object(given) = &value else { return Err("a command is an object".to_owned()) };
        let Some(Value::String(name)) = given.get("command") else { return Err("`command` is missing".to_owned()) };
        let command: Command = serde_json::from_value(value.clone()).map_err(|e| format!("{name}: {e}"))?;
        // Serde lets variants without fields, and flattened ones, have any key.
        let Ok(Value::Object(read)) = serde_json::to_value(&command) else { return Err(format!("{name}: unreadable")) };
        match given.keys().find(|key| !read.contains_key(*key)) {
            Some(key) => Err(format!("{name}: unknown key `{key}`; it has {}", list(&read))),
            None => Ok(command),
        }
    }
}

fn list(known: &serde_json::Map<String, Value>) -> String {
    let keys: Vec<String> = known.keys().filter(|key| *key != "command").map(|key| format!("`{key}`")).collect();
    if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_read() {
        let check =
            |line: Value, expected: Result<Command, &str>| match (Command::from_json(&line.to_string()), expected) {
                (Ok(came), Ok(expected)) => assert_eq!(came, expected),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (came, expected) => panic!("{line}: {came:?}, expected {expected:?}"),
            };
        check(json!({"command": "cut"}), Ok(Command::Cut));
        check(json!({"command": "stall"}), Ok(Command::Stall { on: true, identity: None }));
        let trap = Trap { nth: Some(3), contains: Some("x".to_owned()), always: true };
        check(
            json!({"command": "close_on_publish", "nth": 3, "contains": "x", "always": true}),
            Ok(Command::CloseOnPublish { trap, identity: None }),
        );
        check(
            json!({"command": "wrong_certificate", "kind": "other_ca"}),
            Ok(Command::WrongCertificate { kind: Some(Wrong::OtherCa) }),
        );
        check(json!({"command": "cut", "hard": true}), Err("`hard`"));
        check(json!({"command": "close_on_publish", "onn": 1}), Err("`onn`"));
        check(json!({"command": "stall", "of": true}), Err("`of`"));
        check(json!({"command": "connack"}), Err("`code`"));
        check(json!({"command": "kut"}), Err("kut"));
        check(json!([1]), Err("object"));
        check(json!({"on": true}), Err("`command`"));
        assert!(Command::from_json("{").is_err());
    }
}
