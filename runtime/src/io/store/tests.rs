//! Real redb files: what is committed is there after reopening; what can't be opened is not lost.

mod cuts;
mod damage;
pub(crate) mod disk;
mod model;

use super::*;
use crate::logic::block::{BlockWriter, Goes};
use crate::logic::hub::{ExpireRange, QueueRow, Settled};
use crate::model::endpoint::{Endpoint, Source};
use crate::model::time::Now;

fn options() -> Options {
    Options { quota_bytes: Some(1 << 30), allow_volatile_state: true, boot_id: "boot".into() }
}

fn commit(id: u64, block: u64, seqs: &[u64]) -> Commit {
    let mut writer = BlockWriter::default();
    let source = Source { module: "a".into(), output: "o".into() };
    for seq in seqs {
        writer.push(*seq, &source, Wall(5), &[Goes { queue: 1, expiry: Age(100) }], b"record");
    }
    let total = seqs.len() as u32;
    Commit {
        id,
        blocks: vec![BlockWrite { block, bytes: writer.finish() }],
        rows: vec![RowWrite { queue: 1, block, total, settled: 0, bits: vec![], last_expiry: Age(100) }],
        queues: vec![QueueRow {
            id: 1,
            endpoint: Endpoint::Input { module: "b".into(), input: "i".into() },
            priority: 7,
            ledger: crate::logic::hub::Ledger { pending: 3, stored: 3, ..Default::default() },
        }],
        documents: vec![("twin/b".into(), Some(b"{}".to_vec()))],
        next_seq: 50,
        next_block: block + 1,
        now: Now { mono: Mono(1), wall: Wall(2), age: Age(3) },
        ..Commit::default()
    }
}

#[test]
fn a_commit_survives_reopening_and_a_settled_block_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), &options()).unwrap().store;
    store.commit(&commit(1, 1, &[10, 11, 12])).unwrap();
    drop(store);
    let Opened { mut store, restored, clock, .. } = Store::open(folder.path(), &options()).unwrap();
    assert_eq!((restored.next_seq, restored.next_block), (50, 2));
    assert_eq!(restored.queues, commit(1, 1, &[10]).queues);
    assert_eq!(clock, LastClock { age: Age(3), mono: Mono(1), wall: Wall(2), boot_id: "boot".into() });
    assert_eq!(store.documents("twin/").unwrap(), [("twin/b".to_owned(), b"{}".to_vec())]);
    let request = LoadRequest { peek: false, queue: 1, ix: 0, from: 0, to: 1 };
    let settle = |settled, bits| Commit {
        rows: vec![RowWrite { queue: 1, block: 1, total: 3, settled, bits, last_expiry: Age(100) }],
        next_seq: 50,
        next_block: 2,
        ..Commit::default()
    };
    store.commit(&settle(1, vec![0b010])).unwrap();
    let loaded = store.load(&request).unwrap().unwrap();
    assert_eq!(loaded.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [10, 12]);
    store.commit(&settle(3, vec![0b111])).unwrap();
    assert!(store.load(&request).unwrap().is_none());
    assert_eq!(store.sizes().blocks, 0);
}

#[test]
fn a_broken_store_is_moved_aside_and_a_newer_one_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("store.redb"), b"not a database at all").unwrap();
    let opened = Store::open(folder.path(), &options()).unwrap();
    assert!(opened.report.unwrap().contains("store.redb.broken-1"));
    let aside = folder.path().join("store.redb.broken-1");
    assert_eq!(std::fs::read(aside).unwrap(), b"not a database at all");

    drop(opened.store);
    std::fs::write(folder.path().join("store.format"), "9\n").unwrap();
    let before = std::fs::read(folder.path().join("store.redb")).unwrap();
    let error = Store::open(folder.path(), &options()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 9, .. }), "{error}");
    assert_eq!(std::fs::read(folder.path().join("store.redb")).unwrap(), before);
}

