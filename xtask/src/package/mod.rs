//! `cargo xtask package`: the static program with its module hosts, and the packages that install it and modules: .deb, .ipk and
//! .tar.gz. The same commit gives the same bytes. Must never pack what was not judged by its headers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;
use build::{Build, Module};
use target::{Libc, Target};
use toolchain::Toolchain;

pub mod build;
pub mod contents;
pub mod deb;
pub mod elf;
pub mod ipk;
pub mod lone;
pub mod target;
pub mod toolchain;
pub mod tree;

/// What was typed.
pub struct Wanted {
    /// Empty means all.
    pub targets: Vec<String>,
    /// Empty means all.
    pub formats: Vec<String>,
    /// Only this module's crate.
    pub module: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Deb,
    Ipk,
    Tar,
}

/// A package's file.
pub struct Made {
    pub file: String,
    pub bytes: Vec<u8>,
}

/// What was built for a target, before it is packed.
pub struct Built {
    pub target: &'static Target,
    pub skerry: PathBuf,
    /// The same with both hosts behind its end.
    pub lone: PathBuf,
    pub glibc_host: PathBuf,
    pub musl_host: PathBuf,
}

pub fn run(wanted: &Wanted) -> Result<bool, String> {
    let (targets, formats) = (targets(&wanted.targets)?, formats(&wanted.formats)?);
    let modules = match &wanted.module {
        Some(folder) => vec![build::module(folder)?],
        None => own_modules()?,
    };
    let mut toolchain = Toolchain::find()?;
    let epoch = epoch()?;
    for target in targets {
        let mut build = Build { toolchain: &mut toolchain, epoch, target };
        if wanted.module.is_none() {
            let built = runtime(&mut build)?;
            for format in &formats {
                write(contents::skerry(&built, *format, epoch)?)?;
            }
        }
        for module in &modules {
            for format in &formats {
                write(packed(&mut build, module, *format)?)?;
            }
        }
    }
    Ok(true)
}

/// The program, and the hosts that belong to it.
pub fn runtime(build: &mut Build<'_>) -> Result<Built, String> {
    let (glibc_host, musl_host) = (build.host(Libc::Glibc)?, build.host(Libc::Musl)?);
    let skerry = build.runtime(&glibc_host, &musl_host)?;
    let lone = build.lone(&skerry, &glibc_host, &musl_host)?;
    Ok(Built { target: build.target, skerry, lone, glibc_host, musl_host })
}

/// A module for the C library that a format's systems have.
fn packed(build: &mut Build<'_>, module: &Module, format: Format) -> Result<Vec<Made>, String> {
    let libcs: &[Libc] = match format {
        Format::Deb => &[Libc::Glibc],
        Format::Ipk => &[Libc::Musl],
        Format::Tar => &Libc::BOTH,
    };
    let mut files = Vec::new();
    for libc in libcs {
        files.push((*libc, build.module(module, *libc)?));
    }
    contents::module(module, build.target, &files, format, build.epoch)
}

/// The modules of this repository that are of use to somebody; the others are for tests.
pub fn own_modules() -> Result<Vec<Module>, String> {
    MODULES.iter().map(|name| build::module(&cargo::root().join("plugins").join(name))).collect()
}

fn write(all: Vec<Made>) -> Result<(), String> {
    let folder = folder();
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for made in all {
        let path = folder.join(&made.file);
        std::fs::write(&path, &made.bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("packed {} ({} bytes)", path.display(), made.bytes.len());
    }
    Ok(())
}

pub fn folder() -> PathBuf {
    cargo::target_folder().join("packages")
}

/// The commit's date, in seconds since 1970: the time of everything that is packed.
pub fn epoch() -> Result<u64, String> {
    if let Some(given) = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()) {
        return Ok(given);
    }
    let log = Command::new("git").current_dir(cargo::root()).args(["log", "-1", "--format=%ct"]).output();
    let text = log.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    text.parse()
        .map_err(|_| "no date of this commit: there is no git repository here; set SOURCE_DATE_EPOCH".to_owned())
}

fn targets(wanted: &[String]) -> Result<Vec<&'static Target>, String> {
    if wanted.is_empty() {
        Ok(target::ALL.iter().collect())
    } else {
        wanted.iter().map(|name| target::of(name)).collect()
    }
}

fn formats(wanted: &[String]) -> Result<Vec<Format>, String> {
    let one = |name: &String| match name.as_str() {
        "deb" => Ok(Format::Deb),
        "ipk" => Ok(Format::Ipk),
        "tar" => Ok(Format::Tar),
        _ => Err(format!("no format {name:?}: there are deb, ipk and tar")),
    };
    if wanted.is_empty() { Ok(vec![Format::Deb, Format::Ipk, Format::Tar]) } else { wanted.iter().map(one).collect() }
}

/// A file of the repository, as text.
fn text_of(path: &str) -> Result<String, String> {
    let path: PathBuf = cargo::root().join(Path::new(path));
    std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

const MODULES: [&str; 4] = ["sysinfo", "filter", "window", "recorder"];
/// Nobody answers there: the project has no address yet.
pub const MAINTAINER: &str = "skerry <maintainers@skerry.invalid>";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
