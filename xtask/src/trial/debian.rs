//! The .deb on a Debian: installed by dpkg, run, upgraded, removed and purged.
//! Must never start what is not installed there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::root::Root;
use super::{CONFIG, Packages, require};
use crate::package::{Format, VERSION, contents};

/// Of messages that are sent while something is done.
const FIRST_SEQ: u64 = 1_000;

/// Install, run, upgrade with messages waiting and coming, remove, purge.
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

    let upgrade = contents::skerry_deb(&packages.built, packages.epoch, &format!("{VERSION}+1"))?;
    let mut safe = while_sending(&root, FIRST_SEQ, |root| root.install(&upgrade))?;
    let kept = fs::read_to_string(root.at("etc/skerry/config.toml")).unwrap_or_default();
    require(kept == CONFIG, || "the upgrade changed the operator's configuration".to_owned())?;
    root.skerry(&["status"]).map_err(|e| format!("the upgrade ended the running skerry: {e}"))?;
    // What the maintainer script does where systemd runs.
    root.stop()?;
    root.start(&[])?;
    let next = safe.last().map_or(FIRST_SEQ, |seq| seq + 1);
    let recorder = packages.module("recorder", Format::Deb)?;
    safe.extend(while_sending(&root, next, |root| root.install(&recorder))?);
    root.recorded("var/lib/skerry", "tester - 7")?;
    for seq in &safe {
        root.recorded("var/lib/skerry", &format!("tester - {seq}"))?;
    }
    root.recorded("var/lib/skerry", "sysinfo ")?;
    println!(
        "debian: upgraded; the message that waited has arrived, so have all {} that were acknowledged meanwhile, and what sysinfo measures",
        safe.len()
    );

    lone(&mut root, packages)?;

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

/// Messages to a module that is not there yet, one after the other for as long as something is done: those that were acknowledged, and at
/// least one.
fn while_sending(root: &Root, first: u64, act: impl FnOnce(&Root) -> Result<(), String>) -> Result<Vec<u64>, String> {
    let is_done = AtomicBool::new(false);
    let (acted, safe) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut safe = Vec::new();
            let mut seq = first;
            while safe.is_empty() || !is_done.load(Ordering::Acquire) {
                let property = format!("seq={seq}");
                root.skerry(&["send", "tester", "out", "--body", "1", "--property", &property])?;
                safe.push(seq);
                seq += 1;
            }
            Ok::<_, String>(safe)
        });
        let acted = act(root);
        is_done.store(true, Ordering::Release);
        (acted, sender.join())
    });
    acted?;
    safe.map_err(|_| "the sender panicked".to_owned())?
}

/// A package's program knows its host only as a file; the one that is copied alone carries it.
fn lone(root: &mut Root, packages: &Packages) -> Result<(), String> {
    root.stop()?;
    fs::remove_file(root.at("usr/lib/skerry/skerry-host-glibc")).map_err(|e| e.to_string())?;
    root.start(&[])?;
    root.until("a sentence that names the missing host", |root| {
        root.skerry(&["list", "--json"]).ok()?.contains("skerry-host-glibc is missing").then_some(())
    })?;
    root.stop()?;
    println!("debian: without the package's host its modules are refused by a sentence that names it");
    // Whole or not at all, as one copies over a program.
    fs::copy(&packages.built.lone, root.at("usr/bin/skerry.new")).map_err(|e| e.to_string())?;
    fs::rename(root.at("usr/bin/skerry.new"), root.at("usr/bin/skerry")).map_err(|e| e.to_string())?;
    root.start(&[])?;
    root.running_by("sysinfo", "/memfd:skerry-host-glibc")?;
    root.stop()?;
    println!("debian: the lone binary runs its host from memory");
    Ok(())
}
