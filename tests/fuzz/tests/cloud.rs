//! What comes from the cloud, or from whoever says that he is the cloud: packets, topics, bags, tokens, twins, and the
//! connection strings that lead there. Must find no panic, no growth without end, and no two opinions on one text.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::Value;
use skerry_abi::wire::record::{Key, Record, System, Writer};
use skerry_cloud::{sas as judge, topic};
use skerry_fuzz::{fuzz, fuzz_text};
use skerry_runtime::logic::provisioning::{Provisioning, Step};
use skerry_runtime::logic::registration::{self, Outcome, Registration};
use skerry_runtime::logic::session::{Session, SessionConfig};
use skerry_runtime::logic::twin::Twin;
use skerry_runtime::logic::twin_sync::{Request, TwinSync};
use skerry_runtime::logic::{connection_string, dialect, mqtt, percent, sas, scope};
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

/// Whatever the registry says, no key of ours stands in a reason, and it goes on or waits.
#[test]
fn registry_answers() {
    let good = [
        r#"{"deviceId":"d","moduleId":"m","generationId":"7","authentication":{"symmetricKey":{"primaryKey":"UFJJTUFSWQ=="}}}"#,
        r#"{"Message":"ErrorCode:ModuleNotFound;m","ExceptionMessage":"Tracking ID:1"}"#,
        r#"{"Message":"ErrorCode:MaximumModulesOnDeviceExceeded"}"#,
    ];
    let list =
        r#"[{"moduleId":"m","generationId":"7","connectionState":"Connected","authentication":{}},{"moduleId":"n"}]"#;
    fuzz_text("registry_list", &[list, good[0], "[]"], |text| {
        for one in registration::listed(text.as_bytes()).into_iter().flatten() {
            assert!(!one.module.is_empty());
        }
    });
    fuzz_text("registry_answers", &good, |text| {
        for status in [200, 201, 204, 400, 401, 404, 409, 429, 503] {
            let mut registration = Registration::new("d", "m", "UFJJTUFSWQ==".into(), "U0VDT05EQVJZ".into());
            if text.len() % 2 == 1 {
                registration = registration.check();
            }
            for _ in 0..4 {
                match registration.handle_answer(Mono(5), status, text.as_bytes()) {
                    Outcome::Failed { why, at } | Outcome::Refused { why, at } => {
                        assert!(at > Mono(5) && why.len() < 2_000 && !why.contains("U0VDT05EQVJZ"), "{why}");
                    }
                    Outcome::Continue | Outcome::Done { .. } | Outcome::Revoked { .. } => {}
                }
                assert!(registration.request().target.starts_with("/devices/d/modules/m?"));
            }
        }
    });
}

/// Only what says that it assigned a hub does, and nothing is asked at once again.
#[test]
fn provisioning_answers() {
    let good = [
        r#"{"operationId":"5.a","status":"assigning"}"#,
        r#"{"operationId":"5.a","status":"assigned","registrationState":{"assignedHub":"h.example","deviceId":"d"}}"#,
        r#"{"status":"failed","registrationState":{"errorCode":400209,"errorMessage":"no"}}"#,
        r#"{"errorCode":401002,"trackingId":"x","message":"Unauthorized"}"#,
    ];
    fuzz_text("provisioning_answers", &good, |text| {
        for status in [200, 202, 400, 401, 404, 429, 500] {
            let mut dps = Provisioning::new("0ne1", "reg");
            for turn in 0..3 {
                let wait = (turn == 1).then(|| Duration::from_secs(text.len() as u64));
                match dps.handle_answer(Mono(5), status, wait, text.as_bytes()) {
                    Step::Ask { at } => assert!(at.since(Mono(0)) <= 600_005),
                    Step::Failed { why, at } => assert!(at > Mono(5) && why.len() < 2_000, "{why}"),
                    Step::Assigned(found) => {
                        assert!(text.contains("assigned") && !found.hub.is_empty() && !found.device.is_empty());
                    }
                }
                assert!(dps.request().target.starts_with("/0ne1/registrations/reg/"));
            }
        }
    });
}

/// A patch of a module: taken or refused as a whole, and what was taken is within the limits and comes back as it was.
#[test]
fn twin_patches() {
    let good: [&[u8]; 4] = [
        br#"{"a":{"b":[1,2.5,"x",{"c":true}],"d":null}}"#,
        br#"{"deep":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}}}"#,
        br#"{"n":4503599627370495,"m":-4503599627370496}"#,
        br#"{"a":null,"$version":3}"#,
    ];
    fuzz("twin_patches", &good, |bytes| {
        let Ok(patch) = serde_json::from_slice::<Value>(bytes) else { return };
        let mut twin = Twin::new();
        twin.apply_reported(&serde_json::json!({"a": {"b": 1, "d": 2}, "kept": "x"})).expect("a good one");
        let before = twin.clone();
        match twin.apply_reported(&patch) {
            Ok(version) => {
                assert_eq!(version, before.reported_version() + 1);
                assert_eq!(Twin::from_json(twin.to_json()).as_ref(), Some(&twin));
                // The same once more changes nothing but the version.
                let reported = twin.reported().clone();
                assert!(twin.apply_reported(&patch).is_ok() && *twin.reported() == reported);
            }
            Err(error) => {
                assert!(!error.to_string().is_empty() && error.path.starts_with('$'));
                assert_eq!(twin, before, "half a patch was kept");
            }
        }
    });
}

/// A token for anybody else is not signed, however it is written.
#[test]
fn audiences() {
    let good = ["h.example%2Fdevices%2Fd%2Fmodules%2Fm\n1795456800", "h%2Fdevices%2Fd%2Fmodules%2F%2524m\n1", "h\n1"];
    fuzz_text("audiences", &good, |text| {
        if scope::foreign_audience(text.as_bytes(), "d", "m").is_some() {
            return;
        }
        // It was let through: then it is no token, or a hub that decodes it comes to nobody else.
        let Some((resource, expiry)) = text.rsplit_once('\n') else { return };
        if expiry.is_empty() || !expiry.bytes().all(|b| b.is_ascii_digit()) {
            return;
        }
        let once = percent::decode(resource).map_or(resource.to_owned(), |text| text.into_owned());
        let twice = percent::decode(&once).map_or(once.clone(), |text| text.into_owned());
        let own = |text: &str| text.to_ascii_lowercase().ends_with("/devices/d/modules/m");
        assert!(own(&once) || own(&twice), "{text:?}");
    });
}
