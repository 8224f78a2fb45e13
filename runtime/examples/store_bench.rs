//! Measures the store alone, beside a plain file that is appended to and synced: `store_bench FOLDER MESSAGES WINDOW text|noise`.
//! One JSON line. With `leave` behind, one message of each block stays; with `reopen`, it is opened after `kill -9`.
//! Must never do anything that the storage thread would not do.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use skerry_runtime::io::store::{Options, Store};
use skerry_runtime::logic::block::{BlockWriter, Goes};
use skerry_runtime::logic::hub::{BlockWrite, Commit, Ledger, LoadRequest, QueueRow, RowWrite};
use skerry_runtime::model::endpoint::{Endpoint, Source};
use skerry_runtime::model::time::{Age, Wall};

const BYTES: usize = 256;
/// Commits of one side before the other has its turn.
const TURN: u64 = 16;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, folder, messages, window, kind, rest @ ..] = &args[..] else {
        panic!("FOLDER MESSAGES WINDOW text|noise [leave|reopen|fill|open]")
    };
    let (messages, window): (u64, u64) = (messages.parse().expect("a number"), window.parse().expect("a number"));
    let folder = Path::new(folder);
    match rest.first().map(String::as_str) {
        None => measure(folder, messages, window, kind, false),
        Some("leave") => measure(folder, messages, window, kind, true),
        Some("reopen") => reopen(&args),
        Some("fill") => fill(folder, messages, window, kind),
        Some(_) => open(folder),
    }
}

/// One process fills the store and kills itself, another opens it.
fn reopen(args: &[String]) {
    let part = |what: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(&args[1..5]).arg(what).output().expect("it runs")
    };
    let filled = part("fill");
    assert!(!filled.status.success(), "it was to be killed: {filled:?}");
    let opened = part("open");
    assert!(opened.status.success(), "{opened:?}");
    print!("{}", String::from_utf8_lossy(&opened.stdout));
}

fn fill(folder: &Path, messages: u64, window: u64, kind: &str) {
    let at = folder.join("store");
    let mut store = Store::open(&at, &options()).unwrap_or_else(|e| panic!("{e}")).store;
    let batches: Vec<Commit> = (0..8).map(|n| batch(n, window, kind == "noise")).collect();
    let (mut next_block, mut stored) = (1, 0);
    for n in 0..messages / window {
        let commit = numbered(&batches[n as usize % 8], n, &mut next_block, &mut stored, window);
        store.commit(&commit).expect("committed");
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

fn open(folder: &Path) {
    let at = folder.join("store");
    let begin = Instant::now();
    let opened = Store::open(&at, &options()).unwrap_or_else(|e| panic!("{e}"));
    let reopen_ms = begin.elapsed().as_secs_f64() * 1e3;
    let stored: u64 = opened.restored.queues.iter().map(|q| q.ledger.stored).sum();
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let peak =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next()?.parse().ok());
    let peak_rss_mb = peak.map_or(0.0, |kib: f64| kib / 1024.0);
    println!(
        "{{\"reopen_ms\":{reopen_ms:.1},\"stored\":{stored},\"peak_rss_mb\":{peak_rss_mb:.1},\"bytes_full\":{}}}",
        used(&at)
    );
}

fn numbered(batch: &Commit, n: u64, next_block: &mut u64, stored: &mut u64, window: u64) -> Commit {
    let mut commit = batch.clone();
    for (block, row) in commit.blocks.iter_mut().zip(&mut commit.rows) {
        (block.block, row.block) = (*next_block, *next_block);
        *next_block += 1;
    }
    *stored += window;
    finish(&mut commit, n, *stored, 0, *next_block);
    commit
}

fn measure(folder: &Path, messages: u64, window: u64, kind: &str, leave: bool) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("a folder");
    let mut plain = File::create(folder.join("plain")).expect("a file");
    let noise = kind == "noise";
    let batches: Vec<Commit> = (0..8).map(|n| batch(n, window, noise)).collect();

    let commits = messages / window;
    let payload = (commits * window * BYTES as u64) as f64;
    let at = folder.join("store");
    let mut store = Store::open(&at, &options()).unwrap_or_else(|e| panic!("{e}")).store;
    let plain_batches: Vec<Vec<u8>> =
        batches.iter().map(|b| b.blocks.iter().flat_map(|b| b.bytes.clone()).collect()).collect();
    let (mut next_block, mut stored, mut slowest) = (1, 0, 0.0f64);
    let (mut plain_time, mut store_time, mut plain_written) = (0.0, 0.0, 0.0);
    let before = written();
    // In turns, so that a machine that is slower for a while is slower for both.
    for from in (0..commits).step_by(TURN as usize) {
        let turn = from..(from + TURN).min(commits);
        let (begin, plain_before) = (Instant::now(), written());
        for n in turn.clone() {
            plain.write_all(&plain_batches[n as usize % 8]).expect("written");
            plain.sync_data().expect("synced");
        }
        plain_time += begin.elapsed().as_secs_f64();
        plain_written += written() - plain_before;
        let begin = Instant::now();
        for n in turn {
            let commit = numbered(&batches[n as usize % 8], n, &mut next_block, &mut stored, window);
            let one = Instant::now();
            store.commit(&commit).expect("committed");
            slowest = slowest.max(one.elapsed().as_secs_f64());
        }
        store_time += begin.elapsed().as_secs_f64();
    }
    let _ = fs::remove_file(folder.join("plain"));
    let plain_rate = (commits * window) as f64 / plain_time;
    let store_rate = (commits * window) as f64 / store_time;
    let per_byte = (written() - before - plain_written) / payload;
    let full = used(&at);
    drop(store);
    let begin = Instant::now();
    let mut store = Store::open(&at, &options()).unwrap_or_else(|e| panic!("{e}")).store;
    let reopen_ms = begin.elapsed().as_secs_f64() * 1e3;

    let drained = drain(&mut store, &at, commits, stored, next_block, leave);
    drop(store);
    println!(
        "{{\"window\":{window},\"kind\":\"{kind}\",\"store_msgs_per_s\":{store_rate:.0},\"plain_msgs_per_s\":{plain_rate:.0},\
         \"ratio\":{:.2},\"written_per_byte\":{per_byte:.3},\"slowest_commit_ms\":{:.1},\"bytes_full\":{full},\
         \"reopen_ms\":{reopen_ms:.1},{drained}}}",
        store_rate / plain_rate,
        slowest * 1e3,
    );
}

