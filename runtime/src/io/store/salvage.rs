//! Making the index anew, from the log and from what can be read of the old one. What is in doubt is delivered once more
//! rather than lost. Must never change the log, nor the file that was moved aside.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};

use super::Fault;
use super::disk::Disk;
use super::head::{CaughtUp, Head};
use super::log::Log;
use super::open::{make_index, replay};
use super::rows::{self, Counters, Live, Place};
use super::tables::{ATTEMPTS, BLOCKS, DEAD, DOCUMENTS, META, PLACES, QUEUES, ROWS, SEGMENTS};
use crate::logic::hub::RowWrite;

/// Added to counters that may be too low: no number is used twice.
const COUNTERS_GAP: u64 = 1 << 32;

/// What came over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    pub messages: u64,
    pub documents: u64,
    pub missing: u64,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what could be read came over: {} messages, {} documents", self.messages, self.documents)?;
        if self.missing > 0 {
            write!(f, "; {} commits are lost", self.missing)?;
        }
        f.write_str("; some messages may be delivered a second time")
    }
}

/// A new index from the log, and from what can be read of the index that was moved `aside`.
pub fn salvage(disk: &Arc<dyn Disk>, aside: Option<&str>) -> Result<Salvaged, Fault> {
    let mut salvaged = Salvaged::default();
    make_index(disk, CaughtUp::default(), |head| {
        // An index that is broken may also panic: what was copied until then stays.
        let from = aside.and_then(|aside| {
            std::panic::catch_unwind(AssertUnwindSafe(|| copy(disk, aside, head))).unwrap_or_default()
        });
        salvaged = rebuild(disk, head, from)?;
        Ok(())
    })?;
    Ok(salvaged)
}

/// The index is sound, but the log behind it has a hole: the sums are made anew.
pub fn in_place(disk: &Arc<dyn Disk>) -> Result<Salvaged, Fault> {
    let head = Head::open(disk.open("store.redb")?).map_err(|e| Fault(e.to_string()))?;
    let mut salvaged = Salvaged::default();
    even_out(&head, &mut salvaged)?;
    Ok(salvaged)
}

fn rebuild(disk: &Arc<dyn Disk>, head: &Head, from: Option<CaughtUp>) -> Result<Salvaged, Fault> {
    let mut log = Log::open(Arc::clone(disk), 0)?;
    let from = from.filter(|from| log.segments().any(|(number, _)| number == from.at.segment));
    let from = from.unwrap_or(CaughtUp { number: 0, at: log.first() });
    log = Log::open(Arc::clone(disk), from.number)?;
    let mut segments = head.segments()?;
    let replayed = replay(&mut log, head, &mut segments, from, None)?;
    // A log whose beginning is gone has no hole there.
    let missing = if from.number == 0 { 0 } else { replayed.missing };
    head.apply(&[], &mut segments, true)?;
    let caught_up = CaughtUp { number: log.number(), at: log.end() };
    head.write(|txn| {
        txn.open_table(META)?.insert("log", rows::encode_caught_up(caught_up).as_slice())?;
        Ok(())
    })?;
    let mut salvaged = Salvaged { missing, ..Salvaged::default() };
    even_out(head, &mut salvaged)?;
    Ok(salvaged)
}

/// Copies what can be read; a table ends at its first broken page. Returns how far in the log it was.
fn copy(disk: &Arc<dyn Disk>, aside: &str, to: &Head) -> Option<CaughtUp> {
    let from = Head::open(disk.open(aside).ok()?).ok()?;
    let caught_up = from.caught_up().ok().flatten();
    let _ = copy_table(&from, to, QUEUES, |id, value| rows::decode_queue(id, value).is_some());
    let _ = copy_table(&from, to, DOCUMENTS, |_, _| true);
    let _ = copy_table(&from, to, DEAD, |key, value| rows::decode_dead(key, value).is_some());
    let _ = copy_table(&from, to, BLOCKS, |_, _| true);
    let _ = copy_table(&from, to, PLACES, |_, value| Place::decode(value).is_some());
    let _ = copy_table(&from, to, ROWS, |(queue, block), value| rows::decode_row(queue, block, value).is_some());
    let _ = copy_attempts(&from, to);
    let counters = from.read(|txn| Ok(txn.open_table(META)?.get("counters")?.map(|v| v.value().to_vec())));
    let clock = from.read(|txn| Ok(txn.open_table(META)?.get("clock")?.map(|v| v.value().to_vec())));
    let _ = to.write(|txn| {
        let mut meta = txn.open_table(META)?;
        if let Some(counters) = counters.ok().flatten().filter(|c| Counters::decode(c).is_some()) {
            meta.insert("counters", counters.as_slice())?;
        }
        if let Some(clock) = clock.ok().flatten().filter(|c| rows::decode_clock(c).is_some()) {
            meta.insert("clock", clock.as_slice())?;
        }
        Ok(())
    });
    caught_up
}

