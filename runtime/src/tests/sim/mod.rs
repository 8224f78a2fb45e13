//! The whole way of a message in a simulated world: the real routes, hub, storage thread, clock and store, on a disk whose
//! power fails, with modules that are slow, absent, refuse and die. An oracle looks on after every step; then the faults
//! stop and everything must drain. `cargo xtask sim` runs many.

mod ends;
mod ledgers;
mod oracle;
mod part;
mod picture;
mod plan;
mod runtime;
mod steps;
mod trace;
mod ways;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use world::World;

/// Seeds that once found something, one a line.
const SEEDS: &str = include_str!("../../../../tests/data/sim-seeds.txt");

/// One world. Returns the number that stands for everything that happened in it.
fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.trace.is_loud = std::env::var_os("SKERRY_SAY").is_some();
    world.trace.say(|| format!("{:?}", world.plan));
    for _ in 0..world.plan.steps {
        world.step();
    }
    if world.plan.calm {
        world.check_calm();
    }
    world.drain();
    world.trace.hash
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Seeds that may fail before the rest is left alone: one fault tends to show in many.
const FAILURES_MAX: usize = 10;

/// Runs these seeds on all processors; returns one number for all of them, whatever the order.
fn run_all(seeds: &[u64]) -> u64 {
    let (next, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            if let Ok(trace) = std::panic::catch_unwind(|| run(*seed)) {
                sum.fetch_add(trace ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
                continue;
            }
            eprintln!("again with: cargo xtask sim --seeds 1 --seed {seed}");
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(*seed);
            if failed.len() >= FAILURES_MAX {
                next.store(u64::MAX / 2, Ordering::Relaxed);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
    sum.into_inner()
}

#[test]
fn whatever_happens_the_promise_is_kept() {
    let first = number("SKERRY_SEED").unwrap_or(1);
    let count = number("SKERRY_SEEDS").unwrap_or(100);
    let seeds: Vec<u64> = (0..count).map(|n| first.wrapping_add(n)).collect();
    let begin = Instant::now();
    let trace = run_all(&seeds);
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "seeds={count} from={first} seconds={seconds:.1} seeds_per_second={:.0} trace={trace:016x}",
        count as f64 / seconds
    );
}

#[test]
fn what_failed_once_does_not_fail_again() {
    let lines = SEEDS.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds: Vec<u64> =
        lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a number a line")).collect();
    run_all(&seeds);
}

#[test]
fn the_same_seed_is_the_same_world() {
    let first = number("SKERRY_SEED").unwrap_or(1_000);
    for seed in first..first + 20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(first), run(first + 1));
}
