//! A system in a folder, entered by mount namespace and chroot, with at most one skerry in it. Must never leave a mount or a
//! process behind, nor change the system around it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::require;
use super::structure::members;
use crate::package::Made;
use crate::package::target::Target;
use crate::{cargo, debian, interrupt};

/// How long anything may take to be seen.
const WAIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// A system in a folder, with at most one skerry in it, which ends with it.
pub struct Root {
    folder: TempDir,
    volatile_var: bool,
    /// What tells the kernel how to run another machine's programs.
    emulator: Option<String>,
    child: Option<Child>,
}

impl Root {
    /// A copy of a small Debian that is made once.
    pub fn debian(target: &Target) -> Result<Root, String> {
        let made = place()?.join(format!("debian-{}", target.deb));
        if !made.join("etc/debian_version").exists() || made.join("debootstrap").exists() {
            debian::install(&["debootstrap"]);
            let _ = fs::remove_dir_all(&made);
            println!("debootstrap: a small Debian into {}", made.display());
            let mut command = Command::new("debootstrap");
            command.args(["--variant=minbase", "--include=adduser,ca-certificates", "--arch", target.deb, "bookworm"]);
            command.arg(&made).arg("http://deb.debian.org/debian").stdout(Stdio::null());
            let done = command.status().map_err(|e| format!("debootstrap: {e}; apt-get install debootstrap"))?;
            require(done.success(), || format!("debootstrap: {done}"))?;
        }
        let root = Root::empty(false)?;
        let copied = Command::new("cp").arg("-a").arg(made.join(".")).arg(root.folder.path()).status();
        require(copied.is_ok_and(|status| status.success()), || "can't copy the Debian folder".to_owned())?;
        Ok(root)
    }

    pub fn openwrt(target: &Target) -> Result<Root, String> {
        let root = Root::empty(true)?;
        let library = PathBuf::from(format!("/usr/lib/{}/libc.so", target.musl_folder));
        if !library.exists() {
            debian::install(&["musl"]);
        }
        for folder in ["lib", "proc", "dev", "tmp", "var", "run", "etc"] {
            fs::create_dir_all(root.at(folder)).map_err(|e| e.to_string())?;
        }
        let copied = fs::copy(&library, root.at(target.musl_loader.trim_start_matches('/')));
        copied.map_err(|e| format!("{}: {e}; apt-get install musl", library.display()))?;
        Ok(root)
    }

    /// Another machine's Debian, as debootstrap unpacks it and nobody ever started it: both C libraries are there, and that is enough.
    pub fn foreign(target: &Target) -> Result<Root, String> {
        let emulator = PathBuf::from(format!("/usr/bin/qemu-{}-static", target.qemu));
        if !emulator.exists() {
            debian::install(&["qemu-user-static"]);
        }
        let made = place()?.join(format!("foreign-{}", target.deb));
        let musl = made.join(format!("usr/lib/{}/libc.so", target.musl_folder));
        if !musl.exists() {
            debian::install(&["debootstrap"]);
            let _ = fs::remove_dir_all(&made);
            println!("debootstrap: a {} Debian, unpacked only, into {}", target.deb, made.display());
            let mut command = Command::new("debootstrap");
            command.args(["--foreign", "--variant=minbase", "--include=musl", "--arch", target.deb, "bookworm"]);
            command.arg(&made).arg("http://deb.debian.org/debian").stdout(Stdio::null());
            let done = command.status().map_err(|e| format!("debootstrap: {e}; apt-get install debootstrap"))?;
            require(done.success(), || format!("debootstrap: {done}"))?;
            let unpack = "dpkg-deb --fsys-tarfile \"$0\"/var/cache/apt/archives/musl_*.deb | \
                          tar -x --keep-directory-symlink -C \"$0\"";
            let done = Command::new("sh").args(["-ec", unpack]).arg(&made).status().map_err(|e| e.to_string())?;
            require(done.success() && musl.exists(), || "debootstrap brought no musl".to_owned())?;
        }
        let mut root = Root::empty(false)?;
        // The caches of what was downloaded are half of it.
        for part in ["bin", "etc", "lib", "lib64", "sbin", "usr", "var/lib"] {
            let to = root.at(part);
            fs::create_dir_all(to.parent().unwrap_or(&to)).map_err(|e| e.to_string())?;
            let from = made.join(part);
            let copied = from.symlink_metadata().is_err()
                || Command::new("cp").arg("-a").arg(&from).arg(&to).status().is_ok_and(|status| status.success());
            require(copied, || format!("can't copy {}", from.display()))?;
        }
        for folder in ["proc", "dev", "tmp", "run"] {
            fs::create_dir_all(root.at(folder)).map_err(|e| e.to_string())?;
        }
        root.emulator = Some(binfmt(target, &emulator));
        Ok(root)
    }

