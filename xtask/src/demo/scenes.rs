//! The first scenes, with everything online: what flows, what the cloud changes and asks, and a module that is killed.
//! Must never judge by the time that has passed: each scene ends when what it is about was seen, or fails.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::books::Rule;
use super::picture::message;
use super::watch::FIELDS;
use super::{ALL_PASS, COME_BACK, Demo, MODULES, now_ms, threshold};
use crate::device::Device;

/// Readings that show an effect: enough to see, few enough to wait for.
const READINGS: usize = 25;
/// A threshold from the values of a moment ago may be beside those of the next.
const TRIES: usize = 3;
/// A reading that was measured so long before a change may still meet it, on a machine that is busy.
const UNDER_WAY_MS: i64 = 3_000;

impl Demo {
    pub fn start(&mut self) -> Result<(), String> {
        let title = self.view.bold("skerry runs modules on a device, and this is a device: Hannover01");
        self.view.table(&format!(
            "\n{title}\n
  sysinfo  ->  filter  ->  window  ->  $upstream, the cloud
  measures     passes what  sums up     a stand-in for Azure IoT Hub on this machine,
  10 times/s   is beyond a  each second  reached through TLS, WebSocket and MQTT as the real one
               threshold

Each module is a shared library in a folder, and runs as a process with an identity of its own. What each of them
sends also goes to the cloud under its identity, with numbers, so that the ledger at the end can name what is missing.
"
        ));
        self.device.start()?;
        let begin = Instant::now();
        self.device.wait_running(&MODULES)?;
        let ms = begin.elapsed().as_millis();
        self.view.say(&format!("the runtime started; {} modules run, a process each, after {ms} ms", MODULES.len()));
        let status = self.device.get("/status")?;
        self.view.say(&format!("isolation: {}", status["isolation"].as_str().unwrap_or("?")));
        Ok(())
    }

    pub fn messages_flow(&mut self) -> Result<(), String> {
        self.view.heading("Messages flow to the cloud");
        let connected = self.until("connecting", COME_BACK, |demo| demo.sky.connected() == MODULES.len())?;
        let text = format!("{} identities are connected to {}", self.sky.connected(), self.sky.host());
        self.claim(connected, &text);
        let flow = self.until("messages flow", COME_BACK, |demo| {
            let there = |source, count| demo.seen.in_cloud(source) >= count;
            there("sysinfo", READINGS) && there("filter", READINGS - 3) && there("window", 2)
        })?;
        for source in MODULES {
            if let Some(last) = self.seen.cloud.get(source).and_then(|arrived| arrived.last.as_deref()) {
                self.view.say(&format!("cloud <- {}", message(last)));
            }
        }
        self.claim(flow, "readings, alerts and sums arrive in the cloud; with no threshold every reading is an alert");
        Ok(())
    }

    pub fn change_threshold(&mut self) -> Result<(), String> {
        self.view.heading("The cloud changes a setting: the threshold, as a desired property of the filter");
        let mut since = 0;
        for _ in 0..TRIES {
            let (from, shows) = self.try_threshold(since)?;
            if shows {
                break;
            }
            self.view.say("this machine works differently by now, so that it does not show; once more");
            since = from;
        }
        Ok(())
    }

