//! A device: a folder of its own with configuration, modules and state, and the real program on it. Everything that it
//! started is gone when it is dropped, also when the test fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sender::Sender;
use crate::stream::{Lines, Tap};
use crate::{Image, built, http, wait_for};

/// Quick restarts, for tests that say nothing of them.
const RESTART: &str = "\n[restart]\nbackoff_base = \"50ms\"\nbackoff_max = \"200ms\"\n";

pub struct Device {
    home: TempDir,
    runtime: Option<Child>,
    log: Lines,
    more: Vec<String>,
    clock: Option<String>,
    no_network: bool,
    starts: usize,
}

/// A module that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub pid: i32,
    pub generation: u64,
    pub version: String,
}

/// What a program of one answer said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Device {
    /// Not started yet. `config` is config.toml, so that lines count as in the test.
    pub fn new(config: &str) -> Device {
        // Not /tmp, which may be memory.
        let home = tempfile::Builder::new().prefix("skerry-").tempdir_in("/var/tmp").expect("a folder");
        // Instances have users of their own when this is root.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(home.path().join("modules")).expect("a folder of modules");
        let device = Device {
            home,
            runtime: None,
            log: Lines::default(),
            more: Vec::new(),
            clock: None,
            no_network: false,
            starts: 0,
        };
        device.configure(config);
        device
    }

    pub fn started(config: &str) -> Device {
        let mut device = Device::new(config);
        device.start();
        device
    }

    pub fn configure(&self, config: &str) {
        let restart = if config.contains("[restart]") { "" } else { RESTART };
        fs::write(self.path("config.toml"), format!("{config}{restart}")).expect("a configuration");
    }

    /// One more argument of `skerry run`.
    pub fn argument(&mut self, argument: &str) {
        self.more.push(argument.to_owned());
    }

    /// What the runtime is told the wall clock says when it starts, such as `1970-01-02 00:00:00`; it runs on from there.
    pub fn set_clock(&mut self, time: &str) {
        self.clock = Some(format!("@{time}"));
    }

    /// From the next start on: none but Unix sockets, not even a loopback interface that is up.
    pub fn set_network(&mut self, on: bool) {
        self.no_network = !on;
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("control.sock")
    }

    fn run_command(&self) -> Command {
        let mut command = match self.no_network {
            false => Command::new(built::program()),
            true => {
                let mut command = Command::new("unshare");
                // Who is not root is it in a namespace of its own.
                command.arg(if rustix::process::geteuid().is_root() { "-n" } else { "-rn" }).arg(built::program());
                command
            }
        };
        command.args(["run", "--device", "d1", "--config"]).arg(self.path("config.toml"));
        command.arg("--modules").arg(self.path("modules")).arg("--state").arg(self.path("state"));
        command.arg("--control").arg(self.socket()).args(&self.more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.in_its_time(&mut command);
        command
    }

    fn in_its_time(&self, command: &mut Command) {
        if let Some(clock) = &self.clock {
            command.env("LD_PRELOAD", built::fake_time()).env("FAKETIME", clock).env("TZ", "UTC");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        }
    }

    /// Starts it, and waits until it says that it runs.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.runtime.is_none(), "it runs already");
        let mut runtime = self.run_command().spawn().expect("the program");
        self.log.read(runtime.stderr.take().expect("its log"));
        let pid = runtime.id();
        self.runtime = Some(runtime);
        self.starts += 1;
        let starts = self.starts;
        self.log.wait(&format!("start {starts} of the runtime, pid {pid}"), |lines| {
            (lines.iter().filter(|line| line.contains(" status=running state=")).count() >= starts).then_some(())
        });
    }

    /// Runs it where it must refuse to: to its end, and what it said.
    #[track_caller]
    pub fn start_refused(&self) -> Ran {
        let mut runtime = self.run_command().spawn().expect("the program");
        let end = crate::wait_within(crate::DEADLINE, || runtime.try_wait().expect("its status"));
        if end.is_none() {
            let _ = runtime.kill();
        }
        let ran = Ran::from(runtime.wait_with_output().expect("its end"));
        assert!(end.is_some(), "it was not refused: {}", ran.err);
        ran
    }

    pub fn pid(&self) -> u32 {
        self.runtime.as_ref().expect("it runs").id()
    }

    /// SIGKILL: no last words, no last commit.
    pub fn kill(&mut self) {
        let mut runtime = self.runtime.take().expect("it runs");
        runtime.kill().expect("a signal");
        runtime.wait().expect("its end");
    }

    /// SIGTERM, and how it ended.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut runtime = self.runtime.take().expect("it runs");
        let pid = Pid::from_raw(runtime.id() as i32).expect("a process");
        kill_process(pid, Signal::TERM).expect("a signal");
        let ended = crate::wait_within(crate::DEADLINE, || runtime.try_wait().expect("its status"));
        ended.unwrap_or_else(|| {
            self.runtime = Some(runtime);
            panic!("it does not stop")
        })
    }

    /// Moves an image into the folder of modules: it is whole from the first moment on.
    pub fn drop_in(&self, file: &str, image: &Image) {
        let aside = self.path(&format!("{file}.aside"));
        fs::write(&aside, image.bytes()).expect("an image");
        fs::rename(aside, self.module_file(file)).expect("a move");
    }

    pub fn module_file(&self, file: &str) -> PathBuf {
        self.path("modules").join(file)
    }

    /// The program with those arguments, on this device's control socket.
    pub fn skerry(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command().args(arguments).stdin(Stdio::null()).output().expect("the program"))
    }

    /// The same, not waited for; its output is nobody's.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(built::program());
        command.env("SKERRY_CONTROL", self.socket());
        self.in_its_time(&mut command);
        command
    }

    /// One message through `skerry send`; its answer.
    #[track_caller]
    pub fn send(&self, module: &str, output: &str, line: &Value) -> Value {
        let answers = self.send_all(module, output, std::slice::from_ref(line));
        answers.into_iter().next().expect("an answer")
    }

    /// Each line's answer.
    #[track_caller]
    pub fn send_all(&self, module: &str, output: &str, lines: &[Value]) -> Vec<Value> {
        use std::io::Write;
        let mut command = self.command();
        command.args(["send", module, output, "--json"]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the program");
        let mut input = child.stdin.take().expect("its input");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let ran = Ran::from(child.wait_with_output().expect("its end"));
        let _ = writer.join();
        let answers: Vec<Value> = ran.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(answers.len(), lines.len(), "{ran:?}");
        answers
    }

    /// A direct method of a module: its status and payload, or why there is none.
    #[track_caller]
    pub fn method(&self, module: &str, name: &str, payload: &Value) -> Value {
        let ran = self.skerry(&["method", module, name, &payload.to_string(), "--json"]);
        if ran.out.is_empty() { json!({"error": ran.err}) } else { ran.json() }
    }

    /// A sender that goes on.
    pub fn sender(&self, module: &str, output: &str) -> Sender {
        Sender::start(self.command(), module, output)
    }

    pub fn tap(&self) -> Tap {
        Tap::open(&self.socket(), "/tap")
    }

    /// What a module logged, and what it logs from now on.
    pub fn follow(&self, module: &str) -> Tap {
        Tap::open(&self.socket(), &format!("/modules/{module}/logs?follow=true"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        http::request(&self.socket(), "GET", path, "").unwrap_or_else(|| panic!("no answer for {path}")).1
    }

    pub fn status(&self) -> Value {
        self.get("/status")
    }

    /// The reason why a file of the folder is no image.
    pub fn rejected(&self, file: &str) -> Option<String> {
        let status = self.status();
        status["rejected"].get(self.module_file(file).to_str()?)?.as_str().map(str::to_owned)
    }

    #[track_caller]
    pub fn wait_rejected(&self, file: &str, text: &str) -> String {
        wait_for(&format!("{file} is refused with {text:?}"), || self.rejected(file).filter(|why| why.contains(text)))
    }

    /// A module as `GET /modules` has it, or null.
    pub fn module(&self, name: &str) -> Value {
        let modules = self.get("/modules");
        let found = modules.as_array().and_then(|modules| modules.iter().find(|m| m["name"] == *name));
        found.cloned().unwrap_or(Value::Null)
    }

    pub fn running(&self, name: &str) -> Option<Instance> {
        let module = self.module(name);
        (module["status"] == "running").then(|| Instance {
            pid: module["pid"].as_i64().unwrap_or_default() as i32,
            generation: module["generation"].as_u64().unwrap_or_default(),
            version: module["image"]["version"].as_str().unwrap_or_default().to_owned(),
        })
    }

    #[track_caller]
    pub fn wait_running(&self, name: &str) -> Instance {
        wait_for(&format!("{name} runs; it is {}", self.module(name)), || self.running(name))
    }

    /// Waits for a generation after that one.
    #[track_caller]
    pub fn wait_after(&self, name: &str, generation: u64) -> Instance {
        wait_for(&format!("{name} comes back after {generation}"), || {
            self.running(name).filter(|instance| instance.generation > generation)
        })
    }

    /// How the module last ended, once that is told and has `text` in it.
    #[track_caller]
    pub fn wait_exit(&self, name: &str, text: &str) -> Value {
        wait_for(&format!("{name} ends with {text:?}; it is {}", self.module(name)), || {
            let exit = self.module(name)["lastExit"].clone();
            exit["text"].as_str().is_some_and(|t| t.contains(text)).then_some(exit)
        })
    }

    /// Waits for a line in the module's own log.
    #[track_caller]
    pub fn wait_logged(&self, module: &str, text: &str) {
        wait_for(&format!("{text:?} in the log of {module}"), || {
            self.skerry(&["logs", module]).out.contains(text).then_some(())
        });
    }

    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        self.log.wait(&format!("a line with {text:?}"), |lines| lines.iter().find(|l| l.contains(text)).cloned())
    }

    pub fn log(&self) -> String {
        self.log.all().join("\n")
    }

    /// A scribe's book: what it was given, in its order.
    pub fn book(&self, module: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path("state/modules").join(module).join("book.jsonl")).unwrap_or_default();
        // The last line may be half written by one that was killed.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[track_caller]
    pub fn wait_book(&self, module: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{what} in the book of {module}"), || self.book(module).into_iter().find(|line| fits(line)))
    }

    /// The queue of a module's only input and only priority, with its counts.
    pub fn queue(&self, module: &str) -> Option<Value> {
        let endpoint = format!("modules/{module}/inputs/input1");
        self.status()["queues"].as_array()?.iter().find(|queue| queue["endpoint"] == *endpoint).cloned()
    }

    /// A queue that is not there has counted nothing: after a kill, one whose messages were all consumed in time and so
    /// never written is not known any more.
    #[track_caller]
    pub fn wait_count(&self, module: &str, what: &str, count: u64) {
        let counted = || self.queue(module).map_or(Some(0), |queue| queue[what].as_u64());
        wait_for(&format!("{count} {what} at {module}"), || (counted() == Some(count)).then_some(()));
    }

    /// The processes of its modules, whoever is their parent.
    pub fn instance_pids(&self) -> Vec<i32> {
        let home = format!("HOME={}/", self.path("state/modules").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|line| line.starts_with(home.as_bytes())) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut runtime) = self.runtime.take() {
            let _ = runtime.kill();
            let _ = runtime.wait();
        }
        crate::wait_within(crate::DEADLINE, || {
            let left = self.instance_pids();
            for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            left.is_empty().then_some(())
        });
        if std::thread::panicking() {
            eprintln!("the log of the device:\n{}", self.log());
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ran {
    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A message with a number, as `send` takes it.
pub fn numbered(seq: u64) -> Value {
    json!({"body": {"seq": seq}})
}

/// Whether it runs, and is not only waited for.
pub fn is_alive(pid: i32) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}