/// Reads everything back, settles it (with `leave` all but one message of each block), and lets the store give back what
/// it took.
fn drain(store: &mut Store, at: &Path, commits: u64, all: u64, next_block: u64, leave: bool) -> String {
    let begin = Instant::now();
    let (mut from, mut n, mut stored, mut slowest) = (0, commits, all, 0.0f64);
    while let Some(block) =
        store.load(&LoadRequest { peek: false, queue: 1, ix: 0, from, to: next_block }).expect("read")
    {
        from = block.block + 1;
        let left = u32::from(leave);
        stored -= block.messages.len() as u64 - u64::from(left);
        let mut bits = vec![u64::MAX; block.total.div_ceil(64) as usize];
        bits[0] -= u64::from(left);
        let row = RowWrite {
            queue: 1,
            block: block.block,
            total: block.total,
            settled: block.total - left,
            bits,
            last_expiry: Age::NEVER,
        };
        let mut commit = Commit { rows: vec![row], ..Commit::default() };
        n += 1;
        finish(&mut commit, n, stored, all - stored, next_block);
        let one = Instant::now();
        store.commit(&commit).expect("committed");
        slowest = slowest.max(one.elapsed().as_secs_f64());
        if n.is_multiple_of(16) {
            store.sweep().expect("swept");
        }
    }
    let rate = all as f64 / begin.elapsed().as_secs_f64();
    let drained = used(at);
    let mut sweep_slowest = 0.0f64;
    loop {
        let one = Instant::now();
        let more = store.sweep().expect("swept");
        sweep_slowest = sweep_slowest.max(one.elapsed().as_secs_f64());
        if !more {
            break;
        }
    }
    format!(
        "\"drain_msgs_per_s\":{rate:.0},\"slowest_drain_commit_ms\":{:.1},\"slowest_sweep_ms\":{:.1},\
         \"bytes_drained\":{drained},\"bytes_swept\":{}",
        slowest * 1e3,
        sweep_slowest * 1e3,
        used(at)
    )
}

fn options() -> Options {
    Options { quota_bytes: Some(4 << 30), allow_volatile_state: true, boot_id: "bench".into() }
}

/// A commit's worth of messages in blocks, as the hub cuts them.
fn batch(number: u64, window: u64, noise: bool) -> Commit {
    let source = Source { module: "sensor".into(), output: "readings".into() };
    let mut commit = Commit::default();
    let (mut writer, mut total) = (BlockWriter::default(), 0);
    let mut state = number + 1;
    for n in 0..window {
        let record = if noise { random(&mut state) } else { telemetry(number * window + n) };
        writer.push(n, &source, Wall(0), &[Goes { queue: 1, expiry: Age::NEVER }], &record);
        total += 1;
        if writer.is_full(256 * 1024) || n + 1 == window {
            commit.blocks.push(BlockWrite { block: 0, bytes: std::mem::take(&mut writer).finish() });
            commit.rows.push(RowWrite { queue: 1, block: 0, total, settled: 0, bits: vec![], last_expiry: Age::NEVER });
            total = 0;
        }
    }
    commit
}

fn random(state: &mut u64) -> Vec<u8> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..BYTES).map(|_| next()).collect()
}

fn telemetry(n: u64) -> Vec<u8> {
    let mut text = format!(
        "{{\"time\":\"2026-01-01T00:00:{:02}.{:03}Z\",\"cpu\":{{\"load1\":{}.{:02},\"temperature\":{}.5}},\"memory\":{{\"free\":{},\"total\":16777216}}}}",
        n / 1000 % 60,
        n % 1000,
        n % 4,
        n * 7 % 100,
        40 + n % 9,
        8_000_000 + n * 7919 % 100_000
    );
    while text.len() < BYTES {
        text.push(' ');
    }
    text.into_bytes()
}

fn finish(commit: &mut Commit, id: u64, stored: u64, delivered: u64, next_block: u64) {
    commit.id = id;
    let endpoint = Endpoint::Input { module: "sink".into(), input: "input1".into() };
    let ledger = Ledger { delivered, stored, pending: stored, ..Ledger::default() };
    commit.queues = vec![QueueRow { id: 1, endpoint, priority: 10, ledger }];
    commit.next_block = next_block;
    commit.next_seq = 1;
}

/// Bytes that this process has had written to the disk.
fn written() -> f64 {
    let io = fs::read_to_string("/proc/self/io").expect("/proc/self/io");
    let found = io.lines().find_map(|l| l.strip_prefix("write_bytes: ")).expect("write_bytes");
    found.parse().expect("a number")
}

fn used(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).expect("a folder");
    files.filter_map(|f| f.ok()?.metadata().ok()).map(|m| m.len()).sum()
}
