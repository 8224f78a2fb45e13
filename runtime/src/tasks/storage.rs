//! The storage thread: the only one that touches the store. Takes jobs in order, says what came of each.
//! Must never decide what to write.

use std::path::PathBuf;
use std::time::Duration;

use smol::channel::{Receiver, Sender};

use crate::io::store::{Letter, Options, Sizes, Store};
use crate::logic::hub::{Commit, LetterId, LoadRequest, LoadedBlock, Wrote};
use crate::model::limits::STORE_RETRY;

/// What the thread is asked.
pub enum Job {
    Commit(Box<Commit>),
    Load(LoadRequest),
    DeadLetters { from: LetterId, limit: usize, answer: Sender<Result<Vec<Letter>, String>> },
    Sizes { answer: Sender<Sizes> },
}

/// What the hub is told.
pub enum Done {
    Committed {
        id: u64,
        result: Result<Wrote, String>,
    },
    Loaded {
        request: LoadRequest,
        result: Result<Option<LoadedBlock>, String>,
    },
    /// After a failure the store could be opened again.
    Reopened,
    /// A store that was full was looked at again.
    Room {
        room: u64,
        full: Option<String>,
    },
}

/// Jobs that may wait: one commit, and reads of a few queues.
pub const JOBS_MAX: usize = 16;

/// Commits between two looks at what can be given back while there is always another job.
const SWEEP_EVERY: u32 = 16;
/// A store with nothing to do for this long gives back what it can.
const SWEEP_AFTER: Duration = Duration::from_millis(200);

/// Runs until the channel closes. A failed commit closes the store; it is opened again every few seconds.
pub fn run(store: Store, folder: PathBuf, options: Options, jobs: Receiver<Job>, done: Sender<Done>) {
    let mut thread = Thread {
        acknowledged: store.acknowledged(),
        full: false,
        sweeping: false,
        commits: 0,
        store: Some(store),
        done,
    };
    while let Some(job) = thread.next(&jobs) {
        match job {
            Next::Job(job) => thread.job(job),
            Next::Sweep => thread.sweep(),
            Next::Look => thread.tell_room(),
            Next::Retry => {
                if let Ok(opened) = Store::reopen(&folder, &options, thread.acknowledged) {
                    if let Some(report) = opened.report {
                        log::error!("store {report}");
                    }
                    thread.store = Some(opened.store);
                    thread.send(Done::Reopened);
                    thread.full = true;
                    thread.tell_room();
                }
            }
        }
    }
    if let Some(store) = thread.store.take()
        && let Err(reason) = store.close()
    {
        log::warn!("store close=failed reason={reason:?}");
    }
}

struct Thread {
    /// `None` after a failure.
    store: Option<Store>,
    /// The last commit of the store that was told as done.
    acknowledged: u64,
    /// What the hub was told last.
    full: bool,
    /// A step left more to do.
    sweeping: bool,
    commits: u32,
    done: Sender<Done>,
}

enum Next {
    Job(Job),
    Retry,
    Sweep,
    /// Whether there is room again, which others may have made.
    Look,
}

impl Thread {
    fn next(&self, jobs: &Receiver<Job>) -> Option<Next> {
        let (wait, then) = match &self.store {
            None => (Duration::from_millis(STORE_RETRY.as_millis() as u64), Next::Retry),
            Some(_) if self.sweeping => (Duration::from_millis(1), Next::Sweep),
            Some(store) if store.wants_sweep() => (SWEEP_AFTER, Next::Sweep),
            Some(_) if self.full => (STORE_RETRY, Next::Look),
            Some(_) => return jobs.recv_blocking().ok().map(Next::Job),
        };
        let later = async {
            smol::Timer::after(wait).await;
            Some(then)
        };
        smol::block_on(smol::future::or(async { jobs.recv().await.ok().map(Next::Job) }, later))
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Commit(commit) => self.commit(&commit),
            Job::Load(request) => {
                let store = self.store.as_mut();
                let result = store.map_or(Err("the store is closed".to_owned()), |s| guarded(|| s.load(&request)));
                self.close_after(&result);
                self.send(Done::Loaded { request, result });
            }
            Job::DeadLetters { from, limit, answer } => {
                let store = self.store.as_mut();
                let closed = || Err("it is closed after an earlier failure".to_owned());
                let result = store.map_or_else(closed, |s| guarded(|| s.dead_letters(from, limit)));
                let _ = answer.try_send(result);
            }
            Job::Sizes { answer } => {
                let _ = answer.try_send(self.store.as_mut().map_or_else(Sizes::default, Store::sizes));
            }
        }
    }

    fn commit(&mut self, commit: &Commit) {
        let result = match &mut self.store {
            Some(open) => guarded(|| open.commit(commit)),
            None => Err("it is closed after an earlier failure".to_owned()),
        };
        if let (Ok(wrote), Some(store)) = (&result, &self.store) {
            self.acknowledged = store.acknowledged();
            self.full = wrote.full.is_some();
        }
        self.close_after(&result);
        self.send(Done::Committed { id: commit.id, result });
        self.commits += 1;
        if self.commits.is_multiple_of(SWEEP_EVERY) && self.store.as_ref().is_some_and(Store::wants_sweep) {
            self.sweep();
        }
    }

    /// One step; the next comes when no job waits.
    fn sweep(&mut self) {
        let Some(store) = &mut self.store else { return };
        let result = guarded(|| store.sweep());
        self.acknowledged = store.acknowledged();
        self.sweeping = result == Ok(true);
        if let Err(reason) = &result {
            log::error!("store sweep=failed reason={reason:?}");
        }
        self.close_after(&result);
        self.tell_room();
    }

    fn tell_room(&mut self) {
        let Some(store) = self.store.as_ref().filter(|_| self.full) else { return };
        let (room, full) = store.room();
        self.full = full.is_some();
        self.send(Done::Room { room, full });
    }

    fn close_after<T>(&mut self, result: &Result<T, String>) {
        if result.is_err() {
            self.store = None;
        }
    }

    fn send(&self, what: Done) {
        // The other end only goes when the runtime ends.
        let _ = self.done.send_blocking(what);
    }
}

/// redb answers some broken pages with a panic. That closes the store, like any failure, and ends nothing else.
fn guarded<R>(act: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    result.unwrap_or_else(|_| Err("its index is inconsistent; when skerry starts again it is made anew".to_owned()))
}
