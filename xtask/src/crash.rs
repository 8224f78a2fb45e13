//! `cargo xtask crash`: takes the power away under the store, and kills the real runtime with -9 under load, as often as
//! asked. Must never call a run good that made fewer cuts or kills than that.

use std::time::{Duration, Instant, SystemTime};

use crate::{cargo, interrupt, sim};

/// What was typed.
pub struct Wanted {
    /// Power cuts of the simulated disk under the real store.
    pub cuts: u64,
    /// `kill -9` of the real runtime.
    pub kills: u64,
    /// First of the seeds.
    pub seed: Option<u64>,
    /// Optimised for many, since most of the time goes into making and reading blocks.
    pub profile: &'static str,
}

/// What every run of the tests makes: few, and others with every commit.
pub fn some(is_quick: bool) -> Wanted {
    let (cuts, kills) = if is_quick { (100, 0) } else { (500, 12) };
    Wanted { cuts, kills, seed: Some(sim::of_commit()), profile: "dev" }
}

/// `true` when nothing that was acknowledged was lost.
pub fn run(wanted: &Wanted) -> Result<bool, String> {
    interrupt::catch()?;
    let seed = wanted.seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_secs() % 1_000_000_000
    });
    let mut good = true;
    if wanted.cuts > 0 {
        println!("=== {} power cuts, seeds from {seed}", wanted.cuts);
        let args = ["--package", "skerry-runtime", "--lib", "store::tests::cuts"];
        let environment = [("SKERRY_CUTS", wanted.cuts.to_string()), ("SKERRY_SEED", seed.to_string())];
        good &= test(wanted.profile, &args, &environment)?;
    }
    if wanted.kills > 0 {
        println!("=== {} kills of the runtime, seeds from {seed}", wanted.kills);
        let args = ["--package", "skerry-tests", "--test", "life", "durable::"];
        // Three of the tests kill the runtime: one without a chain, one through it, one while it delivers.
        let each = wanted.kills.div_ceil(3).to_string();
        good &= test(wanted.profile, &args, &[("SKERRY_KILLS", each), ("SKERRY_SEED", seed.to_string())])?;
    }
    Ok(good)
}

fn test(profile: &str, args: &[&str], environment: &[(&str, String)]) -> Result<bool, String> {
    interrupt::check()?;
    let begin = Instant::now();
    let mut command = cargo::cargo();
    command.args(["test", "--quiet", "--profile", profile]).args(args).args(["--", "--nocapture"]);
    command.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
    let status = command.status().map_err(|e| format!("can't run cargo: {e}"))?;
    let took: Duration = begin.elapsed();
    println!("=== {}: {:.0} s", if status.success() { "passed" } else { "FAILED" }, took.as_secs_f64());
    Ok(status.success())
}