    fn empty(volatile_var: bool) -> Result<Root, String> {
        let folder = tempfile::Builder::new().prefix("root-").tempdir_in(place()?).map_err(|e| e.to_string())?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        Ok(Root { folder, volatile_var, emulator: None, child: None })
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) -> Result<(), String> {
        fs::write(self.at(path), text).map_err(|e| format!("/{path}: {e}"))
    }

    /// In a mount namespace of its own, so that nothing stays mounted. For another machine in a user namespace as well, which has its own
    /// word with the kernel on how programs are run (Linux 6.7); everybody in it is who he is outside.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        let (proc, register) = match &self.emulator {
            None => ("mount -t proc proc \"$0/proc\"", ""),
            Some(_) => {
                command.arg("--user");
                // Nobody in there may do anything before `spawn` has said who is who.
                let own = "while ! read -r _ < /proc/$$/uid_map || ! read -r _ < /proc/$$/gid_map; do :; done; \
                           mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
                           printf '%s' \"$EMULATOR\" > /proc/sys/fs/binfmt_misc/register &&";
                ("mount --rbind /proc \"$0/proc\"", own)
            }
        };
        let var = if self.volatile_var { "mount -t tmpfs none \"$0/var\" &&" } else { "" };
        let script = format!(
            "{register} {proc} && mount --rbind /dev \"$0/dev\" && {var} unset EMULATOR && exec chroot \"$0\" \"$@\""
        );
        command.args(["--mount", "sh", "-c", &script]).arg(self.folder.path()).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command.envs(self.emulator.as_ref().map(|rule| ("EMULATOR", rule)));
        command.stdin(Stdio::null());
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, String> {
        let mut child = command.spawn().map_err(|e| format!("unshare: {e}"))?;
        if self.emulator.is_none() {
            return Ok(child);
        }
        let failed = |e: std::io::Error| format!("a user namespace for another machine's programs: {e}");
        let own = fs::read_link("/proc/self/ns/user").map_err(failed)?;
        let place = PathBuf::from(format!("/proc/{}", child.id()));
        let deadline = Instant::now() + WAIT;
        while fs::read_link(place.join("ns/user")).is_ok_and(|found| found == own) {
            let ended = child.try_wait().map_err(failed)?.is_some();
            require(!ended && Instant::now() < deadline, || "unshare --user does not do what it should".to_owned())?;
            thread::sleep(Duration::from_millis(1));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(place.join(map), "0 0 4294967295\n").map_err(failed)?;
        }
        Ok(child)
    }

    /// What it printed; the error is what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(&mut command)?;
        let Output { status, stdout, stderr } = child.wait_with_output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&stderr);
        require(status.success(), || format!("{}: {status}: {}", arguments.join(" "), said.trim()))?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    pub fn skerry(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&[&["/usr/bin/skerry"], arguments].concat())
    }

    pub fn install(&self, made: &Made) -> Result<(), String> {
        let path = format!("tmp/{}", made.file);
        fs::write(self.at(&path), &made.bytes).map_err(|e| format!("/{path}: {e}"))?;
        self.run(&["dpkg", "--install", &format!("/{path}")]).map(drop)
    }

    /// As opkg does.
    pub fn unpack(&self, made: &Made) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", made.file);
        let outer = members(&made.bytes).map_err(failed)?;
        let inner = outer.iter().find(|(name, ..)| name == "./data.tar.gz").ok_or("no data.tar.gz")?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&inner.2[..]));
        archive.set_preserve_permissions(true);
        archive.unpack(self.folder.path()).map_err(failed)
    }

    pub fn start(&mut self, more: &[&str]) -> Result<(), String> {
        let log =
            fs::File::options().create(true).append(true).open(self.at("skerry.log")).map_err(|e| e.to_string())?;
        let mut command = self.command(&[&["/usr/bin/skerry", "run"], more].concat());
        self.child = Some(self.spawn(command.stdout(Stdio::null()).stderr(log))?);
        self.until("a running skerry", |root| root.skerry(&["status"]).ok().map(drop))
    }

    pub fn stop(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("no skerry runs")?;
        let _ = Pid::from_raw(child.id() as i32).map(|pid| kill_process(pid, Signal::TERM));
        let status = child.wait().map_err(|e| e.to_string())?;
        require(status.success(), || format!("skerry ended with {status}: {}", self.log()))
    }

    /// As a power cut would.
    pub fn kill(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("no skerry runs")?;
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|e| e.to_string())
    }

    /// The instance is a process of this program.
    pub fn running_by(&self, module: &str, program: &str) -> Result<(), String> {
        self.until(&format!("{module} as a process of {program}"), |root| {
            let all: Value = serde_json::from_str(&root.skerry(&["list", "--json"]).ok()?).ok()?;
            let all = all.as_array().or(all["modules"].as_array())?;
            let pid = all.iter().find(|one| one["name"] == module)?["pid"].as_i64()?;
            let found = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            found.to_string_lossy().contains(program).then_some(())
        })
    }

    pub fn recorded(&self, state: &str, line: &str) -> Result<(), String> {
        self.until(&format!("{line:?} among what the recorder wrote down"), |root| {
            let files = fs::read_dir(root.at(state).join("modules/recorder")).ok()?.flatten();
            let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
            texts.any(|text| text.lines().any(|found| found.starts_with(line))).then_some(())
        })
    }

    pub fn until(&self, what: &str, seen: impl Fn(&Root) -> Option<()>) -> Result<(), String> {
        let deadline = Instant::now() + WAIT;
        while seen(self).is_none() {
            if Instant::now() > deadline {
                return Err(format!("not seen within {} s: {what}\n{}", WAIT.as_secs(), self.log()));
            }
            interrupt::check()?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.at("skerry.log")).unwrap_or_default()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.stop();
        }
    }
}

/// One line for `binfmt_misc`: what this machine's programs begin with, and who runs them. The emulator is opened now, with its
/// credentials and the program open, so that it is found in any folder and runs what lies in memory.
fn binfmt(target: &Target, emulator: &Path) -> String {
    let bytes = |all: &[u8]| all.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let class = if target.name == "armv7" { 1 } else { 2 };
    let mut magic = [0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    magic[18..].copy_from_slice(&target.machine.to_le_bytes());
    let mut mask = [0xff; 20];
    // Any system's, and a program or a shared object.
    (mask[7], mask[16]) = (0, 0xfe);
    format!(":skerry-trial:M::{}:{}:{}:FPC", bytes(&magic), bytes(&mask), emulator.display())
}

/// On the disk: a state folder in memory is refused.
pub fn place() -> Result<PathBuf, String> {
    let place = cargo::target_folder().join("trial");
    fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    // Instances run under uids of their own and must get through.
    let closed = place.ancestors().find(|folder| fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 == 0));
    match closed {
        Some(folder) => {
            Err(format!("others can't pass through {}, and modules run as others: chmod o+x it", folder.display()))
        }
        None => Ok(place),
    }
}
