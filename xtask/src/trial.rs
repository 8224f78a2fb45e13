//! The packages, tried as a user would: installed into a Debian folder with dpkg, unpacked into an OpenWrt-like folder that knows
//! only musl, started there, upgraded and removed. Must never touch the system that it runs on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::package::build::Build;
use crate::package::target::{self, Libc, Target};
use crate::package::toolchain::Toolchain;
use crate::package::{self, Built, Format, VERSION, contents};
use crate::{cargo, debian};

/// How long anything may take to be seen.
const WAIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Modules of each trial: one that speaks, one that writes down.
const MODULES: [&str; 2] = ["sysinfo", "recorder"];
const CONFIG: &str = r#"# edited by the operator
[device]
id = "trial"
[modules.sysinfo]
settings = { interval_ms = 200 }
[routes]
seen = 'FROM /messages/* INTO BrokeredEndpoint("/modules/recorder/inputs/input1")'
"#;

/// Everything that the trials install.
pub struct Packages {
    built: Built,
    epoch: u64,
    modules: Vec<(package::build::Module, Vec<(Libc, PathBuf)>)>,
}

/// This machine's: the other machines' are built by `cargo xtask package`.
pub fn build() -> Result<Packages, String> {
    let target = target::of(std::env::consts::ARCH)?;
    let (mut toolchain, epoch) = (Toolchain::find()?, package::epoch()?);
    let mut build = Build { toolchain: &mut toolchain, epoch, target };
    let built = package::runtime(&mut build)?;
    let mut modules = Vec::new();
    for module in package::own_modules()?.into_iter().filter(|module| MODULES.contains(&&*module.name)) {
        let mut files = Vec::new();
        for libc in Libc::BOTH {
            files.push((libc, build.module(&module, libc)?));
        }
        modules.push((module, files));
    }
    Ok(Packages { built, epoch, modules })
}

/// The same files packed again are the same bytes, and an .ipk is what opkg reads.
pub fn structure(packages: &Packages) -> Result<(), String> {
    for format in [Format::Deb, Format::Ipk, Format::Tar] {
        let pack = || contents::skerry(&packages.built, format, packages.epoch);
        for (one, other) in pack()?.iter().zip(pack()?) {
            require(one.bytes == other.bytes, || format!("{}: packed twice, it differs", one.file))?;
            if format == Format::Ipk {
                let (control, files) = open_ipk(&one.bytes)?;
                let has = |line: &str| control.lines().any(|found| found == line);
                let architecture = one.file.trim_end_matches(".ipk").split_once("-r1_").map_or("", |(_, name)| name);
                for line in ["Package: skerry", "Depends: ca-bundle", &format!("Architecture: {architecture}")] {
                    require(has(line), || format!("{}: control has no {line:?}", one.file))?;
                }
                for (path, mode) in [
                    ("./usr/bin/skerry", 0o755),
                    ("./etc/init.d/skerry", 0o755),
                    ("./etc/skerry/config.toml", 0o600),
                    ("./lib/upgrade/keep.d/skerry", 0o644),
                    ("./usr/lib/skerry/skerry-host-musl", 0o755),
                ] {
                    require(files.contains(&(path.to_owned(), mode)), || format!("{}: no {path} {mode:o}", one.file))?;
                }
            }
            println!("{}: {} bytes, twice the same", one.file, one.bytes.len());
        }
    }
    Ok(())
}

/// The control file, and names and modes of the files. Everything belongs to root.
fn open_ipk(bytes: &[u8]) -> Result<(String, Vec<(String, u32)>), String> {
    let failed = |e: std::io::Error| format!("the .ipk can't be read: {e}");
    let members = members(bytes).map_err(failed)?;
    let names: Vec<&str> = members.iter().map(|(name, ..)| name.as_str()).collect();
    require(names == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"], || format!("members are {names:?}"))?;
    let (files, meta) = (self::members(&members[1].2).map_err(failed)?, self::members(&members[2].2).map_err(failed)?);
    let control = meta.iter().find(|(name, ..)| name == "./control").ok_or("no control file")?;
    let control = String::from_utf8_lossy(&control.2).into_owned();
    Ok((control, files.into_iter().map(|(name, mode, _)| (name, mode)).collect()))
}

fn members(gzipped: &[u8]) -> std::io::Result<Vec<(String, u32, Vec<u8>)>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(gzipped));
    let mut all = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let (uid, gid) = (entry.header().uid()?, entry.header().gid()?);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if (uid, gid) != (0, 0) {
            return Err(std::io::Error::other(format!("{name} belongs to {uid}:{gid}")));
        }
        let (mode, mut bytes) = (entry.header().mode()?, Vec::new());
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        all.push((name, mode, bytes));
    }
    Ok(all)
}

