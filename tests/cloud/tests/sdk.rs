//! The emulator before its judge: the official Python SDK, unmodified, over WebSockets through the proxy. What the SDK says
//! that it saw, and what the emulator saw, must both be what was done.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Events, Options, Telemetry, What};

const DEADLINE: Duration = Duration::from_secs(40);
const DEVICE: &str = "Hannover01";
const MODULE: &str = "Hannover01/insight";

/// One client of the SDK, in a process of its own.
struct Judge {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    seen: VecDeque<Value>,
}

/// How it connects.
struct Way {
    websockets: bool,
    token_life_s: u32,
}

const USUAL: Way = Way { websockets: true, token_life_s: 3600 };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk")
}

/// From `SKERRY_SDK_PYTHON`, which `cargo xtask test` sets, or where that puts it.
fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        |folder| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder),
    );
    let usual = target.join("sdk-venv/bin/python");
    let python = std::env::var_os("SKERRY_SDK_PYTHON").map_or(usual, PathBuf::from);
    let venv = "target/sdk-venv";
    assert!(
        python.exists(),
        "the Python SDK is not installed; `cargo xtask test` does it, or: python3 -m venv {venv} && \
         {venv}/bin/pip install -r tests/cloud/sdk/requirements.txt"
    );
    python
}

impl Judge {
    /// Connected, and listening to everything.
    fn start(cloud: &Cloud, identity: &str, way: &Way) -> Judge {
        let mut process = Process::new(python());
        process.arg("-u").arg(folder().join("judge.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process.spawn().expect("python");
        let stdin = child.stdin.take().expect("stdin");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let values = stdout.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            values.for_each(|value: Value| drop(sender.send(value)));
        });
        let mut judge = Judge { child, stdin, lines, seen: VecDeque::new() };
        let ready = cloud.ready();
        judge.write(&json!({
            "connection_string": cloud.identity(identity).expect("an identity").connection_string,
            "proxy_host": ready.proxy.ip().to_string(),
            "proxy_port": ready.proxy.port(),
            "ca_file": ready.ca_file,
            "websockets": way.websockets,
            "token_life_s": way.token_life_s,
            "keep_alive_s": 30,
        }));
        judge.act(json!({"do": "connect"}));
        judge
    }

    fn write(&mut self, line: &Value) {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).expect("the judge listens");
    }

    /// Waits until it is done.
    #[track_caller]
    fn act(&mut self, line: Value) {
        self.write(&line);
        self.saw("done", |seen| seen["what"] == line["do"]);
    }

    /// The first line of this kind that fits; those of its kind before it are passed over.
    #[track_caller]
    fn saw(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let wanted = |line: &Value| line["saw"] == what && fits(line);
            if let Some(at) = self.seen.iter().position(wanted) {
                let behind = self.seen.split_off(at + 1);
                let line = self.seen.pop_back();
                self.seen.retain(|line| line["saw"] != what);
                self.seen.extend(behind);
                return line.unwrap_or_default();
            }
            let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                panic!("the SDK did not see `{what}`; it saw {:#?}", self.seen)
            };
            assert!(line["saw"] != "error", "the SDK is not content: {line}");
            self.seen.push_back(line);
        }
    }

    /// It takes its leave, and ends.
    fn end(mut self) {
        drop(self.stdin);
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}");
    }
}

fn start() -> Cloud {
    python();
    Cloud::start(Options::new(DEVICE, &["insight"])).expect("an emulator")
}

fn stored(cloud: &Cloud, count: usize) -> Vec<Arc<Telemetry>> {
    let all = cloud.wait_until(DEADLINE, |cloud| Some(cloud.telemetry()).filter(|all| all.len() >= count));
    all.unwrap_or_else(|| panic!("{count} messages were expected: {:?}", cloud.telemetry()))
}

#[track_caller]
fn happened(events: &mut Events, fits: impl Fn(&What) -> bool) -> What {
    let mut seen = Vec::new();
    let found = events.find(DEADLINE, |event| {
        seen.push(format!("{:?}", event.what));
        fits(&event.what)
    });
    found.unwrap_or_else(|| panic!("it did not happen; what did: {seen:#?}")).what
}

