//! What this kernel can do of what modules are confined and watched with. Each ability is tried, and not concluded from a
//! version. Must never leave a restriction on the process that asks.

use landlock::{Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus};
use rustix::fs::MemfdFlags;
use rustix::process::PidfdFlags;

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

/// Processes by descriptor: how an instance's end is noticed, and nobody else killed.
pub fn pidfd() -> std::io::Result<()> {
    Ok(rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_restricts_nobody() {
        let before = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(landlock().is_ok_and(|abi| abi > 0) || landlock().is_err());
        memfd().unwrap();
        pidfd().unwrap();
        let line = |text: &str| text.lines().find(|l| l.starts_with("NoNewPrivs")).map(str::to_owned);
        assert_eq!(line(&before), line(&std::fs::read_to_string("/proc/self/status").unwrap()));
        assert!(tempfile::tempfile().is_ok());
    }
}
