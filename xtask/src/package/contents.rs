//! What lies where in each package of the program and of a module. Must never hold what an author or operator writes: that comes from
//! `packaging/`.

use super::build::Module;
use super::deb::{self, Control};
use super::ipk;
use super::target::{Libc, Target};
use super::tree::{Tree, gzip};
use super::{Built, Format, Made, VERSION, text_of};
use std::path::PathBuf;

/// The program's packages: one file, or one for each of OpenWrt's names.
pub fn skerry(built: &Built, format: Format, epoch: u64) -> Result<Vec<Made>, String> {
    match format {
        Format::Deb => Ok(vec![skerry_deb(built, epoch, VERSION)?]),
        Format::Ipk => ipk::make(&openwrt_control()?, &openwrt(built)?, built.target.ipk, epoch),
        Format::Tar => Ok(vec![archive(built, epoch)?]),
    }
}

/// Of a given version, since a test upgrades to a later one.
pub fn skerry_deb(built: &Built, epoch: u64, version: &str) -> Result<Made, String> {
    let mut tree = Tree::default();
    tree.copy("usr/bin/skerry", 0o755, &built.skerry)?;
    tree.copy("usr/lib/skerry/skerry-host-glibc", 0o755, &built.glibc_host)?;
    // Debian has a package of musl, too.
    tree.copy("usr/lib/skerry/skerry-host-musl", 0o755, &built.musl_host)?;
    tree.folder("usr/lib/skerry/modules", 0o755);
    tree.file("etc/skerry/config.toml", 0o640, text_of("packaging/config.toml")?);
    tree.file("lib/systemd/system/skerry.service", 0o644, text_of("packaging/systemd/skerry.service")?);
    tree.file("usr/share/man/man8/skerry.8.gz", 0o644, gzip(text_of("packaging/skerry.8")?.as_bytes())?);
    tree.file("usr/share/lintian/overrides/skerry", 0o644, text_of("packaging/deb/lintian-overrides")?);
    documents(&mut tree, "skerry", version, epoch)?;
    let control = Control {
        name: "skerry".to_owned(),
        version: version.to_owned(),
        depends: vec!["adduser".to_owned(), "ca-certificates".to_owned(), GLIBC.to_owned()],
        description: description(),
        section: "net",
        conffiles: vec!["/etc/skerry/config.toml"],
        scripts: scripts("deb", &["postinst", "postrm", "prerm"])?,
    };
    deb::make(&control, &tree, built.target.deb, epoch)
}

fn openwrt(built: &Built) -> Result<Tree, String> {
    let mut tree = Tree::default();
    tree.copy("usr/bin/skerry", 0o755, &built.skerry)?;
    // No OpenWrt has a glibc.
    tree.copy("usr/lib/skerry/skerry-host-musl", 0o755, &built.musl_host)?;
    tree.folder("usr/lib/skerry/modules", 0o755);
    tree.file("etc/skerry/config.toml", 0o600, text_of("packaging/config.toml")?);
    tree.file("etc/init.d/skerry", 0o755, text_of("packaging/procd/skerry")?);
    tree.file("lib/upgrade/keep.d/skerry", 0o644, text_of("packaging/ipk/keep")?);
    Ok(tree)
}

fn openwrt_control() -> Result<Control, String> {
    Ok(Control {
        name: "skerry".to_owned(),
        version: format!("{VERSION}-r1"),
        depends: vec!["ca-bundle".to_owned()],
        description: description(),
        section: "net",
        conffiles: vec!["/etc/skerry/config.toml"],
        scripts: scripts("ipk", &["postinst", "prerm"])?,
    })
}

