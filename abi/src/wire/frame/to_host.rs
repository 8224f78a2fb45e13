//! What the runtime says to a host, as bytes.
//! Must never trust a length or a tag that it reads.

use super::fields::{In, Out};
use super::{FrameError, ToHost, kind, outcome_from};

impl<'a> ToHost<'a> {
    /// Appends the frame to `out`.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Out::new(out);
        match *self {
            ToHost::Hello { link_version, device, module, generation, credit_messages, credit_bytes } => {
                w.kind(kind::HELLO).u16(link_version).text(device).text(module).u64(generation);
                w.u32(credit_messages).u64(credit_bytes);
            }
            ToHost::Start { desired_version, desired, reported_version, reported, state_dir } => {
                w.kind(kind::START).u64(desired_version).text(desired).u64(reported_version).text(reported);
                w.text(state_dir);
            }
            ToHost::Deliver { id, queue, input, attempts, enqueued_ms, source_module, source_output, record } => {
                w.kind(kind::DELIVER).u64(id).u32(queue).u16(input).u16(attempts).u64(enqueued_ms as u64);
                w.text(source_module).text(source_output).rest(record);
            }
            ToHost::Settled { first, count, outcome, reason } => {
                w.kind(kind::SETTLED).u64(first).u32(count).u8(outcome as u8).text(reason);
            }
            ToHost::Credit { messages, bytes } => {
                w.kind(kind::CREDIT).u32(messages).u64(bytes);
            }
            ToHost::Desired { version, desired } => {
                w.kind(kind::DESIRED).u64(version).text(desired);
            }
            ToHost::Reported { rid, status, version, reason } => {
                w.kind(kind::REPORTED).u64(rid).u16(status).u64(version).text(reason);
            }
            ToHost::Method { rid, name, payload, timeout_ms } => {
                w.kind(kind::METHOD).u64(rid).text(name).bytes(payload).u32(timeout_ms);
            }
            ToHost::Signed { rid, digest, error } => {
                w.kind(kind::SIGNED).u64(rid).bytes(digest).text(error);
            }
            ToHost::Called { rid, code, status, payload } => {
                w.kind(kind::CALLED).u64(rid).u16(code).u32(status as u32).bytes(payload);
            }
            ToHost::Ping { n } => {
                w.kind(kind::PING).u64(n);
            }
            ToHost::Stop { grace_ms } => {
                w.kind(kind::STOP).u32(grace_ms);
            }
        }
        w.end();
    }

    /// Decodes what `split` took.
    #[inline]
    pub fn decode(frame: &'a [u8]) -> Result<ToHost<'a>, FrameError> {
        let mut r = In::new(frame)?;
        let decoded = match r.kind {
            kind::HELLO => ToHost::Hello {
                link_version: r.u16()?,
                device: r.text()?,
                module: r.text()?,
                generation: r.u64()?,
                credit_messages: r.u32()?,
                credit_bytes: r.u64()?,
            },
            kind::START => ToHost::Start {
                desired_version: r.u64()?,
                desired: r.text()?,
                reported_version: r.u64()?,
                reported: r.text()?,
                state_dir: r.text()?,
            },
            kind::DELIVER => ToHost::Deliver {
                id: r.u64()?,
                queue: r.u32()?,
                input: r.u16()?,
                attempts: r.u16()?,
                enqueued_ms: r.u64()? as i64,
                source_module: r.text()?,
                source_output: r.text()?,
                record: r.rest(),
            },
            kind::SETTLED => {
                ToHost::Settled { first: r.u64()?, count: r.u32()?, outcome: r.tag(outcome_from)?, reason: r.text()? }
            }
            kind::CREDIT => ToHost::Credit { messages: r.u32()?, bytes: r.u64()? },
            kind::DESIRED => ToHost::Desired { version: r.u64()?, desired: r.text()? },
            kind::REPORTED => {
                ToHost::Reported { rid: r.u64()?, status: r.u16()?, version: r.u64()?, reason: r.text()? }
            }
            kind::METHOD => {
                ToHost::Method { rid: r.u64()?, name: r.text()?, payload: r.bytes()?, timeout_ms: r.u32()? }
            }
            kind::SIGNED => ToHost::Signed { rid: r.u64()?, digest: r.bytes()?, error: r.text()? },
            kind::CALLED => {
                ToHost::Called { rid: r.u64()?, code: r.u16()?, status: r.u32()? as i32, payload: r.bytes()? }
            }
            kind::PING => ToHost::Ping { n: r.u64()? },
            kind::STOP => ToHost::Stop { grace_ms: r.u32()? },
            other => return Err(FrameError::Kind(other)),
        };
        r.end()?;
        Ok(decoded)
    }
}
