//! Stores of the first release, of a later one, and broken ones: what can be read comes over, and what can't is said.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::super::disk::Disk;
use super::super::{Opened, Options, Store, log, open, record, rows, suspect, tables};
use super::disk::{Dice, SimDisk, Trouble};
use super::model::{Model, Picture};
use crate::logic::hub::{Commit, LoadRequest, RowWrite};

fn options(quota_bytes: u64) -> Options {
    Options { quota_bytes: Some(quota_bytes), allow_volatile_state: true, boot_id: "sim".into() }
}

/// As a program does that begins again after each panic.
fn begun_again<R>(disk: &SimDisk, mut act: impl FnMut() -> R) -> R {
    for _ in 0..40 {
        match catch_unwind(AssertUnwindSafe(&mut act)) {
            Ok(result) => return result,
            Err(_) => suspect::note(disk, "it panicked").unwrap(),
        }
    }
    panic!("it comes to no end");
}

fn opened(disk: &SimDisk) -> Opened {
    let open = || open::open_on(Arc::new(disk.clone()), Path::new("sim"), &options(8 << 20), None);
    begun_again(disk, open).unwrap_or_else(|e| panic!("{e}"))
}

/// Open, with everything in it read; and whether the index was made anew on the way.
fn read_through(disk: &SimDisk) -> (Picture, bool) {
    let mut anew = false;
    let picture = begun_again(disk, || {
        let Opened { mut store, report, .. } = opened(disk);
        anew |= report.is_some();
        Picture::of(&mut store)
    });
    (picture.unwrap(), anew)
}

/// A store with some life behind it.
fn lived_in(seed: u64) -> (SimDisk, Model, Store) {
    let disk = SimDisk::new(64 << 20);
    let (mut dice, mut model) = (Dice(seed), Model::default());
    let mut store = opened(&disk).store;
    for _ in 0..150 {
        let commit = model.next_commit(&mut dice, (u64::MAX, false));
        store.commit(&commit).unwrap();
        model.apply(&commit);
        if dice.chance(3) {
            store.sweep().unwrap();
        }
    }
    (disk, model, store)
}

fn spoil(disk: &SimDisk, name: &str, dice: &mut Dice, bytes: usize) {
    disk.edit(name, |content| {
        let at = dice.roll((content.len() - bytes) as u64) as usize;
        content[at..at + bytes].fill(0xa5);
    });
}

#[test]
fn a_store_of_the_first_release_opens_with_its_messages() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/store-1");
    let folder = tempfile::tempdir().unwrap();
    for file in ["store.redb", "store.format"] {
        std::fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    for round in 0..2 {
        let Opened { mut store, restored, report, .. } = Store::open(folder.path(), &options(1 << 30)).unwrap();
        assert_eq!(report, None);
        let mut queues: Vec<_> =
            restored.queues.iter().map(|q| (q.endpoint.to_string(), q.priority == 0, q.ledger.stored)).collect();
        queues.sort();
        let name = |module: &str| format!("BrokeredEndpoint(\"/modules/{module}/inputs/input1\")");
        let short = |module: &str| format!("modules/{module}/inputs/input1");
        let names = if queues[0].0.starts_with("Brokered") {
            [name("ledger"), name("other")]
        } else {
            [short("ledger"), short("other")]
        };
        let expected = [(names[0].clone(), false, 29), (names[0].clone(), true, 11), (names[1].clone(), false, 8)];
        assert_eq!(queues, expected, "round {round}");
        for queue in &restored.queues {
            let (mut from, mut found) = (0, 0);
            while let Some(block) =
                store.load(&LoadRequest { peek: false, queue: queue.id, ix: 0, from, to: u64::MAX }).unwrap()
            {
                assert_eq!(block.unreadable, None);
                found += block.messages.len() as u64;
                from = block.block + 1;
            }
            assert_eq!(found, queue.ledger.stored);
        }
        assert!(store.documents("twin/").unwrap().iter().any(|(name, _)| name == "twin/filter"));
        assert_eq!(std::fs::read_to_string(folder.path().join("store.format")).unwrap(), "3\n");
        while store.sweep().unwrap() {}
    }
}

