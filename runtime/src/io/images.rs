//! The image store: `STATE/images/<digest>.so`. An instance runs from a copy in here, so that overwriting a dropped
//! file can't crash it. Must never hold half a file under a digest's name, and never remove one that is kept.

use super::image::{self, ImageError};
use super::signing;
use crate::model::image::Image;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder of copies.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
}

/// Why a file did not become an image.
#[derive(Debug)]
pub enum StoreError {
    /// The file is at fault.
    Image(ImageError),
    /// It may not run here, for this reason.
    NotAdmitted(String),
    /// The store's file system is.
    Store(io::Error),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Image(error) => error.fmt(f),
            StoreError::NotAdmitted(reason) => f.write_str(reason),
            StoreError::Store(error) => write!(f, "can't be copied to the image store: {error}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Images {
    /// Opens the store below the state folder, and clears what an interrupted copy left.
    pub fn open(state: &Path) -> io::Result<Images> {
        let folder = state.join("images");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "part") {
                fs::remove_file(&path)?;
            }
        }
        Ok(Images { folder })
    }

    /// Reads, judges and copies the file at `source`, with the signatures that `admit` gives; its error is the reason why it is not let in. What is stored
    /// is what was judged: the file is read once.
    pub fn put(
        &self,
        source: &Path,
        admit: impl FnOnce(&Image) -> Result<Option<String>, String>,
    ) -> Result<Image, StoreError> {
        let unreadable = |e: io::Error| StoreError::Image(ImageError::Unreadable(e.to_string()));
        self.put_bytes(&image::bytes_of(source).map_err(unreadable)?, admit)
    }

    fn put_bytes(
        &self,
        bytes: &[u8],
        admit: impl FnOnce(&Image) -> Result<Option<String>, String>,
    ) -> Result<Image, StoreError> {
        let image = image::parse(bytes).map_err(StoreError::Image)?;
        image::fits(&image, image::device()).map_err(StoreError::Image)?;
        let signatures = admit(&image).map_err(StoreError::NotAdmitted)?;
        if let Some(signatures) = signatures.filter(|new| self.signatures(&image.digest).as_ref() != Some(new)) {
            signing::write_signatures(&self.path(&image.digest), &signatures).map_err(StoreError::Store)?;
        }
        self.write(&image.digest, bytes).map_err(StoreError::Store)?;
        Ok(image)
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.so"))
    }

    /// What came with a stored image. One that can't be read counts as none.
    pub fn signatures(&self, digest: &str) -> Option<String> {
        signing::signatures(&self.path(digest)).ok().flatten()
    }

    /// Opens a stored image for a module host; the file stays usable when it is collected meanwhile.
    pub fn file(&self, digest: &str) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// The digests that are stored.
    pub fn digests(&self) -> io::Result<Vec<String>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            if let Some(digest) = name.to_str().and_then(|n| n.strip_suffix(".so")) {
                digests.push(digest.to_owned());
            }
        }
        digests.sort();
        Ok(digests)
    }

    /// Removes every image but those of `keep`; says how many.
    pub fn collect(&self, keep: &[&str]) -> io::Result<usize> {
        let unused: Vec<String> = self.digests()?.into_iter().filter(|d| !keep.contains(&d.as_str())).collect();
        for digest in &unused {
            fs::remove_file(self.path(digest))?;
            let _ = fs::remove_file(signing::signatures_path(&self.path(digest)));
        }
        if !unused.is_empty() {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(unused.len())
    }

    fn write(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        if fs::read(&path).is_ok_and(|stored| stored == bytes) {
            return Ok(());
        }
        // A name of its own for each writer: two may store the same image at once.
        let part = self.folder.join(format!("{digest}.{}.part", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&part)?;
            file.write_all(bytes)?;
            // The umask may have taken what a host under another uid needs.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::tests::{GOOD, shared};

    fn any(_: &Image) -> Result<Option<String>, String> {
        Ok(Some("signed".to_owned()))
    }

    #[test]
    fn what_is_not_admitted_is_not_stored() {
        let state = tempfile::tempdir().unwrap();
        let images = Images::open(state.path()).unwrap();
        let refused = images.put_bytes(&shared(GOOD), |image| Err(format!("not {}", image.digest)));
        assert_eq!(refused.unwrap_err().to_string(), format!("not {}", image::digest(&shared(GOOD))));
        assert!(images.digests().unwrap().is_empty());
    }

    #[test]
    fn an_image_outlives_its_file() {
        let state = tempfile::tempdir().unwrap();
        let dropped = state.path().join("dropped.so");
        fs::write(&dropped, shared(GOOD)).unwrap();
        let images = Images::open(state.path()).unwrap();
        let image = images.put(&dropped, any).unwrap();
        fs::write(&dropped, "rubbish").unwrap();
        let stored = images.path(&image.digest);
        assert_eq!(image::read(&stored).unwrap(), image);
        assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(images.put(&stored, any).unwrap(), image);
        assert!(matches!(images.put(&dropped, any), Err(StoreError::Image(_))));
        assert_eq!(images.signatures(&image.digest).as_deref(), Some("signed"));
        assert_eq!(images.digests().unwrap(), vec![image.digest]);
    }

    #[test]
    fn damage_is_repaired_and_leftovers_go() {
        let state = tempfile::tempdir().unwrap();
        let images = Images::open(state.path()).unwrap();
        let bytes = shared(GOOD);
        let image = images.put_bytes(&bytes, any).unwrap();
        fs::write(images.path(&image.digest), "cut").unwrap();
        images.put_bytes(&bytes, any).unwrap();
        assert_eq!(fs::read(images.path(&image.digest)).unwrap(), bytes);
        fs::write(state.path().join("images/x.1.part"), "half").unwrap();
        let images = Images::open(state.path()).unwrap();
        assert_eq!(fs::read_dir(state.path().join("images")).unwrap().count(), 2, "image and signatures");
        assert_eq!(images.collect(&[&image.digest]).unwrap(), 0);
        assert_eq!(images.collect(&[]).unwrap(), 1);
        assert_eq!(fs::read_dir(state.path().join("images")).unwrap().count(), 0);
    }
}
