//! Echoes through another executor, with little credit and held receipts.

use serde_json::json;
use skerry_abi::{Harness, Message, Outcome, harness::End};
use skerry_tokio_echo::TokioEcho;

#[test]
fn every_message_is_echoed_and_done() {
    let mut harness = Harness::with(json!({})).credit(16, 1 << 20).start::<TokioEcho>();
    for n in 0..200 {
        harness.send("input1", Message::new(n.to_string()));
    }
    let mut echoed: Vec<u32> =
        (0..200).map(|_| String::from_utf8_lossy(harness.receive("output1").body()).parse().unwrap()).collect();
    harness.wait_done();
    echoed.sort_unstable();
    assert_eq!(echoed, (0..200).collect::<Vec<_>>());
    harness.stop();
}

#[test]
fn an_input_is_done_when_its_echo_is_safe() {
    let mut harness = Harness::start::<TokioEcho>(json!({}));
    harness.hold();
    let number = harness.send("input1", Message::new("a"));
    harness.receive("output1");
    harness.ping();
    assert_eq!(harness.end_so_far(number), None);
    harness.release(Outcome::Durable, "");
    assert_eq!(harness.end_of(number), End::Done);
}

#[test]
fn a_stop_gives_back_what_is_under_way() {
    let mut harness = Harness::start::<TokioEcho>(json!({}));
    harness.hold();
    let number = harness.send("input1", Message::new("a"));
    harness.receive("output1");
    harness.stop();
    assert_eq!(harness.end_of(number), End::Returned);
}
