//! Opening and making the store. What can't be opened is moved aside and salvaged, never overwritten; a store of a newer
//! format is left alone, an older one migrated. Must never fall back to memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::DatabaseError;

use super::disk::{Disk, Folder, put_whole};
use super::head::{CaughtUp, Head, Pending};
use super::log::{Found, Log, Replayed};
use super::progress::Progress;
use super::room::{Quota, Used};
use super::rows::Live;
use super::tables::FORMAT;
use super::{Fault, LastClock, PENDING_BYTES, Store, salvage, sweep};
use crate::logic::hub::Restored;

/// The index. The first format had everything in it.
pub(super) const INDEX: &str = "store.redb";
pub(super) const INDEX_NEW: &str = "store.redb.new";
pub(super) const FORMAT_FILE: &str = "store.format";
const FORMAT_FILE_NEW: &str = "store.format.new";
const PROBE: &str = ".skerry-probe";

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
    /// What was wrong with it, where it is now, and what came over: a sentence for the operator.
    pub report: Option<String>,
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

pub(super) fn open(folder: &Path, options: &Options, acknowledged: Option<u64>) -> Result<Opened, OpenError> {
    let folder_error = |error| OpenError::Folder { folder: folder.to_owned(), error };
    fs::create_dir_all(folder).map_err(folder_error)?;
    if is_volatile(folder).map_err(folder_error)? && !options.allow_volatile_state {
        return Err(OpenError::Volatile { folder: folder.to_owned() });
    }
    let disk = Folder::open(folder.to_owned(), INDEX).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => OpenError::InUse { path: folder.join(INDEX) },
        _ => folder_error(error),
    })?;
    open_on(Arc::new(disk), folder, options, acknowledged)
}

