//! The control socket as a file: folder, stale socket, mode. Must never take the place of a
//! socket that still answers, and never be open to more than owner and group, not even for a moment.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Bytes that a socket's path may have, from the size of `sun_path` less its end and the temporary suffix.
const PATH_BYTES_MAX: usize = 99;

#[derive(Debug)]
pub struct BindFault {
    pub path: PathBuf,
    pub why: String,
}

impl fmt::Display for BindFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control socket {}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for BindFault {}

/// Makes the folder (0755) if it is missing and the socket (0660); replaces one that nobody answers on.
pub fn bind(path: &Path) -> Result<UnixListener, BindFault> {
    let fault = |why: String| BindFault { path: path.to_owned(), why };
    let failed = |what: &str, error: io::Error| fault(format!("{what}: {error}"));
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(fault(format!("the path has {bytes} bytes, and a socket's may have {PATH_BYTES_MAX}")));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| failed("cannot make its folder", error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(fault("something that is not a socket lies there".to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(fault("another skerry is running".to_owned())),
        _ => {}
    }
    // Made under another name, and moved when its mode is right: umask is one for all threads, so it is left alone.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(|error| failed("cannot bind", error))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| failed("cannot put it in place", error))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/skerry/control.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(bind(&path).unwrap_err().why, "another skerry is running");
        drop(first);
        assert!(UnixStream::connect(&path).is_err());
        let _second = bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_is_not_a_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(bind(&folder.path().join("x".repeat(120))).unwrap_err().why.contains("99"));
    }
}
