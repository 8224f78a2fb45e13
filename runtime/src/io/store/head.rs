//! The index of the store, in redb: what lies where in the log and how much of it is settled, queues, documents, dead
//! letters. It lags behind the log and catches up with one transaction for many records. Must never know more than the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::disk::{DiskFile, Pages};
use super::log::Position;
use super::record::Effects;
use super::rows::{self, Counters, Live, Place};
use super::{LastClock, dead, tables::*};
use crate::logic::hub::{QueueRow, Restored, RowWrite};

/// redb's page cache, bytes. Blocks are not in it, so it need hold little more than the branches.
const CACHE_BYTES: usize = 512 * 1024;

/// Rows that one commit settles by range: bounds its record, which may have to find place in the reserve. The hub asks again.
const ROWS_MAX: usize = 1024;

pub struct Head {
    db: Database,
    file: Arc<dyn DiskFile>,
}

/// Blocks of a segment with their places, and the block to go on with.
pub type BlocksIn = (Vec<(u64, Place)>, Option<u64>);

/// A record that the index lacks.
pub struct Pending {
    pub number: u64,
    /// Where its payload begins, and where the record ends.
    pub payload_at: Position,
    pub end: Position,
    pub effects: Effects,
}

/// Where the log was when the index last caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    pub number: u64,
    pub at: Position,
}

