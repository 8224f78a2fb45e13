//! `cargo xtask test`: everything that is proved, stage by stage, with the time of each and a summary at the end.
//! Must never pass over a part silently: what could not run is NOT RUN, and that is no success.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::{cargo, crash, debian, demo, interrupt, new, sdk, sim, tidy, trial};

/// What was typed.
pub struct Wanted {
    pub quick: bool,
    pub packages: bool,
    /// Only the stages whose name begins like this.
    pub only: Option<String>,
    /// Parts that may be NOT RUN.
    pub allow_missing: Vec<String>,
}

/// What came of a stage.
enum Outcome {
    Passed,
    Failed(String),
    NotRun(String),
    /// By `--quick`.
    LeftOut,
}

/// Over all `cargo test` runs.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// `true` when every stage passed, or was allowed to be missing.
pub fn run(wanted: &Wanted) -> Result<bool, String> {
    interrupt::catch()?;
    let mut run = Run { wanted, counts: Counts::default(), stages: Vec::new() };
    run.stage("fmt", |_| run_cargo(&["fmt", "--all", "--check"]));
    run.stage("tidy", |_| passed(tidy::run(false)?, "see above"));
    run.stage("clippy", |_| run_cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    run.stage("unit, data and doc tests", |run| {
        install(&[("docker-registry", "docker-registry"), ("skopeo", "skopeo")])?;
        run.tests(&[
            "--workspace",
            "--exclude",
            "skerry-tests",
            "--exclude",
            "skerry-cloud",
            "--exclude",
            "skerry-fuzz",
        ])
    });
    // Each commit has seeds of its own; those that once failed are among the unit tests.
    run.stage("simulation", |run| {
        let seeds = if run.wanted.quick { 100 } else { 400 };
        passed(sim::run(&sim::Wanted { seeds, seed: None })?, "a seed failed")
    });
    run.stage("crash", |run| passed(crash::run(&crash::some(run.wanted.quick))?, "something was lost"));
    run.stage("cloud", |run| {
        run.tests(&["--package", "skerry-cloud", "--lib", "--test", "vectors", "--test", "dialogue"])
    });
    run.stage("sdk", |run| {
        sdk::install()?;
        run.tests(&["--package", "skerry-cloud", "--test", "sdk"])
    });
    run.stage("author", |_| author());
    run.stage("e2e", |run| {
        install(&[("cc", "gcc"), ("gdb", "gdb"), ("faketime", "faketime")])?;
        run.tests(&["--package", "skerry-tests"])
    });
    run.stage("demo", |run| {
        if run.wanted.quick {
            return Ok(Outcome::LeftOut);
        }
        passed(demo::run(false)?, "a claim failed")
    });
    run.stage("fuzz", |run| run.tests(&["--package", "skerry-fuzz"]));
    if wanted.packages {
        packages(&mut run);
    }
    interrupt::check()?;
    Ok(run.summary())
}

struct Run<'a> {
    wanted: &'a Wanted,
    counts: Counts,
    stages: Vec<(&'static str, Outcome, Duration)>,
}

impl Run<'_> {
    /// An error is a failure; the stages after it run all the same.
    fn stage(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<Outcome, String>) {
        let left_out = self.wanted.only.as_ref().is_some_and(|only| !name.starts_with(only.as_str()));
        if left_out || interrupt::check().is_err() {
            return;
        }
        println!("\n=== {name}");
        let begin = Instant::now();
        let outcome = work(self).unwrap_or_else(Outcome::Failed);
        let took = begin.elapsed();
        match &outcome {
            Outcome::Failed(why) => println!("=== {name}: FAILED: {why}"),
            Outcome::NotRun(why) => println!("=== {name}: NOT RUN: {why}"),
            Outcome::Passed | Outcome::LeftOut => println!("=== {name}: {:.1} s", took.as_secs_f64()),
        }
        self.stages.push((name, outcome, took));
    }

    /// `cargo test`, with its output as it comes and its closing lines counted.
    fn tests(&mut self, args: &[&str]) -> Result<Outcome, String> {
        let mut command = cargo::cargo();
        command.args(["test", "--no-fail-fast"]).args(args).stdout(Stdio::piped());
        command.env("SKERRY_SDK_PYTHON", sdk::python());
        if self.wanted.quick {
            command.env("SKERRY_QUICK", "1");
        }
        let mut child = command.spawn().map_err(|e| format!("can't run cargo: {e}"))?;
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
            let _ = writeln!(io::stdout(), "{line}");
            self.counts.add(&line);
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(Outcome::Passed) } else { Err(format!("cargo test {}: {status}", args.join(" "))) }
    }

    fn summary(&self) -> bool {
        println!("\n=== summary");
        let mut good = true;
        for (name, outcome, took) in &self.stages {
            let allowed = self.wanted.allow_missing.iter().any(|allowed| allowed == name);
            let said = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed(_) => "FAILED".to_owned(),
                Outcome::NotRun(why) if allowed => format!("NOT RUN (allowed): {why}"),
                Outcome::NotRun(why) => format!("NOT RUN: {why}"),
                Outcome::LeftOut => "left out by --quick".to_owned(),
            };
            good &= match outcome {
                Outcome::Passed | Outcome::LeftOut => true,
                Outcome::NotRun(_) => allowed,
                Outcome::Failed(_) => false,
            };
            println!("{name:<26} {:>7.1} s  {said}", took.as_secs_f64());
        }
        let total: f64 = self.stages.iter().map(|(_, _, took)| took.as_secs_f64()).sum();
        let Counts { passed, failed, ignored } = self.counts;
        println!("{:<26} {total:>7.1} s", "all");
        println!("tests: {passed} passed, {failed} failed, {ignored} ignored");
        good
    }
}

