//! The format of a block row: many messages, each once, with the queues that it goes to. The one owner of that format.
//! Must read every version that a release has written, and never panic on what a broken disk returns.
//!
//! Little endian: `u8 version | u32 messages | u16 sources | sources | messages`. A source is two texts (`u16 length | bytes`);
//! a message is `u64 seq | u16 source | i64 enqueued | u16 targets | (u32 queue | u64 expiry)* | u32 length | record`. Version 2
//! is a block that was thinned out: `u32 span`, which is how many it had, follows `messages`; each message begins with `u32 index`.

use std::collections::HashMap;

use crate::model::endpoint::Source;
use crate::model::time::{Age, Wall};

const VERSION: u8 = 1;
const VERSION_SPARSE: u8 = 2;
/// Messages that a block can have had: an index above that was not written by this program.
const SPAN_MAX: u32 = 1 << 20;

/// A queue that a stored message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goes {
    pub queue: u32,
    pub expiry: Age,
}

#[derive(Default)]
pub struct BlockWriter {
    sources: Vec<u8>,
    source_ids: HashMap<Source, u16>,
    messages: Vec<u8>,
    count: u32,
    /// Of a block that is thinned out: how many messages it had.
    span: Option<u32>,
}

impl BlockWriter {
    /// For what is left of a block that had `span` messages: they keep their indices.
    pub fn sparse(span: u32) -> BlockWriter {
        BlockWriter { span: Some(span), ..BlockWriter::default() }
    }

    /// Appends a message and returns its index in the block.
    pub fn push(&mut self, seq: u64, source: &Source, enqueued: Wall, goes: &[Goes], record: &[u8]) -> u32 {
        self.push_at(self.count, seq, source, enqueued, goes, record);
        self.count - 1
    }

    /// The same with an index of its own, in a block that is thinned out.
    pub fn push_at(&mut self, index: u32, seq: u64, source: &Source, enqueued: Wall, goes: &[Goes], record: &[u8]) {
        let source = self.source(source);
        let out = &mut self.messages;
        if self.span.is_some() {
            out.extend_from_slice(&index.to_le_bytes());
        }
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&source.to_le_bytes());
        out.extend_from_slice(&enqueued.0.to_le_bytes());
        out.extend_from_slice(&(goes.len() as u16).to_le_bytes());
        for target in goes {
            out.extend_from_slice(&target.queue.to_le_bytes());
            out.extend_from_slice(&target.expiry.0.to_le_bytes());
        }
        out.extend_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(record);
        self.count += 1;
    }

    /// Length of the finished block, bytes.
    pub fn bytes(&self) -> usize {
        7 + 4 * usize::from(self.span.is_some()) + self.sources.len() + self.messages.len()
    }

    /// A block can name only so many sources; more go to the next.
    pub fn is_full(&self, limit: usize) -> bool {
        self.bytes() >= limit || self.source_ids.len() == usize::from(u16::MAX)
    }

    pub fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        bytes.push(if self.span.is_some() { VERSION_SPARSE } else { VERSION });
        bytes.extend_from_slice(&self.count.to_le_bytes());
        self.span.iter().for_each(|span| bytes.extend_from_slice(&span.to_le_bytes()));
        bytes.extend_from_slice(&(self.source_ids.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.sources);
        bytes.extend_from_slice(&self.messages);
        bytes
    }

    fn source(&mut self, source: &Source) -> u16 {
        if let Some(id) = self.source_ids.get(source) {
            return *id;
        }
        let id = self.source_ids.len() as u16;
        for text in [&source.module, &source.output] {
            self.sources.extend_from_slice(&(text.len() as u16).to_le_bytes());
            self.sources.extend_from_slice(text.as_bytes());
        }
        self.source_ids.insert(source.clone(), id);
        id
    }
}

/// One message of a block that was read back.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockMessage<'a> {
    pub index: u32,
    pub seq: u64,
    pub source: &'a Source,
    pub enqueued: Wall,
    pub record: &'a [u8],
    goes: &'a [u8],
}

impl BlockMessage<'_> {
    /// When it expires for that queue; `None` if it does not go there.
    pub fn expiry(&self, queue: u32) -> Option<Age> {
        self.goes().find(|g| g.queue == queue).map(|g| g.expiry)
    }

    pub fn goes(&self) -> impl Iterator<Item = Goes> {
        self.goes.chunks_exact(12).map(|c| {
            let (mut queue, mut expiry) = ([0; 4], [0; 8]);
            queue.copy_from_slice(&c[..4]);
            expiry.copy_from_slice(&c[4..]);
            Goes { queue: u32::from_le_bytes(queue), expiry: Age(u64::from_le_bytes(expiry)) }
        })
    }
}

/// A block that was read back.
pub struct Block<'a> {
    sources: Vec<Source>,
    count: u32,
    span: u32,
    is_sparse: bool,
    messages: &'a [u8],
}

