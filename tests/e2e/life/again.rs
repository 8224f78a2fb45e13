//! A page of the store's index that redb panics over: the runtime begins again in its place, makes the index anew, and has lost nothing
//! that it acknowledged; and it does not begin again for ever.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use skerry_tests::{Device, Image, numbered, program, rounds, wait_for};

const DIRECT: &str = r#"[store]
flush_interval = "10ms"
[routes]
one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/ledger/inputs/input1")'
"#;
const COUNT: u64 = 50;
/// redb's, bytes.
const PAGE: usize = 4096;

/// With messages that wait for a module, and stopped in peace: redb then believes every page of its file.
fn with_messages() -> Device {
    let mut device = Device::started(DIRECT);
    let lines: Vec<Value> = (0..COUNT).map(numbered).collect();
    let answers = device.send_all("tester", "out", &lines);
    assert!(answers.iter().all(|answer| answer["outcome"] == "durable"), "{answers:?}");
    assert!(device.stop().success());
    device
}

/// Pages of the index that are in use: leaves and branches begin with a one or a two.
fn pages(index: &[u8]) -> Vec<usize> {
    (1..index.len() / PAGE).filter(|page| matches!(index[page * PAGE], 1 | 2)).collect()
}

fn break_page(index: &mut [u8], page: usize) {
    index[page * PAGE..(page + 1) * PAGE].fill(0xa5);
}

/// Another device, with a copy of the store.
fn copied(from: &Device) -> Device {
    let device = Device::new(DIRECT);
    let to = device.path("state/store");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from.path("state/store")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    device
}

fn begun_again(device: &Device) -> bool {
    device.log().contains("status=beginning-again")
}

#[test]
fn a_broken_page_costs_a_beginning_and_no_message() {
    let origin = with_messages();
    let sound = fs::read(origin.path("state/store/store.redb")).unwrap();
    let pages = pages(&sound);
    let every = (pages.len() / rounds(6, 2) as usize).max(1);
    let mut again = 0;
    for page in pages.iter().step_by(every) {
        let mut device = copied(&origin);
        let mut index = sound.clone();
        break_page(&mut index, *page);
        fs::write(device.path("state/store/store.redb"), index).unwrap();
        device.start();
        device.drop_in("ledger.so", &Image::scribe_named("ledger"));
        let seqs =
            || -> BTreeSet<u64> { device.book("ledger").iter().filter_map(|l| l["body"]["seq"].as_u64()).collect() };
        wait_for(&format!("all messages in spite of page {page}: {}", device.log()), || {
            (seqs().len() as u64 == COUNT).then_some(())
        });
        if begun_again(&device) {
            again += 1;
            told(&device);
        }
        assert!(device.stop().success(), "the process is still the one that was started");
    }
    println!("pages={} again={again}", pages.len());
    assert!(again > 0, "no page made redb panic: this test tests nothing");
}

/// In the log, in `status` and by `check`.
fn told(device: &Device) {
    let log = device.log();
    assert!(log.contains("status=failed thread=") && log.contains("redb"), "{log}");
    let warnings = wait_for("a status", || Some(device.status()["warnings"].to_string()).filter(|w| w.len() > 2));
    assert!(warnings.contains("began again by itself") && warnings.contains("broken-1"), "{warnings}");
    let (config, state) = (device.path("config.toml"), device.path("state"));
    let check = device.skerry(&["check", "--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()]);
    assert!(check.out.contains("store.redb.broken-1"), "{check:?}");
}

#[test]
fn what_fails_again_and_again_ends_with_a_sentence() {
    let origin = with_messages();
    let sound = fs::read(origin.path("state/store/store.redb")).unwrap();
    for page in pages(&sound) {
        let device = copied(&origin);
        let mut index = sound.clone();
        break_page(&mut index, page);
        fs::write(device.path("state/store/store.redb"), index).unwrap();
        let Some(log) = ended(&device) else { continue };
        assert!(log.contains("status=ended reason=\"it failed 4 times within a minute\" exit=101"), "{log}");
        // Whoever starts it next starts one that knows.
        let mut device = device;
        device.start();
        assert!(device.status()["warnings"].to_string().contains("broken-1"));
        device.wait_count("ledger", "pending", COUNT);
        return;
    }
    panic!("no page made redb panic while the store is opened");
}

/// As one that began again three times just now; `None` if it runs.
fn ended(device: &Device) -> Option<String> {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let now = (seconds * 1000.0) as u64;
    let mut command = Command::new(program());
    command.args(["run", "--device", "d1", "--config"]).arg(device.path("config.toml"));
    command.arg("--state").arg(device.path("state")).arg("--control").arg(device.socket());
    command.arg("--modules").arg(device.path("modules")).env("SKERRY_BEGUN_AGAIN", format!("{now},{now},{now}"));
    let log = device.path("ended.log");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let status = wait_for("its end, or that it runs", || match child.try_wait().unwrap() {
        Some(status) => Some(Some(status)),
        None => text(&log).contains(" status=running state=").then_some(None),
    });
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(status.is_none_or(|status| status.code() == Some(101)), "{status:?}: {}", text(&log));
    status.map(|_| text(&log))
}
