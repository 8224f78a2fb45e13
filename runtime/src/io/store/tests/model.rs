//! What a store should hold, as plain maps, and commits like those of the hub to put into it.
//! Must never ask the store under test what is right.

use std::collections::BTreeMap;

use super::super::Store;
use super::disk::Dice;
use crate::logic::block::{BlockWriter, Goes};
use crate::logic::hub::{
    BlockWrite, Commit, DeadLetter, EvictRange, ExpireRange, Gone, Ledger, LoadRequest, QueueRow, RowWrite,
};
use crate::model::endpoint::{Endpoint, Source};
use crate::model::time::{Age, Mono, Now, Wall};

pub const QUEUES: u32 = 3;
const EXPIRES: u32 = 3;

/// Everything that can be seen of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// (queue, message) to its refusals and body length.
    open: BTreeMap<(u32, u64), (u16, usize)>,
    ledgers: BTreeMap<u32, [u64; 5]>,
    pub documents: Vec<(String, Vec<u8>)>,
    dead: Vec<(u64, u32)>,
    next: (u64, u64),
}

impl Picture {
    pub fn of(store: &mut Store) -> Result<Picture, String> {
        let mut picture = Picture::default();
        for queue in 1..=QUEUES {
            let mut from = 0;
            while let Some(block) = store.load(&LoadRequest { peek: false, queue, ix: 0, from, to: u64::MAX })? {
                assert_eq!(block.unreadable, None);
                assert_eq!(block.messages.len() as u32, block.total - block.settled);
                from = block.block + 1;
                let messages = block.messages.iter().map(|m| ((queue, m.seq), (m.attempts, m.record.len())));
                picture.open.extend(messages);
            }
        }
        picture.documents = store.documents("")?;
        picture.dead = all_dead(store)?;
        let (restored, _) = store.head.restore()?;
        picture.next = (restored.next_seq, restored.next_block);
        picture.ledgers = restored.queues.iter().map(|q| (q.id, numbers(&q.ledger))).collect();
        Ok(picture)
    }
}

fn all_dead(store: &mut Store) -> Result<Vec<(u64, u32)>, String> {
    let (mut found, mut from) = (Vec::new(), (0, 0));
    loop {
        let page = store.dead_letters(from, 7)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        from = (last.0, last.1 + 1);
        found.extend(page.iter().filter(|(_, letter)| letter.is_some()).map(|(id, _)| *id));
    }
}

impl Picture {
    /// Of the bodies.
    pub fn bytes(&self) -> u64 {
        self.open.values().map(|(_, length)| *length as u64).sum()
    }

    /// Every message of `other` is here too, perhaps with some that it is done with.
    pub fn holds_messages_of(&self, other: &Picture) {
        let missing: Vec<_> = other.open.keys().filter(|key| !self.open.contains_key(key)).collect();
        assert!(missing.is_empty(), "missing: {missing:?}");
        for (queue, numbers) in &self.ledgers {
            let open = self.open.keys().filter(|(q, _)| q == queue).count() as u64;
            assert_eq!(numbers[4], open, "the ledger of queue {queue} and its rows differ");
        }
    }
}

fn numbers(ledger: &Ledger) -> [u64; 5] {
    [ledger.delivered, ledger.expired, ledger.evicted, ledger.dead_lettered, ledger.stored]
}

#[derive(Clone, Debug)]
struct Row {
    messages: Vec<(u32, u64, usize)>,
    bits: Vec<u64>,
    last_expiry: Age,
    total: u32,
}

impl Row {
    fn is_open(&self, index: u32) -> bool {
        self.bits.get(index as usize / 64).is_none_or(|w| w >> (index % 64) & 1 == 0)
    }

    fn open(&self) -> u64 {
        self.messages.iter().filter(|(index, _, _)| self.is_open(*index)).count() as u64
    }

