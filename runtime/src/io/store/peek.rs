//! What the index of a store says of queues and documents, for who looks at a device on which nothing runs.
//! Must never write, lock or open the store itself: it is read from a copy in memory, which may be mended and thrown away.

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::DiskFile;
use super::head::Head;
use super::look::look;
use super::open::INDEX;
use super::tables::FORMAT;
use crate::logic::hub::QueueRow;

/// Of an index that is copied: far more than it takes for a full store.
const INDEX_BYTES_MAX: u64 = 32 << 20;

pub struct Peek {
    /// As of when the index last caught up with the log.
    pub queues: Vec<QueueRow>,
    /// By name.
    pub documents: Vec<(String, Vec<u8>)>,
}

/// The error is a sentence for the operator.
pub fn peek(folder: &Path) -> Result<Peek, String> {
    let found = look(folder).map_err(|error| format!("the store in {}: {error}", folder.display()))?;
    if found.in_use {
        return Err("some process has the store open, and does not answer".to_owned());
    }
    let path = folder.join(INDEX);
    let unread = |error: io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(&path).map_err(unread)?.len() > INDEX_BYTES_MAX {
        return Err(format!("{} is larger than {INDEX_BYTES_MAX} bytes", path.display()));
    }
    let copy = Arc::new(Copied(Mutex::new(std::fs::read(&path).map_err(unread)?)));
    // redb checks what it reads with assertions, too.
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let head = Head::open(copy).map_err(|error| error.to_string())?;
        match head.format().map_err(|error| error.to_string())? {
            Some(FORMAT) => {}
            other => return Err(format!("it has format {other:?}, and this program knows {FORMAT}")),
        }
        let (restored, _) = head.restore()?;
        let documents = head.documents("").map_err(|error| error.to_string())?;
        Ok(Peek { queues: restored.queues, documents })
    }));
    read.unwrap_or_else(|_| Err("it is inconsistent".to_owned())).map_err(|why| format!("{}: {why}", path.display()))
}

#[derive(Debug)]
struct Copied(Mutex<Vec<u8>>);

impl Copied {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for Copied {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (bytes, start) = (self.bytes(), offset as usize);
        let part = start.checked_add(out.len()).and_then(|end| bytes.get(start..end));
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let (mut bytes, start) = (self.bytes(), offset as usize);
        let end = start.checked_add(new.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let length = bytes.len().max(end);
        bytes.resize(length, 0);
        bytes[start..end].copy_from_slice(new);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::store::{Options, Store};

    #[test]
    fn what_is_closed_can_be_read_and_stays_as_it_is() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let error = |folder: &Path| peek(folder).err().unwrap_or_default();
        assert!(error(folder.path()).contains("the store in "), "{}", error(folder.path()));
        let options = Options { quota_bytes: None, allow_volatile_state: true, boot_id: String::new() };
        let opened = Store::open(folder.path(), &options).unwrap();
        assert!(error(folder.path()).contains("has the store open"));
        drop(opened);
        let index = folder.path().join(INDEX);
        let before = std::fs::read(&index).unwrap();
        let found = peek(folder.path()).unwrap();
        assert!(found.queues.is_empty() && found.documents.is_empty());
        assert_eq!(std::fs::read(&index).unwrap(), before);
        std::fs::write(&index, &before[..before.len() / 3]).unwrap();
        assert!(error(folder.path()).contains("store.redb"), "{}", error(folder.path()));
    }
}
