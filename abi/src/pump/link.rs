//! The socket of an instance, and who reads and writes it when. Whoever has to wait may read; whoever has
//! something to say may write. Must never hold the state's lock across a system call.

use std::{
    os::fd::OwnedFd,
    os::unix::net::UnixStream,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::*},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::wire::frame::{ToHost, is_ordered, split};

use super::{
    Facts, Status,
    credit::Credit,
    state::{Effects, State},
};

/// What one read may bring, bytes. Untouched pages of it cost nothing.
pub(super) const INBOX_BYTES: usize = 256 * 1024;
/// The runtime's window of deliveries ends long before this; beyond it reading pauses.
const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A sender in a burst writes by itself once this much has gathered, bytes.
const BURST_BYTES: usize = 32 * 1024;
/// Frames that follow a write within this time are a burst, and gather.
const BURST_SPAN: Duration = Duration::from_micros(200);
/// How long messages gather while others are under way: a sender that keeps a window writes when it has to wait, which
/// is long before; this is for one that never waits.
const GATHER_SPAN: Duration = Duration::from_micros(100);
/// Buffers that grew beyond this are given back when they are empty.
const BUFFER_BYTES_KEPT: usize = 512 * 1024;

/// What the main thread has to look at between two messages.
pub(super) mod attention {
    pub(in super::super) const STOP: u32 = 1;
    pub(in super::super) const METHODS: u32 = 2;
    pub(in super::super) const OVERDRAWN: u32 = 4;
    /// The link has ended, or the instance has failed.
    pub(in super::super) const CLOSED: u32 = 8;
}

pub(super) struct Link {
    socket: UnixStream,
    /// Whoever polls the socket polls this too: somebody wants something of him.
    bell: OwnedFd,
    /// Ends the process. `None` in a test, whose process goes on.
    pub(super) exit: Option<fn(i32) -> !>,
    pub(super) status: &'static Status,
    pub(super) facts: Facts,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    pub(super) reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    /// Somebody found the writer's place taken.
    unwritten: AtomicBool,
    pub(super) attention: AtomicU32,
    /// Why the link was closed, as an exit code.
    pub(super) code: AtomicI32,
    /// Counts what the main thread is busy with, 0 while it waits at the socket.
    pub(super) busy: AtomicU64,
    /// The main thread waits for the reader's place.
    pub(super) wanted: AtomicBool,
    /// How many pieces of work there were: where the next `busy` comes from.
    pub(super) works: AtomicU64,
    /// Some queue was refused lately.
    pub(super) refused: AtomicBool,
    /// Boot time as the watcher last saw it, ms: saves a look at the clock for every message.
    pub(super) now_ms: AtomicU64,
    pub(super) watcher_asleep: AtomicBool,
    pub(super) watcher: OnceLock<Thread>,
}

pub(super) struct Reader {
    pub(super) buffer: Vec<u8>,
    /// Bytes that are there.
    pub(super) end: usize,
    /// Bytes of whole frames, all applied but for the ordered ones.
    pub(super) scanned: usize,
    /// When what gathers is written, by whoever has this place.
    gathered_at: Option<Instant>,
}

#[derive(Default)]
struct Writer {
    buffer: Vec<u8>,
    at: usize,
}

impl Link {
    /// `read` is what came behind the first two frames.
    pub(super) fn new(
        socket: UnixStream,
        exit: Option<fn(i32) -> !>,
        status: &'static Status,
        facts: Facts,
        credit: Credit,
        read: &[u8],
    ) -> std::io::Result<Link> {
        let mut buffer = vec![0; INBOX_BYTES.max(read.len())];
        buffer[..read.len()].copy_from_slice(read);
        Ok(Link {
            socket,
            bell: eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?,
            exit,
            status,
            facts,
            state: Mutex::new(State::new(credit)),
            changed: Condvar::new(),
            reader: Mutex::new(Reader { buffer, end: read.len(), scanned: 0, gathered_at: None }),
            writer: Mutex::default(),
            unwritten: AtomicBool::new(false),
            attention: AtomicU32::new(0),
            code: AtomicI32::new(super::EXIT_LINK),
            busy: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            works: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            now_ms: AtomicU64::new(super::clock::boot_ms()),
            watcher_asleep: AtomicBool::new(false),
            watcher: OnceLock::new(),
        })
    }

