//! What a host says to the runtime, as bytes.
//! Must never trust a length or a tag that it reads.

use super::fields::{In, Out};
use super::{FrameError, FromHost, Parents, completion_from, failure_from, kind};

impl<'a> FromHost<'a> {
    /// Appends the frame to `out`. `Publish` goes through [`publish`], which writes the record in place.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Out::new(out);
        match *self {
            FromHost::Hello { link_version, sdk_version, isolation } => {
                w.kind(kind::HOST_HELLO).u16(link_version).text(sdk_version).text(isolation);
            }
            FromHost::Started => {
                w.kind(kind::STARTED);
            }
            FromHost::Publish { ticket, output, now, parents, record } => {
                w.kind(kind::PUBLISH).u64(ticket).u16(output).u8(u8::from(now)).bytes(parents.0).rest(record);
            }
            FromHost::Complete { first, count, completion, reason } => {
                w.kind(kind::COMPLETE).u64(first).u32(count).u8(completion as u8).text(reason);
            }
            FromHost::Report { rid, patch } => {
                w.kind(kind::REPORT).u64(rid).text(patch);
            }
            FromHost::MethodAnswer { rid, status, payload } => {
                w.kind(kind::METHOD_ANSWER).u64(rid).u32(status as u32).bytes(payload);
            }
            FromHost::Sign { rid, data } => {
                w.kind(kind::SIGN).u64(rid).bytes(data);
            }
            FromHost::Call { rid, module, name, payload, connect_ms, response_ms } => {
                w.kind(kind::CALL).u64(rid).text(module).text(name).bytes(payload).u32(connect_ms).u32(response_ms);
            }
            FromHost::Log { level, time_ms, target, text } => {
                w.kind(kind::LOG).u8(level).u64(time_ms as u64).text(target).text(text);
            }
            FromHost::Failed { kind: failure, text } => {
                w.kind(kind::FAILED).u8(failure as u8).text(text);
            }
            FromHost::Pong { n } => {
                w.kind(kind::PONG).u64(n);
            }
            FromHost::Health { text } => {
                w.kind(kind::HEALTH).text(text);
            }
            FromHost::Stopped => {
                w.kind(kind::STOPPED);
            }
            FromHost::Panicked { delivery, text } => {
                w.kind(kind::PANICKED).u64(delivery).text(text);
            }
        }
        w.end();
    }

    /// Decodes what `split` took.
    #[inline]
    pub fn decode(frame: &'a [u8]) -> Result<FromHost<'a>, FrameError> {
        let mut r = In::new(frame)?;
        let decoded = match r.kind {
            kind::PUBLISH => FromHost::Publish {
                ticket: r.u64()?,
                output: r.u16()?,
                now: r.u8()? != 0,
                parents: {
                    let ids = r.bytes()?;
                    if ids.len() % 8 != 0 {
                        return Err(FrameError::Short { kind: kind::PUBLISH });
                    }
                    Parents(ids)
                },
                record: r.rest(),
            },
            kind::COMPLETE => FromHost::Complete {
                first: r.u64()?,
                count: r.u32()?,
                completion: r.tag(completion_from)?,
                reason: r.text()?,
            },
            kind::HOST_HELLO => {
                FromHost::Hello { link_version: r.u16()?, sdk_version: r.text()?, isolation: r.text()? }
            }
            kind::STARTED => FromHost::Started,
            kind::REPORT => FromHost::Report { rid: r.u64()?, patch: r.text()? },
            kind::METHOD_ANSWER => {
                FromHost::MethodAnswer { rid: r.u64()?, status: r.u32()? as i32, payload: r.bytes()? }
            }
            kind::SIGN => FromHost::Sign { rid: r.u64()?, data: r.bytes()? },
            kind::CALL => FromHost::Call {
                rid: r.u64()?,
                module: r.text()?,
                name: r.text()?,
                payload: r.bytes()?,
                connect_ms: r.u32()?,
                response_ms: r.u32()?,
            },
            kind::LOG => FromHost::Log { level: r.u8()?, time_ms: r.u64()? as i64, target: r.text()?, text: r.text()? },
            kind::FAILED => FromHost::Failed { kind: r.tag(failure_from)?, text: r.text()? },
            kind::PONG => FromHost::Pong { n: r.u64()? },
            kind::HEALTH => FromHost::Health { text: r.text()? },
            kind::STOPPED => FromHost::Stopped,
            kind::PANICKED => FromHost::Panicked { delivery: r.u64()?, text: r.text()? },
            other => return Err(FrameError::Kind(other)),
        };
        r.end()?;
        Ok(decoded)
    }
}

/// Appends a `Publish` frame without an intermediate list of parents.
#[inline]
pub fn publish(out: &mut Vec<u8>, ticket: u64, output: u16, now: bool, parents: &[u64], record: &[u8]) {
    let mut w = Out::new(out);
    w.kind(kind::PUBLISH).u64(ticket).u16(output).u8(u8::from(now)).u32((parents.len() * 8) as u32);
    for parent in parents {
        w.u64(*parent);
    }
    w.rest(record).end();
}
