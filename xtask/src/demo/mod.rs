//! `cargo xtask demo`: a real device for half a minute, with modules that are killed and messages that are counted.
//! Must never say of the system what it did not observe, and never leave a process behind unless asked to.

mod books;
mod threshold;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::device::{Device, lives};
use crate::{cargo, interrupt};
use books::{Account, Rule};
use view::{Picture, View};
use watch::{FIELDS, Seen};

const MODULES: [&str; 4] = ["sysinfo", "filter", "window", "recorder"];

/// The recorder stands before the window: it gets the same messages, and keeps their numbers.
const CONFIG: &str = r#"
[device]
id = "Hannover01"

[modules.sysinfo]
settings = { interval_ms = 100 }
[modules.filter]
settings = { field = "cpu_percent", threshold = -1.0 }
[modules.window]
settings = { field = "cpu_percent", seconds = 2.0 }

[routes]
readings   = 'FROM /messages/modules/sysinfo/outputs/metrics INTO BrokeredEndpoint("/modules/filter/inputs/input1")'
alerts     = 'FROM /messages/modules/filter/outputs/alerts INTO BrokeredEndpoint("/modules/window/inputs/input1")'
aggregates = 'FROM /messages/modules/window/outputs/aggregates INTO $upstream'
# For the ledger.
counted_1  = 'FROM /messages/modules/sysinfo/outputs/metrics INTO BrokeredEndpoint("/modules/recorder/inputs/input1")'
counted_2  = 'FROM /messages/modules/filter/outputs/alerts INTO BrokeredEndpoint("/modules/recorder/inputs/input1")'

[restart]
backoff_base = "300ms"
"#;

/// The whole demo, after the build.
const LIMIT: Duration = Duration::from_secs(58);
/// Readings that show an effect: enough to see, few enough to wait for.
const READINGS: usize = 30;
/// How long anything may take to come back.
const COME_BACK: Duration = Duration::from_secs(10);
/// How long one can look at it between two accidents.
const WATCH: Duration = Duration::from_secs(4);
/// A threshold below every value.
const ALL_PASS: f64 = -1.0;

/// `true` when every claim held.
pub fn run(keep: bool) -> Result<bool, String> {
    interrupt::catch()?;
    println!("building skerry and its modules");
    let built = cargo::build(
        "dev",
        &["skerry-runtime", "skerry-sysinfo", "skerry-filter", "skerry-window", "skerry-recorder"],
    )?;
    interrupt::check()?;
    let device = Device::new("demo", &built, &MODULES, CONFIG)?;
    let (to, messages) = sync_channel(1024);
    watch::tap(device.socket(), to);
    let rules = vec![Rule { from_ms: 0, field: 0, threshold: Some(ALL_PASS) }];
    let mut demo = Demo {
        device,
        view: View::new(),
        messages,
        seen: Seen::default(),
        modules: Value::Null,
        modules_at: Instant::now(),
        rules,
        field: 0,
        threshold: ALL_PASS,
        begin: Instant::now(),
        failed: 0,
    };
    let done = demo.story(keep);
    demo.view.clear();
    let stays = keep && done.is_ok();
    if !stays {
        demo.end(done.is_ok());
    }
    let failed = demo.failed;
    if stays {
        demo.stay();
    }
    done.map(|()| failed == 0)
}

struct Demo {
    device: Device,
    view: View,
    messages: Receiver<Value>,
    seen: Seen,
    modules: Value,
    modules_at: Instant,
    rules: Vec<Rule>,
    field: usize,
    threshold: f64,
    begin: Instant,
    failed: usize,
}

