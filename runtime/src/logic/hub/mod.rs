//! The hub: accepts messages, keeps them in one queue per (endpoint, priority), delivers them, and answers their senders
//! when they are safe. A plain state machine: it never learns the time by itself, never waits, and touches no file or socket.
//!
//! Its shell calls `publish`, `complete`, `open_link` … with the time, then [`Hub::end_turn`], then writes what
//! [`Hub::take_output`] has, commits what [`Hub::poll_commit`] gives and reads what [`Hub::poll_load`] asks for.

mod backlog;
mod commit;
mod dead;
mod deliver;
mod entry;
mod full;
mod ledger;
mod link;
mod persist;
mod publish;
mod queue;
mod removed;
mod routes;
mod settle;
mod stored;
mod trace;
mod view;

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod dead_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod removed_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace_tests;
#[cfg(test)]
mod upstream_tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use smallvec::SmallVec;

use crate::logic::routing::{self, Candidates, RouteTable};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::limits;
use crate::model::time::{Age, Mono, Now};
pub use commit::{
    BlockWrite, Commit, DeadLetter, EvictRange, ExpireRange, Gone, LetterId, LoadRequest, LoadedBlock, LoadedMessage,
    QueueRow, Restored, RowWrite, Settled, Wrote,
};
pub use dead::Answered;
pub use deliver::{Ending, Fault};
pub use ledger::Ledger;
pub use publish::Sent;
pub use removed::REMOVED_DOCUMENTS;
pub use trace::{EndState, Fate, Traced, TracedEnd};
pub use view::{Overview, QueueView, SourceView, Tapped};

use entry::{Chain, Entries, List, Parent};
use link::Link;
use queue::Queue;

pub type QueueIx = u32;
pub type SourceIx = u32;
pub type IdentityIx = u32;
/// One running instance, or one client that sends through the control socket. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkIx(pub u32);

/// What the configuration decides.
#[derive(Clone, Debug)]
pub struct HubConfig {
    pub flush_interval: Duration,
    /// Time to live of messages whose route has none; `None` keeps them for ever.
    pub ttl: Option<Duration>,
    pub memory_bytes: u64,
    pub credit_messages: u32,
    pub credit_bytes: u64,
    pub refusals_max: u16,
    /// When the store is full: the oldest of the lowest priority go, instead of new ones being refused.
    pub evict: bool,
}

impl Default for HubConfig {
    fn default() -> HubConfig {
        HubConfig {
            flush_interval: limits::FLUSH_INTERVAL,
            ttl: Some(limits::TTL),
            memory_bytes: limits::MEMORY_BYTES,
            credit_messages: limits::CREDIT_MESSAGES,
            credit_bytes: limits::CREDIT_BYTES,
            refusals_max: limits::REFUSALS_MAX,
            evict: false,
        }
    }
}

/// A module's name and what it has sent and has no answer for, over all its generations.
struct Identity {
    unacked_messages: u32,
    unacked_bytes: u64,
    /// Its unanswered messages, oldest first.
    sending: List,
    sources: HashMap<String, SourceIx>,
    no_route: u64,
    refused: u64,
}

/// One output, with the routes that can match it.
struct SourceState {
    source: Source,
    candidates: Candidates,
    /// Endpoints of the route table that it has sent to, as queues.
    queues: Vec<(u32, Priority, QueueIx)>,
    counts: SourceCounts,
}

/// Of one output since the runtime started; the ledger counts by endpoint, and over restarts.
#[derive(Clone, Debug, Default)]
struct SourceCounts {
    received: u64,
    received_bytes: u64,
    no_route: u64,
    /// Turned away because the store is broken or full.
    unstored: u64,
    /// In memory; what expires on disk is not looked at one by one.
    expired: u64,
    delivered: SmallVec<[(QueueIx, Delivered); 2]>,
}

