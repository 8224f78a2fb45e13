//! One file from a server to the disk: continued where it broke off, of no more than its size, and proved by its digest before
//! anybody looks at it. Must never leave a file under its name that is not whole and proved.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use rustix::fs::{FlockOperation, flock};

use super::fetch::{Answer, Fault};

/// Attempts that bring nothing, one after the other, before it is given up for now. Those that bring something begin a new count.
const ATTEMPTS_MAX: u32 = 4;
/// Wait after the first of them; doubled each time.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Bytes of a part that are read at once, to go on with its digest.
const READ_BYTES: usize = 64 * 1024;

/// What is to come.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Lower-case hex.
    pub sha256: &'a str,
    /// Its size where that is known; otherwise the most that it may have.
    pub bytes: Option<u64>,
    pub bytes_max: u64,
    /// What to call it in a sentence.
    pub what: &'a str,
}

/// How far it is, for others to look at while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    /// 0 while it is not known.
    pub total: AtomicU64,
    /// Set by who does not want it any more.
    pub given_up: AtomicBool,
}

impl Progress {
    fn check(&self) -> Result<(), Fault> {
        if self.given_up.load(Ordering::Relaxed) { Err(Fault::Away("it was given up".to_owned())) } else { Ok(()) }
    }
}

/// Brings the file to `part`, whole, proved and synced. `open` asks for it from some byte on.
pub async fn download(
    part: &Path,
    wanted: Wanted<'_>,
    progress: &Progress,
    mut open: impl AsyncFnMut(u64) -> Result<Answer, Fault>,
) -> Result<(), Fault> {
    let mut file = Part::open(part, wanted)?;
    progress.total.store(wanted.bytes.unwrap_or(0), Ordering::Relaxed);
    let mut attempt = 0;
    loop {
        progress.check()?;
        let before = file.length;
        let fetched =
            if wanted.bytes == Some(before) { Ok(()) } else { fetch(&mut file, wanted, progress, &mut open).await };
        match fetched {
            Ok(()) => break,
            Err(Fault::Away(why)) => {
                attempt = if file.length > before { 1 } else { attempt + 1 };
                if attempt >= ATTEMPTS_MAX {
                    return Err(Fault::Away(why));
                }
                log::debug!("{}: {why}; going on at byte {}", wanted.what, file.length);
                smol::Timer::after(RETRY_WAIT * 2u32.pow(attempt - 1)).await;
            }
            Err(fault) => {
                // Space that is short is for messages, and what was refused is of no use.
                let _ = fs::remove_file(part);
                return Err(fault);
            }
        }
    }
    file.prove(part, wanted)
}

async fn fetch(
    file: &mut Part,
    wanted: Wanted<'_>,
    progress: &Progress,
    open: &mut impl AsyncFnMut(u64) -> Result<Answer, Fault>,
) -> Result<(), Fault> {
    let mut answer = open(file.length).await?;
    match answer.status {
        206 if answer.begins_at() == file.length => {}
        // It does no parts, or another one: from the beginning.
        200 => file.restart()?,
        206 | 416 if file.length > 0 => {
            file.restart()?;
            return Err(Fault::Away(format!("{} does not go on where it was asked to", answer.host)));
        }
        _ => return Err(answer.fault(wanted.what)),
    }
    let most = wanted.bytes.unwrap_or(wanted.bytes_max);
    let length = answer.length().map(|length| file.length + length);
    if let Some(length) = length.filter(|length| *length > most) {
        return Err(too_large(&answer, wanted, length));
    }
    if let Some(total) = wanted.bytes.or(length) {
        progress.total.store(total, Ordering::Relaxed);
    }
    while let Some(bytes) = answer.chunk().await? {
        progress.check()?;
        if file.length + bytes.len() as u64 > most {
            return Err(too_large(&answer, wanted, file.length + bytes.len() as u64));
        }
        file.append(&bytes)?;
        progress.done.store(file.length, Ordering::Relaxed);
    }
    match wanted.bytes.or(length) {
        Some(total) if file.length < total => Err(Fault::Away(format!(
            "{} broke off after {} of {total} bytes of {}; trying again later",
            answer.host, file.length, wanted.what
        ))),
        _ => Ok(()),
    }
}

fn too_large(answer: &Answer, wanted: Wanted<'_>, bytes: u64) -> Fault {
    Fault::Refused(match wanted.bytes {
        Some(told) => format!(
            "{} sends {bytes} bytes or more as {}, which is said to have {told}; nothing of it was kept",
            answer.host, wanted.what
        ),
        None => format!("{} is larger than an image may be ({bytes} of {} bytes)", wanted.what, wanted.bytes_max),
    })
}

/// A file that grows, and the digest of what it has.
struct Part {
    file: File,
    length: u64,
    digest: Context,
}

impl Part {
    /// With what is there already. Locked, so that two who want the same file do not write it both.
    fn open(path: &Path, wanted: Wanted<'_>) -> Result<Part, Fault> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(|e| disk(&e))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Fault::Away(format!("{} is being pulled already", wanted.what)));
        }
        let mut part = Part { file, length: 0, digest: Context::new(&SHA256) };
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match part.file.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    part.digest.update(&bytes[..count]);
                    part.length += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(disk(&error)),
            }
        }
        if part.length > wanted.bytes.unwrap_or(wanted.bytes_max) {
            part.restart()?;
        }
        Ok(part)
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(|e| disk(&e))?;
        (self.length, self.digest) = (0, Context::new(&SHA256));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_all(bytes).map_err(|e| disk(&e))?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn prove(self, path: &Path, wanted: Wanted<'_>) -> Result<(), Fault> {
        let digest = self.digest.finish();
        let found = data_encoding::HEXLOWER.encode(digest.as_ref());
        if found != wanted.sha256 {
            let _ = fs::remove_file(path);
            return Err(Fault::Refused(format!(
                "{} has the digest sha256:{found}, not sha256:{} as it should; it was changed on its way or where it lies, and nothing of \
                 it was kept",
                wanted.what, wanted.sha256
            )));
        }
        self.file.sync_all().map_err(|e| disk(&e))
    }
}

fn disk(error: &io::Error) -> Fault {
    Fault::Here(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk of the state folder is full; free some space there, or put the state folder elsewhere".to_owned()
        }
        _ => format!("the image store can't be written: {error}"),
    })
}