impl<'a> Block<'a> {
    pub fn parse(mut bytes: &'a [u8]) -> Result<Block<'a>, String> {
        let short = || "block row ends early".to_owned();
        let rest = &mut bytes;
        let [version] = take::<1>(rest).ok_or_else(short)?;
        if version != VERSION && version != VERSION_SPARSE {
            return Err(format!("block row of version {version}, versions up to {VERSION_SPARSE} are known"));
        }
        let is_sparse = version == VERSION_SPARSE;
        let count = u32::from_le_bytes(take(rest).ok_or_else(short)?);
        let span = if is_sparse { u32::from_le_bytes(take(rest).ok_or_else(short)?) } else { count };
        if count > span || span > SPAN_MAX {
            return Err(format!("block row with {count} of {span} messages"));
        }
        let source_count = u16::from_le_bytes(take(rest).ok_or_else(short)?);
        let mut sources = Vec::with_capacity(usize::from(source_count).min(rest.len()));
        for _ in 0..source_count {
            let module = take_text(rest).ok_or_else(short)?;
            let output = take_text(rest).ok_or_else(short)?;
            sources.push(Source { module, output });
        }
        Ok(Block { sources, count, span, is_sparse, messages: bytes })
    }

    /// Messages in the block.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Messages that it had when it was written; indices lie below.
    pub fn span(&self) -> u32 {
        self.span
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Calls `each` for every message in order, until one does not parse.
    pub fn for_each(&self, mut each: impl FnMut(BlockMessage<'_>)) -> Result<(), String> {
        let mut rest = self.messages;
        for place in 0..self.count {
            let message = self.take_message(&mut rest, place);
            each(message.ok_or_else(|| format!("message {place} of a block row is broken"))?);
        }
        Ok(())
    }

    fn take_message<'m>(&'m self, rest: &mut &'m [u8], place: u32) -> Option<BlockMessage<'m>> {
        let index = if self.is_sparse { u32::from_le_bytes(take(rest)?) } else { place };
        if index >= self.span {
            return None;
        }
        let seq = u64::from_le_bytes(take(rest)?);
        let source = self.sources.get(usize::from(u16::from_le_bytes(take(rest)?)))?;
        let enqueued = Wall(i64::from_le_bytes(take(rest)?));
        let targets = usize::from(u16::from_le_bytes(take(rest)?));
        let goes = take_slice(rest, targets * 12)?;
        let length = u32::from_le_bytes(take(rest)?) as usize;
        let record = take_slice(rest, length)?;
        Some(BlockMessage { index, seq, source, enqueued, record, goes })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    String::from_utf8(take_slice(rest, length)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(output: &str) -> Source {
        Source { module: "m".into(), output: output.into() }
    }

    fn sample() -> Vec<u8> {
        let mut writer = BlockWriter::default();
        let goes = [Goes { queue: 7, expiry: Age(9) }, Goes { queue: 8, expiry: Age::NEVER }];
        writer.push(1, &source("a"), Wall(-1), &goes, b"first");
        writer.push(5, &source("b"), Wall(2), &goes[..1], b"");
        assert_eq!(writer.bytes(), writer.messages.len() + writer.sources.len() + 7);
        writer.finish()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let block = Block::parse(&bytes).unwrap();
        let mut seen = Vec::new();
        block
            .for_each(|m| {
                seen.push((
                    m.index,
                    m.seq,
                    m.source.output.clone(),
                    m.enqueued.0,
                    m.expiry(8),
                    m.goes().count(),
                    m.record.to_vec(),
                ))
            })
            .unwrap();
        assert_eq!(
            seen,
            [
                (0, 1, "a".into(), -1, Some(Age::NEVER), 2, b"first".to_vec()),
                (1, 5, "b".into(), 2, None, 1, b"".to_vec())
            ]
        );
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let mut writer = BlockWriter::default();
        writer.push(1, &source("o"), Wall(2), &[Goes { queue: 3, expiry: Age(4) }], b"R");
        let expected = b"\x01\x01\0\0\0\x01\0\x01\0m\x01\0o\
            \x01\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\x03\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0R";
        assert_eq!(writer.finish(), expected);
    }

    #[test]
    fn what_is_left_of_a_block_keeps_its_indices() {
        let mut writer = BlockWriter::sparse(9);
        writer.push_at(3, 30, &source("o"), Wall(2), &[Goes { queue: 3, expiry: Age(4) }], b"R");
        writer.push_at(8, 80, &source("o"), Wall(2), &[Goes { queue: 3, expiry: Age(4) }], b"S");
        assert_eq!(writer.bytes(), 11 + writer.sources.len() + writer.messages.len());
        let bytes = writer.finish();
        let block = Block::parse(&bytes).unwrap();
        let mut seen = Vec::new();
        block.for_each(|m| seen.push((m.index, m.seq, m.record.to_vec()))).unwrap();
        assert_eq!(seen, [(3, 30, b"R".to_vec()), (8, 80, b"S".to_vec())]);
        assert_eq!((block.len(), block.span()), (2, 9));
    }

    #[test]
    fn no_cut_and_no_flipped_bit_panics() {
        let bytes = sample();
        for end in 0..bytes.len() {
            if let Ok(block) = Block::parse(&bytes[..end]) {
                assert!(block.for_each(|_| ()).is_err());
            }
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[at] ^= 1 << bit;
                if let Ok(block) = Block::parse(&broken) {
                    let _ = block.for_each(|m| assert!(m.goes().count() < usize::MAX));
                }
            }
        }
    }
}
