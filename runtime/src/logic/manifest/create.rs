//! `createOptions`: the body with which a container engine makes a container, as far as it means something for a process.
//! Must never drop a key in silence: what weakens or changes what the module can do is refused, what only concerns containers ignored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::node::{Findings, Node};
use crate::logic::units;
use crate::model::manifest::SetupSpec;

/// Keys that are of no use to a process, with the reason.
const IGNORED: &[(&str, &str)] = &[
    ("Image", "settings.image says it"),
    ("Labels", "only containers have labels"),
    ("Tty", "a module has no terminal"),
    ("OpenStdin", "a module has no terminal"),
    ("StdinOnce", "a module has no terminal"),
    ("AttachStdin", "a module has no terminal"),
    ("AttachStdout", "its output goes to its log"),
    ("AttachStderr", "its output goes to its log"),
    ("Hostname", "a module has the device's name"),
    ("Domainname", "a module has the device's name"),
    ("MacAddress", "a module uses the device's network"),
    ("ExposedPorts", "a module opens ports of the device itself"),
    ("NetworkingConfig", "a module uses the device's network"),
    ("NetworkDisabled", "a module uses the device's network"),
    ("User", "each instance has a user of its own"),
    ("StopSignal", "a module is asked to stop over its link"),
    ("StopTimeout", "a module has 10 s to stop"),
    ("Healthcheck", "health is what the module's host answers"),
    ("Shell", "nothing is run in a shell"),
    ("ArgsEscaped", "nothing is run in a shell"),
];

const IGNORED_OF_HOST: &[(&str, &str)] = &[
    ("NetworkMode", "a module uses the device's network"),
    ("PublishAllPorts", "a module opens ports of the device itself"),
    ("RestartPolicy", "the module's restartPolicy says it"),
    ("AutoRemove", "there is nothing to remove"),
    ("LogConfig", "how module logs are kept is the device's: config.toml"),
    ("CapDrop", "a module has no capabilities to begin with"),
    ("SecurityOpt", "a module is confined in any case"),
    ("ReadonlyRootfs", "a module writes only to its own folder in any case"),
    ("Init", "skerry reaps what a module leaves behind"),
    ("OomKillDisable", "the kernel decides"),
    ("OomScoreAdj", "the kernel decides"),
    ("CpuShares", "there is no limit of processor time here"),
    ("CpuPeriod", "there is no limit of processor time here"),
    ("CpuQuota", "there is no limit of processor time here"),
    ("NanoCpus", "there is no limit of processor time here"),
    ("CpusetCpus", "there is no limit of processor time here"),
    ("BlkioWeight", "there is no limit of disk time here"),
    ("MemorySwap", "only HostConfig.Memory is a limit here"),
    ("MemoryReservation", "only HostConfig.Memory is a limit here"),
    ("MemorySwappiness", "only HostConfig.Memory is a limit here"),
    ("ShmSize", "shared memory counts as the module's memory"),
    ("UsernsMode", "each instance has a user of its own"),
    ("GroupAdd", "an instance gets into the groups of its devices"),
];

const REFUSED: &[(&str, &str)] = &[("Entrypoint", "an image has one entry; give it arguments with Cmd")];

const REFUSED_OF_HOST: &[(&str, &str)] = &[
    ("CapAdd", "a module never gets more rights than its own user"),
    ("Tmpfs", "the module sees the device's own folders; use its state folder or /tmp"),
    ("VolumesFrom", "the module sees the device's own folders"),
    ("ExtraHosts", "names are resolved as on the device: /etc/hosts"),
    ("Dns", "names are resolved as on the device"),
    ("DnsSearch", "names are resolved as on the device"),
    ("DnsOptions", "names are resolved as on the device"),
    ("Sysctls", "the kernel's settings are the device's"),
    ("Runtime", "there is no container engine here"),
    ("DeviceRequests", "name the device files with HostConfig.Devices"),
    ("DeviceCgroupRules", "name the device files with HostConfig.Devices"),
    ("Links", "modules talk through routes"),
];

const FILES: std::ops::RangeInclusive<u64> = 16..=1 << 20;

