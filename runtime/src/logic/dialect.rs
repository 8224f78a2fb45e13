//! IoT Hub's dialect of MQTT: which topic means what, and how a message's properties stand in one (spec iot-hub-wire 2, 5).
//! Another cloud would be another file like this. Must never trust a topic that comes in.

use super::percent;
use crate::model::identity::Credentials;
use skerry_abi::wire::record::{Key, Record, System};

/// What is subscribed after each connect. Quality of service 1, as the Python SDK does.
pub const SUBSCRIPTIONS: [&str; 3] =
    ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"];
/// Where the WebSocket is.
pub const WEBSOCKET_PATH: &str = "/$iothub/websocket";
/// Longest topic, bytes: MQTT's own limit.
pub const TOPIC_BYTES_MAX: usize = 65_535;

const API_VERSION: &str = "2021-04-12";

/// What the protocol calls the user name. The ids stand in it as they are, the query is percent-encoded.
pub fn user_name(identity: &Credentials) -> String {
    let mut name =
        format!("{}/{}/?api-version={API_VERSION}&DeviceClientType=", identity.host_name, identity.client_id());
    percent::encode(&mut name, concat!("skerry/", env!("CARGO_PKG_VERSION")));
    name
}

/// Where the message is published. As IoT Edge's hub forwards it: no output name, no expiry (spec 5.6).
pub fn telemetry_topic(identity: &Credentials, record: &Record<'_>) -> String {
    let mut topic = format!("devices/{}/", identity.device_id);
    if let Some(module) = &identity.module_id {
        topic.push_str("modules/");
        topic.push_str(module);
        topic.push('/');
    }
    topic.push_str("messages/events/");
    let start = topic.len();
    // System properties first, as the SDKs write them.
    for (key, value) in record.properties() {
        if let (Key::System(system), Some(value)) = (key, value)
            && let Some(name) = system_key(system)
        {
            pair(&mut topic, start, name, Some(value));
        }
    }
    for (key, value) in record.properties() {
        if let Key::Application(name) = key {
            pair(&mut topic, start, name, value);
        }
    }
    topic
}

fn pair(topic: &mut String, start: usize, name: &str, value: Option<&str>) {
    if topic.len() > start {
        topic.push('&');
    }
    percent::encode(topic, name);
    // A null value is the name alone; an empty one must keep its `=`.
    if let Some(value) = value {
        topic.push('=');
        percent::encode(topic, value);
    }
}

/// The name on the wire, for those that are passed on (spec 5.1, 5.6).
fn system_key(system: System) -> Option<&'static str> {
    Some(match system {
        System::MessageId => "$.mid",
        System::CorrelationId => "$.cid",
        System::UserId => "$.uid",
        System::To => "$.to",
        System::ContentType => "$.ct",
        System::ContentEncoding => "$.ce",
        System::CreationTime => "$.ctime",
        System::MessageSchema => "$.schema",
        System::Component => "$.sub",
        System::InterfaceId => "$.ifid",
        System::ExpiryTime | System::Ack | System::Operation => return None,
    })
}

pub fn twin_get_topic(rid: u64) -> String {
    format!("$iothub/twin/GET/?$rid={rid}")
}

pub fn reported_topic(rid: u64) -> String {
    format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}")
}

/// `rid` is given back as it came.
pub fn method_answer_topic(status: i32, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

/// What the topic of a message from the cloud says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    TwinAnswer { status: u16, rid: u64, version: Option<u64> },
    Desired { version: Option<u64> },
    Method { name: String, rid: String },
}

/// `None` for a topic without meaning here.
pub fn incoming(topic: &str) -> Option<Incoming> {
    if let Some(rest) = topic.strip_prefix("$iothub/twin/res/") {
        let (status, query) = rest.split_once('/')?;
        let rid = in_query(query, "$rid")?.parse().ok()?;
        let version = in_query(query, "$version").and_then(|v| v.parse().ok());
        return Some(Incoming::TwinAnswer { status: status.parse().ok()?, rid, version });
    }
    if let Some(query) = topic.strip_prefix("$iothub/twin/PATCH/properties/desired/") {
        return Some(Incoming::Desired { version: in_query(query, "$version").and_then(|v| v.parse().ok()) });
    }
    let (name, query) = topic.strip_prefix("$iothub/methods/POST/")?.split_once('/')?;
    let name = percent::decode(name)?.into_owned();
    Some(Incoming::Method { name, rid: in_query(query, "$rid")?.to_owned() })
}