fn command(cloud: &Cloud, json: Value) -> Value {
    cloud.command(Command::from_json(&json.to_string()).expect("a command")).expect("carried out")
}

#[test]
fn a_module_sends_listens_and_keeps_its_twin() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    command(
        &cloud,
        json!({"command": "desired", "identity": MODULE, "patch": {"threshold": 25, "deep": {"a": [1, 2]}}}),
    );
    let mut judge = Judge::start(&cloud, MODULE, &USUAL);
    let proxy = happened(&mut events, |what| matches!(what, What::Proxy { .. }));
    assert!(matches!(&proxy, What::Proxy { target, status: 200 } if target.ends_with(":443")), "{proxy:?}");
    judge.act(json!({
        "do": "send", "body": "{\"n\": 1}", "output": "out 1",
        "properties": {"sp ace": "a&b=c", "plus": "a+b", "uml": "ü/%", "empty": ""},
        "system": {"message_id": "id 1", "correlation_id": "c/1", "content_type": "application/json", "content_encoding": "utf-8"},
    }));
    judge.act(json!({"do": "send", "body": "plain"}));
    let all = stored(&cloud, 2);
    assert_eq!((all[0].output(), all[0].json()), (Some("out 1"), Some(json!({"n": 1}))));
    let properties = serde_json::to_value(&all[0].properties).expect("JSON");
    assert_eq!(properties, json!({"sp ace": "a&b=c", "plus": "a+b", "uml": "ü/%", "empty": ""}));
    let system = json!({"$.on": "out 1", "$.mid": "id 1", "$.cid": "c/1", "$.ct": "application/json", "$.ce": "utf-8"});
    assert_eq!(serde_json::to_value(&all[0].system).expect("JSON"), system);
    assert_eq!(
        (all[1].text(), all[1].topic.as_str()),
        (Some("plain"), "devices/Hannover01/modules/insight/messages/events/")
    );

    judge.write(&json!({"do": "twin"}));
    let twin = judge.saw("twin", |_| true);
    assert_eq!(twin["twin"]["desired"], json!({"threshold": 25, "deep": {"a": [1, 2]}, "$version": 2}));
    judge.act(json!({"do": "report", "patch": {"state": {"on": true, "n": 1}}}));
    judge.act(json!({"do": "report", "patch": {"state": {"n": null}}}));
    assert_eq!(cloud.twin(MODULE)["reported"], json!({"state": {"on": true}, "$version": 3}));
    command(&cloud, json!({"command": "desired", "identity": MODULE, "patch": {"threshold": 30, "deep": null}}));
    assert_eq!(judge.saw("desired", |_| true)["patch"], json!({"threshold": 30, "deep": null, "$version": 3}));

    for n in 0..3 {
        let properties = json!({"k/1": "a b", "n": n.to_string(), "$.ct": "application/json", "$.mid": "7"});
        command(
            &cloud,
            json!({"command": "input", "identity": MODULE, "input": "in1", "body": {"n": n}, "properties": properties}),
        );
    }
    for n in 0..3 {
        let message = judge.saw("message", |_| true);
        assert_eq!((&message["input"], &message["body"]), (&json!("in1"), &json!(format!("{{\"n\":{n}}}"))));
        assert_eq!(message["properties"], json!({"k/1": "a b", "n": n.to_string()}));
        assert_eq!((&message["content_type"], &message["mid"]), (&json!("application/json"), &json!("7")));
    }
    command(&cloud, json!({"command": "input", "identity": MODULE, "input": "in1", "body": "bare"}));
    assert_eq!(judge.saw("message", |_| true)["properties"], json!({}));
    happened(&mut events, |what| matches!(what, What::Delivered { count: 4, .. }));

    let called =
        command(&cloud, json!({"command": "method", "identity": MODULE, "name": "reboot", "payload": {"in": [1]}}));
    let asked = judge.saw("method", |_| true);
    assert_eq!((&asked["name"], &asked["payload"]), (&json!("reboot"), &json!({"in": [1]})));
    let answered = happened(&mut events, |what| matches!(what, What::Method { .. }));
    let What::Method { rid, status, payload, .. } = answered else { unreachable!() };
    assert_eq!((json!(rid), status, payload), (called["rid"].clone(), 207, json!({"heard": {"in": [1]}})));
    judge.end();
    happened(&mut events, |what| matches!(what, What::Disconnected { reason, .. } if reason.contains("DISCONNECT")));
}

