//! What this kernel can do of what modules are confined and watched with. Each ability is tried, and not concluded from a
//! version. Must never leave a restriction on the process that asks.

use landlock::{Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus};
use rustix::fs::MemfdFlags;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use std::os::fd::AsFd;

/// The version of Landlock's rules that is enforced; the error says why there is none.
pub fn landlock() -> Result<i32, String> {
    // Restricts the thread that asks, so that is one of its own, and it ends at once.
    let tried = std::thread::spawn(|| {
        let rights = AccessFs::from_all(landlock::ABI::V9);
        Ruleset::default().handle_access(rights)?.create()?.restrict_self()
    });
    let status = tried.join().map_err(|_| "trying it failed".to_owned())?.map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err("the kernel has it turned off".to_owned()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as i32),
        _ => Err("the kernel has none".to_owned()),
    }
}

/// Files in memory: the status page of each instance.
pub fn memfd() -> std::io::Result<()> {
    Ok(rustix::fs::memfd_create("skerry-check", MemfdFlags::CLOEXEC).map(drop)?)
}

/// Whether this kernel has what no instance can do without. The error is one sentence for the operator.
pub fn floor() -> Result<(), String> {
    let release = || rustix::system::uname().release().to_string_lossy().into_owned();
    let old = |what: &str, error: std::io::Error| {
        format!("this kernel, {}, can't run modules: {what}: {error}; skerry needs Linux {FLOOR} or later", release())
    };
    memfd().map_err(|error| old("files in memory", error))?;
    pidfd().map_err(|error| old("process descriptors", error))
}

/// Processes by descriptor: how an instance's end is noticed, and nobody else killed.
pub fn pidfd() -> std::io::Result<()> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // Nobody is his own child; a kernel that can't wait by descriptor (before 5.4) calls the question invalid instead.
    match rustix::process::waitid(WaitId::PidFd(own.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Err(rustix::io::Errno::CHILD) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The first that waits for a process by its descriptor.
pub const FLOOR: &str = "5.4";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_restricts_nobody() {
        let before = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(landlock().is_ok_and(|abi| abi > 0) || landlock().is_err());
        memfd().unwrap();
        pidfd().unwrap();
        floor().unwrap();
        let line = |text: &str| text.lines().find(|l| l.starts_with("NoNewPrivs")).map(str::to_owned);
        assert_eq!(line(&before), line(&std::fs::read_to_string("/proc/self/status").unwrap()));
        assert!(tempfile::tempfile().is_ok());
    }
}
