//! The image store: `STATE/images/<digest>.so`. An instance runs from a copy in here, so that overwriting a dropped
//! file can't crash it. Must never hold half a file under a digest's name, never remove one that is needed, and never
//! grow beyond its limit.

use super::image::{self, ImageError};
use super::image_book::{Book, Pulled};
use super::signing;
use crate::model::image::Image;
use crate::model::time::Wall;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// What is left of a download that nobody continues goes after this long.
const DOWNLOAD_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The folder of copies; clones are the same one. Threads that read large files have one each.
#[derive(Clone, Debug)]
pub struct Images(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    folder: PathBuf,
    bytes_max: u64,
    book: Mutex<Book>,
    /// What must not go; unknown until somebody has said so.
    needed: Mutex<Option<BTreeSet<String>>>,
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
    /// The store's limit is: bytes more, of what is taken, of the limit.
    Full { bytes: u64, used: u64, limit: u64 },
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Image(error) => error.fmt(f),
            StoreError::Store(error) if error.kind() == io::ErrorKind::StorageFull => f.write_str(
                "the disk of the state folder is full; free some space there, or put the state folder elsewhere",
            ),
            StoreError::NotAdmitted(reason) => f.write_str(reason),
            StoreError::Store(error) => write!(f, "can't be copied to the image store: {error}"),
            StoreError::Full { bytes, used, limit } => write!(
                f,
                "the image store is full: {bytes} bytes more do not fit, since images that are needed take {used} of {limit} bytes; \
                 raise `limit` in [images], or run fewer images"
            ),
        }
    }
}

impl std::error::Error for StoreError {}

