//! The store: one redb file, one writer. Carries out commits, reads blocks back, keeps small documents.
//! Must never decide what is stored or for how long, and never say "done" before the sync.

mod look;
mod open;
mod rows;

use std::path::PathBuf;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::logic::block::Block;
use crate::logic::hub::{
    Commit, DeadLetter, ExpireRange, Expired, LoadRequest, LoadedBlock, LoadedMessage, Restored, RowWrite, Wrote,
};
use crate::model::time::{Age, Mono, Wall};
pub use look::{Look, look};
pub use open::{OpenError, Opened, Options};

/// Block number to a compressed block.
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// (queue, block) to what of it is settled.
const ROWS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("rows");
/// Block number to how many rows name it.
const REFS: TableDefinition<'_, u64, u32> = TableDefinition::new("refs");
/// Queue number to endpoint, priority and ledger.
const QUEUES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("queues");
/// (queue, message) to refusals.
const ATTEMPTS: TableDefinition<'_, (u32, u64), u16> = TableDefinition::new("attempts");
/// (message, queue) to a dead letter.
const DEAD: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("dead");
/// Small documents by name: twins.
const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
/// Format version, counters, clocks.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The clocks at the last commit, to continue the age of the store from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastClock {
    pub age: Age,
    pub mono: Mono,
    pub wall: Wall,
    pub boot_id: String,
}

pub struct Store {
    db: Database,
    path: PathBuf,
    boot_id: String,
    /// Bytes of all blocks, compressed.
    live_bytes: u64,
    quota_bytes: u64,
}

impl Store {
    /// Opens or makes the store in `folder`. See [`Options`].
    pub fn open(folder: &std::path::Path, options: &Options) -> Result<Opened, OpenError> {
        open::open(folder, options)
    }

    /// One transaction, one sync.
    pub fn commit(&mut self, commit: &Commit) -> Result<Wrote, String> {
        let (live_bytes, expired) = self.try_commit(commit).map_err(|e| e.to_string())?;
        self.live_bytes = live_bytes;
        let full = self.live_bytes >= self.quota_bytes;
        let full = full.then(|| format!("{} of {} bytes are in use", self.live_bytes, self.quota_bytes));
        Ok(Wrote { full, expired })
    }

    fn try_commit(&self, commit: &Commit) -> Result<(u64, Vec<Expired>), redb::Error> {
        let txn = self.db.begin_write()?;
        let mut live = self.live_bytes;
        {
            let mut blocks = txn.open_table(BLOCKS)?;
            for block in &commit.blocks {
                let value = rows::compress(&block.bytes);
                live += value.len() as u64;
                blocks.insert(block.block, value.as_slice())?;
            }
        }
        live = write_rows(&txn, &commit.rows, live)?;
        {
            let mut queues = txn.open_table(QUEUES)?;
            for queue in &commit.queues {
                queues.insert(queue.id, rows::encode_queue(queue).as_slice())?;
            }
        }
        let mut expired = Vec::new();
        for range in &commit.expire {
            live = expire_rows(&txn, range, commit.now.age, live, &mut expired)?;
        }
        write_small(&txn, commit)?;
        self.write_meta(&txn, commit, live)?;
        txn.commit()?;
        Ok((live, expired))
    }

    fn write_meta(&self, txn: &WriteTransaction, commit: &Commit, live: u64) -> Result<(), redb::Error> {
        let mut meta = txn.open_table(META)?;
        let now = &commit.now;
        let clock = LastClock { age: now.age, mono: now.mono, wall: now.wall, boot_id: self.boot_id.clone() };
        let counters = rows::Counters { next_seq: commit.next_seq, next_block: commit.next_block, live_bytes: live };
        meta.insert("counters", counters.encode().as_slice())?;
        meta.insert("clock", rows::encode_clock(&clock).as_slice())?;
        Ok(())
    }

    /// The next block of a queue in a range, with the messages that the queue is not done with.
    pub fn load(&self, request: &LoadRequest) -> Result<Option<LoadedBlock>, String> {
        self.try_load(request)
    }

