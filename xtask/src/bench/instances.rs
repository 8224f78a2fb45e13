//! A hundred instances of one image on one device: how long until all run, what each takes while nothing happens, and how long until all
//! have stopped. Must never count what the runtime itself takes among what its instances do.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Better, Figure, Setting, ours};
use crate::device::Device;
use crate::interrupt;

const INSTANCES: usize = 100;
/// How long the rest is watched: each instance is asked twice in that time whether it lives.
const SPAN: Duration = Duration::from_secs(21);
/// What starting left behind is done with by then.
const SETTLE: Duration = Duration::from_secs(3);
/// Until all of them run; far beyond what it takes.
const START_WAIT: Duration = Duration::from_secs(120);

pub fn instances_100(setting: &Setting) -> Result<Vec<Figure>, String> {
    let [mut start, mut pss, mut runtime, mut cpu, mut stop] = [const { Vec::new() }; 5];
    for _ in 0..setting.runs {
        interrupt::check()?;
        let mut device = device(setting)?;
        let begin = Instant::now();
        device.start()?;
        device.wait("hundred running instances", START_WAIT, |device| {
            let list = device.get("/modules").ok()?;
            let running = list.as_array()?.iter().filter(|module| module["status"] == "running").count();
            (running == INSTANCES).then_some(())
        })?;
        start.push(begin.elapsed().as_secs_f64() * 1_000.0);
        pass(SETTLE)?;
        let own = device.pid().ok_or("the runtime does not run")?;
        let pids = ours::pids(&device)?;
        let each: Vec<f64> =
            pids.iter().filter(|pid| **pid != own).map(|pid| ours::pss_bytes(*pid)).collect::<Result<_, _>>()?;
        pss.push(each.iter().sum::<f64>() / each.len().max(1) as f64 / 1e6);
        runtime.push(ours::pss_bytes(own)? / 1e6);
        let (before, from) = (cpu_ms(&pids)?, Instant::now());
        pass(SPAN)?;
        cpu.push((cpu_ms(&pids)? - before) / from.elapsed().as_secs_f64());
        let begin = Instant::now();
        device.stop()?;
        stop.push(begin.elapsed().as_secs_f64() * 1_000.0);
    }
    let figure = |name, unit, runs, what: &str| {
        let more = vec![("instances", json!(INSTANCES)), ("what", json!(what))];
        Figure { name, unit, better: Better::Lower, runs, peer: None, more }
    };
    Ok(vec![
        figure("instances_100", "MB", pss, "PSS of each instance while nothing happens"),
        figure("instances_100_runtime", "MB", runtime, "PSS of the runtime beside them"),
        figure("instances_100_start", "ms", start, "from the start of the runtime until all run"),
        figure("instances_100_idle", "ms/s", cpu, "processor time of all processes while nothing happens"),
        figure("instances_100_stop", "ms", stop, "from the signal until the runtime has ended"),
    ])
}

fn device(setting: &Setting) -> Result<Device, String> {
    let mut config = "[device]\nid = \"bench\"\n[modules]\nautostart = false\n".to_owned();
    (0..INSTANCES).for_each(|n| config += &format!("[modules.filter{n}]\nimage = \"filter\"\n"));
    Device::new("bench", &setting.built, &["filter"], &config)
}

fn pass(span: Duration) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < span {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// User and system time of these processes, ms.
fn cpu_ms(pids: &[i32]) -> Result<f64, String> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let of = |pid: &i32| {
        let file = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        // Behind the name, which may hold anything: utime and stime are the 12th and 13th from there.
        let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let field = |at: usize| rest.split(' ').nth(at).and_then(|word| word.parse::<f64>().ok());
        let both = field(11).zip(field(12)).map(|(user, system)| user + system);
        both.ok_or_else(|| format!("{file} has no times"))
    };
    let all: f64 = pids.iter().map(of).sum::<Result<f64, String>>()?;
    Ok(all / ticks * 1_000.0)
}