/// What a queue's consumer took of one output, and how long that took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub messages: u64,
    /// From the way to the consumer to its answer.
    pub sent_ms: u64,
    /// From the arrival; of what lay on disk from when it was read back.
    pub process_ms: u64,
}

/// Whether new messages can be made safe on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    Sound,
    /// Why not, for the sender and for `status`.
    Broken(String),
    /// At its quota.
    Full(String),
}

pub struct Hub {
    config: HubConfig,
    device: String,
    routes: RouteTable,
    identities: Vec<Identity>,
    by_module: HashMap<String, IdentityIx>,
    sources: Vec<SourceState>,
    queues: Vec<Queue>,
    by_endpoint: HashMap<(Endpoint, Priority), QueueIx>,
    links: Vec<Option<Box<Link>>>,
    /// Links among which the memory for senders is shared out.
    borrowers: u32,
    /// A link with messages put aside was given no more, since memory is short.
    starved: bool,
    entries: Entries,
    /// Everything that is neither committed nor settled, oldest first.
    unsafes: List,
    next_seq: u64,
    next_block: u64,
    /// How much of each (queue, block) is settled, for blocks with messages in memory.
    blocks: BTreeMap<(QueueIx, u64), stored::BlockState>,
    dirty_blocks: Vec<(QueueIx, u64)>,
    dirty_since: Option<Mono>,
    dying: Vec<settle::Dying>,
    replays: Vec<dead::Replay>,
    purges: Vec<LetterId>,
    answered: Vec<Answered>,
    attempts: HashMap<(u32, u64), u16>,
    removed: BTreeMap<String, removed::Removed>,
    documents: BTreeMap<String, Option<Vec<u8>>>,
    documents_since: Option<Mono>,
    /// When the ledger first differed from the one on disk.
    ledger_since: Option<Mono>,
    /// A document wants a commit at once.
    urgent: bool,
    /// Messages sent with `Durability::Now` that are not safe.
    urgent_messages: u32,
    commit: Option<persist::InFlight>,
    next_commit: u64,
    store: StoreState,
    /// Bytes of new blocks that the store can take.
    room: u64,
    /// Why there is hardly any, if so.
    short: Option<String>,
    gaps: usize,
    /// Deliveries whose last child became safe; worked off in a loop, because chains of modules make chains of these.
    parents_safe: VecDeque<(Parent, bool)>,
    dirty_links: Vec<LinkIx>,
    output_links: Vec<LinkIx>,
    selected: Vec<routing::Target>,
    trace: trace::Trace,
    taps: usize,
    tapped: Vec<Tapped>,
}

impl Hub {
    pub fn new(device: &str, config: HubConfig, routes: RouteTable, restored: Restored) -> Hub {
        let mut hub = Hub {
            config,
            device: device.to_owned(),
            routes,
            identities: Vec::new(),
            by_module: HashMap::new(),
            sources: Vec::new(),
            queues: Vec::new(),
            by_endpoint: HashMap::new(),
            links: Vec::new(),
            borrowers: 0,
            starved: false,
            entries: Entries::default(),
            unsafes: List::new(Chain::Unsafe),
            next_seq: restored.next_seq,
            next_block: restored.next_block,
            blocks: BTreeMap::new(),
            dirty_blocks: Vec::new(),
            dirty_since: None,
            dying: Vec::new(),
            replays: Vec::new(),
            purges: Vec::new(),
            answered: Vec::new(),
            attempts: HashMap::new(),
            removed: BTreeMap::new(),
            documents: BTreeMap::new(),
            documents_since: None,
            ledger_since: None,
            urgent: false,
            urgent_messages: 0,
            commit: None,
            next_commit: 1,
            store: StoreState::Sound,
            room: restored.room,
            short: None,
            gaps: 0,
            parents_safe: VecDeque::new(),
            dirty_links: Vec::new(),
            output_links: Vec::new(),
            selected: Vec::new(),
            trace: trace::Trace::default(),
            taps: 0,
            tapped: Vec::new(),
        };
        restored.queues.into_iter().for_each(|row| hub.restore_queue(row));
        hub.take_room(restored.room, restored.full);
        hub
    }