    fn try_load(&self, request: &LoadRequest) -> Result<Option<LoadedBlock>, String> {
        let text = |e: redb::Error| e.to_string();
        let txn = self.db.begin_read().map_err(|e| text(e.into()))?;
        let table = txn.open_table(ROWS).map_err(|e| text(e.into()))?;
        let range = (request.queue, request.from)..=(request.queue, request.to);
        let mut found = table.range(range).map_err(|e| text(e.into()))?;
        let Some(row) = found.next() else { return Ok(None) };
        let (key, value) = row.map_err(|e| text(e.into()))?;
        let (_, block) = key.value();
        let row = rows::decode_row(request.queue, block, value.value()).ok_or("a row of the store is broken")?;
        let blocks = txn.open_table(BLOCKS).map_err(|e| text(e.into()))?;
        let value = blocks.get(block).map_err(|e| text(e.into()))?.ok_or("a block of the store is missing")?;
        if request.peek {
            let RowWrite { total, settled, bits, last_expiry, .. } = row;
            return Ok(Some(LoadedBlock { block, total, settled, bits, last_expiry, messages: Vec::new() }));
        }
        let bytes = rows::decompress(value.value())?;
        let attempts = txn.open_table(ATTEMPTS).map_err(|e| text(e.into()))?;
        let mut messages = Vec::new();
        let mut fault = None;
        Block::parse(&bytes)?.for_each(|message| {
            let settled = row.bits.get(message.index as usize / 64).is_some_and(|w| w >> (message.index % 64) & 1 == 1);
            let Some(expiry) = message.expiry(request.queue).filter(|_| !settled) else { return };
            let refused = match attempts.get((request.queue, message.seq)) {
                Ok(found) => found.map_or(0, |v| v.value()),
                Err(error) => {
                    fault = Some(error.to_string());
                    0
                }
            };
            messages.push(LoadedMessage {
                index: message.index,
                seq: message.seq,
                source: message.source.clone(),
                enqueued: message.enqueued,
                expiry,
                attempts: refused,
                record: message.record.into(),
            });
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let RowWrite { total, settled, bits, last_expiry, .. } = row;
        Ok(Some(LoadedBlock { block, total, settled, bits, last_expiry, messages }))
    }

    /// Documents whose name begins with `prefix`.
    pub fn documents(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        let read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(DOCUMENTS)?;
            let mut found = Vec::new();
            for row in table.range(prefix..)? {
                let (name, value) = row?;
                if !name.value().starts_with(prefix) {
                    break;
                }
                found.push((name.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        };
        read().map_err(|e| e.to_string())
    }

    /// All dead letters, oldest first, at most `limit`.
    pub fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, String> {
        let read = || -> Result<Vec<Option<DeadLetter>>, redb::Error> {
            let table = self.db.begin_read()?.open_table(DEAD)?;
            let mut found = Vec::new();
            for row in table.iter()?.take(limit) {
                let (key, value) = row?;
                found.push(rows::decode_dead(key.value(), value.value()));
            }
            Ok(found)
        };
        let found = read().map_err(|e| e.to_string())?;
        found.into_iter().collect::<Option<_>>().ok_or_else(|| "a dead letter of the store is broken".to_owned())
    }

    /// Length of the file, bytes of the blocks in it, and the quota.
    pub fn sizes(&self) -> (u64, u64, u64) {
        let file = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        (file, self.live_bytes, self.quota_bytes)
    }
}

/// Rows of (queue, block); the last row of a block takes the block with it.
fn write_rows(txn: &WriteTransaction, writes: &[RowWrite], mut live: u64) -> Result<u64, redb::Error> {
    let mut table = txn.open_table(ROWS)?;
    let mut refs = txn.open_table(REFS)?;
    let mut blocks = txn.open_table(BLOCKS)?;
    for row in writes {
        let key = (row.queue, row.block);
        if row.settled < row.total {
            if table.insert(key, rows::encode_row(row).as_slice())?.is_none() {
                let count = refs.get(row.block)?.map_or(0, |v| v.value());
                refs.insert(row.block, count + 1)?;
            }
        } else if table.remove(key)?.is_some() {
            let count = refs.get(row.block)?.map_or(0, |v| v.value());
            if count > 1 {
                refs.insert(row.block, count - 1)?;
            } else {
                refs.remove(row.block)?;
                let gone = blocks.remove(row.block)?.map_or(0, |v| v.value().len() as u64);
                live = live.saturating_sub(gone);
            }
        }
    }
    Ok(live)
}

/// Removes rows from the front of the range whose messages are all too old, and moves the queue's ledger.
fn expire_rows(
    txn: &WriteTransaction,
    range: &ExpireRange,
    age: Age,
    live: u64,
    expired: &mut Vec<Expired>,
) -> Result<u64, redb::Error> {
    let mut old = Vec::new();
    let mut messages = 0;
    for row in txn.open_table(ROWS)?.range((range.queue, range.from)..=(range.queue, range.to))? {
        let (key, value) = row?;
        let Some(row) = rows::decode_row(range.queue, key.value().1, value.value()) else { break };
        if row.last_expiry > age {
            break;
        }
        messages += u64::from(row.total - row.settled);
        old.push(RowWrite { settled: row.total, ..row });
    }
    let Some(last) = old.last() else { return Ok(live) };
    expired.push(Expired { queue: range.queue, messages, through: last.block });
    let mut queues = txn.open_table(QUEUES)?;
    let queue = queues.get(range.queue)?.and_then(|v| rows::decode_queue(range.queue, v.value()));
    if let Some(mut queue) = queue {
        queue.ledger.expired += messages;
        queue.ledger.stored -= messages;
        queues.insert(range.queue, rows::encode_queue(&queue).as_slice())?;
    }
    write_rows(txn, &old, live)
}

fn write_small(txn: &WriteTransaction, commit: &Commit) -> Result<(), redb::Error> {
    if !commit.attempts.is_empty() {
        let mut table = txn.open_table(ATTEMPTS)?;
        for (queue, seq, count) in &commit.attempts {
            if *count == 0 {
                table.remove((*queue, *seq))?;
            } else {
                table.insert((*queue, *seq), *count)?;
            }
        }
    }
    if !commit.dead.is_empty() {
        let mut table = txn.open_table(DEAD)?;
        for letter in &commit.dead {
            table.insert((letter.seq, letter.queue), rows::encode_dead(letter).as_slice())?;
        }
    }
    if !commit.documents.is_empty() {
        let mut table = txn.open_table(DOCUMENTS)?;
        for (name, bytes) in &commit.documents {
            match bytes {
                Some(bytes) => table.insert(name.as_str(), bytes.as_slice())?,
                None => table.remove(name.as_str())?,
            };
        }
    }
    Ok(())
}

/// What the hub and the clock continue from.
fn restore(db: &Database) -> Result<(Restored, LastClock, u64), String> {
    let read = || -> Result<_, redb::Error> {
        let txn = db.begin_read()?;
        let mut queues = Vec::new();
        for row in txn.open_table(QUEUES)?.iter()? {
            let (id, value) = row?;
            queues.push(rows::decode_queue(id.value(), value.value()));
        }
        let meta = txn.open_table(META)?;
        let counters = meta.get("counters")?.map(|v| rows::Counters::decode(v.value()));
        let clock = meta.get("clock")?.map(|v| rows::decode_clock(v.value()));
        Ok((queues, counters, clock))
    };
    let (queues, counters, clock) = read().map_err(|e| e.to_string())?;
    let queues = queues.into_iter().collect::<Option<Vec<_>>>().ok_or("a queue of the store is broken")?;
    let counters = counters.unwrap_or(Some(rows::Counters::default())).ok_or("the counters of the store are broken")?;
    let clock = clock.unwrap_or(Some(LastClock::default())).ok_or("the clock of the store is broken")?;
    let restored = Restored { next_seq: counters.next_seq, next_block: counters.next_block, queues };
    Ok((restored, clock, counters.live_bytes))
}

#[cfg(test)]
mod tests;
