//! What was acknowledged is delivered, whatever was killed when: the runtime with -9 at random moments, a module, both.

use std::collections::BTreeSet;

use serde_json::Value;
use skerry_tests::{Device, Image, Random, numbered, rounds, wait_for};

/// tester -> scribe (passes on) -> ledger, which is not there until the end.
const CHAIN: &str = r#"[modules.scribe]
settings = { forward = true }
[store]
flush_interval = "20ms"
[routes]
one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
two = 'FROM /messages/modules/scribe/outputs/output1 INTO BrokeredEndpoint("/modules/ledger/inputs/input1")'
"#;

/// tester -> ledger.
const DIRECT: &str = r#"[store]
flush_interval = "20ms"
[routes]
one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/ledger/inputs/input1")'
"#;

/// Messages of one round at most.
const ROUND: u64 = 400;

/// How often the runtime is killed in one test, and the number that decides when.
fn kills(seed: u64) -> (u32, Random) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = number("SKERRY_KILLS").map_or(rounds(10, 3), |count| count as u32);
    (count, Random::new(number("SKERRY_SEED").unwrap_or(0).wrapping_add(seed)))
}

/// Sends, and kills the runtime in the midst of it; `rounds` times. Returns what was acknowledged, in its order.
fn kill_in_the_midst(device: &mut Device, random: &mut Random, rounds: u32) -> Vec<u64> {
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    for _ in 0..rounds {
        device.start();
        let mut sender = device.sender("tester", "out");
        let before = random.below(ROUND);
        sender.send(next..next + before);
        sender.wait_answers(random.below(before + 1) as usize);
        // Some more that are on their way.
        let after = random.below(ROUND);
        sender.send(next + before..next + before + after);
        next += before + after;
        device.kill();
        let (safe, _) = sender.end();
        acknowledged.extend(safe);
    }
    println!("kills={rounds} acknowledged={}", acknowledged.len());
    acknowledged
}

/// Everything acknowledged came, and each for the first time in the order in which it was sent.
fn nothing_is_missing(device: &Device, acknowledged: &[u64]) {
    let of = |line: &Value| line["body"]["seq"].as_u64();
    let last = acknowledged.last().copied().unwrap_or_default();
    device.wait_book("ledger", &format!("message {last}"), |line| of(line) == Some(last));
    device.wait_count("ledger", "pending", 0);
    let (mut seen, mut firsts) = (BTreeSet::new(), Vec::new());
    for seq in device.book("ledger").iter().filter_map(of) {
        if seen.insert(seq) {
            firsts.push(seq);
        }
    }
    let missing: Vec<&u64> = acknowledged.iter().filter(|seq| !seen.contains(seq)).collect();
    assert!(missing.is_empty(), "{} of {} are lost: {missing:?}", missing.len(), acknowledged.len());
    assert!(firsts.is_sorted(), "out of order: {firsts:?}");
    device.wait_count("ledger", "deadLettered", 0);
}

#[test]
fn what_was_acknowledged_survives_the_runtime() {
    let mut device = Device::new(DIRECT);
    let (count, mut random) = kills(11);
    let acknowledged = kill_in_the_midst(&mut device, &mut random, count);
    assert!(acknowledged.len() > 100, "this test tests nothing: {}", acknowledged.len());
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.start();
    nothing_is_missing(&device, &acknowledged);
}

#[test]
fn and_through_a_chain_of_two() {
    let mut device = Device::new(CHAIN);
    device.drop_in("scribe.so", &Image::of("scribe"));
    let (count, mut random) = kills(12);
    let acknowledged = kill_in_the_midst(&mut device, &mut random, count);
    assert!(acknowledged.len() > 100, "this test tests nothing: {}", acknowledged.len());
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.start();
    nothing_is_missing(&device, &acknowledged);
}

#[test]
fn also_while_they_are_delivered() {
    let mut device = Device::new(CHAIN);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    let (count, mut random) = kills(13);
    let acknowledged = kill_in_the_midst(&mut device, &mut random, count);
    assert!(acknowledged.len() > 100, "this test tests nothing: {}", acknowledged.len());
    device.start();
    nothing_is_missing(&device, &acknowledged);
}

#[test]
fn modules_that_are_killed_on_the_way_lose_nothing() {
    use rustix::process::{Pid, Signal, kill_process};
    let mut device = Device::new(CHAIN);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.start();
    let mut random = Random::new(14);
    let mut sender = device.sender("tester", "out");
    let mut sent = 0;
    for round in 0..rounds(8, 3) {
        let name = ["scribe", "ledger"][round as usize % 2];
        let instance = device.wait_running(name);
        sender.send(sent..sent + 200);
        sender.wait_answers((sent + random.below(200)) as usize);
        sent += 200;
        kill_process(Pid::from_raw(instance.pid).unwrap(), Signal::KILL).unwrap();
        device.wait_after(name, instance.generation);
    }
    sender.wait_answers(sent as usize);
    let (acknowledged, all) = sender.end();
    assert_eq!(acknowledged, all);
    nothing_is_missing(&device, &acknowledged);
}

#[test]
fn an_update_under_load_loses_nothing() {
    let mut device = Device::new(CHAIN);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.start();
    let mut sender = device.sender("tester", "out");
    let mut sent = 0;
    for version in ["0.9.1", "0.9.2", "0.9.3"] {
        let before = device.wait_running("scribe");
        sender.send(sent..sent + 300);
        sent += 300;
        device.drop_in("scribe.so", &Image::of("scribe").with_version(version));
        assert_eq!(device.wait_after("scribe", before.generation).version, version);
    }
    sender.wait_answers(sent as usize);
    let (acknowledged, all) = sender.end();
    assert_eq!(acknowledged, all);
    nothing_is_missing(&device, &acknowledged);
}

#[test]
fn a_clean_stop_keeps_it_all() {
    let mut device = Device::started(DIRECT);
    let lines: Vec<Value> = (0..100).map(numbered).collect();
    device.send_all("tester", "out", &lines);
    assert!(device.stop().success());
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.start();
    nothing_is_missing(&device, &(0..100).collect::<Vec<_>>());
    let book: Vec<Value> = device.book("ledger").iter().map(|line| line["body"]["seq"].clone()).collect();
    assert_eq!(book, (0..100).map(Value::from).collect::<Vec<_>>(), "after a clean stop there are no duplicates");
}

#[test]
fn what_has_expired_while_it_was_off_is_not_delivered() {
    let ttl = r#"[store]
flush_interval = "10ms"
[routes]
short = { route = 'FROM /messages/modules/tester/outputs/short INTO BrokeredEndpoint("/modules/ledger/inputs/input1")', ttl = "1s" }
long = { route = 'FROM /messages/modules/tester/outputs/long INTO BrokeredEndpoint("/modules/ledger/inputs/input1")' }
"#;
    let mut device = Device::started(ttl);
    assert_eq!(device.send("tester", "short", &numbered(1))["outcome"], "durable");
    assert_eq!(device.send("tester", "long", &numbered(2))["outcome"], "durable");
    device.kill();
    device.start();
    wait_for("two seconds", || (device.status()["uptimeSeconds"].as_u64() >= Some(2)).then_some(()));
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.wait_book("ledger", "the long one", |line| line["body"]["seq"] == 2);
    assert_eq!(device.book("ledger").len(), 1);
    device.wait_count("ledger", "accepted", 2);
    device.wait_count("ledger", "delivered", 1);
    device.wait_count("ledger", "expired", 1);
}
