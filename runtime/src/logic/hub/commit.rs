//! What the hub and the store say to each other: commits, reads, and what came of them. Plain values; the store owns
//! their bytes. Must never know how either side works.

use super::{Ledger, QueueIx};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::time::{Age, Now, Wall};

/// One transaction, synced once.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub id: u64,
    pub blocks: Vec<BlockWrite>,
    pub rows: Vec<RowWrite>,
    pub queues: Vec<QueueRow>,
    /// (queue, message, refusals); 0 removes the row.
    pub attempts: Vec<(u32, u64, u16)>,
    pub dead: Vec<DeadLetter>,
    /// Dead letters that go: back to their endpoint in this very commit, or for good.
    pub gone: Vec<(LetterId, Gone)>,
    /// Rows that are removed, from the first on, for as long as all their messages are too old at `now.age`.
    pub expire: Vec<ExpireRange>,
    /// Rows that are removed whatever their age, because their module was. What came of it stands with what expired.
    pub remove: Vec<ExpireRange>,
    /// Rows that are removed, from the first on, until that many bytes of blocks are, because the store is full.
    pub evict: Vec<EvictRange>,
    /// Small named documents (twins, clocks); `None` removes one.
    pub documents: Vec<(String, Option<Vec<u8>>)>,
    pub next_seq: u64,
    pub next_block: u64,
    pub now: Now,
}

/// Blocks `from ..= to` of a queue that nobody takes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpireRange {
    pub queue: u32,
    pub from: u64,
    pub to: u64,
}

/// Blocks `from ..= to` of a queue, the oldest first, until `bytes` of them are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictRange {
    pub queue: u32,
    pub from: u64,
    pub to: u64,
    pub bytes: u64,
}

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// Bytes of new blocks that the next commit may hold.
    pub room: u64,
    /// Why the store is full with it, if it is.
    pub full: Option<String>,
    pub expired: Vec<Settled>,
    pub evicted: Vec<Settled>,
}

impl Default for Wrote {
    fn default() -> Wrote {
        Wrote { room: u64::MAX, full: None, expired: Vec::new(), evicted: Vec::new() }
    }
}

/// Messages of one queue that are settled, all in its blocks up to `through`. The store has moved the ledger already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub queue: u32,
    pub messages: u64,
    pub through: u64,
}

/// A new block row, uncompressed.
#[derive(Clone, Debug)]
pub struct BlockWrite {
    pub block: u64,
    pub bytes: Vec<u8>,
}

/// How much of a block one queue is done with. `settled == total` removes the row; the last row removes the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowWrite {
    pub queue: u32,
    pub block: u64,
    pub total: u32,
    pub settled: u32,
    /// One bit a message of the block, 64 to a word.
    pub bits: Vec<u64>,
    pub last_expiry: Age,
}

/// A queue's name and ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    pub id: u32,
    pub endpoint: Endpoint,
    pub priority: Priority,
    pub ledger: Ledger,
}

/// Message and queue: a message may have become a dead letter of several queues.
pub type LetterId = (u64, u32);

/// Where a dead letter went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    Replayed,
    Purged,
    /// The oldest make place for newer ones.
    Dropped,
}

/// A message that its endpoint refused too often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub seq: u64,
    pub queue: u32,
    pub endpoint: String,
    pub source: Source,
    pub enqueued: Wall,
    pub refusals: u16,
    pub reason: String,
    pub record: Vec<u8>,
}

/// "The next block of this queue, `from ..= to`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    /// Only when it expires; its messages are not wanted.
    pub peek: bool,
    pub queue: u32,
    pub ix: QueueIx,
    pub from: u64,
    pub to: u64,
}

/// The answer: the unsettled messages of one queue in one block, in order.
#[derive(Clone, Debug, Default)]
pub struct LoadedBlock {
    pub block: u64,
    pub total: u32,
    pub settled: u32,
    pub bits: Vec<u64>,
    pub last_expiry: Age,
    pub messages: Vec<LoadedMessage>,
    /// Why the block can't be read, now or ever; then there are no messages. With messages only its row could not: nobody
    /// knows which of them are among the settled ones, so all are there.
    pub unreadable: Option<String>,
}

#[derive(Clone, Debug)]
pub struct LoadedMessage {
    pub index: u32,
    pub seq: u64,
    pub source: Source,
    pub enqueued: Wall,
    pub expiry: Age,
    pub attempts: u16,
    pub record: Box<[u8]>,
}

/// What the store knows when it is opened.
#[derive(Clone, Debug)]
pub struct Restored {
    pub next_seq: u64,
    pub next_block: u64,
    pub queues: Vec<QueueRow>,
    /// As in [`Wrote`].
    pub room: u64,
    pub full: Option<String>,
}

impl Default for Restored {
    fn default() -> Restored {
        Restored { next_seq: 1, next_block: 1, queues: Vec::new(), room: u64::MAX, full: None }
    }
}
