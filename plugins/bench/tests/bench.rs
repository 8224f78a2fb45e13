//! The driver, the echo and the sink, each against the harness.

use serde_json::{Value, json};
use skerry_abi::{Harness, Message};
use skerry_bench::Bench;

#[test]
fn a_thread_reports_its_rate_when_all_is_safe() {
    let mut harness = Harness::start::<Bench>(json!({"run": "thread", "count": 2_000, "window": 64}));
    (0..2_000).for_each(|_| assert_eq!(harness.receive("ping").body().len(), 256));
    let reported = harness.wait_reported(|reported| reported["result"].is_object());
    assert_eq!(reported["result"]["count"], 2_000);
}

#[test]
fn messages_go_round() {
    for (run, window) in [("loop", 16), ("one", 1)] {
        let mut harness = Harness::start::<Bench>(json!({}));
        harness.method("run", json!({"run": run, "count": 500, "window": window, "bytes": 10}));
        for _ in 0..500 {
            let ping = harness.receive("ping");
            harness.send("pong", Message::new(ping.body()));
        }
        let reported = harness.wait_reported(|reported| reported["result"].is_object());
        assert_eq!((&reported["result"]["run"], &reported["result"]["bytes"]), (&json!(run), &json!(10)));
        assert!(reported["result"]["p50_us"].as_f64() > Some(0.0));
    }
}

#[test]
fn an_echo_replies_and_a_sink_counts() {
    let mut harness = Harness::start::<Bench>(json!({}));
    harness.send("echo", Message::new("a").with("p", "1"));
    assert_eq!(harness.receive("reply").property("p"), Some("1"));
    for _ in 0..10 {
        harness.send("sink", Message::new("1234"));
    }
    harness.wait_done();
    let state = harness.method("sink", Value::Null).payload;
    assert_eq!((&state["count"], &state["bytes"]), (&json!(10), &json!(40)));
}
