//! A call of a method over REST: what is asked for, and the steps that it takes. Must never wait itself: the connection
//! that the call came by does.

use std::time::Duration;

use async_channel::Receiver;
use mqtt_proto::TopicName;
use serde_json::{Value, json};

use super::record::{object, text};
use super::reply::{Refusal, Reply};
use crate::peer::Outgoing;
use crate::topic::{self, Channel};
use crate::world::{Order, World};

const NAME_CHARS_MAX: usize = 100;
pub const PAYLOAD_BYTES_MAX: usize = 128 * 1024;
const RESPONSE_S: std::ops::RangeInclusive<u64> = 5..=300;
const RESPONSE_DEFAULT_S: u64 = 30;
const CONNECT_MAX_S: u64 = 300;

#[derive(Clone, Debug)]
pub struct Call {
    pub identity: String,
    name: String,
    payload: Vec<u8>,
    /// For the client to be there.
    pub connect: Duration,
    /// For its answer.
    pub response: Duration,
}

/// One that was sent.
pub struct Sent {
    pub rid: String,
    pub answer: Receiver<(i64, Value)>,
}

impl Call {
    pub fn parse(identity: &str, body: &[u8]) -> Result<Call, Refusal> {
        let body = object(body)?;
        let name = text(&body, "methodName")?.ok_or_else(|| Refusal::argument("methodName is missing"))?;
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || TopicName::is_invalid(&name) {
            return Err(Refusal::argument(format!("methodName has 1 to {NAME_CHARS_MAX} characters, and no # and +")));
        }
        let payload = body.get("payload").cloned().unwrap_or_default().to_string().into_bytes();
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("a payload has at most {PAYLOAD_BYTES_MAX} bytes");
            return Err(Refusal::new(413, "MessageTooLarge", message));
        }
        let seconds = |key: &str, default: u64, span: std::ops::RangeInclusive<u64>| match body.get(key) {
            None | Some(Value::Null) => Ok(Duration::from_secs(default)),
            Some(value) => value
                .as_u64()
                .filter(|seconds| span.contains(seconds))
                .map(Duration::from_secs)
                .ok_or_else(|| Refusal::argument(format!("{key} is {} to {}", span.start(), span.end()))),
        };
        let connect = seconds("connectTimeoutInSeconds", 0, 0..=CONNECT_MAX_S)?;
        let response = seconds("responseTimeoutInSeconds", RESPONSE_DEFAULT_S, RESPONSE_S)?;
        Ok(Call { identity: identity.to_owned(), name, payload, connect, response })
    }

    /// The client was not there in time.
    pub fn absent(&self) -> Reply {
        let refusal = Refusal::new(404, "DeviceNotOnline", "Timed out waiting for device to connect.");
        refusal.into_call_reply(404_103, self.connect.as_secs())
    }

    /// It was, and said nothing.
    pub fn late(&self) -> Reply {
        let refusal = Refusal::new(504, "GatewayTimeout", "Timed out waiting for the response from device.");
        refusal.into_call_reply(504_101, self.response.as_secs())
    }

    pub fn answered(status: i64, payload: &Value) -> Reply {
        Reply::new(200, json!({"status": status, "payload": payload}))
    }
}

impl World {
    /// `None` while the client is not there, or does not listen.
    pub fn send_call(&mut self, call: &Call) -> Option<Sent> {
        self.peers.get(&call.identity)?.subscriptions.get(&Channel::Methods)?;
        let (sender, answer) = async_channel::bounded(1);
        let rid = self.new_call(&call.identity, Some(sender));
        let topic = topic::method(&call.name, &rid);
        let outgoing = Outgoing { topic, body: call.payload.clone(), channel: Channel::Methods };
        if self.order(&call.identity, Order::Send(outgoing)) {
            return Some(Sent { rid, answer });
        }
        self.forget_call(&rid);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let check = |body: Value, expected: Result<(u64, u64), &str>| match (
            Call::parse("d/m", body.to_string().as_bytes()),
            expected,
        ) {
            (Ok(call), Ok(expected)) => assert_eq!((call.connect.as_secs(), call.response.as_secs()), expected),
            (Err(why), Err(part)) => assert!(why.message.contains(part), "{why:?}"),
            (came, expected) => panic!("{body}: {came:?}, expected {expected:?}"),
        };
        check(json!({"methodName": "a"}), Ok((0, 30)));
        let asked = json!({"methodName": "a", "connectTimeoutInSeconds": 7, "responseTimeoutInSeconds": 300});
        check(asked, Ok((7, 300)));
        check(json!({"methodName": "a", "responseTimeoutInSeconds": 4}), Err("5 to 300"));
        check(json!({"methodName": "a", "connectTimeoutInSeconds": "x"}), Err("0 to 300"));
        check(json!({"methodName": "a/#"}), Err("no #"));
        check(json!({"methodName": "x".repeat(101)}), Err("100"));
        check(json!({"methodName": "a", "payload": "x".repeat(PAYLOAD_BYTES_MAX)}), Err("at most"));
        check(json!({"payload": 1}), Err("missing"));
    }
}
