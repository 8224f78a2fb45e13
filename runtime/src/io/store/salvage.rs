//! Making the index anew, from the log and from what can be read of the old one. What is in doubt is delivered once more
//! rather than lost. Must never change the log, nor the file that was moved aside.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};

use super::Fault;
use super::disk::Disk;
use super::head::{CaughtUp, Head};
use super::log::Log;
use super::open::{INDEX, INDEX_NEW, begin_index, finish_index, open_named, replay};
use super::progress::Progress;
use super::rows::{self, Counters, Live, Place};
use super::suspect;
use super::tables::{ATTEMPTS, BLOCKS, DEAD, DOCUMENTS, META, PLACES, QUEUES, ROWS, SEGMENTS};
use crate::logic::hub::RowWrite;

/// Parts of an index that are copied one by one: that it opens, seven tables, and where it was.
const PARTS: usize = 9;
/// Times that a part is begun.
const TRIES: u32 = 2;
/// Rows and bytes of one transaction: a block of the first format has up to 256 KiB.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 1024 * 1024;
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

/// A new index from the log alone.
pub fn from_log(disk: &Arc<dyn Disk>) -> Result<Salvaged, Fault> {
    let head = begin_index(disk, CaughtUp::default())?;
    let salvaged = rebuild(disk, &head)?;
    finish_index(disk, head)?;
    Ok(salvaged)
}

/// A new index from the log, and from what can be read of the old one, which is moved aside. Goes on where an earlier start ended.
pub fn salvage(disk: &Arc<dyn Disk>, mut progress: Progress) -> Result<(Salvaged, String), Fault> {
    let names = disk.names()?;
    let has = |name: &str| names.iter().any(|found| found == name);
    let aside = progress.aside.get_or_insert_with(|| free_name(&names)).clone();
    progress.write(disk.as_ref())?;
    if has(INDEX) {
        disk.rename(INDEX, &aside)?;
        disk.sync()?;
    }
    let begun = if progress.step > 0 && has(INDEX_NEW) { open_named(disk, INDEX_NEW).ok() } else { None };
    if begun.is_none() && progress.step > 0 {
        // What was copied is not there.
        (progress.step, progress.tries) = (0, 0);
    }
    let head = begun.map_or_else(|| begin_index(disk, CaughtUp::default()), Ok)?;
    copy(disk, &aside, &head, &mut progress)?;
    if progress.has_gaps {
        // What the old index had beyond its gaps lies in the log, if anywhere: it is read from its beginning.
        head.set_caught_up(CaughtUp::default())?;
    }
    let salvaged = rebuild(disk, &head)?;
    finish_index(disk, head)?;
    Progress::remove(disk.as_ref())?;
    Ok((salvaged, aside))
}

/// An earlier start had finished, but for the last word of it.
pub fn is_finished(progress: &Progress, names: &[String]) -> bool {
    let has = |name: &str| names.iter().any(|found| found == name);
    has(INDEX) && progress.aside.as_ref().is_some_and(|aside| has(aside))
}

fn free_name(names: &[String]) -> String {
    let free = (1..).map(|n| format!("{INDEX}.broken-{n}")).find(|aside| !names.contains(aside));
    free.unwrap_or_else(|| format!("{INDEX}.broken"))
}

/// The index is sound, but the log behind it has a hole: the sums are made anew.
pub fn in_place(disk: &Arc<dyn Disk>) -> Result<Salvaged, Fault> {
    let head = Head::open(disk.open("store.redb")?).map_err(|e| Fault(e.to_string()))?;
    let mut salvaged = Salvaged::default();
    even_out(&head, &mut salvaged)?;
    Ok(salvaged)
}

/// From where the copied index had caught up with the log, or from the log's beginning.
fn rebuild(disk: &Arc<dyn Disk>, head: &Head) -> Result<Salvaged, Fault> {
    let mut log = Log::open(Arc::clone(disk), 0)?;
    let from = head.caught_up()?.filter(|from| log.segments().any(|(number, _)| number == from.at.segment));
    let from = from.unwrap_or(CaughtUp { number: 0, at: log.first() });
    log = Log::open(Arc::clone(disk), from.number)?;
    let mut segments = head.segments()?;
    let replayed = replay(&mut log, head, &mut segments, from, None)?;
    // A log whose beginning is gone has no hole there.
    let missing = if from.number == 0 { 0 } else { replayed.missing };
    head.apply(&[], &mut segments, true)?;
    let caught_up = CaughtUp { number: log.number(), at: log.end() };
    head.set_caught_up(caught_up)?;
    let mut salvaged = Salvaged { missing, ..Salvaged::default() };
    even_out(head, &mut salvaged)?;
    Ok(salvaged)
}

