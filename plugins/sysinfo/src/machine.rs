//! Reads the machine's state from /proc, /sys and statvfs.
//! Must never take a value for granted: every one may be missing.

use std::{collections::BTreeMap, fs};

use serde::Serialize;

/// What is measured at one moment.
#[derive(Serialize)]
pub struct Measurement {
    /// Share of the time since the last measurement in which the processors worked, %.
    cpu_percent: Option<f64>,
    /// Average number of runnable tasks over 1, 5 and 15 minutes.
    load: Option<[f64; 3]>,
    uptime_s: Option<f64>,
    memory: Memory,
    /// By name of the zone, °C.
    temperature: BTreeMap<String, f64>,
    /// By folder.
    disks: BTreeMap<String, Disk>,
    /// By interface, since it came up.
    network: BTreeMap<String, Network>,
}

#[derive(Default, Serialize)]
struct Memory {
    total_bytes: Option<u64>,
    available_bytes: Option<u64>,
    swap_free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Disk {
    total_bytes: u64,
    /// For a process without privileges.
    available_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Network {
    received_bytes: u64,
    sent_bytes: u64,
}

/// Time that all processors together have spent, in ticks of the kernel.
#[derive(Clone, Copy, Default)]
pub struct CpuTimes {
    total: u64,
    idle: u64,
}

impl CpuTimes {
    pub fn read() -> CpuTimes {
        parse_cpu(&text("/proc/stat")).unwrap_or_default()
    }
}

/// `before` is moved on to now.
pub fn measure(before: &mut CpuTimes, disks: &[String]) -> Measurement {
    let (last, now) = (*before, CpuTimes::read());
    *before = now;
    let total = now.total.saturating_sub(last.total);
    let idle = now.idle.saturating_sub(last.idle);
    Measurement {
        cpu_percent: (total > 0).then(|| round((total.saturating_sub(idle)) as f64 * 100.0 / total as f64)),
        load: parse_load(&text("/proc/loadavg")),
        uptime_s: text("/proc/uptime").split_whitespace().next().and_then(|word| word.parse().ok()),
        memory: parse_memory(&text("/proc/meminfo")),
        temperature: temperatures(),
        disks: disks.iter().filter_map(|folder| Some((folder.clone(), disk(folder)?))).collect(),
        network: parse_network(&text("/proc/net/dev")),
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn parse_cpu(stat: &str) -> Option<CpuTimes> {
    let times: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Guest time, from the ninth on, is counted in the first two already.
    Some(CpuTimes { total: times.iter().take(8).sum(), idle: times.get(3)? + times.get(4).unwrap_or(&0) })
}

fn parse_load(loadavg: &str) -> Option<[f64; 3]> {
    let mut words = loadavg.split_whitespace().map_while(|word| word.parse().ok());
    Some([words.next()?, words.next()?, words.next()?])
}

fn parse_memory(meminfo: &str) -> Memory {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Memory {
        total_bytes: bytes("MemTotal"),
        available_bytes: bytes("MemAvailable"),
        swap_free_bytes: bytes("SwapFree"),
    }
}

fn parse_network(dev: &str) -> BTreeMap<String, Network> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let network = Network { received_bytes: *counters.first()?, sent_bytes: *counters.get(8)? };
        Some((name.trim().to_owned(), network))
    };
    dev.lines().skip(2).filter_map(interface).filter(|(name, _)| name != "lo").collect()
}

fn temperatures() -> BTreeMap<String, f64> {
    let zones = fs::read_dir("/sys/class/thermal").into_iter().flatten().flatten();
    let zone = |entry: fs::DirEntry| {
        let millidegrees: f64 = fs::read_to_string(entry.path().join("temp")).ok()?.trim().parse().ok()?;
        let kind = fs::read_to_string(entry.path().join("type")).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((format!("{name} {}", kind.trim()).trim().to_owned(), round(millidegrees / 1_000.0)))
    };
    zones.filter(|entry| entry.file_name().to_string_lossy().starts_with("thermal_zone")).filter_map(zone).collect()
}

fn disk(folder: &str) -> Option<Disk> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(Disk {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Two places after the point say all that these values know.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let cpu = parse_cpu("cpu  10 0 5 80 5 0 0 0 7 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!((cpu.total, cpu.idle), (100, 85));
        assert_eq!(parse_load("0.50 1.00 2.25 1/234 5678\n"), Some([0.5, 1.0, 2.25]));
        let memory = parse_memory("MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n");
        assert_eq!((memory.total_bytes, memory.available_bytes), (Some(2 << 20), Some(1 << 20)));
        assert_eq!(memory.swap_free_bytes, None);
        let dev = "Inter-|\n face |\n    lo: 1 0 0 0 0 0 0 0 1\n  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n";
        let network = parse_network(dev);
        assert_eq!(network.len(), 1);
        assert_eq!(network["eth0"], Network { received_bytes: 100, sent_bytes: 200 });
    }

    #[test]
    fn what_is_missing_is_left_out() {
        assert!(parse_cpu("").is_none() && parse_load("x").is_none() && parse_network("").is_empty());
        assert!(disk("/no/such/folder").is_none());
    }
}