    /// Number of the next message.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub fn store_state(&self) -> &StoreState {
        &self.store
    }

    /// Ends a batch of calls: delivers what can be delivered, and closes the frames that wait to be written.
    pub fn end_turn(&mut self, now: Now) {
        self.resolve_parents(now);
        self.feed_starved();
        while let Some(ix) = self.dirty_links.pop() {
            if let Some(link) = self.link_mut(ix) {
                link.in_dirty = false;
                self.deliver(now, ix);
                // Expired messages may have been the last children of something.
                self.resolve_parents(now);
            }
        }
        for i in 0..self.output_links.len() {
            let ix = self.output_links[i];
            self.tell_credit(ix);
            if let Some(link) = self.link_mut(ix) {
                link.flush_acks();
            }
        }
    }

    /// A link with frames to write, until there are none. The shell takes the bytes.
    pub fn take_output(&mut self) -> Option<LinkIx> {
        while let Some(ix) = self.output_links.pop() {
            if self.links[ix.0 as usize].as_ref().is_some_and(|l| !l.out.is_empty()) {
                return Some(ix);
            }
        }
        None
    }

    /// The frames for this link; the shell removes what it has written.
    pub fn output(&mut self, ix: LinkIx) -> Option<&mut Vec<u8>> {
        self.link_mut(ix).map(|l| &mut l.out)
    }

    /// When something is due without an event.
    pub fn next_timeout(&self, now: Now) -> Mono {
        let mut due = self.next_commit_at();
        if self.removed_until() != Age::NEVER {
            due = due.min(now.mono.plus(self.removed_until().0.saturating_sub(now.age.0).max(100)));
        }
        for queue in &self.queues {
            if let Some(expiry) = queue.gap_expires() {
                due = due.min(now.mono.plus(expiry.0.saturating_sub(now.age.0).max(100)));
            }
            if let Some(until) = queue.held_until.filter(|_| queue.consumer.is_some()) {
                due = due.min(until);
            }
            if queue.next_expiry != Age::NEVER {
                // Not to the millisecond: expiry frees memory, and is checked again at delivery.
                let left = Duration::from_millis(queue.next_expiry.0.saturating_sub(now.age.0).max(100));
                due = due.min(now.mono.after(left));
            }
        }
        due
    }

    /// Expires what is due and wakes held queues. The shell then ends the turn and polls as after any call.
    pub fn on_timeout(&mut self, now: Now) {
        if self.removed_until() <= now.age {
            self.remove_what_is_due(now);
        }
        for ix in 0..self.queues.len() {
            if self.queues[ix].gap_expires().is_some_and(|at| at <= now.age) {
                self.ask_to_expire(now, ix as QueueIx);
            }
            if self.queues[ix].next_expiry <= now.age {
                self.expire(now, ix as QueueIx);
            }
            let queue = &mut self.queues[ix];
            if queue.held_until.is_some_and(|until| until <= now.mono) {
                queue.held_until = None;
                if let Some((link, _)) = queue.consumer {
                    self.mark_dirty(link);
                }
            }
        }
    }

    fn link_mut(&mut self, ix: LinkIx) -> Option<&mut Link> {
        self.links.get_mut(ix.0 as usize)?.as_deref_mut()
    }

    fn link(&self, ix: LinkIx) -> Option<&Link> {
        self.links.get(ix.0 as usize)?.as_deref()
    }

    /// Its queues have something to deliver.
    fn mark_dirty(&mut self, ix: LinkIx) {
        if let Some(link) = self.link_mut(ix)
            && !link.in_dirty
        {
            link.in_dirty = true;
            self.dirty_links.push(ix);
        }
    }

    /// Its output has something to write.
    fn mark_output(&mut self, ix: LinkIx) {
        if !self.output_links.contains(&ix) {
            self.output_links.push(ix);
        }
    }
}
