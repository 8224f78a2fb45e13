//! What comes from the cloud, or from whoever says that he is the cloud: packets, topics, bags, tokens, twins, and the
//! connection strings that lead there. Must find no panic, no growth without end, and no two opinions on one text.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::Value;
use skerry_abi::wire::record::{Key, Record, System, Writer};
use skerry_cloud::{sas as judge, topic};
use skerry_fuzz::{fuzz, fuzz_text};
use skerry_runtime::logic::session::{Session, SessionConfig};
use skerry_runtime::logic::twin::Twin;
use skerry_runtime::logic::twin_sync::{Request, TwinSync};
use skerry_runtime::logic::{connection_string, dialect, mqtt, percent, sas};
use skerry_runtime::model::identity::{Credentials, Secret};
use skerry_runtime::model::time::{Mono, Wall};

fn identity() -> Credentials {
    Credentials {
        host_name: "h.azure-devices.net".into(),
        device_id: "d".into(),
        module_id: Some("m".into()),
        key: Secret::new((0..32).collect()),
    }
}

const CONNACK: &[u8] = &[0x20, 2, 0, 0];
const SUBACK: &[u8] = &[0x90, 5, 0, 1, 1, 1, 1];

#[test]
fn mqtt_input() {
    let publish = |topic: &str, pid, body: &[u8]| {
        let mut bytes = Vec::new();
        mqtt::publish(&mut bytes, topic, pid, body);
        bytes
    };
    let twin = publish("$iothub/twin/res/200/?$rid=1&$version=2", None, br#"{"desired":{"$version":2},"reported":{}}"#);
    let desired = publish("$iothub/twin/PATCH/properties/desired/?$version=3", Some(9), b"{\"a\":1}");
    let method = publish("$iothub/methods/POST/go/?$rid=7", Some(4), b"1");
    let good: &[&[u8]] = &[&twin, &desired, &method, CONNACK, SUBACK, &[0x40, 2, 0, 1, 0x40, 2, 0, 2], &[0xd0, 0]];
    fuzz("mqtt_input", good, |bytes| {
        let config = SessionConfig {
            keep_alive: Duration::from_secs(60),
            operation_timeout: Duration::from_secs(20),
            token_ttl: Duration::from_secs(3_600),
            retry_max: Duration::from_secs(60),
        };
        let mut session = Session::new(identity(), config, 1);
        session.on_timeout(Mono(0));
        session.poll_action();
        session.handle_open(Mono(0), Wall(0));
        session.handle_bytes(Mono(0), CONNACK);
        (1..=3).for_each(|delivery| session.publish(Mono(0), delivery, "t", b"x"));
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        session.handle_bytes(Mono(1), first);
        session.handle_bytes(Mono(2), rest);
        session.on_timeout(Mono(30_000));
        let acked = std::iter::from_fn(|| session.poll_event()).count();
        assert!(acked <= bytes.len() + 8, "more events than bytes");
        assert!(session.take_output().len() <= 64 * 1024, "answers without end");
        assert!(session.in_flight() <= 3);
    });
}

#[test]
fn topics() {
    let good = [
        "$iothub/twin/res/200/?$rid=42",
        "$iothub/twin/res/204/?$rid=43&$version=7",
        "$iothub/methods/POST/get%20it/?$rid=3f",
        "$iothub/twin/PATCH/properties/desired/?$version=12",
        "devices/d/modules/m/inputs/in%201/%24.cdid=dev1&k=a%2Fb",
        "devices/d/modules/m/messages/events/%24.mid=id%201&alert=true/",
    ];
    fuzz_text("topics", &good, |text| {
        if let Some(dialect::Incoming::Method { rid, .. }) = dialect::incoming(text) {
            assert!(text.contains(&rid), "an answer goes to another request");
        }
        let _ = topic::Upward::parse(text);
    });
}

/// What our side writes, the other side must read as it was, whatever stands in it.
#[test]
fn property_bags() {
    let good = ["alert=true", "sp ace\u{0}a&b=c", "plus\u{0}a+b\u{0}uml\u{0}ü/%", "%24.on\u{0}$.mid", "k\u{0}\u{0}v"];
    fuzz_text("property_bags", &good, |text| {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        let parts: Vec<&str> = text.split('\u{0}').collect();
        writer.system(System::MessageId, parts.first().copied());
        for pair in parts.chunks(2) {
            writer.application(pair[0], pair.get(1).copied());
        }
        if writer.finish(b"").is_err() {
            return;
        }
        // What `Record::parse` refuses never reaches a topic.
        let Ok(record) = Record::parse(&bytes) else { return };
        let topic = dialect::telemetry_topic(&identity(), &record);
        let bag = topic.strip_prefix("devices/d/modules/m/messages/events/").expect("our own topic");
        let (system, application) = topic::parse_bag(bag).unwrap_or_else(|e| panic!("{bag}: {e}"));
        assert_eq!(system.get("$.mid").cloned().flatten().as_deref(), record.system(System::MessageId));
        let mut count = 0;
        for (key, value) in record.properties() {
            if let Key::Application(name) = key {
                assert_eq!(application.get(name).map(Option::as_deref), Some(value), "{name:?} in {bag}");
                count += 1;
            }
        }
        assert_eq!(application.len(), count);
    });
    fuzz_text("parse_bag", &["%24.mid=1&a=b&c&d=", "a=%2B+", "$.ct=x&a=1/"], |text| drop(topic::parse_bag(text)));
}

#[test]
fn percent_encoding() {
    fuzz_text("percent", &["a%20b", "%C3%BC", "ü/%", "%zz"], |text| {
        let mut encoded = String::new();
        percent::encode(&mut encoded, text);
        assert_eq!(percent::decode(&encoded).as_deref(), Some(text));
        let _ = percent::decode(text);
    });
}

/// A token for any resource must satisfy whoever checks tokens.
#[test]
fn sas_tokens() {
    let key: Vec<u8> = (0..32).collect();
    let (secret, base64) = (Secret::new(key.clone()), BASE64.encode(&key));
    let good = ["myhub.azure-devices.net/devices/d!(1)*'=:,@;$_%-+.", "h/devices/d/modules/$edgeAgent"];
    fuzz_text("sas", &good, |text| {
        let token = sas::token(&secret, text, 1_767_225_600);
        let parsed = judge::Token::parse(&token).unwrap_or_else(|e| panic!("{token}: {e}"));
        assert!(parsed.is_signed_by(&base64) && parsed.is_for(text) && parsed.expiry == 1_767_225_600, "{token}");
        let _ = judge::Token::parse(text);
    });
    let token = sas::token(&secret, good[0], 1);
    fuzz_text("sas_parse", &[&token], |text| {
        if let Ok(parsed) = judge::Token::parse(text) {
            let _ = (parsed.is_signed_by(&base64), parsed.is_for(good[0]));
        }
    });
}

#[test]
fn connection_strings() {
    const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    let whole = format!("HostName=h.azure-devices.net;DeviceId=d;ModuleId=m;SharedAccessKey={SECRET}=");
    let other = format!("hostname=h;SharedAccessKey={SECRET};DEVICEID=d;x509=true;SharedAccessKeyName=owner");
    fuzz_text("connection_strings", &[&whole, &other], |text| match connection_string::parse(text) {
        Ok(found) => assert!(!found.host_name.is_empty() && !format!("{found:?}").contains(SECRET)),
        // Half of a key is a key too many.
        Err(error) => {
            let error = error.to_string();
            let shown = (0..=SECRET.len() - 12).any(|at| error.contains(&SECRET[at..at + 12]));
            assert!(!shown, "{error}");
        }
    });
}

#[test]
fn twins_from_the_cloud() {
    let good: [&[u8]; 4] = [
        br#"{"desired":{"a":{"b":1},"$version":5},"reported":{"c":[1,2],"$version":2}}"#,
        br#"{"a":null,"b":{"c":"x"},"$version":6}"#,
        br#"{"errorCode":400,"message":"no"}"#,
        br#"{"desired":[],"reported":7}"#,
    ];
    fuzz("twins", &good, |bytes| {
        let (mut sync, mut twin) = (TwinSync::new(Duration::from_secs(20)), Twin::new());
        sync.handle_ready(Mono(0));
        let Some(Request::Get { rid }) = sync.poll_request(Mono(0), &twin) else {
            panic!("it asks for the whole first")
        };
        let _ = sync.handle_answer(Mono(1), &mut twin, rid, 200, bytes);
        let before = twin.desired_version();
        let changed = sync.handle_desired(Mono(2), &mut twin, None, bytes);
        if changed == Ok(true) {
            assert_eq!(twin.desired_version(), before + 1);
        }
        if let Some(Request::Report { rid, patch }) = sync.poll_request(Mono(10_000), &twin) {
            assert!(!patch.is_empty());
            let _ = sync.handle_answer(Mono(10_001), &mut twin, rid, 400, bytes);
        }
        let _: Value = twin.to_json();
    });
}