impl Demo {
    fn story(&mut self, keep: bool) -> Result<(), String> {
        self.start()?;
        self.readings_flow()?;
        self.change_threshold()?;
        self.kill_a_module()?;
        self.kill_the_runtime()?;
        self.come_to_rest()?;
        self.ledger()?;
        if keep {
            self.device.set_twin("sysinfo", &json!({"interval_ms": 1000}))?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        let title = self.view.bold("skerry demo: device Hannover01, sysinfo -> filter -> window");
        let folder = self.device.path().display().to_string();
        self.view.table(&format!("\n{title}\nfolder {folder}, removed at the end\n\n"));
        self.device.start()?;
        let begin = Instant::now();
        self.device.wait_running(&MODULES)?;
        let ms = begin.elapsed().as_millis();
        self.view.say(&format!("the runtime started; {} modules run, a process each, after {ms} ms", MODULES.len()));
        let status = self.device.get("/status")?;
        self.view.say(&format!("     isolation: {}", status["isolation"].as_str().unwrap_or("?")));
        Ok(())
    }

    fn readings_flow(&mut self) -> Result<(), String> {
        let flow = self.until("readings flow", COME_BACK, |seen| {
            seen.readings >= READINGS as u64 && seen.alerts.len() >= READINGS - 2 && seen.windows > 0
        })?;
        self.claim(flow, "readings of this machine flow through filter and window; with no threshold all pass");
        Ok(())
    }

    fn change_threshold(&mut self) -> Result<(), String> {
        let (field, threshold) = threshold::choose(&self.seen, 0);
        let field_of = &FIELDS[field];
        let values = self.seen.since(0, field);
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), (_, v)| (l.min(*v), h.max(*v)));
        self.view.say(&format!(
            "{} was between {} and {}: skerry twin set filter threshold {}",
            field_of.name,
            field_of.show(low),
            field_of.show(high),
            field_of.show(threshold)
        ));
        let from = self.set_threshold(field, threshold)?;
        self.until("the new threshold takes effect", COME_BACK, |seen| seen.since(from, field).len() >= READINGS)?;
        // What was taken a moment ago is still on its way through the filter.
        let judged = self.seen.since(from, field);
        let beyond: Vec<_> = judged.iter().filter(|(_, v)| *v > threshold).map(|(n, _)| *n).collect();
        self.until("the last of them", COME_BACK, |seen| beyond.iter().all(|n| seen.alerts.contains(n)))?;
        let passed = judged.iter().filter(|(n, _)| self.seen.alerts.contains(n)).count();
        let wrong = judged.iter().filter(|(n, v)| self.seen.alerts.contains(n) != (*v > threshold)).count();
        let text = format!("of {} readings since then {passed} passed; {wrong} on the wrong side", judged.len());
        self.claim(wrong == 0, &text);
        Ok(())
    }

    /// A machine that has calmed down sends nothing beyond the threshold, and a kill would put nothing at stake.
    fn keep_alerts_flowing(&mut self) -> Result<(), String> {
        let recent: Vec<f64> = self.seen.since(now_ms() - 3_000, self.field).into_iter().map(|(_, v)| v).collect();
        let beyond = recent.iter().filter(|v| **v > self.threshold).count();
        if beyond * 5 >= recent.len() {
            return Ok(());
        }
        let (field, threshold) = threshold::choose(&self.seen, now_ms() - 3_000);
        let beyond = self.seen.since(now_ms() - 3_000, field).iter().any(|(_, v)| *v > threshold);
        let threshold = if beyond { threshold } else { ALL_PASS };
        let shown = if beyond { FIELDS[field].show(threshold) } else { "none".to_owned() };
        self.view.say(&format!(
            "     hardly anything is beyond the threshold any more; it is now {} {shown}",
            FIELDS[field].name
        ));
        self.set_threshold(field, threshold)?;
        self.watch()
    }

    /// From when on, ms since 1970, readings are judged by it.
    fn set_threshold(&mut self, field: usize, threshold: f64) -> Result<i64, String> {
        // A reading from shortly before may meet either setting.
        self.rules.push(Rule { from_ms: now_ms() - 1_000, field, threshold: None });
        let path = FIELDS[field].path;
        if field != self.field {
            self.device.set_twin("window", &json!({"field": path}))?;
        }
        self.device.set_twin("filter", &json!({"field": path, "threshold": threshold}))?;
        let from_ms = now_ms() + 1;
        self.rules.push(Rule { from_ms, field, threshold: Some(threshold) });
        (self.field, self.threshold) = (field, threshold);
        Ok(from_ms)
    }

    fn kill_a_module(&mut self) -> Result<(), String> {
        self.keep_alerts_flowing()?;
        let before = self.device.module("filter")?;
        let pid = before["pid"].as_i64().ok_or("the filter has no process")? as i32;
        let life = before["generation"].as_u64().unwrap_or(0);
        let others = self.pids(&["sysinfo", "window", "recorder"])?;
        self.view.say(&format!("kill -9 {pid} (filter)"));
        let handled = handled(&self.device);
        kill(pid)?;
        let begin = Instant::now();
        let mut back = None;
        self.until_device("the filter comes back", COME_BACK, |device| {
            let filter = device.module("filter").unwrap_or_default();
            if filter["generation"].as_u64() > Some(life) && filter["status"] == "running" {
                back = Some(filter);
            }
            back.is_some()
        })?;
        let ms = begin.elapsed().as_millis();
        let exit = back.as_ref().and_then(|f| f["lastExit"]["text"].as_str()).unwrap_or("unknown").to_owned();
        self.claim(back.is_some(), &format!("the filter came back by itself after {ms} ms; its end: {exit}"));
        let same = self.pids(&["sysinfo", "window", "recorder"])? == others;
        self.claim(same, "the other modules noticed nothing: their processes are the same");
        let flow = self.until_device("it handles readings again", COME_BACK, |d| handled_more(d, handled))?;
        self.claim(flow, "it handles readings again, also those that came while it was away");
        self.watch()
    }

    fn kill_the_runtime(&mut self) -> Result<(), String> {
        self.keep_alerts_flowing()?;
        let pids = self.pids(&MODULES)?;
        let pid = self.device.pid().unwrap_or(0);
        self.view.say(&format!("kill -9 {pid} (the runtime)"));
        self.device.kill_9()?;
        let deadline = Instant::now() + Duration::from_secs(3);
        while pids.iter().any(|pid| lives(*pid)) && Instant::now() < deadline {
            interrupt::check()?;
            std::thread::sleep(crate::device::LOOK);
        }
        let left = pids.iter().filter(|pid| lives(**pid)).count();
        self.claim(left == 0, "its modules ended with it: no process is left");
        self.modules = Value::Null;
        let lives = self.seen.epochs.len();
        let begin = Instant::now();
        self.device.start()?;
        self.device.wait_running(&MODULES)?;
        let ms = begin.elapsed().as_millis();
        self.claim(true, &format!("started again, with what it had on disk: all modules run after {ms} ms"));
        let handled = handled(&self.device);
        let flow = self.until("readings flow again", COME_BACK, |seen| seen.epochs.len() > lives)?
            && self.until_device("readings flow again", COME_BACK, |d| handled_more(d, handled))?;
        let twin = self.device.get("/modules/filter/twin")?;
        let same = twin["desired"]["threshold"].as_f64() == Some(self.threshold);
        self.claim(flow && same, "readings flow again, under the threshold that was set before");
        self.watch()
    }

    /// Time to look at it, and for something to be under way when the next thing dies.
    fn watch(&mut self) -> Result<(), String> {
        self.until("messages flow", WATCH, |_| false).map(drop)
    }

    /// No new readings; what is under way arrives.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.view.say("no new readings from here on, so that the ledger can be closed");
        self.device.set_twin("sysinfo", &json!({"interval_ms": 3_600_000}))?;
        let rest = self.until_device("everything arrives", COME_BACK, |device| {
            let status = device.get("/status").unwrap_or_default();
            let queues = status["queues"].as_array().cloned().unwrap_or_default();
            let local: Vec<_> =
                queues.iter().filter(|q| q["endpoint"].as_str().is_some_and(|e| e.starts_with("modules/"))).collect();
            !local.is_empty() && local.iter().all(|q| q["pending"] == 0)
        })?;
        self.claim(rest, "everything that was under way has arrived");
        // The last lines of the tap are in its socket by now.
        self.until("", Duration::from_millis(300), |_| false)?;
        Ok(())
    }

    fn ledger(&mut self) -> Result<(), String> {
        let file = self.device.path().join("state/modules/recorder/record.txt");
        let record = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let (arrived, none) = (books::read(&record), BTreeMap::new());
        let of = |source: &str| arrived.get(source).unwrap_or(&none);
        let accounts = [
            ("sysinfo", books::readings(&self.seen, of("sysinfo"))),
            ("filter", books::alerts(&self.seen, &self.rules, of("filter"))),
        ];
        let summed_up = books::summed_up(&self.seen, of("filter"));
        let title = self.view.bold("ledger, by sequence number, before the window");
        let mut text =
            format!("\n{title}\n  {:<10}{:>8}{:>11}{:>12}{:>6}\n", "source", "sent", "delivered", "duplicates", "lost");
        for (source, a) in &accounts {
            text += &row(source, a);
        }
        let status = self.device.get("/status")?;
        let upstream = status["queues"].as_array().into_iter().flatten();
        let upstream = upstream.filter(|q| q["endpoint"].as_str().is_some_and(|e| e.starts_with("upstream")));
        let kept: u64 = upstream.filter_map(|q| q["pending"].as_u64()).sum();
        text += "\nand behind it\n";
        text += &row("window", &summed_up);
        text += &format!("  {} aggregates, of which {kept} wait on disk for a cloud\n", self.seen.windows);
        let unanswered = accounts.iter().map(|(_, a)| a.unanswered).sum::<usize>() + summed_up.unanswered;
        if unanswered > 0 {
            text += &format!(
                "  not counted: {unanswered} that were under way when the runtime was killed, and that sysinfo was not told are safe\n"
            );
        }
        text.push('\n');
        self.view.table(&text);
        for (source, account) in &accounts {
            self.check(source, account);
        }
        self.check("window", &summed_up);
        Ok(())
    }

    fn check(&mut self, source: &str, account: &Account) {
        if let Some((epoch, seq)) = account.lost.first() {
            self.view.say(&format!("     first lost: epoch {epoch}, number {seq}"));
        }
        let holds = account.lost.is_empty() && account.delivered > 0;
        let text = match source {
            "window" => "no alert that counts as safe is missing in the aggregates".to_owned(),
            _ => format!("nothing that {source} sent and that counts as safe is lost"),
        };
        self.claim(holds, &text);
    }

    fn claim(&mut self, holds: bool, text: &str) {
        self.failed += usize::from(!holds);
        self.view.claim(holds, text);
    }

    /// Takes what comes until `done`; `false` when it does not come to that within `limit`.
    fn until(&mut self, doing: &str, limit: Duration, mut done: impl FnMut(&Seen) -> bool) -> Result<bool, String> {
        self.wait(doing, limit, |demo| done(&demo.seen))
    }

    fn until_device(
        &mut self,
        doing: &str,
        limit: Duration,
        mut done: impl FnMut(&Device) -> bool,
    ) -> Result<bool, String> {
        self.wait(doing, limit, |demo| done(&demo.device))
    }

    fn wait(&mut self, doing: &str, limit: Duration, mut done: impl FnMut(&Demo) -> bool) -> Result<bool, String> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if let Ok(line) = self.messages.recv_timeout(Duration::from_millis(20)) {
                self.seen.take(&line);
                while let Ok(line) = self.messages.try_recv() {
                    self.seen.take(&line);
                }
            }
            if done(self) {
                return Ok(true);
            }
            if let Some(status) = self.device.ended() {
                return Err(format!("the runtime ended ({status})\n{}", self.device.log_tail()));
            }
            if self.begin.elapsed() > LIMIT {
                return Err(format!("the demo takes too long; its last step: {doing}\n{}", self.device.log_tail()));
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.draw(doing);
        }
    }

    fn draw(&mut self, doing: &str) {
        if self.modules.is_null() || self.modules_at.elapsed() > Duration::from_millis(250) {
            self.modules = self.device.get("/modules").unwrap_or_default();
            self.modules_at = Instant::now();
        }
        let Demo { seen, modules, field, threshold, .. } = self;
        self.view.draw(&Picture { seen, modules, field: *field, threshold: *threshold, doing });
    }

    fn pids(&self, modules: &[&str]) -> Result<Vec<i32>, String> {
        let pid = |name: &&str| {
            self.device.module(name)?["pid"]
                .as_i64()
                .map(|pid| pid as i32)
                .ok_or_else(|| format!("{name} has no process"))
        };
        modules.iter().map(pid).collect()
    }

    fn stay(self) {
        let (path, binary) = (self.device.path().display().to_string(), self.device.binary().display().to_string());
        println!("\nit goes on running. Look at it, and stop it:\n");
        println!("  export SKERRY_CONTROL={path}/control.sock");
        for line in ["status", "tap", "twin get filter", "logs sysinfo"] {
            println!("  {binary} {line}");
        }
        let pid = self.device.pid().unwrap_or(0);
        println!("  kill {pid}; tail --pid={pid} -f /dev/null; rm -r {path}");
        self.device.keep();
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

/// Readings that the filter is done with, over all lives of the runtime.
fn handled(device: &Device) -> u64 {
    let status = device.get("/status").unwrap_or_default();
    let queues = status["queues"].as_array().into_iter().flatten();
    let filter = queues.filter(|q| q["endpoint"] == "modules/filter/inputs/input1");
    filter.filter_map(|q| q["delivered"].as_u64()).sum()
}

fn handled_more(device: &Device, than: u64) -> bool {
    handled(device) >= than + 10
}

fn row(source: &str, a: &Account) -> String {
    format!("  {source:<10}{:>8}{:>11}{:>12}{:>6}\n", a.sent, a.delivered, a.duplicates, a.lost.len())
}

fn kill(pid: i32) -> Result<(), String> {
    let pid = Pid::from_raw(pid).ok_or("no such process")?;
    kill_process(pid, Signal::KILL).map_err(|e| format!("kill: {e}"))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}
