//! The state folder, the keys in it, and the folders of modules: are they there, whose are they, and who may write.
//! Must never make a folder or open a key.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::report::{Finding, Level, Report};
use crate::app::config::{Config, ImageRef};
use crate::io::disk;
use crate::io::image;
use crate::io::proved::Proved;
use crate::io::signing;
use crate::logic::signature;
use crate::logic::version::is_newer;
use crate::model::image::Image;

/// `running`: a skerry has the folder, so whoever asks need not be able to write there.
pub fn state(report: &mut Report, config: &Config, running: bool) {
    let folder = &config.state_folder;
    report.add(match state_folder(folder) {
        Finding { level: Level::Error, what, .. } if running && !writable(folder) => {
            Finding::skipped("state-folder", format!("{what}; be the user that runs skerry to have it judged"))
        }
        found => found,
    });
    let volatile = config.store.allow_volatile_state;
    report.add(match disk::of(folder) {
        Ok(disk) if !disk::is_memory(&disk) => {
            Finding::success("state-medium", format!("{} on {}", disk.filesystem, disk.name))
        }
        Ok(disk) => {
            let what = format!(
                "{} lies in memory ({}): a power cut loses acknowledged messages",
                folder.display(),
                disk.filesystem
            );
            if volatile {
                Finding::warning(
                    "state-medium",
                    what,
                    "allow_volatile_state says that it is meant; else name a folder on disk",
                )
            } else {
                Finding::error(
                    "state-medium",
                    what,
                    "name a folder on disk, or set allow_volatile_state = true in [store]",
                )
            }
        }
        Err(error) => Finding::skipped("state-medium", format!("can't be told: {error}")),
    });
}

fn state_folder(folder: &Path) -> Finding {
    const ID: &str = "state-folder";
    let shown = folder.display();
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = folder.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
            return if writable(above) {
                Finding::success(ID, format!("{shown} is not there yet, and will be made"))
            } else {
                let what = format!("{shown} is not there and can't be made: {} is not writable", above.display());
                Finding::error(
                    ID,
                    what,
                    "make it, or name another with [state] folder or --state; or be the user that runs skerry",
                )
            };
        }
        Err(error) => return Finding::error(ID, format!("{shown}: {error}"), "be the user that runs skerry"),
    };
    let mode = metadata.mode() & 0o777;
    if !metadata.is_dir() {
        Finding::error(ID, format!("{shown} is no folder"), "move it away, or name another with [state] folder")
    } else if !writable(folder) {
        Finding::error(
            ID,
            format!("{shown} (uid {}, mode {mode:04o}) is not writable", metadata.uid()),
            "be the user that runs skerry",
        )
    } else if mode & 0o022 != 0 {
        let what = format!("{shown} has mode {mode:04o}: others can replace what is in it");
        Finding::error(ID, what, format!("chmod go-w {shown}"))
    } else if mode & 0o044 != 0 {
        let what = format!("{shown} has mode {mode:04o}: others can see what is in it");
        Finding::warning(ID, what, format!("chmod go-r {shown}"))
    } else {
        Finding::success(ID, format!("{shown}, mode {mode:04o}"))
    }
}

fn writable(folder: &Path) -> bool {
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Keys that others can read are refused by the runtime; this says so before it does.
pub fn keys(report: &mut Report, config: &Config) {
    const ID: &str = "key-files";
    let folder = config.state_folder.join("keys");
    let open = |metadata: &Metadata| metadata.mode() & 0o077 != 0;
    let mut bad = Vec::new();
    let inline = config.file.as_deref().filter(|_| config.cloud.inline_keys);
    if let Some(file) = inline.filter(|file| fs::metadata(file).is_ok_and(|m| m.mode() & 0o044 != 0)) {
        let what = format!("{} holds a key and others can read it", file.display());
        bad.push(Finding::warning(ID, what, "chmod 600 it, or use connection_string_file"));
    }
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return report.add_all(bad, Finding::success(ID, "no keys were made yet"));
        }
        Err(error) => {
            let why = format!("{} can't be looked at: {error}; be the user that runs skerry", folder.display());
            return report.add_all(bad, Finding::skipped(ID, why));
        }
    };
    let mut count = 0;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "key"))
    {
        count += 1;
        match fs::metadata(&path) {
            Ok(metadata) if open(&metadata) => {
                let mode = metadata.mode() & 0o7777;
                let what = format!("{} has mode {mode:04o}: it is not used, since others can read it", path.display());
                bad.push(Finding::error(ID, what, "chmod 600 it, and make a new key if it may be known"));
            }
            Ok(_) => {}
            Err(error) => {
                bad.push(Finding::error(ID, format!("{}: {error}", path.display()), "look after the file system"))
            }
        }
    }
    report.add_all(bad, Finding::success(ID, format!("{count} keys, for nobody else to read")));
}

