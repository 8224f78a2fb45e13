//! The one way to the hub: a turn of its logic, and then what the turn asks for: bytes to sockets, commits and reads to
//! the storage thread, the next time-out to its timer. Must never wait.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use smol::Async;
use smol::channel::{Receiver, Sender};

use super::storage::{Done, Job, LOADS_MAX};
use crate::io::clock::Clock;
use crate::logic::hub::{Hub, LetterId, LinkIx, StoreState};
use crate::model::time::{Mono, Now};
use skerry_abi::wire::frame::{self, Outcome, ToHost};

/// Where the frames of a link go.
pub enum Wire {
    /// To a module host. `full` wakes the task that waits until the socket takes more.
    Socket { stream: Rc<Async<UnixStream>>, full: Sender<()> },
    /// To a task of this process, which is woken and takes them.
    Task { wake: Sender<()> },
    /// To somebody in this process who sends through the control socket: only answers to tickets arrive here.
    Local(RefCell<HashMap<u64, Sender<(Outcome, String)>>>),
}

pub struct Port {
    hub: RefCell<Hub>,
    clock: Clock,
    wires: RefCell<HashMap<LinkIx, Rc<Wire>>>,
    jobs: Sender<Job>,
    /// The time-out that the timer task sleeps for, and how to wake it for an earlier one.
    armed: Cell<Mono>,
    rearm: Sender<()>,
    /// Who waits for the commit of a document: (commit, where to say so).
    waiting: RefCell<Vec<Waiting>>,
    last_commit: Cell<u64>,
    /// Who waits to hear of a dead letter.
    letters: RefCell<HashMap<LetterId, Sender<Result<(), String>>>>,
}

type Waiting = (u64, Sender<Result<(), String>>);

