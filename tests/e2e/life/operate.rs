//! A device in operation: what it writes, how it stops, and who may ask it.

use std::process::Command;

use serde_json::{Value, json};
use skerry_tests::{Device, Image, is_alive, numbered, request, rounds, wait_for};

const ROUTES: &str = r#"[routes]
hot = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/filter/inputs/input1")'
alerts = 'FROM /messages/modules/filter/outputs/alerts INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
"#;

fn device(config: &str) -> Device {
    let mut device = Device::new(&format!("{config}{ROUTES}"));
    device.drop_in("filter.so", &Image::of("filter"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("filter");
    device.wait_running("scribe");
    device
}

#[test]
fn messages_flow_through_the_filter() {
    let device = device("");
    let tap = device.tap();
    let lines: Vec<Value> = (20..30).map(|t| json!({"body": {"temperature": t}})).collect();
    let answers = device.send_all("tester", "out", &lines);
    assert!(answers.iter().all(|answer| answer["outcome"] == "delivered"), "{answers:?}");
    device.wait_book("scribe", "the hottest", |line| line["body"]["temperature"] == 29);
    let book: Vec<Value> = device.book("scribe").iter().map(|line| line["body"]["temperature"].clone()).collect();
    assert_eq!(book, [26, 27, 28, 29].map(Value::from));
    let alert = tap.wait("an alert", |message| message["properties"]["alert"] == "temperature");
    assert_eq!(alert["to"], json!(["modules/scribe/inputs/input1"]), "{alert}");
    // With the threshold the flow changes.
    device.skerry(&["twin", "set", "filter", r#"{"threshold": 100}"#]);
    device.send_all("tester", "out", &lines);
    assert_eq!(device.book("scribe").len(), 4);
}

/// Bytes that the process has sent towards a disk.
fn written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn while_everything_is_online_nothing_is_written() {
    let device = device("");
    // What a start writes is not meant.
    device.send("tester", "out", &json!({"body": {"temperature": 99}}));
    wait_for("quiet", || {
        let before = written(device.pid());
        device.send("tester", "out", &json!({"body": {"temperature": 99}}));
        (written(device.pid()) == before).then_some(())
    });
    // The host of the filter, too; the scribe keeps a book of its own.
    let filter = device.wait_running("filter").pid as u32;
    let all = || written(device.pid()) + written(filter);
    let (before, begin) = (all(), device.status()["uptimeSeconds"].as_u64().unwrap());
    let seconds = u64::from(rounds(60, 3));
    let mut messages = 0;
    let lines: Vec<Value> = (0..500).map(|seq| json!({"body": {"temperature": seq}})).collect();
    while device.status()["uptimeSeconds"].as_u64() < Some(begin + seconds) {
        device.send_all("tester", "out", &lines);
        messages += lines.len();
    }
    assert_eq!(all() - before, 0, "over {messages} messages in {seconds} s");
    println!("messages={messages} seconds={seconds} written=0");
}

#[test]
fn when_the_consumer_is_gone_it_is_written() {
    let device = device("[store]\nflush_interval = \"10ms\"\n");
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    wait_for("the scribe is gone", || device.module("scribe").is_null().then_some(()));
    let answer = device.send("tester", "out", &json!({"body": {"temperature": 99}}));
    assert!(matches!(answer["outcome"].as_str(), Some("durable" | "delivered")), "{answer}");
    device.wait_count("scribe", "pending", 1);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_book("scribe", "it", |line| line["body"]["temperature"] == 99);
}

#[test]
fn a_stop_leaves_nothing_behind() {
    let mut device = device("");
    let (runtime, instances) = (device.pid(), device.instance_pids());
    assert_eq!(instances.len(), 2);
    assert!(device.stop().success());
    assert!(!is_alive(runtime as i32) && !instances.iter().any(|pid| is_alive(*pid)));
    assert!(device.instance_pids().is_empty());
    assert!(!device.socket().exists());
    assert!(device.log().contains("skerry status=stopped"));
    // Nobody is there to ask, and that is said.
    let ran = device.skerry(&["status"]);
    assert!(ran.code == Some(1) && ran.err.contains("no skerry is running there"), "{ran:?}");
}

#[test]
fn a_kill_takes_the_modules_along() {
    let mut device = device("");
    let instances = device.instance_pids();
    device.kill();
    wait_for("they are gone", || (!instances.iter().any(|pid| is_alive(*pid))).then_some(()));
    // The socket that lies there stops nobody.
    assert!(device.socket().exists());
    device.start();
    device.wait_running("filter");
}

#[test]
fn a_module_that_does_not_stop_is_killed() {
    let mut device = Device::new(
        "[routes]\nin = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/faulty/inputs/input1\")'\n",
    );
    device.drop_in("faulty.so", &Image::of("faulty"));
    device.start();
    let faulty = device.wait_running("faulty");
    let mut sender = device.sender("tester", "out");
    sender.send_lines(&[json!({"body": {"do": "hang"}})]);
    wait_for("it hangs", || (device.module("faulty")["inHand"] == 1).then_some(()));
    assert!(device.stop().success());
    assert!(!is_alive(faulty.pid));
}

#[test]
fn curl_can_ask_as_well() {
    let device = device("");
    let curl = |path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--unix-socket"]).arg(device.socket()).arg(format!("http://skerry{path}"));
        command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Ok(answer) = curl("/version") else {
        // The same by the kit's own hand.
        assert_eq!(request(&device.socket(), "GET", "/version", "").unwrap().1["name"], "skerry");
        return;
    };
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["name"], "skerry");
    let status: Value = serde_json::from_str(&curl("/status").unwrap()).unwrap();
    assert_eq!(status["device"], "d1");
    assert!(curl("/nowhere").unwrap().contains("no such path"));
}

#[test]
fn the_socket_is_for_its_user_and_group() {
    use std::os::unix::fs::PermissionsExt;
    let device = Device::started("");
    let mode = std::fs::metadata(device.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660, "{mode:o}");
}

#[test]
fn messages_that_go_nowhere_are_warned_of() {
    let device = Device::started("");
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "noRoute");
    let shown = device.skerry(&["status"]);
    assert!(shown.out.contains("1 messages matched no route"), "{shown:?}");
}
