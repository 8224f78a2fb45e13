//! Starts module hosts, and ends them. Must never wait for one: whoever calls has a whole device to run.
//! Call `spawn` from a thread that lives as long as the runtime: the kernel ties the death signal to that thread.

use super::order::{self, Limits, Order};
use super::status_page::StatusPage;
use super::user;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program that a host runs: one a libc, since a library can be opened only by a process of its own libc.
#[derive(Debug)]
pub enum HostBinary {
    /// This program, which is dynamic and acts as its own host.
    Own,
    /// Installed by a package.
    File(PathBuf),
    /// By its descriptor: carried inside this program and now in a sealed memory file, or a file that an upgrade may replace.
    Open(OwnedFd),
}

/// What to start. All paths absolute.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub module: String,
    pub generation: u64,
    /// The module's own folder; made when missing.
    pub state_dir: PathBuf,
    /// The runtime's state folder and the folder of its control socket.
    pub hidden: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    pub env: Vec<(String, String)>,
    /// What the module reads with `Context::arguments`.
    pub arguments: Vec<String>,
    /// From `state_dir`, if it is relative.
    pub working_folder: Option<PathBuf>,
    /// User and group of its own. Needs a runtime that is root.
    pub uid: Option<u32>,
    /// Groups beside that one; only with `uid`.
    pub groups: Vec<u32>,
    /// In the place of that group.
    pub gid: Option<u32>,
    pub limits: Limits,
    /// 1 error to 5 trace.
    pub log_level: u8,
    pub landlock: bool,
    pub wait_debugger: bool,
}

/// A running module host.
#[derive(Debug)]
pub struct Host {
    pub pid: i32,
    /// Readable when the process has ended; poll it.
    pub pidfd: OwnedFd,
    /// Frames, both ways. Nonblocking.
    pub link: UnixStream,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub status: StatusPage,
}

/// How a process ended, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// Starts a host for the stored image and sends its order. The frames are the caller's.
pub fn spawn(binary: &HostBinary, spec: &Spec, image: &File) -> io::Result<Host> {
    if let Some((name, _)) = spec.env.iter().find(|(name, _)| name.starts_with("LD_") || name.contains(['=', '\0'])) {
        // The dynamic linker would run a library of the module's choice before the host has confined itself.
        return Err(io::Error::other(format!("the environment variable {name} may not be set for a module")));
    }
    let mut paths = spec.hidden.iter().chain(&spec.writable).chain([&spec.state_dir]);
    if let Some(path) = paths.find(|path| !path.is_absolute()) {
        return Err(io::Error::other(format!("{} is not an absolute path", path.display())));
    }
    prepare_state_dir(spec)?;
    let status = StatusPage::create()?;
    let (link, theirs) = UnixStream::pair()?;
    let mut child = command(binary, spec, OwnedFd::from(theirs)).spawn()?;
    let pid = child.id() as i32;
    let pidfd = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pidfd, PidfdFlags::empty())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else { unreachable!("both were asked for") };
    let host = Host { pid, pidfd, link, stdout: stdout.into(), stderr: stderr.into(), status };
    let on_main_thread = rustix::thread::gettid() == rustix::process::getpid();
    let order = Order {
        module: spec.module.clone(),
        generation: spec.generation,
        state_dir: spec.state_dir.clone(),
        hidden: spec.hidden.clone(),
        writable: spec.writable.clone(),
        working_folder: spec.working_folder.clone(),
        limits: Limits { processes: spec.limits.processes.filter(|_| spec.uid.is_some()), ..spec.limits },
        log_level: spec.log_level,
        wait_debugger: spec.wait_debugger,
        death_signal: on_main_thread,
        parent: std::process::id() as i32,
        uid: spec.uid,
        landlock: spec.landlock,
    };
    let sent = order::send(&host.link, &order, image.as_fd(), host.status.as_fd());
    match sent.and_then(|()| host.link.set_nonblocking(true)) {
        // The host died at once (its loader failed, say): its exit tells more than this error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => host.link.set_nonblocking(true)?,
        Err(error) => {
            host.kill();
            host.wait()?;
            return Err(error);
        }
        Ok(()) => {}
    }
    Ok(host)
}

impl Host {
    /// SIGKILL. One that has ended already is left in peace.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Reaps the process when it has ended; until then `None`, at once. Also `None` while a tracer has not let it
    /// go, although `pidfd` is readable: ask again a little later.
    pub fn try_wait(&self) -> io::Result<Option<Ended>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Reaps the process, waiting for its end: for threads that have nothing else to do.
    pub fn wait(&self) -> io::Result<Ended> {
        loop {
            match self.wait_with(WaitIdOptions::EXITED) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_with(&self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        }))
    }
}

/// Who debugs or traces the process, if anybody: then a long callback is no hang.
pub fn tracer_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|tracer| *tracer != 0)
}

