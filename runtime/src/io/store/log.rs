//! The log: records one after the other in numbered segments, each synced when it is appended. Segments are made, read
//! and removed here. Must never append behind bytes that are not safe, and never change a record that is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::head::CaughtUp;
use super::record::{self, Effects, HEADER_BYTES, Header};

const MAGIC: [u8; 8] = *b"skerryL1";
/// Magic, number of the segment, number of its first record, checksum of the three, zeros.
pub const SEGMENT_HEADER_BYTES: u64 = 32;
const NEW: &str = "segment.new";
/// How far behind a hole a sound record is looked for: more than one commit is never under way.
const SEARCH_BYTES: u64 = 8 * 1024 * 1024;

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

#[derive(Debug)]
struct Segment {
    file: Arc<dyn DiskFile>,
    length: u64,
}

pub struct Log {
    disk: Arc<dyn Disk>,
    /// Never empty; the last is appended to.
    segments: BTreeMap<u64, Segment>,
    /// Of the last record.
    number: u64,
}

/// A record that was read.
pub struct Found {
    pub number: u64,
    /// Where its payload begins.
    pub payload_at: Position,
    pub end: Position,
    pub payload: Vec<u8>,
}

/// What reading the log to its end came to.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Records that are missing in its midst.
    pub missing: u64,
}

impl Log {
    /// Where a new log begins.
    pub fn beginning() -> CaughtUp {
        CaughtUp { number: 0, at: Position { segment: 1, offset: SEGMENT_HEADER_BYTES } }
    }

