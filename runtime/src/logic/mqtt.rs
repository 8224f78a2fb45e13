//! MQTT 3.1.1 packets as bytes, both ways. The one place that knows the codec crate.
//! Must never look at a packet before the whole of it is there, and never wait for one that is larger than the limit.

use std::fmt;

use mqtt_proto::v3::{self, Connect, ConnectReturnCode, Publish, Subscribe, SubscribeReturnCode};
use mqtt_proto::{Pid, QoS, QosPid, TopicFilter, TopicName};

/// Largest packet that is taken, bytes: a method's payload (128 KiB) and a whole twin fit.
pub const PACKET_BYTES_MAX: usize = 512 * 1024;
/// The bit of a PUBLISH that says "perhaps again".
const DUPLICATE: u8 = 0b1000;

/// What a broker says to its client.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// `Err`: the return code, as a word.
    ConnAck(Result<bool, Refusal>),
    Publish {
        topic: String,
        payload: Vec<u8>,
        /// To be acknowledged.
        pid: Option<u16>,
    },
    PubAck {
        pid: u16,
    },
    /// False where a subscription was refused.
    SubAck {
        pid: u16,
        granted: bool,
    },
    PingResp,
}

/// Why a CONNECT was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 4 and 5: user name, password, or what they stand for.
    Credentials,
    /// 3
    Busy,
    /// 1 and 2: what no retry mends.
    Protocol,
}

/// Bytes that are no packet of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

pub fn connect(out: &mut Vec<u8>, client_id: &str, user: &str, password: &str, keep_alive_s: u16) {
    let mut connect = Connect::new(client_id.into(), keep_alive_s);
    // The cloud keeps what it has for us; IoT Hub's own clients do the same.
    connect.clean_session = false;
    connect.username = Some(user.into());
    connect.password = Some(password.as_bytes().to_vec().into());
    append(out, v3::Packet::Connect(connect));
}

pub fn subscribe(out: &mut Vec<u8>, pid: u16, filters: &[&str]) {
    let topics = filters.iter().filter_map(|f| Some((TopicFilter::try_from(*f).ok()?, QoS::Level1))).collect();
    append(out, v3::Packet::Subscribe(Subscribe::new(nonzero(pid), topics)));
}

/// With a `pid` quality of service 1, otherwise 0. False, and nothing appended, where the topic can't be one.
pub fn publish(out: &mut Vec<u8>, topic: &str, pid: Option<u16>, payload: &[u8]) -> bool {
    let Ok(topic) = TopicName::try_from(topic) else { return false };
    let qos = pid.map_or(QosPid::Level0, |pid| QosPid::Level1(nonzero(pid)));
    append(out, v3::Packet::Publish(Publish::new(qos, topic, payload.to_vec().into())));
    true
}

/// Marks an encoded PUBLISH as one that may have been received before.
pub fn mark_duplicate(publish: &mut [u8]) {
    if let Some(first) = publish.first_mut() {
        *first |= DUPLICATE;
    }
}

pub fn puback(out: &mut Vec<u8>, pid: u16) {
    append(out, v3::Packet::Puback(nonzero(pid)));
}

pub fn ping(out: &mut Vec<u8>) {
    append(out, v3::Packet::Pingreq);
}

pub fn disconnect(out: &mut Vec<u8>) {
    append(out, v3::Packet::Disconnect);
}

fn nonzero(pid: u16) -> Pid {
    Pid::try_from(pid).unwrap_or_default()
}

fn append(out: &mut Vec<u8>, packet: v3::Packet) {
    // Only lengths beyond 256 MiB can't be encoded, and nothing here is that long.
    if let Ok(bytes) = packet.encode() {
        out.extend_from_slice(bytes.as_ref());
    }
}

