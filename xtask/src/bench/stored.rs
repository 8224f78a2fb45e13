//! Messages that can't be delivered yet: how fast a module's are made safe on disk and how fast they come back, beside Redis and Mosquitto;
//! what that makes the disk write, and what it costs in memory. Must never count as stored what was not synced before it was acknowledged.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::mosquitto::{self, Mosquitto};
use super::redis::{self, Redis};
use super::{Better, Figure, Peer, Setting, figures, ours};
use crate::device::Device;
use crate::{control, interrupt};

const BYTES: usize = 256;
const COUNT: u64 = 400_000;
/// Each save of this peer writes everything that it holds.
const COUNT_MOSQUITTO: u64 = 1_000;
const WARM_UP: u64 = 20_000;

/// A source, and a sink that is on or off. The credit is the window, so that a sender that waits is seen to wait.
fn config(window: u64, sink: bool, store: &str) -> String {
    format!(
        "[device]\nid = \"bench\"\n[modules]\nautostart = false\n[modules.source]\nimage = \"bench\"\n\
         [modules.sink]\nimage = \"bench\"\nenabled = {sink}\n\
         [store]\ncredit_messages = {window}\n{store}\n\
         [routes]\nto_sink = 'FROM /messages/modules/source/outputs/ping INTO BrokeredEndpoint(\"/modules/sink/inputs/sink\")'\n"
    )
}

fn offline(built: &Path, window: u64, store: &str) -> Result<Device, String> {
    ours::started(built, &config(window, false, store), &["bench"], &["source"])
}

/// To a module that is switched off, messages a second.
pub fn store_rate(built: &Path) -> Result<f64, String> {
    let mut device = offline(built, 256, "quota = \"4GiB\"")?;
    ours::run_noise(&mut device, WARM_UP, BYTES, 256)?;
    figures::of(&ours::run_noise(&mut device, COUNT / 2, BYTES, 256)?, "messages_per_s")
}

/// From a module to the disk, acknowledged when synced, at windows 256 and 4096; and the bytes written for each byte of a body.
pub fn stored_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    for (names, window) in [
        (["stored_256", "stored_256_mosquitto", "stored_256_amplification"], 256),
        (["stored_4096", "stored_4096_mosquitto", "stored_4096_amplification"], 4096),
    ] {
        figures.extend(stored(setting, names, window)?);
    }
    Ok(figures)
}

fn stored(setting: &Setting, names: [&'static str; 3], window: u64) -> Result<Vec<Figure>, String> {
    let [mut runs, mut of_redis, mut of_mosquitto, mut written, mut redis_written] = [const { Vec::new() }; 5];
    for run in 0..setting.runs as u64 {
        interrupt::check()?;
        // Each side begins with an empty store.
        let mut device = offline(&setting.built, window, "quota = \"4GiB\"")?;
        ours::run_noise(&mut device, WARM_UP, BYTES, window)?;
        let pid = device.pid().unwrap_or(0);
        let before = ours::written_bytes(pid)?;
        let result = ours::run_noise(&mut device, COUNT + run, BYTES, window)?;
        runs.push(figures::of(&result, "messages_per_s")?);
        written.push((ours::written_bytes(pid)? - before) / ((COUNT + run) * BYTES as u64) as f64);
        drop(device);
        let redis = Redis::start(true)?;
        redis.store(WARM_UP, BYTES, window)?;
        let before = redis.written_bytes()?;
        of_redis.push(redis.store(COUNT, BYTES, window)?);
        redis_written.push((redis.written_bytes()? - before) / (COUNT * BYTES as u64) as f64);
        drop(redis);
        let mosquitto = Mosquitto::start_synced()?;
        of_mosquitto.push(mosquitto.store(COUNT_MOSQUITTO, BYTES, window)?);
    }
    let more = || vec![("window", json!(window)), ("payload", json!("noise"))];
    Ok(vec![
        Figure { more: more(), ..Figure::rate(names[0], runs.clone(), redis::SYNCED, of_redis) },
        Figure { more: more(), ..Figure::rate(names[1], runs, mosquitto::SAVED, of_mosquitto) },
        amplification(names[2], written, Some((redis::SYNCED, redis_written)), "noise, at full speed"),
    ])
}

fn amplification(name: &'static str, runs: Vec<f64>, peer: Option<(&'static str, Vec<f64>)>, what: &str) -> Figure {
    let peer = peer.map(|(name, runs)| Peer { name, runs });
    Figure {
        name,
        unit: "bytes written per byte",
        better: Better::Lower,
        runs,
        peer,
        more: vec![("what", json!(what))],
    }
}

