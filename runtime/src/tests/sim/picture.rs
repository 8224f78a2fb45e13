//! What the store must hold, by the commits that succeeded: exact to the message, the ledger and the document.
//! Must never ask the store under test what is right.

use std::collections::{BTreeMap, BTreeSet};

use super::oracle::Uid;
use super::part::uid_of;
use crate::io::store::Store;
use crate::logic::block::Block;
use crate::logic::hub::{Commit, Ledger, LoadRequest, RowWrite, Wrote};
use crate::model::time::Age;

/// Queue of the store, and message.
pub type Held = BTreeMap<(u32, Uid), At>;
type Keys = Vec<(u32, Uid)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub block: u64,
    pub index: u32,
    pub expiry: Age,
}

#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub open: Held,
    pub ledgers: BTreeMap<u32, Ledger>,
    documents: BTreeMap<String, Vec<u8>>,
    dead: BTreeSet<(u32, Uid)>,
    next: (u64, u64),
}

/// What a store has, read back.
#[derive(Debug)]
pub struct Scan {
    open: BTreeMap<(u32, Uid), (u64, Age)>,
    ledgers: BTreeMap<u32, Ledger>,
    documents: BTreeMap<String, Vec<u8>>,
    dead: BTreeSet<(u32, Uid)>,
    next: (u64, u64),
}

impl Scan {
    pub fn of(store: &mut Store, restored: &crate::logic::hub::Restored) -> Result<Scan, String> {
        let mut open = BTreeMap::new();
        for queue in restored.queues.iter().map(|row| row.id) {
            let (mut from, mut before) = (0, 0);
            while let Some(block) = store.load(&LoadRequest { peek: false, queue, ix: 0, from, to: u64::MAX })? {
                assert_eq!(block.unreadable, None, "a cut is no damage");
                assert_eq!(block.messages.len() as u32, block.total - block.settled, "row and block differ");
                for message in &block.messages {
                    assert!(message.seq > before, "queue {queue} is out of order on disk");
                    before = message.seq;
                    let uid = uid_of(&message.record).expect("a message comes back as it was");
                    open.insert((queue, uid), (block.block, message.expiry));
                }
                from = block.block + 1;
            }
        }
        let (mut dead, mut next) = (BTreeSet::new(), Some((0, 0)));
        while let Some(from) = next.take() {
            for (id, letter) in store.dead_letters(from, 1_000)? {
                let letter = letter.expect("a cut is no damage");
                dead.insert((letter.queue, uid_of(&letter.record).expect("as it was")));
                next = Some((id.0, id.1 + 1));
            }
        }
        let documents = store.documents("")?.into_iter().collect();
        let ledgers = restored.queues.iter().map(|row| (row.id, row.ledger)).collect();
        Ok(Scan { open, ledgers, documents, dead, next: (restored.next_seq, restored.next_block) })
    }
}

impl Picture {
    pub fn new() -> Picture {
        Picture { next: (1, 1), ..Picture::default() }
    }

