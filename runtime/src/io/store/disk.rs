//! The store's only way to the file system: one folder, its files, and what a sync means. The real one is here; tests put
//! a disk in its place whose power fails. Must never make anything safe that nobody asked to sync.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use redb::StorageBackend;

/// One folder. Names in it are plain file names.
pub trait Disk: Debug + Send + Sync {
    fn names(&self) -> io::Result<Vec<String>>;
    /// For reading and writing; an error of kind `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// An empty file, also where there was one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names safe: those made, changed and removed.
    fn sync(&self) -> io::Result<()>;
    /// Bytes that the file system can still take.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file. Its bytes are safe after `sync`, its name after [`Disk::sync`].
pub trait DiskFile: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// All of `out`, or an error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// A file that is whole under its name, or not there: under a temporary name, synced, renamed, folder synced.
pub fn put_whole(disk: &dyn Disk, name: &str, temporary: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(temporary)?;
    file.write(0, bytes)?;
    file.sync()?;
    disk.rename(temporary, name)?;
    disk.sync()
}

/// A folder of the file system, held by one process at a time.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of files that are made.
    mode: u32,
    /// Locked for as long as they are open: the folder, and the index, which is what an earlier release locks.
    _locks: Vec<File>,
}

impl Folder {
    /// An error of kind `ResourceBusy` if another process has it, or the file `index` in it.
    pub fn open(path: PathBuf, index: &str) -> io::Result<Folder> {
        let mut locks = vec![locked(File::open(&path)?)?];
        match File::options().read(true).write(true).open(path.join(index)) {
            Ok(index) => locks.push(locked(index)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Folder { path, mode: 0o666, _locks: locks })
    }

    /// Held by nobody, with files that nobody else may read. Made if it is not there.
    pub fn private(path: PathBuf) -> io::Result<Folder> {
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            // What is in a folder is only as safe as its name.
            path.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())?;
        }
        Ok(Folder { path, mode: 0o600, _locks: Vec::new() })
    }

    /// For this process's last words, whose locks are still held elsewhere in it.
    pub fn without_lock(path: PathBuf) -> Folder {
        Folder { path, mode: 0o666, _locks: Vec::new() }
    }
}

fn locked(file: File) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::ResourceBusy.into()),
        // A file system without locks: as good as one has it there.
        Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::options().read(true).write(true).open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let mut options = File::options();
        Ok(Arc::new(options.read(true).write(true).create(true).truncate(true).mode(self.mode).open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// What redb writes to.
#[derive(Debug)]
pub struct Pages(pub Arc<dyn DiskFile>);

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
