//! The power goes while a manifest is taken and carried out: afterwards it is in force as a whole or not at all, and what runs becomes what it says.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Random, manifest, module, numbered, rounds, wait_for};

const TO_A: &str = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/a/inputs/input1\")";

/// One of two that differ in everything that can: modules come, go, change, stop, and routes have other names.
fn content(second: bool) -> Value {
    let mut a = module("scribe");
    a["env"] = json!({"GREETING": {"value": if second { "two" } else { "one" }}});
    let mut stopped = module("filter");
    stopped["status"] = if second { "stopped" } else { "running" }.into();
    let (name, routes) = if second { ("c", json!({"r2": TO_A})) } else { ("b", json!({"r1": TO_A})) };
    let mut modules = json!({"a": a, "s": stopped});
    modules[name] = module("scribe");
    manifest(modules, routes)
}

/// Whether the device is as the manifest says.
fn is_so(device: &Device, second: bool) -> Option<()> {
    let status = |name: &str| device.module(name)["status"].as_str().map(str::to_owned);
    let (there, gone) = if second { ("c", "b") } else { ("b", "c") };
    let stopped = if second { "stopped" } else { "running" };
    let good = status("a").as_deref() == Some("running")
        && status(there).as_deref() == Some("running")
        && status(gone).is_none()
        && status("s").as_deref() == Some(stopped)
        && device.status()["routes"][0]["name"] == if second { "r2" } else { "r1" };
    let greeting = || device.method("a", "where", &Value::Null)["payload"]["greeting"].clone();
    (good && greeting() == if second { "two" } else { "one" }).then_some(())
}

#[test]
fn kills_at_any_moment_of_a_deployment() {
    let mut device = Device::new("[store]\nflush_interval = \"10ms\"\n[modules]\nautostart = false\n");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("filter.so", &Image::of("filter"));
    for (name, second) in [("one.json", false), ("two.json", true)] {
        std::fs::write(device.path(name), content(second).to_string()).expect("a manifest");
    }
    device.start();
    let first = device.path(file(false)).display().to_string();
    assert_eq!(device.skerry(&["deploy", &first]).code, Some(0));
    wait_for("the first", || is_so(&device, false));
    let mut random = Random::new(0xdeb1);
    let (mut now, mut sent, mut taken) = (false, 0, 0);
    for round in 0..rounds(20, 4) {
        device.send_all("tester", "out", &(sent..sent + 10).map(numbered).collect::<Vec<_>>());
        sent += 10;
        let path = device.path(file(!now)).display().to_string();
        let mut deploying = device.spawn(&["deploy", &path]);
        // From before it is read until after it is carried out.
        let moment = std::time::Duration::from_millis(random.below(400));
        skerry_tests::wait_within(moment, || None::<()>);
        device.kill();
        let answered = deploying.wait().expect("its end").success();
        device.start();
        let deployed = device.get("/deployment");
        let matches = |second: bool| deployed["modulesContent"] == content(second)["modulesContent"];
        assert!(matches(now) || matches(!now), "round {round}: neither of the two: {deployed:#}");
        // What was answered is on disk.
        assert!(!answered || matches(!now), "round {round}: what was taken is not in force");
        if matches(!now) {
            (now, taken) = (!now, taken + 1);
        }
        wait_for(&format!("round {round}: the manifest in force ({})", file(now)), || is_so(&device, now));
        let pids = device.instance_pids();
        assert_eq!(pids.len(), if now { 2 } else { 3 }, "round {round}: {pids:?}");
    }
    assert!(taken > 0, "no deployment was ever taken");
    device.send("tester", "out", &numbered(sent));
    device.wait_book("a", "the last", |line| line["body"]["seq"] == sent);
    let mut next = 0;
    for line in device.book("a") {
        let seq = line["body"]["seq"].as_u64().expect("a number");
        assert!(seq <= next, "{seq} came before {next}");
        next = next.max(seq + 1);
    }
    assert_eq!(next, sent + 1, "some are missing");
}

fn file(second: bool) -> &'static str {
    if second { "two.json" } else { "one.json" }
}