fn copy_table<K: redb::Key + 'static>(
    from: &Head,
    to: &Head,
    table: TableDefinition<'_, K, &'static [u8]>,
    sound: impl Fn(K::SelfType<'_>, &[u8]) -> bool,
) -> Result<(), redb::Error> {
    from.read(|txn| {
        let source = txn.open_table(table)?;
        to.write(|txn| {
            let mut target = txn.open_table(table)?;
            for row in source.iter()? {
                // What follows a page that can't be read is not reached either.
                let Ok((key, value)) = row else { break };
                if sound(key.value(), value.value()) {
                    target.insert(key.value(), value.value())?;
                }
            }
            Ok(())
        })
    })
}

fn copy_attempts(from: &Head, to: &Head) -> Result<(), redb::Error> {
    from.read(|txn| {
        let source = txn.open_table(ATTEMPTS)?;
        to.write(|txn| {
            let mut target = txn.open_table(ATTEMPTS)?;
            for row in source.iter()? {
                let Ok((key, value)) = row else { break };
                target.insert(key.value(), value.value())?;
            }
            Ok(())
        })
    })
}

/// Rows whose block is gone go, blocks without rows go, and sums are made anew: places, segments, ledgers, counters.
fn even_out(head: &Head, salvaged: &mut Salvaged) -> Result<(), Fault> {
    head.write(|txn| {
        let mut places = txn.open_table(PLACES)?;
        let inline = txn.open_table(BLOCKS)?;
        let mut rows_table = txn.open_table(ROWS)?;
        let mut open: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        let mut stored: BTreeMap<u32, u64> = BTreeMap::new();
        let mut lost = Vec::new();
        for row in rows_table.iter()? {
            let (key, value) = row?;
            let (queue, block) = key.value();
            let row = rows::decode_row(queue, block, value.value());
            let there = places.get(block)?.is_some() || inline.get(block)?.is_some();
            let Some(RowWrite { total, settled, .. }) = row.filter(|_| there) else {
                lost.push((queue, block));
                continue;
            };
            let sums = open.entry(block).or_default();
            *sums = (sums.0 + total.saturating_sub(settled), sums.1 + total);
            *stored.entry(queue).or_default() += u64::from(total.saturating_sub(settled));
        }
        for key in lost {
            rows_table.remove(key)?;
        }
        let mut segments: BTreeMap<u64, Live> = BTreeMap::new();
        let mut unnamed = Vec::new();
        let mut last_block = 0;
        for row in places.iter()? {
            let block = row?.0.value();
            last_block = last_block.max(block);
            if !open.contains_key(&block) {
                unnamed.push(block);
            }
        }
        for block in unnamed {
            places.remove(block)?;
        }
        for (block, (count, all)) in open {
            let place = places.get(block)?.and_then(|v| Place::decode(v.value()));
            let length = inline.get(block)?.map_or(0, |v| v.value().len() as u32);
            let place = place.unwrap_or(Place { length, ..Place::default() });
            let place = Place { open: count, all: all.max(count), ..place };
            place.enter(&mut segments);
            places.insert(block, place.encode().as_slice())?;
            last_block = last_block.max(block);
        }
        let mut table = txn.open_table(SEGMENTS)?;
        table.retain(|_, _| false)?;
        for (segment, live) in segments {
            table.insert(segment, (live.blocks, live.bytes))?;
        }
        salvaged.messages = stored.values().sum();
        even_out_queues(txn, &stored)?;
        salvaged.documents = txn.open_table(DOCUMENTS)?.iter()?.count() as u64;
        even_out_counters(txn, last_block)
    })?;
    Ok(())
}

fn even_out_queues(txn: &redb::WriteTransaction, stored: &BTreeMap<u32, u64>) -> Result<(), redb::Error> {
    let mut queues = txn.open_table(QUEUES)?;
    let mut found = Vec::new();
    for row in queues.iter()? {
        let (id, value) = row?;
        found.extend(rows::decode_queue(id.value(), value.value()));
    }
    for mut queue in found {
        queue.ledger.stored = stored.get(&queue.id).copied().unwrap_or(0);
        queue.ledger.pending = queue.ledger.stored;
        queues.insert(queue.id, rows::encode_queue(&queue).as_slice())?;
    }
    Ok(())
}

fn even_out_counters(txn: &redb::WriteTransaction, last_block: u64) -> Result<(), redb::Error> {
    let mut meta = txn.open_table(META)?;
    let known = meta.get("counters")?.and_then(|v| Counters::decode(v.value()));
    let mut counters = known.unwrap_or(Counters { next_seq: COUNTERS_GAP, next_block: 1 });
    if counters.next_block <= last_block {
        counters = Counters { next_seq: counters.next_seq + COUNTERS_GAP, next_block: last_block + 1 };
    }
    meta.insert("counters", counters.encode().as_slice())?;
    Ok(())
}
