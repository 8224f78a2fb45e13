//! What of a commit only the store knows: which rows a range of blocks has, and so which messages expire or are evicted
//! with it. Turns ranges into rows and ledgers, so that the log holds plain values. Must never touch what memory holds.

use super::record::Effects;
use super::{Fault, Store};
use crate::logic::block::Block;
use crate::logic::hub::{Commit, Ledger, RowWrite, Settled, Wrote};

pub fn plan(store: &Store, commit: &Commit, effects: &mut Effects, wrote: &mut Wrote) -> Result<(), Fault> {
    for range in &commit.expire {
        let old = |row: &RowWrite| row.last_expiry <= commit.now.age;
        let rows = store.head.rows_while((range.queue, range.from, range.to), old)?;
        let done = settle(store, range.queue, rows, effects, |ledger, messages| ledger.expired += messages)?;
        wrote.expired.extend(done);
    }
    for range in &commit.remove {
        let rows = store.head.rows_while((range.queue, range.from, range.to), |_| true)?;
        let done = settle(store, range.queue, rows, effects, |ledger, messages| ledger.removed += messages)?;
        wrote.expired.extend(done);
    }
    for range in &commit.evict {
        // A segment's worth, and up to where one ends: then it goes without being rewritten.
        let (mut bytes, mut last) = (range.bytes.max(store.quota.segment_bytes), None);
        let enough = |row: &RowWrite| {
            let place = store.head.place(row.block).ok().flatten().unwrap_or_default();
            let more = bytes > 0 || last == Some(place.segment);
            last = Some(place.segment);
            bytes = bytes.saturating_sub(u64::from(place.length).max(1));
            more
        };
        let mut rows = store.head.rows_while((range.queue, range.from, range.to), enough)?;
        if rows.is_empty() {
            rows.extend(store.broken_front(range.queue, range.from, range.to)?);
        }
        let done = settle(store, range.queue, rows, effects, |ledger, messages| ledger.evicted += messages)?;
        wrote.evicted.extend(done);
    }
    Ok(())
}

/// All of these rows of one queue are done with.
fn settle(
    store: &Store,
    id: u32,
    rows: Vec<RowWrite>,
    effects: &mut Effects,
    count: impl Fn(&mut Ledger, u64),
) -> Result<Option<Settled>, Fault> {
    let Some(through) = rows.last().map(|row| row.block) else { return Ok(None) };
    // What this very commit settles in them is newer than what the index has.
    let newer =
        |row: RowWrite| effects.rows.iter().find(|r| r.queue == id && r.block == row.block).cloned().unwrap_or(row);
    let rows: Vec<RowWrite> = rows.into_iter().map(newer).collect();
    effects.rows.retain(|row| row.queue != id || row.block > through || !rows.iter().any(|r| r.block == row.block));
    let messages = rows.iter().map(|row| u64::from(row.total.saturating_sub(row.settled))).sum();
    if !effects.queues.iter().any(|queue| queue.id == id) {
        effects.queues.extend(store.head.queue(id)?);
    }
    if let Some(queue) = effects.queues.iter_mut().find(|queue| queue.id == id) {
        count(&mut queue.ledger, messages);
        queue.ledger.stored = queue.ledger.stored.saturating_sub(messages);
    }
    forget_attempts(store, id, &rows, effects)?;
    effects.rows.extend(rows.into_iter().map(|row| RowWrite { settled: row.total, bits: Vec::new(), ..row }));
    Ok(Some(Settled { queue: id, messages, through }))
}

/// Refusals of messages that are gone. Blocks are read only as long as there can be any in them: those that were refused are
/// the oldest of their queue, and reading a thousand blocks would stop everything for a second.
fn forget_attempts(store: &Store, queue: u32, rows: &[RowWrite], effects: &mut Effects) -> Result<(), Fault> {
    let mut attempts = store.head.attempts(queue)?;
    for row in rows {
        if attempts.is_empty() {
            break;
        }
        let Some(place) = store.head.place(row.block)? else { continue };
        let Ok(bytes) = store.read_block(row.block, &place) else { continue };
        let Ok(block) = Block::parse(&bytes) else { continue };
        let mut newest = 0;
        // A block that breaks off has told what it could.
        let _ = block.for_each(|message| {
            newest = message.seq;
            if attempts.remove(&message.seq).is_some() {
                effects.attempts.push((queue, message.seq, 0));
            }
        });
        // Later blocks have later messages.
        attempts = attempts.split_off(&(newest + 1));
    }
    Ok(())
}
