//! Finds what builds for another machine, says so aloud, and installs what it can: zig as the linker, and for each
//! target a standard library. Must never build with a library source that is not its compiler's own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::lone;
use crate::{cargo, debian};

/// Everything that a cross build is started with.
pub struct Toolchain {
    /// The folder of `cargo-zigbuild` and of the Python that has zig.
    zig: PathBuf,
    compilers: Vec<Compiler>,
    chosen: BTreeMap<String, Choice>,
}

/// A cargo and a rustc that belong together.
#[derive(Clone, Debug)]
struct Compiler {
    name: String,
    cargo: PathBuf,
    rustc: PathBuf,
}

/// What a panic does in what is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panic {
    Unwinds,
    Aborts,
}

/// How one target's standard library comes about.
#[derive(Clone, Debug)]
struct Choice {
    compiler: Compiler,
    from_source: bool,
}

impl Toolchain {
    pub fn find() -> Result<Toolchain, String> {
        let zig = zig()?;
        let mut compilers = vec![Compiler::new(&cargo_program(), &rustc_program())?];
        if let Ok(debian) = Compiler::new(Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc")) {
            compilers.push(debian);
        }
        Ok(Toolchain { zig, compilers, chosen: BTreeMap::new() })
    }

    /// `cargo zigbuild --target TRIPLE` with everything that it needs; the caller adds what to build.
    pub fn cargo(
        &mut self,
        triple: &str,
        floor: Option<(u32, u32)>,
        flags: &[String],
        panic: Panic,
    ) -> Result<Command, String> {
        let choice = self.choose(triple)?;
        let mut command = cargo::cargo();
        let environment: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        command = Command::new(self.zig.join("cargo-zigbuild"));
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let floor = floor.map_or(String::new(), |(major, minor)| format!(".{major}.{minor}"));
        command.current_dir(cargo::root()).args(["zigbuild", "--target", &format!("{triple}{floor}")]);
        let mut paths = vec![self.zig.clone()];
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let paths = std::env::join_paths(paths).map_err(|e| e.to_string())?;
        command.env("PATH", paths).env("CARGO", &choice.compiler.cargo).env("RUSTC", &choice.compiler.rustc);
        if choice.from_source {
            let panic = if panic == Panic::Aborts { "panic_abort" } else { "panic_unwind" };
            command.env("RUSTC_BOOTSTRAP", "1").arg(format!("-Zbuild-std=std,{panic}"));
            // Without what turns addresses into lines: nothing that is packed has any.
            command.arg("-Zbuild-std-features=optimize_for_size");
        }
        let mut flags: Vec<String> = flags.iter().cloned().chain(remapped(&choice.compiler)?).collect();
        if choice.from_source && panic == Panic::Aborts {
            // Files and lines of panics, without columns.
            flags.push("-Zlocation-detail=file,line".to_owned());
        }
        if panic == Panic::Aborts {
            // See zig.py.
            // So that cargo links again when that has changed.
            flags.push(format!("-Cmetadata={}", &lone::digest(SMALL_ZIG_TEXT.as_bytes())[..16]));
            command.env("SKERRY_LINK_SMALL", "1").env("CARGO_ZIGBUILD_PYTHON_PATH", self.zig.join(SMALL_ZIG));
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
        // For the C that some crates bring.
        command.env("CFLAGS", format!("-ffile-prefix-map={}=/cargo", cargo_home().display()));
        Ok(command)
    }

    /// A library source that is its compiler's own, since what is built from it for size is a tenth smaller; else the target's
    /// std as it is in a toolchain; else the line that helps.
    fn choose(&mut self, triple: &str) -> Result<Choice, String> {
        if let Some(choice) = self.chosen.get(triple) {
            return Ok(choice.clone());
        }
        if !self.compilers[0].has_source() && self.compilers[0].has_std(triple) {
            rustup(&["component", "add", "rust-src"]);
        }
        let own = self.compilers[0].clone();
        if !own.has_source() && !own.has_std(triple) {
            rustup(&["target", "add", triple]);
        }
        let with_std = self.compilers.iter().find(|compiler| compiler.has_std(triple)).cloned();
        let choice = match with_std {
            _ if own.has_source() => Choice { compiler: own, from_source: true },
            Some(compiler) => Choice { compiler, from_source: false },
            None => Choice { compiler: self.with_source()?, from_source: true },
        };
        let how = if choice.from_source {
            "built from its library source, for size (-Z build-std)"
        } else {
            "in the toolchain; with `rustup component add rust-src` everything gets smaller"
        };
        println!("toolchain: {triple}: std of {} {how}, linked by zig", choice.compiler.name);
        self.chosen.insert(triple.to_owned(), choice.clone());
        Ok(choice)
    }

    fn with_source(&mut self) -> Result<Compiler, String> {
        if !self.compilers.iter().any(Compiler::has_source) {
            rustup(&["component", "add", "rust-src"]);
        }
        if !self.compilers.iter().any(Compiler::has_source) && debian::is_root() {
            debian::install(&["cargo-web", "rustc-web", "rust-web-src"]);
            self.compilers.extend(Compiler::new(Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc")));
        }
        self.compilers.iter().find(|compiler| compiler.has_source()).cloned().ok_or_else(|| {
            "no standard library for this target, and no library source to build it from; one of these helps: `rustup target add \
             TRIPLE`, `rustup component add rust-src`, `apt-get install cargo-web rustc-web rust-web-src`"
                .to_owned()
        })
    }
}

impl Compiler {
    fn new(cargo: &Path, rustc: &Path) -> Result<Compiler, String> {
        let name = output(Command::new(rustc).arg("--version"))?;
        output(Command::new(cargo).arg("--version"))?;
        let name = name.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Ok(Compiler { name, cargo: cargo.to_owned(), rustc: rustc.to_owned() })
    }

    fn has_std(&self, triple: &str) -> bool {
        let folder = output(Command::new(&self.rustc).args(["--print", "target-libdir", "--target", triple]));
        let entries = folder.ok().and_then(|folder| std::fs::read_dir(folder).ok());
        entries.is_some_and(|mut all| {
            all.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
        })
    }

    fn source(&self) -> Result<PathBuf, String> {
        let sysroot = output(Command::new(&self.rustc).args(["--print", "sysroot"]))?;
        Ok(Path::new(&sysroot).join("lib/rustlib/src/rust"))
    }

    fn has_source(&self) -> bool {
        self.source().is_ok_and(|folder| folder.join("library/Cargo.lock").exists())
    }
}

/// No path of the building machine in what is built.
fn remapped(compiler: &Compiler) -> Result<Vec<String>, String> {
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let source = compiler.source()?;
    // The last that fits counts.
    let mut all = vec![map(&cargo_home(), "/cargo"), map(&cargo::root(), "/skerry"), map(&source, "/rustc")];
    if let Ok(real) = source.canonicalize() {
        all.push(map(&real, "/rustc"));
    }
    Ok(all)
}

/// Python's package of zig, and the cargo subcommand that knows how to link with it, in a folder of their own.
fn zig() -> Result<PathBuf, String> {
    let folder = cargo::target_folder().join("tools/zig");
    let programs = folder.join("bin");
    let wanted = [format!("ziglang=={ZIG}"), format!("cargo-zigbuild=={ZIGBUILD}")];
    let stamp = folder.join(format!("zig-{ZIG}-zigbuild-{ZIGBUILD}"));
    if !stamp.exists() {
        println!("installing {} into {}", wanted.join(" "), folder.display());
        let made = || Command::new("python3").args(["-m", "venv"]).arg(&folder).stdout(Stdio::null()).status();
        if !made().is_ok_and(|status| status.success()) {
            debian::install(&["python3-venv"]);
            if !made().is_ok_and(|status| status.success()) {
                return Err(
                    "can't make a Python environment for zig; install it with: apt-get install python3-venv".to_owned()
                );
            }
        }
        let installed = Command::new(programs.join("pip")).args(["install", "-q"]).args(&wanted).status();
        if !installed.is_ok_and(|status| status.success()) {
            return Err(format!(
                "can't install zig; do so with: {} install {}",
                programs.join("pip").display(),
                wanted.join(" ")
            ));
        }
        std::fs::write(&stamp, "").map_err(|e| format!("{}: {e}", stamp.display()))?;
    }
    small_zig(&programs)?;
    println!("toolchain: zig {ZIG} links, by cargo-zigbuild {ZIGBUILD}");
    Ok(programs)
}

/// The program that cargo-zigbuild takes for zig.
fn small_zig(programs: &Path) -> Result<(), String> {
    let path = programs.join(SMALL_ZIG);
    let text = format!("#!{}\n{}", programs.join("python3").display(), SMALL_ZIG_TEXT);
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let written = std::fs::write(&path, text);
    let may_run = || std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755));
    written.and_then(|()| may_run()).map_err(|e| format!("{}: {e}", path.display()))
}

/// Does what it can: who asks looks what came of it.
fn rustup(arguments: &[&str]) {
    println!("trying: rustup {}", arguments.join(" "));
    let limited = Command::new("timeout").args(["300", "rustup"]).args(arguments).stdin(Stdio::null()).output();
    if !limited.is_ok_and(|output| output.status.success()) {
        println!("rustup can't");
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cargo_program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

fn rustc_program() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

fn cargo_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

const SMALL_ZIG: &str = "skerry-zig";
const SMALL_ZIG_TEXT: &str = include_str!("zig.py");
const ZIG: &str = "0.17.1";
const ZIGBUILD: &str = "0.24.0";
