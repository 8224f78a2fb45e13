//! Twins and methods between the cloud and a module, through reconnects and restarts.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, What};
use skerry_tests::{DEADLINE, Device, Image, cloud, rounds, tell, to_cloud, wait_connected, wait_for};

const ID: &str = "d1/scribe";

fn device(cloud: &Cloud) -> Device {
    let mut device = Device::new(&to_cloud(cloud, "", ""));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    wait_connected(cloud, ID);
    device
}

fn desire(cloud: &Cloud, patch: Value) {
    tell(cloud, Command::Desired { identity: ID.into(), patch });
}

fn wait_reported(cloud: &Cloud, what: &str, fits: impl Fn(&Value) -> bool) {
    let found = cloud.wait_until(DEADLINE, |cloud| fits(&cloud.twin(ID)["reported"]).then_some(()));
    assert!(found.is_some(), "{what}: {}", cloud.twin(ID));
}

#[test]
fn desired_goes_down_and_reported_comes_up() {
    let cloud = cloud(&["scribe"]);
    let device = device(&cloud);
    desire(&cloud, json!({"forward": true}));
    wait_reported(&cloud, "the scribe's report", |reported| reported["forwards"] == true);
    desire(&cloud, json!({"forward": null}));
    wait_reported(&cloud, "the default again", |reported| reported["forwards"] == false);
    let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
    assert_eq!(twin["desired"]["$version"], cloud.twin(ID)["desired"]["$version"]);
    wait_for("both sides equal", || (device.uplink("scribe")["twinInStep"] == true).then_some(()));
    // What the cloud sets can't be set here.
    let refused = device.skerry(&["twin", "set", "scribe", r#"{"forward": true}"#]);
    assert!(refused.code == Some(1) && refused.err.contains("set in the cloud"), "{refused:?}");
}

#[test]
fn what_changed_while_it_was_cut_off_is_made_up_for() {
    let cloud = cloud(&["scribe"]);
    let mut device = device(&cloud);
    desire(&cloud, json!({"forward": true}));
    wait_reported(&cloud, "the scribe's report", |reported| reported["forwards"] == true);
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("scribe")["connected"] == false).then_some(()));
    desire(&cloud, json!({"note": "one"}));
    desire(&cloud, json!({"forward": false}));
    // Cut off it starts with what it knew.
    device.kill();
    device.start();
    device.wait_running("scribe");
    let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
    assert_eq!((&twin["desired"]["forward"], &twin["desired"]["note"]), (&json!(true), &Value::Null));
    tell(&cloud, Command::Heal);
    wait_reported(&cloud, "the change", |reported| reported["forwards"] == false);
    let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
    assert_eq!(twin["desired"]["note"], "one");
}

/// However often it changed: the cloud's version counts one change. What breaks a rule is refused at once, and not when the cloud is back.
#[test]
fn what_was_reported_while_it_was_cut_off_goes_up_as_one_change() {
    let cloud = cloud(&["scribe"]);
    let device = device(&cloud);
    wait_for("both sides known", || (device.uplink("scribe")["twinInStep"] == true).then_some(()));
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("scribe")["connected"] == false).then_some(()));
    let before = cloud.twin(ID)["reported"]["$version"].as_u64().unwrap();
    let report = |patch: Value| assert_eq!(device.method("scribe", "report", &patch)["status"], 200);
    (0..20).for_each(|n| report(json!({"n": n, "gone": n, "deep": {format!("k{}", n % 3): n}})));
    report(json!({"gone": null}));
    report(json!({"a b": 1, "n": 99}));
    let line = device.wait_log("report=refused");
    assert!(line.contains("instance=scribe/") && line.contains("$.a b") && line.contains("blanks"), "{line}");
    tell(&cloud, Command::Heal);
    wait_reported(&cloud, "what was reported", |reported| reported["n"] == 19);
    wait_for("both sides equal", || (device.uplink("scribe")["twinInStep"] == true).then_some(()));
    let mut reported = cloud.twin(ID)["reported"].clone();
    assert_eq!(reported["$version"], before + 1);
    reported.as_object_mut().unwrap().retain(|name, _| ["n", "gone", "deep", "a b"].contains(&name.as_str()));
    assert_eq!(reported, json!({"n": 19, "deep": {"k0": 18, "k1": 19, "k2": 17}}));
}

#[test]
fn configured_settings_stand_until_the_cloud_has_some() {
    let cloud = cloud(&["scribe"]);
    let mut device = Device::new(&to_cloud(&cloud, "", "[modules.scribe]\nsettings = { forward = true }\n"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    wait_for("both sides known", || (device.uplink("scribe")["twinInStep"] == true).then_some(()));
    let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
    assert_eq!(twin["desired"]["forward"], true);
    desire(&cloud, json!({"note": 1}));
    wait_for("the cloud's section", || {
        let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
        (twin["desired"]["note"] == 1 && twin["desired"].get("forward").is_none()).then_some(())
    });
}

/// The caller in the cloud decides how long it waits, up to 300 s; its default of 30 s is not ours to enforce.
#[test]
fn a_method_may_take_as_long_as_its_caller_waits() {
    let cloud = cloud(&["scribe"]);
    let mut device = Device::new(&to_cloud(&cloud, "", "[limits]\nhang_after = \"120s\"\n"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    wait_connected(&cloud, ID);
    wait_for("a subscription", || (device.uplink("scribe")["twinInStep"] == true).then_some(()));
    let (mut events, seconds) = (cloud.events(), rounds(33, 1));
    let command =
        Command::Method { identity: ID.into(), name: "late".into(), payload: json!(seconds), timeout_s: Some(60.0) };
    tell(&cloud, command);
    let found = events.find(Duration::from_secs(60), |event| matches!(event.what, What::Method { .. }));
    let Some(What::Method { status, payload, .. }) = found.map(|event| event.what) else { panic!("no answer") };
    assert_eq!((status, payload), (200, json!("late")));
}

#[test]
fn a_method_is_answered_by_the_module_or_with_a_reason() {
    let cloud = cloud(&["bench"]);
    let mut device = Device::new(&to_cloud(&cloud, "", ""));
    device.start();
    wait_connected(&cloud, "d1/bench");
    let call = |name: &str, payload: Value| {
        let mut events = cloud.events();
        let command =
            Command::Method { identity: "d1/bench".into(), name: name.into(), payload, timeout_s: Some(10.0) };
        tell(&cloud, command);
        let found = events.find(Duration::from_secs(15), |event| matches!(event.what, What::Method { .. }));
        match found.map(|event| event.what) {
            Some(What::Method { status, payload, .. }) => (status, payload),
            _ => panic!("no answer"),
        }
    };
    wait_for("a subscription", || (call("sink", json!(1)).1["message"].as_str()?.contains("no module")).then_some(()));
    device.drop_in("bench.so", &Image::of("bench"));
    device.wait_running("bench");
    let (status, payload) = call("sink", json!(null));
    assert!(status == 200 && payload.is_object(), "{status} {payload}");
    let (status, payload) = call("no-such-method", json!(null));
    assert!(status == 404 && payload.as_str().is_some_and(|p| p.contains("no-such-method")), "{payload}");
}
