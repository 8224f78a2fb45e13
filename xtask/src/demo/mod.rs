//! `cargo xtask demo`: a real device and a cloud for well under a minute, with modules, connections and the runtime
//! killed, and messages that are counted where they arrive. Must never say of the system what it did not observe, and
//! never leave a process behind.

mod books;
mod close;
mod outage;
mod picture;
mod scenes;
mod sky;
mod threshold;
mod view;
mod watch;

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::device::{Device, lives};
use crate::{cargo, interrupt};
use books::Rule;
use picture::Picture;
use sky::Sky;
use view::View;
use watch::Seen;

const MODULES: [&str; 3] = ["sysinfo", "filter", "window"];

/// Everything goes up, also readings that do not pass the filter: so each can be counted at the end.
const CONFIG: &str = r#"
[device]
id = "Hannover01"

[modules.sysinfo]
settings = { interval_ms = 100 }
[modules.filter]
settings = { field = "cpu_percent", threshold = -1.0 }
[modules.window]
settings = { field = "cpu_percent", seconds = 1.0 }

[routes]
readings = 'FROM /messages/modules/sysinfo/outputs/metrics INTO BrokeredEndpoint("/modules/filter/inputs/input1")'
alerts   = 'FROM /messages/modules/filter/outputs/alerts INTO BrokeredEndpoint("/modules/window/inputs/input1")'
upstream = 'FROM /messages/* INTO $upstream'

[restart]
backoff_base = "300ms"

"#;

/// The whole demo, after the build: far beyond what it takes, so that only what hangs is ended.
const LIMIT: Duration = Duration::from_secs(150);
/// How long anything may take to come back.
const COME_BACK: Duration = Duration::from_secs(20);
/// How often the device is asked for its status.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Between two plain lines; the second where things move fast.
const SLOW: Duration = Duration::from_secs(2);
const FAST: Duration = Duration::from_millis(800);
/// A threshold below every value.
const ALL_PASS: f64 = -1.0;

/// `true` when every claim held.
pub fn run(keep: bool) -> Result<bool, String> {
    interrupt::catch()?;
    println!("building skerry and its modules");
    let built = cargo::build("dev", &["skerry-runtime", "skerry-sysinfo", "skerry-filter", "skerry-window"])?;
    interrupt::check()?;
    let sky = Sky::start(&MODULES)?;
    let device = Device::new("demo", &built, &MODULES, &format!("{CONFIG}{}", sky.config()))?;
    let (to, messages) = sync_channel(1024);
    watch::tap(device.socket(), to);
    let mut demo = Demo {
        device,
        sky,
        view: View::new(),
        messages,
        seen: Seen::default(),
        status: Value::Null,
        asked: None,
        rules: vec![Rule { from_ms: 0, field: 0, threshold: Some(ALL_PASS) }],
        field: 0,
        threshold: ALL_PASS,
        kills: Vec::new(),
        pace: SLOW,
        limit: Some(Instant::now() + LIMIT),
        failed: 0,
    };
    let mut done = demo.story();
    if keep && done.is_ok() {
        done = demo.stay();
    }
    demo.view.clear();
    demo.end(done.is_ok());
    done.map(|()| demo.failed == 0)
}

struct Demo {
    device: Device,
    sky: Sky,
    view: View,
    messages: Receiver<Value>,
    seen: Seen,
    /// As the device told it last; null when it does not answer.
    status: Value,
    asked: Option<Instant>,
    rules: Vec<Rule>,
    field: usize,
    threshold: f64,
    /// Times, ms since 1970.
    kills: Vec<i64>,
    pace: Duration,
    limit: Option<Instant>,
    failed: usize,
}

impl Demo {
    fn story(&mut self) -> Result<(), String> {
        self.start()?;
        self.messages_flow()?;
        self.change_threshold()?;
        self.call_a_method()?;
        self.kill_a_module()?;
        self.cut_the_cloud()?;
        self.kill_the_runtime()?;
        self.heal_the_cloud()?;
        self.come_to_rest()?;
        self.ledger()
    }

    fn claim(&mut self, holds: bool, text: &str) {
        self.failed += usize::from(!holds);
        self.view.claim(holds, text);
    }

    /// Takes what comes until `done`; `false` when it does not come to that within `limit`.
    fn until(&mut self, doing: &str, limit: Duration, mut done: impl FnMut(&Demo) -> bool) -> Result<bool, String> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            self.take();
            if done(self) {
                return Ok(true);
            }
            if let Some(status) = self.device.ended() {
                return Err(format!("the runtime ended ({status})\n{}", self.device.log_tail()));
            }
            if self.limit.is_some_and(|limit| Instant::now() > limit) {
                return Err(format!("the demo takes too long; its last step: {doing}\n{}", self.device.log_tail()));
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            let Demo { seen, status, field, threshold, .. } = self;
            self.view.draw(&Picture { seen, status, field: *field, threshold: *threshold, doing }, self.pace);
        }
    }

    fn take(&mut self) {
        if let Ok(line) = self.messages.recv_timeout(Duration::from_millis(20)) {
            self.seen.take(&line);
            while let Ok(line) = self.messages.try_recv() {
                self.seen.take(&line);
            }
        }
        self.sky.take(&mut self.seen);
        if self.asked.is_none_or(|at| at.elapsed() > ASK_EVERY) {
            self.ask();
        }
    }

    fn ask(&mut self) {
        self.status = self.device.get("/status").unwrap_or_default();
        self.asked = Some(Instant::now());
    }

    /// Time to look at it, and for something to be under way when the next thing dies.
    fn watch(&mut self, doing: &str, span: Duration) -> Result<(), String> {
        self.until(doing, span, |_| false).map(drop)
    }

    fn pids(&self, modules: &[&str]) -> Result<Vec<i32>, String> {
        let pid = |name: &&str| {
            let pid = self.device.module(name)?["pid"].as_i64();
            pid.map(|pid| pid as i32).ok_or_else(|| format!("{name} has no process"))
        };
        modules.iter().map(pid).collect()
    }

    /// Until Ctrl-C, which is how it is meant to end.
    fn stay(&mut self) -> Result<(), String> {
        self.sky.desire("sysinfo", json!({"interval_ms": 1000}))?;
        let (path, binary) = (self.device.path().display().to_string(), self.device.binary().display().to_string());
        let mut text = format!(
            "\n{}\n\n  export SKERRY_CONTROL={path}/control.sock\n",
            self.view.bold("Device and cloud go on until Ctrl-C. Look at them from another terminal:")
        );
        for line in ["status", "tap", "twin get filter", "logs sysinfo"] {
            text += &format!("  {binary} {line}\n");
        }
        text.push('\n');
        self.view.table(&text);
        self.limit = None;
        self.pace = Duration::from_secs(10);
        match self.until("running; Ctrl-C ends it", Duration::from_secs(86_400), |_| false) {
            Err(error) if error == interrupt::INTERRUPTED => Ok(()),
            other => other.map(drop),
        }
    }

    fn end(&mut self, orderly: bool) {
        let pids = self.pids(&MODULES).unwrap_or_default();
        let stopped = self.device.stop();
        if orderly {
            let left = pids.iter().filter(|pid| lives(**pid)).count();
            let holds = matches!(&stopped, Ok(status) if status.success()) && left == 0;
            let how = stopped.map_or_else(|e| e, |status| status.to_string());
            self.claim(holds, &format!("stopped ({how}); no process is left"));
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}