#[test]
fn a_device_gets_messages_from_the_cloud() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    // It waited before the device was there.
    let properties = json!({"prop 1": "v/1", "$.mid": "abc"});
    command(&cloud, json!({"command": "c2d", "identity": DEVICE, "body": "hello", "properties": properties}));
    // Frames that end in the middle of packets are the SDK's business, too.
    command(&cloud, json!({"command": "frame_bytes", "max": 3}));
    let mut judge = Judge::start(&cloud, DEVICE, &USUAL);
    let message = judge.saw("message", |_| true);
    assert_eq!((&message["body"], &message["mid"]), (&json!("hello"), &json!("abc")));
    assert_eq!(message["properties"]["prop 1"], "v/1");
    happened(&mut events, |what| matches!(what, What::Delivered { count: 1, .. }));
    judge.act(json!({"do": "send", "body": "x", "properties": {"a": "1"}}));
    assert_eq!(stored(&cloud, 1)[0].topic, "devices/Hannover01/messages/events/a=1");
    judge.write(&json!({"do": "twin"}));
    assert_eq!(judge.saw("twin", |_| true)["twin"], json!({"desired": {"$version": 1}, "reported": {"$version": 1}}));
    judge.end();
}

#[test]
fn mqtt_without_web_sockets() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    let mut judge = Judge::start(&cloud, MODULE, &Way { websockets: false, ..USUAL });
    happened(&mut events, |what| matches!(what, What::Proxy { target, .. } if target.ends_with(":8883")));
    happened(&mut events, |what| matches!(what, What::Connected { web_socket: false, .. }));
    judge.act(json!({"do": "send", "body": "x"}));
    assert_eq!(stored(&cloud, 1).len(), 1);
    judge.end();
}

#[test]
fn it_comes_back_and_sends_again() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    let mut judge = Judge::start(&cloud, MODULE, &USUAL);
    command(&cloud, json!({"command": "close_after_publish"}));
    judge.act(json!({"do": "send", "body": "twice"}));
    let all = stored(&cloud, 2);
    assert_eq!((all[0].text(), all[1].text()), (Some("twice"), Some("twice")));
    judge.saw("connection", |line| line["connected"] == false);
    judge.saw("connection", |line| line["connected"] == true);
    command(&cloud, json!({"command": "cut"}));
    judge.saw("connection", |line| line["connected"] == false);
    command(&cloud, json!({"command": "heal"}));
    judge.saw("connection", |line| line["connected"] == true);
    // A session of its own begins, and it wants its subscriptions again.
    happened(&mut events, |what| matches!(what, What::Connected { session_present: true, .. }));
    judge.act(json!({"do": "send", "body": "after"}));
    assert_eq!(stored(&cloud, 3)[2].text(), Some("after"));
    judge.end();
}

#[test]
fn a_token_is_renewed() {
    let cloud = start();
    let mut events = cloud.events_from(0);
    // The SDK renews two minutes before the end.
    let mut judge = Judge::start(&cloud, DEVICE, &Way { token_life_s: 123, ..USUAL });
    let connected = |what: &What| matches!(what, What::Connected { .. });
    happened(&mut events, connected);
    // By hanging up and coming again, since MQTT knows no other way.
    happened(&mut events, connected);
    judge.act(json!({"do": "send", "body": "renewed"}));
    assert_eq!(stored(&cloud, 1)[0].text(), Some("renewed"));
    judge.end();
}