#[test]
fn without_its_index_a_store_is_made_anew_from_its_log() {
    for seed in 0..20 {
        let (disk, model, store) = lived_in(seed);
        drop(store);
        let mut dice = Dice(seed);
        match seed % 3 {
            0 => disk.remove("store.redb").unwrap(),
            1 => disk.edit("store.redb", |content| content.fill(0)),
            _ => (0..200).for_each(|_| spoil(&disk, "store.redb", &mut dice, 64)),
        }
        let Opened { mut store, report, .. } = opened(&disk);
        // What was settled in segments that are gone may come again; nothing may be missing.
        let found = Picture::of(&mut store).unwrap();
        if let Some(report) = report {
            assert!(report.contains("came over"), "{report}");
        } else {
            assert_eq!(seed % 3, 2, "only a spoilt index may open as if nothing were");
            continue;
        }
        found.holds_messages_of(&model.picture());
        assert_eq!(disk.names().unwrap().iter().any(|n| n == "store.redb.broken-1"), seed % 3 != 0);
        let mut again = {
            drop(store);
            opened(&disk)
        };
        assert_eq!(again.report, None, "once is enough");
        assert_eq!(Picture::of(&mut again.store).unwrap(), found);
    }
}

#[test]
fn whatever_page_of_the_index_is_broken_no_message_is_lost() {
    const PAGE: usize = 4096;
    let (mut pages, mut anew) = (0, 0);
    for seed in 0..2 {
        let (disk, model, store) = lived_in(seed);
        store.close().unwrap();
        let mut sound = Vec::new();
        disk.edit("store.redb", |content| sound = content.clone());
        for page in 1..sound.len() / PAGE {
            // Leaves and branches begin with one of these; what is not in use is of no interest.
            if !matches!(sound[page * PAGE], 1 | 2) {
                continue;
            }
            disk.edit("store.redb", |content| {
                *content = sound.clone();
                content[page * PAGE..(page + 1) * PAGE].fill(0xa5);
            });
            let (found, made_anew) = read_through(&disk);
            found.holds_messages_of(&model.picture());
            (pages, anew) = (pages + 1, anew + usize::from(made_anew));
            let names = disk.names().unwrap();
            assert!(!names.iter().any(|name| name.starts_with("store.salvage") || name.ends_with(".new")), "{names:?}");
        }
    }
    println!("pages={pages} anew={anew}");
    assert!(anew > 5, "this test tests nothing: {anew} of {pages}");
}

#[test]
fn a_salvage_that_is_cut_goes_on_where_it_was() {
    let (mut cuts, mut dice) = (0, Dice(77));
    let (disk, model, store) = lived_in(3);
    store.close().unwrap();
    let before = disk.names().unwrap();
    let mut files = std::collections::BTreeMap::new();
    for name in &before {
        disk.edit(name, |content| _ = files.insert(name.clone(), content.clone()));
    }
    for operation in 0.. {
        let disk = SimDisk::new(64 << 20);
        for (name, content) in &files {
            disk.create(name).unwrap();
            disk.sync().unwrap();
            disk.edit(name, |now| now.clone_from(content));
        }
        suspect::note(&disk, "a test says so").unwrap();
        disk.expect(Some(Trouble::CutAtOperation(operation)));
        let open = || open::open_on(Arc::new(disk.clone()), Path::new("sim"), &options(8 << 20), None);
        let opened_at_once = begun_again(&disk, open).is_ok();
        let uncut = !disk.is_off();
        assert!(opened_at_once || !uncut, "operation {operation}");
        if !uncut {
            disk.power_up(&mut dice);
            cuts += 1;
        }
        disk.expect(None);
        let Opened { mut store, report, .. } = opened(&disk);
        assert!(!uncut || report.is_none(), "once is enough: {report:?}");
        let found = Picture::of(&mut store).unwrap();
        found.holds_messages_of(&model.picture());
        assert_eq!(found.documents, model.picture().documents, "operation {operation}");
        if uncut {
            break;
        }
    }
    assert!(cuts > 50, "this test tests nothing: {cuts}");
}

#[test]
fn a_hole_in_the_log_costs_what_was_in_it() {
    let (disk, mut model, mut store) = lived_in(5);
    store.checkpoint().unwrap();
    let before = store.durable;
    let mut dice = Dice(5);
    for _ in 0..10 {
        // To expire something the index has to be asked, and so to catch up.
        let commit = Commit { expire: Vec::new(), ..model.next_commit(&mut dice, (u64::MAX, false)) };
        store.commit(&commit).unwrap();
        model.apply(&commit);
    }
    assert_eq!(store.durable, before, "the index lags behind");
    drop(store);
    disk.edit(&log::name_of(before.at.segment), |content| {
        let at = before.at.offset as usize + 200;
        content[at..at + 100].fill(0xa5);
    });
    let Opened { mut store, report, .. } = opened(&disk);
    assert!(report.as_ref().is_some_and(|r| r.contains("hole of 1 commits")), "{report:?}");
    Picture::of(&mut store).unwrap();
    drop(store);
    assert_eq!(opened(&disk).report, None);
}

