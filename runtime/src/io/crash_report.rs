//! Keeps what is known of an abnormal exit on disk: `STATE/crashes/<module>/<number>.txt`, a few a module.
//! Must never fill the disk or wear it out: a module that crashes in a loop writes one report a minute.

use crate::model::instance::Exit;
use crate::model::time::{Mono, Wall};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// One crash, as the instance task knows it.
#[derive(Clone, Copy, Debug)]
pub struct Crash<'a> {
    pub module: &'a str,
    pub generation: u64,
    pub at: Wall,
    pub exit: &'a Exit,
    /// `filter 1.2.0`
    pub image: &'a str,
    pub digest: &'a str,
    pub build_id: Option<&'a str>,
    /// The delivery that a callback was working on, described for a human.
    pub message: Option<&'a str>,
    /// What the module wrote last; only the end of it is kept.
    pub log: &'a [u8],
}

/// The folder of reports, and when each module last got one.
#[derive(Debug)]
pub struct CrashReports {
    folder: PathBuf,
    written: BTreeMap<String, Mono>,
}

impl CrashReports {
    pub fn new(state: &Path) -> CrashReports {
        CrashReports { folder: state.join("crashes"), written: BTreeMap::new() }
    }

    /// Writes a report, synced, and drops the module's oldest beyond the limit. `None`: there was one within the minute.
    pub fn write(&mut self, now: Mono, crash: &Crash<'_>) -> io::Result<Option<PathBuf>> {
        self.written.retain(|_, at| now.since(*at) < INTERVAL_MS);
        if self.written.contains_key(crash.module) {
            return Ok(None);
        }
        if crash.module.is_empty() || crash.module.starts_with('.') || crash.module.contains('/') {
            return Err(io::Error::other(format!("{:?} is no module's name", crash.module)));
        }
        self.written.insert(crash.module.to_owned(), now);
        let folder = self.folder.join(crash.module);
        fs::create_dir_all(&folder)?;
        let numbers = numbers(&folder)?;
        // Numbered, not dated: the wall clock of a device without one begins anew with every boot.
        let number = numbers.last().map_or(1, |last| last + 1);
        let (part, path) = (folder.join("report.part"), path_of(&folder, number));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(head(crash).as_bytes())?;
        file.write_all(&crash.log[crash.log.len().saturating_sub(LOG_BYTES_MAX)..])?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        let surplus = (numbers.len() + 1).saturating_sub(REPORTS_MAX);
        for old in &numbers[..surplus] {
            fs::remove_file(path_of(&folder, *old))?;
        }
        File::open(&folder)?.sync_all()?;
        Ok(Some(path))
    }

    /// The module's reports, oldest first.
    pub fn list(&self, module: &str) -> io::Result<Vec<PathBuf>> {
        let folder = self.folder.join(module);
        Ok(numbers(&folder)?.into_iter().map(|number| path_of(&folder, number)).collect())
    }
}

fn head(crash: &Crash<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("module", &crash.module);
    line("generation", &crash.generation);
    line("time_ms", &crash.at.0);
    line("exit", crash.exit);
    if let Exit::Signal { signal, image_offset } = crash.exit {
        line("signal", signal);
        if let Some(offset) = image_offset {
            line("image_offset", &format_args!("{offset:#x}"));
        }
    }
    line("image", &crash.image);
    line("digest", &crash.digest);
    line("build_id", &crash.build_id.unwrap_or("none"));
    line("message_in_progress", &crash.message.unwrap_or("none"));
    text.push_str("\nlog:\n");
    text
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.txt"))
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|n| n.strip_suffix(".txt")).and_then(|n| n.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reports that one module keeps.
const REPORTS_MAX: usize = 5;
/// Bytes of log in one report: what explains a crash stands near the end.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// Between two reports of one module: a crash loop must not wear out the flash.
const INTERVAL_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn crash<'a>(exit: &'a Exit, log: &'a [u8]) -> Crash<'a> {
        Crash {
            module: "filter",
            generation: 3,
            at: Wall(1_700_000_000_000),
            exit,
            image: "filter 1.0.0",
            digest: "aa",
            build_id: Some("bb"),
            message: None,
            log,
        }
    }

    #[test]
    fn a_report_says_what_is_known() {
        let state = tempfile::tempdir().unwrap();
        let mut reports = CrashReports::new(state.path());
        let exit = Exit::Signal { signal: 11, image_offset: Some(0x1234) };
        let mut log = vec![b'x'; LOG_BYTES_MAX];
        log.extend_from_slice(b"the end");
        let path = reports.write(Mono(5), &crash(&exit, &log)).unwrap().unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with(
            "module: filter\ngeneration: 3\ntime_ms: 1700000000000\n\
             exit: killed by SIGSEGV at offset 0x1234 of its image\nsignal: 11\nimage_offset: 0x1234\n\
             image: filter 1.0.0\ndigest: aa\nbuild_id: bb\nmessage_in_progress: none\n\nlog:\nx"
        ));
        assert!(text.ends_with("the end"));
        assert_eq!(text.split_once("log:\n").unwrap().1.len(), LOG_BYTES_MAX);
    }

    #[test]
    fn few_and_seldom() {
        let state = tempfile::tempdir().unwrap();
        let mut reports = CrashReports::new(state.path());
        let mut written = 0;
        for at in (0..10 * 60_000).step_by(20_000) {
            written += usize::from(reports.write(Mono(at), &crash(&Exit::NeverHello, b"")).unwrap().is_some());
        }
        assert_eq!(written, 10);
        let names: Vec<_> = reports.list("filter").unwrap();
        assert_eq!(names.len(), REPORTS_MAX);
        assert!(names[4].ends_with("00000010.txt"), "{names:?}");
        let other = Crash { module: "../x", ..crash(&Exit::NeverHello, b"") };
        assert!(reports.write(Mono(0), &other).is_err());
    }
}
