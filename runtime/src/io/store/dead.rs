//! The dead letters in the index: how many there are, what they take, and how many more may come. Beyond the limit the oldest
//! make place. Must never forget one without counting why.

use redb::{ReadableTable, WriteTransaction};

use super::head::Head;
use super::record::Effects;
use super::tables::{DEAD, META};
use super::{Fault, Store, rows};
use crate::logic::hub::{DeadLetter, Gone, LetterId};

/// Bytes of the records of one page of dead letters, beyond the first.
const PAGE_BYTES: usize = 1024 * 1024;

/// What there is, and what went, for the life of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadSums {
    pub letters: u64,
    pub bytes: u64,
    pub replayed: u64,
    pub purged: u64,
    pub dropped: u64,
}

/// `None`: its row can't be read.
pub type Letter = (LetterId, Option<DeadLetter>);

impl DeadSums {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.letters, self.bytes, self.replayed, self.purged, self.dropped];
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<DeadSums> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [letters, bytes, replayed, purged, dropped] = *numbers else { return None };
        let [letters, bytes, replayed, purged, dropped] =
            [letters, bytes, replayed, purged, dropped].map(u64::from_le_bytes);
        rest.is_empty().then_some(DeadSums { letters, bytes, replayed, purged, dropped })
    }

    /// As the table has it, for a store that has no sums yet.
    fn of(table: &impl ReadableTable<(u64, u32), &'static [u8]>) -> Result<DeadSums, redb::Error> {
        let mut sums = DeadSums::default();
        for row in table.iter()? {
            sums.letters += 1;
            sums.bytes += row?.1.value().len() as u64;
        }
        Ok(sums)
    }
}

impl Head {
    /// From one on, in the order of their messages.
    pub fn dead_letters(&self, from: LetterId, limit: usize) -> Result<Vec<Letter>, redb::Error> {
        let table = self.read(|txn| Ok(txn.open_table(DEAD)?))?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in table.range(from..)?.take(limit) {
            let (key, value) = row?;
            bytes += value.value().len();
            if bytes > PAGE_BYTES && !found.is_empty() {
                break;
            }
            found.push((key.value(), rows::decode_dead(key.value(), value.value())));
        }
        Ok(found)
    }

    pub fn dead_sums(&self) -> Result<DeadSums, redb::Error> {
        self.read(|txn| {
            let known = txn.open_table(META)?.get("dead")?.and_then(|v| DeadSums::decode(v.value()));
            known.map_or_else(|| DeadSums::of(&txn.open_table(DEAD)?), Ok)
        })
    }
}

/// Those that come, and those that go. The same a second time changes nothing.
pub fn apply(txn: &WriteTransaction, effects: &Effects) -> Result<(), redb::Error> {
    if effects.dead.is_empty() && effects.gone.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(DEAD)?;
    let mut meta = txn.open_table(META)?;
    let known = meta.get("dead")?.and_then(|v| DeadSums::decode(v.value()));
    let mut sums = known.map_or_else(|| DeadSums::of(&table), Ok)?;
    for letter in &effects.dead {
        let bytes = rows::encode_dead(letter);
        let was = table.insert((letter.seq, letter.queue), bytes.as_slice())?.map(|v| v.value().len() as u64);
        sums.letters += u64::from(was.is_none());
        sums.bytes = (sums.bytes + bytes.len() as u64).saturating_sub(was.unwrap_or(0));
    }
    for (id, why) in &effects.gone {
        let Some(was) = table.remove(*id)?.map(|v| v.value().len() as u64) else { continue };
        sums.letters = sums.letters.saturating_sub(1);
        sums.bytes = sums.bytes.saturating_sub(was);
        match why {
            Gone::Replayed => sums.replayed += 1,
            Gone::Purged => sums.purged += 1,
            Gone::Dropped => sums.dropped += 1,
        }
    }
    meta.insert("dead", sums.encode().as_slice())?;
    Ok(())
}

impl Store {
    /// A page of dead letters, from one on.
    pub fn dead_letters(&mut self, from: LetterId, limit: usize) -> Result<Vec<Letter>, String> {
        self.catch_up(false).map_err(|e| e.to_string())?;
        self.head.dead_letters(from, limit).map_err(|e| e.to_string())
    }

    /// The oldest make place for those that come with this commit, so that poison can't fill the store.
    pub(super) fn limit_dead(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        if effects.dead.is_empty() {
            return Ok(());
        }
        self.catch_up(false)?;
        let coming: u64 = effects.dead.iter().map(|letter| rows::encode_dead(letter).len() as u64).sum();
        let mut bytes = self.head.dead_sums()?.bytes + coming;
        let mut from = (0, 0);
        while bytes > self.quota.dead_bytes() {
            let Some((id, letter)) = self.head.dead_letters(from, 1)?.pop() else { break };
            bytes = bytes.saturating_sub(letter.map_or(0, |letter| rows::encode_dead(&letter).len() as u64));
            effects.gone.push((id, Gone::Dropped));
            from = (id.0, id.1 + 1);
        }
        Ok(())
    }
}
