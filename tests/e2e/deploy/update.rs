//! Updates that prove themselves, or are undone: whatever the new image does, messages arrive, all and in order.

use serde_json::Value;
use skerry_tests::{Device, Image, Random, numbered, rounds, wait_for};

const ROUTE: &str =
    "[routes]\nin = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n";
const NEW: &str = "0.9.0";

/// With a scribe that has proved itself.
fn device(more: &str, window: &str) -> Device {
    let config = format!(
        "{ROUTE}[store]\nflush_interval = \"10ms\"\n[limits]\nhang_after = \"1s\"\n{more}\
         [restart]\nbackoff_base = \"50ms\"\nbackoff_max = \"200ms\"\nhealth_window = \"1s\"\n"
    );
    let mut device = Device::new(&config);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    device.wait_log("proved=true");
    if window != "1s" {
        device.stop();
        device.configure(&config.replace("health_window = \"1s\"", &format!("health_window = \"{window}\"")));
        device.start();
        device.wait_running("scribe");
    }
    device
}

fn old(device: &Device) -> Option<Value> {
    let module = device.module("scribe");
    (module["status"] == "running" && module["image"]["version"] == env!("CARGO_PKG_VERSION")).then_some(module)
}

/// Sequence numbers in the book, in order: each once or more, and never one after a later one that was not seen before.
#[track_caller]
fn all_in_order(device: &Device, count: u64) {
    let mut next = 0;
    for line in device.book("scribe") {
        let seq = line["body"]["seq"].as_u64().unwrap();
        assert!(seq <= next, "{seq} came before {next}");
        next = next.max(seq + 1);
    }
    assert_eq!(next, count, "some are missing");
}

fn rolls_back(fault: &str, window: &str, reason: &str) {
    let device = device("", window);
    let mut sender = device.sender("tester", "out");
    sender.send_lines(&(0..100).map(numbered).collect::<Vec<_>>());
    device.drop_in("scribe.so", &Image::scribe_failing(fault).with_version(NEW));
    device.wait_log(&format!("trial=true image=scribe@{NEW}"));
    sender.send_lines(&(100..300).map(numbered).collect::<Vec<_>>());
    let line = device.wait_log(&format!("rejected=scribe@{NEW}"));
    assert!(line.contains(reason), "{line}");
    sender.send_lines(&(300..400).map(numbered).collect::<Vec<_>>());
    let module = wait_for("the old one is back", || old(&device));
    let problem = module["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains(&format!("scribe {NEW} was rejected")) && problem.contains(reason), "{module}");
    let warnings = device.status()["warnings"].to_string();
    assert!(warnings.contains("was rejected"), "{warnings}");
    device.wait_book("scribe", "the last", |line| line["body"]["seq"] == 399);
    device.wait_count("scribe", "pending", 0);
    all_in_order(&device, 400);
    // Not one is counted as anything but delivered.
    device.wait_count("scribe", "delivered", 400);
    let queue = device.queue("scribe").unwrap_or_default();
    for lost in ["expired", "evicted", "deadLettered", "removed"] {
        assert_eq!(queue[lost], 0, "{lost} in {queue}");
    }
}

#[test]
fn an_image_that_crashes_as_it_starts_goes_again() {
    rolls_back("start", "10s", "SIGABRT");
}

#[test]
fn an_image_that_hangs_goes_again() {
    rolls_back("hang", "10s", "ms");
}

#[test]
fn an_image_that_fails_after_five_seconds_goes_again() {
    rolls_back("later", "20s", "five seconds are over");
}

#[test]
fn an_image_that_says_it_is_unhealthy_goes_again() {
    rolls_back("ill", "10s", "unhealthy: the pen is dry");
}

#[test]
fn an_image_that_runs_well_stays() {
    let mut device = device("", "1s");
    let before = device.wait_running("scribe");
    device.drop_in("scribe.so", &Image::of("scribe").with_version(NEW));
    let after = device.wait_after("scribe", before.generation);
    assert_eq!(after.version, NEW);
    device.wait_log(&format!("proved=true image=scribe@{NEW}"));
    // A crash from now on is one like any other.
    rustix::process::kill_process(rustix::process::Pid::from_raw(after.pid).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    assert_eq!(device.wait_after("scribe", after.generation).version, NEW);
    device.stop();
    device.start();
    assert_eq!(device.wait_running("scribe").version, NEW);
}

#[test]
fn what_was_rejected_stays_away_until_somebody_says_so() {
    let mut device = device("", "10s");
    device.drop_in("scribe.so", &Image::scribe_failing("start").with_version(NEW));
    device.wait_log(&format!("rejected=scribe@{NEW}"));
    wait_for("the old one is back", || old(&device));
    device.stop();
    device.start();
    wait_for("the old one runs", || old(&device));
    let trials = |device: &Device| device.log().matches("trial=true").count();
    assert_eq!(trials(&device), 1);
    device.skerry(&["restart", "scribe"]);
    wait_for("it is tried again", || (trials(&device) == 2).then_some(()));
    wait_for("and the old one is back", || old(&device));
    // The image is put right.
    device.drop_in("scribe.so", &Image::of("scribe").with_version("0.9.1"));
    wait_for("the new one runs", || device.running("scribe").filter(|now| now.version == "0.9.1"));
}

#[test]
fn a_setup_comes_back_with_its_image() {
    let mut device = device("", "10s");
    device.drop_in("new.so", &Image::scribe_failing("start").with_version(NEW));
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    device.wait_log(&format!("rejected=scribe@{NEW}"));
    wait_for("the old one is back, although its file is gone", || old(&device));
    device.stop();
    device.start();
    wait_for("and after a start", || old(&device));
}

/// The power goes at any moment of an update; afterwards one good version runs, and nothing is lost.
#[test]
fn kills_at_any_moment_of_an_update() {
    let mut device = device("", "1s");
    let mut random = Random::new(0x5eed);
    let mut sent = 0;
    let faulty = [Image::scribe_failing("start"), Image::scribe_failing("hang"), Image::of("scribe")];
    for round in 0..rounds(50, 6) {
        let image = &faulty[round as usize % faulty.len()];
        let version = format!("0.{}.{}", 3 + round / 10, round % 10);
        device.send_all("tester", "out", &(sent..sent + 20).map(numbered).collect::<Vec<_>>());
        sent += 20;
        device.drop_in("scribe.so", &image.clone().with_version(&version));
        // Between at once and the end of the window.
        let moment = std::time::Duration::from_millis(random.below(1_500));
        skerry_tests::wait_within(moment, || None::<()>);
        device.kill();
        device.start();
        let good = round % 3 == 2;
        wait_for(&format!("round {round}: one good version runs; it is {}", device.module("scribe")), || {
            let running = device.running("scribe")?;
            let is_new = running.version == version;
            (good || !is_new).then_some(())
        });
        device.send_all("tester", "out", &[numbered(sent)]);
        sent += 1;
        device.wait_book("scribe", "the newest", |line| line["body"]["seq"] == sent - 1);
    }
    let pids = device.instance_pids();
    assert_eq!(pids.len(), 1, "{pids:?}");
    all_in_order(&device, sent);
}