/// Install, run, upgrade with a message waiting, remove, purge.
pub fn on_debian(packages: &Packages) -> Result<(), String> {
    let target = packages.built.target;
    let mut root = Root::debian(target)?;
    root.install(&contents::skerry_deb(&packages.built, packages.epoch, VERSION)?)?;
    let mode = |path: &str| fs::metadata(root.at(path)).map(|m| m.permissions().mode() & 0o7777).unwrap_or(0);
    let modes = [("var/lib/skerry", 0o700), ("etc/skerry/config.toml", 0o640), ("usr/bin/skerry", 0o755)];
    for (path, expected) in modes {
        require(mode(path) == expected, || format!("/{path} has mode {:o}, not {expected:o}", mode(path)))?;
    }
    let users = fs::read_to_string(root.at("etc/passwd")).unwrap_or_default();
    require(users.contains("\nskerry:"), || "there is no user skerry".to_owned())?;
    let enabled = root.at("etc/systemd/system/multi-user.target.wants/skerry.service");
    require(enabled.symlink_metadata().is_ok(), || "the service is not enabled".to_owned())?;
    root.write("etc/skerry/config.toml", CONFIG)?;
    root.install(&packages.module("sysinfo", Format::Deb)?)?;
    root.start(&[])?;
    root.running_by("sysinfo", "/usr/lib/skerry/skerry-host-glibc")?;
    root.skerry(&["send", "tester", "out", "--body", "1", "--property", "seq=7"])?;
    println!("debian: installed; sysinfo runs on the package's host; a message waits for a module that is not there");

    root.install(&contents::skerry_deb(&packages.built, packages.epoch, &format!("{VERSION}+1"))?)?;
    let kept = fs::read_to_string(root.at("etc/skerry/config.toml")).unwrap_or_default();
    require(kept == CONFIG, || "the upgrade changed the operator's configuration".to_owned())?;
    root.skerry(&["status"]).map_err(|e| format!("the upgrade ended the running skerry: {e}"))?;
    // What the maintainer script does where systemd runs.
    root.stop()?;
    root.start(&[])?;
    root.install(&packages.module("recorder", Format::Deb)?)?;
    root.recorded("var/lib/skerry", "tester - 7")?;
    root.recorded("var/lib/skerry", "sysinfo ")?;
    println!("debian: upgraded; the message that waited has arrived, and so has what sysinfo measures");

    root.stop()?;
    fs::remove_file(root.at("usr/lib/skerry/skerry-host-glibc")).map_err(|e| e.to_string())?;
    root.start(&[])?;
    root.running_by("sysinfo", "/memfd:skerry-host-glibc")?;
    root.stop()?;
    println!("debian: without the package's file the host runs from memory");

    root.run(&["dpkg", "--remove", "skerry-module-sysinfo", "skerry-module-recorder", "skerry"])?;
    require(!root.at("usr/bin/skerry").exists(), || "remove left the program".to_owned())?;
    require(root.at("var/lib/skerry/store").exists(), || "remove took the messages".to_owned())?;
    require(root.at("etc/skerry/config.toml").exists(), || "remove took the configuration".to_owned())?;
    root.run(&["dpkg", "--purge", "skerry"])?;
    for path in ["var/lib/skerry", "etc/skerry/config.toml", "lib/systemd/system/skerry.service"] {
        require(!root.at(path).exists(), || format!("purge left /{path}"))?;
    }
    println!("debian: removed, with configuration and messages kept; purged, with nothing left");
    Ok(())
}

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
    root.start(&["--state", "/etc/skerry/state"])?;
    root.running_by("sysinfo", "/usr/lib/skerry/skerry-host-musl")?;
    root.recorded("etc/skerry/state", "sysinfo ")?;
    root.skerry(&["send", "tester", "out", "--body", "1", "--property", "seq=9"])?;
    root.stop()?;
    root.start(&["--state", "/etc/skerry/state"])?;
    root.recorded("etc/skerry/state", "tester - 9")?;
    root.stop()?;
    println!("openwrt: the same static binary runs musl modules; what was sent is there after a restart");
    Ok(())
}

impl Packages {
    fn module(&self, name: &str, format: Format) -> Result<package::Made, String> {
        let found = self.modules.iter().find(|(module, _)| module.name == name);
        let (module, files) = found.ok_or_else(|| format!("no module {name}"))?;
        let wanted = if format == Format::Ipk { Libc::Musl } else { Libc::Glibc };
        let files: Vec<_> = files.iter().filter(|(libc, _)| *libc == wanted).cloned().collect();
        let mut made = contents::module(module, self.built.target, &files, format, self.epoch)?;
        if made.is_empty() { Err(format!("no package of {name}")) } else { Ok(made.swap_remove(0)) }
    }
}

