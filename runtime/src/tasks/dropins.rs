//! The drop-in folders, and single files that are named by their path: which images there are.
//! Must never take a file that is not whole: it leaves its former image in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use super::world::World;
use crate::logic::version;
use crate::model::config::ImageRef;
use crate::model::image::Image;

/// What was seen of a file; the same again is not read again.
struct Seen {
    stamp: (u64, u64, Option<SystemTime>),
    image: Option<Rc<Image>>,
    /// Why it is none.
    fault: Option<String>,
}

#[derive(Default)]
pub struct DropIns {
    files: BTreeMap<PathBuf, Seen>,
    /// Named by `file:` in a manifest.
    single: BTreeMap<PathBuf, Seen>,
}

impl DropIns {
    /// Reads what is new in the folders.
    pub fn look(&mut self, world: &World) {
        let mut found = Vec::new();
        for folder in &world.config.modules.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let paths = entries.flatten().map(|entry| entry.path());
            found.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "so")));
        }
        self.files.retain(|path, _| found.contains(path));
        for path in &found {
            read(world, &mut self.files, path);
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

    pub fn file(&mut self, world: &World, path: &Path) -> Result<Rc<Image>, String> {
        let seen = read(world, &mut self.single, path);
        match seen.map(|seen| (&seen.image, &seen.fault)) {
            Some((Some(image), _)) => Ok(Rc::clone(image)),
            Some((None, Some(fault))) => Err(format!("{}: {fault}", path.display())),
            _ => Err(format!("{}: there is no such file", path.display())),
        }
    }

    /// Files that nobody names any more.
    pub fn forget(&mut self, named: &[PathBuf]) {
        self.single.retain(|path, _| named.contains(path));
    }
}

fn read<'a>(world: &World, files: &'a mut BTreeMap<PathBuf, Seen>, path: &Path) -> Option<&'a Seen> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    let stamp = (metadata.ino(), metadata.len(), metadata.modified().ok());
    let before = files.get(path);
    if before.is_some_and(|seen| seen.stamp == stamp) {
        return files.get(path);
    }
    let (image, fault) = match world.images.put(path) {
        Ok(image) => (Some(Rc::new(image)), None),
        Err(error) => {
            let reason = error.to_string();
            if before.and_then(|seen| seen.fault.as_ref()) != Some(&reason) {
                log::warn!("image={} refused: {reason}", path.display());
            }
            (before.and_then(|seen| seen.image.clone()), Some(reason))
        }
    };
    files.insert(path.to_owned(), Seen { stamp, image, fault });
    files.get(path)
}