/// Says what is wrong with the folders and files, and returns the instances that would run, with their images.
pub fn modules(report: &mut Report, config: &Config) -> Vec<(String, Image)> {
    let (mut bad_folders, mut bad_files, mut images) = (Vec::new(), Vec::new(), Vec::new());
    let proved = Proved::open(&config.state_folder);
    for folder in &config.modules.folders {
        match files_of(folder) {
            Ok(files) => {
                bad_folders.extend(too_open(folder));
                for file in files {
                    match inspect(&file, config, &proved) {
                        Ok((image, remark)) => {
                            images.push(image);
                            bad_files.extend(remark);
                        }
                        Err(error) => {
                            let what = format!("{}: {error}", file.display());
                            bad_files.push(Finding::warning(
                                "module-images",
                                what,
                                "it does not run: replace or remove it",
                            ));
                        }
                    }
                }
            }
            Err(error) => {
                let what = format!("{}: {error}", folder.display());
                bad_folders.push(Finding::warning("module-folders", what, "make it, or correct [modules] folders"));
            }
        }
    }
    let folders: Vec<String> = config.modules.folders.iter().map(|folder| folder.display().to_string()).collect();
    report.add_all(bad_folders, Finding::success("module-folders", folders.join(", ")));
    let named = config.modules.instances.iter().filter(|(_, instance)| instance.enabled);
    let mut running = Vec::new();
    for (name, instance) in named {
        match newest(&images, &instance.image) {
            Some(image) => running.push((name.clone(), image.clone())),
            None => {
                let what = format!("[modules.{name}]: no image {:?} in the folders", instance.image.name);
                bad_files.push(Finding::warning("module-images", what, "drop it in, or set enabled = false"));
            }
        }
    }
    if config.modules.autostart {
        for image in &images {
            let known =
                config.modules.instances.contains_key(&image.name) || running.iter().any(|(n, _)| *n == image.name);
            let reference = ImageRef { name: image.name.clone(), version: None };
            if let Some(newest) = newest(&images, &reference).filter(|_| !known) {
                running.push((image.name.clone(), newest.clone()));
            }
        }
    }
    let names: Vec<&str> = running.iter().map(|(name, _)| name.as_str()).collect();
    let good = if names.is_empty() { "no module yet".to_owned() } else { names.join(", ") };
    report.add_all(bad_files, Finding::success("module-images", good));
    running
}

/// The image, if it may run, and what is to be said about it all the same.
fn inspect(file: &Path, config: &Config, proved: &Proved) -> Result<(Image, Option<Finding>), String> {
    let image = image::inspect(file).map_err(|e| e.to_string())?;
    let signatures = signing::signatures(file).map_err(|e| format!("its .sig file can't be read: {e}"))?;
    let proved = proved.version(&image.name);
    let pinned = config.modules.asks_for(&image.name, &image.version);
    let remark = signature::admit(&config.images, &image, signatures.as_deref(), proved.as_deref(), pinned)?;
    let remark = remark.map(|remark| {
        let what = format!("{} runs all the same: {remark}", file.display());
        Finding::warning("module-images", what, "sign it, and set signatures = \"require\" in [images]")
    });
    Ok((image, remark))
}

/// Whoever may write there has their code run.
fn too_open(folder: &Path) -> Option<Finding> {
    let mode = fs::metadata(folder).ok()?.mode() & 0o777;
    (mode & 0o002 != 0).then(|| {
        let what = format!("{} has mode {mode:04o}: anybody can have code run here", folder.display());
        Finding::error("module-folders", what, format!("chmod o-w {}", folder.display()))
    })
}

fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "so"));
    files.sort();
    Ok(files)
}

fn newest<'i>(images: &'i [Image], wanted: &ImageRef) -> Option<&'i Image> {
    let named = images.iter().filter(|image| image.name == wanted.name);
    let fits = named.filter(|image| wanted.version.as_ref().is_none_or(|version| *version == image.version));
    fits.reduce(|best, image| if is_newer(&image.version, &best.version) { image } else { best })
}
