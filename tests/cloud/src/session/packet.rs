//! Lengths of packets and of messages, judged before anything is made of them. Must never look at a packet that is not all
//! there.

use super::{Stop, stop};
use crate::clock::unix_ms;
use crate::event::Telemetry;
use crate::topic::{MESSAGE_BYTES_MAX, Properties, Upward};
use crate::world::will_property;

/// The largest message, a long topic, and some air.
pub const PACKET_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Of the packet at the start; `None` when it is not all there.
pub fn packet_length(bytes: &[u8]) -> Result<Option<usize>, Stop> {
    let mut length = 0usize;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if length > PACKET_BYTES_MAX {
            return stop(format!("a packet of more than {PACKET_BYTES_MAX} bytes"));
        }
        if byte & 0x80 == 0 {
            let total = 2 + at + length;
            return Ok((total <= bytes.len()).then_some(total));
        }
        if at == 3 {
            return stop("malformed: the length of a packet has five bytes");
        }
    }
    Ok(None)
}

pub fn check_size(body: &[u8], system: &Properties, properties: &Properties) -> Result<(), Stop> {
    let length = |(key, value): (&String, &Option<String>)| key.len() + value.as_ref().map_or(0, String::len);
    let bytes = body.len() + system.iter().chain(properties).map(length).sum::<usize>();
    if bytes > MESSAGE_BYTES_MAX {
        return stop(format!("a message of {bytes} bytes; the limit is {MESSAGE_BYTES_MAX}"));
    }
    Ok(())
}

/// A will, as the message that it becomes.
pub fn telemetry(identity: &str, topic: &str, body: &[u8]) -> Result<Telemetry, Stop> {
    match Upward::parse(topic) {
        Ok(Upward::Telemetry { system, mut properties, .. }) => {
            properties.extend(will_property());
            let (identity, topic, body) = (identity.to_owned(), topic.to_owned(), body.to_vec());
            Ok(Telemetry { identity, topic, properties, system, body, dup: false, qos: 0, at_ms: unix_ms() })
        }
        _ => stop(format!("a will to `{topic}`")),
    }
}
