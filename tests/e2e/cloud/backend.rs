//! From a back end to a module and back: the official service SDK, unmodified, to the emulator, to skerry, to a module process.
//! Must never take a short cut: the SDK is told what to do, and the module answers.

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Options};
use skerry_tests::{Backend, DEADLINE, Device, Image, numbered, wait_connected, wait_for, wait_stored};

const ID: &str = "d1/scribe";

fn method(backend: &mut Backend, name: &str, payload: Value) -> Value {
    let call = json!({"CloudToDeviceMethod": {"methodName": name, "payload": payload, "responseTimeoutInSeconds": 20,
        "connectTimeoutInSeconds": 5}});
    backend.ask("invoke_device_module_method", &json!(["d1", "scribe", call]))
}

fn start() -> (Cloud, Device) {
    let cloud = Cloud::start(Options::new("d1", &[])).expect("the emulator");
    let ready = cloud.ready();
    let config = format!(
        "[provisioning]\nsource = \"manual\"\nconnection_string = \"{}\"\n[upstream]\naddress = \"{}\"\nca = \"{}\"\n\
         retry_max = \"1s\"\noperation_timeout = \"5s\"\n[routes]\n\
         one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n\
         up = 'FROM /messages/modules/scribe/* INTO $upstream'\n",
        ready.device.connection_string,
        ready.address,
        ready.ca_file.display()
    );
    let mut device = Device::new(&config);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, ID);
    (cloud, device)
}

#[test]
fn twins_methods_and_messages_go_there_and_back() {
    let (cloud, device) = start();
    let mut backend = Backend::of(&cloud);
    // The module's identity, as skerry made it.
    let module = backend.call("get_module", &json!(["d1", "scribe"]));
    assert_eq!(module["connectionState"], "Connected", "{module}");
    // A desired property goes down, what the module reports comes up.
    let patch = json!({"Twin": {"properties": {"desired": {"forward": true}}}});
    let patched = backend.call("update_module_twin", &json!(["d1", "scribe", patch, "*"]));
    assert_eq!(patched["properties"]["desired"]["forward"], true, "{patched}");
    let reported = wait_for("the module's report", || {
        let twin = backend.call("get_module_twin", &json!(["d1", "scribe"]));
        (twin["properties"]["reported"]["forwards"] == true).then(|| twin["properties"]["reported"].clone())
    });
    assert!(reported["$version"].as_u64().is_some_and(|version| version > 1) && reported["$metadata"].is_object());
    // Telemetry of the module.
    device.send("tester", "out", &numbered(7));
    wait_stored(&cloud, ID, 7);
    // A method: the module's answer, its own status, and its absence.
    let echoed = method(&mut backend, "echo", json!({"a": [1, "ü"]}));
    assert_eq!(
        (&echoed["value"]["status"], &echoed["value"]["payload"]),
        (&json!(200), &json!({"a": [1, "ü"]})),
        "{echoed}"
    );
    assert_eq!(method(&mut backend, "busy", Value::Null)["value"]["status"], 409);
    assert_eq!(method(&mut backend, "nothing", Value::Null)["value"]["status"], 404);
    // An answer that the cloud would not take is replaced, and does not end the connection.
    assert_eq!(method(&mut backend, "large", Value::Null)["value"]["status"], 413);
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    wait_for("the module is gone", || device.status()["modules"].as_array().is_some_and(Vec::is_empty).then_some(()));
    let gone = method(&mut backend, "echo", Value::Null);
    assert_eq!(gone["value"]["status"], 404, "{gone}");
    assert!(cloud.wait_until(DEADLINE, |cloud| cloud.connections()[ID].is_open.then_some(())).is_some());
}
