//! One record of the log: everything that one commit changes, with the bytes of its blocks, as absolute values, so that
//! applying it a second time changes nothing. The one owner of this format.
//! Must answer with an error for what is broken, never panic, and never read past its end.
//!
//! Little endian: header `u32 magic | u32 length | u64 number | u32 crc of length, number and payload | u32 zero`, then the payload.

use super::{LastClock, rows};
use crate::logic::hub::{DeadLetter, Gone, LetterId, QueueRow, RowWrite};

pub const HEADER_BYTES: usize = 24;
/// A payload that claims more was not written by this program: the largest commit is far below.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
const MAGIC: [u8; 4] = *b"skRL";
const VERSION: u8 = 2;
/// Without the dead letters that go.
const VERSION_FIRST: u8 = 1;

/// What one commit changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    pub next_seq: u64,
    pub next_block: u64,
    pub clock: LastClock,
    pub blocks: Vec<StoredBlock>,
    pub rows: Vec<RowWrite>,
    pub queues: Vec<QueueRow>,
    /// (queue, message, refusals); 0 removes the row.
    pub attempts: Vec<(u32, u64, u16)>,
    pub dead: Vec<DeadLetter>,
    pub documents: Vec<(String, Option<Vec<u8>>)>,
    pub gone: Vec<(LetterId, Gone)>,
}

/// A block in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub block: u64,
    /// Of its packed bytes, from the start of the payload.
    pub offset: u32,
    pub length: u32,
    pub crc: u32,
    /// Messages in it, each counted once for every queue that it goes to.
    pub targets: u32,
}

pub struct Header {
    pub length: usize,
    pub number: u64,
    crc: u32,
}

impl Header {
    /// `None`: no record begins here.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let mut rest = &bytes[..];
        let magic: [u8; 4] = take(&mut rest)?;
        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
        let number = u64::from_le_bytes(take(&mut rest)?);
        let crc = u32::from_le_bytes(take(&mut rest)?);
        (magic == MAGIC && length <= PAYLOAD_BYTES_MAX).then_some(Header { length, number, crc })
    }

    pub fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.length && self.crc == checksum(self.number, payload)
    }
}

fn checksum(number: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(payload.len() as u32).to_le_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// Where magic next stands in `bytes`, from `from` on: for what follows a hole.
pub fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(MAGIC.len()).position(|w| w == MAGIC)?;
    Some(from + found)
}

/// A record in the making: blocks first, since they are packed straight into it.
pub struct Writer {
    bytes: Vec<u8>,
    blocks: Vec<StoredBlock>,
}

impl Writer {
    pub fn new() -> Writer {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.push(VERSION);
        Writer { bytes, blocks: Vec::new() }
    }

    pub fn block(&mut self, block: u64, unpacked: &[u8], targets: u32) {
        let begin = self.bytes.len();
        rows::compress_into(unpacked, &mut self.bytes);
        let packed = &self.bytes[begin..];
        self.blocks.push(StoredBlock {
            block,
            offset: (begin - HEADER_BYTES) as u32,
            length: packed.len() as u32,
            crc: crc32fast::hash(packed),
            targets,
        });
    }

    /// The whole record, and the blocks as they lie in it.
    pub fn finish(mut self, number: u64, effects: &Effects) -> (Vec<u8>, Vec<StoredBlock>) {
        let table = (self.bytes.len() - HEADER_BYTES) as u32;
        self.encode(effects);
        self.bytes.extend_from_slice(&table.to_le_bytes());
        let payload = &self.bytes[HEADER_BYTES..];
        let (length, crc) = (payload.len() as u32, checksum(number, payload));
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&number.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        (self.bytes, self.blocks)
    }

    fn encode(&mut self, effects: &Effects) {
        let out = &mut self.bytes;
        out.extend_from_slice(&effects.next_seq.to_le_bytes());
        out.extend_from_slice(&effects.next_block.to_le_bytes());
        text(out, &rows::encode_clock(&effects.clock));
        count(out, self.blocks.len());
        for block in &self.blocks {
            out.extend_from_slice(&block.block.to_le_bytes());
            for number in [block.offset, block.length, block.crc, block.targets] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        count(out, effects.rows.len());
        for row in &effects.rows {
            out.extend_from_slice(&row.queue.to_le_bytes());
            out.extend_from_slice(&row.block.to_le_bytes());
            text(out, &rows::encode_row(row));
        }
        count(out, effects.queues.len());
        for queue in &effects.queues {
            out.extend_from_slice(&queue.id.to_le_bytes());
            text(out, &rows::encode_queue(queue));
        }
        count(out, effects.attempts.len());
        for (queue, seq, refusals) in &effects.attempts {
            out.extend_from_slice(&queue.to_le_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&refusals.to_le_bytes());
        }
        count(out, effects.dead.len());
        for letter in &effects.dead {
            out.extend_from_slice(&letter.seq.to_le_bytes());
            out.extend_from_slice(&letter.queue.to_le_bytes());
            text(out, &rows::encode_dead(letter));
        }
        count(out, effects.documents.len());
        for (name, bytes) in &effects.documents {
            text(out, name.as_bytes());
            out.push(u8::from(bytes.is_some()));
            text(out, bytes.as_deref().unwrap_or_default());
        }
        count(out, effects.gone.len());
        for ((seq, queue), why) in &effects.gone {
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&queue.to_le_bytes());
            out.push(gone_number(*why));
        }
    }
}

