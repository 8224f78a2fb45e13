//! The rules of a callback, one test each, through the real codec and the real pump.

mod subject;

use std::{sync::Mutex, time::Duration};

use serde_json::{Value, json};
use skerry_abi::{
    Harness, Message, Outcome,
    harness::{self, End},
};
use subject::{Subject, gate, stopped_at};

/// The order `block` has one gate for all.
static ONE_GATE: Mutex<()> = Mutex::new(());

fn start() -> Harness {
    Harness::start::<Subject>(json!({}))
}

fn order(order: Value) -> Message {
    Message::from_json(&order).unwrap()
}

fn told(what: &str) -> Message {
    order(json!({ "do": what }))
}

fn body(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

#[test]
fn an_input_completes_when_its_outputs_are_safe() {
    let mut harness = start();
    harness.hold();
    let number = harness.send("work", told("pass"));
    harness.receive("out");
    harness.ping();
    assert_eq!(harness.end_so_far(number), None);
    harness.release(Outcome::Durable, "");
    assert_eq!(harness.end_of(number), End::Done);
}

#[test]
fn a_refused_message_comes_again_before_the_later_ones_of_its_queue() {
    let mut harness = start();
    harness.send("work", order(json!({"do": "refuse", "count": 3, "n": 0})));
    for n in 1..50 {
        harness.send("work", order(json!({"do": "pass", "n": n})));
        harness.send("other", order(json!({"do": "nothing"})));
    }
    for n in 0..50 {
        assert_eq!(harness.receive("out").json::<Value>().unwrap()["n"], n);
    }
    harness.wait_done();
    assert_eq!(harness.refusals(), ["refusal 1", "refusal 2", "refusal 3"]);
}

#[test]
fn a_panic_is_a_refusal_with_its_place_and_the_module_goes_on() {
    let mut harness = start();
    harness.attempts_max(2);
    let bad = harness.send("work", told("panic"));
    let good = harness.send("work", told("pass"));
    assert!(matches!(harness.end_of(bad), End::GivenUp(reason) if reason.contains("as told on work")));
    assert_eq!(harness.end_of(good), End::Done);
    let panics = harness.panics();
    assert_eq!(panics.len(), 2);
    assert!(panics[0].contains("subject/mod.rs:") && panics[0].contains("thread harness-main"), "{panics:?}");
}

#[test]
fn a_deferred_message_ends_when_its_handle_says_so() {
    let mut harness = start();
    let numbers: Vec<u64> = (0..3).map(|_| harness.send("work", told("defer"))).collect();
    let later = harness.send("work", told("nothing"));
    assert_eq!(harness.end_of(later), End::Done);
    assert_eq!(harness.end_so_far(numbers[0]), None);
    harness.method("complete", Value::Null);
    numbers.iter().for_each(|number| assert_eq!(harness.end_of(*number), End::Done));
    let number = harness.send("work", told("defer to thread"));
    assert_eq!(harness.end_of(number), End::Done);
}

#[test]
fn messages_complete_with_the_one_that_stands_for_them() {
    let mut harness = start();
    let numbers: Vec<u64> = (0..5).map(|_| harness.send("work", told("defer"))).collect();
    harness.hold();
    // Calls wait for no message, so these have to be there first.
    let last = harness.send("work", told("nothing"));
    harness.end_of(last);
    assert_eq!(harness.method("together", Value::Null).payload, 0);
    harness.receive("out");
    assert!(numbers.iter().all(|number| harness.end_so_far(*number).is_none()));
    harness.release(Outcome::Delivered, "");
    numbers.iter().for_each(|number| assert_eq!(harness.end_of(*number), End::Done));
}

#[test]
fn a_dropped_handle_refuses() {
    let mut harness = start();
    harness.attempts_max(1);
    let number = harness.send("work", told("defer"));
    let last = harness.send("work", told("nothing"));
    harness.end_of(last);
    harness.method("drop", Value::Null);
    assert!(matches!(harness.end_of(number), End::GivenUp(reason) if reason.contains("dropped")));
    // Its second `defer` fails, which refuses the message; the first handle then ends nothing.
    let number = harness.send("work", told("defer twice"));
    assert!(matches!(harness.end_of(number), End::GivenUp(reason) if reason.contains("once")));
    harness.method("complete", Value::Null);
    harness.ping();
}

#[test]
fn nobody_waits_for_a_receipt_inside_a_callback() {
    let mut harness = start();
    harness.hold();
    let number = harness.send("work", told("wait"));
    harness.receive("out");
    harness.release(Outcome::Delivered, "");
    assert_eq!(harness.end_of(number), End::Done);
}

#[test]
fn a_callback_may_wait_for_a_thread_that_waits_for_a_receipt() {
    let mut harness = start();
    harness.send("work", told("wait elsewhere"));
    assert_eq!(body(&harness.receive("out")), "Delivered");
    harness.wait_done();
}

#[test]
fn a_receipt_is_a_future_for_any_executor() {
    let mut harness = start();
    harness.hold();
    harness.send("work", told("await"));
    assert_eq!(body(&harness.receive("threads")), "1");
    harness.ping();
    harness.release(Outcome::Durable, "");
    assert_eq!(body(&harness.receive("threads")), "Durable");
}

#[test]
fn a_callback_overdraws_and_the_next_input_waits() {
    let mut harness = Harness::with(json!({})).credit(2, 1 << 20).start::<Subject>();
    harness.hold();
    let first = harness.send("work", order(json!({"do": "send", "count": 60})));
    let second = harness.send("work", told("pass"));
    (0..60).for_each(|_| drop(harness.receive("out")));
    assert_eq!(harness.method("echo", json!(1)).payload, 1);
    assert!(harness.receive_within("out", Duration::from_millis(30)).is_none());
    harness.release(Outcome::Delivered, "");
    harness.receive("out");
    assert_eq!((harness.end_of(first), harness.end_of(second)), (End::Done, End::Done));
    harness.attempts_max(1);
    harness.hold();
    let too_much = harness.send("work", order(json!({"do": "send", "count": 70})));
    assert!(matches!(harness.end_of(too_much), End::GivenUp(reason) if reason.contains("no credit")));
}

#[test]
fn try_send_neither_waits_nor_overdraws() {
    let mut harness = Harness::with(json!({})).credit(10, 1 << 20).start::<Subject>();
    harness.hold();
    harness.send("work", order(json!({"do": "try", "count": 15})));
    harness.wait_reported(|reported| reported["full"] == 5);
}

#[test]
fn threads_wait_for_credit_and_lose_nothing() {
    let mut harness = Harness::with(json!({})).credit(7, 1 << 20).start::<Subject>();
    harness.send("work", order(json!({"do": "threads", "threads": 4, "count": 500})));
    let mut next = [0; 4];
    for _ in 0..2_000 {
        let text = body(&harness.receive("threads"));
        let (thread, i) = text.split_once(' ').unwrap();
        let slot = &mut next[thread.parse::<usize>().unwrap()];
        assert_eq!(*slot, i.parse::<u64>().unwrap());
        *slot += 1;
    }
}

#[test]
fn a_stop_ends_the_wait_for_credit() {
    let mut harness = Harness::with(json!({})).credit(3, 1 << 20).start::<Subject>();
    harness.hold();
    harness.send("work", order(json!({"do": "threads", "threads": 1, "count": 10, "blind": true})));
    (0..3).for_each(|_| drop(harness.receive("threads")));
    assert!(harness.receive_within("threads", Duration::from_millis(20)).is_none());
    let stopped = stopped_at();
    harness.stop();
    assert_eq!(stopped.recv_timeout(harness::DEADLINE), Ok(3));
    assert_eq!(body(&harness.receive("out")), "last words");
}

#[test]
fn a_long_callback_keeps_nobody_waiting() {
    let _one = ONE_GATE.lock();
    let open = gate();
    let mut harness = start();
    harness.hold();
    harness.send("other", told("pass"));
    let blocked = harness.send("work", told("block"));
    harness.receive("out");
    harness.ping();
    harness.ping();
    assert_eq!(harness.end_so_far(blocked), None);
    open.send(()).unwrap();
    assert_eq!(harness.end_of(blocked), End::Done);
}

#[test]
fn a_stop_gives_back_what_was_not_begun() {
    let _one = ONE_GATE.lock();
    let open = gate();
    let mut harness = start();
    let deferred = harness.send("work", told("defer"));
    let blocked = harness.send("work", told("block"));
    let waiting: Vec<u64> = (0..10).map(|_| harness.send("work", told("pass"))).collect();
    harness.ping();
    harness.ask_to_stop();
    // Behind the stop: it is heard when this is answered.
    harness.ping();
    open.send(()).unwrap();
    harness.stop();
    assert_eq!(harness.end_of(blocked), End::Done);
    assert_eq!(harness.end_of(deferred), End::Returned);
    waiting.iter().for_each(|number| assert_eq!(harness.end_of(*number), End::Returned));
    assert_eq!(body(&harness.receive("out")), "last words");
}

#[test]
fn the_end_of_the_link_ends_the_instance() {
    let mut harness = start();
    harness.send("work", order(json!({"do": "threads", "threads": 2, "count": 1_000_000})));
    harness.receive("threads");
    harness.cut();
}

#[test]
fn an_instance_that_fails_says_why() {
    let failed = |what: &str| {
        let mut harness = start();
        harness.send("work", told(what));
        harness.wait_failed()
    };
    assert_eq!(failed("fail"), "as told");
    let text = failed("thread panics");
    assert!(text.contains("as told") && text.contains("thread bad"), "{text}");
    let start = |how: &str| Harness::with(json!({ "start": how })).try_start::<Subject>().err().unwrap();
    assert_eq!(start("fail"), "as told");
    assert!(start("panic").contains("panicked: as told, at "));
}

#[test]
fn a_module_says_how_it_is() {
    let mut harness = start();
    assert_eq!(harness.unhealthy(), None);
    harness.method("health", json!("the sensor is silent"));
    assert_eq!(harness.wait_unhealthy(), "the sensor is silent");
    harness.method("health", Value::Null);
    assert_eq!(harness.unhealthy(), None);
    harness.method("health", json!("ä".repeat(1_000)));
    let reason = harness.wait_unhealthy();
    assert!(reason.len() <= 1_024 && reason.starts_with("ää"), "{}", reason.len());
    harness.method("health", json!(" "));
    assert_eq!(harness.wait_unhealthy(), "it says no reason");
}

#[test]
fn ticks_come_at_their_interval_also_when_it_changes() {
    let mut harness = Harness::start::<Subject>(json!({"interval_ms": 3_600_000}));
    harness.set_settings(json!({"interval_ms": 1}));
    for n in 1..5 {
        assert_eq!(body(&harness.receive("out")), format!("tick {n}"));
    }
}

#[test]
fn methods_are_answered_whatever_becomes_of_them() {
    let mut harness = start();
    assert_eq!(harness.method("echo", json!({"a": 1})).payload, json!({"a": 1}));
    assert_eq!(harness.method("none", Value::Null).status, 404);
    let failed = harness.method("fail", Value::Null);
    assert_eq!((failed.status, failed.payload), (500, json!({"error": "as told"})));
    assert_eq!(harness.method("panic", Value::Null).status, 500);
    assert!(harness.panics()[0].contains("as told"));
    let who = harness.method("who", Value::Null).payload;
    assert_eq!((&who[0], &who[1]), (&json!("/devices/harness/modules/subject"), &json!(32)));
}

#[test]
fn what_the_settings_callback_refuses_is_reported() {
    let mut harness = start();
    for how in ["fail", "panic"] {
        harness.set_settings(json!({ "start": how }));
        let state = harness.wait_reported(|reported| reported["settings"]["status"] == "refused");
        assert!(state["settings"]["error"].as_str().unwrap().contains("as told"), "{state}");
        harness.set_settings(json!({}));
        harness.wait_reported(|reported| reported.get("settings").is_none());
    }
    assert_eq!(harness.panics().len(), 1);
}

#[test]
fn what_was_reported_is_there_at_the_start() {
    let mut harness = Harness::with(json!({})).reported(json!({"starts": 1})).start::<Subject>();
    harness.wait_reported(|reported| reported["starts"] == 2);
}

#[test]
fn the_largest_messages_pass() {
    let mut harness = start();
    let pad = "x".repeat(262_144 - 100);
    let numbers: Vec<u64> =
        (0..12).map(|n| harness.send("work", order(json!({"do": "pass", "n": n, "pad": pad})))).collect();
    for n in 0..12 {
        assert_eq!(harness.receive("out").json::<Value>().unwrap()["n"], n);
    }
    numbers.iter().for_each(|number| assert_eq!(harness.end_of(*number), End::Done));
}

#[test]
fn messages_that_break_a_rule_are_not_sent() {
    let mut harness = start();
    harness.attempts_max(1);
    let large = harness.send("work", told("large"));
    assert!(matches!(harness.end_of(large), End::GivenUp(reason) if reason.contains("limit is 262144")));
    let undeclared = harness.send("work", told("undeclared"));
    assert!(matches!(harness.end_of(undeclared), End::GivenUp(reason) if reason.contains("\"nowhere\"")));
}

#[test]
fn the_log_reaches_the_runtime() {
    let mut harness = start();
    harness.send("work", told("log"));
    assert_eq!(harness.wait_log("as told").level, 2);
}
