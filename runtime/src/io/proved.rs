//! The newest version of each image that ran well on this device: `STATE/images/proved.json`. What goes back behind it is
//! a roll-back. Must never be needed to run anything.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By the image's name.
pub struct Proved {
    folder: PathBuf,
    versions: Mutex<BTreeMap<String, String>>,
    /// One writes at a time.
    writing: Mutex<()>,
}

const NAME: &str = "proved.json";

impl Proved {
    /// Of a state folder, whose image store is open. A file that can't be read is said, and begun anew.
    pub fn open(state: &Path) -> Proved {
        let folder = state.join("images");
        let versions = read(&folder).unwrap_or_else(|error| {
            log::warn!("{}: {error}; which versions ran well here is not known any more", folder.join(NAME).display());
            BTreeMap::new()
        });
        Proved { folder, versions: Mutex::new(versions), writing: Mutex::default() }
    }

    pub fn version(&self, image: &str) -> Option<String> {
        lock(&self.versions).get(image).cloned()
    }

    /// A copy of all, by the image's name: for a thread that judges images.
    pub fn versions(&self) -> BTreeMap<String, String> {
        lock(&self.versions).clone()
    }

    /// True when that is another one than before: then it is to be written.
    pub fn set(&self, image: &str, version: &str) -> bool {
        let before = lock(&self.versions).insert(image.to_owned(), version.to_owned());
        before.as_deref() != Some(version)
    }

    /// What is known now. Waits for the disk, so not on the thread of messages.
    pub fn write(&self) -> io::Result<()> {
        let _turn = lock(&self.writing);
        let bytes = serde_json::to_vec(&*lock(&self.versions))?;
        let part = self.folder.join("proved.part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(part, self.folder.join(NAME))?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A thread that panicked left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    match fs::read(folder.join(NAME)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_well_is_known_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("images")).unwrap();
        let proved = Proved::open(state.path());
        assert_eq!(proved.version("filter"), None);
        assert!(proved.set("filter", "1.0.0") && proved.set("filter", "1.2.0") && !proved.set("filter", "1.2.0"));
        proved.write().unwrap();
        assert_eq!(Proved::open(state.path()).version("filter").as_deref(), Some("1.2.0"));
        fs::write(state.path().join("images").join(NAME), "{").unwrap();
        let anew = Proved::open(state.path());
        assert_eq!(anew.version("filter"), None);
        assert!(anew.set("filter", "1.1.0"));
        anew.write().unwrap();
        assert_eq!(Proved::open(state.path()).version("filter").as_deref(), Some("1.1.0"));
    }
}
