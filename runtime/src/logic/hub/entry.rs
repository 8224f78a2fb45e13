//! The messages that the hub holds in memory, and two lists through them: all that are not safe, oldest first,
//! and per identity those whose sender has no answer. Must never lose a message that a queue still names.

use smallvec::SmallVec;

use super::trace::NO_MARK;
use super::{LinkIx, QueueIx, SourceIx};
use crate::model::limits::ENTRY_BYTES;
use crate::model::time::{Age, Mono, Wall};
use skerry_abi::wire::frame::Outcome;

/// Place of a message in the arena. Only valid while the message lives.
pub(super) type Key = u32;
const NIL: Key = Key::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetState {
    /// In its queue's memory.
    Waiting,
    /// With the consumer.
    Flying,
    /// Refused too often; waits for the commit that writes it to the dead letters.
    Dying,
    /// Only on disk: another copy will be made when the queue reaches it.
    OnDisk,
    Settled,
}

pub(super) struct Target {
    pub queue: QueueIx,
    pub expiry: Age,
    pub attempts: u16,
    pub state: TargetState,
    /// The block row of the message counts this queue.
    pub stored: bool,
    /// What it settled as.
    pub outcome: Outcome,
    /// When `state` last changed, or it was stored: ms after the entry was made. Only for whoever traces it.
    pub at: u32,
}

impl Target {
    pub fn waiting(queue: QueueIx, expiry: Age, attempts: u16) -> Target {
        let (state, outcome) = (TargetState::Waiting, Outcome::Delivered);
        Target { queue, expiry, attempts, state, stored: false, outcome, at: 0 }
    }
}

/// Where the message lies on disk, or will when the commit in flight succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub block: u64,
    pub index: u32,
    pub committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub link: LinkIx,
    pub ticket: u64,
}

/// A delivery that completes only when this message is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub link: LinkIx,
    pub delivery: u64,
}

pub(super) struct Entry {
    pub seq: u64,
    pub record: Box<[u8]>,
    pub source: SourceIx,
    pub enqueued: Wall,
    pub since: Mono,
    pub targets: SmallVec<[Target; 2]>,
    /// Targets not settled; at zero the message is safe without a disk.
    pub open: u16,
    /// Targets in memory; at zero the entry goes.
    pub resident: u16,
    pub place: Option<Place>,
    pub receipt: Option<Ticket>,
    pub parents: SmallVec<[Parent; 1]>,
    /// The sender asked for the disk at once.
    pub now: bool,
    /// The least happy way in which a target settled so far.
    pub outcome: Outcome,
    /// Its mark in the trace.
    pub trace: u64,
    links: [Links; 2],
}

#[derive(Clone, Copy)]
struct Links {
    prev: Key,
    next: Key,
    member: bool,
}

impl Entry {
    #[expect(clippy::too_many_arguments, reason = "the one constructor of a record of facts")]
    pub fn new(
        seq: u64,
        record: Box<[u8]>,
        source: SourceIx,
        enqueued: Wall,
        since: Mono,
        targets: SmallVec<[Target; 2]>,
        receipt: Option<Ticket>,
        now: bool,
    ) -> Entry {
        let open = targets.len() as u16;
        Entry {
            seq,
            record,
            source,
            enqueued,
            since,
            targets,
            open,
            resident: open,
            place: None,
            receipt,
            parents: SmallVec::new(),
            now,
            outcome: Outcome::Delivered,
            trace: NO_MARK,
            links: [Links { prev: NIL, next: NIL, member: false }; 2],
        }
    }

    pub fn bytes(&self) -> u64 {
        self.record.len() as u64 + ENTRY_BYTES
    }

    pub fn target(&mut self, queue: QueueIx) -> &mut Target {
        let found = self.targets.iter_mut().find(|t| t.queue == queue);
        found.expect("a queue names only messages that were routed to it")
    }

    /// The same, and its state changes now.
    pub fn change(&mut self, queue: QueueIx, now: Mono) -> &mut Target {
        let at = u32::try_from(now.since(self.since)).unwrap_or(u32::MAX);
        let target = self.target(queue);
        target.at = at;
        target
    }

