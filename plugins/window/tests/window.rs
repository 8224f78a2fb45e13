//! Readings in, aggregates out, and nothing completed too early.

use serde_json::{Value, json};
use skerry_abi::{Harness, Message, Outcome, harness::End};
use skerry_window::Window;

fn reading(value: f64, room: &str, seq: u64) -> Message {
    Message::from_json(&json!({"temperature": value, "room": room}))
        .unwrap()
        .with("epoch", "7")
        .with("seq", seq.to_string().as_str())
}

#[test]
fn an_aggregate_says_what_it_covers() {
    let mut harness = Harness::start::<Window>(json!({"count": 3, "key": "room"}));
    for (seq, value) in [(1, 20.0), (2, 30.0), (3, 25.0)] {
        harness.send("input1", reading(1.0, "other", seq + 10));
        harness.send("input1", reading(value, "12", seq));
    }
    let other: Value = harness.receive("aggregates").json().unwrap();
    assert_eq!((&other["key"], &other["mean"]), (&json!("other"), &json!(1.0)));
    let mut body: Value = harness.receive("aggregates").json().unwrap();
    // They are numbered, so that who gets them can tell that none is missing.
    let numbers = ["epoch", "seq"].map(|name| body.as_object_mut().unwrap().remove(name));
    assert_eq!(numbers, [Some(other["epoch"].clone()), Some(json!(2))]);
    assert!(body.as_object_mut().unwrap().remove("safe").unwrap().as_u64() < Some(2));
    assert_eq!(
        body,
        json!({
            "field": "temperature", "key": "12", "count": 3, "min": 20.0, "max": 30.0, "mean": 25.0,
            "first": 20.0, "last": 25.0,
            "covers": [{"source": "harness", "epoch": "7", "first_seq": 1, "last_seq": 3, "count": 3}]
        })
    );
    harness.wait_done();
}

#[test]
fn time_ends_a_window_too() {
    let mut harness = Harness::start::<Window>(json!({"seconds": 0.02}));
    harness.send("input1", reading(1.0, "12", 1));
    assert_eq!(harness.receive("aggregates").json::<Value>().unwrap()["count"], 1);
    harness.wait_done();
}

#[test]
fn readings_complete_when_their_aggregate_is_safe() {
    let mut harness = Harness::start::<Window>(json!({"count": 2}));
    harness.hold();
    let first = harness.send("input1", reading(1.0, "12", 1));
    let second = harness.send("input1", reading(2.0, "12", 2));
    harness.receive("aggregates");
    harness.ping();
    assert_eq!((harness.end_so_far(first), harness.end_so_far(second)), (None, None));
    harness.release(Outcome::Durable, "");
    assert_eq!((harness.end_of(first), harness.end_of(second)), (End::Done, End::Done));
    let count = harness.method("count", Value::Null).payload;
    assert_eq!((&count["sent"], &count["safe"]), (&json!(1), &json!(1)));
}

#[test]
fn a_stop_gives_back_what_was_not_summed_up() {
    let mut harness = Harness::start::<Window>(json!({}));
    let number = harness.send("input1", reading(1.0, "12", 1));
    harness.ping();
    harness.stop();
    assert_eq!(harness.end_of(number), End::Returned);
}

#[test]
fn a_window_needs_an_end() {
    let error = Harness::with(json!({"seconds": 0})).try_start::<Window>().err().unwrap();
    assert!(error.contains("needs an end"), "{error}");
}
