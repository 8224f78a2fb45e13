//! The recorder, from outside: messages in, lines in its folder.

use serde_json::json;
use skerry_abi::{Harness, Message};
use skerry_recorder::Recorder;

#[test]
fn every_message_is_a_line_and_the_file_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"sync": false, "bytes_max": 16});
    let mut harness = Harness::with(settings).state_dir(folder.path()).start::<Recorder>();
    for seq in 1..=3 {
        harness.send("input1", Message::new("x").with("epoch", "7").with("seq", seq.to_string().as_str()));
    }
    harness.send("input1", Message::new("x"));
    harness.wait_done();
    assert_eq!(harness.refusals(), [""; 0]);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let lines: Vec<String> = (read("record.old.txt") + &read("record.txt")).lines().map(str::to_owned).collect();
    let tails: Vec<&str> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(tails.last(), Some(&"- -"));
    assert!(tails.ends_with(&["7 3", "- -"]) && tails.len() < 4, "{tails:?}");
    harness.stop();
}
