//! The bytes of every row but the block itself. The one owner of these formats; a change to one needs a new format
//! version of the store. Must answer `None` for what is broken, never panic.

use std::collections::BTreeMap;

use super::LastClock;
use super::head::CaughtUp;
use super::log::Position;
use crate::logic::hub::{DeadLetter, Ledger, QueueRow, RowWrite};
use crate::model::endpoint::{Endpoint, Source};
use crate::model::time::{Age, Mono, Wall};

/// Stored as it is.
const RAW: u8 = 0;
/// LZ4 block format, after the length of what it unpacks to.
const LZ4: u8 = 1;
/// A block that unpacks to more was not written by this program.
const UNPACKED_MAX: usize = 16 * 1024 * 1024;

/// A piece of a block, from its middle, that says whether it can be compressed at all: trying costs more than writing.
const SAMPLE_BYTES: usize = 8 * 1024;

/// Appends the block, compressed where that saves at least an eighth: telemetry is text, and flash is what wears out.
pub fn compress_into(block: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    if block.len() > 4 * SAMPLE_BYTES {
        let sample = &block[block.len() / 2..][..SAMPLE_BYTES];
        if lz4_flex::block::compress(sample).len() >= SAMPLE_BYTES / 8 * 7 {
            out.push(RAW);
            out.extend_from_slice(block);
            return;
        }
    }
    out.push(LZ4);
    out.extend_from_slice(&(block.len() as u32).to_le_bytes());
    let packed = out.len();
    out.resize(packed + lz4_flex::block::get_maximum_output_size(block.len()), 0);
    if let Ok(length) = lz4_flex::block::compress_into(block, &mut out[packed..])
        && length < block.len() / 8 * 7
    {
        out.truncate(packed + length);
        return;
    }
    out.truncate(begin);
    out.push(RAW);
    out.extend_from_slice(block);
}

pub fn decompress(value: &[u8]) -> Result<Vec<u8>, String> {
    match value.split_first() {
        Some((&RAW, rest)) => Ok(rest.to_vec()),
        Some((&LZ4, rest)) => {
            let (length, packed) = rest.split_first_chunk::<4>().ok_or("a block of the store is cut short")?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > UNPACKED_MAX {
                return Err("a block of the store claims an impossible length".to_owned());
            }
            lz4_flex::block::decompress(packed, length)
                .map_err(|e| format!("a block of the store does not unpack: {e}"))
        }
        _ => Err("a block of the store has an unknown packing".to_owned()),
    }
}

pub fn encode_row(row: &RowWrite) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + row.bits.len() * 8);
    out.extend_from_slice(&row.total.to_le_bytes());
    out.extend_from_slice(&row.settled.to_le_bytes());
    out.extend_from_slice(&row.last_expiry.0.to_le_bytes());
    row.bits.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    out
}

pub fn decode_row(queue: u32, block: u64, bytes: &[u8]) -> Option<RowWrite> {
    let mut rest = bytes;
    let total = u32::from_le_bytes(take(&mut rest)?);
    let settled = u32::from_le_bytes(take(&mut rest)?);
    let last_expiry = Age(u64::from_le_bytes(take(&mut rest)?));
    let (words, odd) = rest.as_chunks::<8>();
    let bits = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    odd.is_empty().then_some(RowWrite { queue, block, total, settled, bits, last_expiry })
}

pub fn encode_queue(queue: &QueueRow) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&queue.priority.to_le_bytes());
    let Ledger { delivered, expired, evicted, dead_lettered, removed, pending: _, stored, refused } = queue.ledger;
    for count in [delivered, expired, evicted, dead_lettered, removed, stored, refused] {
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(queue.endpoint.to_string().as_bytes());
    out
}

pub fn decode_queue(id: u32, bytes: &[u8]) -> Option<QueueRow> {
    let mut rest = bytes;
    let priority = u32::from_le_bytes(take(&mut rest)?);
    let mut counts = [0; 7];
    for count in &mut counts {
        *count = u64::from_le_bytes(take(&mut rest)?);
    }
    let [delivered, expired, evicted, dead_lettered, removed, stored, refused] = counts;
    let ledger = Ledger { delivered, expired, evicted, dead_lettered, removed, pending: stored, stored, refused };
    let endpoint = Endpoint::parse(std::str::from_utf8(rest).ok()?)?;
    Some(QueueRow { id, endpoint, priority, ledger })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    pub next_seq: u64,
    pub next_block: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { next_seq: 1, next_block: 1 }
    }
}

impl Counters {
    pub fn encode(&self) -> Vec<u8> {
        [self.next_seq, self.next_block].iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// The first format had a third number behind.
    pub fn decode(bytes: &[u8]) -> Option<Counters> {
        let mut rest = bytes;
        let next_seq = u64::from_le_bytes(take(&mut rest)?);
        Some(Counters { next_seq, next_block: u64::from_le_bytes(take(&mut rest)?) })
    }
}

/// Where a block lies, and how much of it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 0: in the index itself.
    pub segment: u64,
    pub offset: u64,
    pub length: u32,
    pub crc: u32,
    /// Messages that are not settled, and all, each counted once for every queue that it goes to.
    pub open: u32,
    pub all: u32,
}

/// What of a segment is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub blocks: u64,
    /// Bytes, as the share of open messages has it.
    pub bytes: u64,
}

impl Place {
    pub fn is_inline(&self) -> bool {
        self.segment == 0
    }

    fn open_bytes(&self) -> u64 {
        u64::from(self.length) * u64::from(self.open.min(self.all)) / u64::from(self.all.max(1))
    }

