//! A row of the index that can't be read: what it said is worked out from the rest. The ledger of its queue tells how many
//! messages it left open, its block which they may be. Must never let a message go that the ledger still counts.

use super::head::open_of;
use super::tables::ROWS;
use super::{Fault, Store, rows};
use crate::logic::hub::{LoadedBlock, LoadedMessage, RowWrite};
use crate::model::time::Age;

impl Store {
    /// All messages of the block that go to the queue: nobody knows any more which of them are done with.
    pub(super) fn rebuilt(&self, queue: u32, block: u64) -> Result<LoadedBlock, Fault> {
        let open = self.missing_open(queue)?;
        let mut loaded = LoadedBlock {
            block,
            total: open,
            unreadable: Some(format!("the row of queue {queue} and block {block} is broken")),
            ..LoadedBlock::default()
        };
        let row = RowWrite { queue, block, total: open, settled: 0, bits: Vec::new(), last_expiry: Age(0) };
        if let Ok(messages) = self.read_messages(&row) {
            loaded.total = open.max(messages.len() as u32);
            loaded.settled = loaded.total - open;
            loaded.last_expiry = messages.iter().map(|m: &LoadedMessage| m.expiry).max().unwrap_or_default();
            loaded.messages = messages;
        }
        Ok(loaded)
    }

    /// What the ledger of a queue counts as stored, and no row that can be read has.
    fn missing_open(&self, queue: u32) -> Result<u32, Fault> {
        let stored = self.head.queue(queue)?.map_or(0, |row| row.ledger.stored);
        Ok(u32::try_from(stored.saturating_sub(self.open_in_rows(queue)?)).unwrap_or(u32::MAX))
    }

    /// Messages of a queue that its rows leave open, as far as they can be read.
    fn open_in_rows(&self, queue: u32) -> Result<u64, Fault> {
        let open = self.head.read(|txn| {
            let mut open = 0;
            for row in txn.open_table(ROWS)?.range((queue, 0)..=(queue, u64::MAX))? {
                let (key, value) = row?;
                let row = rows::decode_row(queue, key.value().1, value.value());
                open += row.map_or(0, |row| u64::from(open_of(&row)));
            }
            Ok(open)
        });
        Ok(open?)
    }

    /// The first row of a range, if it can't be read: as if nothing in it were settled, for who does away with it.
    pub(super) fn broken_front(&self, queue: u32, from: u64, to: u64) -> Result<Option<RowWrite>, Fault> {
        let Some((block, None)) = self.head.first_row(queue, from, to)? else { return Ok(None) };
        let total = self.missing_open(queue)?;
        Ok(Some(RowWrite { queue, block, total, settled: 0, bits: Vec::new(), last_expiry: Age(0) }))
    }
}