    #[inline]
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn needs(&self, bits: u32) -> bool {
        self.attention.load(Relaxed) & bits != 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.attention.load(Acquire) & attention::CLOSED != 0
    }

    /// Nothing comes or goes any more. In a process of its own that is its end, and this does not return.
    pub(super) fn close(&self, code: i32) {
        if let Some(exit) = self.exit {
            exit(code);
        }
        if self.attention.fetch_or(attention::CLOSED, SeqCst) & attention::CLOSED == 0 {
            self.code.store(code, SeqCst);
        }
        let wakers = {
            let mut state = self.state();
            let mut wakers = state.tickets.close();
            wakers.extend(state.asks.close());
            self.changed.notify_all();
            wakers
        };
        wakers.iter().for_each(|wake| wake.wake());
        self.ring();
    }

    /// The main thread is done: the watcher ends, and who still waits hears so.
    pub(super) fn end(&self) {
        self.attention.fetch_or(attention::CLOSED, SeqCst);
        if self.exit.is_none() {
            self.close(super::EXIT_STOPPED);
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    pub(super) fn ring(&self) {
        // A full counter has rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Writes what there is to write. True when all of it is gone. Without `wait` it may be false: the socket is full,
    /// or another thread writes, which then takes ours along.
    pub(super) fn flush(&self, wait: bool) -> bool {
        loop {
            // Before the lock is tried: whoever has it looks at this after he has let it go.
            self.unwritten.store(true, SeqCst);
            let writer = match self.writer.try_lock() {
                Ok(writer) => writer,
                Err(_) if wait => self.writer.lock().unwrap_or_else(PoisonError::into_inner),
                Err(_) => return false,
            };
            self.unwritten.store(false, SeqCst);
            let all = self.write(writer, wait);
            if !all || !self.unwritten.load(SeqCst) {
                return all;
            }
        }
    }

    fn write(&self, mut writer: MutexGuard<'_, Writer>, wait: bool) -> bool {
        loop {
            if writer.at == writer.buffer.len() {
                writer.at = 0;
                writer.buffer.clear();
                if writer.buffer.capacity() > BUFFER_BYTES_KEPT {
                    writer.buffer = Vec::new();
                }
                let mut state = self.state();
                state.seal();
                if state.out.is_empty() {
                    return true;
                }
                std::mem::swap(&mut state.out, &mut writer.buffer);
                state.written_at = Instant::now();
                state.rung = false;
                state.gathering = 0;
            }
            match send(&self.socket, &writer.buffer[writer.at..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => writer.at += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !wait => return false,
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None);
                    if self.is_closed() {
                        return true;
                    }
                }
                Err(_) => {
                    drop(writer);
                    self.close(super::EXIT_LINK);
                    return true;
                }
            }
        }
    }

    /// After something was put into `state.out` by a thread that is in no callback: a lone frame is written at once,
    /// those of a burst gather until there are many, or until whoever is at the socket hears the bell.
    pub(super) fn nudge(&self, mut state: MutexGuard<'_, State>) {
        if state.out.len() > BURST_BYTES || state.written_at.elapsed() > BURST_SPAN {
            drop(state);
            self.flush(true);
        } else if !state.rung {
            state.rung = true;
            drop(state);
            self.ring();
        }
    }

    /// After a message was put into `state.out`, behind `before` bytes, by a thread that is in no callback. One that is
    /// alone under way is written at once: somebody may wait for it. Others gather until there are many, until their
    /// sender waits for a receipt or for credit, or for a moment.
    pub(super) fn nudge_message(&self, mut state: MutexGuard<'_, State>, before: usize) {
        if state.out.len() > BURST_BYTES || state.tickets.under_way() == 1 {
            drop(state);
            self.flush(true);
            return;
        }
        if state.gathering == before {
            state.gathering = state.out.len();
        }
        if !state.rung {
            state.rung = true;
            drop(state);
            self.ring();
        }
    }

    /// Writes what somebody may wait for: not what only gathers.
    pub(super) fn flush_urgent(&self) -> bool {
        if self.state().only_gathers() { true } else { self.flush(false) }
    }

    /// Waits at the socket, by poll, and reads and applies what comes. The caller has the reader's place.
    pub(super) fn turn(&self, reader: &mut Reader, timeout: Option<Duration>) {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
        let gathered = reader.gathered_at.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.map_or(gathered, |span| Some(gathered.map_or(span, |gathered| span.min(gathered))));
        let timeout = timeout.and_then(|span| Timespec::try_from(span).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return;
        }
        let (readable, rung) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if rung {
            let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
            self.flush_urgent();
        }
        if readable {
            self.read(reader);
        }
        if rung || reader.gathered_at.is_some() {
            self.write_gathered(reader);
        }
    }

    /// Writes what has gathered for long enough.
    fn write_gathered(&self, reader: &mut Reader) {
        if self.state().gathering == 0 {
            reader.gathered_at = None;
            return;
        }
        let now = Instant::now();
        if *reader.gathered_at.get_or_insert(now + GATHER_SPAN) <= now {
            reader.gathered_at = None;
            self.flush(false);
        }
    }

    /// Waits until something can be written, and reads what comes meanwhile.
    pub(super) fn read_until_writable(&self, reader: &mut Reader) {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
        if poll(&mut fds, None).is_ok() && fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP) {
            self.read(reader);
        }
    }

    /// Reads what is there and applies it. False when nothing was there.
    pub(super) fn read(&self, reader: &mut Reader) -> bool {
        if reader.end == reader.buffer.len() {
            if reader.buffer.len() >= INBOX_BYTES_MAX {
                std::thread::sleep(Duration::from_millis(1));
                return false;
            }
            let size = reader.buffer.len() * 2;
            reader.buffer.resize(size, 0);
        }
        loop {
            match recv(&self.socket, &mut reader.buffer[reader.end..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.close(super::EXIT_LINK),
                Ok((_, count)) => {
                    reader.end += count;
                    self.scan(reader);
                    return true;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => self.close(super::EXIT_LINK),
            }
            return false;
        }
    }

    /// Applies the whole frames that were not looked at before; ordered ones are left to the main thread.
    pub(super) fn scan(&self, reader: &mut Reader) {
        let mut rest = &reader.buffer[reader.scanned..reader.end];
        let mut state: Option<MutexGuard<'_, State>> = None;
        let mut effects = Effects::default();
        loop {
            let frame = match split(&mut rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    drop(state);
                    return self.broken(&error.to_string());
                }
            };
            if is_ordered(frame) {
                continue;
            }
            match ToHost::decode(frame) {
                Ok(frame) => state.get_or_insert_with(|| self.state()).apply(frame, &mut effects),
                Err(error) => {
                    drop(state);
                    return self.broken(&error.to_string());
                }
            }
        }
        reader.scanned = reader.end - rest.len();
        if let Some(state) = state {
            self.settle_effects(state, effects);
        }
    }

    fn settle_effects(&self, state: MutexGuard<'_, State>, effects: Effects) {
        if !state.methods.is_empty() {
            self.attention.fetch_or(attention::METHODS, Relaxed);
        }
        if effects.stop {
            self.attention.fetch_or(attention::STOP, Release);
        }
        if self.needs(attention::OVERDRAWN) && !state.credit.is_overdrawn() {
            self.attention.fetch_and(!attention::OVERDRAWN, Relaxed);
        }
        let notify = effects.notify && state.sleepers > 0;
        drop(state);
        if notify {
            self.changed.notify_all();
        }
        effects.wakers.iter().for_each(|wake| wake.wake());
    }

    fn broken(&self, error: &str) {
        eprintln!("skerry module host: the link is broken: {error}");
        self.close(super::EXIT_LINK);
    }
}
