//! What lies on the disk: configuration, manifest, logs in files, crash reports, and the names of all files.
//! Must never read a key but to know what must not be shown, nor a message: it is somebody's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Bundle;
use crate::app::config::Config;
use crate::io::{log_files, store};
use crate::logic::hub::QueueRow;
use crate::model::time::Wall;
use crate::tasks::deployment;

/// Lines of the listing.
const LISTED_MAX: usize = 5_000;
/// Folders below the state folder.
const DEPTH_MAX: usize = 4;
/// Of a file that is put in. The runtime's own have lower limits.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Also one that the runtime would refuse: that may be the fault which is looked for.
pub fn configuration(bundle: &mut Bundle, config: &Config, file: &Path) -> io::Result<()> {
    match read(file) {
        Ok(text) => bundle.toml("config.toml", &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bundle.missing("config.toml", format!("there is no {}: all is as by default", file.display()));
        }
        Err(error) => bundle.missing("config.toml", format!("{}: {error}", file.display())),
    }
    let name = "deployment-file.json";
    match read(&config.manifest) {
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(json) => bundle.json(name, &json),
            Err(error) => {
                bundle.missing(name, format!("{}: not JSON: {error}", config.manifest.display()));
                Ok(())
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            bundle.missing(name, format!("{}: {error}", config.manifest.display()));
            Ok(())
        }
    }
}

/// What the index of the store knows of a skerry that does not run: twins, ledger, and the manifest that was in force.
pub fn stored(bundle: &mut Bundle, config: &Config) -> io::Result<()> {
    let found = match store::peek(&config.store.path) {
        Ok(found) => found,
        Err(why) => {
            ["ledger.json", "twins/", "deployment.json"].iter().for_each(|name| bundle.missing(name, &why));
            return Ok(());
        }
    };
    for (name, bytes) in &found.documents {
        let name = match name.split_once('/') {
            Some(("twin", module)) => format!("twins/{module}.json"),
            Some((kind, module)) => format!("stored/{kind}/{module}.json"),
            None if name == deployment::DOCUMENT => "deployment.json".to_owned(),
            None => format!("stored/{name}.json"),
        };
        match serde_json::from_slice::<Value>(bytes) {
            Ok(json) => bundle.json(&name, &json)?,
            Err(error) => bundle.missing(&name, format!("not JSON: {error}")),
        }
    }
    let queue = |row: &QueueRow| {
        let QueueRow { endpoint, priority, ledger, .. } = row;
        json!({"endpoint": endpoint.to_string(), "priority": priority, "accepted": ledger.accepted(), "delivered": ledger.delivered,
            "expired": ledger.expired, "evicted": ledger.evicted, "deadLettered": ledger.dead_lettered, "removed": ledger.removed,
            "pending": ledger.pending, "stored": ledger.stored, "refused": ledger.refused})
    };
    let queues: Vec<Value> = found.queues.iter().map(queue).collect();
    let source = "the index of the store, since skerry does not run; after a crash it may be behind the log";
    bundle.json("ledger.json", &json!({"source": source, "queues": queues}))
}

/// Of modules, where they are kept on disk. What is in memory only, only the runtime has.
pub fn logs(bundle: &mut Bundle, state: &Path) -> io::Result<()> {
    let mut files = match log_files::all(&state.join("logs")) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bundle.missing("logs/", "skerry does not run, and its modules' logs were in memory only");
            return Ok(());
        }
        Err(error) => {
            bundle.missing("logs/", error);
            return Ok(());
        }
    };
    files.sort();
    for (path, _, _) in files {
        one(bundle, &format!("logs/{}", last_part(&path)), &path)?;
    }
    Ok(())
}

pub fn crashes(bundle: &mut Bundle, state: &Path) -> io::Result<()> {
    for folder in sorted(bundle, &state.join("crashes"), "crashes/") {
        for path in sorted(bundle, &folder, "crashes/") {
            one(bundle, &format!("crashes/{}/{}", last_part(&folder), last_part(&path)), &path)?;
        }
    }
    Ok(())
}

/// Names, sizes and rights: what is too large, too old or not readable shows itself.
pub fn listing(bundle: &mut Bundle, state: &Path) -> io::Result<()> {
    let mut lines = Vec::new();
    if let Err(error) = list(state, 0, &mut lines) {
        bundle.missing("files.txt", format!("{}: {error}", state.display()));
        return Ok(());
    }
    bundle.text("files.txt", &format!("{}\n", lines.join("\n")))
}

/// The contents of the key files that can be read: what must not be seen.
pub fn keys(state: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(state.join("keys")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read(entry.path()).ok()).filter(|key| !key.is_empty()).collect()
}

fn one(bundle: &mut Bundle, name: &str, path: &Path) -> io::Result<()> {
    match read(path) {
        Ok(text) => bundle.text(name, &text),
        Err(error) => {
            bundle.missing(name, error);
            Ok(())
        }
    }
}

/// The end of it, where it is longer than it should be.
fn read(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FILE_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is in a folder. One that is not there is empty.
fn sorted(bundle: &mut Bundle, folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                bundle.missing(name, format!("{}: {error}", folder.display()));
            }
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn list(folder: &Path, depth: usize, lines: &mut Vec<String>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if lines.len() >= LISTED_MAX {
            return Ok(());
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let at = Wall(metadata.mtime().saturating_mul(1_000)).to_rfc3339();
        let (mode, uid, bytes) = (metadata.mode() & 0o7777, metadata.uid(), metadata.len());
        lines.push(format!("{mode:04o} {uid:>10} {bytes:>12} {at} {}", entry.path().display()));
        // A module's own folder is its own; what else can't be read is left out.
        if metadata.is_dir() && depth < DEPTH_MAX {
            let _ = list(&entry.path(), depth + 1, lines);
        }
    }
    Ok(())
}

fn last_part(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
