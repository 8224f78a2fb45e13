//! Methods from module to module, on the device alone: answers, statuses, both time limits, both size limits.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skerry_tests::{Device, Image, wait_for};

const CONFIG: &str = "[modules.caller]\nimage = \"scribe\"\n[modules.scale]\nimage = \"scribe\"\n[restart]\nbackoff_base = \"100ms\"\n\
     [routes]\none = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/caller/inputs/input1\")'\n";

fn device() -> Device {
    let mut device = Device::new(CONFIG);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("caller");
    device.wait_running("scale");
    device
}

fn reported(device: &Device) -> Value {
    device.skerry(&["twin", "get", "caller", "--json"]).json()["reported"].clone()
}

fn ask(device: &Device, call: Value) {
    device.send("tester", "out", &json!({"body": {"call": call}}));
}

/// What the caller was answered to its next call.
fn called(device: &Device, call: Value) -> Value {
    let before = reported(device)["$version"].clone();
    ask(device, call.clone());
    wait_for(&format!("an answer to {call}"), || {
        let now = reported(device);
        (now["$version"] != before && now["called"].is_object()).then(|| now["called"].clone())
    })
}

#[test]
fn a_module_calls_another_one() {
    let device = device();
    let call = |method: &str| json!({"module": "scale", "method": method, "payload": {"n": [1, 2.5, "x"]}});
    assert_eq!(called(&device, call("echo")), json!({"status": 200, "payload": {"n": [1, 2.5, "x"]}}));
    assert!(reported(&device)["inside"].as_str().is_some_and(|why| why.contains("inside a callback")));
    // The module's own word, and not the runtime's.
    assert_eq!(called(&device, call("busy")), json!({"status": 409, "payload": "busy"}));
    assert_eq!(called(&device, call("nothing"))["status"], 404);
    let check = |call: Value, status: u16, part: &str| {
        let refused = called(&device, call);
        assert!(refused["refused"] == status && refused["reason"].as_str().unwrap().contains(part), "{refused}");
    };
    check(json!({"module": "scales", "method": "echo"}), 404, "did you mean \"scale\"?");
    check(json!({"module": "scale", "method": "n".repeat(101)}), 400, "100 characters");
    check(json!({"module": "scale", "method": "echo", "bytes": 200_000}), 413, "131072 bytes");
    check(json!({"module": "scale", "method": "large"}), 413, "the limit is 131072");
    check(json!({"module": "$edgeAgent", "method": "RestartModule"}), 404, "no module");
    check(json!({"module": "scale", "method": "hang", "response": 200}), 504, "within 200 ms");
}

/// What was asked of one generation is not answered by the next.
#[test]
fn a_module_that_dies_does_not_answer() {
    let device = device();
    let scale = device.wait_running("scale");
    let before = reported(&device)["$version"].clone();
    ask(&device, json!({"module": "scale", "method": "hang", "response": 60_000}));
    wait_for("the call is there", || {
        let twin = device.skerry(&["twin", "get", "scale", "--json"]).json();
        (twin["reported"]["hangs"] == true).then_some(())
    });
    kill_process(Pid::from_raw(scale.pid).unwrap(), Signal::KILL).unwrap();
    let answer = wait_for("an answer", || {
        let now = reported(&device);
        (now["$version"] != before && now["called"].is_object()).then(|| now["called"].clone())
    });
    assert!(answer["refused"] == 404 && answer["reason"].as_str().unwrap().contains("ended before"), "{answer}");
    device.wait_after("scale", scale.generation);
    assert_eq!(called(&device, json!({"module": "scale", "method": "echo", "payload": 7}))["payload"], 7);
}

#[test]
fn a_call_waits_for_a_module_that_comes() {
    let device = device();
    let call = json!({"module": "latest", "method": "echo", "payload": 1, "connect": 100});
    assert_eq!(called(&device, call)["refused"], 404);
    let before = reported(&device)["$version"].clone();
    ask(&device, json!({"module": "latest", "method": "echo", "payload": 2, "connect": 60_000}));
    device.drop_in("latest.so", &Image::scribe_named("latest"));
    wait_for("its answer", || {
        let now = reported(&device);
        (now["$version"] != before && now["called"]["payload"] == 2).then_some(())
    });
}