    /// The messages of a commit's blocks, with the queues that each goes to.
    pub fn messages(commit: &Commit) -> Vec<(Uid, u32, At)> {
        let mut found = Vec::new();
        for write in &commit.blocks {
            let block = Block::parse(&write.bytes).expect("the hub's own block");
            let each = |message: crate::logic::block::BlockMessage<'_>| {
                let uid = uid_of(message.record).expect("a message is stored as it was sent");
                for goes in message.goes() {
                    let at = At { block: write.block, index: message.index, expiry: goes.expiry };
                    found.push((uid, goes.queue, at));
                }
            };
            block.for_each(each).expect("the hub's own block");
        }
        found
    }

    /// What these rows settle of what is open here.
    pub fn settled_by(&self, rows: &[RowWrite]) -> Vec<(u32, Uid)> {
        let mut found = Vec::new();
        for row in rows {
            let is_set = |index: u32| row.bits.get(index as usize / 64).is_some_and(|w| w >> (index % 64) & 1 == 1);
            let of_row =
                self.open.range((row.queue, 0)..=(row.queue, Uid::MAX)).filter(|(_, at)| at.block == row.block);
            let gone: Vec<_> =
                of_row.filter(|(_, at)| row.settled == row.total || is_set(at.index)).map(|(key, _)| *key).collect();
            found.extend(gone);
        }
        found
    }

    pub fn apply(&mut self, commit: &Commit) {
        for (uid, queue, at) in Picture::messages(commit) {
            assert!(self.open.insert((queue, uid), at).is_none(), "message {uid} is stored twice for queue {queue}");
        }
        for key in self.settled_by(&commit.rows) {
            self.open.remove(&key);
        }
        for row in &commit.rows {
            let open = self.open.range((row.queue, 0)..=(row.queue, Uid::MAX)).filter(|(_, at)| at.block == row.block);
            assert_eq!(open.count() as u32, row.total - row.settled, "{row:?} does not say what is open");
        }
        for queue in &commit.queues {
            self.ledgers.insert(queue.id, queue.ledger);
        }
        for (name, bytes) in &commit.documents {
            match bytes {
                Some(bytes) => drop(self.documents.insert(name.clone(), bytes.clone())),
                None => drop(self.documents.remove(name)),
            }
        }
        self.dead.extend(commit.dead.iter().map(|d| (d.queue, uid_of(&d.record).expect("as it was"))));
        self.next = (commit.next_seq, commit.next_block);
    }

    /// What the store settled of its own in a commit. Returns it.
    pub fn apply_wrote(&mut self, commit: &Commit, wrote: &Wrote) -> (Keys, Keys) {
        let mut take = |queue: u32, from: u64, through: u64, messages: u64, expired: bool| {
            let of_queue = self.open.range((queue, 0)..=(queue, Uid::MAX));
            let gone: Vec<_> =
                of_queue.filter(|(_, at)| (from..=through).contains(&at.block)).map(|(k, at)| (*k, *at)).collect();
            assert_eq!(gone.len() as u64, messages, "the store settled others than it says");
            assert!(!expired || gone.iter().all(|(_, at)| at.expiry <= commit.now.age), "expired before its time");
            self.open.retain(|key, _| !gone.iter().any(|(one, _)| one == key));
            let ledger = self.ledgers.entry(queue).or_default();
            ledger.stored -= messages;
            ledger.pending = ledger.stored;
            if expired {
                ledger.expired += messages
            } else {
                ledger.evicted += messages
            }
            gone.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let from = |ranges: Option<u64>| ranges.expect("the store settles only what it was asked to");
        let (mut expired, mut evicted) = (Vec::new(), Vec::new());
        for done in &wrote.expired {
            let asked = from(commit.expire.iter().find(|r| r.queue == done.queue).map(|r| r.from));
            expired.extend(take(done.queue, asked, done.through, done.messages, true));
        }
        for done in &wrote.evicted {
            let asked = from(commit.evict.iter().find(|r| r.queue == done.queue).map(|r| r.from));
            evicted.extend(take(done.queue, asked, done.through, done.messages, false));
        }
        (expired, evicted)
    }

    /// The ledgers on disk say how much lies there.
    pub fn check(&self) {
        for (queue, ledger) in &self.ledgers {
            let open = self.open.range((*queue, 0)..=(*queue, Uid::MAX)).count() as u64;
            assert_eq!(
                (ledger.stored, ledger.pending),
                (open, open),
                "the ledger of queue {queue} and its rows differ"
            );
        }
    }

    /// What was read back is what must be there, or that and the commit that was under way.
    pub fn meets(&mut self, scan: &Scan, under_way: Option<&Commit>) {
        let mut reason = self.difference(scan);
        if let (Some(commit), true) = (under_way, reason.is_some()) {
            let mut with = self.clone();
            with.apply(commit);
            with.settle_as(scan, commit);
            let other = with.difference(scan);
            if other.is_none() {
                *self = with;
                reason = None;
            }
            reason = reason.zip(other).map(|(one, other)| format!("{one}; with the commit under way, {other}"));
        }
        assert!(reason.is_none(), "the store differs from what was acknowledged: {}", reason.unwrap_or_default());
        self.dead.clone_from(&scan.dead);
    }

    /// Ranges that the commit under way expired or evicted: only the store knows how much.
    fn settle_as(&mut self, scan: &Scan, commit: &Commit) {
        let expire = commit.expire.iter().map(|r| (r.queue, r.from, r.to, true));
        let evict = commit.evict.iter().map(|r| (r.queue, r.from, r.to, false));
        for (queue, from, to, expired) in expire.chain(evict) {
            let missing = |key: &(u32, Uid), at: &At| {
                key.0 == queue && (from..=to).contains(&at.block) && !scan.open.contains_key(key)
            };
            let gone: Vec<_> = self.open.iter().filter(|(key, at)| missing(key, at)).map(|(k, at)| (*k, *at)).collect();
            let newest = gone.iter().map(|(_, at)| at.block).max();
            let left = |at: &At| (from..=newest.unwrap_or(0)).contains(&at.block);
            let ledger = self.ledgers.entry(queue).or_default();
            ledger.stored -= gone.len() as u64;
            ledger.pending = ledger.stored;
            if expired {
                ledger.expired += gone.len() as u64
            } else {
                ledger.evicted += gone.len() as u64
            }
            assert!(!expired || gone.iter().all(|(_, at)| at.expiry <= commit.now.age), "expired before its time");
            self.open.retain(|key, _| !gone.iter().any(|(one, _)| one == key));
            let behind = self.open.iter().any(|(key, at)| key.0 == queue && newest.is_some() && left(at));
            assert!(!behind, "a range is settled from its front");
        }
    }

    fn difference(&self, scan: &Scan) -> Option<String> {
        let lost: Vec<_> = self.open.keys().filter(|key| !scan.open.contains_key(key)).collect();
        let revived: Vec<_> = scan.open.keys().filter(|key| !self.open.contains_key(key)).collect();
        if !lost.is_empty() || !revived.is_empty() {
            return Some(format!("lost: {lost:?}, revived: {revived:?} (queue, message)"));
        }
        if self.ledgers != scan.ledgers {
            return Some(format!("ledgers: {:?} instead of {:?}", scan.ledgers, self.ledgers));
        }
        if self.documents != scan.documents {
            return Some(format!("documents: {:?} instead of {:?}", scan.documents, self.documents));
        }
        // The oldest of the dead letters make place for new ones.
        let oldest = scan.dead.iter().map(|(_, uid)| *uid).min().unwrap_or(0);
        let known = scan.dead.is_subset(&self.dead);
        if !known || self.dead.difference(&scan.dead).any(|(_, uid)| *uid > oldest) {
            return Some(format!("dead letters: {:?} instead of {:?}", scan.dead, self.dead));
        }
        let moved = scan.open.iter().find(|(key, (_, expiry))| self.open[key].expiry != *expiry);
        if let Some((key, _)) = moved {
            return Some(format!("the expiry of {key:?} changed"));
        }
        (self.next != scan.next).then(|| format!("next numbers: {:?} instead of {:?}", scan.next, self.next))
    }
}