/// Keeps processes of the same user (module hosts, when the runtime is not root) out of this one's memory and
/// descriptors. The price: no core dump of the runtime, and no debugger without root.
pub fn protect_self() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The user of the instance in `slot`, counted from 0. `None`: the configured range is used up.
pub fn uid_of(base: u32, slot: u32) -> Option<u32> {
    if slot < UIDS { base.checked_add(slot).filter(|uid| *uid != 0) } else { None }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The group by which an instance with a user of its own reaches its devices. A runtime that is not root gives what it has.
pub fn group_of_devices(devices: &[PathBuf]) -> io::Result<Option<u32>> {
    let mut group = None;
    for device in devices {
        let found = fs::metadata(device).map_err(|error| io::Error::other(format!("{}: {error}", device.display())))?;
        if found.mode() & 0o006 == 0o006 {
            continue;
        }
        let gid = found.gid();
        if gid == 0 || found.mode() & 0o060 == 0 {
            let text = "only root may use it; let a udev rule give it a group";
            return Err(io::Error::other(format!("{}: {text}", device.display())));
        }
        if group.is_some_and(|other| other != gid) {
            return Err(io::Error::other(format!(
                "{}: all devices of an instance must have one group",
                device.display()
            )));
        }
        group = Some(gid);
    }
    Ok(group.filter(|_| is_root()))
}

fn command(binary: &HostBinary, spec: &Spec, link: OwnedFd) -> Command {
    let program = match binary {
        HostBinary::Own => PathBuf::from("/proc/self/exe"),
        HostBinary::File(path) => path.clone(),
        HostBinary::Open(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
    };
    let mut command = Command::new(program);
    command.arg0(format!("skerry: {}/{}", spec.module, spec.generation)).arg(VERB);
    command.stdin(Stdio::from(link)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().envs(inherited_env()).env("HOME", &spec.state_dir).envs(spec.env.iter().cloned());
    command.current_dir("/");
    // A group of its own, so that a Ctrl-C at the terminal stops the runtime, which then stops its modules.
    command.process_group(0);
    if !spec.arguments.is_empty() {
        command.arg("--").args(&spec.arguments);
    }
    if let Some(uid) = spec.uid {
        user::become_at_start(&mut command, uid, spec.gid.unwrap_or(uid), &spec.groups);
    }
    command
}

fn inherited_env() -> Vec<(&'static str, OsString)> {
    ENV_INHERITED.iter().filter_map(|name| std::env::var_os(name).map(|value| (*name, value))).collect()
}

/// Makes the module's folder, and gives it to its user with everything in it. The folders above it, up to the
/// runtime's own state folder, become passable (`x`) for others but not readable; the files in them are 0600.
fn prepare_state_dir(spec: &Spec) -> io::Result<()> {
    fs::create_dir_all(&spec.state_dir)?;
    let Some(uid) = spec.uid else { return fs::set_permissions(&spec.state_dir, Permissions::from_mode(0o700)) };
    if fs::metadata(&spec.state_dir)?.uid() != uid {
        give(&rustix::fs::open(&spec.state_dir, BY_NAME, Mode::empty())?, uid, 0)?;
    }
    fs::set_permissions(&spec.state_dir, Permissions::from_mode(0o700))?;
    for above in spec.state_dir.ancestors().skip(1) {
        if !spec.hidden.iter().any(|hidden| above.starts_with(hidden)) {
            break;
        }
        let mode = fs::metadata(above)?.permissions().mode() & 0o777;
        fs::set_permissions(above, Permissions::from_mode(mode & 0o700 | 0o011))?;
    }
    Ok(())
}

/// Gives a folder and all that is in it to `uid`. A process of the former user may still run and change names
/// meanwhile, so each thing is opened once, without following a link, and then judged and given by its descriptor.
/// A file with another name elsewhere is left alone: the link may have been made to get hold of it.
fn give(thing: &OwnedFd, uid: u32, depth: u32) -> io::Result<()> {
    let stat = rustix::fs::fstat(thing)?;
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !is_folder && stat.st_nlink > 1 {
        return Ok(());
    }
    let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
    rustix::fs::chownat(thing, c"", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
    if !is_folder {
        return Ok(());
    }
    if depth == FOLDERS_DEEP_MAX {
        return Err(io::Error::other("the module's folder is nested too deep to be given to another user"));
    }
    let folder = rustix::fs::openat(thing, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::new(folder)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            give(&rustix::fs::openat(thing, name, BY_NAME, Mode::empty())?, uid, depth + 1)?;
        }
    }
    Ok(())
}

/// Opens a thing without following a link and without touching it.
const BY_NAME: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Each level holds two descriptors while it is walked.
const FOLDERS_DEEP_MAX: u32 = 64;
/// Default of `[isolation] uid_base`: with `UIDS` it fills the end of the range that systemd lists as unused
/// (60578 to 61183), below the one of its dynamic users, and nobody's on OpenWrt.
pub const UID_BASE: u32 = 60_800;
/// Users that instances share out among them.
pub const UIDS: u32 = 384;
/// The hidden verb: `skerry module-host`.
pub const VERB: &str = "module-host";
/// All that a host inherits of the runtime's environment: where programs lie, the time zone and the language.
const ENV_INHERITED: [&str; 4] = ["PATH", "TZ", "LANG", "LC_ALL"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_end_with_their_range() {
        assert_eq!(uid_of(UID_BASE, 0), Some(60_800));
        assert_eq!(uid_of(UID_BASE, UIDS - 1), Some(61_183));
        assert_eq!(uid_of(UID_BASE, UIDS), None);
        assert_eq!((uid_of(0, 0), uid_of(u32::MAX, 1)), (None, None));
    }

    #[test]
    fn nobody_traces_this_test() {
        assert_eq!(tracer_of(std::process::id() as i32), None);
        assert_eq!(tracer_of(-1), None);
    }
}
