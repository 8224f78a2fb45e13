//! The few packets that a broker reads, taken apart by hand: the codec that the runtime writes them with is not its own judge.
//! Must never read beyond a packet.

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum FromClient {
    Connect { client: String, user: String, password: String },
    Publish { topic: String, payload: Vec<u8>, pid: Option<u16>, dup: bool },
    PubAck { pid: u16 },
    Subscribe { pid: u16, filters: usize },
    Ping,
    Disconnect,
}

/// The first packet, taken out of `bytes`; `None` until all of it is there.
pub fn take(bytes: &mut Vec<u8>) -> Option<FromClient> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if bytes.len() < at + length {
        return None;
    }
    let packet: Vec<u8> = bytes.drain(..at + length).collect();
    let (first, mut rest) = (packet[0], &packet[at..]);
    Some(match first >> 4 {
        1 => {
            assert_eq!(text(&mut rest), "MQTT");
            let (level, flags) = (rest[0], rest[1]);
            assert_eq!((level, flags), (4, 0b1100_0000), "version, or clean session");
            rest = &rest[4..];
            FromClient::Connect { client: text(&mut rest), user: text(&mut rest), password: text(&mut rest) }
        }
        3 => {
            let topic = text(&mut rest);
            let qos = first >> 1 & 3;
            assert!(qos < 2);
            let pid = (qos == 1).then(|| number(&mut rest));
            FromClient::Publish { topic, payload: rest.to_vec(), pid, dup: first & 8 != 0 }
        }
        4 => FromClient::PubAck { pid: number(&mut rest) },
        8 => {
            let pid = number(&mut rest);
            let mut filters = 0;
            while !rest.is_empty() {
                text(&mut rest);
                rest = &rest[1..];
                filters += 1;
            }
            FromClient::Subscribe { pid, filters }
        }
        12 => FromClient::Ping,
        14 => FromClient::Disconnect,
        other => panic!("a client does not send packets of type {other}"),
    })
}

fn number(rest: &mut &[u8]) -> u16 {
    let (number, behind) = rest.split_at(2);
    *rest = behind;
    u16::from_be_bytes([number[0], number[1]])
}

fn text(rest: &mut &[u8]) -> String {
    let length = number(rest).into();
    let (text, behind) = rest.split_at(length);
    *rest = behind;
    String::from_utf8(text.to_vec()).expect("UTF-8")
}

pub fn connack(code: u8) -> Vec<u8> {
    vec![0x20, 2, 0, code]
}

pub fn puback(pid: u16) -> Vec<u8> {
    let [high, low] = pid.to_be_bytes();
    vec![0x40, 2, high, low]
}

pub fn suback(pid: u16, filters: usize) -> Vec<u8> {
    let [high, low] = pid.to_be_bytes();
    let mut packet = vec![0x90, 2 + filters as u8, high, low];
    packet.extend(std::iter::repeat_n(1, filters));
    packet
}

pub fn pong() -> Vec<u8> {
    vec![0xd0, 0]
}

/// With a `pid` of quality of service 1.
pub fn publish(topic: &str, payload: &[u8], pid: Option<u16>, dup: bool) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    body.extend(pid.into_iter().flat_map(u16::to_be_bytes));
    body.extend_from_slice(payload);
    let mut packet = vec![0x30 | u8::from(pid.is_some()) << 1 | u8::from(dup) << 3];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        packet.push(byte | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(&body);
    packet
}
