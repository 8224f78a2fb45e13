//! The storage thread: the only one that touches the store. Takes jobs in order, says what came of each. A panic of redb ends it with the
//! whole program, which begins again (`io::again`). Must never decide what to write.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use smol::channel::{Receiver, Sender};
use smol::lock::Semaphore;

use crate::io::clock;
use crate::io::store::{Letter, OpenError, Opened, Sizes, Store};
use crate::logic::hub::{Commit, LetterId, LoadRequest, LoadedBlock, Wrote};
use crate::model::limits::STORE_RETRY;
use crate::model::time::Mono;

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

/// Reads of queues that may wait.
pub const LOADS_MAX: usize = 16;
/// Questions of operators that may wait.
const ASKS_MAX: usize = 4;
/// Jobs that may wait: all of those, and the two commits of a stop. A commit must always find place, since there is no other
/// until it is answered.
pub const JOBS_MAX: usize = LOADS_MAX + ASKS_MAX + 2;

/// The way of operators' questions to the thread: only so many at once.
pub struct Asks {
    jobs: Sender<Job>,
    open: Semaphore,
}

impl Asks {
    pub fn new(jobs: Sender<Job>) -> Asks {
        Asks { jobs, open: Semaphore::new(ASKS_MAX) }
    }

    /// Nothing but zeros when the thread is gone.
    pub async fn sizes(&self) -> Sizes {
        self.ask(|answer| Job::Sizes { answer }).await.unwrap_or_default()
    }

    /// A page of dead letters; `None` when the thread is gone.
    pub async fn dead_letters(&self, from: LetterId, limit: usize) -> Option<Result<Vec<Letter>, String>> {
        self.ask(|answer| Job::DeadLetters { from, limit, answer }).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Option<T> {
        let _place = self.open.acquire().await;
        let (answer, answered) = smol::channel::bounded(1);
        self.jobs.send(job(answer)).await.ok()?;
        answered.recv().await.ok()
    }
}

/// Commits between two looks at what can be given back while there is always another job.
const SWEEP_EVERY: u32 = 16;
/// A store with nothing to do for this long gives back what it can.
const SWEEP_AFTER: Duration = Duration::from_millis(200);

/// Runs until the channel closes. A failed commit closes the store; it is opened again every few seconds, by `reopen` with the
/// number of the last commit that was told as done.
pub fn run<F: FnMut(u64) -> Result<Opened, OpenError>>(
    store: Store,
    reopen: F,
    jobs: Receiver<Job>,
    done: Sender<Done>,
) {
    let mut thread = Thread::new(store, reopen, done);
    let mut since = clock::mono();
    while let Some(next) = next(&thread, &jobs, since) {
        if !thread.take(next) {
            since = clock::mono();
        }
    }
    thread.close();
}

/// A job, or what is to be done if none comes for a while; `None` at the end.
fn next<F: FnMut(u64) -> Result<Opened, OpenError>>(
    thread: &Thread<F>,
    jobs: &Receiver<Job>,
    since: Mono,
) -> Option<Next> {
    let Some((wait, then)) = thread.next_timeout() else { return jobs.recv_blocking().ok().map(Next::Job) };
    let left = wait.saturating_sub(Duration::from_millis(clock::mono().since(since)));
    let later = async {
        smol::Timer::after(left).await;
        Some(then)
    };
    let job = async { jobs.recv().await.ok().map(Next::Job) };
    // What has waited its time comes before the next job: there may always be one.
    smol::block_on(smol::future::or(later, job))
}

/// What the thread does, step by step; a simulation calls the same.
pub struct Thread<F> {
    /// `None` after a failure.
    store: Option<Store>,
    reopen: F,
    /// The last commit of the store that was told as done.
    acknowledged: u64,
    /// What the hub was told last.
    full: bool,
    /// A step left more to do.
    sweeping: bool,
    commits: u32,
    done: Sender<Done>,
}

pub enum Next {
    Job(Job),
    Retry,
    Sweep,
    /// Whether there is room again, which others may have made.
    Look,
}

impl<F: FnMut(u64) -> Result<Opened, OpenError>> Thread<F> {
    pub fn new(store: Store, reopen: F, done: Sender<Done>) -> Thread<F> {
        let acknowledged = store.acknowledged();
        Thread { store: Some(store), reopen, acknowledged, full: false, sweeping: false, commits: 0, done }
    }

