//! The state folder: made when it is missing, and refused with one line when it can't keep what it is given.

use std::fs;

use skerry_tests::{Device, Image, Ran, numbered};

const ROUTE: &str = "[routes]\nout = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/later1/inputs/input1\")'\n[store]\nflush_interval = \"10ms\"\n";

/// One line, exit code 1, and `text` in it.
fn refused(ran: &Ran, text: &str) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let errors: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("skerry: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(text), "{text:?} in {ran:?}");
}

#[test]
fn a_missing_one_is_made_for_nobody_else_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let device = Device::started("");
    let mode = fs::metadata(device.path("state")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o066, 0, "{mode:o}");
}

#[test]
fn a_file_in_its_place() {
    let device = Device::new("");
    fs::write(device.path("state"), "").unwrap();
    refused(&device.start_refused(), &format!("state folder {}", device.path("state").display()));
}

#[test]
fn a_file_in_place_of_the_store() {
    let device = Device::new("");
    fs::create_dir(device.path("state")).unwrap();
    fs::write(device.path("state/store"), "").unwrap();
    refused(&device.start_refused(), "state/store");
}

#[test]
fn one_in_memory_is_refused_unless_that_is_meant() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let link = |device: &Device| std::os::unix::fs::symlink(memory.path(), device.path("state")).unwrap();
    let device = Device::new("");
    link(&device);
    refused(&device.start_refused(), "lies in memory (tmpfs)");
    let mut device = Device::new("[store]\nallow_volatile_state = true\n");
    link(&device);
    device.start();
}

#[test]
fn one_of_a_newer_format_is_left_alone_to_the_byte() {
    let mut device = Device::started("");
    device.stop();
    fs::write(device.path("state/store/store.format"), "999\n").unwrap();
    let before = fs::read(device.path("state/store/store.redb")).unwrap();
    refused(&device.start_refused(), "has format 999");
    assert!(fs::read(device.path("state/store/store.redb")).unwrap() == before);
}

#[test]
fn a_second_runtime_on_it_is_refused_and_the_first_goes_on() {
    let mut device = Device::started("");
    device.drop_in("filter.so", &Image::of("filter"));
    let filter = device.wait_running("filter");
    refused(&device.start_refused(), "is in use by another skerry");
    assert_eq!(device.running("filter"), Some(filter));
    assert!(device.stop().success());
}

#[test]
fn a_broken_store_is_moved_aside_and_told() {
    let mut device = Device::started(ROUTE);
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "durable");
    device.kill();
    let store = device.path("state/store/store.redb");
    fs::write(&store, b"no store at all".repeat(1000)).unwrap();
    device.start();
    let warnings = device.status()["warnings"].to_string();
    assert!(warnings.contains("the store could not be opened") && warnings.contains("broken-1"), "{warnings}");
    assert_eq!(fs::read(store.with_extension("redb.broken-1")).unwrap(), b"no store at all".repeat(1000));
    // Only its index was: the message lies in the log, and came over.
    assert!(warnings.contains("came over: 1 messages"), "{warnings}");
    device.wait_count("later1", "pending", 1);
    // And it keeps what it is given from now on.
    assert_eq!(device.send("tester", "out", &numbered(2))["outcome"], "durable");
    assert_eq!(device.status()["state"]["store"]["state"], "sound");
}