impl Images {
    /// Opens the store below the state folder, and clears what an interrupted copy left.
    pub fn open(state: &Path, bytes_max: u64) -> io::Result<Images> {
        let folder = state.join("images");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let old = || {
                let changed = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                changed.elapsed().is_ok_and(|age| age > DOWNLOAD_KEPT)
            };
            if kind == "part" || kind == "download" && old() {
                fs::remove_file(&path)?;
            }
        }
        let book = Book::read(&folder).unwrap_or_else(|error| {
            log::warn!("image store: book.json can't be read ({error}); images are pulled again when they are needed");
            Book::default()
        });
        Ok(Images(Arc::new(Shelf { folder, bytes_max, book: Mutex::new(book), needed: Mutex::default() })))
    }

    /// Reads, judges and copies the file at `source`, with the signatures that `admit` gives; its error is the reason why it is
    /// not let in. What is stored is what was judged: the file is read once.
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
        let path = self.path(&image.digest);
        if !fs::read(&path).is_ok_and(|stored| stored == bytes) {
            self.make_room(bytes.len() as u64)?;
        }
        self.keep_signatures(&image.digest, signatures.as_deref()).map_err(StoreError::Store)?;
        self.write(&image.digest, bytes).map_err(StoreError::Store)?;
        Ok(image)
    }

    /// Takes over a file of this store whose digest was proved, as an image. One that is none is removed.
    pub fn adopt(&self, downloaded: &Path) -> Result<Image, StoreError> {
        let judged = image::read(downloaded).and_then(|image| {
            image::fits(&image, image::device())?;
            Ok(image)
        });
        let image = judged.map_err(|error| {
            let _ = fs::remove_file(downloaded);
            StoreError::Image(error)
        })?;
        let moved = fs::set_permissions(downloaded, Permissions::from_mode(0o644))
            .and_then(|()| fs::rename(downloaded, self.path(&image.digest)))
            .and_then(|()| File::open(&self.0.folder)?.sync_all());
        moved.map_err(StoreError::Store)?;
        Ok(image)
    }

    /// The stored image of this digest, if there is one that can run here.
    pub fn stored(&self, digest: &str) -> Option<Image> {
        let image = image::inspect(&self.path(digest)).ok()?;
        (image.digest == digest).then_some(image)
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        self.0.folder.join(format!("{digest}.so"))
    }

    /// Where a file is downloaded to; what is there of it already is continued.
    pub fn download_path(&self, digest: &str) -> PathBuf {
        self.0.folder.join(format!("{digest}.download"))
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
        for entry in fs::read_dir(&self.0.folder)? {
            let name = entry?.file_name();
            if let Some(digest) = name.to_str().and_then(|n| n.strip_suffix(".so")) {
                digests.push(digest.to_owned());
            }
        }
        digests.sort();
        Ok(digests)
    }

    /// Bytes of all stored images, and how many there may be.
    pub fn usage(&self) -> io::Result<(u64, u64)> {
        let sizes = self.digests()?.into_iter().map(|digest| self.bytes(&digest));
        Ok((sizes.sum(), self.0.bytes_max))
    }

    pub fn book(&self) -> Book {
        lock(&self.0.book).clone()
    }

    /// Changes the book, on disk too.
    pub fn note(&self, change: impl FnOnce(&mut Book)) -> io::Result<()> {
        let mut book = lock(&self.0.book);
        let before = book.clone();
        change(&mut book);
        if *book == before { Ok(()) } else { book.write(&self.0.folder) }
    }

    /// Remembers where an image came from, so that it is found again without a network.
    pub fn remember(&self, reference: &str, image: &Image, signatures: Option<&str>, now: Wall) -> io::Result<()> {
        self.keep_signatures(&image.digest, signatures)?;
        self.note(|book| {
            let pulled = Pulled { digest: image.digest.clone(), at: now.0 };
            book.references.insert(reference.to_owned(), pulled);
        })
    }

    /// Removes what is neither in `needed` nor was pulled, and says how many. What was pulled stays until there is no room.
    pub fn collect(&self, needed: &[&str]) -> io::Result<usize> {
        let needed: BTreeSet<String> = needed.iter().map(|digest| (*digest).to_owned()).collect();
        let pulled: BTreeSet<String> = self.book().references.into_values().map(|p| p.digest).collect();
        let unused: Vec<String> =
            self.digests()?.into_iter().filter(|d| !needed.contains(d) && !pulled.contains(d)).collect();
        *lock(&self.0.needed) = Some(needed);
        self.remove(&unused)?;
        Ok(unused.len())
    }

    /// These are needed as well, until the next collection says what is.
    pub fn need(&self, more: &[&str]) {
        if let Some(needed) = lock(&self.0.needed).as_mut() {
            needed.extend(more.iter().map(|digest| (*digest).to_owned()));
        }
    }

    /// Removes pulled images that nobody needs, the longest unasked first, until so many bytes more fit.
    pub fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let (mut used, limit) = self.usage().map_err(StoreError::Store)?;
        let needed = lock(&self.0.needed).clone();
        let mut unneeded: Vec<Pulled> = self.book().references.into_values().collect();
        unneeded.retain(|pulled| needed.as_ref().is_some_and(|needed| !needed.contains(&pulled.digest)));
        unneeded.sort_by_key(|pulled| pulled.at);
        for Pulled { digest, .. } in unneeded {
            if used + bytes <= limit {
                break;
            }
            used -= self.bytes(&digest);
            log::info!("image store: digest={digest} removed, to make room");
            self.remove(&[digest]).map_err(StoreError::Store)?;
        }
        if used + bytes <= limit { Ok(()) } else { Err(StoreError::Full { bytes, used, limit }) }
    }

    fn bytes(&self, digest: &str) -> u64 {
        fs::metadata(self.path(digest)).map_or(0, |m| m.len())
    }

    fn remove(&self, digests: &[String]) -> io::Result<()> {
        for digest in digests {
            match fs::remove_file(self.path(digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let _ = fs::remove_file(signing::signatures_path(&self.path(digest)));
        }
        if digests.is_empty() {
            return Ok(());
        }
        File::open(&self.0.folder)?.sync_all()?;
        self.note(|book| digests.iter().for_each(|digest| book.forget(digest)))
    }

    fn keep_signatures(&self, digest: &str, signatures: Option<&str>) -> io::Result<()> {
        match signatures.filter(|new| self.signatures(digest).as_deref() != Some(*new)) {
            Some(new) => signing::write_signatures(&self.path(digest), new),
            None => Ok(()),
        }
    }

    fn write(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        // A name of its own for each writer: two may store the same image at once.
        let part = self.0.folder.join(format!("{digest}.{}.part", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&part)?;
            file.write_all(bytes)?;
            // The umask may have taken what a host under another uid needs.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.sync_all()?;
            fs::rename(&part, self.path(digest))?;
            File::open(&self.0.folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }
}

/// A thread that panicked left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::tests::{GOOD, shared};

    const LIMIT: u64 = 1 << 20;

    fn any(_: &Image) -> Result<Option<String>, String> {
        Ok(Some("signed".to_owned()))
    }

    #[test]
    fn what_is_not_admitted_is_not_stored() {
        let state = tempfile::tempdir().unwrap();
        let images = Images::open(state.path(), LIMIT).unwrap();
        let refused = images.put_bytes(&shared(GOOD), |image| Err(format!("not {}", image.digest)));
        assert_eq!(refused.unwrap_err().to_string(), format!("not {}", image::digest(&shared(GOOD))));
        assert!(images.digests().unwrap().is_empty());
    }

    #[test]
    fn an_image_outlives_its_file() {
        let state = tempfile::tempdir().unwrap();
        let dropped = state.path().join("dropped.so");
        fs::write(&dropped, shared(GOOD)).unwrap();
        let images = Images::open(state.path(), LIMIT).unwrap();
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
        let images = Images::open(state.path(), LIMIT).unwrap();
        let bytes = shared(GOOD);
        let image = images.put_bytes(&bytes, any).unwrap();
        fs::write(images.path(&image.digest), "cut").unwrap();
        images.put_bytes(&bytes, any).unwrap();
        assert_eq!(fs::read(images.path(&image.digest)).unwrap(), bytes);
        fs::write(state.path().join("images/x.1.part"), "half").unwrap();
        let images = Images::open(state.path(), LIMIT).unwrap();
        assert_eq!(fs::read_dir(state.path().join("images")).unwrap().count(), 2, "image and signatures");
        assert_eq!(images.collect(&[&image.digest]).unwrap(), 0);
        assert_eq!(images.collect(&[]).unwrap(), 1);
        assert_eq!(fs::read_dir(state.path().join("images")).unwrap().count(), 0);
    }

    #[test]
    fn what_was_pulled_stays_until_there_is_no_room() {
        let state = tempfile::tempdir().unwrap();
        let one = shared(GOOD).len() as u64;
        let images = Images::open(state.path(), 2 * one + 100).unwrap();
        // Bytes behind the last section change the digest and nothing else.
        let version = |n: u8| [shared(GOOD), vec![n]].concat();
        let put = |n: u8, at: i64| {
            let image = images.put_bytes(&version(n), any)?;
            images.remember(&format!("oci://host/filter:{n}"), &image, Some("signed"), Wall(at)).unwrap();
            Ok::<_, StoreError>(image)
        };
        let (first, second) = (put(1, 20).unwrap(), put(2, 10).unwrap());
        // Nobody said yet what is needed, so nothing may go.
        assert!(matches!(put(3, 30), Err(StoreError::Full { .. })));
        assert_eq!(images.collect(&[&second.digest]).unwrap(), 0);
        let third = put(3, 30).unwrap();
        let digests = || images.digests().unwrap().into_iter().collect::<BTreeSet<_>>();
        assert_eq!(digests(), BTreeSet::from([second.digest.clone(), third.digest.clone()]));
        assert_eq!(images.signatures(&first.digest), None);
        // The last good ones are needed, and stay whatever comes; as do those that are named before the next collection.
        images.collect(&[&second.digest]).unwrap();
        images.need(&[&third.digest]);
        let full = put(4, 40).unwrap_err().to_string();
        assert!(full.contains("raise `limit` in [images]"), "{full}");
        let again = Images::open(state.path(), LIMIT).unwrap();
        assert_eq!(again.book(), images.book());
        assert_eq!(again.book().references["oci://host/filter:3"].digest, third.digest);
        assert_eq!(again.stored(&third.digest), Some(third));
    }
}
