//! A script with an official SDK in a process of its own: lines of JSON tell it what to do, and lines of JSON tell what it
//! saw.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Events, What};

pub const DEADLINE: Duration = Duration::from_secs(40);

/// Ends with its stdin.
pub struct Judge {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    seen: VecDeque<Value>,
}

/// How a device connects.
pub struct Way {
    pub websockets: bool,
    pub token_life_s: u32,
}

pub const USUAL: Way = Way { websockets: true, token_life_s: 3600 };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk")
}

/// From `SKERRY_SDK_PYTHON`, which `cargo xtask test` sets, or where that puts it.
pub fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        |folder| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder),
    );
    let usual = target.join("sdk-venv/bin/python");
    let python = std::env::var_os("SKERRY_SDK_PYTHON").map_or(usual, PathBuf::from);
    let venv = "target/sdk-venv";
    assert!(
        python.exists(),
        "the Python SDKs are not installed; `cargo xtask test` does it, or: python3 -m venv {venv} && \
         {venv}/bin/pip install -r tests/cloud/sdk/requirements.txt"
    );
    python
}

impl Judge {
    /// The SDKs themselves decide what they do with the environment.
    pub fn spawn(script: &str, environment: &[(&str, String)]) -> Judge {
        let mut process = Process::new(python());
        process.arg("-u").arg(folder().join(script)).stdin(Stdio::piped()).stdout(Stdio::piped());
        process.envs(environment.iter().map(|(name, value)| (*name, value)));
        let mut child = process.spawn().expect("python");
        let stdin = child.stdin.take().expect("stdin");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let values = stdout.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            values.for_each(|value: Value| drop(sender.send(value)));
        });
        Judge { child, stdin, lines, seen: VecDeque::new() }
    }

    /// A device or module, connected, and listening to everything.
    pub fn start(cloud: &Cloud, identity: &str, way: &Way) -> Judge {
        let mut judge = Judge::spawn("judge.py", &[]);
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

    pub fn write(&mut self, line: &Value) {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).expect("the judge listens");
    }

    /// Waits until it is done.
    #[track_caller]
    pub fn act(&mut self, line: Value) {
        self.write(&line);
        self.saw("done", |seen| seen["what"] == line["do"]);
    }

    /// The first line of this kind that fits; those of its kind before it are passed over.
    #[track_caller]
    pub fn saw(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
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
    pub fn end(mut self) {
        drop(self.stdin);
        let end = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("the SDK does not end");
                }
            }
        }
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}");
    }
}

#[track_caller]
pub fn happened(events: &mut Events, fits: impl Fn(&What) -> bool) -> What {
    let mut seen = Vec::new();
    let found = events.find(DEADLINE, |event| {
        seen.push(format!("{:?}", event.what));
        fits(&event.what)
    });
    found.unwrap_or_else(|| panic!("it did not happen; what did: {seen:#?}")).what
}

pub fn command(cloud: &Cloud, json: Value) -> Value {
    cloud.command(Command::from_json(&json.to_string()).expect("a command")).expect("carried out")
}
