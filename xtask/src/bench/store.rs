//! Figures of parts alone, by programs that do nothing else. Of the store: how fast it commits beside a plain file that is synced as
//! often, what it writes, how much it gives back, and how fast it opens after a crash; of routes: what a message costs them.
//! Must never measure a disk that is memory.

use std::process::Command;

use serde_json::{Value, json};

use super::{Better, Figure, Peer, Setting};
use crate::{cargo, interrupt};

const PLAIN: &str = "a plain file, appended to and synced";
/// Messages of 256 bytes in a run.
const MESSAGES: u64 = 500_000;
/// The same for 1 GiB.
const MESSAGES_GIB: u64 = 4 << 20;

/// Windows 256 and 4096, of noise and of text, and the bytes that each payload byte made the disk write.
pub fn store_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    for (name, amplification, window, kind) in [
        ("store_256", "write_amplification_256_noise", 256, "noise"),
        ("store_256_text", "write_amplification_256_text", 256, "text"),
        ("store_4096", "write_amplification_4096_noise", 4096, "noise"),
        ("store_4096_text", "write_amplification_4096_text", 4096, "text"),
    ] {
        let mut all = Vec::new();
        for _ in 0..setting.runs {
            interrupt::check()?;
            all.push(run(setting, &[&MESSAGES.to_string(), &window.to_string(), kind])?);
        }
        let of = |key: &str| all.iter().filter_map(|line| line[key].as_f64()).collect::<Vec<_>>();
        let most = |key: &str| json!(of(key).into_iter().fold(0.0, f64::max));
        figures.push(Figure {
            name,
            unit: "msgs/s",
            better: Better::Higher,
            runs: of("store_msgs_per_s"),
            peer: Some(Peer { name: PLAIN, runs: of("plain_msgs_per_s") }),
            more: vec![
                ("window", json!(window)),
                ("payload", json!(kind)),
                ("drain_msgs_per_s", json!(super::median(&of("drain_msgs_per_s")))),
                ("slowest_commit_ms", most("slowest_commit_ms")),
                ("slowest_sweep_ms", most("slowest_sweep_ms")),
                ("bytes_full", most("bytes_full")),
                ("bytes_drained", most("bytes_drained")),
                ("bytes_swept", most("bytes_swept")),
            ],
        });
        figures.push(Figure {
            name: amplification,
            unit: "bytes",
            better: Better::Lower,
            runs: of("written_per_byte"),
            peer: None,
            more: vec![("what", json!("bytes written per payload byte"))],
        });
    }
    Ok(figures)
}

/// 1 GiB that nothing can compress, then `kill -9` by itself, then opened again.
pub fn reopen_1gib(setting: &Setting) -> Result<Vec<Figure>, String> {
    let (mut runs, mut memory) = (Vec::new(), Vec::new());
    let mut bytes = Value::Null;
    for _ in 0..setting.runs.min(3) {
        interrupt::check()?;
        let line = run(setting, &[&MESSAGES_GIB.to_string(), "1024", "noise", "reopen"])?;
        runs.extend(line["reopen_ms"].as_f64());
        memory.extend(line["peak_rss_mb"].as_f64());
        bytes = line["bytes_full"].clone();
    }
    let more = vec![("bytes", bytes), ("peak_rss_mb", json!(super::median(&memory)))];
    Ok(vec![Figure { name: "reopen_1gib", unit: "ms", better: Better::Lower, runs, peer: None, more }])
}

fn run(setting: &Setting, args: &[&str]) -> Result<Value, String> {
    // Beside the target folder: /tmp may be memory.
    let folder = tempfile::Builder::new().prefix("store-bench-").tempdir_in(cargo::target_folder());
    let folder = folder.map_err(|e| e.to_string())?;
    let folder = folder.path().display().to_string();
    run_example(setting, "store_bench", &[&[folder.as_str()], args].concat())
}

/// What the conditions of so many routes cost a message.
pub fn route_eval(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut all = Vec::new();
    for _ in 0..setting.runs {
        interrupt::check()?;
        all.push(run_example(setting, "route_bench", &["1000000"])?);
    }
    let figure = |(name, routes): (&'static str, &str)| {
        let runs = all.iter().filter_map(|line| line[routes].as_f64()).collect();
        Figure { name, unit: "ns", better: Better::Lower, runs, peer: None, more: vec![("routes", json!(routes))] }
    };
    Ok([("route_eval_1", "1"), ("route_eval_10", "10"), ("route_eval_100", "100")].map(figure).into())
}

fn run_example(setting: &Setting, example: &str, args: &[&str]) -> Result<Value, String> {
    let mut build = cargo::cargo();
    build.args([
        "build",
        "--quiet",
        "--profile",
        &setting.profile,
        "--package",
        "skerry-runtime",
        "--example",
        example,
    ]);
    let built = build.status().map_err(|e| format!("can't run cargo: {e}"))?;
    if !built.success() {
        return Err(format!("{example} does not build"));
    }
    let program = setting.built.join("examples").join(example);
    let output = Command::new(&program).args(args).output().map_err(|e| format!("{}: {e}", program.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}
