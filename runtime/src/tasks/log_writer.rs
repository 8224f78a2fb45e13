//! Brings what modules log to files, where that is wanted: a thread, and what others hold of it.
//! Must never hold up who logs: lines that find no room are counted and left out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::channel::{Receiver, Sender};

use crate::io::clock;
use crate::io::log_files::LogFiles;
use crate::logic::log_ring::LogLine;
use crate::logic::log_text;
use crate::model::config::LogFilesConfig;
use crate::model::time::Mono;

/// Lines that may wait, and bytes of each.
const LINES_MAX: usize = 512;
const LINE_BYTES_MAX: usize = 8 * 1024;
/// What came together is one write, up to so many bytes of an instance.
const BATCH_BYTES_MAX: usize = 16 * 1024;
/// After an error the disk is left alone for so long.
const RETRY: Duration = Duration::from_secs(30);

enum Job {
    Line { module: Arc<str>, line: LogLine },
    Read { module: String, answer: Sender<Result<Vec<LogLine>, String>> },
}

/// What is wrong with the files, for everybody to see.
type Problem = Arc<Mutex<Option<String>>>;

/// The way to the thread; clones lead to the same.
#[derive(Clone)]
pub struct LogWriter {
    jobs: Sender<Job>,
    problem: Problem,
    /// Lines that found no room since the last one that did.
    left_out: Rc<Cell<u64>>,
}

/// Starts the thread. It ends when the writer is closed.
pub fn start(config: LogFilesConfig) -> std::io::Result<(LogWriter, std::thread::JoinHandle<()>)> {
    let (jobs, queue) = smol::channel::bounded(LINES_MAX);
    let problem = Problem::default();
    let shown = Arc::clone(&problem);
    let thread = std::thread::Builder::new().name("logs".to_owned());
    let thread = thread.spawn(move || run(&LogFiles::new(config), &queue, &shown))?;
    Ok((LogWriter { jobs, problem, left_out: Rc::default() }, thread))
}

impl LogWriter {
    pub fn write(&self, module: &Arc<str>, line: &LogLine) {
        let left_out = self.left_out.get();
        if left_out > 0 {
            let text = format!("{left_out} lines of modules came too fast to be written here");
            let lost = LogLine { at: line.at, level: 2, stream: "skerry".to_owned(), text };
            if self.jobs.try_send(Job::Line { module: Arc::clone(module), line: lost }).is_ok() {
                self.left_out.set(0);
            }
        }
        let mut line = line.clone();
        line.text.truncate(line.text.floor_char_boundary(LINE_BYTES_MAX));
        let job = Job::Line { module: Arc::clone(module), line };
        if self.jobs.try_send(job).is_err() {
            self.left_out.set(self.left_out.get() + 1);
        }
    }

    /// Everything in the files of a module, with what was written up to now. At once asked, so that a follower who is put in place in the
    /// same step misses nothing and gets nothing twice. `None`: they can't be had now.
    pub fn read(&self, module: &str) -> Option<Receiver<Result<Vec<LogLine>, String>>> {
        let (answer, answered) = smol::channel::bounded(1);
        self.jobs.try_send(Job::Read { module: module.to_owned(), answer }).ok()?;
        Some(answered)
    }

    /// Why lines are in memory only, if they are.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came before is still written.
    pub fn close(&self) {
        self.jobs.close();
    }
}

fn run(files: &LogFiles, queue: &Receiver<Job>, problem: &Problem) {
    let mut tried: Option<Mono> = None;
    while let Ok(first) = queue.recv_blocking() {
        let mut batches: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let mut asked = None;
        for job in std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok())) {
            match job {
                Job::Line { module, line } => {
                    let batch = batches.entry(module).or_default();
                    batch.push_str(&log_text::write(&line));
                    if batch.len() > BATCH_BYTES_MAX {
                        break;
                    }
                }
                Job::Read { module, answer } => {
                    asked = Some((module, answer));
                    break;
                }
            }
        }
        write(files, &batches, &mut tried, problem);
        if let Some((module, answer)) = asked {
            let lines = files.read(&module).map(|text| log_text::read(&text)).map_err(|error| error.to_string());
            let _ = answer.send_blocking(lines);
        }
    }
}

fn write(files: &LogFiles, batches: &BTreeMap<Arc<str>, String>, tried: &mut Option<Mono>, problem: &Problem) {
    let now = clock::mono();
    if tried.is_some_and(|at| now < at.after(RETRY)) {
        return;
    }
    let written = batches.iter().try_for_each(|(module, lines)| files.append(module, lines));
    let said = match &written {
        _ if batches.is_empty() => return,
        Ok(()) => None,
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            Some("logs of modules are kept in memory only: the disk of the state folder is full".to_owned())
        }
        Err(error) => Some(format!("logs of modules are kept in memory only: their files can't be written: {error}")),
    };
    *tried = said.as_ref().map(|_| now);
    let mut problem = problem.lock().unwrap_or_else(PoisonError::into_inner);
    if *problem != said {
        match &said {
            Some(text) => log::warn!("{text}"),
            None => log::info!("logs of modules are written again"),
        }
        *problem = said;
    }
}
