//! The watcher: a thread that reads in place of a main thread that stays in one callback, so that answers, credit,
//! pings, the stop and the end of the link get through. Sleeps for good while nothing runs.
//! Must never run a callback.

use std::{
    sync::{Arc, atomic::Ordering::*},
    time::Duration,
};

use super::{clock, link::Link, wait::STAND_IN_SLICE};

/// Wakers of the module's executor run on it, nothing else of the author's.
const STACK_BYTES: usize = 256 * 1024;
/// How often the watcher looks while callbacks run. A callback that lasts longer gets a stand-in at the socket.
const LOOK_EVERY: Duration = STAND_IN_SLICE;
/// Looks without a callback before the watcher goes to sleep: a stream of messages does not wake it for each.
const IDLE_LOOKS: u32 = 20;

pub(super) fn start(link: &Arc<Link>) -> std::io::Result<()> {
    let watched = link.clone();
    let thread = std::thread::Builder::new()
        .name("skerry-watch".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || watch(&watched))?;
    let _ = link.watcher.set(thread.thread().clone());
    Ok(())
}

/// Another piece of work of the main thread begins.
#[inline]
pub(super) fn busy(link: &Link) {
    // Only the main thread writes it, so there is no need for a read-modify-write.
    let number = link.works.load(Relaxed) + 1;
    link.works.store(number, Relaxed);
    link.busy.store(number, Release);
}

/// The main thread comes back from the socket: sets the clock, and sees to it that the watcher looks.
pub(super) fn resume(link: &Link) {
    link.now_ms.store(clock::boot_ms(), Relaxed);
    busy(link);
    // Between a store and a load of the other side's word, so that not both miss each other.
    std::sync::atomic::fence(SeqCst);
    if link.watcher_asleep.load(Relaxed) {
        link.watcher_asleep.store(false, Relaxed);
        if let Some(watcher) = link.watcher.get() {
            watcher.unpark();
        }
    }
}

fn watch(link: &Link) {
    let (mut last, mut idle) = (0, 0);
    while !link.is_closed() {
        std::thread::sleep(LOOK_EVERY);
        link.now_ms.store(clock::boot_ms(), Relaxed);
        let busy = link.busy.load(SeqCst);
        if busy != 0 {
            idle = 0;
            if busy == last {
                link.flush(false);
                link.stand_in(busy, STAND_IN_SLICE, || false);
            }
            last = busy;
            continue;
        }
        let works = link.works.load(Relaxed);
        idle = if works == last { idle + 1 } else { 0 };
        last = works;
        if idle >= IDLE_LOOKS {
            link.watcher_asleep.store(true, SeqCst);
            std::sync::atomic::fence(SeqCst);
            if link.busy.load(SeqCst) == 0 && !link.is_closed() {
                std::thread::park();
            }
            link.watcher_asleep.store(false, SeqCst);
            idle = 0;
        }
    }
}