#[test]
fn a_block_that_cannot_be_read_is_given_up_and_holds_up_nobody() {
    let (disk, _, mut store) = lived_in(6);
    let request = LoadRequest { peek: false, queue: 1, ix: 0, from: 0, to: u64::MAX };
    let first = store.load(&request).unwrap().unwrap();
    let place = store.head.place(first.block).unwrap().unwrap();
    disk.edit(&log::name_of(place.segment), |content| content[place.offset as usize + 7] ^= 0x40);
    let broken = store.load(&request).unwrap().unwrap();
    assert_eq!(broken.block, first.block);
    assert!(broken.unreadable.is_some_and(|reason| reason.contains("checksum")) && broken.messages.is_empty());
    assert_eq!(broken.total, first.total);
    // The sweep leaves its segment alone, and goes on.
    while store.sweep().unwrap() {}
    let next = LoadRequest { from: first.block + 1, ..request };
    assert!(store.load(&next).unwrap().is_some_and(|b| b.unreadable.is_none() && !b.messages.is_empty()));
}

#[test]
fn one_old_message_in_each_block_gives_back_the_space_of_the_others() {
    let disk = SimDisk::new(256 << 20);
    let mut store = opened(&disk).store;
    let (mut model, mut dice) = (Model::default(), Dice(3));
    while disk.bytes(|name| name.ends_with(".segment")) < 3 << 20 {
        let commit = Commit { expire: Vec::new(), ..model.next_commit(&mut dice, (u64::MAX, false)) };
        store.commit(&commit).unwrap();
        model.apply(&commit);
    }
    for commit in model.settle_all_but_one() {
        store.commit(&commit).unwrap();
        model.apply(&commit);
    }
    assert!((0..1_000).any(|_| !store.sweep().unwrap()), "the sweep comes to an end");
    assert_eq!(Picture::of(&mut store).unwrap(), model.picture());
    let needed = model.picture().bytes();
    let bytes = disk.bytes(|name| name.ends_with(".segment"));
    assert!(bytes < 4 * needed + 512 * 1024, "{bytes} bytes for {needed}");
}

#[test]
fn a_full_disk_refuses_and_recovers_without_a_restart() {
    let (disk, mut model, mut store) = lived_in(7);
    let mut dice = Dice(7);
    disk.set_capacity(disk.bytes(|_| true) + 3_000);
    let commit = loop {
        let commit = model.next_commit(&mut dice, (u64::MAX, false));
        match store.commit(&commit) {
            Ok(wrote) => {
                assert!(wrote.full.is_some_and(|reason| reason.contains("file system")));
                model.apply(&commit);
            }
            Err(reason) => break (commit, reason),
        }
    };
    assert!(commit.1.contains("full") || commit.1.contains("space"), "{}", commit.1);
    let acknowledged = store.acknowledged();
    drop(store);
    let reopened = open::open_on(Arc::new(disk.clone()), Path::new("sim"), &options(8 << 20), Some(acknowledged));
    let mut store = reopened.unwrap_or_else(|e| panic!("{e}")).store;
    assert_eq!(Picture::of(&mut store).unwrap(), model.picture(), "nothing of the commit that failed is there");
    disk.set_capacity(64 << 20);
    assert_eq!(store.room().1, None);
    store.commit(&model.next_commit(&mut dice, (u64::MAX, false))).unwrap();
}

