//! The SDK for devices, over WebSockets through the proxy. What it says that it saw, and what the emulator saw, must both
//! be what was done.

use std::sync::Arc;

use serde_json::json;
use skerry_cloud::{Cloud, Options, Telemetry, What};

use crate::judge::{DEADLINE, Judge, USUAL, Way, command, happened, python};

const DEVICE: &str = "Hannover01";
const MODULE: &str = "Hannover01/insight";

fn start() -> Cloud {
    python();
    Cloud::start(Options::new(DEVICE, &["insight"])).expect("an emulator")
}

fn stored(cloud: &Cloud, count: usize) -> Vec<Arc<Telemetry>> {
    let all = cloud.wait_until(DEADLINE, |cloud| Some(cloud.telemetry()).filter(|all| all.len() >= count));
    all.unwrap_or_else(|| panic!("{count} messages were expected: {:?}", cloud.telemetry()))
}

#[test]
fn a_module_sends_listens_and_keeps_its_twin() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    command(
        &cloud,
        json!({"command": "desired", "identity": MODULE, "patch": {"threshold": 25, "deep": {"a": [1, 2]}}}),
    );
    let mut judge = Judge::start(&cloud, MODULE, &USUAL);
    let proxy = happened(&mut events, |what| matches!(what, What::Proxy { .. }));
    assert!(matches!(&proxy, What::Proxy { target, status: 200 } if target.ends_with(":443")), "{proxy:?}");
    judge.act(json!({
        "do": "send", "body": "{\"n\": 1}", "output": "out 1",
        "properties": {"sp ace": "a&b=c", "plus": "a+b", "uml": "ü/%", "empty": ""},
        "system": {"message_id": "id 1", "correlation_id": "c/1", "content_type": "application/json", "content_encoding": "utf-8"},
    }));
    judge.act(json!({"do": "send", "body": "plain"}));
    let all = stored(&cloud, 2);
    assert_eq!((all[0].output(), all[0].json()), (Some("out 1"), Some(json!({"n": 1}))));
    let properties = serde_json::to_value(&all[0].properties).expect("JSON");
    assert_eq!(properties, json!({"sp ace": "a&b=c", "plus": "a+b", "uml": "ü/%", "empty": ""}));
    let system = json!({"$.on": "out 1", "$.mid": "id 1", "$.cid": "c/1", "$.ct": "application/json", "$.ce": "utf-8"});
    assert_eq!(serde_json::to_value(&all[0].system).expect("JSON"), system);
    assert_eq!(
        (all[1].text(), all[1].topic.as_str()),
        (Some("plain"), "devices/Hannover01/modules/insight/messages/events/")
    );

    judge.write(&json!({"do": "twin"}));
    let twin = judge.saw("twin", |_| true);
    assert_eq!(twin["twin"]["desired"], json!({"threshold": 25, "deep": {"a": [1, 2]}, "$version": 2}));
    judge.act(json!({"do": "report", "patch": {"state": {"on": true, "n": 1}}}));
    judge.act(json!({"do": "report", "patch": {"state": {"n": null}}}));
    assert_eq!(cloud.twin(MODULE)["reported"], json!({"state": {"on": true}, "$version": 3}));
    command(&cloud, json!({"command": "desired", "identity": MODULE, "patch": {"threshold": 30, "deep": null}}));
    assert_eq!(judge.saw("desired", |_| true)["patch"], json!({"threshold": 30, "deep": null, "$version": 3}));

    for n in 0..3 {
        let properties = json!({"k/1": "a b", "n": n.to_string(), "$.ct": "application/json", "$.mid": "7"});
        command(
            &cloud,
            json!({"command": "input", "identity": MODULE, "input": "in1", "body": {"n": n}, "properties": properties}),
        );
    }
    // The SDK calls its user from several threads, so what it hands over at once may be told in another order.
    let mut came: Vec<_> = (0..3).map(|_| judge.saw("message", |_| true)).collect();
    came.sort_by_key(|message| message["body"].to_string());
    for (n, message) in came.iter().enumerate() {
        assert_eq!((&message["input"], &message["body"]), (&json!("in1"), &json!(format!("{{\"n\":{n}}}"))));
        assert_eq!(message["properties"], json!({"k/1": "a b", "n": n.to_string()}));
        assert_eq!((&message["content_type"], &message["mid"]), (&json!("application/json"), &json!("7")));
    }
    command(&cloud, json!({"command": "input", "identity": MODULE, "input": "in1", "body": "bare"}));
    assert_eq!(judge.saw("message", |_| true)["properties"], json!({}));
    happened(&mut events, |what| matches!(what, What::Delivered { count: 4, .. }));

    let called =
        command(&cloud, json!({"command": "method", "identity": MODULE, "name": "reboot", "payload": {"in": [1]}}));
    let asked = judge.saw("method", |_| true);
    assert_eq!((&asked["name"], &asked["payload"]), (&json!("reboot"), &json!({"in": [1]})));
    let answered = happened(&mut events, |what| matches!(what, What::Method { .. }));
    let What::Method { rid, status, payload, .. } = answered else { unreachable!() };
    assert_eq!((json!(rid), status, payload), (called["rid"].clone(), 207, json!({"heard": {"in": [1]}})));
    judge.end();
    happened(&mut events, |what| matches!(what, What::Disconnected { reason, .. } if reason.contains("DISCONNECT")));
}

