//! The keys of identities: one file each, 0600, made on the device. Must never show a key, and never use one that
//! others can read.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::model::identity::Secret;

const KEY_BYTES: usize = 32;

/// The system's random numbers.
pub(super) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system gives no random numbers"))
}

/// The key folder of a state folder.
pub struct Keys {
    folder: PathBuf,
}

#[derive(Debug)]
pub enum KeyError {
    /// Others can read it.
    Open {
        path: PathBuf,
        mode: u32,
    },
    Length {
        path: PathBuf,
    },
    Io {
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Open { path, mode } => write!(
                f,
                "key file {} has mode {mode:04o}, so others can read it; it was not used: chmod 600 it, and make a new key if it may be known",
                path.display()
            ),
            KeyError::Length { path } => write!(f, "key file {} does not hold {KEY_BYTES} bytes", path.display()),
            KeyError::Io { path, error } => write!(f, "key file {}: {error}", path.display()),
        }
    }
}

/// The text of a file that nobody else can read.
pub fn read_private(path: &Path) -> Result<String, KeyError> {
    let fault = |error| KeyError::Io { path: path.to_owned(), error };
    let metadata = fs::metadata(path).map_err(fault)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map_err(fault)
}

impl Keys {
    pub fn new(state: &Path) -> Keys {
        Keys { folder: state.join("keys") }
    }

    /// HMAC-SHA256 of `bytes` under the module's key, which is made at its first use.
    pub fn sign(&self, module: &str, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key(module)?);
        Ok(hmac::sign(&key, bytes).as_ref().to_vec())
    }

    /// The key with which the module proves who it is, made at its first use, and a second one that follows from it.
    pub fn identity(&self, module: &str) -> Result<[Secret; 2], KeyError> {
        let primary = self.key(module)?;
        let secondary = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &primary), b"secondary").as_ref().to_vec();
        Ok([Secret::new(primary), Secret::new(secondary)])
    }

    /// Whoever has it can then prove nothing more with it here. One that was never made is no error.
    pub fn remove(&self, module: &str) -> Result<(), KeyError> {
        let path = self.folder.join(format!("{module}.key"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KeyError::Io { path, error }),
            _ => Ok(()),
        }
    }

    fn key(&self, module: &str) -> Result<Vec<u8>, KeyError> {
        let path = self.folder.join(format!("{module}.key"));
        let fault = |error| KeyError::Io { path: path.clone(), error };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = metadata.mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Open { path, mode });
                }
                let key = fs::read(&path).map_err(fault)?;
                if key.len() == KEY_BYTES { Ok(key) } else { Err(KeyError::Length { path }) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(&path).map_err(fault),
            Err(error) => Err(fault(error)),
        }
    }

    /// Under a temporary name first: half a key would be refused for ever.
    fn make(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut key = vec![0; KEY_BYTES];
        fill_random(&mut key)?;
        fs::create_dir_all(&self.folder)?;
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(&self.folder)?.sync_all()?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_kept_close_and_refused_when_open() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keys::new(state.path());
        let first = keys.sign("m", b"x").unwrap();
        assert_eq!(keys.sign("m", b"x").unwrap(), first);
        assert_ne!(keys.sign("n", b"x").unwrap(), first);
        let path = state.path().join("keys/m.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(keys.sign("m", b"x"), Err(KeyError::Open { mode: 0o640, .. })));
    }
}
