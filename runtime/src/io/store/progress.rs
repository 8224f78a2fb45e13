//! How far the making of a new index has come, as a file beside it: whatever ends the process meanwhile, a power cut or a panic of
//! redb, the next start goes on from there. Must never be there while the store is sound.

use std::fmt::Write;
use std::io;

use super::disk::Disk;

pub(super) const PROGRESS: &str = "store.salvage";
const PROGRESS_NEW: &str = "store.salvage.new";
/// Bytes of the file that are read: a reason, two names and two numbers.
const BYTES_MAX: u64 = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// What is wrong with the index.
    pub reason: String,
    /// Where the index is moved; `None` until somebody has begun.
    pub aside: Option<String>,
    /// The part of the old index that is copied, and how often that was begun.
    pub step: usize,
    pub tries: u32,
    /// A part could not be copied to its end.
    pub has_gaps: bool,
}

impl Progress {
    pub fn read(disk: &dyn Disk) -> Option<Progress> {
        let file = disk.open(PROGRESS).ok()?;
        let mut bytes = vec![0; file.len().ok()?.min(BYTES_MAX) as usize];
        file.read(0, &mut bytes).ok()?;
        Some(Progress::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// What is no number or no line counts as at its beginning.
    fn parse(text: &str) -> Progress {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let number = |name: &str| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Progress {
            reason: field("reason:").unwrap_or("it is inconsistent").to_owned(),
            aside: field("aside:").filter(|name| name.starts_with("store.redb.")).map(str::to_owned),
            step: number("step:") as usize,
            tries: number("tries:"),
            has_gaps: number("gaps:") != 0,
        }
    }

    /// Whole or not at all, and safe when it returns.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut text = format!("reason: {}\n", self.reason.replace('\n', " "));
        if let Some(aside) = &self.aside {
            let _ = writeln!(text, "aside: {aside}");
        }
        let _ = writeln!(text, "step: {}\ntries: {}\ngaps: {}", self.step, self.tries, u32::from(self.has_gaps));
        let file = disk.create(PROGRESS_NEW)?;
        file.write(0, text.as_bytes())?;
        file.sync()?;
        disk.rename(PROGRESS_NEW, PROGRESS)?;
        disk.sync()
    }

    pub fn remove(disk: &dyn Disk) -> io::Result<()> {
        disk.remove(PROGRESS)?;
        disk.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::disk::SimDisk;
    use super::*;

    #[test]
    fn what_was_written_is_read_and_rubbish_is_the_beginning() {
        let disk = SimDisk::new(1 << 20);
        assert_eq!(Progress::read(&disk), None);
        let aside = Some("store.redb.broken-2".to_owned());
        let progress = Progress { reason: "two\nlines".into(), aside, step: 3, tries: 1, has_gaps: true };
        progress.write(&disk).unwrap();
        assert_eq!(Progress::read(&disk), Some(Progress { reason: "two lines".into(), ..progress }));
        disk.edit(PROGRESS, |content| *content = b"aside: ../x\nstep: -1\ntries".to_vec());
        let expected = Progress { reason: "it is inconsistent".into(), ..Progress::default() };
        assert_eq!(Progress::read(&disk), Some(expected));
        Progress::remove(&disk).unwrap();
        assert_eq!(Progress::read(&disk), None);
    }
}
