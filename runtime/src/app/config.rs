//! What the settings mean: file, flags and surroundings in one value without open questions.
//! Must never touch the file system beyond reading the configuration itself: `resolve` is pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cloud_settings::{CloudSettings, Source};
use super::settings::{
    self, ImageSettings, LimitSettings, LogFileSettings, RestartSettings, RouteSettings, Settings, StoreSettings,
};
use crate::io::machine;
pub use crate::model::config::*;
use crate::model::endpoint::PRIORITY_DEFAULT;
use crate::model::limits::{CREDIT_BYTES, CREDIT_MESSAGES, MEMORY_BYTES, REFUSALS_MAX};

/// First wait after a failure, as IoT Edge has it; doubled each time up to the next.
pub const BACKOFF_BASE: Duration = Duration::from_secs(10);
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// How long a new image must run well: twice the longest that a hang goes unnoticed.
pub const HEALTH_WINDOW: Duration = Duration::from_secs(60);

/// Silence after which the cloud is pinged; below the four minutes after which many routers forget a connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(235);
/// Longest wait for an answer of the cloud; IoT Edge's own.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Life of a token; what all official SDKs have.
pub const TOKEN_TTL: Duration = Duration::from_secs(3_600);
/// Longest wait between two attempts to connect.
pub const RETRY_MAX: Duration = Duration::from_secs(60);

/// The flags of `skerry run`; each beats the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub modules: Vec<PathBuf>,
    pub state: Option<PathBuf>,
    pub control: Option<PathBuf>,
    pub device: Option<String>,
    pub wait_debugger: Vec<String>,
}

/// Why a text is not a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFault {
    /// Characters from 1.
    pub column: usize,
    pub message: String,
}

/// Judges the text of a route: the language is `logic`'s, the file and line are known here.
pub type RouteCheck = fn(&str) -> Result<(), RouteFault>;

/// What the process finds itself in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub uid: u32,
    pub host_name: String,
    pub folder: PathBuf,
    pub home: Option<PathBuf>,
    /// Of the machine, where it tells one.
    pub serial: Option<String>,
    pub xdg_config: Option<PathBuf>,
    pub xdg_state: Option<PathBuf>,
    pub xdg_runtime: Option<PathBuf>,
}

