//! The storage thread: the only one that touches the store. Takes jobs in order, says what came of each.
//! Must never decide what to write.

use std::path::PathBuf;
use std::time::Duration;

use smol::channel::{Receiver, Sender};

use crate::io::store::{Options, Store};
use crate::logic::hub::{Commit, DeadLetter, LoadRequest, LoadedBlock, Wrote};
use crate::model::limits::STORE_RETRY;

/// What the thread is asked.
pub enum Job {
    Commit(Box<Commit>),
    Load(LoadRequest),
    DeadLetters {
        limit: usize,
        answer: Sender<Result<Vec<DeadLetter>, String>>,
    },
    /// File bytes, bytes in blocks, quota.
    Sizes {
        answer: Sender<(u64, u64, u64)>,
    },
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
}

/// Jobs that may wait: one commit, and reads of a few queues.
pub const JOBS_MAX: usize = 16;

/// Runs until the channel closes. A failed commit closes the store; it is opened again every few seconds.
pub fn run(store: Store, folder: PathBuf, options: Options, jobs: Receiver<Job>, done: Sender<Done>) {
    let mut store = Some(store);
    while let Some(job) = next(&jobs, store.is_none()) {
        match job {
            Next::Job(Job::Commit(commit)) => {
                let result = match &mut store {
                    Some(open) => open.commit(&commit),
                    None => Err("it is closed after an earlier failure".to_owned()),
                };
                if result.is_err() {
                    store = None;
                }
                send(&done, Done::Committed { id: commit.id, result });
            }
            Next::Job(Job::Load(request)) => {
                let result = store.as_ref().map_or(Err("the store is closed".to_owned()), |s| s.load(&request));
                send(&done, Done::Loaded { request, result });
            }
            Next::Job(Job::DeadLetters { limit, answer }) => {
                let result = store.as_ref().map_or(Err("the store is closed".to_owned()), |s| s.dead_letters(limit));
                let _ = answer.try_send(result);
            }
            Next::Job(Job::Sizes { answer }) => {
                let _ = answer.try_send(store.as_ref().map_or((0, 0, 0), Store::sizes));
            }
            Next::Retry => {
                if let Ok(opened) = Store::open(&folder, &options) {
                    store = Some(opened.store);
                    send(&done, Done::Reopened);
                }
            }
        }
    }
}

enum Next {
    Job(Job),
    Retry,
}

fn next(jobs: &Receiver<Job>, closed: bool) -> Option<Next> {
    if !closed {
        return jobs.recv_blocking().ok().map(Next::Job);
    }
    let retry = async {
        smol::Timer::after(Duration::from_millis(STORE_RETRY.as_millis() as u64)).await;
        Some(Next::Retry)
    };
    smol::block_on(smol::future::or(async { jobs.recv().await.ok().map(Next::Job) }, retry))
}

fn send(done: &Sender<Done>, what: Done) {
    // The other end only goes when the runtime ends.
    let _ = done.send_blocking(what);
}
