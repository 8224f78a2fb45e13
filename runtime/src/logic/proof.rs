//! A new version must prove itself (DESIGN D11): which version of an instance is good, which is on trial, which was rejected. One machine an
//! instance name, kept over restarts. Must never give up the last good version for one that has not run well for its window.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::config::Limits;
use crate::model::manifest::Setup;
use crate::model::time::Wall;

/// So often a version may be started anew because the runtime or the device went down while it was on trial.
const TRIAL_STARTS_MAX: u32 = 3;

/// What needs a new process when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Of the image.
    pub digest: String,
    pub setup: Setup,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The last one that ran well for its window.
    good: Option<Version>,
    trial: Option<Trial>,
    rejected: Option<Rejected>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trial {
    version: Version,
    starts: u32,
    /// Not kept: this run of the runtime has counted its start.
    counted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub version: Version,
    pub reason: String,
    pub at: Wall,
}

/// What a start means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is known to be good.
    Good,
    /// It runs on trial: a failure brings back the last good one. Where `keep`, that must be on disk before it starts.
    Trial { keep: bool },
    /// There is nothing to fall back on; it becomes the good one after its window.
    First,
    /// It must not be started: too often everything went down with it.
    Rejected,
}

impl Proof {
    /// The version to run for the one that is wanted. True where that is news to be kept.
    pub fn choose(&mut self, wanted: &Version) -> (Version, bool) {
        match (&self.rejected, &self.good) {
            (Some(rejected), Some(good)) if rejected.version == *wanted => (good.clone(), false),
            (rejected, _) => {
                let changed = rejected.is_some();
                self.rejected = None;
                (wanted.clone(), changed)
            }
        }
    }

    /// Before a process of that version starts.
    pub fn handle_start(&mut self, version: &Version, now: Wall) -> Start {
        match &self.good {
            None => return Start::First,
            // The same image in another setup is on no trial: what failed then would be the setup, which nobody rolls back.
            Some(good) if good.digest == version.digest => {
                self.trial = None;
                return Start::Good;
            }
            Some(_) => {}
        }
        let trial = self.trial.take().filter(|trial| trial.version == *version);
        let mut trial = trial.unwrap_or(Trial { version: version.clone(), starts: 0, counted: false });
        let keep = !trial.counted;
        trial.starts += u32::from(keep);
        trial.counted = true;
        let over = trial.starts > TRIAL_STARTS_MAX;
        self.trial = Some(trial);
        if over {
            self.handle_failed(&format!("everything went down {TRIAL_STARTS_MAX} times while it was on trial"), now);
            return Start::Rejected;
        }
        Start::Trial { keep }
    }

    /// It ran well for its window. True where that is news to be kept.
    pub fn handle_well(&mut self, version: &Version) -> bool {
        let news = self.good.as_ref() != Some(version) || self.trial.is_some();
        self.good = Some(version.clone());
        self.trial = None;
        news
    }

    /// It failed. True when it was on trial: then the last good one is to come back, and that is to be kept.
    pub fn handle_failed(&mut self, reason: &str, at: Wall) -> bool {
        let Some(trial) = self.trial.take() else { return false };
        self.rejected = Some(Rejected { version: trial.version, reason: reason.to_owned(), at });
        true
    }

    /// What was rejected may try again. True where there was something.
    pub fn handle_retry(&mut self) -> bool {
        self.rejected.take().is_some()
    }

    /// Its image is lost.
    pub fn handle_good_lost(&mut self) {
        self.good = None;
        self.rejected = None;
    }

    /// Whether its window still runs.
    pub fn is_open(&self, version: &Version) -> bool {
        self.good.as_ref() != Some(version)
    }

    pub fn on_trial(&self) -> bool {
        self.trial.is_some()
    }

    pub fn good(&self) -> Option<&Version> {
        self.good.as_ref()
    }

    pub fn rejected(&self) -> Option<&Rejected> {
        self.rejected.as_ref()
    }

    /// Digests that must not be collected.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let trial = self.trial.as_ref().map(|trial| trial.version.digest.as_str());
        self.good.as_ref().map(|good| good.digest.as_str()).into_iter().chain(trial)
    }

    /// As it is kept in the store.
    pub fn to_json(&self) -> Value {
        json!({
            "good": self.good.as_ref().map(version_json),
            "trial": self.trial.as_ref().map(|t| json!({"version": version_json(&t.version), "starts": t.starts})),
            "rejected": self.rejected.as_ref().map(
                |r| json!({"version": version_json(&r.version), "reason": r.reason, "at": r.at.0})),
        })
    }

    /// What can't be read is not there: the image is then the first again.
    pub fn from_json(value: &Value) -> Proof {
        let trial = version_of(&value["trial"]["version"]).map(|version| {
            let starts = value["trial"]["starts"].as_u64().unwrap_or(1);
            Trial { version, starts: u32::try_from(starts).unwrap_or(u32::MAX), counted: false }
        });
        let rejected = version_of(&value["rejected"]["version"]).map(|version| Rejected {
            version,
            reason: value["rejected"]["reason"].as_str().unwrap_or_default().to_owned(),
            at: Wall(value["rejected"]["at"].as_i64().unwrap_or_default()),
        });
        Proof { good: version_of(&value["good"]), trial, rejected }
    }
}