/// The same of 256 bytes a second with a minute's window.
pub fn amplification_slow(setting: &Setting) -> Result<Vec<Figure>, String> {
    const SECONDS: u64 = 180;
    let mut device = offline(&setting.built, 4096, "flush_interval = \"60s\"")?;
    let pid = device.pid().unwrap_or(0);
    let before = ours::written_bytes(pid)?;
    ours::begin_paced(&device, SECONDS, BYTES, 1_000)?;
    let bytes = (SECONDS * BYTES as u64) as f64;
    device.wait("the last commit", Duration::from_secs(SECONDS + 70), |device| {
        let status = device.get("/status").ok()?;
        stored_messages(&status).filter(|stored| *stored >= SECONDS)
    })?;
    let slow = (ours::written_bytes(pid)? - before) / bytes;
    let what = "256 B of noise a second, flush interval 60 s";
    Ok(vec![amplification("write_amplification_1hz", vec![slow], None, what)])
}

/// What `sysinfo` measures here, a hundred times a second.
pub fn amplification_telemetry(setting: &Setting) -> Result<Vec<Figure>, String> {
    const MESSAGES: u64 = 2_000;
    let config = "[device]\nid = \"bench\"\n[modules]\nautostart = false\n[modules.sysinfo]\nsettings = { interval_ms = 10 }\n\
                  [routes]\nup = 'FROM /messages/modules/sysinfo/* INTO $upstream'\n";
    let mut device = ours::started(&setting.built, config, &["sysinfo"], &["sysinfo"])?;
    let pid = device.pid().unwrap_or(0);
    let sent = |device: &Device| -> Option<(u64, f64)> {
        Some((stored_messages(&device.get("/status").ok()?)?, sent_bytes(device)?))
    };
    let (first, first_bytes) =
        device.wait("first commit", Duration::from_secs(10), |d| sent(d).filter(|(n, _)| *n > 0))?;
    let before = ours::written_bytes(pid)?;
    let (_, last_bytes) =
        device.wait("many commits", Duration::from_secs(60), |d| sent(d).filter(|(n, _)| *n >= first + MESSAGES))?;
    let written = (ours::written_bytes(pid)? - before) / (last_bytes - first_bytes);
    let what = "sysinfo every 10 ms, flush interval 1 s";
    Ok(vec![amplification("write_amplification_telemetry", vec![written], None, what)])
}

/// Of all messages that modules sent, bodies and properties.
fn sent_bytes(device: &Device) -> Option<f64> {
    let metrics = control::text(&device.socket(), "/metrics").ok()?;
    let sum = metrics.lines().find(|line| line.starts_with("edgehub_message_size_bytes_sum"))?;
    sum.rsplit(' ').next()?.parse().ok()
}

fn stored_messages(status: &serde_json::Value) -> Option<u64> {
    Some(status["queues"].as_array()?.iter().filter_map(|queue| queue["stored"].as_u64()).sum())
}

/// What waited on disk, to a module that comes back; the peer keeps it in memory.
pub fn drain_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let (mut runs, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..setting.runs as u64 {
        interrupt::check()?;
        let mut device = offline(&setting.built, 4096, "quota = \"4GiB\"")?;
        let count = COUNT + run;
        ours::run_noise(&mut device, count, BYTES, 4096)?;
        device.stop()?;
        let on = config(4096, true, "quota = \"4GiB\"");
        fs::write(device.path().join("config.toml"), on).map_err(|e| format!("can't write the configuration: {e}"))?;
        device.start()?;
        let state = device.wait("all messages", Duration::from_secs(120), |device| {
            let answer = device.call("sink", "sink", &json!(null)).ok()?;
            let state = answer.get("payload").unwrap_or(&answer).clone();
            (state["count"].as_u64()? >= count).then_some(state)
        })?;
        runs.push(figures::of(&state, "messages_per_s")?);
        let mosquitto = Mosquitto::start()?;
        theirs.push(mosquitto.drain(COUNT / 4, BYTES, 1_000)?);
    }
    let peer = Some(Peer { name: mosquitto::NAME, runs: theirs });
    let more = vec![("what", json!("from the disk, after a restart; the peer's come from its memory"))];
    Ok(vec![Figure { name: "drain_256", unit: "msgs/s", better: Better::Higher, runs, peer, more }])
}

/// What 10 GiB that wait on disk cost the runtime in memory.
pub fn rss_backlog(setting: &Setting) -> Result<Vec<Figure>, String> {
    const BODY: usize = 64 * 1024;
    const BACKLOG: u64 = 10 << 30;
    let mut device = offline(&setting.built, 4096, "quota = \"20GiB\"")?;
    ours::run_noise(&mut device, 2_000, BODY, 16)?;
    let pid = device.pid().unwrap_or(0);
    let before = ours::pss_bytes(pid)? / 1e6;
    let count = BACKLOG / BODY as u64;
    ours::run_noise(&mut device, count, BODY, 16)?;
    let after = ours::pss_bytes(pid)? / 1e6;
    let more = vec![("backlog_bytes", json!(BACKLOG)), ("with_130_mb", json!(before)), ("more", json!(after - before))];
    Ok(vec![Figure { name: "rss_backlog", unit: "MB", better: Better::Lower, runs: vec![after], peer: None, more }])
}