#[test]
fn a_device_gets_messages_from_the_cloud() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    // It waited before the device was there.
    let properties = json!({"prop 1": "v/1", "$.mid": "abc"});
    command(&cloud, json!({"command": "c2d", "identity": DEVICE, "body": "hello", "properties": properties}));
    // Frames that end in the middle of packets are the SDK's business, too.
    command(&cloud, json!({"command": "frame_bytes", "max": 3}));
    let mut judge = Judge::start(&cloud, DEVICE, &USUAL);
    let message = judge.saw("message", |_| true);
    assert_eq!((&message["body"], &message["mid"]), (&json!("hello"), &json!("abc")));
    assert_eq!(message["properties"]["prop 1"], "v/1");
    happened(&mut events, |what| matches!(what, What::Delivered { count: 1, .. }));
    judge.act(json!({"do": "send", "body": "x", "properties": {"a": "1"}}));
    assert_eq!(stored(&cloud, 1)[0].topic, "devices/Hannover01/messages/events/a=1");
    judge.write(&json!({"do": "twin"}));
    assert_eq!(judge.saw("twin", |_| true)["twin"], json!({"desired": {"$version": 1}, "reported": {"$version": 1}}));
    judge.end();
}

#[test]
fn mqtt_without_web_sockets() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    let mut judge = Judge::start(&cloud, MODULE, &Way { websockets: false, ..USUAL });
    happened(&mut events, |what| matches!(what, What::Proxy { target, .. } if target.ends_with(":8883")));
    happened(&mut events, |what| matches!(what, What::Connected { web_socket: false, .. }));
    judge.act(json!({"do": "send", "body": "x"}));
    assert_eq!(stored(&cloud, 1).len(), 1);
    judge.end();
}

#[test]
fn it_comes_back_and_sends_again() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    let mut judge = Judge::start(&cloud, MODULE, &USUAL);
    command(&cloud, json!({"command": "close_after_publish"}));
    judge.act(json!({"do": "send", "body": "twice"}));
    let all = stored(&cloud, 2);
    assert_eq!((all[0].text(), all[1].text()), (Some("twice"), Some("twice")));
    judge.saw("connection", |line| line["connected"] == false);
    judge.saw("connection", |line| line["connected"] == true);
    command(&cloud, json!({"command": "cut"}));
    judge.saw("connection", |line| line["connected"] == false);
    command(&cloud, json!({"command": "heal"}));
    judge.saw("connection", |line| line["connected"] == true);
    // A session of its own begins, and it wants its subscriptions again.
    happened(&mut events, |what| matches!(what, What::Connected { session_present: true, .. }));
    judge.act(json!({"do": "send", "body": "after"}));
    assert_eq!(stored(&cloud, 3)[2].text(), Some("after"));
    judge.end();
}

#[test]
fn a_token_is_renewed() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    // The SDK renews two minutes before the end.
    let mut judge = Judge::start(&cloud, DEVICE, &Way { token_life_s: 123, ..USUAL });
    let connected = |what: &What| matches!(what, What::Connected { .. });
    happened(&mut events, connected);
    // By hanging up and coming again, since MQTT knows no other way.
    happened(&mut events, connected);
    judge.act(json!({"do": "send", "body": "renewed"}));
    assert_eq!(stored(&cloud, 1)[0].text(), Some("renewed"));
    judge.end();
}