    fn set(&mut self, index: u32) {
        let word = index as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (index % 64);
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    rows: BTreeMap<(u32, u64), Row>,
    ledgers: BTreeMap<u32, Ledger>,
    attempts: BTreeMap<(u32, u64), u16>,
    documents: BTreeMap<String, Vec<u8>>,
    dead: Vec<(u64, u32)>,
    next: (u64, u64),
    age: u64,
    id: u64,
    accepted: BTreeMap<u32, u64>,
    expired: BTreeMap<u32, u64>,
    /// Rows of a commit that was made and not applied yet.
    made: BTreeMap<(u32, u64), Row>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            rows: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            documents: BTreeMap::new(),
            dead: Vec::new(),
            next: (1, 1),
            age: 0,
            id: 0,
            accepted: BTreeMap::new(),
            expired: BTreeMap::new(),
            made: BTreeMap::new(),
        }
    }
}

impl Model {
    pub fn picture(&self) -> Picture {
        let mut open = BTreeMap::new();
        for ((queue, _), row) in &self.rows {
            for (_, seq, length) in row.messages.iter().filter(|(index, _, _)| row.is_open(*index)) {
                open.insert((*queue, *seq), (self.attempts.get(&(*queue, *seq)).copied().unwrap_or(0), *length));
            }
        }
        Picture {
            open,
            ledgers: self.ledgers.iter().map(|(id, ledger)| (*id, numbers(ledger))).collect(),
            documents: self.documents.clone().into_iter().collect(),
            dead: self.dead.clone(),
            next: self.next,
        }
    }

    /// The equation of the ledger.
    pub fn check(&self) {
        for (queue, ledger) in &self.ledgers {
            let rows = self.rows.range((*queue, 0)..=(*queue, u64::MAX));
            assert_eq!(ledger.stored, rows.map(|(_, row)| row.open()).sum::<u64>(), "queue {queue}");
            assert_eq!(ledger.settled() + ledger.stored, self.accepted[queue], "queue {queue}: {ledger:?}");
        }
    }

    pub fn apply(&mut self, commit: &Commit) {
        // As they were before: a row that this commit settles may still stand in front of others.
        let mut old = Vec::new();
        for range in &commit.expire {
            let rows = self.rows.range((range.queue, range.from)..=(range.queue, range.to));
            old.extend(rows.take_while(|(_, row)| row.last_expiry <= commit.now.age).map(|(key, _)| *key));
        }
        for row in &commit.rows {
            let key = (row.queue, row.block);
            let made = self.made.remove(&key);
            if let Some(made) = made {
                *self.accepted.entry(row.queue).or_default() += made.messages.len() as u64;
                self.rows.insert(key, made);
            }
            let known = self.rows.get_mut(&key).expect("a row is written for what is there");
            known.bits = row.bits.clone();
            if known.open() == 0 {
                self.rows.remove(&key);
            }
        }
        self.made.clear();
        for queue in &commit.queues {
            self.ledgers.insert(queue.id, queue.ledger);
        }
        for (queue, seq, count) in &commit.attempts {
            self.attempts.insert((*queue, *seq), *count);
        }
        for (name, bytes) in &commit.documents {
            match bytes {
                Some(bytes) => drop(self.documents.insert(name.clone(), bytes.clone())),
                None => drop(self.documents.remove(name)),
            }
        }
        self.dead.retain(|id| !commit.gone.iter().any(|(gone, _)| gone == id));
        self.dead.extend(commit.dead.iter().map(|d| (d.seq, d.queue)));
        self.dead.sort_unstable();
        self.dead.dedup();
        self.next = (commit.next_seq, commit.next_block);
        for key in old {
            let Some(row) = self.rows.remove(&key) else { continue };
            *self.expired.entry(key.0).or_default() += row.open();
            let ledger = self.ledgers.entry(key.0).or_default();
            ledger.expired += row.open();
            ledger.stored -= row.open();
        }
    }