/// A system in a folder, with at most one skerry in it, which ends with it.
struct Root {
    folder: TempDir,
    volatile_var: bool,
    child: Option<Child>,
}

impl Root {
    /// A copy of a small Debian that is made once.
    fn debian(target: &Target) -> Result<Root, String> {
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

    fn openwrt(target: &Target) -> Result<Root, String> {
        let root = Root::empty(true)?;
        let library = PathBuf::from(format!("/usr/lib/{}-linux-musl/libc.so", target.name));
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

    fn empty(volatile_var: bool) -> Result<Root, String> {
        let folder = tempfile::Builder::new().prefix("root-").tempdir_in(place()?).map_err(|e| e.to_string())?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        Ok(Root { folder, volatile_var, child: None })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> Result<(), String> {
        fs::write(self.at(path), text).map_err(|e| format!("/{path}: {e}"))
    }

    /// In a mount namespace of its own, so that nothing stays mounted.
    fn command(&self, arguments: &[&str]) -> Command {
        let var = if self.volatile_var { "mount -t tmpfs none \"$0/var\" &&" } else { "" };
        let script = format!(
            "mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && {var} exec chroot \"$0\" \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(self.folder.path()).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null());
        command
    }

    /// What it printed; the error is what it said.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let Output { status, stdout, stderr } =
            self.command(arguments).output().map_err(|e| format!("unshare: {e}"))?;
        let said = String::from_utf8_lossy(&stderr);
        require(status.success(), || format!("{}: {status}: {}", arguments.join(" "), said.trim()))?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    fn skerry(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&[&["/usr/bin/skerry"], arguments].concat())
    }

    fn install(&self, made: &package::Made) -> Result<(), String> {
        let path = format!("tmp/{}", made.file);
        fs::write(self.at(&path), &made.bytes).map_err(|e| format!("/{path}: {e}"))?;
        self.run(&["dpkg", "--install", &format!("/{path}")]).map(drop)
    }

    /// As opkg does.
    fn unpack(&self, made: &package::Made) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", made.file);
        let outer = members(&made.bytes).map_err(failed)?;
        let inner = outer.iter().find(|(name, ..)| name == "./data.tar.gz").ok_or("no data.tar.gz")?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&inner.2[..]));
        archive.set_preserve_permissions(true);
        archive.unpack(self.folder.path()).map_err(failed)
    }

    fn start(&mut self, more: &[&str]) -> Result<(), String> {
        let log =
            fs::File::options().create(true).append(true).open(self.at("skerry.log")).map_err(|e| e.to_string())?;
        let mut command = self.command(&[&["/usr/bin/skerry", "run"], more].concat());
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().map_err(|e| e.to_string())?);
        self.until("a running skerry", |root| root.skerry(&["status"]).ok().map(drop))
    }

    fn stop(&mut self) -> Result<(), String> {
        let mut child = self.child.take().ok_or("no skerry runs")?;
        let _ = Pid::from_raw(child.id() as i32).map(|pid| kill_process(pid, Signal::TERM));
        let status = child.wait().map_err(|e| e.to_string())?;
        require(status.success(), || format!("skerry ended with {status}: {}", self.log()))
    }

    /// The instance is a process of this program.
    fn running_by(&self, module: &str, program: &str) -> Result<(), String> {
        self.until(&format!("{module} as a process of {program}"), |root| {
            let all: Value = serde_json::from_str(&root.skerry(&["list", "--json"]).ok()?).ok()?;
            let all = all.as_array().or(all["modules"].as_array())?;
            let pid = all.iter().find(|one| one["name"] == module)?["pid"].as_i64()?;
            let found = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            found.to_string_lossy().contains(program).then_some(())
        })
    }

    fn recorded(&self, state: &str, line: &str) -> Result<(), String> {
        self.until(&format!("{line:?} among what the recorder wrote down"), |root| {
            let files = fs::read_dir(root.at(state).join("modules/recorder")).ok()?.flatten();
            let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
            texts.any(|text| text.lines().any(|found| found.starts_with(line))).then_some(())
        })
    }

    fn until(&self, what: &str, seen: impl Fn(&Root) -> Option<()>) -> Result<(), String> {
        let deadline = Instant::now() + WAIT;
        while seen(self).is_none() {
            if Instant::now() > deadline {
                return Err(format!("not seen within {} s: {what}\n{}", WAIT.as_secs(), self.log()));
            }
            crate::interrupt::check()?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn log(&self) -> String {
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

/// On the disk: a state folder in memory is refused.
fn place() -> Result<PathBuf, String> {
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

fn require(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}
