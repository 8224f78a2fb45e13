//! Opening and making the store. A store that can't be opened is moved aside, never overwritten; one of a newer
//! format is left alone. Must never fall back to memory.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, ReadableDatabase};

use super::{BLOCKS, DEAD, DOCUMENTS, LastClock, META, QUEUES, REFS, ROWS, Store, restore};
use crate::logic::hub::Restored;

/// The format that this program writes.
pub(super) const FORMAT: u32 = 1;
const FILE: &str = "store.redb";
/// Beside the store, its format once more as text: redb writes to a file as soon as it opens it, and a newer store is
/// to be left alone to the byte.
pub(super) const FORMAT_FILE: &str = "store.format";
/// redb's page cache, bytes. Blocks are read once and written once, so it need hold little more than the branches.
const CACHE_BYTES: usize = 1024 * 1024;
/// The default quota: this, or a quarter of what is free on the file system if that is less.
const QUOTA_BYTES: u64 = 1 << 30;

/// How to open it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the smaller of 25 % of the file system's free space and 1 GiB.
    pub quota_bytes: Option<u64>,
    pub allow_volatile_state: bool,
    pub boot_id: String,
}

/// An open store, and what it holds.
pub struct Opened {
    pub store: Store,
    pub restored: Restored,
    pub clock: LastClock,
    /// Where a store that could not be opened was moved to, and why.
    pub moved_aside: Option<(PathBuf, String)>,
}