/// For any init.
fn archive(built: &Built, epoch: u64) -> Result<Made, String> {
    let mut tree = Tree::default();
    tree.copy("skerry", 0o755, &built.lone)?;
    for (name, mode, from) in [
        ("install.sh", 0o755, "packaging/tar/install.sh"),
        ("config.toml", 0o644, "packaging/config.toml"),
        ("skerry.service", 0o644, "packaging/systemd/skerry.service"),
        ("procd/skerry", 0o755, "packaging/procd/skerry"),
        ("keep", 0o644, "packaging/ipk/keep"),
        ("skerry.8", 0o644, "packaging/skerry.8"),
        ("README.md", 0o644, "README.md"),
        ("LICENSE-MIT", 0o644, "LICENSE-MIT"),
        ("LICENSE-APACHE", 0o644, "LICENSE-APACHE"),
    ] {
        tree.file(name, mode, text_of(from)?);
    }
    let name = format!("skerry-{VERSION}-{}", built.target.name);
    Ok(Made { bytes: gzip(&tree.tar(&format!("{name}/"), epoch)?)?, file: format!("{name}.tar.gz") })
}

/// A module is a package that drops one file into the folder.
pub fn module(
    module: &Module,
    target: &Target,
    files: &[(Libc, PathBuf)],
    format: Format,
    epoch: u64,
) -> Result<Vec<Made>, String> {
    let package = format!("skerry-module-{}", debian_word(&module.name));
    let mut tree = Tree::default();
    for (libc, file) in files {
        let folder = if format == Format::Tar { libc.name() } else { "usr/lib/skerry/modules" };
        tree.copy(&format!("{folder}/{}.so", module.name), 0o644, file)?;
    }
    let more = "It runs in skerry as a process of its own, with an identity, a twin, inputs\nand outputs.".to_owned();
    let mut control = Control {
        name: package.clone(),
        version: module.version.clone(),
        depends: vec!["skerry".to_owned()],
        description: (module.description.clone(), more),
        section: "net",
        conffiles: Vec::new(),
        scripts: Vec::new(),
    };
    match format {
        Format::Deb => {
            control.depends.push(GLIBC.to_owned());
            documents(&mut tree, &package, &module.version, epoch)?;
            Ok(vec![deb::make(&control, &tree, target.deb, epoch)?])
        }
        Format::Ipk => {
            control.version.push_str("-r1");
            ipk::make(&control, &tree, target.ipk, epoch)
        }
        Format::Tar => {
            let name = format!("{package}-{}-{}", module.version, target.name);
            Ok(vec![Made { bytes: gzip(&tree.tar(&format!("{name}/"), epoch)?)?, file: format!("{name}.tar.gz") }])
        }
    }
}

/// What Debian wants of every package: its licence, and what changed.
fn documents(tree: &mut Tree, package: &str, version: &str, epoch: u64) -> Result<(), String> {
    let folder = format!("usr/share/doc/{package}");
    tree.file(&format!("{folder}/copyright"), 0o644, text_of("packaging/deb/copyright")?);
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch));
    let date = date.replace("GMT", "+0000");
    let text = format!(
        "{package} ({version}) unstable; urgency=medium\n\n  * As CHANGELOG.md of the source tells.\n\n -- {}  {date}\n",
        super::MAINTAINER
    );
    tree.file(&format!("{folder}/changelog.gz"), 0o644, gzip(text.as_bytes())?);
    Ok(())
}

fn description() -> (String, String) {
    let more = "Modules are shared libraries that are dropped into a folder. Each runs as a\n\
                process of its own, with an identity, a twin, inputs and outputs. A hub\n\
                routes messages between them and to an Azure IoT hub by IoT Edge's own route\n\
                language, and keeps on disk what can't be delivered yet.";
    ("runs IoT Edge style modules, and keeps their messages safe".to_owned(), more.to_owned())
}

fn scripts(folder: &str, names: &[&'static str]) -> Result<Vec<(&'static str, String)>, String> {
    names.iter().map(|name| Ok((*name, text_of(&format!("packaging/{folder}/{name}"))?))).collect()
}

/// A package's name has no underscore and no capital letter.
fn debian_word(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// What every host and module for glibc is linked for; judged in `elf`.
const GLIBC: &str = "libc6 (>= 2.17)";
