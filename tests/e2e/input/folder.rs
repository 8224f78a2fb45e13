//! The drop-in folder: a file that appears becomes an instance, and one that goes takes its instance with it.

use std::fs;
use std::io::Write;

use skerry_tests::{Device, Image, is_alive, wait_for};

#[test]
fn what_is_moved_in_runs_and_what_is_removed_stops() {
    let device = Device::started("");
    device.drop_in("whatever.so", &Image::of("filter"));
    let filter = device.wait_running("filter");
    assert_eq!(filter.generation, 1);
    let listed = device.skerry(&["list"]);
    assert!(listed.out.contains("filter") && listed.out.contains("running"), "{listed:?}");

    fs::remove_file(device.module_file("whatever.so")).unwrap();
    wait_for("filter is gone from the list", || device.module("filter").is_null().then_some(()));
    assert!(!is_alive(filter.pid));
}

#[test]
fn what_was_there_before_the_start_runs_too() {
    let mut device = Device::new("");
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    device.wait_running("filter");
}

#[test]
fn a_slow_copy_is_taken_when_it_is_whole() {
    let device = Device::started("");
    let image = Image::of("filter");
    let (first, second) = image.bytes().split_at(image.bytes().len() / 2);
    let mut file = fs::File::create(device.module_file("filter.so")).unwrap();
    file.write_all(first).unwrap();
    file.flush().unwrap();
    // Something else changes, so that the runtime looks.
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("scribe");
    assert!(device.module("filter").is_null(), "half a file runs");
    file.write_all(second).unwrap();
    drop(file);
    device.wait_running("filter");
    assert_eq!(device.rejected("filter.so"), None);
}

#[test]
fn a_replaced_file_is_a_new_generation_on_the_new_image() {
    let device = Device::started("");
    device.drop_in("scribe.so", &Image::of("scribe"));
    let old = device.wait_running("scribe");
    device.drop_in("scribe.so", &Image::of("scribe").with_version("0.9.7"));
    let new = device.wait_after("scribe", old.generation);
    assert_eq!(new.version, "0.9.7");
    assert!(!is_alive(old.pid));
}

#[test]
fn the_newer_of_two_files_with_one_name_runs() {
    let device = Device::started("");
    device.drop_in("a.so", &Image::of("scribe").with_version("0.9.7"));
    let first = device.wait_running("scribe");
    device.drop_in("b.so", &Image::of("scribe").with_version("0.9.8"));
    let second = device.wait_after("scribe", first.generation);
    assert_eq!(second.version, "0.9.8");
    fs::remove_file(device.module_file("b.so")).unwrap();
    assert_eq!(device.wait_after("scribe", second.generation).version, "0.9.7");
}

#[test]
fn a_broken_file_over_a_good_one_leaves_the_good_one_running() {
    let device = Device::started("");
    device.drop_in("filter.so", &Image::of("filter"));
    let before = device.wait_running("filter");
    device.drop_in("filter.so", &Image::of("filter").truncated(20_000));
    device.wait_rejected("filter.so", "not whole yet");
    assert_eq!(device.running("filter"), Some(before.clone()));
    // Also over a restart by hand: it runs from a copy.
    device.skerry(&["restart", "filter"]);
    device.wait_after("filter", before.generation);
    // A good one heals it.
    device.drop_in("filter.so", &Image::of("filter").with_version("0.9.7"));
    wait_for("the new version", || device.running("filter").filter(|filter| filter.version == "0.9.7"));
    assert_eq!(device.rejected("filter.so"), None);
}

#[test]
fn other_files_are_none_of_its_business() {
    let device = Device::started("");
    for name in ["README.md", "filter.so.part", ".hidden", "so"] {
        fs::write(device.module_file(name), "not for you").unwrap();
    }
    device.drop_in("filter.so", &Image::of("filter"));
    device.wait_running("filter");
    assert_eq!(device.status()["rejected"], serde_json::json!({}));
}

#[test]
fn without_autostart_only_what_is_named_runs() {
    let config =
        "[modules]\nautostart = false\n[modules.mine]\nimage = \"scribe\"\n[modules.filter]\nenabled = false\n";
    let device = Device::started(config);
    device.drop_in("filter.so", &Image::of("filter"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("mine");
    let modules = device.get("/modules");
    let names: Vec<&str> = modules.as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, ["mine"]);
}

#[test]
fn two_instances_of_one_image_are_two() {
    let config = "[modules.left]\nimage = \"scribe\"\n[modules.right]\nimage = \"scribe\"\n";
    let device = Device::started(config);
    device.drop_in("scribe.so", &Image::of("scribe"));
    let (left, right) = (device.wait_running("left"), device.wait_running("right"));
    assert!(left.pid != right.pid);
    device.wait_running("scribe");
}

#[test]
fn a_folder_that_is_made_later_is_found() {
    let device = Device::new("");
    fs::remove_dir(device.path("modules")).unwrap();
    let mut device = device;
    device.start();
    fs::create_dir(device.path("modules")).unwrap();
    device.drop_in("filter.so", &Image::of("filter"));
    device.wait_running("filter");
}
