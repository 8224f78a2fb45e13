//! The scenes without a cloud: it is cut off, the store fills, the runtime is killed twice, and the store drains. Must
//! never take what the device says of its queues for proof that anything arrived: that is the ledger's.

use std::time::{Duration, Instant};

use serde_json::Value;
use skerry_cloud::Command;

use super::picture::Waiting;
use super::{COME_BACK, Demo, FAST, MODULES, SLOW, now_ms};
use crate::device::{LOOK, lives};
use crate::interrupt;

/// Messages that wait before the runtime is killed, and how many more before the cloud is back.
const BACKLOG: u64 = 100;
const MORE: u64 = 60;
/// For so many to gather on a machine that is busy.
const GATHER: Duration = Duration::from_secs(40);
/// Acknowledgements a second and identity: a slow line, so that one can watch the store drain.
const SLOW_LINE: f64 = 20.0;

impl Demo {
    pub fn cut_the_cloud(&mut self) -> Result<(), String> {
        self.view.heading("The cloud is cut off: the device works on, and the store fills");
        self.keep_alerts_flowing()?;
        let arrived = self.in_cloud();
        self.sky.tell(Command::Cut)?;
        let cut = self.until("the connections end", COME_BACK, |demo| demo.uplinks(false) == MODULES.len())?;
        self.claim(cut, "all connections are gone, and refused when tried again");
        self.pace = FAST;
        let filled = self.until("the store fills", GATHER, |demo| {
            let waiting = Waiting::of(&demo.status);
            waiting.pending >= BACKLOG && waiting.stored > 0
        })?;
        let waiting = Waiting::of(&self.status);
        let came = self.in_cloud() - arrived;
        self.claim(filled, &format!("{waiting}; {came} came to the cloud meanwhile"));
        Ok(())
    }

    /// While the cloud is away: what waits is nowhere but on this device.
    pub fn kill_the_runtime(&mut self) -> Result<(), String> {
        self.view.heading("The runtime is killed as well");
        self.ask();
        let before = Waiting::of(&self.status);
        self.kill_and_start()?;
        self.ask();
        let after = Waiting::of(&self.status);
        // What was on disk a moment before the kill; by then it may have been more.
        self.claim(after.pending >= before.stored, &format!("what was on disk is there again: {after}"));
        let lives = self.seen.lives();
        let filled = self.until("the store fills on", GATHER, |demo| {
            Waiting::of(&demo.status).pending >= after.pending + MORE && demo.seen.lives() >= lives
        })?;
        let twin = self.device.get("/modules/filter/twin")?;
        let same = twin["desired"]["threshold"].as_f64() == Some(self.threshold);
        self.claim(filled && same, "the modules go on without a cloud, under the threshold that it had set");
        Ok(())
    }

    pub fn heal_the_cloud(&mut self) -> Result<(), String> {
        self.view.heading("The cloud is back, over a slow line; and the runtime is killed in the midst of it");
        self.ask();
        let full = Waiting::of(&self.status);
        self.sky.tell(Command::Throttle { per_second: SLOW_LINE, identity: None })?;
        self.sky.tell(Command::Heal)?;
        let half = self.until("the store drains", GATHER, |demo| {
            !demo.status.is_null() && Waiting::of(&demo.status).pending <= full.pending / 2
        })?;
        let now = Waiting::of(&self.status);
        self.claim(half, &format!("it drains: {} messages waited, and {} still do", full.pending, now.pending));
        self.kill_and_start()?;
        self.ask();
        let again = Waiting::of(&self.status);
        self.view.say(&format!("{again}; of some of them only the cloud knows that they arrived: they are sent again"));
        let drained = self.until("the store drains", GATHER, |demo| {
            !demo.status.is_null() && Waiting::of(&demo.status).pending <= MODULES.len() as u64 * 4
        })?;
        self.sky.tell(Command::Throttle { per_second: 0.0, identity: None })?;
        self.pace = SLOW;
        let in_order = self.seen.out_of_order() == 0;
        self.claim(drained && in_order, "it has drained, each source's messages in their order");
        Ok(())
    }

    fn kill_and_start(&mut self) -> Result<(), String> {
        let pids = self.pids(&MODULES)?;
        let pid = self.device.pid().unwrap_or(0);
        self.view.say(&format!("kill -9 {pid} (the runtime)"));
        // Asked at the last moment: what these have been told until now must not be lost.
        for source in ["sysinfo", "window"] {
            let said = self.device.call(source, "count", &Value::Null)?;
            self.seen.promise(source, &said["payload"]);
        }
        self.kills.push(now_ms());
        self.device.kill_9()?;
        let deadline = Instant::now() + COME_BACK;
        while pids.iter().any(|pid| lives(*pid)) && Instant::now() < deadline {
            interrupt::check()?;
            std::thread::sleep(LOOK);
        }
        let left = pids.iter().filter(|pid| lives(**pid)).count();
        let begin = Instant::now();
        self.device.start()?;
        self.device.wait_running(&MODULES)?;
        let ms = begin.elapsed().as_millis();
        let text = format!("its modules ended with it; started again, all of them run after {ms} ms");
        self.claim(left == 0, &text);
        Ok(())
    }

    /// Connections to the cloud that are open, or not, as the device sees it.
    fn uplinks(&self, open: bool) -> usize {
        let uplinks = self.status["upstream"].as_array().into_iter().flatten();
        uplinks.filter(|uplink| uplink["connected"] == open).count()
    }

    fn in_cloud(&self) -> usize {
        MODULES.iter().map(|module| self.seen.in_cloud(module)).sum()
    }
}
