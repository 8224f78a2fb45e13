//! The figures: what is run, how often, and what comes out. Runs of skerry and of its peer take turns, so that a machine
//! that is slower for a while is slower for both.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::mosquitto::{self, Mosquitto};
use super::{Better, Figure, Peer, Setting, ours};
use crate::device::Device;
use crate::interrupt;

const BYTES: usize = 256;
const WINDOW: u64 = 256;
/// Messages of a run: a second or two on a slow machine.
const HOP_COUNT: u64 = 1_000_000;
const ECHO_COUNT: u64 = 20_000;
const WARM_UP: u64 = 20_000;
/// Of two seconds each, until the start is behind a runtime that is under load.
const START_SETTLES: u32 = 4;

/// One run of the hop, messages a second.
pub fn hop_rate(built: &Path) -> Result<f64, String> {
    let mut device = ours::device(built)?;
    ours::run(&mut device, "thread", WARM_UP, BYTES, WINDOW)?;
    of(&ours::run(&mut device, "thread", HOP_COUNT / 2, BYTES, WINDOW)?, "messages_per_s")
}

/// Of the runtime with one instance, MB.
pub fn runtime_pss(built: &Path) -> Result<f64, String> {
    let device = idle_device(built, 1)?;
    Ok(ours::pss_bytes(device.pid().unwrap_or(0))? / 1e6)
}

/// Of all processes with eleven instances less those with one, by ten, MB.
pub fn instance_pss(built: &Path) -> Result<f64, String> {
    const MORE: usize = 10;
    let few = total_pss(&idle_device(built, 1)?)?;
    let many = total_pss(&idle_device(built, 1 + MORE)?)?;
    Ok((many - few) / MORE as f64 / 1e6)
}

/// One message at a time, there and back.
pub fn echo_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut device = ours::echo_device(&setting.built)?;
    let peer = Mosquitto::start()?;
    ours::run(&mut device, "one", ECHO_COUNT / 10, BYTES, 1)?;
    peer.echo(ECHO_COUNT / 10, BYTES)?;
    let [mut p50, mut p99, mut peer_p50, mut peer_p99] = [const { Vec::new() }; 4];
    for run in 0..setting.runs as u64 {
        interrupt::check()?;
        let result = ours::run(&mut device, "one", ECHO_COUNT + run, BYTES, 1)?;
        p50.push(of(&result, "p50_us")?);
        p99.push(of(&result, "p99_us")?);
        let trips = peer.echo(ECHO_COUNT, BYTES)?;
        peer_p50.push(trips[trips.len() / 2]);
        peer_p99.push(trips[trips.len() * 99 / 100]);
    }
    let figure = |name, runs, theirs| {
        let peer = Some(Peer { name: mosquitto::NAME, runs: theirs });
        Figure { name, unit: "us", better: Better::Lower, runs, peer, more: Vec::new() }
    };
    Ok(vec![figure("echo_256", p50, peer_p50), figure("echo_256_p99", p99, peer_p99)])
}

/// Memory while nothing happens: of the runtime, and of each further instance.
pub fn idle_pss(setting: &Setting) -> Result<Vec<Figure>, String> {
    let (mut runtime, mut instance) = (Vec::new(), Vec::new());
    for _ in 0..setting.runs {
        runtime.push(runtime_pss(&setting.built)?);
        instance.push(instance_pss(&setting.built)?);
    }
    let peer = Mosquitto::start()?;
    settle()?;
    let theirs = vec![ours::pss_bytes(peer.pid())? / 1e6];
    let peer = Some(Peer { name: "mosquitto, idle", runs: theirs });
    let figure = |name, runs, peer, what: &str| {
        let more = vec![("what", json!(what))];
        Figure { name, unit: "MB", better: Better::Lower, runs, peer, more }
    };
    Ok(vec![
        figure("idle_pss_runtime", runtime, peer, "with one instance"),
        figure("idle_pss_instance", instance, None, "all processes with 11 instances less those with 1, by 10"),
    ])
}

