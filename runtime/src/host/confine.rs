//! Gives up what a module does not need, before any of its code runs: other processes' files and signals, more
//! privileges, the runtime's state folder and control socket. Must say what it reached, and never more than that.

use crate::io::order::Order;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Does all that the order asks for; says what was reached, for `Hello`. An error is a reason to not run at all.
pub fn confine(order: &Order, image: BorrowedFd<'_>) -> Result<String, String> {
    die_with_the_runtime(order).map_err(|error| format!("no death signal: {error}"))?;
    std::env::set_current_dir(&order.state_dir).map_err(|error| {
        let uid = rustix::process::getuid().as_raw();
        let folder = order.state_dir.display();
        format!(
            "can't enter its folder {folder} as uid {uid}: {error}; every folder above needs permission x for others"
        )
    })?;
    if let Some(folder) = &order.working_folder {
        enter(folder).map_err(|error| format!("can't enter its working folder {}: {error}", folder.display()))?;
    }
    limit(order).map_err(|error| format!("can't set a resource limit: {error}"))?;
    let no_new_privs = rustix::thread::set_no_new_privs(true).is_ok();
    let landlock = if order.landlock { restrict(order, image) } else { Err("turned off".into()) };
    Ok(reached(order, no_new_privs, landlock))
}

fn enter(folder: &Path) -> io::Result<()> {
    if folder.is_relative() {
        fs::create_dir_all(folder)?;
    }
    std::env::set_current_dir(folder)
}

/// Own uid or Landlock keeps a module from acting as the runtime; with neither, it is not isolated.
fn reached(order: &Order, no_new_privs: bool, landlock: Result<String, String>) -> String {
    let uid = rustix::process::getuid().as_raw();
    let own_uid = order.uid == Some(uid) && rustix::process::geteuid().as_raw() == uid && uid != 0;
    let isolated = own_uid || landlock.is_ok();
    let mut words = Vec::new();
    if own_uid {
        words.push(format!("uid {uid}"));
    }
    match landlock {
        Ok(text) => words.push(text),
        Err(reason) => words.push(format!("no landlock ({reason})")),
    }
    if no_new_privs {
        words.push("no-new-privs".to_owned());
    }
    let words = words.join(", ");
    if isolated { words } else { format!("not isolated: {words}, the runtime's own uid") }
}

fn die_with_the_runtime(order: &Order) -> io::Result<()> {
    if order.death_signal {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    // The link tells of the runtime's end as well; this only covers the moment before it is watched.
    match rustix::process::getppid() {
        Some(parent) if parent.as_raw_pid() == order.parent => Ok(()),
        _ => Err(io::Error::other("the runtime has ended")),
    }
}

fn limit(order: &Order) -> io::Result<()> {
    let wanted = [
        (Resource::Core, Some(0)), // A core dump of a module would hold other people's messages.
        (Resource::Data, order.limits.memory_bytes),
        (Resource::Nofile, order.limits.files),
        (Resource::Nproc, order.limits.processes),
    ];
    for (resource, value) in wanted {
        if let Some(value) = value {
            let maximum = rustix::process::getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
            let limit = Rlimit { current: Some(maximum), maximum: Some(maximum) };
            rustix::process::setrlimit(resource, limit)?;
        }
    }
    Ok(())
}

/// Landlock only ever allows: everything but the hidden folders is allowed, level by level from `/` down to them.
/// The price is that the folders on the way can't be listed, and what is made in them later can't be opened.
fn restrict(order: &Order, image: BorrowedFd<'_>) -> Result<String, String> {
    let mut hidden = Vec::new();
    for path in &order.hidden {
        // As the kernel sees it: without links and dots.
        hidden.push(canonical(path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    let restricted = (|| {
        let rights = AccessFs::from_all(ABI_NEWEST);
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        // Signals to the runtime, which has the same uid when it is not root, would end it.
        let mut ruleset = ruleset.handle_access(rights)?.scope(Scope::Signal)?.create()?;
        let mut walk = Walk { hidden, writable: writable(order), left: ENTRIES_MAX };
        ruleset = walk.allow_below(ruleset, Path::new("/"))?;
        ruleset = allow(ruleset, &order.state_dir, rights)?;
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::Execute;
        ruleset = ruleset.add_rule(PathBeneath::new(image, read))?;
        ruleset.restrict_self()
    })();
    let status = restricted.map_err(|error: RulesetError| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err("the kernel has it turned off".into()),
        (RulesetStatus::NotEnforced, _) => Err("the kernel has none".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(format!("landlock abi {}", effective_abi as i32)),
        (_, _) => Ok("landlock".into()),
    }
}

/// Of a path that need not exist yet: the runtime may make its folder later.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(canonical(parent)?.join(name))
        }
        (found, _, _) => found,
    }
}

fn writable(order: &Order) -> Vec<PathBuf> {
    let configured = order.writable.iter().map(PathBuf::as_path);
    WRITABLE.into_iter().map(Path::new).chain(configured).filter_map(|path| path.canonicalize().ok()).collect()
}

struct Walk {
    hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    left: usize,
}

impl Walk {
    fn allow_below(&mut self, mut ruleset: RulesetCreated, folder: &Path) -> Result<RulesetCreated, RulesetError> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(ruleset) };
        for entry in entries.flatten() {
            // A link is reached by its target's rule. A rule through it might open a hidden folder's parent.
            let is_link = entry.file_type().map_or(true, |kind| kind.is_symlink());
            if is_link || self.left == 0 {
                continue;
            }
            self.left -= 1;
            let path = entry.path();
            if self.hidden.contains(&path) {
                continue;
            }
            ruleset = if self.hidden.iter().any(|hidden| hidden.starts_with(&path)) {
                self.allow_below(ruleset, &path)?
            } else {
                self.allow_entry(ruleset, &path)?
            };
        }
        Ok(ruleset)
    }

    fn allow_entry(&mut self, mut ruleset: RulesetCreated, path: &Path) -> Result<RulesetCreated, RulesetError> {
        let writes = self.writable.iter().any(|writable| path.starts_with(writable));
        let rights = if writes { AccessFs::from_all(ABI_NEWEST) } else { read_only() };
        ruleset = allow(ruleset, path, rights)?;
        // A writable folder below a readable one gets a rule of its own: the rights of all levels add up.
        for below in self.writable.iter().filter(|below| below.starts_with(path) && *below != path) {
            ruleset = allow(ruleset, below, AccessFs::from_all(ABI_NEWEST))?;
        }
        Ok(ruleset)
    }
}

fn read_only() -> BitFlags<AccessFs> {
    AccessFs::from_read(ABI_NEWEST) | AccessFs::ResolveUnix
}

fn allow(ruleset: RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    // What can't be opened even by name can't be opened by the module either.
    let Ok(fd) = PathFd::new(path) else { return Ok(ruleset) };
    let is_folder = fs::metadata(path).is_ok_and(|found| found.is_dir());
    let rights = if is_folder { rights } else { rights & AccessFs::from_file(ABI_NEWEST) };
    ruleset.add_rule(PathBeneath::new(fd, rights))
}

/// The newest rules that are asked for; an older kernel grants what it knows.
const ABI_NEWEST: ABI = ABI::V9;
/// Where a module may write: scratch space, devices, and what the kernel shows as files (`/sys/class/gpio` for one).
/// File permissions hold as ever.
const WRITABLE: [&str; 6] = ["/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run/lock"];
/// Folder entries on the way to the hidden folders that get a rule; beyond, all is forbidden.
const ENTRIES_MAX: usize = 4096;
