//! What the fuzzer of `tests/fuzz` asks of the formats on disk: any bytes end in a value or in a reason, and a value comes
//! back as it was written. Must never be called by the store itself.

use super::record::{self, Effects, HEADER_BYTES};
use super::rows;
use super::{LastClock, rows::Counters};
use crate::logic::hub::{DeadLetter, Gone, Ledger, QueueRow, RowWrite};
use crate::model::endpoint::{Endpoint, Source};
use crate::model::time::{Age, Mono, Wall};

/// The payload of a record with something of everything in it, around these bytes of a block.
pub fn record_around(block: &[u8]) -> Vec<u8> {
    let endpoint = Endpoint::Input { module: "m".into(), input: "i".into() };
    let source = Source { module: "a".into(), output: "o".into() };
    let (endpoint_text, reason) = (endpoint.to_string(), "no".to_owned());
    let letter = DeadLetter {
        seq: 1,
        queue: 2,
        endpoint: endpoint_text,
        source,
        enqueued: Wall(3),
        refusals: 5,
        reason,
        record: b"rec".to_vec(),
    };
    let effects = Effects {
        next_seq: 9,
        next_block: 4,
        clock: LastClock { age: Age(1), mono: Mono(2), wall: Wall(-3), boot_id: "b".into() },
        rows: vec![RowWrite { queue: 1, block: 2, total: 70, settled: 3, bits: vec![7, 0], last_expiry: Age(9) }],
        queues: vec![QueueRow { id: 3, endpoint, priority: 5, ledger: Ledger { delivered: 1, ..Ledger::default() } }],
        attempts: vec![(1, 2, 3)],
        dead: vec![letter],
        documents: vec![("twin/m".into(), Some(b"{}".to_vec())), ("twin/n".into(), None)],
        gone: vec![((4, 2), Gone::Replayed)],
        ..Effects::default()
    };
    let mut writer = record::Writer::new();
    writer.block(2, block, 3);
    writer.finish(7, &effects).0.split_off(HEADER_BYTES)
}

/// As the payload of a record. Panics if it is one, and comes back as another one.
pub fn record(payload: &[u8]) {
    let Ok(effects) = record::decode(payload) else { return };
    for block in &effects.blocks {
        let packed = payload.get(block.offset as usize..).and_then(|rest| rest.get(..block.length as usize));
        let _ = rows::decompress(packed.expect("a block lies in its record"));
    }
    let effects = Effects { blocks: Vec::new(), ..effects };
    let (again, _) = record::Writer::new().finish(1, &effects);
    assert_eq!(record::decode(&again[HEADER_BYTES..]), Ok(effects));
}

/// As each row of the index, and as a packed block.
pub fn row(bytes: &[u8]) {
    if let Some(row) = rows::decode_row(1, 2, bytes) {
        assert_eq!(rows::decode_row(1, 2, &rows::encode_row(&row)), Some(row));
    }
    if let Some(queue) = rows::decode_queue(1, bytes) {
        assert_eq!(rows::decode_queue(1, &rows::encode_queue(&queue)), Some(queue));
    }
    if let Some(clock) = rows::decode_clock(bytes) {
        assert_eq!(rows::decode_clock(&rows::encode_clock(&clock)), Some(clock));
    }
    if let Some(letter) = rows::decode_dead((1, 2), bytes) {
        assert_eq!(rows::decode_dead((1, 2), &rows::encode_dead(&letter)), Some(letter));
    }
    if let Some(place) = rows::Place::decode(bytes) {
        assert_eq!(rows::Place::decode(&place.encode()), Some(place));
    }
    if let Some(counters) = Counters::decode(bytes) {
        assert_eq!(Counters::decode(&counters.encode()), Some(counters));
    }
    let _ = rows::decode_caught_up(bytes);
    let _ = rows::decompress(bytes);
}