fn in_query<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    let pairs = query.strip_prefix('?')?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Secret;
    use serde_json::Value;
    use skerry_abi::wire::record::Writer;

    fn identity(device: &str, module: Option<&str>) -> Credentials {
        Credentials {
            host_name: "myhub.azure-devices.net".to_owned(),
            device_id: device.to_owned(),
            module_id: module.map(str::to_owned),
            key: Secret::new(vec![1]),
        }
    }

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/data/iot-hub-wire-vectors.json")).unwrap()
    }

    /// The bag as a set: the SDKs differ in the order of application properties, and in a slash at the end.
    fn parts(topic: &str) -> (String, Vec<String>) {
        let (head, bag) = topic.split_once("events/").unwrap();
        let bag = bag.trim_end_matches('/');
        let mut parts: Vec<String> = bag.split('&').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        parts.sort();
        (head.to_owned(), parts)
    }

    #[test]
    fn telemetry_topics_are_those_of_the_official_sdks() {
        let vectors = vectors();
        for case in vectors["publish_topics"].as_array().unwrap() {
            let message = &case["message"];
            // An output's name and an expiry are not passed on (spec 5.6).
            if message.get("exp").is_some() {
                continue;
            }
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes);
            let system = [
                ("mid", System::MessageId),
                ("cid", System::CorrelationId),
                ("ct", System::ContentType),
                ("ce", System::ContentEncoding),
            ];
            for (name, key) in system {
                if let Some(value) = message.get(name).and_then(Value::as_str) {
                    writer.system(key, Some(value));
                }
            }
            for (name, value) in message.get("props").and_then(Value::as_object).into_iter().flatten() {
                writer.application(name, value.as_str());
            }
            writer.finish(b"{}").unwrap();
            let topic = telemetry_topic(
                &identity(case["device"].as_str().unwrap(), case["module"].as_str()),
                &Record::parse(&bytes).unwrap(),
            );
            let (head, mut expected) = parts(case["topic"].as_str().unwrap());
            expected.retain(|part| !part.starts_with("%24.on="));
            assert_eq!(parts(&topic), (head, expected), "{}", case["name"]);
        }
    }

    #[test]
    fn null_and_empty_values_differ() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.application("a", None);
        writer.application("b", Some(""));
        writer.finish(b"").unwrap();
        let topic = telemetry_topic(&identity("d", Some("m")), &Record::parse(&bytes).unwrap());
        assert_eq!(topic, "devices/d/modules/m/messages/events/a&b=");
    }

    #[test]
    fn what_comes_in_is_understood() {
        for case in vectors()["method_topic_python"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap().to_owned();
            let expected = Incoming::Method { name: text("name"), rid: text("rid") };
            assert_eq!(incoming(&text("topic")), Some(expected));
        }
        for case in vectors()["twin_topic_python"].as_array().unwrap() {
            let number = |key: &str| case[key].as_str().unwrap().parse::<u64>().unwrap();
            let Some(Incoming::TwinAnswer { status, rid, .. }) = incoming(case["topic"].as_str().unwrap()) else {
                panic!()
            };
            assert_eq!((u64::from(status), rid), (number("status"), number("rid")));
        }
        let desired = incoming("$iothub/twin/PATCH/properties/desired/?$version=7");
        assert_eq!(desired, Some(Incoming::Desired { version: Some(7) }));
        for nothing in [
            "",
            "$iothub/twin/res/",
            "$iothub/twin/res/200/",
            "$iothub/twin/res/x/?$rid=1",
            "$iothub/methods/POST/a",
            "$iothub/methods/POST/%f/?$rid=1",
            "devices/d/messages/devicebound/",
        ] {
            assert_eq!(incoming(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_user_name_is_the_sdks() {
        let name = user_name(&identity("dev1", Some("mod1")));
        assert!(
            name.starts_with("myhub.azure-devices.net/dev1/mod1/?api-version=2021-04-12&DeviceClientType=skerry%2F")
        );
    }
}