#[test]
fn one_folder_serves_one_runtime_and_must_be_writable_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Store::open(folder.path(), &options()).unwrap();
    assert!(matches!(Store::open(folder.path(), &options()).err().unwrap(), OpenError::InUse { .. }));
    // An earlier release locks the file alone.
    let other = tempfile::tempdir().unwrap();
    let earlier = std::fs::File::create(other.path().join("store.redb")).unwrap();
    earlier.lock().unwrap();
    assert!(matches!(Store::open(other.path(), &options()).err().unwrap(), OpenError::InUse { .. }));
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(Store::open(&file.join("x"), &options()).err().unwrap(), OpenError::Folder { .. }));
    let strict = Options { allow_volatile_state: false, ..options() };
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    assert!(matches!(Store::open(memory.path(), &strict).err().unwrap(), OpenError::Volatile { .. }));
}

#[test]
fn what_is_too_old_goes_with_its_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), &options()).unwrap().store;
    store.commit(&commit(1, 1, &[10, 11, 12])).unwrap();
    let expire = |age| Commit {
        expire: vec![ExpireRange { queue: 1, from: 0, to: 9 }],
        now: Now { age: Age(age), ..Now::default() },
        next_seq: 50,
        next_block: 2,
        ..Commit::default()
    };
    assert_eq!(store.commit(&expire(99)).unwrap().expired, [], "it expires at 100");
    let wrote = store.commit(&expire(100)).unwrap();
    assert_eq!(wrote.expired, [Settled { queue: 1, messages: 3, through: 1 }]);
    while store.sweep().unwrap() {}
    assert_eq!(store.sizes().blocks, 0);
    drop(store);
    let ledger = Store::open(folder.path(), &options()).unwrap().restored.queues[0].ledger;
    assert_eq!((ledger.expired, ledger.stored, ledger.pending), (3, 0, 0));
}

#[test]
fn dead_letters_come_and_go_and_the_oldest_make_place() {
    use crate::logic::hub::{DeadLetter, Gone};
    let folder = tempfile::tempdir().unwrap();
    let small = || Options { quota_bytes: Some(4 << 20), ..options() };
    let mut store = Store::open(folder.path(), &small()).unwrap().store;
    let letter = |seq| DeadLetter {
        seq,
        queue: 1,
        endpoint: "modules/b/inputs/i".into(),
        source: Source { module: "a".into(), output: "o".into() },
        enqueued: Wall(3),
        refusals: 5,
        reason: "no".into(),
        record: vec![7; 10_000],
    };
    let commit = |dead, gone| Commit { dead, gone, next_seq: 50, next_block: 2, ..Commit::default() };
    for seq in 1..=20 {
        store.commit(&commit(vec![letter(seq)], vec![])).unwrap();
    }
    assert_eq!((store.sizes().dead.letters, store.sizes().dead.dropped), (20, 0));
    let gone = vec![((3, 1), Gone::Replayed), ((4, 1), Gone::Purged), ((99, 1), Gone::Purged)];
    store.commit(&commit(vec![], gone)).unwrap();
    let sums = store.sizes().dead;
    assert_eq!((sums.letters, sums.replayed, sums.purged), (18, 1, 1));
    drop(store);
    let mut store = Store::open(folder.path(), &small()).unwrap().store;
    assert_eq!(store.sizes().dead, sums, "read from the log again");
    let page = store.dead_letters((2, 0), 2).unwrap();
    assert_eq!(page, [((2, 1), Some(letter(2))), ((5, 1), Some(letter(5)))]);
    for seq in 21..=40 {
        store.commit(&commit(vec![letter(seq)], vec![])).unwrap();
    }
    let sums = store.sizes();
    assert!(sums.dead.bytes <= sums.dead_max && sums.dead.dropped > 0, "{sums:?}");
    assert_eq!(sums.dead.letters + sums.dead.dropped, 38);
    let first = store.dead_letters((0, 0), 1).unwrap()[0].0;
    assert_eq!(first, (40 + 1 - sums.dead.letters, 1), "the newest are kept");
}
