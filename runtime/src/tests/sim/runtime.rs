//! The runtime of the simulated world: the real hub, the real storage thread step by step, the real clock on simulated
//! readings, the real store on the simulated disk. Must never do what `tasks/port.rs` would not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use smol::channel::{Receiver, unbounded};

use super::picture::Scan;
use super::ways;
use crate::io::clock::Clock;
use crate::io::store::tests::disk::SimDisk;
use crate::io::store::{LastClock, OpenError, Opened, Options};
use crate::logic::hub::{Commit, Hub, HubConfig, LinkIx, Restored};
use crate::model::time::{Mono, Now, Wall};
use crate::tasks::storage::{Done, Job, LOADS_MAX, Next, Thread};

type Reopen = Box<dyn FnMut(u64) -> Result<Opened, OpenError>>;

/// A store that is open, and what was read back from it.
type Found = (Opened, Scan);

/// What a reopened store was found to hold, for whoever asks next.
type Scans = Rc<RefCell<Option<Scan>>>;

pub struct Runtime {
    pub hub: Hub,
    clock: Clock,
    thread: Thread<Reopen>,
    told: Receiver<Done>,
    scans: Scans,
    pub jobs: VecDeque<Job>,
    pub dones: VecDeque<Done>,
    idle_since: u64,
}

/// What came of a turn.
pub struct Turned {
    pub frames: Vec<(LinkIx, Vec<u8>)>,
    pub commit: Option<Commit>,
}

pub fn open(disk: &SimDisk, options: &Options, acknowledged: Option<u64>) -> Result<Found, OpenError> {
    let mut opened = disk.open_store(options, acknowledged)?;
    assert_eq!(opened.report, None, "a cut is no damage");
    disk.expect(None);
    let scan = Scan::of(&mut opened.store, &opened.restored).expect("it can be read");
    Ok((opened, scan))
}

/// The clock's readings when the runtime starts.
pub struct Start<'a> {
    pub boot: &'a str,
    pub mono: Mono,
}

impl Runtime {
    pub fn start(
        disk: &SimDisk,
        options: &Options,
        opened: Opened,
        hub: HubConfig,
        variant: usize,
        at: &Start<'_>,
    ) -> Runtime {
        let Opened { store, restored, clock, .. } = opened;
        let (done, told) = unbounded();
        let scans = Scans::default();
        let (disk, options, found) = (disk.clone(), options.clone(), Rc::clone(&scans));
        let reopen: Reopen = Box::new(move |acknowledged| {
            let (opened, scan) = open(&disk, &options, Some(acknowledged))?;
            *found.borrow_mut() = Some(scan);
            Ok(opened)
        });
        Runtime {
            hub: Runtime::hub(hub, variant, restored),
            clock: Runtime::clock(&clock, at),
            thread: Thread::new(store, reopen, done),
            told,
            scans,
            jobs: VecDeque::new(),
            dones: VecDeque::new(),
            idle_since: at.mono.0,
        }
    }

    fn hub(config: HubConfig, variant: usize, restored: Restored) -> Hub {
        Hub::new("d", config, ways::table(variant), restored)
    }

    fn clock(last: &LastClock, at: &Start<'_>) -> Clock {
        // Built in 1970: the newest time that is certain is the last commit's.
        Clock::resume(last, Wall(0), at.boot, at.mono)
    }

    pub fn now(&self, mono: Mono, wall: Wall) -> Now {
        self.clock.at(mono, wall)
    }

    /// A batch of calls, and everything that follows from it.
    pub fn turn<R>(&mut self, now: Now, act: impl FnOnce(&mut Hub) -> R) -> (R, Turned) {
        let hub = &mut self.hub;
        if hub.next_timeout(now) <= now.mono {
            hub.on_timeout(now);
        }
        let result = act(hub);
        hub.end_turn(now);
        let mut frames = Vec::new();
        while let Some(ix) = hub.take_output() {
            frames.push((ix, hub.output(ix).map_or_else(Vec::new, std::mem::take)));
        }
        let commit = hub.poll_commit(now);
        if let Some(commit) = &commit {
            self.jobs.push_back(Job::Commit(Box::new(commit.clone())));
        }
        while self.jobs.len() < LOADS_MAX
            && let Some(request) = hub.poll_load()
        {
            self.jobs.push_back(Job::Load(request));
        }
        (result, Turned { frames, commit })
    }

    /// The storage thread does its next job, or what is due. False if there was nothing.
    pub fn storage(&mut self, mono: Mono) -> bool {
        let next = match self.jobs.pop_front() {
            Some(job) => Some(Next::Job(job)),
            None => self
                .thread
                .next_timeout()
                .and_then(|(wait, next)| (mono.0 - self.idle_since >= wait.as_millis() as u64).then_some(next)),
        };
        let Some(next) = next else { return false };
        if !self.thread.take(next) {
            self.idle_since = mono.0;
        }
        while let Ok(done) = self.told.try_recv() {
            self.dones.push_back(done);
        }
        true
    }

    /// The store has nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.dones.is_empty() && self.thread.next_timeout().is_none()
    }

    /// What the store held when it was opened again, if it was.
    pub fn reopened(&self) -> Option<Scan> {
        self.scans.borrow_mut().take()
    }

    pub fn close(self) {
        self.thread.close();
    }
}
