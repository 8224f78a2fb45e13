//! Writes a Debian package: an `ar` of `debian-binary`, `control.tar.gz` and `data.tar.gz`.
//! Must never need Debian's tools.

use std::fmt::Write;

use super::Made;
use super::tree::{Tree, gzip};

/// What a package says of itself, for both kinds.
#[derive(Clone, Debug)]
pub struct Control {
    pub name: String,
    pub version: String,
    pub depends: Vec<String>,
    /// One line, then more below it.
    pub description: (String, String),
    pub section: &'static str,
    /// Absolute paths that an upgrade leaves as the operator has them.
    pub conffiles: Vec<&'static str>,
    /// `postinst`, `prerm`, `postrm`, with their text.
    pub scripts: Vec<(&'static str, String)>,
}

pub fn make(control: &Control, tree: &Tree, architecture: &str, epoch: u64) -> Result<Made, String> {
    let mut meta = Tree::default();
    meta.file("control", 0o644, text(control, tree, architecture));
    if !control.conffiles.is_empty() {
        meta.file("conffiles", 0o644, control.conffiles.iter().map(|path| format!("{path}\n")).collect::<String>());
    }
    meta.file("md5sums", 0o644, md5sums(control, tree));
    for (name, script) in &control.scripts {
        meta.file(name, 0o755, script.as_str());
    }
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&meta.tar("./", epoch)?)?),
        ("data.tar.gz", gzip(&tree.tar("./", epoch)?)?),
    ];
    let mut ar = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(epoch);
        ar.append(&header, &bytes[..]).map_err(|e| e.to_string())?;
    }
    let bytes = ar.into_inner().map_err(|e| e.to_string())?;
    Ok(Made { file: format!("{}_{}_{architecture}.deb", control.name, control.version), bytes })
}

fn text(control: &Control, tree: &Tree, architecture: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Package: {}\nVersion: {}\nArchitecture: {architecture}", control.name, control.version);
    let _ = writeln!(text, "Maintainer: {}\nInstalled-Size: {}", super::MAINTAINER, tree.bytes().div_ceil(1024));
    if !control.depends.is_empty() {
        let _ = writeln!(text, "Depends: {}", control.depends.join(", "));
    }
    let _ = writeln!(text, "Section: {}\nPriority: optional\nDescription: {}", control.section, control.description.0);
    for line in control.description.1.lines() {
        let _ = writeln!(text, " {line}");
    }
    text
}

/// `dpkg --verify` compares with these. A conffile may differ, and is known by another way.
fn md5sums(control: &Control, tree: &Tree) -> String {
    let kept = |path: &str| control.conffiles.iter().any(|conffile| conffile.trim_start_matches('/') == path);
    let files = tree.entries().filter_map(|(path, entry)| Some((path, entry.bytes.as_ref()?)));
    files.filter(|(path, _)| !kept(path)).map(|(path, bytes)| format!("{:x}  {path}\n", md5::compute(bytes))).collect()
}