    /// What is to be done when no job came for that long.
    pub fn next_timeout(&self) -> Option<(Duration, Next)> {
        match &self.store {
            None => Some((STORE_RETRY, Next::Retry)),
            Some(_) if self.sweeping => Some((Duration::from_millis(1), Next::Sweep)),
            Some(store) if store.wants_sweep() => Some((SWEEP_AFTER, Next::Sweep)),
            Some(_) if self.full => Some((STORE_RETRY, Next::Look)),
            Some(_) => None,
        }
    }

    /// What is tried every few seconds, if anything is.
    fn tries(&self) -> Option<Discriminant<Next>> {
        let (wait, next) = self.next_timeout()?;
        (wait == STORE_RETRY).then(|| discriminant(&next))
    }

    /// True if what is tried every few seconds has waited all along, so that jobs do not put it off; false if the time of
    /// [`Thread::next_timeout`] begins now.
    pub fn take(&mut self, next: Next) -> bool {
        let before = self.tries().filter(|_| matches!(next, Next::Job(_)));
        self.act(next);
        before.is_some() && before == self.tries()
    }

    fn act(&mut self, next: Next) {
        match next {
            Next::Job(job) => self.job(job),
            Next::Sweep => self.sweep(),
            Next::Look => self.tell_room(),
            Next::Retry => {
                if let Ok(opened) = (self.reopen)(self.acknowledged) {
                    if let Some(report) = opened.report {
                        log::error!("store {report}");
                    }
                    self.store = Some(opened.store);
                    self.send(Done::Reopened);
                    self.full = true;
                    self.tell_room();
                }
            }
        }
    }

    /// For a clean stop.
    pub fn close(self) {
        if let Some(store) = self.store
            && let Err(reason) = store.close()
        {
            log::warn!("store close=failed reason={reason:?}");
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Commit(commit) => self.commit(&commit),
            Job::Load(request) => {
                let store = self.store.as_mut();
                let result = store.map_or(Err("the store is closed".to_owned()), |s| s.load(&request));
                self.close_after(&result);
                self.send(Done::Loaded { request, result });
            }
            Job::DeadLetters { from, limit, answer } => {
                let store = self.store.as_mut();
                let closed = || Err("it is closed after an earlier failure".to_owned());
                let result = store.map_or_else(closed, |s| s.dead_letters(from, limit));
                let _ = answer.try_send(result);
            }
            Job::Sizes { answer } => {
                let _ = answer.try_send(self.store.as_mut().map_or_else(Sizes::default, Store::sizes));
            }
        }
    }

    fn commit(&mut self, commit: &Commit) {
        let result = match &mut self.store {
            Some(open) => open.commit(commit),
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
        let result = store.sweep();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::store::Options;
    use crate::io::store::tests::disk::{SimDisk, Trouble};
    use std::cell::Cell;

    #[test]
    fn whoever_asks_for_the_sizes_does_not_put_off_the_next_try() {
        let disk = SimDisk::new(64 << 20);
        let options = Options { quota_bytes: None, allow_volatile_state: true, boot_id: "boot 0".to_owned() };
        let tries = Cell::new(0);
        let store = disk.open_store(&options, None).unwrap().store;
        let (done, told) = smol::channel::unbounded();
        let reopen = |acknowledged| {
            tries.set(tries.get() + 1);
            disk.open_store(&options, Some(acknowledged))
        };
        let mut thread = Thread::new(store, reopen, done);
        disk.expect(Some(Trouble::FailAtOperation(0)));
        assert!(!thread.take(Next::Job(Job::Commit(Box::default()))), "its time begins with the failure");
        assert!(matches!(told.try_recv(), Ok(Done::Committed { result: Err(_), .. })));
        let (answer, _sizes) = smol::channel::unbounded();
        for _ in 0..3 {
            assert!(thread.take(Next::Job(Job::Sizes { answer: answer.clone() })), "the store waits on");
        }
        assert!(matches!(thread.next_timeout(), Some((wait, Next::Retry)) if wait == STORE_RETRY));
        disk.expect(None);
        assert!(!thread.take(Next::Retry));
        assert!(matches!(told.try_recv(), Ok(Done::Reopened)));
        assert_eq!(tries.get(), 1);
    }
}
