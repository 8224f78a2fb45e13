//! What modules log, in files where that is wanted: rotated, there after a restart, and no trouble for anybody when they can't be written.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, wait_for};

const CONFIG: &str = "[log]\nmodules = \"disk\"\nfile_max = \"16KiB\"\nfiles = 2\n";

fn says(device: &Device, text: &str) {
    let answer = device.method("scribe", "log", &json!(text));
    assert_eq!(answer["status"], 200, "{answer}");
}

/// What `skerry logs` shows of the scribe's own lines.
fn lines(device: &Device, more: &[&str]) -> Vec<String> {
    let ran = device.skerry(&[&["logs", "scribe", "--json"], more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let own = |line: Value| line["message"].as_str().filter(|text| text.starts_with("word ")).map(str::to_owned);
    lines.filter_map(own).collect()
}

#[test]
fn files_are_rotated_and_outlive_the_runtime() {
    let mut device = Device::new(CONFIG);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    let word = |n: u32| format!("word {n:03} {}", "x".repeat(900));
    (0..60).for_each(|n| says(&device, &word(n)));
    wait_for("the last line", || lines(&device, &[]).last().filter(|last| **last == word(59)).map(drop));
    let before = lines(&device, &[]);
    // Two files of 16 KiB hold some thirty of them, in order and to the last.
    assert!(before.len() > 15 && before.len() < 40, "{}", before.len());
    assert!((60 - before.len() as u32..60).map(word).eq(before.iter().cloned()), "{before:?}");
    let folder = device.path("state/logs");
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .expect("a folder of logs")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["scribe.log", "scribe.log.1"]);
    device.stop();
    device.start();
    device.wait_running("scribe");
    says(&device, "word after");
    wait_for("the new line", || (lines(&device, &["--tail", "1"]) == ["word after"]).then_some(()));
    let after = lines(&device, &[]);
    assert!(after.contains(&word(59)), "{after:?}");
    // The cloud's question gets the same.
    let asked = json!({"schemaVersion": "1.0", "items": {"id": "scribe", "filter": {"regex": "^word"}}});
    let answer = device.method("$edgeAgent", "GetModuleLogs", &asked);
    assert!(answer.to_string().contains("word 059") && answer.to_string().contains("word after"), "{answer}");
}

#[test]
fn a_follower_misses_nothing_and_gets_nothing_twice() {
    let device = Device::new(CONFIG);
    device.drop_in("scribe.so", &Image::of("scribe"));
    let mut device = device;
    device.start();
    device.wait_running("scribe");
    (0..20).for_each(|n| says(&device, &format!("word {n:03}")));
    let follower = device.follow("scribe");
    (20..40).for_each(|n| says(&device, &format!("word {n:03}")));
    follower.wait("the last line", |line| line["message"] == "word 039");
    let told = follower.all();
    let words: Vec<&str> =
        told.iter().filter_map(|line| line["message"].as_str()).filter(|t| t.starts_with("word ")).collect();
    assert!((0..40).map(|n| format!("word {n:03}")).eq(words.iter().map(|word| (*word).to_owned())), "{words:?}");
}

#[test]
fn a_full_disk_is_said_and_hurts_no_module() {
    let mut device = Device::new(CONFIG);
    device.drop_in("scribe.so", &Image::of("scribe"));
    std::fs::create_dir_all(device.path("state/logs")).expect("a folder");
    std::os::unix::fs::symlink("/dev/full", device.path("state/logs/scribe.log")).expect("a link");
    device.start();
    let before = device.wait_running("scribe");
    says(&device, "word one");
    wait_for("the warning", || {
        let status = device.status();
        let mut warnings = status["warnings"].as_array()?.iter().filter_map(Value::as_str);
        warnings.any(|w| w.contains("kept in memory only: the disk of the state folder is full")).then_some(())
    });
    says(&device, "word two");
    assert_eq!(lines(&device, &[]), ["word one", "word two"]);
    assert_eq!(device.running("scribe"), Some(before));
}
