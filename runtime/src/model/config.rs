//! What was configured, with no question left open: every value is there and valid.
//! Must never know where it came from: file, flags and defaults are `app::config`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::identity::{Credentials, Secret};
use super::reference::RegistryCredentials;

/// Characters of a device or module id: IoT Hub's limit.
const ID_LENGTH_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    pub device_id: String,
    pub cloud: CloudConfig,
    pub modules: ModulesConfig,
    pub pulls: PullsConfig,
    pub images: ImagesConfig,
    /// For instances that say nothing else.
    pub limits: Limits,
    pub isolation: IsolationConfig,
    pub routes: Vec<RouteConfig>,
    pub store: StoreConfig,
    pub restart: RestartConfig,
    /// The manifest to take at the start when the cloud has none.
    pub manifest: PathBuf,
    pub state_folder: PathBuf,
    pub control_socket: PathBuf,
    pub log_level: log::LevelFilter,
    /// Of modules, beside what is kept in memory; absent: nothing is written.
    pub log_files: Option<LogFilesConfig>,
    /// Instances whose host waits for a debugger before it opens the image.
    pub wait_debugger: Vec<String>,
}

/// Files with what modules log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilesConfig {
    pub folder: PathBuf,
    /// Of one file; then the next one begins.
    pub file_bytes_max: u64,
    /// Of one instance, the newest included.
    pub files_max: u32,
    /// Of all together; the oldest go.
    pub total_bytes_max: u64,
}

/// The way to the cloud. Without identities there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudConfig {
    pub device: Option<Credentials>,
    /// Who tells the device's hub and id, where they are not configured.
    pub dps: Option<DpsConfig>,
    /// By instance.
    pub modules: BTreeMap<String, Credentials>,
    /// Dialled in the place of the host name; name check and audience stay those of the host name.
    pub address: Option<Host>,
    pub proxy: Option<Proxy>,
    /// PEM file with the certificates that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    pub keep_alive: Duration,
    pub operation_timeout: Duration,
    pub token_ttl: Duration,
    /// A connection without use is given up after this; absent: never.
    pub idle_close: Option<Duration>,
    pub retry_max: Duration,
    /// Keys stand in the configuration file itself.
    pub inline_keys: bool,
}

impl CloudConfig {
    /// Nothing says how to get there.
    pub fn is_none(&self) -> bool {
        self.modules.is_empty() && self.device.is_none() && self.dps.is_none()
    }
}

/// The provisioning service, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpsConfig {
    pub endpoint: Host,
    pub id_scope: String,
    pub registration_id: String,
    /// The device's own, also where a group's was given; the hub will know it, too.
    pub key: Secret,
}

/// Name or address, and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub port: u16,
}

impl Host {
    /// `HOST:PORT` or `[IPV6]:PORT`.
    pub fn parse(text: &str) -> Option<Host> {
        let (name, port) = text.rsplit_once(':')?;
        let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        let bad = name.is_empty() || name.contains(['/', '@', ' ', '[', ']']);
        (!bad).then_some(Host { name: name.to_owned(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// An HTTP proxy that is asked to CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub host: Host,
    /// Name and password.
    pub user: Option<(String, Secret)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModulesConfig {
    pub folders: Vec<PathBuf>,
    pub autostart: bool,
    pub instances: BTreeMap<String, InstanceConfig>,
}

/// Images from elsewhere, and the store of all images.
#[derive(Clone, Debug, PartialEq)]
pub struct PullsConfig {
    /// Of all stored images.
    pub limit_bytes: u64,
    /// Longest silence of a server.
    pub timeout: Duration,
    /// PEM file with the certificates that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    pub registries: Vec<RegistryCredentials>,
}

impl ModulesConfig {
    /// Whether an instance names exactly this version of an image.
    pub fn asks_for(&self, image: &str, version: &str) -> bool {
        let enabled = self.instances.values().filter(|instance| instance.enabled);
        enabled.map(|i| &i.image).any(|i| i.name == image && i.version.as_deref() == Some(version))
    }
}

/// Which images may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesConfig {
    pub signatures: Signatures,
    pub trust_keys: Vec<PublicKey>,
    /// With signatures required: an image may be older than the newest one of its name that proved itself here.
    pub allow_rollback: bool,
}

/// What becomes of an image without a good signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// It is refused.
    Require,
    /// It runs, and that is said.
    Warn,
    /// Nobody looks.
    Off,
}

/// Ed25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq)]
pub struct InstanceConfig {
    pub image: ImageRef,
    pub enabled: bool,
    pub env: BTreeMap<String, String>,
    /// Of the system, beside the instance's own: what grants it devices.
    pub groups: Vec<String>,
    pub limits: Limits,
    /// Desired properties for a twin that has none yet.
    pub settings: Map<String, Value>,
}

/// An image in the drop-in folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    pub name: String,
    /// Absent: the newest.
    pub version: Option<String>,
}

impl ImageRef {
    /// `NAME` or `NAME@VERSION`. The error says what was expected.
    pub fn parse(text: &str) -> Result<ImageRef, String> {
        let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        if text.contains(':') {
            return Err("\"NAME\" or \"NAME@VERSION\" (file:, https: and oci: are not in this version)".to_owned());
        }
        if instance_name_fault(name).is_some() || version.is_some_and(str::is_empty) {
            return Err("\"NAME\" or \"NAME@VERSION\"".to_owned());
        }
        Ok(ImageRef { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes_max: u64,
    pub files_max: u32,
    pub processes_max: u32,
    pub hang_after: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory_bytes_max: 128 << 20, files_max: 256, processes_max: 64, hang_after: Duration::from_secs(30) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationConfig {
    /// First of the uids that instances get when the runtime is root.
    pub uid_base: u32,
    pub landlock: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    pub name: String,
    pub route: String,
    pub line: usize,
    /// 0 is served first; a route that says nothing comes after 9, as in IoT Edge.
    pub priority: u32,
    pub ttl: TimeToLive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    After(Duration),
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    pub path: PathBuf,
    pub quota: Quota,
    pub flush_interval: Duration,
    pub ttl: TimeToLive,
    pub memory_bytes_max: u64,
    /// What one sender may have unacknowledged.
    pub credit_messages: u32,
    pub credit_bytes: u64,
    pub max_refusals: u16,
    pub at_quota: AtQuota,
    pub allow_volatile_state: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// The smaller of a quarter of the file system's free space and 1 GiB.
    Auto,
    Bytes(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtQuota {
    Refuse,
    Evict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartConfig {
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    pub max_restarts: u32,
    pub healthy_after: Duration,
    /// How long a new image must run well before it counts as good.
    pub health_window: Duration,
}

/// What a device or instance id must be, if `id` is not.
pub fn id_fault(id: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:%#*?!(),=@;$'".contains(c);
    let bad = id.is_empty() || id.len() > ID_LENGTH_MAX || !id.chars().all(good);
    bad.then(|| "1 to 128 ASCII letters, digits and - . _ : % # * ? ! ( ) , = @ ; $ '".to_owned())
}

/// The same for instances and images, whose names also become folders and parts of topics.
pub fn instance_name_fault(name: &str) -> Option<&'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let bad = name.is_empty() || name.len() > ID_LENGTH_MAX || name.starts_with('.') || !name.chars().all(good);
    bad.then_some("1 to 128 ASCII letters, digits and - . _, not beginning with a dot")
}
