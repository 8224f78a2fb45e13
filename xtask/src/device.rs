//! A device of one's own: the real binary with a private folder, socket and modules, as a process that can be killed.
//! Must never leave a process or a folder behind, whichever way its user ends.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cargo, control, interrupt};

/// How long the runtime may take to stop: its own bound for all modules, and some.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// How often something is looked at while it is waited for.
pub const LOOK: Duration = Duration::from_millis(5);

pub struct Device {
    /// Removed at the end.
    _folder: TempDir,
    path: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
}

impl Device {
    /// With these plugins in its drop-in folder.
    pub fn new(purpose: &str, built: &Path, plugins: &[&str], config: &str) -> Result<Device, String> {
        let fault = |e: std::io::Error| format!("can't make a folder for {purpose}: {e}");
        let place = place();
        fs::create_dir_all(&place).map_err(fault)?;
        let folder = tempfile::Builder::new().prefix(&format!("skerry-{purpose}-")).tempdir_in(place).map_err(fault)?;
        // Modules run under uids of their own and must get through to their own folders.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(fault)?;
        let path = folder.path().to_owned();
        fs::create_dir(path.join("modules")).map_err(fault)?;
        for plugin in plugins {
            let image = cargo::image(built, plugin);
            let copied = fs::copy(&image, path.join("modules").join(format!("{plugin}.so")));
            copied.map_err(|e| format!("{}: {e}", image.display()))?;
        }
        fs::write(path.join("config.toml"), config).map_err(fault)?;
        Ok(Device { _folder: folder, path, binary: built.join("skerry"), child: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// In a process group of its own: a Ctrl-C on the terminal is for this program alone, which then ends it in order.
    pub fn start(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.path.join("skerry.log"));
        let log = log.map_err(|e| format!("can't write the log: {e}"))?;
        let mut command = Command::new(&self.binary);
        command.arg("run");
        for (flag, file) in
            [("--config", "config.toml"), ("--modules", "modules"), ("--state", "state"), ("--control", "control.sock")]
        {
            command.arg(flag).arg(self.path.join(file));
        }
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|e| format!("{}: {e}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id() as i32)
    }

    /// How it ended by itself, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    pub fn kill_9(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("the runtime does not run")?;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|e| format!("can't kill the runtime: {e}"))
    }

    /// As systemd would: asks, and kills only who does not answer.
    pub fn stop(&mut self) -> Result<ExitStatus, String> {
        let mut child = self.child.take().ok_or("the runtime does not run")?;
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the runtime did not stop within {} s and was killed", STOP_WAIT.as_secs()))
    }

    pub fn get(&self, path: &str) -> Result<Value, String> {
        control::request(&self.socket(), "GET", path, None)
    }

    pub fn call(&self, module: &str, method: &str, payload: &Value) -> Result<Value, String> {
        control::request(&self.socket(), "POST", &format!("/modules/{module}/methods/{method}"), Some(payload))
    }

    pub fn module(&self, name: &str) -> Result<Value, String> {
        self.get(&format!("/modules/{name}"))
    }

    /// Until `look` has something; at the deadline the error is what was waited for, with the end of the log.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Device) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.ended() {
                return Err(format!("the runtime ended ({status}) while waiting for {what}\n{}", self.log_tail()));
            }
            if Instant::now() > deadline {
                return Err(format!("no {what} within {} s\n{}", limit.as_secs(), self.log_tail()));
            }
            thread::sleep(LOOK);
        }
    }

    /// Until these modules run, and how long that took.
    pub fn wait_running(&mut self, modules: &[&str]) -> Result<Duration, String> {
        let begin = Instant::now();
        self.wait("running modules", Duration::from_secs(20), |device| {
            let list = device.get("/modules").ok()?;
            let running = |name: &&str| {
                list.as_array().is_some_and(|l| l.iter().any(|m| m["name"] == **name && m["status"] == "running"))
            };
            modules.iter().all(running).then_some(())
        })?;
        Ok(begin.elapsed())
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.path.join("skerry.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.stop();
        }
    }
}

/// Whether a process lives; one that only waits to be reaped does not.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A runtime refuses to keep its state in memory, so a temporary folder that lies there will not do.
fn place() -> PathBuf {
    const TMPFS: u64 = 0x0102_1994;
    let folder = std::env::temp_dir();
    let volatile = rustix::fs::statfs(&folder).is_ok_and(|stat| stat.f_type as u64 == TMPFS);
    if volatile { cargo::target_folder().join("xtask") } else { folder }
}