    /// What waits is on disk from now on.
    pub fn stored_at(&mut self, now: Mono) {
        let at = u32::try_from(now.since(self.since)).unwrap_or(u32::MAX);
        self.targets.iter_mut().filter(|t| t.state == TargetState::Waiting).for_each(|t| t.at = at);
    }

    pub fn is_committed(&self) -> bool {
        self.place.is_some_and(|p| p.committed)
    }
}

/// Which of the two lists.
#[derive(Clone, Copy)]
pub(super) enum Chain {
    Unsafe = 0,
    Sender = 1,
}

/// Ends of one list; the links lie in the entries.
#[derive(Clone, Copy)]
pub(super) struct List {
    head: Key,
    tail: Key,
    chain: Chain,
}

impl List {
    pub fn new(chain: Chain) -> List {
        List { head: NIL, tail: NIL, chain }
    }

    pub fn front(&self) -> Option<Key> {
        (self.head != NIL).then_some(self.head)
    }

    pub fn push(&mut self, entries: &mut Entries, key: Key) {
        let c = self.chain as usize;
        entries[key].links[c] = Links { prev: self.tail, next: NIL, member: true };
        match self.tail {
            NIL => self.head = key,
            tail => entries[tail].links[c].next = key,
        }
        self.tail = key;
    }

    /// Does nothing if the message is not in the list.
    pub fn remove(&mut self, entries: &mut Entries, key: Key) {
        let c = self.chain as usize;
        let Links { prev, next, member } = entries[key].links[c];
        if !member {
            return;
        }
        entries[key].links[c].member = false;
        match prev {
            NIL => self.head = next,
            prev => entries[prev].links[c].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => entries[next].links[c].prev = prev,
        }
    }

    pub fn after(&self, entries: &Entries, key: Key) -> Option<Key> {
        let next = entries[key].links[self.chain as usize].next;
        (next != NIL).then_some(next)
    }
}

/// The arena.
#[derive(Default)]
pub(super) struct Entries {
    slots: Vec<Option<Entry>>,
    free: Vec<Key>,
    bytes: u64,
}

impl Entries {
    pub fn insert(&mut self, entry: Entry) -> Key {
        self.bytes += entry.bytes();
        if let Some(key) = self.free.pop() {
            self.slots[key as usize] = Some(entry);
            return key;
        }
        self.slots.push(Some(entry));
        (self.slots.len() - 1) as Key
    }

    /// The caller has taken it off both lists; `last` may take what it holds.
    pub fn remove(&mut self, key: Key, last: impl FnOnce(&mut Entry)) {
        let slot = &mut self.slots[key as usize];
        let entry = slot.as_mut().expect("a message is freed once");
        debug_assert!(entry.links.iter().all(|l| !l.member));
        self.bytes -= entry.bytes();
        last(entry);
        *slot = None;
        self.free.push(key);
    }

    /// All that live.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        self.slots.iter().zip(0..).filter_map(|(slot, key)| Some((key, slot.as_ref()?)))
    }

    /// The message that had this place and number, if it still lives.
    pub fn get(&mut self, key: Key, seq: u64) -> Option<&mut Entry> {
        self.slots.get_mut(key as usize)?.as_mut().filter(|e| e.seq == seq)
    }

    /// Whether the message that had this place and number still lives.
    pub fn is(&self, key: Key, seq: u64) -> bool {
        self.slots.get(key as usize).is_some_and(|slot| slot.as_ref().is_some_and(|entry| entry.seq == seq))
    }

    /// Memory in use, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl std::ops::Index<Key> for Entries {
    type Output = Entry;

    fn index(&self, key: Key) -> &Entry {
        self.slots[key as usize].as_ref().expect("a key is held only while its message lives")
    }
}

impl std::ops::IndexMut<Key> for Entries {
    fn index_mut(&mut self, key: Key) -> &mut Entry {
        self.slots[key as usize].as_mut().expect("a key is held only while its message lives")
    }
}
