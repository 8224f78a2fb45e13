//! The fields of a frame: numbers, texts and the rest, written to the end of a buffer and read from its front.
//! Must never read beyond the frame.

use super::{FrameError, LENGTH};

pub(super) struct Out<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Out<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Out<'a> {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH]);
        Out { out, start }
    }

    pub fn kind(&mut self, kind: u8) -> &mut Self {
        self.u8(kind)
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.rest(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.rest(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.rest(&value.to_le_bytes())
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32).rest(value)
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    pub fn rest(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(value);
        self
    }

    pub fn end(&mut self) {
        let length = (self.out.len() - self.start - LENGTH) as u32;
        self.out[self.start..self.start + LENGTH].copy_from_slice(&length.to_le_bytes());
    }
}

pub(super) struct In<'a> {
    pub kind: u8,
    rest: &'a [u8],
}

impl<'a> In<'a> {
    pub fn new(frame: &'a [u8]) -> Result<In<'a>, FrameError> {
        let (&kind, rest) = frame.split_first().ok_or(FrameError::TooLong { bytes: 0 })?;
        Ok(In { kind, rest })
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(FrameError::Short { kind: self.kind })?;
        self.rest = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Short { kind: self.kind })?;
        self.rest = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<&'a str, FrameError> {
        let kind = self.kind;
        std::str::from_utf8(self.bytes()?).map_err(|_| FrameError::Text { kind })
    }

    pub fn tag<T>(&mut self, from: impl Fn(u8) -> Option<T>) -> Result<T, FrameError> {
        let value = self.u8()?;
        from(value).ok_or(FrameError::Tag { kind: self.kind, value })
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FrameError::Trailing { kind: self.kind }) }
    }
}