/// `text` is what the pieces of `createOptions` make together.
pub(super) fn read(text: &str, path: &str, findings: &Findings) -> SetupSpec {
    let mut setup = SetupSpec::default();
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            findings.refuse(path, &format!("it must hold JSON: {error}"));
            return setup;
        }
    };
    let root = Node::new(&value, path.to_owned(), findings);
    for (key, node) in root.children() {
        if nothing(node.value) {
            continue;
        }
        match canonical(key, TOP) {
            "Env" => environment(&node, &mut setup),
            "Cmd" => setup.arguments = arguments(&node),
            "WorkingDir" => setup.working_folder = working_folder(&node),
            "HostConfig" => host_config(&node, &mut setup),
            "Volumes" => node.children().into_iter().for_each(|(_, n)| n.ignore("a module sees the device's folders")),
            "skerry" => own(&node, &mut setup),
            other => by_list(other, &node, IGNORED, REFUSED),
        }
    }
    setup
}

const TOP: &[&str] = &["Env", "Cmd", "WorkingDir", "HostConfig", "Volumes", "skerry"];
const HOST: &[&str] = &["Memory", "PidsLimit", "Ulimits", "Devices", "Binds", "Mounts", "PortBindings", "Privileged"];

/// Engines take these keys in any case.
fn canonical<'a>(key: &'a str, known: &[&'static str]) -> &'a str {
    known.iter().find(|name| name.eq_ignore_ascii_case(key)).copied().unwrap_or(key)
}

/// What says nothing: tools write all keys, most of them empty.
fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}

fn by_list(key: &str, node: &Node<'_>, ignored: &[(&str, &str)], refused: &[(&str, &str)]) {
    let why = |list: &[(&str, &str)]| {
        list.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, why)| (*why).to_owned())
    };
    match (why(ignored), why(refused)) {
        (Some(text), _) => node.ignore(&text),
        (_, Some(text)) => node.refuse(&text),
        _ => node.refuse(
            "not an option that is known here; leave it out, or say it with Env, Cmd, WorkingDir or HostConfig",
        ),
    }
}

fn texts<'a>(node: &Node<'a>) -> Vec<&'a str> {
    let texts = node.value.as_array().map(|items| items.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    match texts {
        Some(Some(texts)) => texts,
        _ => {
            node.refuse("expected a list of texts");
            Vec::new()
        }
    }
}

fn environment(node: &Node<'_>, setup: &mut SetupSpec) {
    for line in texts(node) {
        match line.split_once('=') {
            Some((key, value)) if !key.is_empty() && !key.starts_with("LD_") && !line.contains('\0') => {
                setup.env.insert(key.to_owned(), value.to_owned());
            }
            _ => node.refuse(&format!("{line:?}: expected KEY=VALUE, with a key that may be set for a module")),
        }
    }
    node.map("environment variables");
}

fn arguments(node: &Node<'_>) -> Vec<String> {
    let arguments: Vec<String> = match node.value {
        Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
        _ => texts(node).into_iter().map(str::to_owned).collect(),
    };
    if arguments.iter().any(|argument| argument.contains('\0')) {
        node.refuse("an argument can't hold a NUL");
    }
    node.map("arguments, which the module reads with Context::arguments");
    arguments
}

fn working_folder(node: &Node<'_>) -> Option<PathBuf> {
    let text = node.text()?;
    if text.contains('\0') {
        node.refuse("a path can't hold a NUL");
        return None;
    }
    node.map("the working folder; a relative one lies in the instance's own folder");
    Some(PathBuf::from(text))
}

fn host_config(host: &Node<'_>, setup: &mut SetupSpec) {
    for (key, node) in host.children() {
        if nothing(node.value) {
            continue;
        }
        match canonical(key, HOST) {
            "Memory" => {
                setup.memory_bytes_max = node.whole(1 << 20..=1 << 40);
                node.map("a limit of private memory");
            }
            "PidsLimit" if node.value.as_i64().is_some_and(|n| n < 0) => node.ignore("no limit of its own"),
            "PidsLimit" => {
                setup.processes_max = node.whole(1..=1 << 20).map(|count| count as u32);
                node.map("a limit of processes and threads");
            }
            "Ulimits" => ulimits(&node, setup),
            "Devices" => devices(&node, setup),
            "Binds" => binds(&node, setup),
            "Mounts" => mounts(&node, setup),
            "PortBindings" => ports(&node),
            "Privileged" => node.refuse("a module never gets more rights than its own user"),
            "IpcMode" | "PidMode" | "UTSMode" | "Cgroup" | "CgroupParent" | "CgroupnsMode" => {
                node.ignore("an instance is a process of the device");
            }
            other => by_list(other, &node, IGNORED_OF_HOST, REFUSED_OF_HOST),
        }
    }
}

fn items<'a>(node: &Node<'a>) -> Vec<Node<'a>> {
    let Some(items) = node.value.as_array() else {
        node.refuse("expected a list");
        return Vec::new();
    };
    let item = |(at, value)| Node::new(value, format!("{}[{at}]", node.path), node.findings);
    items.iter().enumerate().map(item).collect()
}