/// The effects in a payload whose checksum fitted. The error names the part that is broken.
pub fn decode(payload: &[u8]) -> Result<Effects, String> {
    let short = |part: &str| format!("a record of the log is broken in its {part}");
    let version = *payload.first().ok_or_else(|| short("version"))?;
    if version != VERSION && version != VERSION_FIRST {
        return Err(short("version"));
    }
    let (body, table) = payload.split_last_chunk::<4>().ok_or_else(|| short("end"))?;
    let mut rest = body.get(u32::from_le_bytes(*table) as usize..).ok_or_else(|| short("table"))?;
    let rest = &mut rest;
    let mut effects = Effects::default();
    head(rest, &mut effects).ok_or_else(|| short("counters"))?;
    effects.blocks = each(rest, take_block).ok_or_else(|| short("blocks"))?;
    if effects.blocks.iter().any(|b| b.offset as usize + b.length as usize > payload.len()) {
        return Err(short("blocks"));
    }
    effects.rows = each(rest, take_row).ok_or_else(|| short("rows"))?;
    effects.queues = each(rest, take_queue).ok_or_else(|| short("queues"))?;
    effects.attempts = each(rest, take_attempts).ok_or_else(|| short("attempts"))?;
    effects.dead = each(rest, take_dead).ok_or_else(|| short("dead letters"))?;
    effects.documents = each(rest, take_document).ok_or_else(|| short("documents"))?;
    if version != VERSION_FIRST {
        effects.gone = each(rest, take_gone).ok_or_else(|| short("dead letters that go"))?;
    }
    if rest.is_empty() { Ok(effects) } else { Err(short("end")) }
}

fn head(rest: &mut &[u8], effects: &mut Effects) -> Option<()> {
    effects.next_seq = u64::from_le_bytes(take(rest)?);
    effects.next_block = u64::from_le_bytes(take(rest)?);
    effects.clock = rows::decode_clock(take_text(rest)?)?;
    Some(())
}

fn take_block(rest: &mut &[u8]) -> Option<StoredBlock> {
    let block = u64::from_le_bytes(take(rest)?);
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = u32::from_le_bytes(take(rest)?);
    }
    let [offset, length, crc, targets] = numbers;
    Some(StoredBlock { block, offset, length, crc, targets })
}

fn take_row(rest: &mut &[u8]) -> Option<RowWrite> {
    let (queue, block) = (u32::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
    rows::decode_row(queue, block, take_text(rest)?)
}

fn take_queue(rest: &mut &[u8]) -> Option<QueueRow> {
    let id = u32::from_le_bytes(take(rest)?);
    rows::decode_queue(id, take_text(rest)?)
}

fn take_attempts(rest: &mut &[u8]) -> Option<(u32, u64, u16)> {
    let (queue, seq) = (u32::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
    Some((queue, seq, u16::from_le_bytes(take(rest)?)))
}

fn take_dead(rest: &mut &[u8]) -> Option<DeadLetter> {
    let (seq, queue) = (u64::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
    rows::decode_dead((seq, queue), take_text(rest)?)
}

fn take_document(rest: &mut &[u8]) -> Option<(String, Option<Vec<u8>>)> {
    let name = String::from_utf8(take_text(rest)?.to_vec()).ok()?;
    let [there] = take(rest)?;
    let bytes = take_text(rest)?.to_vec();
    Some((name, (there == 1).then_some(bytes)))
}

fn take_gone(rest: &mut &[u8]) -> Option<(LetterId, Gone)> {
    let (seq, queue) = (u64::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
    let [number] = take(rest)?;
    let why = [Gone::Replayed, Gone::Purged, Gone::Dropped].into_iter().find(|why| gone_number(*why) == number)?;
    Some(((seq, queue), why))
}

fn gone_number(why: Gone) -> u8 {
    match why {
        Gone::Replayed => 0,
        Gone::Purged => 1,
        Gone::Dropped => 2,
    }
}

fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u32).to_le_bytes());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Grows as it reads: a broken count asks for no memory.
fn each<T>(rest: &mut &[u8], one: fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = u32::from_le_bytes(take(rest)?);
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(one(rest)?);
    }
    Some(found)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}