/// The first packet of `bytes` with its length; `None` until all of it is there.
pub fn decode(bytes: &[u8]) -> Result<Option<(Packet, usize)>, Malformed> {
    let Some(length) = length(bytes)? else { return Ok(None) };
    if length > PACKET_BYTES_MAX {
        return Err(Malformed(format!("a packet of {length} bytes; the limit is {PACKET_BYTES_MAX}")));
    }
    let Some(packet) = bytes.get(..length) else { return Ok(None) };
    match v3::Packet::decode(packet) {
        Ok(Some(packet)) => Ok(Some((from_broker(packet)?, length))),
        Ok(None) => Err(Malformed("a packet that ends before its fields do".to_owned())),
        Err(error) => Err(Malformed(error.to_string())),
    }
}

/// Of the whole packet: type byte, length field (at most four bytes), and what it says.
fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut rest = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        rest |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some(rest + at + 2));
        }
    }
    if bytes.len() > 4 { Err(Malformed("a length of more than four bytes".to_owned())) } else { Ok(None) }
}

fn from_broker(packet: v3::Packet) -> Result<Packet, Malformed> {
    Ok(match packet {
        v3::Packet::Connack(ack) => Packet::ConnAck(match ack.code {
            ConnectReturnCode::Accepted => Ok(ack.session_present),
            ConnectReturnCode::BadUserNameOrPassword | ConnectReturnCode::NotAuthorized => Err(Refusal::Credentials),
            ConnectReturnCode::ServerUnavailable => Err(Refusal::Busy),
            _ => Err(Refusal::Protocol),
        }),
        v3::Packet::Publish(publish) => {
            let pid = match publish.qos_pid {
                QosPid::Level0 => None,
                QosPid::Level1(pid) => Some(pid.value()),
                QosPid::Level2(_) => return Err(Malformed("a message of quality of service 2".to_owned())),
            };
            Packet::Publish { topic: publish.topic_name.to_string(), payload: publish.payload.to_vec(), pid }
        }
        v3::Packet::Puback(pid) => Packet::PubAck { pid: pid.value() },
        v3::Packet::Suback(ack) => {
            Packet::SubAck { pid: ack.pid.value(), granted: !ack.topics.contains(&SubscribeReturnCode::Failure) }
        }
        v3::Packet::Pingresp => Packet::PingResp,
        other => return Err(Malformed(format!("{:?}, which a client does not get", other.get_type()))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        assert!(publish(&mut bytes, "a/b", Some(7), &[9; 300]));
        let whole = bytes.len();
        puback(&mut bytes, 3);
        for cut in 0..whole {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "{cut}");
        }
        let (packet, used) = decode(&bytes).unwrap().unwrap();
        assert_eq!(packet, Packet::Publish { topic: "a/b".into(), payload: vec![9; 300], pid: Some(7) });
        assert_eq!(decode(&bytes[used..]), Ok(Some((Packet::PubAck { pid: 3 }, 4))));
        mark_duplicate(&mut bytes);
        assert_eq!(bytes[0], 0b0011_1010);
        assert!(!publish(&mut bytes, "no/#", None, b""));
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in [
            &[0xff, 0xff, 0xff, 0xff, 0xff][..],
            &[0x20, 0],
            &[0x10, 2, 0, 0],
            &[0x34, 5, 0, 1, b'a', 0, 1],
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
            &[0x40, 2, 0, 0],
            &[0x30, 1, 0],
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn connack_codes_are_told_apart() {
        for (code, expected) in [
            (0, Ok(false)),
            (1, Err(Refusal::Protocol)),
            (3, Err(Refusal::Busy)),
            (4, Err(Refusal::Credentials)),
            (5, Err(Refusal::Credentials)),
        ] {
            assert_eq!(decode(&[0x20, 2, 0, code]), Ok(Some((Packet::ConnAck(expected), 4))));
        }
    }

    /// No bytes make it panic, wait for ever, or read beyond a packet.
    #[test]
    fn any_bytes_will_do() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..next() % 40).map(|_| next() as u8).collect();
            if next() % 2 == 0 && bytes.len() > 2 {
                bytes[1] = (bytes.len() - 2) as u8;
            }
            if let Ok(Some((_, used))) = decode(&bytes) {
                assert!(used <= bytes.len());
            }
        }
    }
}
