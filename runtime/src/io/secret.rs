//! The keys of identities: one file each, 0600, made on the device. Must never show a key, and never use one that
//! others can read.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::store::{Disk, Folder, put_whole};
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
    /// Somebody else owns it, who can read it whatever its mode.
    Owner {
        path: PathBuf,
        uid: u32,
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
            KeyError::Owner { path, uid } => write!(
                f,
                "key file {} belongs to user {uid}, who can read it; it was not used: chown it to the user of skerry, and make a new key if it \
                 may be known",
                path.display()
            ),
            KeyError::Length { path } => write!(f, "key file {} does not hold {KEY_BYTES} bytes", path.display()),
            KeyError::Io { path, error } => write!(f, "key file {}: {error}", path.display()),
        }
    }
}

/// The text of a file that nobody else can read.
pub fn read_private(path: &Path) -> Result<String, KeyError> {
    let mut text = String::new();
    let read = open_private(path)?.read_to_string(&mut text);
    read.map(|_| text).map_err(|error| KeyError::Io { path: path.to_owned(), error })
}

/// What is judged is what is then read, whatever becomes of the path.
fn open_private(path: &Path) -> Result<File, KeyError> {
    let path = path.to_owned();
    let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(KeyError::Io { path, error }),
    };
    let (mode, uid) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path, mode });
    }
    // Root reads everything anyway.
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Owner { path, uid });
    }
    Ok(file)
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
        match open_private(&path) {
            Ok(mut file) => {
                let mut key = Vec::new();
                file.read_to_end(&mut key).map_err(fault)?;
                if key.len() == KEY_BYTES { Ok(key) } else { Err(KeyError::Length { path }) }
            }
            Err(KeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                self.make(&path).map_err(fault)
            }
            Err(error) => Err(error),
        }
    }

    fn make(&self, path: &Path) -> io::Result<Vec<u8>> {
        let folder = Folder::private(self.folder.clone())?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
        make_key(&folder, name)
    }
}

/// Never half of one: that would be refused for ever. And never one that a power cut takes back: the hub may know it by then.
fn make_key(folder: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let mut key = vec![0; KEY_BYTES];
    fill_random(&mut key)?;
    put_whole(folder, name, &format!("{name}.new"), &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::store::tests::disk::{Dice, SimDisk, Trouble};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_was_given_out_survives_every_cut_and_half_a_key_none() {
        let mut given_out = 0;
        for seed in 0..400 {
            let (disk, mut dice) = (SimDisk::new(1 << 20), Dice(seed));
            make_key(&disk, "before.key").unwrap();
            disk.expect(Some(Trouble::CutAtOperation(dice.roll(8))));
            let made = make_key(&disk, "m.key");
            disk.power_up(&mut dice);
            let read = |name: &str| {
                let file = disk.open(name).ok()?;
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read(0, &mut bytes).unwrap();
                Some(bytes)
            };
            assert!(read("before.key").is_some_and(|key| key.len() == KEY_BYTES));
            match made {
                Ok(key) => assert_eq!(read("m.key"), Some(key), "seed {seed}"),
                Err(_) => assert!(read("m.key").is_none_or(|key| key.len() == KEY_BYTES), "seed {seed}"),
            }
            given_out += u32::from(read("m.key").is_some());
        }
        assert!((100..390).contains(&given_out), "{given_out} of 400: it is cut before, in the midst and after");
    }

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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(keys.sign("m", b"x").unwrap(), first);
        // Only root can give it away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            let refused = keys.sign("m", b"x").unwrap_err();
            assert!(refused.to_string().contains("belongs to user 12345"), "{refused}");
        }
    }
}
