//! A store as plain maps, which carries out what a commit says and nothing else.
//! Must never be kinder than the real one.

use std::collections::{BTreeMap, BTreeSet};

use skerry_abi::wire::record::Record;
use skerry_runtime::logic::block::Block;
use skerry_runtime::logic::hub::{
    Commit, LoadRequest, LoadedBlock, LoadedMessage, QueueRow, Restored, RowWrite, Settled, Wrote,
};

#[derive(Default)]
pub struct Disk {
    blocks: BTreeMap<u64, Vec<u8>>,
    rows: BTreeMap<(u32, u64), RowWrite>,
    pub queues: BTreeMap<u32, QueueRow>,
    attempts: BTreeMap<(u32, u64), u16>,
    next: Option<(u64, u64)>,
}

/// The number that a message carries in front of its body.
pub fn number_of(record: &[u8]) -> u64 {
    let body = Record::parse(record).expect("a record").body();
    u64::from_le_bytes(body[..8].try_into().expect("a number"))
}

fn is_settled(row: &RowWrite, index: u32) -> bool {
    row.bits.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

impl Disk {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.blocks.is_empty()
    }

    pub fn apply(&mut self, commit: &Commit) -> Wrote {
        self.blocks.extend(commit.blocks.iter().map(|block| (block.block, block.bytes.clone())));
        for row in &commit.rows {
            if row.settled == row.total {
                assert!(self.rows.remove(&(row.queue, row.block)).is_some(), "there was no {row:?}");
            } else {
                self.rows.insert((row.queue, row.block), row.clone());
            }
        }
        self.queues.extend(commit.queues.iter().map(|queue| (queue.id, queue.clone())));
        for (queue, seq, count) in &commit.attempts {
            self.attempts.insert((*queue, *seq), *count);
        }
        self.attempts.retain(|_, count| *count > 0);
        self.next = Some((commit.next_seq, commit.next_block));
        let mut expired = Vec::new();
        for range in &commit.expire {
            let rows = self.rows.range((range.queue, range.from)..=(range.queue, range.to));
            let old = rows.take_while(|(_, row)| row.last_expiry <= commit.now.age);
            let old: Vec<_> = old.map(|(key, row)| (*key, u64::from(row.total - row.settled))).collect();
            let Some(((queue, through), _)) = old.last().copied() else { continue };
            let messages = old.iter().map(|(_, open)| open).sum();
            old.iter().for_each(|(key, _)| drop(self.rows.remove(key)));
            let row = self.queues.get_mut(&queue).expect("its row");
            row.ledger.expired += messages;
            row.ledger.stored -= messages;
            expired.push(Settled { queue, messages, through });
        }
        let named: BTreeSet<u64> = self.rows.keys().map(|(_, block)| *block).collect();
        self.blocks.retain(|block, _| named.contains(block));
        Wrote { expired, ..Wrote::default() }
    }

    pub fn load(&self, request: &LoadRequest) -> Option<LoadedBlock> {
        let range = (request.queue, request.from)..=(request.queue, request.to);
        let (_, row) = self.rows.range(range).next()?;
        let RowWrite { block, total, settled, bits, last_expiry, .. } = row.clone();
        let mut messages = Vec::new();
        let parsed = Block::parse(&self.blocks[&block]).expect("a block");
        let each = parsed.for_each(|m| {
            let Some(expiry) = m.expiry(request.queue).filter(|_| !is_settled(row, m.index)) else { return };
            messages.push(LoadedMessage {
                index: m.index,
                seq: m.seq,
                source: m.source.clone(),
                enqueued: m.enqueued,
                expiry,
                attempts: self.attempts.get(&(request.queue, m.seq)).copied().unwrap_or(0),
                record: m.record.into(),
            });
        });
        each.expect("a whole block");
        Some(LoadedBlock { block, total, settled, bits, last_expiry, messages, unreadable: None })
    }

    /// What is open of a queue, and how often that was refused, by the messages' numbers.
    pub fn open(&self, queue: u32) -> (BTreeSet<u64>, BTreeMap<u64, u16>) {
        let (mut open, mut refusals) = (BTreeSet::new(), BTreeMap::new());
        for row in self.rows.range((queue, 0)..=(queue, u64::MAX)).map(|(_, row)| row) {
            let parsed = Block::parse(&self.blocks[&row.block]).expect("a block");
            let each = parsed.for_each(|m| {
                if m.expiry(queue).is_none() || is_settled(row, m.index) {
                    return;
                }
                assert!(open.insert(number_of(m.record)), "it lies there twice");
                if let Some(count) = self.attempts.get(&(queue, m.seq)) {
                    refusals.insert(number_of(m.record), *count);
                }
            });
            each.expect("a whole block");
        }
        (open, refusals)
    }

    pub fn restored(&self) -> Restored {
        let (next_seq, next_block) = self.next.unwrap_or((1, 1));
        Restored { next_seq, next_block, queues: self.queues.values().cloned().collect(), ..Restored::default() }
    }
}