    pub fn enter(&self, segments: &mut BTreeMap<u64, Live>) {
        if !self.is_inline() {
            let live = segments.entry(self.segment).or_default();
            live.blocks += 1;
            live.bytes += self.open_bytes();
        }
    }

    pub fn leave(&self, segments: &mut BTreeMap<u64, Live>) {
        if let Some(live) = segments.get_mut(&self.segment) {
            live.blocks = live.blocks.saturating_sub(1);
            live.bytes = live.bytes.saturating_sub(self.open_bytes());
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        for number in [self.length, self.crc, self.open, self.all] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Place> {
        let mut rest = bytes;
        let (segment, offset) = (u64::from_le_bytes(take(&mut rest)?), u64::from_le_bytes(take(&mut rest)?));
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = u32::from_le_bytes(take(&mut rest)?);
        }
        let [length, crc, open, all] = numbers;
        Some(Place { segment, offset, length, crc, open, all })
    }
}

pub fn encode_caught_up(caught_up: CaughtUp) -> Vec<u8> {
    let CaughtUp { number, at } = caught_up;
    [number, at.segment, at.offset].iter().flat_map(|n| n.to_le_bytes()).collect()
}

pub fn decode_caught_up(bytes: &[u8]) -> Option<CaughtUp> {
    let mut rest = bytes;
    let number = u64::from_le_bytes(take(&mut rest)?);
    let segment = u64::from_le_bytes(take(&mut rest)?);
    Some(CaughtUp { number, at: Position { segment, offset: u64::from_le_bytes(take(&mut rest)?) } })
}

pub fn encode_clock(clock: &LastClock) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&clock.age.0.to_le_bytes());
    out.extend_from_slice(&clock.mono.0.to_le_bytes());
    out.extend_from_slice(&clock.wall.0.to_le_bytes());
    out.extend_from_slice(clock.boot_id.as_bytes());
    out
}

pub fn decode_clock(bytes: &[u8]) -> Option<LastClock> {
    let mut rest = bytes;
    let age = Age(u64::from_le_bytes(take(&mut rest)?));
    let mono = Mono(u64::from_le_bytes(take(&mut rest)?));
    let wall = Wall(i64::from_le_bytes(take(&mut rest)?));
    Some(LastClock { age, mono, wall, boot_id: String::from_utf8(rest.to_vec()).ok()? })
}

pub fn encode_dead(letter: &DeadLetter) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + letter.record.len());
    out.extend_from_slice(&letter.enqueued.0.to_le_bytes());
    out.extend_from_slice(&letter.refusals.to_le_bytes());
    for text in [&letter.endpoint, &letter.source.module, &letter.source.output, &letter.reason] {
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&letter.record);
    out
}

pub fn decode_dead((seq, queue): (u64, u32), bytes: &[u8]) -> Option<DeadLetter> {
    let mut rest = bytes;
    let enqueued = Wall(i64::from_le_bytes(take(&mut rest)?));
    let refusals = u16::from_le_bytes(take(&mut rest)?);
    let mut text = || -> Option<String> {
        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (head, tail) = rest.split_at_checked(length)?;
        rest = tail;
        String::from_utf8(head.to_vec()).ok()
    };
    let endpoint = text()?;
    let source = Source { module: text()?, output: text()? };
    let reason = text()?;
    Some(DeadLetter { seq, queue, endpoint, source, enqueued, refusals, reason, record: rest.to_vec() })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_back() {
        let row = RowWrite { queue: 1, block: 2, total: 70, settled: 3, bits: vec![7, 0], last_expiry: Age(9) };
        assert_eq!(decode_row(1, 2, &encode_row(&row)), Some(row));
        let ledger = Ledger {
            delivered: 1,
            expired: 2,
            evicted: 3,
            dead_lettered: 4,
            removed: 5,
            refused: 7,
            ..Ledger::default()
        };
        let endpoint = Endpoint::Input { module: "m".into(), input: "i".into() };
        let queue = QueueRow { id: 3, endpoint, priority: 5, ledger };
        assert_eq!(decode_queue(3, &encode_queue(&queue)), Some(queue));
        let counters = Counters { next_seq: 1, next_block: 2 };
        assert_eq!(Counters::decode(&counters.encode()), Some(counters));
        let clock = LastClock { age: Age(1), mono: Mono(2), wall: Wall(-3), boot_id: "b".into() };
        assert_eq!(decode_clock(&encode_clock(&clock)), Some(clock));
        let letter = DeadLetter {
            seq: 1,
            queue: 2,
            endpoint: "modules/m/inputs/i".into(),
            source: Source { module: "a".into(), output: "o".into() },
            enqueued: Wall(3),
            refusals: 5,
            reason: "no".into(),
            record: b"rec".to_vec(),
        };
        assert_eq!(decode_dead((1, 2), &encode_dead(&letter)), Some(letter));
    }

    fn compress(block: &[u8]) -> Vec<u8> {
        let mut out = vec![7, 7];
        compress_into(block, &mut out);
        assert_eq!(out[..2], [7, 7], "it is appended");
        out.split_off(2)
    }

    #[test]
    fn text_is_packed_and_noise_is_not() {
        let text = b"{\"temperature\":21.5}".repeat(50);
        assert!(compress(&text).len() < text.len() / 4);
        assert_eq!(decompress(&compress(&text)).unwrap(), text);
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..999).map(|_| next()).collect();
        assert_eq!(compress(&noise).len(), noise.len() + 1);
        assert_eq!(decompress(&compress(&noise)).unwrap(), noise);
        assert!(decompress(b"\x01\xff\xff\xff\xff").is_err() && decompress(b"").is_err());
    }
}
