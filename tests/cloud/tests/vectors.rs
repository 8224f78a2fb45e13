//! Tokens and topics against vectors that official SDKs made.

use serde_json::Value;
use skerry_cloud::sas::{self, Token};
use skerry_cloud::topic::{self, Upward};

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/iot-hub-wire-vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON")
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    vectors[name].as_array().expect("a list")
}

#[test]
fn tokens_verify_as_received() {
    let vectors = vectors();
    let key = vectors["key_base64"].as_str().expect("a key");
    let mut all: Vec<(&str, &str)> = list(&vectors, "sas")
        .iter()
        .filter_map(|case| Some((case["token"].as_str()?, case["resource_uri"].as_str()?)))
        .collect();
    let received = vectors["sas_verify_as_received"]["token"].as_str().expect("a token");
    all.push((received, "myhub.azure-devices.net/devices/dev1"));
    assert!(all.len() >= 10);
    for (text, resource) in all {
        let token = Token::parse(text).expect("a token");
        assert!(token.is_signed_by(key) && token.is_for(resource), "{text}");
        assert!(!token.is_signed_by("AAAA") && !token.is_for("myhub.azure-devices.net/devices/dev2"), "{text}");
        assert!(!Token { expiry: token.expiry + 1, ..token.clone() }.is_signed_by(key), "{text}");
        // Written the same way by the Python SDK, when there is no policy.
        if token.policy.is_none() && !text.contains("%2f") {
            assert_eq!(sas::sign(resource, key, token.expiry).as_deref(), Some(text));
        }
    }
    let twice = "myhub.azure-devices.net/devices/dev1/modules/$edgeAgent";
    let double = list(&vectors, "sas").iter().find(|case| case["sr"].as_str().is_some_and(|sr| sr.contains("%25")));
    let token = double.and_then(|case| case["token"].as_str()).expect("a token escaped twice");
    assert!(Token::parse(token).expect("a token").is_for(twice));
}

#[test]
fn topics_that_sdks_publish_to_are_understood() {
    for case in list(&vectors(), "publish_topics") {
        let name = &case["name"];
        let Ok(Upward::Telemetry { device, module, system, properties }) =
            Upward::parse(case["topic"].as_str().expect("a topic"))
        else {
            panic!("{name}: not understood")
        };
        assert_eq!((Some(device.as_str()), module.as_deref()), (case["device"].as_str(), case["module"].as_str()));
        let message = case["message"].as_object().expect("a message");
        for (key, value) in message.iter().filter(|(key, _)| *key != "props") {
            assert_eq!(system[&format!("$.{key}")].as_deref(), value.as_str(), "{name}");
        }
        let expected = case["message"]["props"].as_object().cloned().unwrap_or_default();
        assert_eq!(serde_json::to_value(&properties).expect("JSON"), Value::Object(expected), "{name}");
    }
}

#[test]
fn odd_bags() {
    let check = |bag: &str, expected: Result<Value, &str>| match (topic::parse_bag(bag), expected) {
        (Ok((system, properties)), Ok(expected)) => {
            assert_eq!(serde_json::json!([system, properties]), expected, "{bag}");
        }
        (Err(why), Err(word)) => assert!(why.contains(word), "{bag}: {why}"),
        (came, expected) => panic!("{bag}: {came:?}, expected {expected:?}"),
    };
    check("", Ok(serde_json::json!([{}, {}])));
    check("/", Ok(serde_json::json!([{}, {}])));
    check("$.mid=1&%24.cid=2", Ok(serde_json::json!([{"$.mid": "1", "$.cid": "2"}, {}])));
    check("a&b=&c=%2B+%20", Ok(serde_json::json!([{}, {"a": null, "b": "", "c": "++ "}])));
    check("a=b=c&&", Ok(serde_json::json!([{}, {"a": "b=c"}])));
    check("a=%", Err("escaped"));
    check("a=%zz", Err("escaped"));
    check("a=%ff", Err("escaped"));
    check("a=1&%61=2", Err("twice"));
}

#[test]
fn answers_and_requests_are_told_apart() {
    let check = |topic: &str, expected: Option<Upward>| assert_eq!(Upward::parse(topic).ok(), expected, "{topic}");
    check("$iothub/methods/res/200/?$rid=3F", Some(Upward::MethodAnswer { status: 200, rid: "3F".to_owned() }));
    check("$iothub/methods/res/-1/?$rid=1", Some(Upward::MethodAnswer { status: -1, rid: "1".to_owned() }));
    check("$iothub/methods/res/x/?$rid=1", None);
    check("$iothub/twin/GET/?$rid=a-b", Some(Upward::TwinGet { rid: "a-b".to_owned() }));
    check("$iothub/twin/GET/", None);
    check("$iothub/twin/GET?$rid=1", None);
    check("$iothub/twin/PATCH/properties/reported/?$rid=1", Some(Upward::Reported { rid: "1".to_owned() }));
    check("devices/d/modules/m/messages/eventsx", None);
    check("devices/d/modules/m/inputs/x/", None);
}

#[test]
fn keys_of_a_group_are_derived() {
    let vectors = vectors();
    let cases = list(&vectors, "dps_group_key");
    assert!(cases.len() >= 3);
    for case in cases {
        let text = |name: &str| case[name].as_str().expect("a text");
        let derived = sas::derive_key(text("group_key"), text("registration_id"));
        assert_eq!(derived.as_deref(), Some(text("device_key")), "{case}");
    }
}