/// Copies what can be read, part by part. Each part is begun once more if the process ends in it, which may have been a power cut; what ends
/// it twice is left at that.
fn copy(disk: &Arc<dyn Disk>, aside: &str, to: &Head, progress: &mut Progress) -> Result<(), Fault> {
    let mut from = None;
    while progress.step < PARTS {
        progress.tries += 1;
        let gave_up = progress.tries > TRIES;
        if !gave_up {
            progress.write(disk.as_ref())?;
        }
        let whole = !gave_up && suspect::copying(|| copy_part(disk, aside, &mut from, to, progress.step));
        progress.has_gaps |= !whole;
        // What can't be opened has nothing to copy.
        progress.step = if progress.step == 0 && !whole { PARTS } else { progress.step + 1 };
        progress.tries = 0;
    }
    progress.write(disk.as_ref())?;
    Ok(())
}

/// Whether all of it came over.
fn copy_part(disk: &Arc<dyn Disk>, aside: &str, from: &mut Option<Head>, to: &Head, part: usize) -> bool {
    if from.is_none() {
        *from = open_named(disk, aside).ok();
    }
    let Some(from) = from else { return false };
    let copied = match part {
        0 => Ok(true),
        1 => copy_table(from, to, QUEUES, |id, value| rows::decode_queue(id, value).is_some()),
        2 => copy_table(from, to, DOCUMENTS, |_, _| true),
        3 => copy_table(from, to, DEAD, |key, value| rows::decode_dead(key, value).is_some()),
        4 => copy_table(from, to, BLOCKS, |_, _| true),
        5 => copy_table(from, to, PLACES, |_, value| Place::decode(value).is_some()),
        6 => copy_table(from, to, ROWS, |(queue, block), value| rows::decode_row(queue, block, value).is_some()),
        7 => copy_attempts(from, to),
        // The last: only then has the copy caught up as far.
        _ => copy_meta(from, to),
    };
    copied.unwrap_or(false)
}

fn copy_meta(from: &Head, to: &Head) -> Result<bool, redb::Error> {
    let read = |name| from.read(|txn| Ok(txn.open_table(META)?.get(name)?.map(|v| v.value().to_vec())));
    let counters = read("counters")?.filter(|bytes| Counters::decode(bytes).is_some());
    let clock = read("clock")?.filter(|bytes| rows::decode_clock(bytes).is_some());
    let log = read("log")?.filter(|bytes| rows::decode_caught_up(bytes).is_some());
    let whole = log.is_some();
    to.write(|txn| {
        let mut meta = txn.open_table(META)?;
        for (name, bytes) in [("counters", counters), ("clock", clock), ("log", log)] {
            if let Some(bytes) = bytes {
                meta.insert(name, bytes.as_slice())?;
            }
        }
        Ok(())
    })?;
    Ok(whole)
}

/// In transactions of a bounded size, so that what was read before a page that ends the process stays.
fn copy_table<K: redb::Key + 'static>(
    from: &Head,
    to: &Head,
    table: TableDefinition<'_, K, &'static [u8]>,
    sound: impl Fn(K::SelfType<'_>, &[u8]) -> bool,
) -> Result<bool, redb::Error> {
    from.read(|txn| {
        let source = txn.open_table(table)?;
        let mut rows = source.iter()?;
        let mut whole = true;
        loop {
            let (mut count, mut bytes) = (0, 0);
            to.write(|txn| {
                let mut target = txn.open_table(table)?;
                while count < BATCH_ROWS && bytes < BATCH_BYTES {
                    let Some(row) = rows.next() else { break };
                    // What follows a page that can't be read is not reached either.
                    let Ok((key, value)) = row else {
                        whole = false;
                        break;
                    };
                    count += 1;
                    bytes += value.value().len();
                    if sound(key.value(), value.value()) {
                        target.insert(key.value(), value.value())?;
                    } else {
                        whole = false;
                    }
                }
                Ok(())
            })?;
            if count < BATCH_ROWS && bytes < BATCH_BYTES {
                return Ok(whole);
            }
        }
    })
}

fn copy_attempts(from: &Head, to: &Head) -> Result<bool, redb::Error> {
    from.read(|txn| {
        let source = txn.open_table(ATTEMPTS)?;
        to.write(|txn| {
            let mut target = txn.open_table(ATTEMPTS)?;
            for row in source.iter()? {
                let Ok((key, value)) = row else { return Ok(false) };
                target.insert(key.value(), value.value())?;
            }
            Ok(true)
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
