//! A hundred instances of one image on one device.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use skerry_tests::{Device, Image, manifest, module, numbered, rounds, wait_within};

/// Until all of them run, on a machine that is busy with other tests.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

#[test]
fn a_hundred_instances_of_one_image() {
    let count = rounds(100, 20) as usize;
    let mut device = Device::new("[modules]\nautostart = false\n");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    let name = |n: usize| format!("m{n:03}");
    let modules: Map<String, Value> = (0..count).map(|n| (name(n), module("scribe"))).collect();
    let to = |n: usize| {
        let (from, name) = (name(n), name((n + 1) % count));
        format!(
            "FROM /messages/modules/{from}/outputs/output1 INTO BrokeredEndpoint(\"/modules/{name}/inputs/input1\")"
        )
    };
    let mut routes: Map<String, Value> = (0..count - 1).map(|n| (format!("r{n:03}"), to(n).into())).collect();
    let first = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/m000/inputs/input1\")";
    routes.insert("first".into(), first.into());
    let mut content = manifest(modules.into(), routes.into());
    for n in 0..count - 1 {
        content["modulesContent"][name(n)] = json!({"properties.desired": {"forward": true}});
    }
    let file = device.path("typed.json");
    std::fs::write(&file, content.to_string()).expect("a manifest");
    let ran = device.skerry(&["deploy", &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let running = || {
        let list = device.get("/modules");
        let running = list.as_array().into_iter().flatten().filter(|module| module["status"] == "running");
        let running: Vec<Value> = running.cloned().collect();
        (running.len() == count).then_some(running)
    };
    let running = wait_within(LONG, running).unwrap_or_else(|| panic!("not all run: {}", device.skerry(&["list"]).out));
    // A process, an identity, a twin and a folder each.
    let distinct = |key: &str| running.iter().map(|module| module[key].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct("pid"), distinct("identity"), device.instance_pids().len()), (count, count, count));
    // A message passes through all of them, one after the other.
    device.send("tester", "out", &numbered(7));
    let last = name(count - 1);
    let passed = || device.book(&last).into_iter().find(|line| line["body"]["seq"] == 7);
    assert!(wait_within(LONG, passed).is_some(), "it did not come through");
    // The agent's report tells of each, although a twin has its limit.
    let reported = || {
        let agent = device.skerry(&["twin", "get", "$edgeAgent", "--json"]).json();
        let modules = agent["reported"]["modules"].as_object()?.clone();
        modules.values().all(|m| m["runtimeStatus"] == "running").then_some(modules.len())
    };
    assert_eq!(wait_within(LONG, reported), Some(count));
    // All of them stop, at once and in order.
    assert!(device.stop().success());
    assert!(device.instance_pids().is_empty());
    assert!(!device.log().contains("stop=late"), "some had to be killed");
}
