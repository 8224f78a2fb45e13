//! `cargo xtask sim`: runs seeds of the simulated worlds, on all processors: a message's whole way (`runtime/src/tests/sim/`), the way to the
//! cloud (`runtime/src/tests/cloud/`), and of that a session and a twin alone (`runtime/src/logic/`).
//! Must never call a run good in which a seed failed, and always says how to play that one again.

use std::process::Command;

use crate::{cargo, interrupt};

/// From so many seeds on, building it optimised is worth the minutes.
const MANY: u64 = 5_000;

/// Tests that play as many seeds as they are told.
const WORLDS: [&str; 4] = [
    "tests::sim::whatever_happens",
    "tests::cloud::whatever_happens",
    "logic::session::sim::every_message_arrives",
    "logic::twin_sync::tests::both_sides_converge",
];

/// What was typed.
pub struct Wanted {
    pub seeds: u64,
    /// The first; by default one that follows from the commit that is checked out.
    pub seed: Option<u64>,
}

/// `true` when every seed passed.
pub fn run(wanted: &Wanted) -> Result<bool, String> {
    interrupt::catch()?;
    let seed = wanted.seed.unwrap_or_else(of_commit);
    interrupt::check()?;
    let mut command = cargo::cargo();
    command.args(["test", "--quiet", "--package", "skerry-runtime", "--lib"]);
    if wanted.seeds >= MANY {
        command.args(["--profile", "fast"]);
    }
    command.args(["--", "--nocapture"]).args(WORLDS);
    command.env("SKERRY_SEEDS", wanted.seeds.to_string()).env("SKERRY_SEED", seed.to_string());
    let status = command.status().map_err(|e| format!("can't run cargo: {e}"))?;
    Ok(status.success())
}

/// Each commit has seeds of its own, and the same ones everywhere.
pub fn of_commit() -> u64 {
    let told = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(cargo::root()).output();
    let hash = told.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    hash.get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(1)
}
