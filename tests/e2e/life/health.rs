//! Modules that say of themselves that they are not well: told, and started anew where their policy says so.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, manifest, module, numbered, wait_for};

const TO_IT: &str = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/faulty/inputs/input1\")";

/// `faulty` under that policy.
fn device(policy: &str) -> Device {
    let mut device = Device::new("[modules]\nautostart = false\n");
    device.drop_in("faulty.so", &Image::of("faulty"));
    device.start();
    let mut faulty = module("faulty");
    faulty["restartPolicy"] = policy.into();
    let file = device.path("typed.json");
    std::fs::write(&file, manifest(json!({"faulty": faulty}), json!({"r": TO_IT})).to_string()).expect("a manifest");
    let ran = device.skerry(&["deploy", &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    device.wait_running("faulty");
    device
}

fn reported(device: &Device) -> Value {
    device.skerry(&["twin", "get", "$edgeAgent", "--json"]).json()["reported"]["modules"]["faulty"].clone()
}

#[test]
fn who_is_unhealthy_is_started_anew() {
    for policy in ["always", "on-unhealthy"] {
        let device = device(policy);
        let before = device.wait_running("faulty");
        // What it has in hand comes again, and is not charged to it: nobody refused it.
        let mut sender = device.sender("tester", "out");
        sender.send_lines(&[json!({"body": {"do": "keep"}}), numbered(2)]);
        device.wait_count("faulty", "delivered", 1);
        device.method("faulty", "unhealthy", &Value::Null);
        let exit = device.wait_exit("faulty", "unhealthy: as told");
        assert_eq!(exit["code"], 1, "{exit}");
        device.wait_log(&format!("instance=faulty/{} restart_in_ms=50", before.generation));
        let after = device.wait_after("faulty", before.generation);
        assert!(!skerry_tests::is_alive(before.pid) && after.pid != before.pid);
        wait_for("it is well again", || (reported(&device)["runtimeStatus"] == "running").then_some(()));
        wait_for("the first is in its hands again", || (device.module("faulty")["deferred"] == 1).then_some(()));
        assert_eq!(device.queue("faulty").map(|queue| queue["refused"].clone()), Some(json!(0)));
    }
}

#[test]
fn who_is_to_be_left_alone_is_shown_as_unhealthy() {
    let device = device("never");
    let before = device.wait_running("faulty");
    device.method("faulty", "unhealthy", &Value::Null);
    let module = wait_for("it is shown", || {
        let module = device.module("faulty");
        (module["status"] == "unhealthy").then_some(module)
    });
    assert_eq!(module["problem"], "it says that it is unhealthy: as told");
    assert!(device.status()["warnings"].to_string().contains("instance faulty: it says that it is unhealthy: as told"));
    wait_for("it is reported", || {
        let reported = reported(&device);
        (reported["runtimeStatus"] == "unhealthy" && reported["statusDescription"] == "as told").then_some(())
    });
    // It goes on all the same, until it is well.
    device.send("tester", "out", &numbered(1));
    device.wait_count("faulty", "delivered", 1);
    device.method("faulty", "healthy", &Value::Null);
    assert_eq!(device.wait_running("faulty"), before);
    assert!(!device.status()["warnings"].to_string().contains("unhealthy"));
}

#[test]
fn who_ends_badly_and_is_not_started_again_has_failed() {
    let device = device("never");
    device.method("faulty", "exit", &Value::Null);
    wait_for("it has failed", || (device.module("faulty")["status"] == "failed").then_some(()));
    wait_for("it is reported", || {
        let reported = reported(&device);
        (reported["runtimeStatus"] == "failed" && reported["exitCode"] == 3).then_some(())
    });
    // Somebody who says so starts it.
    assert_eq!(device.skerry(&["restart", "faulty"]).code, Some(0));
    device.wait_running("faulty");
}
