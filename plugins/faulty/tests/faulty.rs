//! The faults that a test process survives. The others are for tests with real processes.

use serde_json::{Value, json};
use skerry_abi::{Harness, Message, harness::End};
use skerry_faulty::Faulty;

fn start() -> Harness {
    Harness::start::<Faulty>(json!({}))
}

fn order(order: Value) -> Message {
    Message::from_json(&order).unwrap()
}

fn check(method: &str, payload: Value, part: &str) {
    let shown = start().method(method, payload).payload.to_string();
    assert!(shown.contains(part), "{method}: {shown}");
}

#[test]
fn without_an_order_it_echoes() {
    let mut harness = start();
    harness.send("input1", Message::new("any"));
    assert_eq!(harness.receive("output1").body(), b"any");
    harness.wait_done();
}

#[test]
fn it_says_how_it_is() {
    let mut harness = start();
    harness.method("unhealthy", Value::Null);
    assert_eq!(harness.wait_unhealthy(), "as told");
    harness.method("healthy", Value::Null);
    assert_eq!(harness.unhealthy(), None);
}

#[test]
fn it_refuses_as_often_as_told() {
    let mut harness = start();
    let number = harness.send("input1", order(json!({"do": "refuse", "count": 3})));
    assert_eq!(harness.end_of(number), End::Done);
    assert_eq!(harness.refusals().len(), 3);
}

#[test]
fn panics_and_errors_are_refusals() {
    let mut harness = Harness::start::<Faulty>(json!({"always": "panic"}));
    harness.attempts_max(2);
    let number = harness.send("input1", Message::new(""));
    assert!(matches!(harness.end_of(number), End::GivenUp(reason) if reason.contains("as told")));
    let number = harness.send("input1", Message::new("").with("do", "error"));
    assert_eq!(harness.end_of(number), End::GivenUp("as told".to_owned()));
    assert_eq!(harness.method("panic", Value::Null).status, 500);
}

#[test]
fn a_start_can_fail() {
    for fault in ["panic", "error"] {
        let error = Harness::with(json!({ "start": fault })).try_start::<Faulty>().err().unwrap();
        assert!(error.contains("as told"), "{error}");
    }
}

#[test]
fn messages_that_break_a_rule_are_not_sent() {
    check("undeclared", Value::Null, "not declared");
    check("oversize", Value::Null, "limit is 262144");
    check("names", Value::Null, "control character");
    check("properties", json!({"count": 10_000}), "limit is 1024");
    check("receipt", Value::Null, "inside a callback");
    check("open", json!({"path": "/proc/self"}), "allowed");
    check("connect", json!({"path": "/no/such/socket"}), "No such file");
}

#[test]
fn a_burst_ends_where_the_credit_does() {
    let mut harness = Harness::with(json!({})).credit(10, 1 << 20).start::<Faulty>();
    harness.hold();
    assert_eq!(harness.method("burst", json!({"count": 1_000, "bytes": 8})).payload, 74);
}

#[test]
fn a_flood_comes_through_whole() {
    let mut harness = Harness::with(json!({})).credit(32, 1 << 20).start::<Faulty>();
    harness.method("flood", json!({"count": 2_000}));
    (0..2_000).for_each(|_| drop(harness.receive("output2")));
    harness.stop();
}

#[test]
fn faults_come_by_settings_too() {
    let mut harness = start();
    harness.set_settings(json!({"do": "leak", "bytes": 1}));
    harness.wait_reported(|reported| reported["shown"] == 1 << 20);
    harness.method("fail", Value::Null);
    assert_eq!(harness.wait_failed(), "as told");
}