impl Counts {
    /// From `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        if !line.starts_with("test result:") {
            return;
        }
        let count = |word: &str| {
            let words: Vec<&str> = line.split([' ', ';']).collect();
            let at = words.iter().position(|w| *w == word);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.ignored += count("ignored");
    }
}

/// This machine's packages in folders of two distributions, and the other machines' programs by qemu.
fn packages(run: &mut Run<'_>) {
    if !debian::is_root() {
        run.stage("packages", |_| Ok(Outcome::NotRun("mounting and dpkg need root: run it with sudo".to_owned())));
        return;
    }
    let mut built = None;
    run.stage("packages: build", |_| {
        built = Some(trial::build()?);
        Ok(Outcome::Passed)
    });
    if let Some(built) = built {
        run.stage("packages: structure", |_| trial::structure(&built).map(|()| Outcome::Passed));
        run.stage("packages: debian", |_| trial::on_debian(&built).map(|()| Outcome::Passed));
        run.stage("packages: openwrt", |_| trial::on_openwrt(&built).map(|()| Outcome::Passed));
        run.stage("packages: scripts", |_| trial::scripts(&built).map(|()| Outcome::Passed));
        run.stage("packages: rates", |_| trial::rates(&built).map(|()| Outcome::Passed));
        run.stage("packages: elsewhere", |_| trial::elsewhere(&built).map(|()| Outcome::Passed));
    }
    for (stage, target) in [("packages: aarch64, emulated", "aarch64"), ("packages: armv7, emulated", "armv7")] {
        run.stage(stage, |_| trial::emulated(target).map(|()| Outcome::Passed));
    }
}

fn passed(good: bool, otherwise: &str) -> Result<Outcome, String> {
    if good { Ok(Outcome::Passed) } else { Err(otherwise.to_owned()) }
}

fn run_cargo(args: &[&str]) -> Result<Outcome, String> {
    let status = cargo::cargo().args(args).status().map_err(|e| format!("can't run cargo: {e}"))?;
    if status.success() { Ok(Outcome::Passed) } else { Err(format!("cargo {}: {status}", args.join(" "))) }
}

/// A module as its author makes it: outside of the workspace, with plain cargo, without a network; then dropped in.
fn author() -> Result<Outcome, String> {
    const NAME: &str = "hot-water";
    let built = cargo::build("dev", &["skerry-runtime"])?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    new::run(folder.path(), NAME)?;
    let root = folder.path().join(NAME);
    // The versions that are there already, so that it needs no network.
    std::fs::copy(cargo::root().join("Cargo.lock"), root.join("Cargo.lock")).map_err(|e| e.to_string())?;
    let target = cargo::target_folder().join("xtask-new");
    for task in ["build", "test"] {
        let mut command = cargo::cargo();
        command.args([task, "--offline"]).current_dir(&root).env("CARGO_TARGET_DIR", &target);
        let status = command.status().map_err(|e| format!("can't run cargo: {e}"))?;
        if !status.success() {
            return Err(format!("cargo {task} of a new module: {status}"));
        }
    }
    let image = target.join("debug").join(format!("lib{}.so", NAME.replace('-', "_")));
    let inspected = Command::new(built.join("skerry")).arg("inspect").arg(&image).status();
    if !inspected.is_ok_and(|status| status.success()) {
        return Err(format!("skerry inspect refuses {}", image.display()));
    }
    drop_in(&built, &image, NAME)
}

/// Into the folder of a runtime that runs already.
fn drop_in(built: &Path, image: &Path, name: &str) -> Result<Outcome, String> {
    let mut device = Device::new("author", built, &[], "[device]\nid = \"author\"\n")?;
    device.start()?;
    device.wait_running(&[])?;
    let at: PathBuf = device.path().join("modules").join(format!("{name}.so"));
    std::fs::copy(image, at).map_err(|e| e.to_string())?;
    let took = device.wait_running(&[name])?;
    println!("{name}.so was dropped in, and runs after {} ms", took.as_millis());
    device.stop()?;
    Ok(Outcome::Passed)
}

/// Programs that tests need, with the Debian package of each.
fn install(programs: &[(&str, &str)]) -> Result<(), String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&paths).any(|folder| folder.join(program).exists());
    let missing = || -> Vec<&str> { programs.iter().filter(|(p, _)| !there(p)).map(|(_, package)| *package).collect() };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    debian::install(&packages);
    let left = missing();
    if left.is_empty() { Ok(()) } else { Err(format!("missing; install with: apt-get install {}", left.join(" "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        counts.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test a ... 7 passed;");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (13, 2, 1));
    }
}
