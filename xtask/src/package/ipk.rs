//! Writes an OpenWrt package, for opkg (up to 24.10): a gzipped tar of `debian-binary`, `data.tar.gz` and `control.tar.gz`, in
//! that order. Must never need OpenWrt's tools.

use std::fmt::Write;

use super::Made;
use super::deb::Control;
use super::tree::{Tree, gzip, gzip_smallest};

/// One for each name of an architecture, which differ in that name only.
pub fn make(control: &Control, tree: &Tree, architectures: &[&str], epoch: u64) -> Result<Vec<Made>, String> {
    let files = gzip_smallest(&tree.tar("./", epoch)?)?;
    architectures.iter().map(|architecture| one(control, tree, &files, architecture, epoch)).collect()
}

fn one(control: &Control, tree: &Tree, files: &[u8], architecture: &str, epoch: u64) -> Result<Made, String> {
    let mut meta = Tree::default();
    meta.file("control", 0o644, text(control, tree, architecture));
    if !control.conffiles.is_empty() {
        meta.file("conffiles", 0o644, control.conffiles.iter().map(|path| format!("{path}\n")).collect::<String>());
    }
    for (name, script) in &control.scripts {
        meta.file(name, 0o755, script.as_str());
    }
    let meta = gzip(&meta.tar("./", epoch)?)?;
    let mut outer = tar::Builder::new(Vec::new());
    for (name, bytes) in [("./debian-binary", &b"2.0\n"[..]), ("./data.tar.gz", files), ("./control.tar.gz", &meta)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(epoch);
        header.set_uid(0);
        header.set_gid(0);
        let gnu = header.as_gnu_mut().ok_or("no GNU header")?;
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        outer.append(&header, bytes).map_err(|e| e.to_string())?;
    }
    let bytes = gzip(&outer.into_inner().map_err(|e| e.to_string())?)?;
    Ok(Made { file: format!("{}_{}_{architecture}.ipk", control.name, control.version), bytes })
}

fn text(control: &Control, tree: &Tree, architecture: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Package: {}\nVersion: {}", control.name, control.version);
    if !control.depends.is_empty() {
        let _ = writeln!(text, "Depends: {}", control.depends.join(", "));
    }
    let _ =
        writeln!(text, "Section: {}\nArchitecture: {architecture}\nInstalled-Size: {}", control.section, tree.bytes());
    let _ = writeln!(text, "Maintainer: {}\nLicense: Apache-2.0 OR MIT", super::MAINTAINER);
    let _ = writeln!(text, "Description: {}", control.description.0);
    for line in control.description.1.lines() {
        let _ = writeln!(text, " {line}");
    }
    text
}
