//! What a process has used, as `/proc` has it: for metrics, so only when somebody asks.
//! Must never fail a question for one file that can't be read.

use std::fs;
use std::time::Duration;

/// Of one process, since its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Processor time of all its threads, of the time that it has been there; 100 is one processor.
    pub cpu_percent: f64,
    pub threads: u64,
    /// `None` where the kernel does not count, or does not tell whoever asks.
    pub read_bytes: Option<u64>,
    pub written_bytes: Option<u64>,
}

/// `None`: there is no such process. `uptime` is the device's.
pub fn of(pid: i32, uptime: Duration) -> Option<Usage> {
    let (used, threads, started) = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let lived = (uptime.as_secs_f64() - started as f64 / ticks).max(1.0 / ticks);
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let bytes = |name: &str| io.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some(Usage {
        cpu_percent: used as f64 / ticks / lived * 100.0,
        threads,
        read_bytes: bytes("read_bytes:"),
        written_bytes: bytes("write_bytes:"),
    })
}

/// Ticks used, threads, and the tick of its start. The name may hold anything, a `)` too.
fn parse(stat: &str) -> Option<(u64, u64, u64)> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(20)?, field(22)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_numbers() {
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 3 0 4711 1000 200";
        assert_eq!(parse(stat), Some((42, 3, 4711)));
        assert_eq!((parse(""), parse("77 (x) S 1")), (None, None));
        let own = of(std::process::id() as i32, Duration::from_secs(1 << 30)).unwrap();
        assert!(own.threads >= 1 && own.cpu_percent >= 0.0, "{own:?}");
        assert_eq!(of(-1, Duration::from_secs(1)), None);
    }
}
