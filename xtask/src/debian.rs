//! Debian's packages, for what tests and measurements need from outside. Must never claim success: who asks looks whether
//! the program is there. Speaks on standard error: standard output may be JSON lines.

use std::process::{Command, Stdio};

/// Installs what it can: with the lists that are there, and where that does not do, with fresh ones.
pub fn install(packages: &[&str]) {
    eprintln!("installing {}", packages.join(", "));
    if !apt(&[&["install", "-y", "-q"], packages].concat()) && apt(&["update", "-q"]) {
        apt(&[&["install", "-y", "-q"], packages].concat());
    }
}

fn apt(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Only root installs anything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
