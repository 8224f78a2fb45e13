//! A look at a store from outside, for `skerry check`: what its files are, and whether somebody has them open.
//! Must never write, lock or open them as a store does: the runtime may be at work in them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::open::FORMAT_FILE;
use super::progress::PROGRESS;
use super::tables::FORMAT;

/// First bytes of every file of redb.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// What lies in the folder of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Files of messages.
    pub files: usize,
    pub bytes: u64,
    /// As stated beside them.
    pub format: Option<u32>,
    pub format_known: u32,
    /// Of those files, one that is none.
    pub broken: Option<PathBuf>,
    /// Put there by an earlier start that could not open them.
    pub moved_aside: Vec<PathBuf>,
    /// The index is to be made anew, or somebody was at it and has not finished.
    pub to_salvage: bool,
    /// Some process holds a lock on them.
    pub in_use: bool,
}

/// `NotFound` where there is no store yet.
pub fn look(folder: &Path) -> io::Result<Look> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let stated = fs::read_to_string(folder.join(FORMAT_FILE)).ok();
    let format = stated.and_then(|text| text.trim().parse().ok());
    let to_salvage = folder.join(PROGRESS).exists();
    let mut found = Look { format, format_known: FORMAT, to_salvage, ..Look::default() };
    // Whoever has a store open has its folder locked; an earlier release, its file.
    let own = fs::metadata(folder)?;
    found.in_use = is_locked(&locks, own.dev(), own.ino());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extension.starts_with("broken-") {
            found.moved_aside.push(path);
        } else if extension == "segment" {
            found.files += 1;
            found.bytes += fs::metadata(&path)?.len();
        } else if extension == "redb" {
            let metadata = fs::metadata(&path)?;
            found.files += 1;
            found.bytes += metadata.len();
            found.in_use |= is_locked(&locks, metadata.dev(), metadata.ino());
            let mut head = [0; MAGIC.len()];
            let read = File::open(&path)?.read_exact(&mut head);
            if read.is_err() || head != MAGIC {
                found.broken = Some(path);
            }
        }
    }
    found.moved_aside.sort();
    if found.files == 0 && found.moved_aside.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(found)
}

/// A line is `1: FLOCK  ADVISORY  WRITE 812 08:01:1234 0 EOF`: device in hex, inode.
fn is_locked(locks: &str, device: u64, inode: u64) -> bool {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().any(|line| line.split_whitespace().any(|word| word == file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::store::{Options, Store};

    #[test]
    fn a_store_is_seen_and_left_alone() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        assert_eq!(look(folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let options = Options { quota_bytes: None, allow_volatile_state: true, boot_id: String::new() };
        let opened = Store::open(folder.path(), &options).unwrap();
        let before = look(folder.path()).unwrap();
        assert_eq!((before.broken, before.format, before.in_use), (None, Some(FORMAT), true));
        assert!(before.bytes > 0 && before.files > 0);
        drop(opened);
        let file = folder.path().join("store.redb");
        let bytes = fs::read(&file).unwrap();
        let closed = look(folder.path()).unwrap();
        assert!(!closed.in_use);
        assert_eq!(fs::read(&file).unwrap(), bytes);
        fs::write(&file, "rubbish").unwrap();
        fs::write(folder.path().join("store.broken-1"), "old").unwrap();
        let broken = look(folder.path()).unwrap();
        assert_eq!((broken.broken, broken.moved_aside.len()), (Some(file), 1));
    }

    #[test]
    fn locks_are_told_apart() {
        let locks = "1: FLOCK  ADVISORY  WRITE 812 08:01:1234 0 EOF\n2: -> OFDLCK ADVISORY READ -1 fe:10:99 0 EOF\n";
        let check = |major, minor, inode| is_locked(locks, rustix::fs::makedev(major, minor), inode);
        assert!(check(8, 1, 1234) && check(0xfe, 0x10, 99));
        assert!(!check(8, 1, 123) && !check(8, 2, 1234));
    }
}
