//! What distributions' own tools say of the packages: lintian of the .deb, systemd of the unit. Must never pass over a complaint that
//! is not stated, with its reason, in `packaging/deb/lintian-overrides`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Packages, require};
use crate::debian;
use crate::package::{Format, VERSION, contents};

pub fn scripts(packages: &Packages) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut debs = vec![contents::skerry_deb(&packages.built, packages.epoch, VERSION)?];
    debs.push(packages.module("sysinfo", Format::Deb)?);
    let mut paths = Vec::new();
    for made in &debs {
        let path = folder.path().join(&made.file);
        fs::write(&path, &made.bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        paths.push(path);
    }
    needs("lintian")?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]).args(&paths);
    said("lintian", &mut lintian)?;
    let overrides = fs::read_to_string(crate::cargo::root().join("packaging/deb/lintian-overrides"));
    let stated = overrides.unwrap_or_default().lines().filter(|line| !line.starts_with('#')).count();
    println!("lintian: no error and no warning but for {stated} stated overrides");

    let root = folder.path().join("root");
    let mut unpack = Command::new("dpkg-deb");
    said("dpkg-deb", unpack.arg("-x").arg(&paths[0]).arg(&root))?;
    units(&root.join("lib/systemd/system"))?;
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").arg(format!("--root={}", root.display())).arg("skerry.service");
    let complaints = said("systemd-analyze verify", &mut verify)?;
    require(complaints.is_empty(), || format!("systemd-analyze verify: {complaints}"))?;
    println!("systemd: nothing to say against skerry.service");
    Ok(())
}

/// The targets that the unit names are systemd's own.
fn units(to: &Path) -> Result<(), String> {
    let from = Path::new("/lib/systemd/system");
    if !from.join("basic.target").exists() {
        debian::install(&["systemd"]);
    }
    for entry in fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?.flatten() {
        if entry.path().extension().is_some_and(|kind| kind == "target") {
            let to = to.join(entry.file_name());
            fs::copy(entry.path(), &to).map_err(|e| format!("{}: {e}", to.display()))?;
        }
    }
    Ok(())
}

fn needs(program: &str) -> Result<(), String> {
    let there = || Command::new(program).arg("--version").output().is_ok();
    if !there() {
        debian::install(&[program]);
    }
    require(there(), || format!("missing; install with: apt-get install {program}"))
}

/// What it complained of; the error is that as well.
fn said(name: &str, command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr)).trim().to_owned();
    require(output.status.success(), || format!("{name}: {}: {said}", output.status))?;
    Ok(said)
}