fn ulimits(node: &Node<'_>, setup: &mut SetupSpec) {
    for item in items(node) {
        match item.child("Name").and_then(|name| name.value.as_str()) {
            Some("nofile") => {
                let limit = item.child("Hard").or(item.child("Soft"));
                setup.files_max = limit.and_then(|limit| limit.whole(FILES)).map(|count| count as u32);
                item.map("a limit of open files");
            }
            Some("nproc") => {
                let limit = item.child("Hard").or(item.child("Soft"));
                setup.processes_max = limit.and_then(|limit| limit.whole(1..=1 << 20)).map(|count| count as u32);
                item.map("a limit of processes and threads");
            }
            Some("core") => item.ignore("a module never leaves a core dump"),
            _ => item.refuse("only nofile and nproc can be limited"),
        }
    }
}

fn devices(node: &Node<'_>, setup: &mut SetupSpec) {
    for item in items(node) {
        let text = |key: &str| item.child(key).and_then(|text| text.value.as_str());
        let Some(path) = text("PathOnHost").filter(|path| Path::new(path).is_absolute()) else {
            item.refuse("expected PathOnHost, absolute");
            continue;
        };
        if text("PathInContainer").is_some_and(|inside| inside != path) {
            item.refuse("the module sees the device's own files: PathInContainer must be PathOnHost");
            continue;
        }
        setup.devices.push(PathBuf::from(path));
        item.map("the instance gets into the device file's group");
    }
}

fn binds(node: &Node<'_>, setup: &mut SetupSpec) {
    for item in items(node) {
        let mut parts = item.value.as_str().unwrap_or_default().split(':');
        let (source, target, mode) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or("rw"));
        bind(&item, source, target, mode.split(',').any(|word| word == "ro"), setup);
    }
}

fn mounts(node: &Node<'_>, setup: &mut SetupSpec) {
    for item in items(node) {
        let text = |key: &str| item.child(key).and_then(|text| text.value.as_str());
        let read_only = item.child("ReadOnly").is_some_and(|flag| flag.value == &Value::Bool(true));
        match text("Type") {
            Some("bind") => {
                bind(&item, text("Source").unwrap_or_default(), text("Target"), read_only, setup);
            }
            _ => item.refuse("only a bind of a folder to itself means something here; use the instance's own folder"),
        }
    }
}

fn bind(item: &Node<'_>, source: &str, target: Option<&str>, read_only: bool, setup: &mut SetupSpec) {
    if !Path::new(source).is_absolute() {
        item.refuse("a volume means nothing here; the instance's own folder survives updates");
    } else if target != Some(source) {
        item.refuse("the module sees the device's own folders: source and target must be the same path");
    } else if read_only {
        item.map("the module can read it if its user may");
    } else {
        setup.writable.push(PathBuf::from(source));
        item.map("the module may write there if its user may");
    }
}

/// A module listens on the device's own ports: `{"8080/tcp":[{"HostPort":"8080"}]}` says just that.
fn ports(node: &Node<'_>) {
    for (port, bindings) in node.children() {
        let inside = port.split('/').next().unwrap_or_default();
        let outside = items(&bindings);
        let same = |item: &Node<'_>| {
            item.child("HostPort").is_none_or(|p| p.value.as_str() == Some(inside) || p.value.as_str() == Some(""))
        };
        if outside.iter().all(same) {
            bindings.ignore("a module opens ports of the device itself");
        } else {
            bindings.refuse("a port can't become another one: the module opens ports of the device itself");
        }
    }
}

/// What no container engine knows.
fn own(node: &Node<'_>, setup: &mut SetupSpec) {
    node.only(&["hangAfter", "healthWindow"]);
    let span = |key: &str| -> Option<Duration> {
        let child = node.child(key)?;
        let number = child.value.as_u64().map(|secs| secs.to_string());
        let text = number.as_deref().or(child.value.as_str()).unwrap_or_default();
        let found = units::duration(text).filter(|span| (LEAST..=MOST).contains(span));
        match found {
            Some(_) => child.map(if key == "hangAfter" {
                "when a callback counts as hung"
            } else {
                "how long a new image must run well"
            }),
            None => child.refuse(&format!("expected {}, from 1s to 1d", units::DURATION_EXPECTED)),
        }
        found
    };
    setup.hang_after = span("hangAfter");
    setup.health_window = span("healthWindow");
}

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(86_400);
