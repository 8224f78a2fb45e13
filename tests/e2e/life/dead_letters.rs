//! Dead letters in an operator's hands: listed, shown, replayed once the cause is mended, purged; and a replay that is cut
//! off by a kill loses nothing.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Ran, Random, numbered, program, rounds, wait_for};

/// tester -> faulty, which refuses all until it is told otherwise -> scribe.
const CONFIG: &str = r#"[store]
flush_interval = "10ms"
max_refusals = 1
[modules.faulty]
settings = { always = "error" }
[routes]
in = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/faulty/inputs/input1")'
out = 'FROM /messages/modules/faulty/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
"#;

const ENDPOINT: &str = "modules/faulty/inputs/input1";

/// With so many dead letters.
fn device(letters: u64) -> Device {
    let mut device = Device::new(CONFIG);
    device.drop_in("faulty.so", &Image::of("faulty"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("faulty");
    let lines: Vec<Value> = (0..letters).map(numbered).collect();
    let answers = device.send_all("tester", "out", &lines);
    assert!(answers.iter().all(|a| matches!(a["outcome"].as_str(), Some("deadLettered" | "durable"))), "{answers:?}");
    device.wait_count("faulty", "deadLettered", letters);
    device
}

fn dead(device: &Device, arguments: &[&str]) -> Ran {
    device.skerry(&[&["dead-letters"], arguments].concat())
}

fn listed(device: &Device) -> Vec<Value> {
    let ran = dead(device, &["list", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn mend(device: &Device) {
    assert_eq!(device.skerry(&["twin", "set", "faulty", r#"{"always": ""}"#]).code, Some(0));
}

/// accepted = delivered + expired + evicted + dead-lettered + removed + pending.
fn balanced(device: &Device) -> Value {
    let queue = device.queue("faulty").unwrap();
    let of = |name: &str| queue[name].as_u64().unwrap();
    let sum: u64 = ["delivered", "expired", "evicted", "deadLettered", "removed", "pending"].map(of).iter().sum();
    assert_eq!(of("accepted"), sum, "{queue}");
    queue
}

#[test]
fn they_are_listed_shown_replayed_and_purged() {
    let device = device(4);
    let all = listed(&device);
    assert_eq!(all.len(), 4, "{all:?}");
    let ids: Vec<&str> = all.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!((&all[0]["endpoint"], &all[0]["refusals"], all[0].get("body")), (&json!(ENDPOINT), &json!(1), None));
    assert!(all[0]["reason"].as_str().is_some_and(|why| !why.is_empty()), "{}", all[0]);
    let shown = dead(&device, &["show", ids[1], "--json"]).json();
    assert_eq!(shown["body"], json!({"seq": 1}), "{shown}");
    let table = dead(&device, &["list", "--endpoint", ENDPOINT, "--limit", "2"]).out;
    assert!(table.trim_start().starts_with("ID") && table.lines().count() == 3 && table.contains(ids[0]), "{table}");

    // What is not clear is not done.
    for (wrong, text) in [
        (&["purge"][..], "which ones?"),
        (&["purge", ids[0], "--all"], "which ones?"),
        (&["replay", "9999-1"], "no dead letter 9999-1"),
        (&["replay", "nonsense"], "expected one as"),
        (&["replay", "--endpoint", "modules/faulty/inputs/input2"], "did you mean \"modules/faulty/inputs/input1\""),
        (&["show", "9999-1"], "no dead letter"),
    ] {
        let ran = dead(&device, wrong);
        assert!(ran.code != Some(0) && ran.err.contains(text), "{wrong:?}: {ran:?}");
    }
    assert_eq!(listed(&device).len(), 4);

    // Replayed too early it dies again, as a new letter.
    assert_eq!(dead(&device, &["replay", ids[0]]).out, "1 dead letter is back in its queue\n");
    device.wait_count("faulty", "deadLettered", 5);
    wait_for("it is a letter again", || (listed(&device).len() == 4).then_some(()));
    balanced(&device);
    assert_eq!(dead(&device, &["purge", ids[1], "--json"]).json(), json!({"purged": 1}));
    mend(&device);
    assert_eq!(dead(&device, &["replay", "--endpoint", ENDPOINT, "--json"]).json(), json!({"replayed": 3}));
    for seq in [0, 2, 3] {
        device.wait_book("scribe", "it at last", |line| line["body"]["seq"] == seq);
    }
    device.wait_count("faulty", "delivered", 3);
    let queue = balanced(&device);
    assert_eq!((&queue["accepted"], &queue["deadLettered"], &queue["pending"]), (&json!(8), &json!(5), &json!(0)));
    assert_eq!(device.book("scribe").len(), 3, "what was purged does not come");
    let status = device.status();
    let letters = &status["deadLetters"];
    assert_eq!([&letters["kept"], &letters["replayed"], &letters["purged"]], [&json!(0), &json!(4), &json!(1)]);
    assert_eq!(dead(&device, &["list"]).out, "no dead letters\n");
    assert_eq!(dead(&device, &["purge", "--all", "--json"]).json(), json!({"purged": 0}));
}

#[test]
fn a_replay_that_is_cut_off_by_a_kill_loses_none() {
    const LETTERS: u64 = 300;
    let mut device = device(LETTERS);
    let mut random = Random::new(21);
    mend(&device);
    for _ in 0..rounds(8, 3) {
        let mut replay = Command::new(program());
        replay.args(["dead-letters", "replay", "--all"]).env("SKERRY_CONTROL", device.socket());
        let mut replay = replay.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At a moment of its own: once some more have arrived.
        let wanted = device.book("scribe").len() as u64 + random.below(60);
        wait_for("some are back, or all", || {
            let over = replay.try_wait().unwrap().is_some();
            (over || device.book("scribe").len() as u64 >= wanted).then_some(())
        });
        device.kill();
        let _ = replay.kill();
        replay.wait().unwrap();
        device.start();
        balanced_or_new(&device);
    }
    let ran = dead(&device, &["replay", "--all"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(listed(&device).is_empty());
    device.wait_count("faulty", "pending", 0);
    device.wait_count("scribe", "pending", 0);
    let came: BTreeSet<u64> = device.book("scribe").iter().filter_map(|line| line["body"]["seq"].as_u64()).collect();
    assert_eq!(came, (0..LETTERS).collect::<BTreeSet<_>>());
    balanced(&device);
}

/// The queue is known again as soon as the runtime answers.
fn balanced_or_new(device: &Device) {
    if device.queue("faulty").is_some() {
        balanced(device);
    }
}
