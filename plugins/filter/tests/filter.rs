//! The filter, from outside: readings in, alerts out.

use serde_json::{Value, json};
use skerry_abi::{Harness, Message, harness::End};
use skerry_filter::Filter;

fn reading(body: Value) -> Message {
    Message::from_json(&body).unwrap().with("room", "12")
}

fn check(settings: Value, bodies: &[Value], passed: &[Value]) {
    let mut harness = Harness::start::<Filter>(settings.clone());
    for body in bodies {
        harness.send("input1", reading(body.clone()));
    }
    for expected in passed {
        let alert = harness.receive("alerts");
        assert_eq!(alert.json::<Value>().unwrap(), *expected, "{settings}");
        assert_eq!(alert.property("room"), Some("12"));
        assert!(alert.property("alert").is_some());
    }
    harness.wait_done();
    assert_eq!(harness.refusals(), [""; 0], "{settings}");
    harness.stop();
}

#[test]
fn what_is_beyond_the_threshold_passes() {
    let (cool, edge, hot) = (json!({"temperature": 20}), json!({"temperature": 25}), json!({"temperature": 25.5}));
    let all = [cool.clone(), edge.clone(), hot.clone()];
    check(json!({}), &all, std::slice::from_ref(&hot));
    check(json!({"direction": "below"}), &all, std::slice::from_ref(&cool));
    check(json!({"threshold": 10}), &all, &all);
    let nested = json!({"machine": {"rpm": 900}});
    check(
        json!({"field": "machine.rpm", "threshold": 800}),
        std::slice::from_ref(&nested),
        std::slice::from_ref(&nested),
    );
}

#[test]
fn new_settings_hold_for_the_messages_behind_them() {
    let mut harness = Harness::start::<Filter>(json!({}));
    harness.send("input1", reading(json!({"temperature": 20, "n": 1})));
    harness.set_settings(json!({"threshold": 10}));
    harness.send("input1", reading(json!({"temperature": 20, "n": 2})));
    assert_eq!(harness.receive("alerts").json::<Value>().unwrap()["n"], 2);
    assert_eq!(harness.wait_reported(|reported| reported["threshold"] == 10.0)["field"], "temperature");
}

#[test]
fn settings_that_do_not_fit_are_refused_and_the_old_ones_stay() {
    let mut harness = Harness::start::<Filter>(json!({"threshold": 30}));
    harness.set_settings(json!({"direction": "sideways"}));
    let state = harness.wait_reported(|reported| reported["settings"]["status"] == "refused");
    assert!(state["settings"]["error"].as_str().unwrap().contains("direction: unknown variant"), "{state}");
    harness.send("input1", reading(json!({"temperature": 29})));
    harness.wait_done();
    assert!(harness.receive_within("alerts", std::time::Duration::ZERO).is_none());
    harness.set_settings(json!({"threshold": 20, "treshold": 1}));
    let state = harness.wait_reported(|reported| reported["settings"]["status"] == "applied");
    assert_eq!(state["settings"]["warning"], "unknown: treshold");
    harness.set_settings(json!({"threshold": 20}));
    harness.wait_reported(|reported| reported.get("settings").is_none());
}

#[test]
fn what_has_no_such_field_is_refused() {
    let mut harness = Harness::start::<Filter>(json!({}));
    harness.attempts_max(3);
    let broken = harness.send("input1", reading(json!({"humidity": 40})));
    let fine = harness.send("input1", reading(json!({"temperature": 40})));
    let reason = "the body has no number at \"temperature\"".to_owned();
    assert_eq!(harness.end_of(broken), End::GivenUp(reason.clone()));
    assert_eq!(harness.end_of(fine), End::Done);
    assert_eq!(harness.refusals(), [reason.clone(), reason.clone(), reason]);
}
