//! What was typed into config.toml: every key optional, every value already of its type.
//! Must never fill in a default (that is `config`), and never accept a key it does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::DeValue;

use super::cloud_settings::CloudSettings;
use super::config::{
    AtQuota, ImageRef, PublicKey, Quota, RouteCheck, Signatures, TimeToLive, id_fault, instance_name_fault,
};
use super::pull_settings::PullSettings;
use super::toml_table::{Faults, Table, parse, whole};
use crate::logic::{signature, units};
use crate::model::limits::MEMORY_BYTES;

/// Longest duration of any setting.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);
const SECOND: Duration = Duration::from_secs(1);
/// Lowest priority that a route can have; 0 is the highest.
const PRIORITY_MAX: u64 = 9;
/// Below this a store can't hold its reserve and one block.
const QUOTA_MIN: u64 = 1 << 20;
/// A credit below would not let two of the largest messages pass.
const CREDIT_MIN: u64 = 512 << 10;
/// More messages than that are not worth a sender's memory.
const CREDIT_MESSAGES_MAX: u64 = 1 << 20;
/// Uids above leave room for 65,536 instances below the one that stands for "none".
const UID_BASE_MAX: u64 = (u32::MAX - 65_536 - 1) as u64;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub device_id: Option<String>,
    pub cloud: CloudSettings,
    pub pulls: PullSettings,
    pub module_folders: Option<Vec<String>>,
    pub autostart: Option<bool>,
    pub instances: BTreeMap<String, InstanceSettings>,
    pub images: ImageSettings,
    pub limits: LimitSettings,
    pub uid_base: Option<u32>,
    pub landlock: Option<bool>,
    pub routes: Vec<RouteSettings>,
    pub store: StoreSettings,
    pub restart: RestartSettings,
    pub manifest: Option<String>,
    pub state_folder: Option<String>,
    pub control_socket: Option<String>,
    pub log_level: Option<log::LevelFilter>,
    pub log_files: LogFileSettings,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceSettings {
    pub image: Option<ImageRef>,
    pub enabled: Option<bool>,
    pub env: BTreeMap<String, String>,
    pub groups: Vec<String>,
    pub limits: LimitSettings,
    pub desired: Option<Map<String, Value>>,
}

