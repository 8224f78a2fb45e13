//! skerry's side of a measurement: a device with the bench module as driver, echo and sink, and what /proc says of it.
//! Must never measure a first run: processes, pages and queues are warmed up by a short one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::device::Device;

/// Longest that one run may take.
const RUN_WAIT: Duration = Duration::from_secs(120);

/// Instances `source`, `sink` and `echo` of the bench module, whose image is proved soon: that is written down once.
pub fn device(built: &Path) -> Result<Device, String> {
    let config = r#"
[device]
id = "bench"
[restart]
health_window = "1s"
[modules]
autostart = false
[modules.source]
image = "bench"
[modules.sink]
image = "bench"
[modules.echo]
image = "bench"
[routes]
to_sink = 'FROM /messages/modules/source/outputs/ping INTO BrokeredEndpoint("/modules/sink/inputs/sink")'
"#;
    started(built, config, &["bench"], &["source", "sink", "echo"])
}

/// The same with a route there and one back.
pub fn echo_device(built: &Path) -> Result<Device, String> {
    let config = r#"
[device]
id = "bench"
[modules]
autostart = false
[modules.source]
image = "bench"
[modules.echo]
image = "bench"
[routes]
there = 'FROM /messages/modules/source/outputs/ping INTO BrokeredEndpoint("/modules/echo/inputs/echo")'
back = 'FROM /messages/modules/echo/outputs/reply INTO BrokeredEndpoint("/modules/source/inputs/pong")'
"#;
    started(built, config, &["bench"], &["source", "echo"])
}

pub fn started(built: &Path, config: &str, plugins: &[&str], modules: &[&str]) -> Result<Device, String> {
    let mut device = Device::new("bench", built, plugins, config)?;
    device.start()?;
    device.wait_running(modules)?;
    Ok(device)
}

/// Starts a run of the driver.
pub fn begin(device: &Device, run: &str, count: u64, bytes: usize, window: u64) -> Result<(), String> {
    order(device, &json!({"run": run, "count": count, "bytes": bytes, "window": window}))
}

/// Starts a thread that sends so many messages, each so long after the one before, and waits for no receipt between.
pub fn begin_paced(device: &Device, count: u64, bytes: usize, pause_ms: u64) -> Result<(), String> {
    let window = count + 1;
    order(
        device,
        &json!({"run": "thread", "count": count, "bytes": bytes, "window": window, "noise": true, "pause_ms": pause_ms}),
    )
}

fn order(device: &Device, settings: &Value) -> Result<(), String> {
    let answer = device.call("source", "run", settings)?;
    match answer["status"].as_u64() {
        Some(200..=299) => Ok(()),
        _ => Err(format!("the bench module refused to run: {answer}")),
    }
}

/// A whole run, and what the driver says of it.
pub fn run(device: &mut Device, run: &str, count: u64, bytes: usize, window: u64) -> Result<Value, String> {
    begin(device, run, count, bytes, window)?;
    result(device, run, count)
}

/// The same by a thread, with bodies that do not compress.
pub fn run_noise(device: &mut Device, count: u64, bytes: usize, window: u64) -> Result<Value, String> {
    order(device, &json!({"run": "thread", "count": count, "bytes": bytes, "window": window, "noise": true}))?;
    result(device, "thread", count)
}

fn result(device: &mut Device, run: &str, count: u64) -> Result<Value, String> {
    device.wait("result of the run", RUN_WAIT, |device| {
        let twin = device.get("/modules/source/twin").ok()?;
        let result = twin.pointer("/reported/result").or(twin.pointer("/properties/reported/result"))?;
        let is_ours = result["count"] == count && result["run"] == run;
        is_ours.then(|| result.clone())
    })
}

/// Processes of the runtime and all its modules.
pub fn pids(device: &Device) -> Result<Vec<i32>, String> {
    let modules = device.get("/modules")?;
    let hosts = modules.as_array().into_iter().flatten().filter_map(|m| m["pid"].as_i64()).map(|pid| pid as i32);
    Ok(device.pid().into_iter().chain(hosts).collect())
}

/// Memory of a process, shared pages counted by share, bytes.
pub fn pss_bytes(pid: i32) -> Result<f64, String> {
    number(&format!("/proc/{pid}/smaps_rollup"), "Pss:").map(|kib| kib * 1024.0)
}

/// Bytes that a process caused to be written to a disk, so far.
pub fn written_bytes(pid: i32) -> Result<f64, String> {
    number(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Bytes written so far to the block device that a folder lies on, by everybody.
pub fn disk_bytes(folder: &Path) -> Result<u64, String> {
    let fault = |e: std::io::Error| format!("{}: {e}", folder.display());
    let device = fs::metadata(folder).map_err(fault)?.dev();
    let file = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    // The seventh number, in sectors of 512 bytes whatever the device has.
    let sectors = text.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok());
    sectors.map(|sectors| sectors * 512).ok_or_else(|| format!("{file} says {text:?}"))
}

fn number(file: &str, key: &str) -> Result<f64, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{file}: {e} (a runtime lets only root look)"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{file} has no {key}"))
}