    pub fn take_expired(&mut self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut self.expired)
    }

    /// The store evicted that many messages of the queue: whole rows, the oldest.
    pub fn evict(&mut self, queue: u32, messages: u64) {
        let mut left = messages;
        while left > 0 {
            let (key, open) = {
                let mut rows = self.rows.range((queue, 0)..=(queue, u64::MAX));
                let (key, row) = rows.next().expect("it has that many");
                (*key, row.open())
            };
            assert!(open <= left, "half a row was evicted");
            left -= open;
            self.rows.remove(&key);
        }
        let ledger = self.ledgers.entry(queue).or_default();
        ledger.evicted += messages;
        ledger.stored -= messages;
    }

    /// For a commit whose answer was lost in a cut: how much it evicted is seen in the ledger.
    pub fn evict_as(&mut self, found: &Picture, commit: &Commit) {
        for range in &commit.evict {
            let before = self.ledgers.get(&range.queue).map_or(0, |ledger| ledger.evicted);
            let after = found.ledgers.get(&range.queue).map_or(0, |numbers| numbers[2]);
            if after > before {
                self.evict(range.queue, after - before);
            }
        }
        self.expired.clear();
    }

    pub fn next_commit(&mut self, dice: &mut Dice, (room, is_full): (u64, bool)) -> Commit {
        self.made.clear();
        self.id += 1;
        self.age += dice.roll(30);
        let mut commit = Commit { id: self.id, ..Commit::default() };
        let (mut next_seq, mut next_block) = self.next;
        let mut ledgers = self.ledgers.clone();
        let mut left = room.min(40_000);
        for _ in 0..dice.roll(4) {
            self.add_block(dice, &mut left, &mut next_seq, &mut next_block, &mut ledgers, &mut commit);
        }
        self.settle_some(dice, is_full, &mut ledgers, &mut commit);
        if dice.chance(6) {
            let name = format!("twin/{}", dice.roll(4));
            commit
                .documents
                .push((name, (!dice.chance(4)).then(|| vec![dice.roll(256) as u8; dice.roll(900) as usize])));
        }
        if dice.chance(5) {
            commit.expire.push(ExpireRange { queue: EXPIRES, from: 0, to: self.next.1.saturating_sub(1) });
        }
        if is_full && dice.chance(2) {
            commit.evict.push(EvictRange { queue: 2, from: 0, to: self.next.1.saturating_sub(1), bytes: 1 });
        }
        for queue in 1..=QUEUES {
            let ledger = ledgers.entry(queue).or_default();
            self.accepted.entry(queue).or_default();
            let endpoint = Endpoint::Input { module: format!("m{queue}"), input: "i".into() };
            commit.queues.push(QueueRow { id: queue, endpoint, priority: queue, ledger: *ledger });
        }
        commit.next_seq = next_seq;
        commit.next_block = next_block;
        commit.now = Now { mono: Mono(self.age), wall: Wall(0), age: Age(self.age) };
        commit
    }

    fn add_block(
        &mut self,
        dice: &mut Dice,
        left: &mut u64,
        next_seq: &mut u64,
        next_block: &mut u64,
        ledgers: &mut BTreeMap<u32, Ledger>,
        commit: &mut Commit,
    ) {
        let mut writer = BlockWriter::default();
        let source = Source { module: "a".into(), output: "o".into() };
        let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
        let noise = dice.chance(2);
        for _ in 0..=dice.roll(25) {
            let most = if dice.chance(5) { 4_000 } else { 300 };
            let length = dice.roll(most) as usize;
            let cost = length as u64 + 64 * 4;
            if cost > *left {
                break;
            }
            *left -= cost;
            let record: Vec<u8> = (0..length).map(|_| if noise { dice.roll(256) as u8 } else { b'x' }).collect();
            let expiry = Age(self.age + dice.roll(600));
            let mut queues: Vec<u32> = (1..=QUEUES).filter(|_| dice.chance(2)).collect();
            if queues.is_empty() {
                queues.push(1);
            }
            let goes: Vec<Goes> = queues.iter().map(|queue| Goes { queue: *queue, expiry }).collect();
            let index = writer.push(*next_seq, &source, Wall(1), &goes, &record);
            for queue in queues {
                let fresh = Row { messages: Vec::new(), bits: Vec::new(), last_expiry: Age(0), total: 0 };
                let row = rows.entry(queue).or_insert(fresh);
                row.messages.push((index, *next_seq, length));
                row.total += 1;
                row.last_expiry = row.last_expiry.max(expiry);
                ledgers.entry(queue).or_default().stored += 1;
            }
            *next_seq += 1;
        }
        if rows.is_empty() {
            return;
        }
        let block = *next_block;
        *next_block += 1;
        commit.blocks.push(BlockWrite { block, bytes: writer.finish() });
        for (queue, row) in rows {
            let (total, last_expiry) = (row.total, row.last_expiry);
            commit.rows.push(RowWrite { queue, block, total, settled: 0, bits: Vec::new(), last_expiry });
            self.made.insert((queue, block), row);
        }
    }

    fn settle_some(&self, dice: &mut Dice, is_full: bool, ledgers: &mut BTreeMap<u32, Ledger>, commit: &mut Commit) {
        let keys: Vec<_> = self.rows.keys().copied().collect();
        let wanted = dice.roll(if is_full { 12 } else { 5 });
        let mut done = std::collections::BTreeSet::new();
        for _ in 0..wanted.min(keys.len() as u64) {
            let key = keys[dice.roll(keys.len() as u64) as usize];
            if !done.insert(key) {
                continue;
            }
            let mut row = self.rows[&key].clone();
            let before = row.open();
            // Often all but one, as a straggler leaves it.
            let keep = dice.roll(3);
            let open: Vec<u32> = row.messages.iter().map(|m| m.0).filter(|index| row.is_open(*index)).collect();
            let skip = match keep {
                0 => 0,
                1 => 1,
                _ => dice.roll(open.len() as u64) as usize,
            };
            open.iter().skip(skip).for_each(|index| row.set(*index));
            let after = row.open();
            let ledger = ledgers.entry(key.0).or_default();
            ledger.stored -= before - after;
            ledger.delivered += before - after;
            if after < before && dice.chance(20) {
                let (_, seq, _) = row.messages[0];
                commit.dead.push(letter(seq, key.0));
            } else if after > 0 && dice.chance(8) {
                let at = dice.roll(row.messages.len() as u64) as usize;
                commit.attempts.push((key.0, row.messages[at].1, dice.roll(4) as u16));
            }
            // Without the dice: what else a seed does is not to depend on it.
            if self.id % 11 == 3
                && commit.gone.is_empty()
                && let Some(oldest) = self.dead.first()
            {
                commit.gone.push((*oldest, Gone::Purged));
            }
            commit.rows.push(RowWrite {
                queue: key.0,
                block: key.1,
                total: row.total,
                settled: row.total - after as u32,
                bits: row.bits,
                last_expiry: row.last_expiry,
            });
        }
    }

    /// Commits that settle everything, a few rows each.
    pub fn settle_all(&self) -> Vec<Commit> {
        self.settle_but(0)
    }

    /// The same, with one message left of each row.
    pub fn settle_all_but_one(&self) -> Vec<Commit> {
        self.settle_but(1)
    }

    fn settle_but(&self, left: usize) -> Vec<Commit> {
        let mut commits = Vec::new();
        let mut ledgers = self.ledgers.clone();
        let keys: Vec<_> = self.rows.keys().copied().collect();
        for chunk in keys.chunks(7) {
            let mut commit = Commit { next_seq: self.next.0, next_block: self.next.1, ..Commit::default() };
            for key in chunk {
                let mut row = self.rows[key].clone();
                let ledger = ledgers.entry(key.0).or_default();
                let before = row.open();
                let open: Vec<u32> = row.messages.iter().map(|m| m.0).filter(|index| row.is_open(*index)).collect();
                open.iter().skip(left).for_each(|index| row.set(*index));
                let after = row.open();
                ledger.delivered += before - after;
                ledger.stored -= before - after;
                let settled = row.total - after as u32;
                let Row { bits, last_expiry, total, .. } = row;
                commit.rows.push(RowWrite { queue: key.0, block: key.1, total, settled, bits, last_expiry });
            }
            commit.queues = ledgers
                .iter()
                .map(|(id, ledger)| QueueRow {
                    id: *id,
                    endpoint: Endpoint::Input { module: format!("m{id}"), input: "i".into() },
                    priority: *id,
                    ledger: *ledger,
                })
                .collect();
            commits.push(commit);
        }
        commits
    }
}

fn letter(seq: u64, queue: u32) -> DeadLetter {
    DeadLetter {
        seq,
        queue,
        endpoint: "modules/m/inputs/i".into(),
        source: Source { module: "a".into(), output: "o".into() },
        enqueued: Wall(3),
        refusals: 5,
        reason: "no".into(),
        record: vec![b'd'; 40],
    }
}
