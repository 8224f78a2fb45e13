//! The drop-in folders, and single files that are named by their path: which images there are.
//! Must never take a file that is not whole: it leaves its former image in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use super::world::World;
use crate::io::images::{Images, StoreError};
use crate::io::signing;
use crate::logic::{signature, version};
use crate::model::config::{ImageRef, ImagesConfig};
use crate::model::image::Image;
use crate::model::manifest::ModuleSpec;
use crate::model::reference::Reference;

/// Inode, bytes, and when it changed.
type Stamp = (u64, u64, Option<SystemTime>);

/// What was seen of a file; the same again is not read again.
struct Seen {
    stamp: Stamp,
    /// Of its `.sig` file, where there is one.
    signed: Option<Stamp>,
    image: Option<Rc<Image>>,
    /// Why it is none.
    fault: Option<String>,
}

#[derive(Default)]
pub struct DropIns {
    files: BTreeMap<PathBuf, Seen>,
    /// Named by `file:` in a manifest.
    single: BTreeMap<PathBuf, Seen>,
    /// What is asked for by its version, as (name, version): leave to go back to it.
    pinned: BTreeSet<(String, String)>,
}

impl DropIns {
    /// Reads what is new in the folders.
    pub async fn look(&mut self, world: &World) {
        self.look_for_pins(world);
        let mut found = Vec::new();
        for folder in &world.config.modules.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let paths = entries.flatten().map(|entry| entry.path());
            found.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "so")));
        }
        self.files.retain(|path, _| found.contains(path));
        for path in &found {
            read(world, &self.pinned, &mut self.files, path).await;
        }
        let faults =
            self.files.iter().filter_map(|(path, seen)| Some((path.display().to_string(), seen.fault.clone()?)));
        *world.board.rejected.borrow_mut() = faults.collect();
    }

    pub fn images(&self) -> impl Iterator<Item = &Rc<Image>> {
        self.files.values().filter_map(|seen| seen.image.as_ref())
    }

    /// Everything that is named by somebody.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let single = self.single.values().filter_map(|seen| seen.image.as_ref());
        self.images().chain(single).map(|image| image.digest.as_str())
    }

    /// The newest of that name, or the one of that version.
    pub fn named(&self, wanted: &ImageRef) -> Result<Rc<Image>, String> {
        let fitting =
            self.images().filter(|i| i.name == wanted.name && wanted.version.as_ref().is_none_or(|v| *v == i.version));
        let newest = fitting.reduce(|a, b| if version::is_newer(&b.version, &a.version) { b } else { a }).cloned();
        newest.ok_or_else(|| {
            let version = wanted.version.as_ref().map_or(String::new(), |v| format!(" of version {v}"));
            format!("no file in the drop-in folders is a module named {:?}{version}", wanted.name)
        })
    }

    /// Reads what is new of these files.
    pub async fn look_at(&mut self, world: &World, files: &[PathBuf]) {
        for path in files {
            read(world, &self.pinned, &mut self.single, path).await;
        }
    }

    /// One that was looked at.
    pub fn file(&self, path: &Path) -> Result<Rc<Image>, String> {
        let seen = self.single.get(path).filter(|_| path.exists());
        match seen.map(|seen| (&seen.image, &seen.fault)) {
            Some((Some(image), _)) => Ok(Rc::clone(image)),
            Some((None, Some(fault))) => Err(format!("{}: {fault}", path.display())),
            _ => Err(format!("{}: there is no such file", path.display())),
        }
    }

    /// Who was refused is asked again when other versions are asked for.
    fn look_for_pins(&mut self, world: &World) {
        let pinned = pinned(world);
        if pinned == self.pinned {
            return;
        }
        self.pinned = pinned;
        for seen in self.files.values_mut().chain(self.single.values_mut()).filter(|seen| seen.fault.is_some()) {
            seen.stamp = Stamp::default();
        }
    }

    /// Files that nobody names any more.
    pub fn forget(&mut self, named: &[PathBuf]) {
        self.single.retain(|path, _| named.contains(path));
    }
}

/// On another thread: a file may be large, its disk slow, and everybody's messages pass through this one.
async fn read(world: &World, pinned: &BTreeSet<(String, String)>, files: &mut BTreeMap<PathBuf, Seen>, path: &Path) {
    let Some(stamp) = stamp_of(path) else { return };
    let signed = stamp_of(&signing::signatures_path(path));
    let before = files.get(path);
    // Who was let in is not asked again; who was refused may have got a signature.
    if before.is_some_and(|seen| seen.stamp == stamp && (seen.signed == signed || seen.fault.is_none())) {
        return;
    }
    let judge = Judge {
        images: world.images.clone(),
        policy: world.config.images.clone(),
        proved: world.proved.versions(),
        pinned: pinned.clone(),
        remark: None,
    };
    let owned = path.to_owned();
    let (put, remark) = smol::unblock(move || judge.put(&owned)).await;
    if let Some(remark) = remark {
        world.board.warn(format!("{} may run all the same: {remark}", path.display()));
    }
    let (image, fault) = match put {
        Ok(image) => (Some(Rc::new(image)), None),
        Err(error) => {
            let reason = error.to_string();
            if before.and_then(|seen| seen.fault.as_ref()) != Some(&reason) {
                log::warn!("image={} refused: {reason}", path.display());
            }
            (before.and_then(|seen| seen.image.clone()), Some(reason))
        }
    };
    files.insert(path.to_owned(), Seen { stamp, signed, image, fault });
}

/// All that a file is judged by.
struct Judge {
    images: Images,
    policy: ImagesConfig,
    proved: BTreeMap<String, String>,
    pinned: BTreeSet<(String, String)>,
    /// What is to be said of one that may run.
    remark: Option<String>,
}

impl Judge {
    fn put(mut self, path: &Path) -> (Result<Image, StoreError>, Option<String>) {
        let images = self.images.clone();
        let put = images.put(path, |image| self.admit(path, image));
        (put, self.remark)
    }

    /// The signatures of an image at `path` that may run here: one who is trusted signed it, and it does not go back.
    fn admit(&mut self, path: &Path, image: &Image) -> Result<Option<String>, String> {
        let signatures = signing::signatures(path).map_err(|e| format!("its .sig file can't be read: {e}"))?;
        let proved = self.proved.get(&image.name).map(String::as_str);
        let pinned = self.pinned.contains(&(image.name.clone(), image.version.clone()));
        self.remark = signature::admit(&self.policy, image, signatures.as_deref(), proved, pinned)?;
        Ok(signatures)
    }
}

/// Single files that are named as images.
pub fn files_of<'s>(asked: impl Iterator<Item = &'s ModuleSpec>) -> Vec<PathBuf> {
    let file = |spec: &ModuleSpec| match &spec.image {
        Reference::File(path) => Some(path.clone()),
        _ => None,
    };
    asked.filter_map(file).collect()
}

/// By the configuration, or by the manifest in force.
fn pinned(world: &World) -> BTreeSet<(String, String)> {
    let deployment = world.board.deployment.borrow();
    let asked = deployment.manifest().into_iter().flat_map(|manifest| manifest.modules.values());
    let asked = asked.filter_map(|spec| match &spec.image {
        Reference::Named(named) => Some(named),
        _ => None,
    });
    let typed = world.config.modules.instances.values().filter(|instance| instance.enabled);
    let all = asked.chain(typed.map(|instance| &instance.image));
    all.filter_map(|named| Some((named.name.clone(), named.version.clone()?))).collect()
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}
