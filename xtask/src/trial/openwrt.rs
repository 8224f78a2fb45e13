//! The .ipk on a system as OpenWrt is: musl alone, `/var` in memory.
//! Must never find there what such a router lacks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::root::Root;
use super::{CONFIG, MODULES, Packages, require};
use crate::debian;
use crate::package::{Format, contents};

/// A folder as on OpenWrt: musl alone, `/var` in memory, nothing of Debian.
pub fn on_openwrt(packages: &Packages) -> Result<(), String> {
    let target = packages.built.target;
    let mut root = Root::openwrt(target)?;
    root.unpack(&contents::skerry(&packages.built, Format::Ipk, packages.epoch)?[0])?;
    for module in MODULES {
        root.unpack(&packages.module(module, Format::Ipk)?)?;
    }
    root.write("etc/skerry/config.toml", CONFIG)?;
    let refused = root.run(&["/usr/bin/skerry", "run"]).err().unwrap_or_default();
    require(refused.contains("tmpfs"), || format!("a state folder in memory is not refused: {refused}"))?;
    println!("openwrt: a state folder in memory is refused: {}", refused.lines().last().unwrap_or_default());
    let command = by_procd(&root)?;
    let command: Vec<&str> = command.split_whitespace().skip(2).collect();
    root.start(&command)?;
    root.running_by("sysinfo", "/usr/lib/skerry/skerry-host-musl")?;
    root.recorded("etc/skerry/state", "sysinfo ")?;
    root.skerry(&["send", "tester", "out", "--body", "1", "--property", "seq=9"])?;
    root.stop()?;
    root.start(&command)?;
    root.recorded("etc/skerry/state", "tester - 9")?;
    root.stop()?;
    println!("openwrt: the same static binary runs musl modules; what was sent is there after a restart");
    Ok(())
}

/// The init script as OpenWrt's shell runs it, with stand-ins that write down what procd is told. Returns the command.
fn by_procd(root: &Root) -> Result<String, String> {
    if !Path::new(BUSYBOX).exists() {
        debian::install(&["busybox-static"]);
    }
    fs::create_dir_all(root.at("bin")).map_err(|e| e.to_string())?;
    fs::copy(BUSYBOX, root.at("bin/busybox")).map_err(|e| format!("{BUSYBOX}: {e}; apt-get install busybox-static"))?;
    for name in ["sh", "mkdir", "chmod"] {
        symlink("busybox", root.at("bin").join(name)).map_err(|e| e.to_string())?;
    }
    root.write("etc/rc.common", RC_COMMON)?;
    fs::set_permissions(root.at("etc/rc.common"), fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let started = |root: &Root| root.run(&["/etc/init.d/skerry", "start"]);

    root.write("etc/skerry/config.toml", "[device]\nname = \"trial\"\n")?;
    let refused = started(root).err().ok_or("procd is told to start a skerry whose configuration is wrong")?;
    require(refused.contains("name"), || format!("a wrong configuration is not told: {refused}"))?;
    println!("openwrt: a wrong configuration is told once, and procd not asked to start anything");

    root.write("etc/skerry/config.toml", CONFIG)?;
    let told = started(root)?;
    for line in ["respawn 3600 5 0", "term_timeout 30", "file /etc/skerry/config.toml"] {
        require(told.lines().any(|found| found == line), || format!("procd is not told {line:?}, but: {told}"))?;
    }
    let mode = fs::metadata(root.at("etc/skerry/state")).map_err(|e| e.to_string())?.permissions().mode() & 0o7777;
    require(mode == 0o700, || format!("the state folder has mode {mode:o}"))?;
    let command = told.lines().find_map(|line| line.strip_prefix("command "));
    println!("openwrt: procd is told: {}", told.trim().replace('\n', "; "));
    command.map(str::to_owned).ok_or_else(|| format!("procd is told no command: {told}"))
}

const BUSYBOX: &str = "/bin/busybox";
/// Calls what the script defines, as OpenWrt's does, and prints what it says of the instance.
const RC_COMMON: &str = r#"#!/bin/sh
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { echo "$@"; }
. "$1"
case "$2" in
start) start_service ;;
esac
"#;
