//! Files of who signs images: private keys, 0600, and the `.sig` file beside an image.
//! Must never overwrite a key, and never use one that others can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use crate::model::identity::Secret;

/// Bytes of a `.sig` file: some hundred signatures.
const SIGNATURES_BYTES_MAX: u64 = 16 << 10;

/// So many bytes that nobody can guess.
pub fn random(bytes: usize) -> io::Result<Secret> {
    let mut key = vec![0; bytes];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(Secret::new(key))
}

/// Writes a file that is not there yet; `mode` is the most that others get.
pub fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Where the signatures of the image at `path` are.
pub fn signatures_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// The signatures of the image at `path`, if there are any. What is no text is one that has a fault.
pub fn signatures(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(signatures_path(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(SIGNATURES_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Puts signatures beside the image at `path`, whole or not at all.
pub fn write_signatures(path: &Path, text: &str) -> io::Result<()> {
    let target = signatures_path(path);
    let part = target.with_extension("sig.part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(part, target)
}