fn idle_device(built: &Path, instances: usize) -> Result<Device, String> {
    let names: Vec<String> = (0..instances).map(|n| format!("filter{n}")).collect();
    let mut config = "[device]\nid = \"bench\"\n[modules]\nautostart = false\n".to_owned();
    names.iter().for_each(|name| config += &format!("[modules.{name}]\nimage = \"filter\"\n"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let device = ours::started(built, &config, &["filter"], &names)?;
    settle()?;
    Ok(device)
}

/// What starting left behind is done with.
fn settle() -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn total_pss(device: &Device) -> Result<f64, String> {
    ours::pids(device)?.into_iter().map(ours::pss_bytes).sum()
}

/// From the start of the process until the first message is delivered and acknowledged.
pub fn start_ms(setting: &Setting) -> Result<Vec<Figure>, String> {
    let config = r#"
[device]
id = "bench"
[modules]
autostart = false
[modules.source]
image = "bench"
settings = { run = "thread", count = 1 }
[modules.sink]
image = "bench"
[modules.filter]
[routes]
to_sink = 'FROM /messages/modules/source/outputs/ping INTO BrokeredEndpoint("/modules/sink/inputs/sink")'
"#;
    let mut runs = Vec::new();
    // The first start makes the store, and reads everything from the disk.
    for run in 0..=setting.runs {
        let mut device = Device::new("bench", &setting.built, &["bench", "filter"], config)?;
        let begin = Instant::now();
        device.start()?;
        device.wait("first message", Duration::from_secs(20), |device| {
            let status = device.get("/status").ok()?;
            let queues = status["queues"].as_array()?;
            queues.iter().any(|queue| queue["delivered"].as_u64() > Some(0)).then_some(())
        })?;
        if run > 0 {
            runs.push(begin.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    let look = crate::device::LOOK.as_millis() as u64;
    let more = vec![("modules", json!(3)), ("resolution_ms", json!(look))];
    Ok(vec![Figure { name: "start_ms", unit: "ms", better: Better::Lower, runs, peer: None, more }])
}

/// Bytes that reach a disk while everything is online and under load, for a minute: of the processes, and of everybody on the same device.
pub fn idle_writes(setting: &Setting) -> Result<Vec<Figure>, String> {
    const SPAN: Duration = Duration::from_secs(60);
    let mut device = ours::device(&setting.built)?;
    ours::run(&mut device, "thread", WARM_UP, BYTES, WINDOW)?;
    // More than can pass in that time; the device is stopped before they have.
    ours::begin(&device, "thread", 1_000_000_000, BYTES, WINDOW)?;
    // The start is written down: twins, the proof of the image, and a little later the index of both.
    (0..START_SETTLES).try_for_each(|_| settle())?;
    let pids = ours::pids(&device)?;
    let written = || -> Result<f64, String> { pids.iter().map(|pid| ours::written_bytes(*pid)).sum() };
    let (before, delivered_before, disk_before) = (written()?, delivered(&device)?, ours::disk_bytes(device.path())?);
    let until = Instant::now() + SPAN;
    while Instant::now() < until {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(100));
    }
    let (after, delivered_after) = (written()?, delivered(&device)?);
    let more = vec![
        ("seconds", json!(SPAN.as_secs())),
        ("messages", json!(delivered_after - delivered_before)),
        ("payload_bytes", json!((delivered_after - delivered_before) * BYTES as u64)),
        ("device_bytes_of_all", json!(ours::disk_bytes(device.path())? - disk_before)),
    ];
    let runs = vec![after - before];
    Ok(vec![Figure { name: "idle_writes", unit: "bytes", better: Better::Lower, runs, peer: None, more }])
}

fn delivered(device: &Device) -> Result<u64, String> {
    let status = device.get("/status")?;
    let queues = status["queues"].as_array().into_iter().flatten();
    Ok(queues.filter_map(|queue| queue["delivered"].as_u64()).sum())
}

/// A number of the driver's result.
pub fn of(result: &Value, name: &str) -> Result<f64, String> {
    result[name].as_f64().ok_or_else(|| format!("the result has no {name}: {result}"))
}
