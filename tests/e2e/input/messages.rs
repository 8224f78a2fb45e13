//! Messages beyond a limit: each is refused with one sentence, and the ones around it go through.

use serde_json::{Map, Value, json};
use skerry_tests::{Device, Image, numbered};

const ROUTES: &str = r#"[routes]
in = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
out = 'FROM /messages/modules/faulty/* INTO $upstream'
"#;

fn device() -> Device {
    let device = Device::new(ROUTES);
    device.drop_in("scribe.so", &Image::of("scribe"));
    let mut device = device;
    device.start();
    device.wait_running("scribe");
    device
}

/// Between two good ones. Only its own answer says no, with `text`.
fn refused(line: &Value, text: &str) {
    let device = device();
    let answers = device.send_all("tester", "out", &[numbered(1), line.clone(), numbered(2)]);
    assert_eq!(
        (&answers[0]["outcome"], &answers[2]["outcome"]),
        (&json!("delivered"), &json!("delivered")),
        "{answers:?}"
    );
    let said = answers[1]["error"]["message"].as_str().or(answers[1]["reason"].as_str()).unwrap_or_default();
    assert!(said.contains(text) && !said.contains('\n'), "{}", answers[1]);
    let seen: Vec<Value> = device.book("scribe").iter().map(|line| line["body"]["seq"].clone()).collect();
    assert_eq!(seen, [json!(1), json!(2)]);
}

fn properties(count: usize) -> Map<String, Value> {
    (0..count).map(|n| (format!("p{n}"), json!("v"))).collect()
}

#[test]
fn over_256_kib() {
    refused(
        &json!({"body": "x".repeat(256 * 1024 + 1)}),
        "message of 262145 bytes (body and properties): the limit is 262144",
    );
}

#[test]
fn just_256_kib_is_fine() {
    let device = device();
    let answer = device.send("tester", "out", &json!({"body": "x".repeat(256 * 1024)}));
    assert_eq!(answer["outcome"], "delivered");
}

#[test]
fn names_of_properties_that_no_wire_carries() {
    refused(&json!({"body": "x", "properties": {"": "v"}}), "name");
    refused(&json!({"body": "x", "properties": {"n".repeat(2_000): "v"}}), "name");
}

#[test]
fn ten_thousand_properties() {
    refused(&json!({"body": "x", "properties": properties(10_000)}), "10000");
}

#[test]
fn a_thousand_properties_are_fine() {
    let device = device();
    let answer = device.send("tester", "out", &json!({"body": "x", "properties": properties(1_000)}));
    assert_eq!(answer["outcome"], "delivered");
}

#[test]
fn what_is_no_message() {
    let device = device();
    let ran = device.skerry(&["send", "scribe", "output2", "--body", "x"]);
    assert!(ran.code == Some(1) && ran.err.contains("did you mean \"output1\"?"), "{ran:?}");
    let answers = device.send_all("tester", "out", &[numbered(1), json!({"boddy": 1}), json!([1]), numbered(2)]);
    assert!(answers[1].to_string().contains("did you mean"), "{answers:?}");
    assert!(answers[2].to_string().contains("expected an object"), "{answers:?}");
    assert_eq!((&answers[0]["outcome"], &answers[3]["outcome"]), (&json!("delivered"), &json!("delivered")));
    // When there is no good one before it, it is the whole that fails.
    let ran = device.skerry(&["send", "scribe", "output1", "--body", &"x".repeat(100_000), "--property", "=v"]);
    assert!(ran.code == Some(1) && ran.err.lines().count() == 1, "{:?} {}", ran.code, ran.err);
}

#[test]
fn a_module_is_told_the_same() {
    let device = device();
    device.drop_in("faulty.so", &Image::of("faulty"));
    let faulty = device.wait_running("faulty");
    let unfit = [("oversize", "262144"), ("names", "name"), ("properties", "10000"), ("undeclared", "nowhere")];
    for (what, text) in unfit {
        let answer = device.method("faulty", what, &json!({"count": 10_000}));
        let said = answer["payload"].as_str().unwrap_or_default();
        assert!(said.contains(text) && !said.contains('\n'), "{what}: {answer}");
    }
    assert_eq!(device.running("faulty"), Some(faulty), "it should not have ended for it");
    assert!(!device.status()["queues"].to_string().contains("upstream"), "something was let through");
}
