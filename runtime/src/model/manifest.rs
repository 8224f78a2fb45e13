//! A deployment as it is meant: which modules run, how, and where their messages go. Every value is there and valid.
//! Must never know the JSON that it came from: that is `logic::manifest`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::config::{ImageRef, Limits};
use super::reference::{PullPolicy, Reference, RegistryCredentials};

/// What one deployment asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    pub modules: BTreeMap<String, ModuleSpec>,
    pub registries: Vec<RegistryCredentials>,
    pub routes: Vec<ManifestRoute>,
    /// Of messages whose route has none; `None` keeps them for ever.
    pub ttl: Option<Duration>,
    /// Desired properties of module twins that came along; each takes the place of the whole section.
    pub twins: BTreeMap<String, Map<String, Value>>,
}

/// One module of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSpec {
    pub image: Reference,
    /// For people: the agent only passes it on.
    pub version: Option<String>,
    /// Stopped otherwise: it is there, and does not run.
    pub running: bool,
    pub policy: RestartPolicy,
    /// Lower ones start first; equal ones together.
    pub startup_order: u32,
    pub pull: PullPolicy,
    pub setup: SetupSpec,
    /// `settings` and `env` as they were written, for the report.
    pub written: Map<String, Value>,
}

impl ModuleSpec {
    /// Of a module that no manifest names.
    pub fn plain(image: ImageRef, setup: SetupSpec) -> ModuleSpec {
        ModuleSpec {
            image: Reference::Named(image),
            version: None,
            running: true,
            policy: RestartPolicy::Always,
            startup_order: STARTUP_ORDER_DEFAULT,
            pull: PullPolicy::OnCreate,
            setup,
            written: Map::new(),
        }
    }
}

/// What `startupOrder` is where nothing is said: last.
pub const STARTUP_ORDER_DEFAULT: u32 = u32::MAX;

/// When an instance that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    #[default]
    Always,
    /// Not after an end with code 0.
    OnFailure,
    /// As `OnFailure`, since an instance that hangs or says that it is unhealthy is ended, and so fails: IoT Edge treats the two alike
    /// as well.
    OnUnhealthy,
    Never,
}

impl RestartPolicy {
    pub const WORDS: [(&'static str, RestartPolicy); 4] = [
        ("always", RestartPolicy::Always),
        ("on-failure", RestartPolicy::OnFailure),
        ("on-unhealthy", RestartPolicy::OnUnhealthy),
        ("never", RestartPolicy::Never),
    ];

    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, policy)| *policy == self).map_or("always", |(word, _)| word)
    }
}

/// How an instance is to run, as far as its manifest says; the rest is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupSpec {
    pub env: BTreeMap<String, String>,
    pub arguments: Vec<String>,
    /// From the instance's own folder, if it is relative.
    pub working_folder: Option<PathBuf>,
    /// Device files that it uses; it gets into their groups.
    pub devices: Vec<PathBuf>,
    /// Files and folders that it may write to beside its own.
    pub writable: Vec<PathBuf>,
    pub memory_bytes_max: Option<u64>,
    pub files_max: Option<u32>,
    pub processes_max: Option<u32>,
    pub hang_after: Option<Duration>,
    pub health_window: Option<Duration>,
}

/// How an instance runs: all that needs a new process when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub env: BTreeMap<String, String>,
    pub arguments: Vec<String>,
    pub working_folder: Option<PathBuf>,
    pub devices: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    pub limits: Limits,
    /// How long a new image must run well before it counts as good.
    pub health_window: Duration,
}

impl SetupSpec {
    /// With everything that it leaves open.
    pub fn complete(&self, limits: &Limits, health_window: Duration) -> Setup {
        Setup {
            env: self.env.clone(),
            arguments: self.arguments.clone(),
            working_folder: self.working_folder.clone(),
            devices: self.devices.clone(),
            writable: self.writable.clone(),
            limits: Limits {
                memory_bytes_max: self.memory_bytes_max.unwrap_or(limits.memory_bytes_max),
                files_max: self.files_max.unwrap_or(limits.files_max),
                processes_max: self.processes_max.unwrap_or(limits.processes_max),
                hang_after: self.hang_after.unwrap_or(limits.hang_after),
            },
            health_window: self.health_window.unwrap_or(health_window),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRoute {
    pub name: String,
    pub text: String,
    /// 0 to 9, 0 first.
    pub priority: Option<u32>,
    pub ttl_secs: Option<u64>,
}
