//! Configuration and routes that are wrong: refused with file, line and the nearest key, and exit code 2; nothing starts.

use skerry_tests::{Device, Ran};

/// `config` is refused, and each of `lines` is said after the file's name.
fn refused(config: &str, lines: &[&str]) {
    let device = Device::new(config);
    let file = device.path("config.toml").display().to_string();
    let ran = device.start_refused();
    let expected: Vec<String> = lines.iter().map(|line| format!("{file}:{line}")).collect();
    assert_eq!(
        (ran.code, ran.err.lines().collect::<Vec<_>>()),
        (Some(2), expected.iter().map(String::as_str).collect())
    );
    assert!(!device.path("state").exists() && !device.socket().exists(), "something was started");
}

/// The file at the place of config.toml can't be read.
fn unreadable(ran: &Ran, reason: &str) {
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("config.toml: cannot be read: ") && ran.err.contains(reason), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
}

#[test]
fn an_unknown_key() {
    refused("[store]\nquotta = \"1GiB\"\n", &["2: unknown key `store.quotta`: did you mean `quota`?"]);
    refused("\n[stor]\nquota = 1\n", &["2: unknown key `stor`: did you mean `store`?"]);
}

#[test]
fn a_wrong_type_and_a_bad_value() {
    refused(
        "[modules]\nautostart = \"yes\"\n[store]\nat_quota = \"drop\"\n",
        &[
            "2: `modules.autostart`: expected true or false, found \"yes\"",
            "4: `store.at_quota`: expected \"refuse\" or \"evict\", found \"drop\"",
        ],
    );
}

#[test]
fn what_is_no_toml() {
    let device = Device::new("[store\n");
    let ran = device.start_refused();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("config.toml:1: "), "{ran:?}");
}

#[test]
fn a_file_that_is_missing_or_can_not_be_read() {
    let device = Device::new("");
    std::fs::remove_file(device.path("config.toml")).unwrap();
    unreadable(&device.start_refused(), "No such file");
    std::fs::create_dir(device.path("config.toml")).unwrap();
    unreadable(&device.start_refused(), "directory");
}

#[test]
fn a_route_that_is_wrong_says_where() {
    let device = Device::new("[routes]\nfine = 'FROM /* INTO $upstream'\nwrong = 'FROM /* INTO nowhere'\n");
    let ran = device.start_refused();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let line = ran.err.lines().next().unwrap_or_default();
    assert!(line.contains("config.toml:3:30: route `wrong`: expected '(' after nowhere"), "{ran:?}");
}

#[test]
fn a_condition_with_a_wrong_type_is_found_before_the_first_message() {
    let device =
        Device::new("[routes]\nwrong = { route = 'FROM /* WHERE 1 + true > 2 INTO $upstream', priority = 0 }\n");
    let ran = device.start_refused();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let line = ran.err.lines().next().unwrap_or_default();
    assert!(line.contains("config.toml:2:36: route `wrong`: '+' needs two numbers"), "{ran:?}");
}

#[test]
fn check_reads_it_and_starts_nothing() {
    let mut device = Device::new("[store]\nttl = \"1h\"\n");
    device.argument("--check");
    let ran = device.start_refused();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!device.path("state").exists());
}

#[test]
fn no_file_at_all_is_fine_for_who_names_none() {
    // Through the control socket it can be seen what the defaults are.
    let mut device = Device::new("");
    device.start();
    assert_eq!(device.status()["routes"], serde_json::json!([]));
    let warnings = device.status()["warnings"].to_string();
    assert!(warnings.contains("there are no routes"), "{warnings}");
}