/// A setup as it is kept.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Kept {
    env: BTreeMap<String, String>,
    arguments: Vec<String>,
    working_folder: Option<PathBuf>,
    devices: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    memory_bytes_max: u64,
    files_max: u32,
    processes_max: u32,
    hang_after_ms: u64,
    health_window_ms: u64,
}

fn version_json(version: &Version) -> Value {
    let setup = version.setup.clone();
    let kept = Kept {
        env: setup.env,
        arguments: setup.arguments,
        working_folder: setup.working_folder,
        devices: setup.devices,
        writable: setup.writable,
        memory_bytes_max: setup.limits.memory_bytes_max,
        files_max: setup.limits.files_max,
        processes_max: setup.limits.processes_max,
        hang_after_ms: setup.limits.hang_after.as_millis() as u64,
        health_window_ms: setup.health_window.as_millis() as u64,
    };
    json!({"digest": version.digest, "setup": serde_json::to_value(kept).unwrap_or_default()})
}

fn version_of(value: &Value) -> Option<Version> {
    let digest = value["digest"].as_str()?.to_owned();
    let kept: Kept = serde_json::from_value(value["setup"].clone()).ok()?;
    let limits = Limits {
        memory_bytes_max: kept.memory_bytes_max,
        files_max: kept.files_max,
        processes_max: kept.processes_max,
        hang_after: Duration::from_millis(kept.hang_after_ms),
    };
    let setup = Setup {
        env: kept.env,
        arguments: kept.arguments,
        working_folder: kept.working_folder,
        devices: kept.devices,
        writable: kept.writable,
        limits,
        health_window: Duration::from_millis(kept.health_window_ms),
    };
    Some(Version { digest, setup })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: &str) -> Version {
        Version { digest: digest.to_owned(), setup: Setup::default() }
    }

    fn proved(digest: &str) -> Proof {
        let mut proof = Proof::default();
        assert_eq!(proof.handle_start(&version(digest), Wall(0)), Start::First);
        assert!(proof.handle_well(&version(digest)));
        assert!(!proof.handle_well(&version(digest)));
        proof
    }

    #[test]
    fn the_first_has_nothing_to_fall_back_on() {
        let mut proof = Proof::default();
        assert_eq!(proof.handle_start(&version("a"), Wall(0)), Start::First);
        assert!(!proof.handle_failed("x", Wall(0)));
        assert_eq!(proof.choose(&version("a")), (version("a"), false));
    }

    #[test]
    fn one_that_fails_goes_and_stays_away() {
        let mut proof = proved("a");
        assert_eq!(proof.choose(&version("b")), (version("b"), false));
        assert_eq!(proof.handle_start(&version("b"), Wall(0)), Start::Trial { keep: true });
        assert!(proof.handle_failed("killed", Wall(7)));
        assert_eq!(proof.choose(&version("b")), (version("a"), false));
        assert_eq!(proof.handle_start(&version("a"), Wall(8)), Start::Good);
        assert_eq!(proof.rejected().map(|r| r.reason.as_str()), Some("killed"));
        // Something else is wanted, and then it once more: a new trial.
        assert_eq!(proof.choose(&version("c")), (version("c"), true));
        assert_eq!(proof.choose(&version("b")), (version("b"), false));
        // Or somebody says so.
        proof.handle_start(&version("b"), Wall(0));
        proof.handle_failed("killed", Wall(7));
        assert!(proof.handle_retry() && !proof.handle_retry());
        assert_eq!(proof.choose(&version("b")), (version("b"), false));
    }

    #[test]
    fn one_that_takes_everything_down_is_tried_three_times() {
        let mut proof = proved("a");
        for _ in 0..3 {
            assert_eq!(proof.handle_start(&version("b"), Wall(0)), Start::Trial { keep: true });
            assert_eq!(proof.handle_start(&version("b"), Wall(0)), Start::Trial { keep: false });
            proof = Proof::from_json(&proof.to_json());
        }
        assert_eq!(proof.handle_start(&version("b"), Wall(0)), Start::Rejected);
        assert_eq!(proof.choose(&version("b")).0, version("a"));
    }

    #[test]
    fn a_good_one_in_another_setup_is_good() {
        let mut proof = proved("a");
        let mut other = version("a");
        other.setup.env.insert("A".into(), "b".into());
        assert_eq!(proof.handle_start(&other, Wall(0)), Start::Good);
        assert!(proof.is_open(&other));
        assert!(proof.handle_well(&other));
        assert_eq!(proof.good(), Some(&other));
    }

    #[test]
    fn it_is_kept_whole() {
        let mut proof = proved("a");
        let mut new = version("b");
        new.setup.env.insert("A".into(), "b".into());
        new.setup.arguments = vec!["x".into()];
        new.setup.working_folder = Some("w".into());
        new.setup.devices = vec!["/dev/null".into()];
        new.setup.writable = vec!["/srv".into()];
        new.setup.health_window = Duration::from_secs(9);
        proof.handle_start(&new, Wall(0));
        proof.handle_failed("killed", Wall(7));
        assert_eq!(Proof::from_json(&proof.to_json()), proof);
        proof.handle_start(&version("c"), Wall(0));
        let kept = Proof::from_json(&proof.to_json());
        assert!(kept.on_trial() && kept.digests().eq(["a", "c"]));
        assert_eq!(Proof::from_json(&json!({})), Proof::default());
        assert_eq!(Proof::from_json(&json!({"good": 5, "trial": {"version": {}}})), Proof::default());
    }
}
