//! Files that are no images, none for this device, or worse. In each case one line says so, and the filter that was there
//! before goes on running.

use serde_json::json;
use skerry_tests::{Device, Image, Instance, numbered, wait_for};

/// A device with a filter that runs.
fn device(config: &str) -> (Device, Instance) {
    let device = Device::new(config);
    device.drop_in("filter.so", &Image::of("filter"));
    let mut device = device;
    device.start();
    let filter = device.wait_running("filter");
    (device, filter)
}

/// Refused with a line that has `text` in it: in the status, once in the log, and nothing else changed.
fn refused(image: &Image, text: &str) {
    let (device, filter) = device("");
    device.drop_in("bad.so", image);
    let reason = device.wait_rejected("bad.so", text);
    assert!(!reason.contains('\n'), "{reason:?}");
    let shown = device.skerry(&["status"]);
    assert!(shown.out.contains("bad.so") && shown.out.contains(text), "{shown:?}");
    device.wait_log(&format!("bad.so refused: {reason}"));
    assert_eq!(device.log().matches("bad.so refused").count(), 1);
    assert_eq!(device.running("filter"), Some(filter));
    assert_eq!(device.get("/modules").as_array().map(Vec::len), Some(1));
}

/// Accepted, but its instance ends as `text` says, which stands in the list as well.
fn fails(config: &str, name: &str, image: &Image, text: &str) -> Device {
    let (device, filter) = device(config);
    device.drop_in("bad.so", image);
    device.wait_exit(name, text);
    let listed = device.skerry(&["list"]);
    assert!(listed.out.contains(text), "{listed:?}");
    assert!(listed.out.lines().all(|line| line.matches(text).count() <= 1), "{listed:?}");
    assert_eq!(device.running("filter"), Some(filter));
    device
}

#[test]
fn a_truncated_file() {
    refused(&Image::of("filter").truncated(100_000), "not whole yet");
}

#[test]
fn what_is_not_elf() {
    refused(&Image::text("#!/bin/sh\necho hello\n"), "not an ELF file");
    refused(&Image::text(""), "not an ELF file");
}

#[test]
fn another_machine() {
    refused(&Image::of("filter").with_machine(258), "built for loongarch64, this device is ");
}

#[test]
fn a_glibc_that_this_device_has_not() {
    refused(&Image::of("filter").with_newest_glibc(), "needs glibc 9.99 or newer, this device has glibc 2.");
}

#[test]
fn a_library_that_is_no_module() {
    refused(&Image::c("int answer(void) { return 42; }"), "not a skerry module: it has no .skerry.module section");
}

