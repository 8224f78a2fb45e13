//! What modules log, in files: one instance's are `NAME.log` and, older, `NAME.log.1` and so on.
//! Must never sync, never take the last of a disk, and never grow beyond its limits: messages come first.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::disk;
use crate::model::config::LogFilesConfig;

/// Bytes that stay free on the disk: what the store needs when it is full itself.
const FREE_BYTES_MIN: u64 = 4 << 20;

pub struct LogFiles(LogFilesConfig);

impl LogFiles {
    pub fn new(config: LogFilesConfig) -> LogFiles {
        LogFiles(config)
    }

    /// Appends whole lines. After an error nothing of them is there.
    pub fn append(&self, module: &str, lines: &str) -> io::Result<()> {
        let path = self.path(module, 0);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0.folder)?;
        if disk::of(&self.0.folder)?.available < FREE_BYTES_MIN {
            return Err(ErrorKind::StorageFull.into());
        }
        let length = fs::metadata(&path).map_or(0, |m| m.len());
        if length == 0 {
            self.make_room()?;
        } else if length + lines.len() as u64 > self.0.file_bytes_max {
            self.rotate(module)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        file.write_all(lines.as_bytes()).inspect_err(|_| {
            // Half a line would hide the next one.
            let _ = file.set_len(length);
        })
    }

    /// Everything of an instance, the oldest first. What is not there is empty.
    pub fn read(&self, module: &str) -> io::Result<String> {
        let mut text = String::new();
        for number in (0..self.0.files_max).rev() {
            match fs::read(self.path(module, number)) {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(text)
    }

    fn path(&self, module: &str, number: u32) -> PathBuf {
        let name = if number == 0 { format!("{module}.log") } else { format!("{module}.log.{number}") };
        self.0.folder.join(name)
    }

    fn rotate(&self, module: &str) -> io::Result<()> {
        let oldest = self.0.files_max - 1;
        if oldest == 0 {
            return fs::remove_file(self.path(module, 0));
        }
        for number in (0..oldest).rev() {
            match fs::rename(self.path(module, number), self.path(module, number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // The oldest is gone, so this is about the others.
        self.make_room()
    }

    /// Removes the oldest files, whose they may be, until one more fits.
    fn make_room(&self) -> io::Result<()> {
        let mut files = all(&self.0.folder)?;
        files.sort_by_key(|(_, _, changed)| *changed);
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (path, bytes, _) in files {
            if total + self.0.file_bytes_max <= self.0.total_bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

/// Every file of logs in a folder, with its bytes and when it last changed.
pub fn all(folder: &Path) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((entry.path(), metadata.len(), metadata.modified()?));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, files_max: u32, total_bytes_max: u64) -> LogFiles {
        LogFiles(LogFilesConfig { folder: folder.join("logs"), file_bytes_max: 100, files_max, total_bytes_max })
    }

    #[test]
    fn the_oldest_files_go() {
        let state = tempfile::tempdir().unwrap();
        let logs = files(state.path(), 3, 10_000);
        let line = |n: u32| format!("line {n:04}\n");
        (0..100).for_each(|n| logs.append("a", &line(n)).unwrap());
        let text = logs.read("a").unwrap();
        // Two full files of ten lines, and the newest.
        assert!(text.len() > 200 && text.len() <= 300, "{}", text.len());
        assert!(text.starts_with(&line(100 - text.len() as u32 / 10)) && text.ends_with(&line(99)), "{text}");
        assert_eq!(logs.read("b").unwrap(), "");
        assert_eq!(fs::read_dir(state.path().join("logs")).unwrap().count(), 3);
    }

    #[test]
    fn all_together_have_a_limit() {
        let state = tempfile::tempdir().unwrap();
        let logs = files(state.path(), 3, 500);
        for module in 0..20 {
            (0..30).for_each(|n| logs.append(&format!("m{module}"), &format!("line {n:04}\n")).unwrap());
        }
        let total: u64 = all(&state.path().join("logs")).unwrap().iter().map(|(_, bytes, _)| bytes).sum();
        // Each that writes for the first time may add one file before the next rotation.
        assert!(total <= 600, "{total}");
        assert!(logs.read("m19").unwrap().ends_with("line 0029\n"));
    }

    #[test]
    fn a_full_disk_is_an_error_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let logs = files(state.path(), 3, 500);
        fs::create_dir(state.path().join("logs")).unwrap();
        std::os::unix::fs::symlink("/dev/full", state.path().join("logs/a.log")).unwrap();
        assert_eq!(logs.append("a", "x\n").unwrap_err().kind(), ErrorKind::StorageFull);
        logs.append("b", "x\n").unwrap();
    }
}