    /// Opens what there is, with `number` as the last record that is known. Makes the first segment if there is none.
    pub fn open(disk: Arc<dyn Disk>, number: u64) -> io::Result<Log> {
        let mut segments = BTreeMap::new();
        for name in disk.names()? {
            if name == NEW {
                disk.remove(NEW)?;
            }
            if let Some(segment) = name.strip_suffix(".segment").and_then(|n| n.parse().ok()) {
                let file = disk.open(&name)?;
                let length = file.len()?;
                segments.insert(segment, Segment { file, length });
            }
        }
        let mut log = Log { disk, segments, number };
        if log.segments.is_empty() {
            log.roll(1)?;
        }
        Ok(log)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|s| s.length).sum()
    }

    /// Number and bytes of each.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.segments.iter().map(|(number, s)| (*number, s.length))
    }

    /// Where the oldest record that is left may begin.
    pub fn first(&self) -> Position {
        let segment = self.segments.first_key_value().map_or(1, |(number, _)| *number);
        Position { segment, offset: SEGMENT_HEADER_BYTES }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where the next record goes.
    pub fn end(&self) -> Position {
        self.segments
            .last_key_value()
            .map_or(Position::default(), |(segment, s)| Position { segment: *segment, offset: s.length })
    }

    /// Begins the next segment. What was there before is synced already.
    pub fn next_segment(&mut self) -> io::Result<()> {
        self.roll(self.end().segment + 1)
    }

    /// Under a temporary name, synced, renamed, folder synced: a segment has its header or does not exist.
    fn roll(&mut self, segment: u64) -> io::Result<()> {
        let file = self.disk.create(NEW)?;
        file.write(0, &segment_header(segment, self.number + 1))?;
        file.sync()?;
        self.disk.rename(NEW, &name_of(segment))?;
        self.disk.sync()?;
        self.segments.insert(segment, Segment { file, length: SEGMENT_HEADER_BYTES });
        Ok(())
    }

    /// One record, one sync. Returns where its payload begins. After an error nothing may be appended until the log was
    /// opened again: part of the record may be there.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<Position> {
        let Some(mut last) = self.segments.last_entry() else { return Err(io::ErrorKind::NotFound.into()) };
        let segment = *last.key();
        let at = last.get_mut();
        at.file.write(at.length, bytes)?;
        at.file.sync()?;
        let offset = at.length + HEADER_BYTES as u64;
        at.length += bytes.len() as u64;
        self.number += 1;
        Ok(Position { segment, offset })
    }

    pub fn read(&self, at: Position, length: usize) -> io::Result<Vec<u8>> {
        let segment = self.segments.get(&at.segment).ok_or(io::ErrorKind::NotFound)?;
        if at.offset + length as u64 > segment.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        segment.file.read(at.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Its name is gone from the folder; that need not be safe, since an empty one that comes back is removed again.
    pub fn remove(&mut self, segment: u64) -> io::Result<()> {
        if self.segments.remove(&segment).is_some() {
            self.disk.remove(&name_of(segment))?;
        }
        Ok(())
    }

    /// The record at a place; `None` if no whole one begins there.
    pub fn record_at(&self, at: Position) -> io::Result<Option<Found>> {
        let Some(segment) = self.segments.get(&at.segment) else { return Ok(None) };
        let payload_at = at.offset + HEADER_BYTES as u64;
        if payload_at > segment.length {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        segment.file.read(at.offset, &mut header)?;
        let Some(header) = Header::decode(&header) else { return Ok(None) };
        let end = payload_at + header.length as u64;
        if end > segment.length {
            return Ok(None);
        }
        let mut payload = vec![0; header.length];
        segment.file.read(payload_at, &mut payload)?;
        let found = Found {
            number: header.number,
            payload_at: Position { offset: payload_at, ..at },
            end: Position { offset: end, ..at },
            payload: Vec::new(),
        };
        Ok(header.fits(&payload).then_some(Found { payload, ..found }))
    }

    /// Reads from a place to the end, gives each record to `each`, and cuts off what is behind the last whole one.
    /// `acknowledged`: records above this number were never acknowledged and are cut off too.
    pub fn replay<E: From<io::Error> + From<String>>(
        &mut self,
        mut at: Position,
        acknowledged: Option<u64>,
        mut each: impl FnMut(Found, Effects) -> Result<(), E>,
    ) -> Result<Replayed, E> {
        let mut replayed = Replayed::default();
        let first = at.segment;
        let wanted = |number: u64| acknowledged.is_none_or(|last| number <= last);
        loop {
            let next = self.record_at(at)?.filter(|f| f.number == self.number + 1 && wanted(f.number));
            let next = match next {
                Some(found) => Some(found),
                None => self.skip(&mut at, &wanted)?,
            };
            let Some(found) = next else { break };
            replayed.missing += found.number - self.number - 1;
            self.number = found.number;
            at = found.end;
            match record::decode(&found.payload) {
                Ok(effects) => each(found, effects)?,
                // Its checksum is right, so another program wrote it.
                Err(reason) => return Err(E::from(reason)),
            }
        }
        self.cut(first, at)?;
        Ok(replayed)
    }

    /// Where the log goes on when no next record is at `at`: in the next segment, or behind a hole. Leaves `at` where the
    /// log ends if it goes on nowhere.
    fn skip(&self, at: &mut Position, wanted: &impl Fn(u64) -> bool) -> io::Result<Option<Found>> {
        for (number, segment) in self.segments.range(at.segment..) {
            let from = if *number == at.segment { at.offset } else { SEGMENT_HEADER_BYTES };
            let length = segment.length.saturating_sub(from).min(SEARCH_BYTES) as usize;
            let mut bytes = vec![0; length];
            segment.file.read(from, &mut bytes)?;
            let mut next = record::find_magic(&bytes, 0);
            while let Some(offset) = next {
                let place = Position { segment: *number, offset: from + offset as u64 };
                if let Some(found) = self.record_at(place)?.filter(|f| f.number > self.number && wanted(f.number)) {
                    return Ok(Some(found));
                }
                next = record::find_magic(&bytes, offset + 1);
            }
            if *number > at.segment && self.follows(*number) {
                // Made, but nothing was written to it yet.
                *at = Position { segment: *number, offset: SEGMENT_HEADER_BYTES };
            }
        }
        Ok(None)
    }

    /// The segment was made for the record after the last.
    fn follows(&self, segment: u64) -> bool {
        let header = self.read(Position { segment, offset: 0 }, SEGMENT_HEADER_BYTES as usize);
        header.is_ok_and(|bytes| bytes == segment_header(segment, self.number + 1))
    }

    /// The log ends here. What was read from `first` on is made safe: it may come from a process that was killed before its sync.
    fn cut(&mut self, first: u64, at: Position) -> io::Result<()> {
        let behind: Vec<u64> = self.segments.range(at.segment + 1..).map(|(number, _)| *number).collect();
        for segment in behind {
            self.remove(segment)?;
        }
        if let Some(last) = self.segments.get_mut(&at.segment)
            && last.length != at.offset
        {
            last.file.set_len(at.offset)?;
            last.length = at.offset;
        }
        for (_, segment) in self.segments.range(first..) {
            segment.file.sync()?;
        }
        self.disk.sync()
    }
}

pub fn name_of(segment: u64) -> String {
    format!("{segment:010}.segment")
}

fn segment_header(segment: u64, first: u64) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&segment.to_le_bytes());
    bytes[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}