    /// From what was measured since then; the time from which it holds, and whether one could see that it does.
    fn try_threshold(&mut self, since: i64) -> Result<(i64, bool), String> {
        let (field, threshold) = threshold::choose(&self.seen, since);
        let field_of = &FIELDS[field];
        let values = self.seen.since(since, field);
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), (_, v)| (l.min(*v), h.max(*v)));
        self.view.say(&format!(
            "{} was between {} and {}; desired from now on: beyond {}",
            field_of.name,
            field_of.show(low),
            field_of.show(high),
            field_of.show(threshold)
        ));
        let from = self.set_threshold(field, threshold)?;
        let reported = self.sky.reported("filter");
        let shown = json!({"field": reported["field"], "threshold": reported["threshold"]});
        let same = reported["threshold"].as_f64() == Some(threshold);
        self.claim(same, &format!("the filter reported to the cloud what it works with now: {shown}"));
        let rested = |demo: &Demo| demo.seen.since(from, field).len() >= READINGS;
        self.until("the new threshold takes effect", COME_BACK, rested)?;
        // What was taken a moment ago is still on its way.
        let judged = self.seen.since(from, field);
        let beyond: Vec<_> = judged.iter().filter(|(_, v)| *v > threshold).map(|(n, _)| *n).collect();
        let has = |demo: &Demo, n| demo.seen.cloud.get("filter").is_some_and(|a| a.numbers.contains_key(n));
        self.until("the last of them", COME_BACK, |demo| beyond.iter().all(|n| has(demo, n)))?;
        let passed = judged.iter().filter(|(n, _)| has(self, n)).count();
        let wrong = judged.iter().filter(|(n, v)| has(self, n) != (*v > threshold)).count();
        let all = judged.len();
        let text =
            format!("of {all} readings since then {passed} came to the cloud as alerts; {wrong} on the wrong side");
        self.claim(wrong == 0, &text);
        // Until now all did.
        Ok((from, passed < all))
    }

    pub fn call_a_method(&mut self) -> Result<(), String> {
        self.view.heading("The cloud calls a method of a module");
        let answer = self.count("sysinfo")?;
        self.claim(answer.is_some(), &format!("count() of sysinfo answered {}", answer.unwrap_or_default()));
        Ok(())
    }

    /// Asks a source through the cloud what it was acknowledged for; its word goes into the books.
    pub fn count(&mut self, module: &str) -> Result<Option<Value>, String> {
        let mut said = None;
        // A connection that has just come back may not have subscribed yet.
        self.until(&format!("asking {module}"), COME_BACK, |demo| {
            said = demo.sky.call(module, "count").ok().filter(|(status, _)| *status == 200).map(|(_, said)| said);
            said.is_some()
        })?;
        if let Some(said) = &said {
            self.seen.promise(module, said);
        }
        Ok(said)
    }

    pub fn kill_a_module(&mut self) -> Result<(), String> {
        self.view.heading("A module is killed");
        self.keep_alerts_flowing()?;
        let before = self.device.module("filter")?;
        let pid = before["pid"].as_i64().ok_or("the filter has no process")? as i32;
        let life = before["generation"].as_u64().unwrap_or(0);
        let others = self.pids(&["sysinfo", "window"])?;
        self.view.say(&format!("kill -9 {pid} (filter)"));
        let handled = handled(&self.device);
        self.kills.push(now_ms());
        kill(pid)?;
        let begin = Instant::now();
        let mut back = None;
        self.until("the filter comes back", COME_BACK, |demo| {
            let filter = demo.device.module("filter").unwrap_or_default();
            if filter["generation"].as_u64() > Some(life) && filter["status"] == "running" {
                back = Some(filter);
            }
            back.is_some()
        })?;
        let ms = begin.elapsed().as_millis();
        let exit = back.as_ref().and_then(|f| f["lastExit"]["text"].as_str()).unwrap_or("unknown").to_owned();
        self.claim(back.is_some(), &format!("the filter came back by itself after {ms} ms; its end: {exit}"));
        let same = self.pids(&["sysinfo", "window"])? == others;
        self.claim(same, "the other modules noticed nothing: their processes are the same");
        let flow = self.until("it handles readings again", COME_BACK, |d| handled_more(&d.device, handled))?;
        self.claim(flow, "it handles readings again, also those that came while it was away");
        Ok(())
    }

    /// A machine that has calmed down sends nothing beyond the threshold, and a kill would put nothing at stake.
    pub fn keep_alerts_flowing(&mut self) -> Result<(), String> {
        const LATELY_MS: i64 = 2_500;
        let lately = now_ms() - LATELY_MS;
        let recent = self.seen.since(lately, self.field);
        let beyond = recent.iter().filter(|(_, v)| *v > self.threshold).count();
        if beyond * 5 >= recent.len() {
            return Ok(());
        }
        self.view
            .say("hardly anything is beyond it any more; the cloud takes the threshold away, so that more is at stake");
        self.set_threshold(self.field, ALL_PASS)?;
        self.watch("messages flow", Duration::from_secs(1))
    }

    /// From the cloud; returns the time from which on it holds for every reading.
    fn set_threshold(&mut self, field: usize, threshold: f64) -> Result<i64, String> {
        self.rules.push(Rule { from_ms: now_ms() - UNDER_WAY_MS, field, threshold: None });
        let path = FIELDS[field].path;
        if field != self.field {
            // Once the cloud has a section, all of it counts, and nothing of the configured one.
            self.sky.desire("window", json!({"field": path, "seconds": 1.0}))?;
        }
        self.sky.desire("filter", json!({"field": path, "threshold": threshold}))?;
        self.until("the filter takes it", COME_BACK, |demo| {
            let reported = demo.sky.reported("filter");
            reported["threshold"].as_f64() == Some(threshold) && reported["field"] == path
        })?;
        let from_ms = now_ms() + 1;
        self.rules.push(Rule { from_ms, field, threshold: Some(threshold) });
        (self.field, self.threshold) = (field, threshold);
        Ok(from_ms)
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

fn kill(pid: i32) -> Result<(), String> {
    let pid = Pid::from_raw(pid).ok_or("no such process")?;
    kill_process(pid, Signal::KILL).map_err(|e| format!("kill: {e}"))
}