#[test]
fn a_store_that_is_not_full_takes_the_largest_message() {
    use crate::logic::hub::BlockWrite;
    use crate::model::limits::MESSAGE_BLOCK_BYTES;
    use skerry_abi::wire::record::MESSAGE_BYTES_MAX;
    for quota in [1 << 20, 2 << 20, 4 << 20, 16 << 20] {
        let disk = SimDisk::new(64 << 20);
        let opened = open::open_on(Arc::new(disk.clone()), Path::new("sim"), &options(quota), None);
        let mut store = opened.unwrap_or_else(|e| panic!("{e}")).store;
        let (mut block, mut taken, mut room) = (0, 0, store.room());
        while room.1.is_none() {
            assert!(room.0 >= MESSAGE_BYTES_MAX as u64 + 32 * MESSAGE_BLOCK_BYTES, "{room:?} on {quota}");
            block += 1;
            let bytes = vec![block as u8 ^ 0x55; 50_000];
            taken += bytes.len();
            let row = RowWrite {
                queue: 1,
                block,
                total: 1,
                settled: 0,
                bits: vec![],
                last_expiry: crate::model::time::Age::NEVER,
            };
            let blocks = vec![BlockWrite { block, bytes: noise(block, bytes.len()) }];
            let commit = Commit { id: block, blocks, rows: vec![row], next_block: block + 1, ..Commit::default() };
            let wrote = store.commit(&commit).unwrap();
            room = (wrote.room, wrote.full);
        }
        println!("quota={quota} taken={taken}");
        assert!(taken as u64 >= quota / 4, "{taken} of {quota}");
        assert!(disk.bytes(|_| true) <= quota);
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice(seed);
    (0..bytes).map(|_| dice.roll(256) as u8).collect()
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let (disk, _, store) = lived_in(8);
    let end = store.log.end();
    let payload = {
        let found = store.log.record_at(store.log.first()).unwrap().unwrap();
        found.payload
    };
    assert!(record::decode(&payload).is_ok() && end.segment >= 1);
    drop((store, disk));
    let mut dice = Dice(9);
    for _ in 0..20_000 {
        let mut bytes = payload.clone();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(bytes.len() as u64) as usize;
            match dice.roll(3) {
                0 => bytes[at] = dice.roll(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes[at..].iter_mut().take(4).for_each(|b| *b = 0xff),
            }
        }
        if let Err(reason) = record::decode(&bytes) {
            assert!(reason.contains("broken in its"), "{reason}");
        }
        let noise: Vec<u8> = (0..dice.roll(120)).map(|_| dice.roll(256) as u8).collect();
        let _ = rows::decode_row(1, 2, &noise);
        let _ = rows::decode_queue(1, &noise);
        let _ = rows::decode_clock(&noise);
        let _ = rows::decode_dead((1, 2), &noise);
        let _ = rows::decode_caught_up(&noise);
        let _ = rows::Place::decode(&noise);
        let _ = rows::Counters::decode(&noise);
        let _ = rows::decompress(&noise);
        if let Ok(block) = crate::logic::block::Block::parse(&noise) {
            let _ = block.for_each(|m| assert!(m.goes().count() <= noise.len()));
        }
    }
}

#[test]
fn one_commit_is_one_sync_and_one_write() {
    let (disk, mut model, mut store) = lived_in(10);
    store.checkpoint().unwrap();
    let mut dice = Dice(10);
    for _ in 0..10 {
        let commit: Commit = model.next_commit(&mut dice, (u64::MAX, false));
        let commit = Commit { expire: Vec::new(), ..commit };
        let before = disk.counts();
        store.commit(&commit).unwrap();
        model.apply(&commit);
        assert_eq!(disk.counts(), (before.0 + 2, before.1 + 1), "a write and a sync");
    }
}

/// Overwrites what a row of the index says.
fn break_row(store: &Store, queue: u32, block: u64) {
    let broken = store.head.write(|txn| {
        txn.open_table(tables::ROWS)?.insert((queue, block), &b"no row"[..])?;
        Ok(())
    });
    broken.unwrap();
}

#[test]
fn a_row_that_cannot_be_read_costs_nothing_and_is_written_anew() {
    let (_, _, mut store) = lived_in(6);
    let request = LoadRequest { peek: false, queue: 1, ix: 0, from: 0, to: u64::MAX };
    let sound = store.load(&request).unwrap().unwrap();
    store.checkpoint().unwrap();
    let open = store.head.place(sound.block).unwrap().unwrap().open;
    break_row(&store, 1, sound.block);
    let again = store.load(&LoadRequest { peek: true, ..request }).unwrap().unwrap();
    assert!(again.unreadable.as_ref().is_some_and(|why| why.contains("is broken")), "{:?}", again.unreadable);
    assert_eq!(again.total - again.settled, sound.total - sound.settled, "as the ledger has it");
    let has = |seq| again.messages.iter().any(|m| m.seq == seq);
    assert!(sound.messages.iter().all(|m| has(m.seq)), "every open message is there again");

    // As the hub writes it, with all of its messages open: nothing of the block is forgotten, nothing stays behind.
    let all = again.messages.len() as u32;
    let row = |settled| RowWrite {
        queue: 1,
        block: sound.block,
        total: all,
        settled,
        bits: vec![],
        last_expiry: again.last_expiry,
    };
    let (next_seq, next_block, _) = store.counters.clone();
    let write = |row| Commit { rows: vec![row], next_seq, next_block, ..Commit::default() };
    store.commit(&write(row(0))).unwrap();
    assert_eq!(store.load(&request).unwrap().unwrap().unreadable, None);
    let more = all - (sound.total - sound.settled);
    assert_eq!(store.head.place(sound.block).unwrap().unwrap().open, open + more);
    store.commit(&write(row(all))).unwrap();
    let next = store.load(&request).unwrap();
    assert!(next.is_none_or(|next| next.block > sound.block));
    let left = store.head.place(sound.block).unwrap().map_or(0, |place| place.open);
    assert_eq!(left, open - (sound.total - sound.settled));
}
