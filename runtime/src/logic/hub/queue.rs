//! One queue per (endpoint, priority): the head in memory, a gap on disk, the newest in memory again.
//! Must never change the order of what it holds.

use std::collections::VecDeque;

use super::LinkIx;
use super::entry::{Entries, Key};
use super::ledger::Ledger;
use super::removed::Removing;
use crate::model::endpoint::{Endpoint, Priority};
use crate::model::time::{Age, Mono};

/// Blocks whose messages for this queue lie on disk only, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub from: u64,
    pub to: u64,
    pub expiry: GapExpiry,
}

/// When the first block of a gap is too old, as far as that is known. Only of interest while nobody takes from the queue:
/// otherwise its messages are read back, and judged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GapExpiry {
    Unknown,
    At(Age),
    /// The next commit removes what is too old.
    Asked,
}

pub(super) struct Queue {
    /// Number in the store; never used for another endpoint.
    pub id: u32,
    pub endpoint: Endpoint,
    pub priority: Priority,
    /// Who takes from it now, and as which of its inputs.
    pub consumer: Option<(LinkIx, u16)>,
    /// Waiting, oldest first: `head`, then what lies in `gap`, then `tail` (empty without a gap).
    pub head: VecDeque<Key>,
    pub gap: Option<Gap>,
    pub tail: VecDeque<Key>,
    pub loading: bool,
    /// Bytes of `head` and `tail`.
    pub bytes: u64,
    /// Deliveries without an answer.
    pub flying: u32,
    /// The number that deliveries carry; a new one after each refusal.
    pub stream: u32,
    /// One at a time until one succeeds, because the consumer died with a message in its hands.
    pub careful: bool,
    /// A message was refused: nothing is delivered until the consumer has given back all that came after it.
    pub rewinding: bool,
    /// Nothing is delivered until the commit that evicts from it is over: after a crash what was evicted would come again,
    /// behind what came after it.
    pub evicting: bool,
    /// Nothing is delivered before this, because a message was refused a moment ago.
    pub held_until: Option<Mono>,
    pub last_ack: Mono,
    /// No message in memory expires before this.
    pub next_expiry: Age,
    pub ledger: Ledger,
    /// Its module was removed: nothing new waits longer than what was there.
    pub capped: bool,
    pub removing: Option<Removing>,
    /// What the ledger row on disk lacks.
    pub changed: bool,
}

impl Queue {
    pub fn new(id: u32, endpoint: Endpoint, priority: Priority) -> Queue {
        Queue {
            id,
            endpoint,
            priority,
            consumer: None,
            head: VecDeque::new(),
            gap: None,
            tail: VecDeque::new(),
            loading: false,
            bytes: 0,
            flying: 0,
            stream: 0,
            careful: false,
            rewinding: false,
            evicting: false,
            held_until: None,
            last_ack: Mono(0),
            next_expiry: Age::NEVER,
            ledger: Ledger::default(),
            capped: false,
            removing: None,
            changed: false,
        }
    }

    /// A new message, behind everything.
    pub fn push(&mut self, key: Key, bytes: u64, expiry: Age) {
        self.bytes += bytes;
        self.next_expiry = self.next_expiry.min(expiry);
        if self.gap.is_some() { self.tail.push_back(key) } else { self.head.push_back(key) }
    }

    /// A message that comes back, from its consumer or from disk: to its old place.
    pub fn put_back(&mut self, entries: &Entries, key: Key) {
        let entry = &entries[key];
        self.bytes += entry.bytes();
        let at = self.head.partition_point(|k| entries[*k].seq < entry.seq);
        self.head.insert(at, key);
    }

    pub fn pop(&mut self, entries: &Entries) -> Option<Key> {
        let key = self.head.pop_front()?;
        self.bytes -= entries[key].bytes();
        Some(key)
    }

    /// Takes out every waiting message for which `gone` says so.
    pub fn extract(&mut self, entries: &mut Entries, mut gone: impl FnMut(&mut Entries, Key) -> bool) -> Vec<Key> {
        let mut out = Vec::new();
        for list in [&mut self.head, &mut self.tail] {
            list.retain(|key| {
                let leaves = gone(entries, *key);
                if leaves {
                    out.push(*key);
                }
                !leaves
            });
        }
        self.bytes -= out.iter().map(|k| entries[*k].bytes()).sum::<u64>();
        out
    }

    /// When the front of what lies on disk is too old, if nobody will read it back before.
    pub fn gap_expires(&self) -> Option<Age> {
        match self.gap?.expiry {
            GapExpiry::At(at) if self.consumer.is_none() && !self.loading && at != Age::NEVER => Some(at),
            _ => None,
        }
    }

    /// The oldest message waits for nothing but its consumer.
    pub fn can_deliver(&self, now: Mono) -> bool {
        !self.head.is_empty()
            && !self.evicting
            && self.held_until.is_none_or(|until| until <= now)
            && !((self.careful || self.rewinding) && self.flying > 0)
    }

    /// Once nothing lies between them any more, head and tail are one.
    pub fn join_tail(&mut self) {
        if self.gap.is_none() {
            self.head.append(&mut self.tail);
        }
    }
}
