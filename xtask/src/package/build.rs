//! Builds what goes into packages, and has each thing judged by its headers.
//! Must never hand on what was not judged.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Built;
use super::elf::{self, GLIBC_FLOOR, Role};
use super::lone;
use super::target::{Libc, Target};
use super::toolchain::{Panic, Toolchain};
use crate::cargo;

/// A module's crate, as cargo knows it.
#[derive(Clone, Debug)]
pub struct Module {
    pub manifest: PathBuf,
    pub package: String,
    /// What it is called on a device.
    pub name: String,
    pub version: String,
    pub description: String,
    /// Of the file, without `lib` and `.so`.
    library: String,
}

pub struct Build<'a> {
    pub toolchain: &'a mut Toolchain,
    pub epoch: u64,
    pub target: &'static Target,
}

impl Build<'_> {
    /// The module host of a libc.
    pub fn host(&mut self, libc: Libc) -> Result<PathBuf, String> {
        let mut command = self.command(Some(libc), PROGRAM_PROFILE)?;
        command.args(["--locked", "--package", "skerry-host"]);
        let folder = run(&mut command)?.join(self.target.triple(libc)).join(PROGRAM_PROFILE);
        self.judged(folder.join("skerry-host"), Role::Host(libc))
    }

    /// The static program, which runs these hosts and no others.
    pub fn runtime(&mut self, glibc: &Path, musl: &Path) -> Result<PathBuf, String> {
        let folder = run(&mut self.static_program(glibc, musl)?)?;
        self.judged(folder.join(self.target.musl).join(PROGRAM_PROFILE).join("skerry"), Role::Static)
    }

    /// The program with both hosts behind its end: all that somebody needs to copy.
    pub fn lone(&mut self, program: &Path, glibc: &Path, musl: &Path) -> Result<PathBuf, String> {
        let folder = cargo::target_folder().join("dist/lone").join(self.target.name);
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let path = folder.join("skerry");
        let bytes = lone::bytes(&read(program)?, &read(glibc)?, &read(musl)?)?;
        let written = std::fs::write(&path, bytes);
        let may_run = || std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755));
        written.and_then(|()| may_run()).map_err(|e| format!("{}: {e}", path.display()))?;
        self.judged(path, Role::Static)
    }

    fn static_program(&mut self, glibc: &Path, musl: &Path) -> Result<Command, String> {
        let mut command = self.command(None, PROGRAM_PROFILE)?;
        command.args(["--locked", "--package", "skerry-runtime", "--bin", "skerry"]);
        command.env("SKERRY_HOST_GLIBC", lone::digest(&read(glibc)?));
        command.env("SKERRY_HOST_MUSL", lone::digest(&read(musl)?));
        Ok(command)
    }

    /// The same program with its symbols, for counting.
    pub fn with_symbols(&mut self, built: &Built) -> Result<PathBuf, String> {
        let mut command = self.static_program(&built.glibc_host, &built.musl_host)?;
        command.args(["--config", &format!("profile.{PROGRAM_PROFILE}.strip=\"none\"")]);
        // Beside, and not in the place of what is packed.
        command.env("CARGO_TARGET_DIR", cargo::target_folder().join("dist/symbols"));
        let folder = run(&mut command)?;
        Ok(folder.join(self.target.musl).join(PROGRAM_PROFILE).join("skerry"))
    }

    /// A module for a libc. One of this workspace is built as the rest is, an author's by its own release profile.
    pub fn module(&mut self, module: &Module, libc: Libc) -> Result<PathBuf, String> {
        let own = module.manifest.starts_with(cargo::root());
        let profile = if own { MODULE_PROFILE } else { "release" };
        let mut command = self.command(Some(libc), profile)?;
        if own || module.manifest.with_file_name("Cargo.lock").exists() {
            command.arg("--locked");
        }
        command.arg("--lib").args(["--package", &module.package]).arg("--manifest-path").arg(&module.manifest);
        if let Some(folder) = module.manifest.parent() {
            command.current_dir(folder);
        }
        let folder = run(&mut command)?.join(self.target.triple(libc)).join(profile);
        self.judged(folder.join(format!("lib{}.so", module.library)), Role::Module(libc))
    }

    /// Each way of linking has a folder of its own, so that none makes another's work void.
    fn command(&mut self, dynamic: Option<Libc>, profile: &str) -> Result<Command, String> {
        let panic = if profile == PROGRAM_PROFILE { Panic::Aborts } else { Panic::Unwinds };
        let (triple, floor, mut flags, folder) = match dynamic {
            Some(Libc::Glibc) => (self.target.glibc, Some(GLIBC_FLOOR), Vec::new(), "glibc"),
            // The second is for the linker, which otherwise makes a program that can't open a library.
            Some(Libc::Musl) => {
                let flags = vec!["-Ctarget-feature=-crt-static".to_owned(), "-Clink-arg=-dynamic".to_owned()];
                (self.target.musl, None, flags, "musl")
            }
            None => (self.target.musl, None, STATIC.map(str::to_owned).to_vec(), "static"),
        };
        if panic == Panic::Aborts {
            flags.push("-Cforce-unwind-tables=no".to_owned());
        }
        let mut command = self.toolchain.cargo(triple, floor, &flags, panic)?;
        let folder = cargo::target_folder().join("dist").join(folder);
        command.args(["--profile", profile]).env("CARGO_TARGET_DIR", folder);
        command.env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        Ok(command)
    }

    fn judged(&self, file: PathBuf, role: Role) -> Result<PathBuf, String> {
        println!("checked {}", elf::check(&file, self.target, role)?);
        no_path_inside(&file)?;
        Ok(file)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// What begins and ends a program is zig's, since a toolchain has it only with the target's std; and it lies at another address each time.
const STATIC: [&str; 3] = ["-Ctarget-feature=+crt-static", "-Clink-self-contained=no", "-Clink-arg=-pie"];

/// Of the runtime and the module host: a panic ends them, and what that means is no part of them. A module catches its panics itself.
const PROGRAM_PROFILE: &str = "dist-abort";
const MODULE_PROFILE: &str = "dist";

/// The folder with the results.
fn run(command: &mut Command) -> Result<PathBuf, String> {
    let status = command.status().map_err(|e| format!("can't run cargo-zigbuild: {e}"))?;
    if !status.success() {
        return Err(format!("the build failed: {command:?}"));
    }
    let folder = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_DIR").and_then(|(_, value)| value);
    folder.map(PathBuf::from).ok_or_else(|| "no target folder was set".to_owned())
}

/// The same commit gives the same bytes wherever it is built, so none may tell where that was.
fn no_path_inside(file: &Path) -> Result<(), String> {
    let bytes = read(file)?;
    let root = cargo::root();
    let needle = root.as_os_str().as_encoded_bytes();
    match bytes.windows(needle.len()).position(|window| window == needle) {
        None => Ok(()),
        Some(at) => {
            let end =
                bytes[at..].iter().position(|byte| !(32..127).contains(byte)).map_or(bytes.len(), |length| at + length);
            let found = String::from_utf8_lossy(&bytes[at..end.min(at + 120)]).into_owned();
            Err(format!("{}: names a path of this machine: {found}", file.display()))
        }
    }
}

/// Of the crate in this folder. The error says what is no module about it.
pub fn module(folder: &Path) -> Result<Module, String> {
    let manifest =
        folder.join("Cargo.toml").canonicalize().map_err(|e| format!("{}: no crate: {e}", folder.display()))?;
    let mut command = cargo::cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(&manifest);
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("can't run cargo: {e}"))?;
    let all: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = all["packages"].as_array().cloned().unwrap_or_default();
    let package = packages.iter().find(|package| package["manifest_path"].as_str().map(Path::new) == Some(&manifest));
    let package = package.ok_or_else(|| format!("{}: names no package", manifest.display()))?;
    let targets = package["targets"].as_array().cloned().unwrap_or_default();
    let is_library =
        |target: &&Value| target["crate_types"].as_array().is_some_and(|all| all.iter().any(|t| t == "cdylib"));
    let library = targets
        .iter()
        .find(is_library)
        .ok_or_else(|| format!("{}: no module: its [lib] needs crate-type = [\"cdylib\"]", manifest.display()))?;
    let name = text(&package["name"]);
    let short = name.strip_prefix("skerry-module-").or(name.strip_prefix("skerry-")).unwrap_or(&name).to_owned();
    let description = Some(text(&package["description"])).filter(|text| !text.is_empty());
    Ok(Module {
        package: name,
        version: text(&package["version"]),
        description: description.unwrap_or_else(|| format!("{short}, a module of skerry")),
        name: short,
        library: text(&library["name"]).replace('-', "_"),
        manifest,
    })
}
