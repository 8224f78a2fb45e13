//! The newest version of each image that ran well on this device: `STATE/images/proved.json`. What goes back behind it is
//! a roll-back. Must never be needed to run anything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// By the image's name.
pub struct Proved {
    folder: PathBuf,
    versions: RefCell<BTreeMap<String, String>>,
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
        Proved { folder, versions: RefCell::new(versions) }
    }

    pub fn version(&self, image: &str) -> Option<String> {
        self.versions.borrow().get(image).cloned()
    }

    /// A copy of all, by the image's name: for a thread that judges images.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.versions.borrow().clone()
    }

    /// Written only when it is another one.
    pub fn set(&self, image: &str, version: &str) -> io::Result<()> {
        let before = self.versions.borrow_mut().insert(image.to_owned(), version.to_owned());
        if before.as_deref() == Some(version) {
            return Ok(());
        }
        let part = self.folder.join("proved.part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec(&*self.versions.borrow())?)?;
        file.sync_all()?;
        fs::rename(part, self.folder.join(NAME))?;
        File::open(&self.folder)?.sync_all()
    }
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
        proved.set("filter", "1.0.0").unwrap();
        proved.set("filter", "1.2.0").unwrap();
        assert_eq!(Proved::open(state.path()).version("filter").as_deref(), Some("1.2.0"));
        fs::write(state.path().join("images").join(NAME), "{").unwrap();
        let anew = Proved::open(state.path());
        assert_eq!(anew.version("filter"), None);
        anew.set("filter", "1.1.0").unwrap();
        assert_eq!(Proved::open(state.path()).version("filter").as_deref(), Some("1.1.0"));
    }
}