impl Head {
    /// Makes or opens the database in the file.
    pub fn open(file: Arc<dyn DiskFile>) -> Result<Head, redb::DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let db = builder.create_with_backend(Pages(Arc::clone(&file)))?;
        Ok(Head { db, file })
    }

    pub fn file_bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    pub fn format(&self) -> Result<Option<u32>, redb::Error> {
        let txn = self.db.begin_read()?;
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(meta.get("format")?.and_then(|v| Some(u32::from_le_bytes(v.value().try_into().ok()?))))
    }

    /// All tables, and the format: for a new database.
    pub fn make(&self, caught_up: CaughtUp) -> Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        make_tables(&txn)?;
        set_caught_up(&txn, caught_up)?;
        txn.commit()?;
        Ok(())
    }

    /// From the first format, in which one redb file held everything: the blocks stay where they are until they are
    /// settled, and get a place that says so. One transaction.
    pub fn migrate(&self, caught_up: CaughtUp) -> Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        make_tables(&txn)?;
        {
            let blocks = txn.open_table(BLOCKS)?;
            let mut places = txn.open_table(PLACES)?;
            for row in txn.open_table(ROWS)?.iter()? {
                let (key, value) = row?;
                let (queue, block) = key.value();
                let Some(row) = rows::decode_row(queue, block, value.value()) else { continue };
                let Some(length) = blocks.get(block)?.map(|v| v.value().len() as u32) else { continue };
                let before = places.get(block)?.and_then(|v| Place::decode(v.value()));
                let mut place = before.unwrap_or(Place { length, ..Place::default() });
                place.open += row.total.saturating_sub(row.settled);
                place.all += row.total;
                places.insert(block, place.encode().as_slice())?;
            }
        }
        txn.delete_table(REFS)?;
        set_caught_up(&txn, caught_up)?;
        txn.commit()?;
        Ok(())
    }

    /// The second format has the same tables; only its log knew less.
    pub fn renumber(&self) -> Result<(), redb::Error> {
        self.write(make_tables)
    }

    pub fn caught_up(&self) -> Result<Option<CaughtUp>, redb::Error> {
        let meta = self.db.begin_read()?.open_table(META)?;
        let found = meta.get("log")?.and_then(|v| rows::decode_caught_up(v.value()));
        Ok(found)
    }

    pub fn set_caught_up(&self, caught_up: CaughtUp) -> Result<(), redb::Error> {
        self.write(|txn| set_caught_up(txn, caught_up))
    }

    /// What the hub and the clock continue from.
    pub fn restore(&self) -> Result<(Restored, LastClock), String> {
        let read = || -> Result<_, redb::Error> {
            let txn = self.db.begin_read()?;
            let mut queues = Vec::new();
            for row in txn.open_table(QUEUES)?.iter()? {
                let (id, value) = row?;
                queues.push(rows::decode_queue(id.value(), value.value()).ok_or(id.value()));
            }
            let meta = txn.open_table(META)?;
            let counters = meta.get("counters")?.map(|v| Counters::decode(v.value()));
            let clock = meta.get("clock")?.map(|v| rows::decode_clock(v.value()));
            Ok((queues, counters, clock))
        };
        let (queues, counters, clock) = read().map_err(|e| e.to_string())?;
        let queues = queues.into_iter().collect::<Result<Vec<_>, u32>>();
        let queues = queues.map_err(|id| format!("the row of queue {id} is broken"))?;
        let counters = counters.unwrap_or(Some(Counters::default())).ok_or("the row of the counters is broken")?;
        let clock = clock.unwrap_or(Some(LastClock::default())).ok_or("the row of the clock is broken")?;
        let Counters { next_seq, next_block } = counters;
        let restored = Restored { next_seq, next_block, queues, ..Restored::default() };
        Ok((restored, clock))
    }

    /// What of each segment is still needed.
    pub fn segments(&self) -> Result<BTreeMap<u64, Live>, redb::Error> {
        let mut found = BTreeMap::new();
        for row in self.db.begin_read()?.open_table(SEGMENTS)?.iter()? {
            let (segment, value) = row?;
            let (blocks, bytes) = value.value();
            found.insert(segment.value(), Live { blocks, bytes });
        }
        Ok(found)
    }

    /// Catches up with the log. Durable only where that is asked for: until then a cut leaves the state before, and the
    /// log is read from there again.
    pub fn apply(
        &self,
        pending: &[Pending],
        segments: &mut BTreeMap<u64, Live>,
        durable: bool,
    ) -> Result<(), redb::Error> {
        let mut txn = self.db.begin_write()?;
        if !durable {
            txn.set_durability(Durability::None).map_err(|e| redb::Error::Io(std::io::Error::other(e.to_string())))?;
        }
        let before = segments.clone();
        for one in pending {
            apply_one(&txn, one, segments)?;
        }
        {
            let mut table = txn.open_table(SEGMENTS)?;
            for (segment, live) in segments.iter().filter(|(n, live)| before.get(n) != Some(live)) {
                table.insert(segment, (live.blocks, live.bytes))?;
            }
            for segment in before.iter().filter(|(_, live)| live.blocks == 0).map(|(segment, _)| *segment) {
                if segments.get(&segment).is_none_or(|live| live.blocks == 0) {
                    table.remove(segment)?;
                    segments.remove(&segment);
                }
            }
        }
        if let Some(last) = pending.last() {
            let mut meta = txn.open_table(META)?;
            let Effects { next_seq, next_block, clock, .. } = &last.effects;
            let counters = Counters { next_seq: *next_seq, next_block: *next_block };
            meta.insert("counters", counters.encode().as_slice())?;
            meta.insert("clock", rows::encode_clock(clock).as_slice())?;
            drop(meta);
            set_caught_up(&txn, CaughtUp { number: last.number, at: last.end })?;
        }
        txn.commit()?;
        Ok(())
    }

    /// The first row of a queue in a range of blocks.
    pub fn first_row(&self, queue: u32, from: u64, to: u64) -> Result<Option<(u64, Option<RowWrite>)>, redb::Error> {
        let table = self.db.begin_read()?.open_table(ROWS)?;
        let mut found = table.range((queue, from)..=(queue, to))?;
        let Some(row) = found.next() else { return Ok(None) };
        let (key, value) = row?;
        let (_, block) = key.value();
        Ok(Some((block, rows::decode_row(queue, block, value.value()))))
    }

    /// Rows of a queue from the first block of a range on, for as long as `take` says so.
    pub fn rows_while(
        &self,
        (queue, from, to): (u32, u64, u64),
        mut take: impl FnMut(&RowWrite) -> bool,
    ) -> Result<Vec<RowWrite>, redb::Error> {
        let mut found = Vec::new();
        for row in self.db.begin_read()?.open_table(ROWS)?.range((queue, from)..=(queue, to))? {
            let (key, value) = row?;
            let Some(row) = rows::decode_row(queue, key.value().1, value.value()) else { break };
            if found.len() == ROWS_MAX || !take(&row) {
                break;
            }
            found.push(row);
        }
        Ok(found)
    }

    pub fn row(&self, queue: u32, block: u64) -> Result<Option<RowWrite>, redb::Error> {
        let table = self.db.begin_read()?.open_table(ROWS)?;
        let row = table.get((queue, block))?.and_then(|v| rows::decode_row(queue, block, v.value()));
        Ok(row)
    }

    pub fn place(&self, block: u64) -> Result<Option<Place>, redb::Error> {
        let table = self.db.begin_read()?.open_table(PLACES)?;
        let place = table.get(block)?.and_then(|v| Place::decode(v.value()));
        Ok(place)
    }

    /// A block that lies in the database itself, as the first format had it.
    pub fn inline_block(&self, block: u64) -> Result<Option<Vec<u8>>, redb::Error> {
        let table = self.db.begin_read()?.open_table(BLOCKS)?;
        let bytes = table.get(block)?.map(|v| v.value().to_vec());
        Ok(bytes)
    }

    pub fn queue(&self, id: u32) -> Result<Option<QueueRow>, redb::Error> {
        let table = self.db.begin_read()?.open_table(QUEUES)?;
        let queue = table.get(id)?.and_then(|v| rows::decode_queue(id, v.value()));
        Ok(queue)
    }

    pub fn attempts(&self, queue: u32) -> Result<BTreeMap<u64, u16>, redb::Error> {
        let table = self.db.begin_read()?.open_table(ATTEMPTS)?;
        let mut found = BTreeMap::new();
        for row in table.range((queue, 0)..=(queue, u64::MAX))? {
            let (key, value) = row?;
            found.insert(key.value().1, value.value());
        }
        Ok(found)
    }

    pub fn documents(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
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
    }

    /// Blocks in a segment, from a number on; looks at `looks` places and says where to go on.
    pub fn blocks_in(&self, segment: u64, from: u64, looks: usize) -> Result<BlocksIn, redb::Error> {
        let table = self.db.begin_read()?.open_table(PLACES)?;
        let mut found = Vec::new();
        for (look, row) in table.range(from..)?.enumerate() {
            let (block, value) = row?;
            if look == looks {
                return Ok((found, Some(block.value())));
            }
            let place = Place::decode(value.value()).filter(|place| place.segment == segment);
            found.extend(place.map(|place| (block.value(), place)));
        }
        Ok((found, None))
    }

    /// Bytes that the rows would need if they were packed, at a guess, and whether blocks lie among them.
    pub fn needed_bytes(&self) -> Result<(u64, bool), redb::Error> {
        let txn = self.db.begin_read()?;
        let rows = txn.open_table(ROWS)?.len()? + txn.open_table(PLACES)?.len()? + txn.open_table(ATTEMPTS)?.len()?;
        let documents = txn.open_table(DOCUMENTS)?.stats()?.stored_bytes();
        let dead = txn.open_table(DEAD)?.stats()?.stored_bytes();
        let queues = txn.open_table(QUEUES)?.len()? * 128;
        let inline = !txn.open_table(BLOCKS)?.is_empty()?;
        Ok((rows * 96 + documents + dead + queues + 64 * 1024, inline))
    }

    /// Gives free pages back to the file system. Takes as long as there are rows, not as long as the file was.
    pub fn compact(&mut self) -> Result<(), String> {
        self.db.compact().map(|_| ()).map_err(|e| e.to_string())
    }

    pub fn write<R>(&self, act: impl FnOnce(&WriteTransaction) -> Result<R, redb::Error>) -> Result<R, redb::Error> {
        let txn = self.db.begin_write()?;
        let result = act(&txn)?;
        txn.commit()?;
        Ok(result)
    }

    pub fn read<R>(
        &self,
        act: impl FnOnce(&redb::ReadTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, redb::Error> {
        act(&self.db.begin_read()?)
    }
}

fn make_tables(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(BLOCKS)?;
    txn.open_table(PLACES)?;
    txn.open_table(SEGMENTS)?;
    txn.open_table(ROWS)?;
    txn.open_table(QUEUES)?;
    txn.open_table(ATTEMPTS)?;
    txn.open_table(DEAD)?;
    txn.open_table(DOCUMENTS)?;
    txn.open_table(META)?.insert("format", FORMAT.to_le_bytes().as_slice())?;
    Ok(())
}

fn set_caught_up(txn: &WriteTransaction, caught_up: CaughtUp) -> Result<(), redb::Error> {
    txn.open_table(META)?.insert("log", rows::encode_caught_up(caught_up).as_slice())?;
    Ok(())
}

fn apply_one(txn: &WriteTransaction, one: &Pending, segments: &mut BTreeMap<u64, Live>) -> Result<(), redb::Error> {
    apply_blocks(txn, one, segments)?;
    if !one.effects.queues.is_empty() {
        let mut queues = txn.open_table(QUEUES)?;
        for queue in &one.effects.queues {
            queues.insert(queue.id, rows::encode_queue(queue).as_slice())?;
        }
    }
    if !one.effects.attempts.is_empty() {
        let mut table = txn.open_table(ATTEMPTS)?;
        for (queue, seq, count) in &one.effects.attempts {
            if *count == 0 {
                table.remove((*queue, *seq))?;
            } else {
                table.insert((*queue, *seq), *count)?;
            }
        }
    }
    dead::apply(txn, &one.effects)?;
    if !one.effects.documents.is_empty() {
        let mut table = txn.open_table(DOCUMENTS)?;
        for (name, bytes) in &one.effects.documents {
            match bytes {
                Some(bytes) => table.insert(name.as_str(), bytes.as_slice())?,
                None => table.remove(name.as_str())?,
            };
        }
    }
    Ok(())
}

/// Blocks get a place, rows move what is open in them, and a block of which nothing is open goes.
fn apply_blocks(txn: &WriteTransaction, one: &Pending, segments: &mut BTreeMap<u64, Live>) -> Result<(), redb::Error> {
    if one.effects.blocks.is_empty() && one.effects.rows.is_empty() {
        return Ok(());
    }
    let mut places = txn.open_table(PLACES)?;
    let mut inline = txn.open_table(BLOCKS)?;
    let mut table = txn.open_table(ROWS)?;
    let mut changed: BTreeMap<u64, Place> = BTreeMap::new();
    let mut inlined = BTreeSet::new();
    for new in &one.effects.blocks {
        let before = places.get(new.block)?.and_then(|v| Place::decode(v.value()));
        if let Some(before) = before {
            before.leave(segments);
            if before.is_inline() {
                inlined.insert(new.block);
            }
        }
        let place = Place {
            segment: one.payload_at.segment,
            offset: one.payload_at.offset + u64::from(new.offset),
            length: new.length,
            crc: new.crc,
            open: before.map_or(0, |b| b.open),
            all: new.targets,
        };
        place.enter(segments);
        changed.insert(new.block, place);
    }
    for row in &one.effects.rows {
        let key = (row.queue, row.block);
        if let std::collections::btree_map::Entry::Vacant(empty) = changed.entry(row.block) {
            // Only after a salvage: what the row speaks of is gone.
            let Some(place) = places.get(row.block)?.and_then(|v| Place::decode(v.value())) else { continue };
            empty.insert(place);
        }
        let Some(place) = changed.get_mut(&row.block) else { continue };
        let open = row.total.saturating_sub(row.settled);
        let was = if open > 0 { table.insert(key, rows::encode_row(row).as_slice())? } else { table.remove(key)? };
        let was = was.map(|v| rows::decode_row(row.queue, row.block, v.value()));
        place.leave(segments);
        place.open = match was {
            // What it had open nobody knows: those of all queues are added up again.
            Some(None) => open_of_block(txn, &table, row.block)?,
            Some(Some(was)) => (place.open + open).saturating_sub(open_of(&was)),
            None => place.open + open,
        };
        place.enter(segments);
    }
    for (block, place) in changed {
        if place.open > 0 {
            places.insert(block, place.encode().as_slice())?;
        } else {
            place.leave(segments);
            places.remove(block)?;
        }
        if place.is_inline() && place.open == 0 || inlined.contains(&block) {
            inline.remove(block)?;
        }
    }
    Ok(())
}

pub fn open_of(row: &RowWrite) -> u32 {
    row.total.saturating_sub(row.settled)
}

fn open_of_block(
    txn: &WriteTransaction,
    rows_table: &impl ReadableTable<(u32, u64), &'static [u8]>,
    block: u64,
) -> Result<u32, redb::Error> {
    let mut open = 0;
    for queue in txn.open_table(QUEUES)?.iter()? {
        let queue = queue?.0.value();
        let row = rows_table.get((queue, block))?.and_then(|v| rows::decode_row(queue, block, v.value()));
        open += row.as_ref().map_or(0, open_of);
    }
    Ok(open)
}
