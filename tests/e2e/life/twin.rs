//! Desired properties reach a module, reported ones come from it, both survive, and each module has only its own.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, wait_for};

fn device() -> Device {
    let mut device = Device::new("");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    device.wait_running("scribe");
    device.wait_running("filter");
    device
}

fn twin(device: &Device, module: &str) -> Value {
    device.skerry(&["twin", "get", module, "--json"]).json()
}

#[test]
fn what_is_set_reaches_the_module_and_no_other() {
    let device = device();
    let set = device.skerry(&["twin", "set", "scribe", r#"{"forward": true}"#, "--json"]).json();
    let reported = wait_for("the scribe's report", || {
        let twin = twin(&device, "scribe");
        (twin["reported"]["forwards"] == true).then_some(twin)
    });
    assert_eq!(reported["desired"]["forward"], true, "{reported}");
    assert_eq!(set["desired"]["forward"], true, "{set}");
    let other = twin(&device, "filter");
    assert!(other["desired"].get("forward").is_none() && other["reported"].get("forwards").is_none(), "{other}");
}

#[test]
fn it_survives_a_kill() {
    let mut device = device();
    device.skerry(&["twin", "set", "scribe", r#"{"forward": true, "note": "kept"}"#]);
    let before = twin(&device, "scribe")["desired"].clone();
    device.kill();
    device.start();
    assert_eq!(twin(&device, "scribe")["desired"], before);
    assert_eq!(before["note"], "kept");
}

#[test]
fn what_does_not_fit_is_refused_by_the_module_and_told() {
    let device = device();
    let before = device.wait_running("filter");
    assert_eq!(device.skerry(&["twin", "set", "filter", r#"{"threshold": "warm"}"#]).code, Some(0));
    let reported = wait_for("the filter's report", || {
        let settings = twin(&device, "filter")["reported"]["settings"].clone();
        (settings["status"] == "refused").then_some(settings)
    });
    assert!(reported["error"].as_str().is_some_and(|e| e.contains("threshold")), "{reported}");
    assert_eq!(device.running("filter"), Some(before));
    // A better one clears it.
    device.skerry(&["twin", "set", "filter", r#"{"threshold": 30}"#]);
    wait_for("a clear report", || twin(&device, "filter")["reported"].get("settings").is_none().then_some(()));
}

#[test]
fn beyond_a_limit_the_rule_is_named_and_nothing_changes() {
    let device = device();
    let deep = (0..12).fold(json!(1), |inner, n| json!({format!("level{n}"): inner}));
    let cases = [
        (json!({"text": "x".repeat(5_000)}), "4"),
        (json!({"a$b": 1}), "$"),
        (json!({"a.b": 1}), "."),
        (deep, "10"),
        (json!({"big": 9_007_199_254_740_993_i64 * 2}), ""),
        ((0..40).map(|n| (format!("k{n}"), json!("x".repeat(1_000)))).collect(), "32"),
    ];
    let before = twin(&device, "filter");
    for (patch, rule) in cases {
        let ran = device.skerry(&["twin", "set", "filter", &patch.to_string()]);
        assert!(ran.code == Some(1) && ran.err.contains(rule) && ran.err.lines().count() == 1, "{rule}: {ran:?}");
    }
    assert_eq!(twin(&device, "filter")["desired"], before["desired"]);
}

#[test]
fn nobody_has_a_twin_who_never_was() {
    let device = device();
    let ran = device.skerry(&["twin", "get", "filtre"]);
    assert!(ran.code == Some(1) && ran.err.contains("filter"), "{ran:?}");
}

#[test]
fn settings_of_the_configuration_are_the_first_desired_properties_and_no_more() {
    let mut device = Device::new("[modules.filter.settings]\nthreshold = 7.5\n");
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    device.wait_running("filter");
    assert_eq!(twin(&device, "filter")["desired"]["threshold"], 7.5);
    device.skerry(&["twin", "set", "filter", r#"{"threshold": 9}"#]);
    device.stop();
    device.start();
    assert_eq!(twin(&device, "filter")["desired"]["threshold"], 9);
}
