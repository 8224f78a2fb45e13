//! What a store would hold, as plain maps; with a quota, and blocks that can't be read any more.
//! Must never be kinder than the real one.

use std::collections::BTreeMap;

use super::super::*;

/// What a store would hold.
#[derive(Clone, Default)]
pub struct Disk {
    pub blocks: BTreeMap<u64, Vec<u8>>,
    pub rows: BTreeMap<(u32, u64), RowWrite>,
    queues: BTreeMap<u32, QueueRow>,
    attempts: BTreeMap<(u32, u64), u16>,
    dead: Vec<u64>,
    next: (u64, u64),
    /// Bytes of blocks; 0 for no end.
    quota: u64,
}

impl Disk {
    pub fn new(quota: u64) -> Disk {
        Disk { quota, ..Disk::default() }
    }

    pub fn apply(&mut self, commit: &Commit) -> Wrote {
        for block in &commit.blocks {
            self.blocks.insert(block.block, block.bytes.clone());
        }
        for row in &commit.rows {
            assert!(row.settled <= row.total, "{row:?}");
            let key = (row.queue, row.block);
            if row.settled == row.total {
                assert!(self.rows.remove(&key).is_some(), "a row that was never there is removed: {row:?}");
            } else {
                self.rows.insert(key, row.clone());
            }
        }
        let rows = &self.rows;
        self.blocks.retain(|block, _| rows.keys().any(|(_, b)| b == block));
        for queue in &commit.queues {
            self.queues.insert(queue.id, queue.clone());
        }
        for (queue, seq, count) in &commit.attempts {
            self.attempts.insert((*queue, *seq), *count);
        }
        self.dead.extend(commit.dead.iter().map(|d| d.seq));
        self.next = (commit.next_seq, commit.next_block);
        let expired = self.expire(commit);
        let evicted = self.evict(commit);
        let (room, full) = self.room();
        let wrote = Wrote { expired, evicted, room, full };
        for (id, queue) in &self.queues {
            let left: u64 = self.rows.values().filter(|r| r.queue == *id).map(|r| u64::from(r.total - r.settled)).sum();
            assert_eq!(queue.ledger.stored, left, "the ledger of {} and its rows differ", queue.endpoint);
        }
        wrote
    }

    pub fn room(&self) -> (u64, Option<String>) {
        if self.quota == 0 {
            return (u64::MAX, None);
        }
        let used: u64 = self.blocks.values().map(|bytes| bytes.len() as u64).sum();
        assert!(used <= self.quota, "{used} bytes on a quota of {}", self.quota);
        let room = self.quota - used;
        (room, (room < self.quota / 4).then(|| "simulated".to_owned()))
    }

    fn evict(&mut self, commit: &Commit) -> Vec<Settled> {
        let mut evicted = Vec::new();
        for range in &commit.evict {
            let rows = self.rows.range((range.queue, range.from)..=(range.queue, range.to));
            // A quarter of what there is, or what was asked for.
            let mut bytes = range.bytes.max(self.quota / 4);
            let mut gone = Vec::new();
            for (key, row) in rows {
                if bytes == 0 {
                    break;
                }
                bytes = bytes.saturating_sub(self.blocks[&key.1].len() as u64);
                gone.push((*key, u64::from(row.total - row.settled)));
            }
            let Some(((_, through), _)) = gone.last().copied() else { continue };
            let messages = gone.iter().map(|(_, open)| open).sum();
            evicted.push(Settled { queue: range.queue, messages, through });
            gone.iter().for_each(|(key, _)| drop(self.rows.remove(key)));
            if let Some(queue) = self.queues.get_mut(&range.queue) {
                queue.ledger.stored -= messages;
                queue.ledger.evicted += messages;
            }
        }
        let rows = &self.rows;
        self.blocks.retain(|block, _| rows.keys().any(|(_, b)| b == block));
        evicted
    }

    /// The disk has forgotten a block.
    pub fn spoil(&mut self, pick: u64) {
        let block = self.blocks.keys().nth(pick as usize % self.blocks.len().max(1)).copied();
        if let Some(bytes) = block.and_then(|block| self.blocks.get_mut(&block)) {
            bytes.truncate(1);
        }
    }

    fn expire(&mut self, commit: &Commit) -> Vec<Settled> {
        let mut expired = Vec::new();
        for range in &commit.expire {
            let rows = self.rows.range((range.queue, range.from)..=(range.queue, range.to));
            let old: Vec<_> =
                rows.take_while(|(_, r)| r.last_expiry <= commit.now.age).map(|(k, r)| (*k, r.clone())).collect();
            let Some(((_, through), _)) = old.last() else { continue };
            let messages = old.iter().map(|(_, r)| u64::from(r.total - r.settled)).sum();
            expired.push(Settled { queue: range.queue, messages, through: *through });
            old.iter().for_each(|(key, _)| drop(self.rows.remove(key)));
            if let Some(queue) = self.queues.get_mut(&range.queue) {
                queue.ledger.stored -= messages;
                queue.ledger.expired += messages;
            }
        }
        let rows = &self.rows;
        self.blocks.retain(|block, _| rows.keys().any(|(_, b)| b == block));
        expired
    }

    pub fn load(&self, request: &LoadRequest) -> Option<LoadedBlock> {
        let range = (request.queue, request.from)..=(request.queue, request.to);
        let (_, row) = self.rows.range(range).next()?;
        let RowWrite { block, total, settled, bits, last_expiry, .. } = row.clone();
        let mut messages = Vec::new();
        let bytes = &self.blocks[&row.block];
        if bytes.len() == 1 {
            let unreadable = Some("simulated".to_owned());
            return Some(LoadedBlock { block, total, settled, bits, last_expiry, messages, unreadable });
        }
        let parsed = crate::logic::block::Block::parse(bytes).unwrap();
        parsed
            .for_each(|m| {
                let settled = row.bits.get(m.index as usize / 64).is_some_and(|w| w >> (m.index % 64) & 1 == 1);
                if let Some(expiry) = m.expiry(request.queue).filter(|_| !settled) {
                    let attempts = self.attempts.get(&(request.queue, m.seq)).copied().unwrap_or(0);
                    let (source, record) = (m.source.clone(), m.record.into());
                    messages.push(LoadedMessage {
                        index: m.index,
                        seq: m.seq,
                        source,
                        enqueued: m.enqueued,
                        expiry,
                        attempts,
                        record,
                    });
                }
            })
            .unwrap();
        Some(LoadedBlock { block, total, settled, bits, last_expiry, messages, unreadable: None })
    }

    pub fn restored(&self) -> Restored {
        let (next_seq, next_block) = if self.next.0 == 0 { (1, 1) } else { self.next };
        Restored {
            next_seq,
            next_block,
            queues: self.queues.values().cloned().collect(),
            room: self.room().0,
            full: self.room().1,
        }
    }
}