impl Surroundings {
    pub fn look() -> Surroundings {
        // The XDG specification has relative paths ignored.
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Surroundings {
            uid: rustix::process::geteuid().as_raw(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            home: folder("HOME"),
            serial: machine::serial(),
            xdg_config: folder("XDG_CONFIG_HOME"),
            xdg_state: folder("XDG_STATE_HOME"),
            xdg_runtime: folder("XDG_RUNTIME_DIR"),
        }
    }

    pub fn config_file(&self) -> PathBuf {
        match self.below(&self.xdg_config, ".config") {
            Some(folder) if self.uid != 0 => folder.join("skerry/config.toml"),
            _ => PathBuf::from("/etc/skerry/config.toml"),
        }
    }

    pub fn control_socket(&self) -> PathBuf {
        match &self.xdg_runtime {
            _ if self.uid == 0 => PathBuf::from(SYSTEM_SOCKET),
            Some(folder) => folder.join("skerry/control.sock"),
            None => PathBuf::from(format!("/tmp/skerry-{}/control.sock", self.uid)),
        }
    }

    fn state_folder(&self) -> PathBuf {
        match self.below(&self.xdg_state, ".local/state") {
            Some(folder) if self.uid != 0 => folder.join("skerry"),
            _ => PathBuf::from("/var/lib/skerry"),
        }
    }

    fn module_folder(&self) -> PathBuf {
        match &self.home {
            _ if self.uid == 0 => PathBuf::from("/usr/lib/skerry/modules"),
            Some(home) => home.join(".local/lib/skerry/modules"),
            None => self.folder.join("modules"),
        }
    }

    fn below(&self, xdg: &Option<PathBuf>, in_home: &str) -> Option<PathBuf> {
        xdg.clone().or_else(|| Some(self.home.as_ref()?.join(in_home)))
    }
}

/// Where the runtime of the system listens.
pub const SYSTEM_SOCKET: &str = "/run/skerry/control.sock";

/// Reads the file that the flags or the surroundings name. A default file that is missing is no error: everything
/// works without one. The error is the lines to print.
pub fn load(flags: &Flags, place: &Surroundings, check_route: RouteCheck) -> Result<Config, Vec<String>> {
    let path = flags.config.clone().unwrap_or_else(|| place.config_file());
    let shown = path.display().to_string();
    let (file, typed) = match std::fs::read(&path) {
        Ok(bytes) => {
            let source = String::from_utf8(bytes).map_err(|e| {
                let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
                vec![format!("{shown}:{line}: not UTF-8")]
            })?;
            (Some(path), settings::read(&shown, &source, check_route)?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() => {
            (None, Settings::default())
        }
        Err(error) => return Err(vec![format!("{shown}: cannot be read: {error}")]),
    };
    let mut typed = typed;
    let folder = file.as_deref().map(|file| place.folder.join(file)).unwrap_or_default();
    let folder = folder.parent().unwrap_or(Path::new("/"));
    let passwords = typed.pulls.has_passwords();
    typed.cloud.open_files(folder).and_then(|()| typed.pulls.open_files(folder)).map_err(|line| vec![line])?;
    typed.cloud.inline_keys |= passwords;
    let mut config = resolve(typed, flags, place).map_err(|line| vec![line])?;
    config.file = file.map(|file| place.folder.join(file));
    Ok(config)
}

/// Settings, flags and defaults in one. Fails only for a flag.
pub fn resolve(typed: Settings, flags: &Flags, place: &Surroundings) -> Result<Config, String> {
    if let Some(expected) = flags.device.as_deref().and_then(id_fault) {
        return Err(format!("--device: expected {expected}"));
    }
    let from_flag = |path: &Path| place.folder.join(path);
    // A path in the file is meant from where the file lies.
    let file = place.folder.join(flags.config.clone().unwrap_or_else(|| place.config_file()));
    let from_file = |path: &str| file.parent().unwrap_or(Path::new("/")).join(path);
    let pick = |flag: &Option<PathBuf>, typed: &Option<String>, default: PathBuf| match (flag, typed) {
        (Some(flag), _) => from_flag(flag),
        (None, Some(typed)) => from_file(typed),
        (None, None) => default,
    };
    let folders = match &typed.module_folders {
        _ if !flags.modules.is_empty() => flags.modules.iter().map(|folder| from_flag(folder)).collect(),
        Some(folders) => folders.iter().map(|folder| from_file(folder)).collect(),
        None => vec![place.module_folder()],
    };
    let host_name = Some(place.host_name.clone()).filter(|name| id_fault(name).is_none());
    let limits = limits_with(&Limits::default(), &typed.limits);
    let state_folder = pick(&flags.state, &typed.state_folder, place.state_folder());
    let ttl = typed.store.ttl.unwrap_or(TimeToLive::After(Duration::from_secs(7_200)));
    let instances = typed.instances.into_iter().map(|(name, instance)| {
        let config = InstanceConfig {
            image: instance.image.unwrap_or_else(|| ImageRef { name: name.clone(), version: None }),
            enabled: instance.enabled.unwrap_or(true),
            env: instance.env,
            groups: instance.groups,
            limits: limits_with(&limits, &instance.limits),
            settings: instance.desired.unwrap_or_default(),
        };
        (name, config)
    });
    let pulls = typed.pulls.resolve(from_file);
    let log_folder = state_folder.join("logs");
    let cloud = cloud_with(typed.cloud, place, from_file)?;
    let typed_id = flags.device.clone().or(typed.device_id);
    let cloud_id = device_in_cloud(&cloud, typed_id.as_deref())?;
    let registered = cloud.dps.as_ref().map(|dps| dps.registration_id.clone());
    Ok(Config {
        file: None,
        device_id: typed_id.or(cloud_id).or(registered).or(host_name).unwrap_or_else(|| "skerry".to_owned()),
        cloud,
        modules: ModulesConfig { folders, autostart: typed.autostart.unwrap_or(true), instances: instances.collect() },
        pulls,
        images: images_with(typed.images),
        isolation: IsolationConfig {
            // Above what Debian, systemd and common subuid ranges hand out.
            uid_base: typed.uid_base.unwrap_or(2_000_000_000),
            landlock: typed.landlock.unwrap_or(true),
        },
        routes: typed.routes.into_iter().map(|route| route_with(route, ttl)).collect(),
        store: store_with(typed.store, &state_folder, ttl),
        restart: restart_with(&typed.restart),
        limits,
        manifest: from_file(typed.manifest.as_deref().unwrap_or("deployment.json")),
        control_socket: pick(&flags.control, &typed.control_socket, place.control_socket()),
        state_folder,
        log_files: log_files_with(&typed.log_files, log_folder),
        log_level: typed.log_level.unwrap_or(log::LevelFilter::Info),
        wait_debugger: flags.wait_debugger.clone(),
    })
}

fn images_with(typed: ImageSettings) -> ImagesConfig {
    let trust_keys = typed.trust_keys.unwrap_or_default();
    // Who names somebody to trust does not want the others.
    let default = if trust_keys.is_empty() { Signatures::Off } else { Signatures::Require };
    ImagesConfig {
        signatures: typed.signatures.unwrap_or(default),
        trust_keys,
        allow_rollback: typed.allow_rollback.unwrap_or(false),
    }
}

fn log_files_with(typed: &LogFileSettings, folder: PathBuf) -> Option<LogFilesConfig> {
    typed.on_disk.unwrap_or(false).then(|| LogFilesConfig {
        folder,
        file_bytes_max: typed.file_max.unwrap_or(256 << 10),
        files_max: typed.files.unwrap_or(4) as u32,
        total_bytes_max: typed.total_max.unwrap_or(32 << 20),
    })
}

fn restart_with(typed: &RestartSettings) -> RestartConfig {
    RestartConfig {
        backoff_base: typed.backoff_base.unwrap_or(BACKOFF_BASE),
        backoff_max: typed.backoff_max.unwrap_or(BACKOFF_MAX),
        max_restarts: typed.max_restarts.unwrap_or(20),
        healthy_after: typed.healthy_after.unwrap_or(Duration::from_secs(600)),
        health_window: typed.health_window.unwrap_or(HEALTH_WINDOW),
    }
}

fn cloud_with(
    typed: CloudSettings,
    place: &Surroundings,
    from_file: impl Fn(&str) -> PathBuf,
) -> Result<CloudConfig, String> {
    let known = |source: Source| match source {
        Source::Here(credentials) => Some(credentials),
        // `load` has read it; without `load` there is no file.
        Source::File(_) => None,
    };
    Ok(CloudConfig {
        device: typed.device.and_then(known),
        dps: typed.dps.resolve(place)?,
        modules: typed.modules.into_iter().filter_map(|(name, source)| Some((name, known(source)?))).collect(),
        address: typed.address,
        proxy: typed.proxy,
        ca: typed.ca.as_deref().map(from_file),
        keep_alive: typed.keep_alive.unwrap_or(KEEP_ALIVE),
        operation_timeout: typed.operation_timeout.unwrap_or(OPERATION_TIMEOUT),
        idle_close: typed.idle_close,
        token_ttl: typed.token_ttl.unwrap_or(TOKEN_TTL),
        retry_max: typed.retry_max.unwrap_or(RETRY_MAX),
        inline_keys: typed.inline_keys,
    })
}

/// The device's id as the connection strings have it: one and the same in all, and in what else was said.
fn device_in_cloud(cloud: &CloudConfig, typed: Option<&str>) -> Result<Option<String>, String> {
    let device = cloud.device.iter().map(|c| ("[provisioning]".to_owned(), c));
    let modules = cloud.modules.iter().map(|(name, c)| (format!("[upstream.modules.{name}]"), c));
    let mut known = typed.map(|id| ("--device or [device] id".to_owned(), id.to_owned()));
    for (place, credentials) in device.chain(modules) {
        match &known {
            Some((before, id)) if *id != credentials.device_id => {
                return Err(format!(
                    "{place}: the connection string is for device {:?}, but {before} says {id:?}; they must be the same device",
                    credentials.device_id
                ));
            }
            Some(_) => {}
            None => known = Some((place, credentials.device_id.clone())),
        }
    }
    Ok(known.map(|(_, id)| id))
}

fn store_with(typed: StoreSettings, state_folder: &Path, ttl: TimeToLive) -> StoreConfig {
    let memory = typed.memory.unwrap_or(MEMORY_BYTES);
    StoreConfig {
        path: state_folder.join(typed.path.as_deref().unwrap_or("store")),
        quota: typed.quota.unwrap_or(Quota::Auto),
        flush_interval: typed.flush_interval.unwrap_or(Duration::from_secs(1)),
        ttl,
        memory_bytes_max: memory,
        credit_messages: typed.credit_messages.unwrap_or(CREDIT_MESSAGES),
        // A small memory lends less.
        credit_bytes: typed.credit.unwrap_or(CREDIT_BYTES.min(memory / 2)),
        max_refusals: typed.max_refusals.unwrap_or(REFUSALS_MAX),
        at_quota: typed.at_quota.unwrap_or(AtQuota::Refuse),
        allow_volatile_state: typed.allow_volatile_state.unwrap_or(false),
    }
}

/// What an instance says, over what all instances have.
fn limits_with(all: &Limits, typed: &LimitSettings) -> Limits {
    Limits {
        memory_bytes_max: typed.memory_max.unwrap_or(all.memory_bytes_max),
        files_max: typed.files_max.unwrap_or(all.files_max),
        processes_max: typed.processes_max.unwrap_or(all.processes_max),
        hang_after: typed.hang_after.unwrap_or(all.hang_after),
    }
}

fn route_with(typed: RouteSettings, ttl: TimeToLive) -> RouteConfig {
    RouteConfig {
        name: typed.name,
        route: typed.route,
        line: typed.line,
        priority: typed.priority.unwrap_or(PRIORITY_DEFAULT),
        ttl: typed.ttl.unwrap_or(ttl),
    }
}