impl Port {
    /// The receiver is for [`run_timer`].
    pub fn new(hub: Hub, clock: Clock, jobs: Sender<Job>) -> (Rc<Port>, Receiver<()>) {
        let (rearm, rearmed) = smol::channel::bounded(1);
        let port = Port {
            hub: RefCell::new(hub),
            clock,
            wires: RefCell::default(),
            jobs,
            armed: Cell::new(Mono::NEVER),
            rearm,
            waiting: RefCell::default(),
            last_commit: Cell::new(0),
            letters: RefCell::default(),
        };
        (Rc::new(port), rearmed)
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    pub fn clock_is_behind(&self) -> bool {
        self.clock.is_behind()
    }

    /// A batch of calls into the hub, and everything that follows from it.
    pub fn turn<R>(&self, act: impl FnOnce(&mut Hub, Now) -> R) -> R {
        let now = self.clock.now();
        let mut hub = self.hub.borrow_mut();
        let result = act(&mut hub, now);
        hub.end_turn(now);
        self.carry_out(&mut hub, now);
        result
    }

    /// A look at the hub that changes nothing.
    pub fn look<R>(&self, at: impl FnOnce(&Hub) -> R) -> R {
        at(&self.hub.borrow())
    }

    pub fn connect(&self, ix: LinkIx, wire: Rc<Wire>) {
        self.wires.borrow_mut().insert(ix, wire);
    }

    pub fn disconnect(&self, ix: LinkIx) {
        self.wires.borrow_mut().remove(&ix);
    }

    /// One frame for an instance, behind everything that the hub has for it.
    pub fn send(&self, ix: LinkIx, frame: &ToHost<'_>) {
        let mut hub = self.hub.borrow_mut();
        if let Some(out) = hub.output(ix) {
            frame.encode(out);
        }
        self.write(&mut hub, ix);
    }

    /// Writes what the socket takes; true when nothing is left.
    pub fn flush(&self, ix: LinkIx) -> bool {
        self.write(&mut self.hub.borrow_mut(), ix)
    }

    /// The frames of a link whose task takes them.
    pub fn take_output(&self, ix: LinkIx) -> Vec<u8> {
        self.hub.borrow_mut().output(ix).map_or_else(Vec::new, std::mem::take)
    }

    /// Says when the next commit to be built is on disk. Asked *before* the turn that puts a document, since that turn
    /// may build the commit. With a broken store that is at once: nobody knows when there will be another commit.
    pub fn when_committed(&self) -> Receiver<Result<(), String>> {
        let (done, wait) = smol::channel::bounded(1);
        if let StoreState::Broken(reason) = self.hub.borrow().store_state() {
            let _ = done.try_send(Err(format!("the store is broken: {reason}")));
            return wait;
        }
        self.waiting.borrow_mut().push((self.last_commit.get() + 1, done));
        wait
    }

    /// Says what comes of a replay or purge. Asked right after the turn that began it: no answer comes before a commit.
    pub fn when_answered(&self, id: LetterId) -> Receiver<Result<(), String>> {
        let (answer, answered) = smol::channel::bounded(1);
        self.letters.borrow_mut().insert(id, answer);
        answered
    }

    fn carry_out(&self, hub: &mut Hub, now: Now) {
        for (id, result) in hub.take_answered() {
            if let Some(answer) = self.letters.borrow_mut().remove(&id) {
                let _ = answer.try_send(result);
            }
        }
        while let Some(ix) = hub.take_output() {
            self.write(hub, ix);
        }
        if let Some(commit) = hub.poll_commit(now) {
            self.last_commit.set(commit.id);
            self.submit(Job::Commit(Box::new(commit)));
        }
        while self.jobs.len() < LOADS_MAX
            && let Some(request) = hub.poll_load()
        {
            self.submit(Job::Load(request));
        }
        let due = hub.next_timeout(now);
        if due < self.armed.get() {
            self.armed.set(due);
            let _ = self.rearm.try_send(());
        }
    }

    /// The storage thread has room for it: see `JOBS_MAX`.
    fn submit(&self, job: Job) {
        if let Err(error) = self.jobs.try_send(job) {
            debug_assert!(error.is_closed(), "a job found no place");
            log::error!("store thread=gone");
        }
    }

    fn write(&self, hub: &mut Hub, ix: LinkIx) -> bool {
        let Some(wire) = self.wires.borrow().get(&ix).cloned() else { return true };
        let Some(out) = hub.output(ix) else { return true };
        match &*wire {
            Wire::Local(open) => {
                answer_local(&mut open.borrow_mut(), out);
                out.clear();
                true
            }
            Wire::Task { wake } => {
                let _ = wake.try_send(());
                false
            }
            Wire::Socket { stream, full } => {
                let taken = write_some(stream, out);
                out.drain(..taken);
                if out.is_empty() {
                    // A burst may have grown it; an idle instance keeps nothing.
                    if out.capacity() > KEEP_BYTES {
                        *out = Vec::new();
                    }
                    return true;
                }
                let _ = full.try_send(());
                false
            }
        }
    }

    /// The storage thread's word.
    pub fn handle_done(&self, done: Done) {
        match done {
            Done::Committed { id, result } => {
                let told = result.as_ref().map(|_| ()).map_err(String::clone);
                if let Err(reason) = &result {
                    log::error!(
                        "store commit=failed reason={reason:?} action=\"senders are told; trying again every 5 s\""
                    );
                }
                self.turn(|hub, now| hub.handle_committed(now, id, result));
                self.waiting.borrow_mut().retain(|(commit, done)| {
                    let over = *commit <= id;
                    if over {
                        let _ = done.try_send(told.clone());
                    }
                    !over
                });
            }
            Done::Loaded { request, result } => self.turn(|hub, now| match result {
                Ok(block) => {
                    if let Some(block) = block.as_ref()
                        && let Some(reason) = &block.unreadable
                    {
                        let action = match block.messages.is_empty() {
                            true => "its messages count as dead letters; check the disk",
                            false => "its messages are delivered once more; check the disk",
                        };
                        log::error!("store read=failed reason={reason:?} action={action:?}");
                    }
                    hub.handle_loaded(now, request, block);
                }
                Err(reason) => {
                    log::error!("store read=failed reason={reason:?}");
                    hub.handle_load_failed(request, &reason);
                }
            }),
            Done::Room { room, full } => self.turn(|hub, now| hub.handle_room(now, room, full)),
            Done::Reopened => {
                log::info!("store state=sound");
                self.turn(|hub, _| hub.handle_reopened());
            }
        }
    }

    /// The next step of a clean stop: a commit of what is left, or the wait for the one under way. `None` when nothing is left
    /// that can be written.
    pub fn commit_rest(&self) -> Option<Receiver<Result<(), String>>> {
        let now = self.clock.now();
        let mut hub = self.hub.borrow_mut();
        if let Some(commit) = hub.final_commit(now) {
            self.last_commit.set(commit.id);
            self.submit(Job::Commit(Box::new(commit)));
        } else if !hub.is_committing() {
            return None;
        }
        let (done, wait) = smol::channel::bounded(1);
        self.waiting.borrow_mut().push((self.last_commit.get(), done));
        Some(wait)
    }
}

/// Output buffers above this are given back when they are empty.
const KEEP_BYTES: usize = 64 * 1024;

fn write_some(stream: &Async<UnixStream>, out: &[u8]) -> usize {
    let mut taken = 0;
    while taken < out.len() {
        match io::Write::write(&mut stream.get_ref(), &out[taken..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Its reader sees the end of the link and closes it.
            Err(_) => return out.len(),
        }
    }
    taken
}

fn answer_local(open: &mut HashMap<u64, Sender<(Outcome, String)>>, out: &[u8]) {
    let mut rest = out;
    while let Ok(Some(bytes)) = frame::split(&mut rest) {
        if let Ok(ToHost::Settled { first, count, outcome, reason }) = ToHost::decode(bytes) {
            for ticket in first..first + u64::from(count) {
                if let Some(answer) = open.remove(&ticket) {
                    let _ = answer.try_send((outcome, reason.to_owned()));
                }
            }
        }
    }
}

/// Wakes the hub when it is time. One task, for as long as the runtime runs.
pub async fn run_timer(port: Rc<Port>, rearmed: Receiver<()>) {
    loop {
        let due = port.look(|hub| hub.next_timeout(port.now()));
        port.armed.set(due);
        // At least a millisecond: what is due may wait for an event of its own, and must not spin until then.
        let wait = Duration::from_millis(due.since(port.now().mono).max(1));
        let sleep = async {
            if due == Mono::NEVER {
                std::future::pending::<()>().await;
            }
            smol::Timer::after(wait).await;
        };
        smol::future::or(sleep, async {
            let _ = rearmed.recv().await;
        })
        .await;
        if due <= port.now().mono {
            port.turn(|hub, now| hub.on_timeout(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::store::LastClock;
    use crate::logic::hub::{HubConfig, Ledger, QueueRow, Restored};
    use crate::logic::routing::RouteTable;
    use crate::model::endpoint::{Endpoint, PRIORITY_DEFAULT};
    use crate::model::time::Wall;
    use crate::tasks::storage::{Asks, JOBS_MAX};

    #[test]
    fn nobody_waits_for_a_commit_of_a_broken_store() {
        let hub = Hub::new("d", HubConfig::default(), RouteTable::new([]).unwrap(), Restored::default());
        let (jobs, _queue) = smol::channel::bounded(JOBS_MAX);
        let (port, _timer) = Port::new(hub, Clock::start(&LastClock::default(), Wall(0)), jobs);
        let put = || port.turn(|hub, now| hub.put_document(now, "twin/x", Some(b"{}".to_vec()), true));
        let first = port.when_committed();
        put();
        assert!(first.try_recv().is_err(), "it is under way");
        port.handle_done(Done::Committed { id: 1, result: Err("simulated".to_owned()) });
        assert_eq!(first.try_recv(), Ok(Err("simulated".to_owned())));
        let second = port.when_committed();
        put();
        assert_eq!(second.try_recv(), Ok(Err("the store is broken: simulated".to_owned())));
        // Then comes the commit of what was put meanwhile.
        port.handle_done(Done::Reopened);
        port.handle_done(Done::Committed { id: 2, result: Ok(Default::default()) });
        let third = port.when_committed();
        put();
        assert!(third.try_recv().is_err(), "it is under way");
        port.handle_done(Done::Committed { id: 3, result: Ok(Default::default()) });
        assert_eq!(third.try_recv(), Ok(Ok(())));
    }

    /// After a start every queue asks how old its first block is; a commit that finds no place would never be answered, and no
    /// other would follow it.
    #[test]
    fn a_commit_finds_its_place_behind_any_number_of_reads_and_questions() {
        let endpoint = |at: u32| Endpoint::Input { module: format!("m{at}"), input: "in".into() };
        let ledger = Ledger { stored: 1, ..Ledger::default() };
        let row = |id| QueueRow { id, endpoint: endpoint(id), priority: PRIORITY_DEFAULT, ledger };
        let restored = Restored { next_block: 2, queues: (1..100).map(row).collect(), ..Restored::default() };
        let hub = Hub::new("d", HubConfig::default(), RouteTable::new([]).unwrap(), restored);
        let (jobs, queue) = smol::channel::bounded(JOBS_MAX);
        let (port, _timer) = Port::new(hub, Clock::start(&LastClock::default(), Wall(0)), jobs.clone());
        let asks = Asks::new(jobs);
        let executor = smol::LocalExecutor::new();
        port.turn(|_, _| ());
        let asking: Vec<_> = (0..50).map(|_| executor.spawn(asks.sizes())).collect();
        while executor.try_tick() {}
        port.turn(|hub, now| hub.put_document(now, "twin/x", Some(b"{}".to_vec()), true));
        let found: Vec<Job> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
        assert!(found.iter().any(|job| matches!(job, Job::Commit(_))), "among {} jobs", found.len());
        assert_eq!(found.iter().filter(|job| matches!(job, Job::Load(_))).count(), LOADS_MAX);
        assert!(found.iter().filter(|job| matches!(job, Job::Sizes { .. })).count() < asking.len());
    }
}
