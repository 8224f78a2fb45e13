//! The control socket as curl sees it. Must never need a real module: the core only answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_runtime::io::executor::Executor;
use skerry_runtime::io::http::{self, Upload};
use skerry_runtime::logic::log_ring::Choice;
use skerry_runtime::model::time::Wall;
use skerry_runtime::tasks::control;
use skerry_runtime::tasks::mailbox::Ask;
use smol::channel::bounded;

use crate::core::{Core, DEADLINE, Device, device, device_with};

impl Device {
    /// Writes bytes as they are and reads until the server closes.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // A server that refuses may close before it has read everything; its answer is still there.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let answer = self.raw(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
    }

    #[track_caller]
    fn check(&self, method: &str, target: &str, body: &str, expected: (u16, &str)) {
        let (status, body) = self.ask(method, target, body);
        let message = serde_json::from_str::<Value>(&body).unwrap();
        let message = message.pointer("/error/message").and_then(Value::as_str).unwrap_or(body.trim_end()).to_owned();
        assert_eq!((status, message.as_str()), expected, "{method} {target}");
    }
}

#[test]
fn plain_requests_become_asks() {
    let device = device();
    device.check("GET", "/status", "", (200, r#"{"device":"d"}"#));
    device.check("GET", "/version", "", (200, &control::version().to_string()));
    device.check("PATCH", "/modules/filter/twin", r#"{"threshold":3}"#, (200, "{}"));
    device.check("POST", "/modules/a%20b/methods/do?timeout=1500ms", "[1]", (200, r#"{"payload":[1],"status":207}"#));
    device.check("POST", "/modules/m/methods/do", "\u{1}", (200, r#"{"payloadBase64":"AQ==","status":207}"#));
    device.ask("GET", "/modules/filter/logs?since=1795456800000&tail=5&follow=true", "");
    device.ask("GET", "/modules/filter/logs?until=2026-11-23T18:00:00Z", "");
    let asked = device.core.asked.lock().unwrap().clone();
    assert_eq!(asked[1], Ask::PatchDesired { module: "filter".into(), patch: json!({"threshold": 3}) });
    let method = Ask::Method { module: "a b".into(), name: "do".into(), payload: b"[1]".into(), timeout_ms: 1_500 };
    assert_eq!(asked[2], method);
    let (at, module) = (Some(Wall(1_795_456_800_000)), "filter".to_owned());
    let choice = Choice { since: at, until: None, tail: Some(5) };
    assert_eq!(asked[4], Ask::Logs { module: module.clone(), choice, follow: true });
    let choice = Choice { until: at, ..Choice::default() };
    assert_eq!(asked[5], Ask::Logs { module, choice, follow: false });
}

#[test]
fn what_is_seen_has_paths_of_its_own() {
    let device = device();
    let page = device.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(page.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{page}");
    assert!(page.ends_with("\r\n\r\nup 1\n"), "{page}");
    device.ask("GET", "/trace?source=a%20b&output=o&id=7&limit=3", "");
    let expected = Ask::Trace { source: Some("a b".into()), output: Some("o".into()), id: Some("7".into()), limit: 3 };
    assert_eq!(device.core.asked.lock().unwrap()[1], expected);
    device.check("GET", "/trace?limit=all", "", (400, "limit: expected a number of messages, 1 or more"));
    device.check("GET", "/trace?from=x", "", (400, "unknown query key \"from\""));
    device.check("GET", "/metrics?a=b", "", (400, "unknown query key \"a\""));
    device.check("POST", "/metrics", "", (405, "POST is not possible here, only GET"));
}

#[test]
fn what_is_wrong_is_said() {
    let device = device();
    device.check("GET", "/modules/filtr", "", (404, "no module \"filtr\": did you mean \"filter\"?"));
    device.check("GET", "/nowhere", "", (404, "no such path: /nowhere"));
    device.check("DELETE", "/status", "", (405, "DELETE is not possible here, only GET"));
    device.check("POST", "/modules/m/twin", "", (405, "POST is not possible here, only GET, PATCH"));
    device.check("PATCH", "/modules/m/twin", "{\n\"a\":}", (400, "not JSON: expected value at line 2 column 5"));
    device.check("PATCH", "/modules/m/twin", "3", (400, "a patch of desired properties must be a JSON object"));
    device.check("GET", "/tap?form=/messages/*", "", (400, "unknown query key \"form\": did you mean \"from\"?"));
    device.check("GET", "/modules/m/logs?tail=all", "", (400, "tail: expected a number of lines"));
    device.check(
        "GET",
        "/modules/m/logs?until=1h&follow=true",
        "",
        (400, "until: expected no follow: what comes is later"),
    );
    let big = "x".repeat(300 * 1024);
    device.check("PATCH", "/modules/m/twin", &big, (413, "the body is larger than 262144 bytes"));
    assert!(device.raw(b"GET / HTTP/9.9\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(device.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n").starts_with("HTTP/1.1 400"));
    let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100 * 1024));
    assert!(device.raw(endless.as_bytes()).starts_with("HTTP/1.1 4"));
}

#[test]
fn a_full_or_dead_core_is_told_apart() {
    let device = device_with(Core::default(), 1, false);
    let waiting = device.socket.clone();
    std::thread::spawn(move || {
        let mut stream = UnixStream::connect(waiting).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    // The first question fills the queue of one; every later one is told to come back.
    let until = std::time::Instant::now() + DEADLINE;
    let mut stream = UnixStream::connect(&device.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    loop {
        assert!(std::time::Instant::now() < until);
        let _ = stream.write_all(b"GET /modules HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 503");
            break;
        }
        stream = UnixStream::connect(&device.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    let lost = device_with(Core::default(), 8, true);
    lost.check("POST", "/modules/m/restart", "", (500, "the question was dropped without an answer"));
}

#[test]
fn streams_arrive_line_by_line() {
    let device = device();
    let (status, body) = device.ask("GET", "/tap?from=%2Fmessages%2F*&where=a%3D%27b+c%27", "");
    assert_eq!(status, 200);
    let lines: Vec<&str> = body.split("\r\n").filter(|line| line.starts_with('{')).map(str::trim_end).collect();
    assert_eq!(lines, [r#"{"i":0}"#, r#"{"i":1}"#, r#"{"i":2}"#]);
    let tap = Ask::Tap { from: Some("/messages/*".into()), condition: Some("a='b c'".into()) };
    assert_eq!(device.core.asked.lock().unwrap()[0], tap);
}

/// Sends what `upload` holds with the client half, and gives status and lines.
fn send(socket: &Path, target: &str, lines: Vec<String>) -> (u16, Vec<Value>) {
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let (chunks, upload) = bounded(4);
        executor
            .spawn(async move {
                for line in lines {
                    let _ = chunks.send(line.into_bytes()).await;
                }
            })
            .detach();
        let mut response = http::request(&executor, socket, "POST", target, Upload::Stream(upload)).await.unwrap();
        let mut answers = Vec::new();
        while let Some(line) = response.body.line(65_536).await.unwrap() {
            answers.push(serde_json::from_slice(&line).unwrap());
        }
        (response.status, answers)
    }))
}

#[test]
fn messages_are_pipelined_and_answered_in_their_order() {
    let device = device();
    // The core answers none before it has 254 of them, and then the last one first.
    let lines = (0..254).map(|i| format!("{{\"body\":{i}}}\n")).collect();
    let (status, answers) = send(&device.socket, "/modules/m/outputs/hold/messages", lines);
    assert_eq!(status, 200);
    let numbers: Vec<u64> = answers.iter().map(|a| a["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..254).collect::<Vec<_>>());
}

#[test]
fn a_bad_line_is_answered_in_its_place() {
    let device = device();
    let lines = |bad: &str| vec!["{\"body\":1}\n".to_owned(), format!("{bad}\n\n"), "{\"body\":2}".to_owned()];
    let (status, answers) = send(&device.socket, "/modules/m/outputs/o/messages", lines("{\"body\":"));
    let error = http::error_json(400, "line 2: not JSON: EOF while parsing a value at column 8");
    assert_eq!((status, answers), (200, vec![json!({"outcome": "durable"}), error, json!({"outcome": "durable"})]));
    let large = format!("{{\"body\":\"{}\"}}", "x".repeat(256 * 1024 + 1));
    let (_, answers) = send(&device.socket, "/modules/m/outputs/o/messages", lines(&large));
    assert_eq!((answers.len(), &answers[1]["error"]["status"]), (3, &json!(413)));
    let (_, answers) = send(&device.socket, "/modules/m/outputs/o/messages", lines(&"y".repeat(3 * 1024 * 1024)));
    assert_eq!((answers.len(), &answers[1]["error"]["status"]), (3, &json!(413)));
    let endless: Vec<String> =
        (0..4_000).map(|i| format!("{{\"bdy\":{i},\"x\":\"{}\"}}\n", "x".repeat(1_000))).collect();
    let (status, answers) = send(&device.socket, "/modules/m/outputs/o/messages", endless);
    assert_eq!((status, answers.len()), (400, 1));
    device.check(
        "POST",
        "/modules/m/outputs/o/messages",
        "{\"bdy\":1}\n{\"body\":1}",
        (400, "line 1: unknown key \"bdy\": did you mean \"body\"? (known: body, bodyBase64, properties, system)"),
    );
    let (status, body) = device.ask("POST", "/modules/m/outputs/o/messages", "");
    assert_eq!((status, body.contains('{')), (200, false));
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let device = device();
    let idle: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(&device.socket).unwrap();
            stream.write_all(b"GET /tap HTTP/1.1\r\nHost: x\r\n\r\nGET /sta").unwrap();
            stream
        })
        .collect();
    device.check("GET", "/status", "", (200, r#"{"device":"d"}"#));
    drop(idle);
}

/// Whoever stops watching is noticed although nothing is said: else quiet taps would use up the connections.
#[test]
fn a_watcher_that_leaves_gives_its_place_back() {
    let device = device();
    for _ in 0..80 {
        let mut stream = UnixStream::connect(&device.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"GET /tap?from=quiet HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        drop(stream);
        let lines = device.core.watched.lock().unwrap().pop().unwrap();
        let late = async {
            smol::Timer::after(DEADLINE).await;
            panic!("the tap is still open");
        };
        smol::block_on(smol::future::or(lines.closed(), late));
    }
}

#[test]
fn too_many_connections_are_told_so() {
    let device = device();
    let mut open: Vec<UnixStream> = Vec::new();
    for _ in 0..64 {
        let mut stream = UnixStream::connect(&device.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // An answer means that the connection has its place.
        stream.read_exact(&mut [0; 12]).unwrap();
        open.push(stream);
    }
    device.check("GET", "/status", "", (503, "too many connections to the control socket"));
}

/// This test is also the descendant: started again with the socket in its environment, it asks and prints.
#[test]
fn a_descendant_is_refused() {
    const SOCKET: &str = "SKERRY_TEST_SOCKET";
    if let Some(socket) = std::env::var_os(SOCKET) {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        println!("{answer}");
        return;
    }
    let device = device();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "http::a_descendant_is_refused", "--nocapture"])
        .env(SOCKET, &device.socket)
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(said.contains("HTTP/1.1 403") && said.contains("modules have no access"), "{said}");
    assert!(device.core.asked.lock().unwrap().is_empty());
    device.check("GET", "/status", "", (200, r#"{"device":"d"}"#));
}