#[test]
fn another_abi() {
    let image = Image::of("filter").with(r#""abi_version":"1."#, r#""abi_version":"9."#);
    refused(&image, "built for ABI version 9.0.0 (SDK 0.1.0), this runtime speaks 1.0.0");
}

#[test]
fn a_module_without_its_root() {
    let root = "_1as_0lib_1header_0root_bmodule_bloader";
    refused(&Image::of("filter").with(root, &root.replace("loader", "loaded")), "does not export one");
}

#[test]
fn a_description_that_is_no_json() {
    refused(&Image::of("filter").with(r#"{"format":1,"#, r#"{"format":-,"#), "its description");
}

#[test]
fn another_abi_stable_behind_a_good_description() {
    fails("", "stranger", &Image::c_module("stranger", ""), "its image does not load");
}

#[test]
fn a_start_that_fails_or_panics() {
    for (word, text) in [("error", "start failed: as told"), ("panic", "start failed: ")] {
        let config = format!("[modules.scribe.settings]\nstart = \"{word}\"\n");
        let device = fails(&config, "scribe", &Image::of("scribe"), text);
        // It is tried again, and again in vain.
        wait_for("another try", || (device.module("scribe")["restarts"].as_u64() >= Some(2)).then_some(()));
        // A better setting heals it.
        let set = device.skerry(&["twin", "set", "scribe", r#"{"start": "well"}"#]);
        assert_eq!(set.code, Some(0), "{set:?}");
        device.wait_running("scribe");
    }
}

#[test]
fn one_that_never_answers() {
    let config = "[modules.silent]\nhang_after = \"1s\"\n";
    let device =
        fails(config, "silent", &Image::c_module("silent", "for (;;) pause();"), "killed: one callback lasted");
    wait_for("another try", || (device.module("silent")["generation"].as_u64() >= Some(2)).then_some(()));
}

#[test]
fn one_that_ends_its_process_at_once() {
    fails("", "hasty", &Image::c_module("hasty", "_exit(7);"), "ended with code 7");
}

/// Finds the link among the descriptors, and writes to it.
const RUBBISH: &str = r#"
    const char *words = "GET / HTTP/1.1\r\nHost: skerry\r\n\r\n";
    for (int fd = 0; fd < 64; fd++) {
        int domain = 0; socklen_t size = sizeof domain;
        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX)
            write(fd, words, strlen(words));
    }
    for (;;) pause();"#;

#[test]
fn one_that_writes_rubbish_to_its_link() {
    fails("", "vandal", &Image::c_module("vandal", RUBBISH), "its link carried rubbish");
}

#[test]
fn one_that_reads_the_state_folder() {
    let (device, filter) = device("");
    let store = device.path("state/store/store.redb");
    let other = device.path("state/modules/filter");
    let run = format!(
        r#"printf("store %s\n", open("{}", O_RDONLY) < 0 ? strerror(errno) : "open");
           printf("write %s\n", open("{}", O_WRONLY) < 0 ? strerror(errno) : "open");
           printf("other %s\n", opendir("{}") ? "open" : strerror(errno));
           printf("make %s\n", open("{}/new", O_CREAT | O_WRONLY, 0600) < 0 ? strerror(errno) : "open");"#,
        store.display(),
        store.display(),
        other.display(),
        other.display()
    );
    assert!(store.exists() && other.exists());
    device.drop_in("bad.so", &Image::c_module("nosy", &run));
    device.wait_exit("nosy", "its image does not load");
    let logged = device.skerry(&["logs", "nosy"]);
    for what in ["store", "write", "other", "make"] {
        assert!(logged.out.contains(&format!("{what} Permission denied")), "{logged:?}");
    }
    assert_eq!(device.running("filter"), Some(filter));
}

#[test]
fn one_that_calls_the_control_socket() {
    let (device, filter) = device("");
    let run = format!(
        r#"struct sockaddr_un to = {{ AF_UNIX, "{}" }};
           int fd = socket(AF_UNIX, SOCK_STREAM, 0);
           if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) printf("connect %s\n", strerror(errno));
           else {{
               char text[4096] = "POST /modules/filter/restart HTTP/1.1\r\nHost: s\r\nContent-Length: 0\r\n\r\n";
               write(fd, text, strlen(text));
               text[read(fd, text, sizeof text - 1)] = 0;
               printf("answer %.12s\n", text);
           }}"#,
        device.socket().display()
    );
    device.drop_in("bad.so", &Image::c_module("caller", &run));
    device.wait_exit("caller", "its image does not load");
    let logged = device.skerry(&["logs", "caller"]);
    let told = logged.out.contains("connect Permission denied") || logged.out.contains("answer HTTP/1.1 403");
    assert!(told, "{logged:?}");
    assert_eq!(device.running("filter"), Some(filter));
}

#[test]
fn one_that_claims_another_identity() {
    let (device, filter) = device(
        "[routes]\nin = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\nout = 'FROM /messages/modules/scribe/* INTO $upstream'\n",
    );
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("scribe");
    let tap = device.tap();
    device.send("tester", "out", &json!({"body": {"do": "claim"}}));
    let seen = tap.wait("what the scribe sent", |message| message["properties"]["moduleId"] == "ledger");
    assert_eq!(seen["from"], "/messages/modules/scribe/outputs/tries/", "{seen}");
    assert_eq!(device.running("filter"), Some(filter));
}

#[test]
fn a_module_goes_on_beside_all_of_them() {
    let (device, _) = device(
        "[routes]\nin = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n",
    );
    device.drop_in("scribe.so", &Image::of("scribe"));
    let scribe = device.wait_running("scribe");
    device.drop_in("a.so", &Image::c_module("vandal", RUBBISH));
    device.drop_in("b.so", &Image::c_module("crash", "*(volatile int *)8 = 1;"));
    device.drop_in("c.so", &Image::c_module("hasty", "_exit(7);"));
    device.drop_in("d.so", &Image::text("rubbish"));
    device.wait_exit("crash", "killed by SIGSEGV");
    for seq in 0..20 {
        assert_eq!(device.send("tester", "out", &numbered(seq))["outcome"], "delivered");
    }
    assert_eq!(device.running("scribe"), Some(scribe));
}