/// Below this a file of logs is not worth its name.
const LOG_FILE_BYTES_MIN: u64 = 16 * 1024;
const LOG_FILES_MAX: u64 = 100;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageSettings {
    pub signatures: Option<Signatures>,
    pub trust_keys: Option<Vec<PublicKey>>,
    pub allow_rollback: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitSettings {
    pub memory_max: Option<u64>,
    pub files_max: Option<u32>,
    pub processes_max: Option<u32>,
    pub hang_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    pub name: String,
    pub route: String,
    /// Line of the route's text in the file.
    pub line: usize,
    pub priority: Option<u32>,
    pub ttl: Option<TimeToLive>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreSettings {
    pub path: Option<String>,
    pub quota: Option<Quota>,
    pub flush_interval: Option<Duration>,
    pub ttl: Option<TimeToLive>,
    pub memory: Option<u64>,
    pub credit_messages: Option<u32>,
    pub credit: Option<u64>,
    pub max_refusals: Option<u16>,
    pub at_quota: Option<AtQuota>,
    pub allow_volatile_state: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFileSettings {
    pub on_disk: Option<bool>,
    pub file_max: Option<u64>,
    pub files: Option<u64>,
    pub total_max: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartSettings {
    pub backoff_base: Option<Duration>,
    pub backoff_max: Option<Duration>,
    pub max_restarts: Option<u32>,
    pub healthy_after: Option<Duration>,
    pub health_window: Option<Duration>,
}

/// Reads the text of a file named `file`. The error is the lines to print, each `FILE:LINE: …`.
pub fn read(file: &str, source: &str, check_route: RouteCheck) -> Result<Settings, Vec<String>> {
    let faults = Faults::new(file, source);
    let document = parse(source, &faults);
    let mut settings = Settings::default();
    let mut root = Table::new(&faults, "", &document);
    section(&mut root, "device", |table| {
        settings.device_id = table.get("id", |value| {
            let id = value.as_str().ok_or("a text")?;
            id_fault(id).map_or(Ok(id.to_owned()), Err)
        });
    });
    section(&mut root, "provisioning", |table| settings.cloud.read_provisioning(table));
    section(&mut root, "upstream", |table| settings.cloud.read_upstream(table));
    section(&mut root, "modules", |table| modules(&mut settings, table));
    section(&mut root, "images", |table| {
        settings.images = images(table);
        settings.pulls.read(table);
    });
    section(&mut root, "limits", |table| settings.limits = limits(table));
    section(&mut root, "isolation", |table| {
        settings.uid_base = table.whole("uid_base", 1..=UID_BASE_MAX).map(|uid| uid as u32);
        settings.landlock = table.bool("landlock");
    });
    section(&mut root, "routes", |table| settings.routes = routes(&faults, table, check_route));
    section(&mut root, "store", |table| settings.store = store(table));
    section(&mut root, "restart", |table| settings.restart = restart(table));
    section(&mut root, "deployment", |table| settings.manifest = path(table, "file"));
    section(&mut root, "state", |table| settings.state_folder = path(table, "folder"));
    section(&mut root, "control", |table| settings.control_socket = path(table, "socket"));
    section(&mut root, "log", |table| {
        use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
        let words = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
        settings.log_level = table.one_of("level", &words);
        settings.log_files = log_files(table);
    });
    root.end();
    let lines = faults.into_lines();
    if lines.is_empty() { Ok(settings) } else { Err(lines) }
}

fn section<'a, 's>(root: &mut Table<'a, 's>, key: &'static str, read: impl FnOnce(&mut Table<'a, 's>)) {
    if let Some(mut table) = root.table(key) {
        read(&mut table);
        table.end();
    }
}

fn path(table: &mut Table<'_, '_>, key: &'static str) -> Option<String> {
    table.get(key, |value| value.as_str().filter(|path| !path.is_empty()).map(str::to_owned).ok_or("a path".to_owned()))
}

fn modules(settings: &mut Settings, table: &mut Table<'_, '_>) {
    settings.module_folders = table.texts("folders");
    settings.autostart = table.bool("autostart");
    for (name, at, value) in table.drain() {
        // Anything but a table is a misspelled key of this section, not an instance.
        if !value.get_ref().is_table() {
            table.unknown(name, at);
            continue;
        }
        if let Some(expected) = instance_name_fault(name) {
            table.fault(at, name, &format!("an instance's name must be {expected}"));
        }
        if let Some(mut inner) = table.inner(name, value) {
            let image = inner.get("image", |value| {
                let text = value.as_str().ok_or("a text")?;
                ImageRef::parse(text)
            });
            let instance = InstanceSettings {
                image,
                enabled: inner.bool("enabled"),
                env: inner.text_map("env").unwrap_or_default(),
                groups: inner.texts("groups").unwrap_or_default(),
                limits: limits(&mut inner),
                desired: inner.json("settings"),
            };
            settings.instances.insert(name.to_owned(), instance);
            inner.end();
        }
    }
}

fn log_files(table: &mut Table<'_, '_>) -> LogFileSettings {
    LogFileSettings {
        on_disk: table.one_of("modules", &[("memory", false), ("disk", true)]),
        file_max: table.bytes("file_max", LOG_FILE_BYTES_MIN),
        files: table.whole("files", 1..=LOG_FILES_MAX),
        total_max: table.bytes("total_max", LOG_FILE_BYTES_MIN),
    }
}

fn images(table: &mut Table<'_, '_>) -> ImageSettings {
    let words = [("require", Signatures::Require), ("warn", Signatures::Warn), ("off", Signatures::Off)];
    let images = ImageSettings {
        signatures: table.one_of("signatures", &words),
        trust_keys: table.get("trust_keys", |value| {
            let keys = value.as_array().ok_or_else(|| format!("a list of {}", signature::KEY_EXPECTED))?;
            let key = |text: Option<&str>| signature::parse_key(text.unwrap_or_default());
            keys.iter().map(|item| key(item.get_ref().as_str())).collect()
        }),
        allow_rollback: table.bool("allow_rollback"),
    };
    let asked = matches!(images.signatures, Some(Signatures::Require | Signatures::Warn));
    // A list that can't be read has its own fault.
    if let (true, Some(at)) = (asked, table.place("signatures"))
        && images.trust_keys.as_ref().map_or(table.place("trust_keys").is_none(), Vec::is_empty)
    {
        table.fault(
            at,
            "signatures",
            "needs somebody to trust: put the public key of `skerry key new` into trust_keys",
        );
    }
    images
}

fn limits(table: &mut Table<'_, '_>) -> LimitSettings {
    LimitSettings {
        memory_max: table.bytes("memory_max", 1 << 20),
        files_max: table.whole("files_max", 16..=1 << 20).map(|count| count as u32),
        processes_max: table.whole("processes_max", 1..=1 << 20).map(|count| count as u32),
        hang_after: table.duration("hang_after", SECOND, DURATION_MAX),
    }
}

fn routes(faults: &Faults<'_>, table: &mut Table<'_, '_>, check_route: RouteCheck) -> Vec<RouteSettings> {
    let mut routes = Vec::new();
    for (name, at, value) in table.drain() {
        let mut route =
            RouteSettings { name: name.to_owned(), route: String::new(), line: 0, priority: None, ttl: None };
        let mut text: Option<&Spanned<DeValue<'_>>> = None;
        match value.get_ref() {
            DeValue::String(_) => text = Some(value),
            DeValue::Table(inner) => {
                text = inner.get("route");
                if text.is_none() {
                    table.fault(at, name, "`route` is missing: route = \"FROM … INTO …\"");
                }
                if let Some(mut inner) = table.inner(name, value) {
                    inner.text("route");
                    route.priority = inner.whole("priority", 0..=PRIORITY_MAX).map(|priority| priority as u32);
                    route.ttl = ttl(&mut inner);
                    inner.end();
                }
            }
            _ => table.unexpected(name, value, "\"FROM … INTO …\" or { route = \"…\", priority = 0, ttl = \"2h\" }"),
        }
        let Some((span, content)) = text.and_then(|text| Some((text.span(), text.get_ref().as_str()?))) else {
            continue;
        };
        if let Err(fault) = check_route(content) {
            faults.add_in_text(span.clone(), fault.column, &format!("route `{name}`: {}", fault.message));
        }
        route.line = faults.line(span.start);
        content.clone_into(&mut route.route);
        routes.push(route);
    }
    // As they stand in the file: the table has them in the order of their names.
    routes.sort_by_key(|route| route.line);
    routes
}

fn ttl(table: &mut Table<'_, '_>) -> Option<TimeToLive> {
    table.get("ttl", |value| {
        let number = whole(value).map(|seconds| seconds.to_string());
        match number.as_deref().or(value.as_str()).map(|text| (text, units::duration(text))) {
            Some(("never", _)) => Ok(TimeToLive::Never),
            Some((_, Some(ttl))) if (SECOND..=DURATION_MAX).contains(&ttl) => Ok(TimeToLive::After(ttl)),
            Some((_, Some(_))) => Err(format!("\"never\" or from 1s to {}", units::show_duration(DURATION_MAX))),
            _ => Err(format!("\"never\" or {}", units::DURATION_EXPECTED)),
        }
    })
}

fn store(table: &mut Table<'_, '_>) -> StoreSettings {
    let store = StoreSettings {
        path: path(table, "path"),
        quota: table.get("quota", |value| {
            let bytes = whole(value).or_else(|| units::bytes(value.as_str()?));
            match (value.as_str(), bytes) {
                (Some("auto"), _) => Ok(Quota::Auto),
                (_, Some(bytes)) if bytes >= QUOTA_MIN => Ok(Quota::Bytes(bytes)),
                (_, Some(_)) => Err(format!("at least {}", units::show_bytes(QUOTA_MIN))),
                (_, None) => Err(format!("\"auto\" or {}", units::BYTES_EXPECTED)),
            }
        }),
        flush_interval: table.duration("flush_interval", Duration::ZERO, Duration::from_secs(3_600)),
        ttl: ttl(table),
        memory: table.bytes("memory", 1 << 20),
        credit_messages: table.whole("credit_messages", 1..=CREDIT_MESSAGES_MAX).map(|count| count as u32),
        credit: table.bytes("credit", CREDIT_MIN),
        max_refusals: table.whole("max_refusals", 1..=u64::from(u16::MAX)).map(|count| count as u16),
        at_quota: table.one_of("at_quota", &[("refuse", AtQuota::Refuse), ("evict", AtQuota::Evict)]),
        allow_volatile_state: table.bool("allow_volatile_state"),
    };
    let memory = store.memory.unwrap_or(MEMORY_BYTES);
    if let Some(credit) = store.credit.filter(|credit| *credit > memory / 2)
        && let Some(at) = table.place("credit")
    {
        let (credit, memory) = (units::show_bytes(credit), units::show_bytes(memory));
        table.fault(at, "credit", &format!("credit ({credit}) is lent from memory ({memory}): at most half of it"));
    }
    store
}

fn restart(table: &mut Table<'_, '_>) -> RestartSettings {
    let restart = RestartSettings {
        backoff_base: table.duration("backoff_base", Duration::from_millis(1), DURATION_MAX),
        backoff_max: table.duration("backoff_max", Duration::from_millis(1), DURATION_MAX),
        max_restarts: table.whole("max_restarts", 0..=1_000_000).map(|count| count as u32),
        healthy_after: table.duration("healthy_after", SECOND, DURATION_MAX),
        health_window: table.duration("health_window", SECOND, Duration::from_secs(86_400)),
    };
    let base = restart.backoff_base.unwrap_or(super::config::BACKOFF_BASE);
    let max = restart.backoff_max.unwrap_or(super::config::BACKOFF_MAX);
    let key = if restart.backoff_max.is_some() { "backoff_max" } else { "backoff_base" };
    if base > max
        && let Some(at) = table.place(key)
    {
        let (base, max) = (units::show_duration(base), units::show_duration(max));
        table.fault(at, key, &format!("backoff_base ({base}) must not exceed backoff_max ({max})"));
    }
    restart
}