/// The same on any disk; `folder` is only for words.
pub(super) fn open_on(
    disk: Arc<dyn Disk>,
    folder: &Path,
    options: &Options,
    acknowledged: Option<u64>,
) -> Result<Opened, OpenError> {
    let failed = |error: String| OpenError::Failed { path: folder.join(INDEX), error };
    if let Some(found) = stated_format(disk.as_ref()).filter(|found| *found > FORMAT) {
        return Err(OpenError::Newer { path: folder.join(INDEX), found });
    }
    disk.create(PROBE)
        .and_then(|_| disk.remove(PROBE))
        .map_err(|error| OpenError::Folder { folder: folder.to_owned(), error })?;
    let (head, report) = index(&disk, folder)?;
    let opened = attach(Arc::clone(&disk), head, options, acknowledged);
    match opened {
        Ok((opened, None)) => Ok(Opened { report, ..opened }),
        Ok((opened, Some(damage))) => {
            drop(opened);
            let made = salvage::in_place(&disk).map_err(|e| failed(e.to_string()))?;
            let head = open_named(&disk, INDEX).map_err(|e| failed(e.to_string()))?;
            let (opened, _) = attach(disk, head, options, None).map_err(|e| failed(e.to_string()))?;
            Ok(Opened {
                report: Some(format!("the log of the store in {} {damage}; {made}", folder.display())),
                ..opened
            })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The index, made if there is none and made anew if it is broken; then with a sentence that says so.
fn index(disk: &Arc<dyn Disk>, folder: &Path) -> Result<(Head, Option<String>), OpenError> {
    let failed = |error: String| OpenError::Failed { path: folder.join(INDEX), error };
    let names = disk.names().map_err(|e| failed(e.to_string()))?;
    let has_index = names.iter().any(|name| name == INDEX);
    let mut report = None;
    let mut noted = Progress::read(disk.as_ref());
    if let Some(progress) = noted.take_if(|progress| salvage::is_finished(progress, &names)) {
        Progress::remove(disk.as_ref()).map_err(|e| failed(e.to_string()))?;
        report =
            Some(moved(folder, &progress.reason, &progress.aside.unwrap_or_default(), "what could be read came over"));
    }
    if noted.is_none() && has_index {
        match existing(disk) {
            Ok(head) => return Ok((head, report)),
            Err(Trouble::Newer(found)) => return Err(OpenError::Newer { path: folder.join(INDEX), found }),
            Err(Trouble::Failed(error)) => return Err(failed(error)),
            Err(Trouble::Broken(reason)) => noted = Some(Progress { reason, ..Progress::default() }),
        }
    }
    if let Some(progress) = noted {
        let reason = progress.reason.clone();
        let (made, aside) = salvage::salvage(disk, progress).map_err(|e| failed(e.to_string()))?;
        report = Some(moved(folder, &reason, &aside, &made.to_string()));
    } else if names.iter().any(|name| name.ends_with(".segment")) {
        let made = salvage::from_log(disk).map_err(|e| failed(e.to_string()))?;
        report = Some(format!("the index of the store in {} was missing; {made}", folder.display()));
    } else {
        create(disk).map_err(|e| failed(e.to_string()))?;
    }
    Ok((open_named(disk, INDEX).map_err(|e| failed(e.to_string()))?, report))
}

fn moved(folder: &Path, reason: &str, aside: &str, made: &str) -> String {
    let aside = folder.join(aside);
    format!("the store could not be opened ({reason}); its index was moved to {}, and {made}", aside.display())
}

/// Reads what the index lacks from the log.
fn attach(
    disk: Arc<dyn Disk>,
    head: Head,
    options: &Options,
    acknowledged: Option<u64>,
) -> Result<(Opened, Option<String>), Fault> {
    let durable = head.caught_up()?.ok_or_else(|| Fault("its place in the log is not known".to_owned()))?;
    let mut log = Log::open(Arc::clone(&disk), durable.number)?;
    let mut segments = head.segments()?;
    let replayed = replay(&mut log, &head, &mut segments, durable, acknowledged)?;
    let (mut restored, clock) = head.restore()?;
    let used = Used { log: log.bytes(), index: head.file_bytes(), free: disk.free_bytes().unwrap_or(u64::MAX) };
    let quota = options.quota_bytes.unwrap_or_else(|| Quota::auto(used.free, used.log + used.index));
    let mut store = Store {
        disk,
        head,
        durable,
        segments,
        pending: Vec::new(),
        pending_bytes: 0,
        counters: (restored.next_seq, restored.next_block, clock.clone()),
        boot_id: options.boot_id.clone(),
        quota: Quota::new(quota),
        sweep: sweep::Sweep::new(),
        stuck: BTreeSet::new(),
        broken: None,
        log,
    };
    if store.log.number() != durable.number || store.log.end() != durable.at {
        store.catch_up(true)?;
    }
    store.checkpoint()?;
    (restored.room, restored.full) = store.room();
    let damage = (replayed.missing > 0).then(|| format!("has a hole of {} commits", replayed.missing));
    Ok((Opened { store, restored, clock, report: None }, damage))
}

/// In batches, so that memory does not grow with what there is to read.
pub(super) fn replay(
    log: &mut Log,
    head: &Head,
    segments: &mut BTreeMap<u64, Live>,
    from: CaughtUp,
    acknowledged: Option<u64>,
) -> Result<Replayed, Fault> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let replayed = log.replay(from.at, acknowledged, |found, effects| {
        bytes += found.payload.len() - effects.blocks.iter().map(|b| b.length as usize).sum::<usize>();
        let Found { number, payload_at, end, .. } = found;
        batch.push(Pending { number, payload_at, end, effects });
        if bytes > PENDING_BYTES {
            head.apply(&batch, segments, false)?;
            batch.clear();
            bytes = 0;
        }
        Ok::<(), Fault>(())
    })?;
    if !batch.is_empty() {
        head.apply(&batch, segments, false)?;
    }
    Ok(replayed)
}

enum Trouble {
    Newer(u32),
    /// Perhaps another time.
    Failed(String),
    Broken(String),
}

/// redb checks what it reads with assertions, too, so a broken file may end in a panic: see `suspect`.
fn existing(disk: &Arc<dyn Disk>) -> Result<Head, Trouble> {
    let head = open_named(disk, INDEX).map_err(|error| match error {
        DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Trouble::Failed(error.to_string())
        }
        error => Trouble::Broken(error.to_string()),
    })?;
    let broken = |error: redb::Error| Trouble::Broken(error.to_string());
    match head.format().map_err(broken)? {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(Trouble::Newer(found)),
        Some(found @ (1 | 2)) => {
            head.restore().map_err(Trouble::Broken)?;
            // The text first: an older program is to leave a store alone that it half knows.
            write_format(disk.as_ref()).map_err(|e| Trouble::Failed(e.to_string()))?;
            let taken_over = if found == 1 { head.migrate(Log::beginning()) } else { head.renumber() };
            taken_over.map_err(broken)?;
        }
        other => return Err(Trouble::Broken(format!("its format version is {other:?}"))),
    }
    head.restore().map_err(Trouble::Broken)?;
    Ok(head)
}

pub(super) fn open_named(disk: &Arc<dyn Disk>, name: &str) -> Result<Head, DatabaseError> {
    Head::open(disk.open(name).map_err(|e| DatabaseError::Storage(e.into()))?)
}

fn create(disk: &Arc<dyn Disk>) -> Result<(), Fault> {
    let head = begin_index(disk, Log::beginning())?;
    finish_index(disk, head)
}

/// Under a temporary name, then synced, renamed, folder synced: a cut in between leaves no half-made store.
pub(super) fn begin_index(disk: &Arc<dyn Disk>, caught_up: CaughtUp) -> Result<Head, Fault> {
    let head = Head::open(disk.create(INDEX_NEW)?).map_err(|e| Fault(e.to_string()))?;
    head.make(caught_up)?;
    Ok(head)
}

pub(super) fn finish_index(disk: &Arc<dyn Disk>, head: Head) -> Result<(), Fault> {
    drop(head);
    disk.open(INDEX_NEW)?.sync()?;
    write_format(disk.as_ref())?;
    disk.rename(INDEX_NEW, INDEX)?;
    disk.sync()?;
    Ok(())
}

/// Beside the store, its format once more as text: redb writes to a file as soon as it opens it, and a newer store is
/// to be left alone to the byte.
fn write_format(disk: &dyn Disk) -> io::Result<()> {
    put_whole(disk, FORMAT_FILE, FORMAT_FILE_NEW, format!("{FORMAT}\n").as_bytes())
}

fn stated_format(disk: &dyn Disk) -> Option<u32> {
    let file = disk.open(FORMAT_FILE).ok()?;
    let mut bytes = vec![0; file.len().ok()?.min(16) as usize];
    file.read(0, &mut bytes).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

fn is_volatile(folder: &Path) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type as u64 & 0xffff_ffff;
    Ok(kind == TMPFS || kind == RAMFS)
}
