//! The same files built once more in another folder give the same packages, byte by byte. Must never compare what was built in one
//! place only, nor with another date.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root::place;
use super::{MODULES, Packages, require};
use crate::cargo;
use crate::package::{Format, contents};

pub fn elsewhere(packages: &Packages) -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("elsewhere-").tempdir_in(place()?).map_err(|e| e.to_string())?;
    copy_source(folder.path())?;
    // The linker is no part of what is compared, and takes long to fetch.
    let tools = folder.path().join("target");
    fs::create_dir_all(&tools).map_err(|e| e.to_string())?;
    std::os::unix::fs::symlink(cargo::target_folder().join("tools"), tools.join("tools")).map_err(|e| e.to_string())?;
    let mut command = cargo::cargo();
    command.current_dir(folder.path()).env_remove("CARGO_TARGET_DIR");
    command.args(["run", "--quiet", "--package", "xtask", "--", "package", "--target", packages.built.target.name]);
    command.env("SOURCE_DATE_EPOCH", packages.epoch.to_string());
    let status = command.status().map_err(|e| format!("can't run cargo: {e}"))?;
    require(status.success(), || format!("the build in another folder failed: {status}"))?;
    let made = folder.path().join("target/packages");
    for format in [Format::Deb, Format::Ipk, Format::Tar] {
        let mut here = contents::skerry(&packages.built, format, packages.epoch)?;
        for module in MODULES.into_iter().filter(|_| format != Format::Tar) {
            here.push(packages.module(module, format)?);
        }
        for one in here {
            let path = made.join(&one.file);
            let there = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let differs = one.bytes.iter().zip(&there).position(|(a, b)| a != b);
            require(one.bytes == there, || {
                format!("{}: built in two folders, it differs from byte {differs:?} on", one.file)
            })?;
            println!("{}: {} bytes, the same from two folders", one.file, there.len());
        }
    }
    Ok(())
}

/// What git knows or would: not what was built.
fn copy_source(to: &Path) -> Result<(), String> {
    let mut list = Command::new("git");
    list.current_dir(cargo::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = list.output().map_err(|e| format!("git: {e}"))?;
    require(output.status.success(), || "there is no git repository here".to_owned())?;
    for name in String::from_utf8_lossy(&output.stdout).split('\0').filter(|name| !name.is_empty()) {
        let (from, to): (PathBuf, PathBuf) = (cargo::root().join(name), to.join(name));
        // One that was removed and is still known.
        if from.is_file() {
            let failed = |e: std::io::Error| format!("{}: {e}", from.display());
            to.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
            fs::copy(&from, &to).map_err(failed)?;
        }
    }
    Ok(())
}
