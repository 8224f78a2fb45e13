//! Runs many seeds of one simulation on all processors: `SKERRY_SEEDS` of them, from `SKERRY_SEED` on.
//! Must never call a run good in which one failed, and always says how to play that one again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seeds that may fail before the rest is left alone: one fault tends to show in many.
const FAILURES_MAX: usize = 10;

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// As many as the environment says, or `usual` ones from 1 on. `play` returns the number that stands for everything that happened.
pub fn run(what: &str, usual: u64, play: impl Fn(u64) -> u64 + Sync) {
    let (first, count) = (number("SKERRY_SEED").unwrap_or(1), number("SKERRY_SEEDS").unwrap_or(usual));
    let begin = Instant::now();
    let (next, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return;
            }
            let seed = first.wrapping_add(n);
            if let Ok(trace) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed))) {
                sum.fetch_add(trace ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
                continue;
            }
            eprintln!("{what}: again with: cargo xtask sim --seeds 1 --seed {seed}");
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(seed);
            if failed.len() >= FAILURES_MAX {
                next.store(u64::MAX / 2, Ordering::Relaxed);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{what}: these seeds failed: {failed:?}");
    let (seconds, trace) = (begin.elapsed().as_secs_f64(), sum.into_inner());
    println!("{what}: seeds={count} from={first} seconds={seconds:.1} trace={trace:016x}");
}