/// One sentence each: what, where, and what to do.
#[derive(Debug)]
pub enum OpenError {
    Folder { folder: PathBuf, error: io::Error },
    Volatile { folder: PathBuf },
    InUse { path: PathBuf },
    Newer { path: PathBuf, found: u32 },
    Failed { path: PathBuf, error: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Folder { folder, error } => {
                write!(
                    f,
                    "state folder {}: {error}; make it, or name another with [state] folder or --state",
                    folder.display()
                )
            }
            OpenError::Volatile { folder } => write!(
                f,
                "state folder {} lies in memory (tmpfs), so a power cut would lose acknowledged messages; name a folder on \
                 disk, or set allow_volatile_state = true in [store] if that is meant",
                folder.display()
            ),
            OpenError::InUse { path } => {
                write!(
                    f,
                    "{} is in use by another skerry; stop it, or give this one a state folder of its own",
                    path.display()
                )
            }
            OpenError::Newer { path, found } => write!(
                f,
                "{} has format {found}, and this skerry knows formats up to {FORMAT}; it was left alone: run the newer skerry again, or move the file away",
                path.display()
            ),
            OpenError::Failed { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

pub(super) fn open(folder: &Path, options: &Options) -> Result<Opened, OpenError> {
    let folder_error = |error| OpenError::Folder { folder: folder.to_owned(), error };
    fs::create_dir_all(folder).map_err(folder_error)?;
    if is_volatile(folder).map_err(folder_error)? && !options.allow_volatile_state {
        return Err(OpenError::Volatile { folder: folder.to_owned() });
    }
    let probe = tempfile_in(folder).map_err(folder_error)?;
    fs::remove_file(probe).map_err(folder_error)?;
    let path = folder.join(FILE);
    let mut moved_aside = None;
    if path.exists() {
        match open_existing(&path) {
            Ok(db) => return opened(db, path, options, None),
            Err(Fault::Refuse(error)) => return Err(error),
            Err(Fault::Broken(reason)) => moved_aside = Some((move_aside(&path)?, reason)),
        }
    }
    let db = create(&path).map_err(|error| OpenError::Failed { path: path.clone(), error })?;
    opened(db, path, options, moved_aside)
}

fn opened(
    db: Database,
    path: PathBuf,
    options: &Options,
    moved_aside: Option<(PathBuf, String)>,
) -> Result<Opened, OpenError> {
    let failed = |error| OpenError::Failed { path: path.clone(), error };
    let (restored, clock, live_bytes) = restore(&db).map_err(failed)?;
    let quota_bytes = match options.quota_bytes {
        Some(bytes) => bytes,
        None => default_quota(&path, live_bytes)
            .map_err(|e| OpenError::Failed { path: path.clone(), error: e.to_string() })?,
    };
    let store = Store { db, path: path.clone(), boot_id: options.boot_id.clone(), live_bytes, quota_bytes };
    Ok(Opened { store, restored, clock, moved_aside })
}

enum Fault {
    /// Leave it alone.
    Refuse(OpenError),
    /// Not to be read by anybody.
    Broken(String),
}

fn open_existing(path: &Path) -> Result<Database, Fault> {
    let stated = fs::read_to_string(path.with_file_name(FORMAT_FILE)).ok().and_then(|t| t.trim().parse::<u32>().ok());
    if let Some(found) = stated.filter(|found| *found > FORMAT) {
        return Err(Fault::Refuse(OpenError::Newer { path: path.to_owned(), found }));
    }
    let db = match builder().open(path) {
        Ok(db) => db,
        Err(DatabaseError::DatabaseAlreadyOpen) => {
            return Err(Fault::Refuse(OpenError::InUse { path: path.to_owned() }));
        }
        Err(DatabaseError::Storage(redb::StorageError::Io(error)))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            return Err(Fault::Refuse(OpenError::Failed { path: path.to_owned(), error: error.to_string() }));
        }
        Err(error) => return Err(Fault::Broken(error.to_string())),
    };
    match format_of(&db) {
        Ok(Some(FORMAT)) => {}
        Ok(Some(found)) if found > FORMAT => {
            return Err(Fault::Refuse(OpenError::Newer { path: path.to_owned(), found }));
        }
        Ok(other) => return Err(Fault::Broken(format!("its format version is {other:?}"))),
        Err(error) => return Err(Fault::Broken(error.to_string())),
    }
    restore(&db).map_err(Fault::Broken)?;
    Ok(db)
}

fn format_of(db: &Database) -> Result<Option<u32>, redb::Error> {
    let meta = db.begin_read()?.open_table(META)?;
    let found = meta.get("format")?.and_then(|v| Some(u32::from_le_bytes(v.value().try_into().ok()?)));
    Ok(found)
}

/// Under a temporary name, synced, renamed, folder synced: a cut in between leaves no half-made store.
fn create(path: &Path) -> Result<Database, String> {
    let text = |e: &dyn fmt::Display| e.to_string();
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    {
        let db = builder().create(&temporary).map_err(|e| text(&e))?;
        let make = || -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            txn.open_table(BLOCKS)?;
            txn.open_table(ROWS)?;
            txn.open_table(REFS)?;
            txn.open_table(QUEUES)?;
            txn.open_table(super::ATTEMPTS)?;
            txn.open_table(DEAD)?;
            txn.open_table(DOCUMENTS)?;
            txn.open_table(META)?.insert("format", FORMAT.to_le_bytes().as_slice())?;
            txn.commit()?;
            Ok(())
        };
        make().map_err(|e| text(&e))?;
    }
    File::open(&temporary).and_then(|f| f.sync_all()).map_err(|e| text(&e))?;
    fs::write(path.with_file_name(FORMAT_FILE), format!("{FORMAT}\n")).map_err(|e| text(&e))?;
    fs::rename(&temporary, path).map_err(|e| text(&e))?;
    sync_folder(path).map_err(|e| text(&e))?;
    builder().open(path).map_err(|e| text(&e))
}

fn move_aside(path: &Path) -> Result<PathBuf, OpenError> {
    let free = (1..).map(|n| path.with_extension(format!("broken-{n}"))).find(|p| !p.exists());
    let to = free.expect("the numbers do not end");
    let moved = fs::rename(path, &to).and_then(|()| sync_folder(path));
    moved.map_err(|e| OpenError::Failed { path: path.to_owned(), error: e.to_string() })?;
    Ok(to)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn tempfile_in(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join(".skerry-probe");
    File::create(&path)?;
    Ok(path)
}

fn is_volatile(folder: &Path) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type as u64 & 0xffff_ffff;
    Ok(kind == TMPFS || kind == RAMFS)
}

fn default_quota(path: &Path, live_bytes: u64) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize) / 4 + live_bytes).min(QUOTA_BYTES))
}
