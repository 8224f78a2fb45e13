//! WebSocket frames, the server's side of RFC 6455: only what MQTT needs. Must never hand on bytes of a frame that breaks
//! the rules; written apart from the client's library, so that one judges the other.

/// Far beyond the largest message; a longer frame is an error at once.
const FRAME_BYTES_MAX: u64 = 1024 * 1024;
const CONTROL_BYTES_MAX: u64 = 125;

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// Answer with a pong.
    Ping(Vec<u8>),
    Close,
}

#[derive(Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// In the middle of a message of several frames.
    open: bool,
}

struct Header {
    last: bool,
    kind: u8,
    mask: [u8; 4],
    /// Of the header itself.
    length: usize,
    payload: usize,
}

impl Frames {
    /// Appends the payload of binary frames to `stream`, where borders of frames don't matter any more.
    pub fn feed(&mut self, bytes: &[u8], stream: &mut Vec<u8>) -> Result<Vec<Came>, String> {
        self.buffer.extend_from_slice(bytes);
        let (mut at, mut came) = (0, Vec::new());
        while let Some(header) = header(&self.buffer[at..])? {
            let Some(payload) = self.buffer.get(at + header.length..at + header.length + header.payload) else { break };
            at += header.length + header.payload;
            match header.kind {
                BINARY | CONTINUATION => {
                    if (header.kind == CONTINUATION) != self.open {
                        return Err("a frame that continues nothing, or a message inside another".to_owned());
                    }
                    self.open = !header.last;
                    unmask(payload, header.mask, stream);
                }
                CLOSE => came.push(Came::Close),
                PING => {
                    let mut plain = Vec::new();
                    unmask(payload, header.mask, &mut plain);
                    came.push(Came::Ping(plain));
                }
                PONG => {}
                other => return Err(format!("a WebSocket frame of kind {other}; MQTT comes in binary ones")),
            }
        }
        self.buffer.drain(..at);
        Ok(came)
    }
}

fn header(bytes: &[u8]) -> Result<Option<Header>, String> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (last, kind) = (first & 0x80 != 0, first & 0x0F);
    if first & 0x70 != 0 {
        return Err("a WebSocket frame with reserved bits".to_owned());
    }
    if second & 0x80 == 0 {
        return Err("a WebSocket frame without a mask".to_owned());
    }
    let extra = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((long, rest)) = rest.split_at_checked(extra) else { return Ok(None) };
    let long = long.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let payload = if extra == 0 { u64::from(second & 0x7F) } else { long };
    let is_control = kind & 0x8 != 0;
    if payload > if is_control { CONTROL_BYTES_MAX } else { FRAME_BYTES_MAX } || is_control && !last {
        return Err(format!("a WebSocket frame of kind {kind} with {payload} bytes"));
    }
    let Some(mask) = rest.first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { last, kind, mask: *mask, length: 2 + extra + 4, payload: payload as usize }))
}

fn unmask(payload: &[u8], mask: [u8; 4], into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(payload);
    let mut chunks = into[start..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    chunks.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

pub fn binary(payload: &[u8], into: &mut Vec<u8>) {
    frame(BINARY, payload, into);
}

pub fn pong(payload: &[u8], into: &mut Vec<u8>) {
    frame(PONG, payload, into);
}

/// With the code for a normal end.
pub fn close(into: &mut Vec<u8>) {
    frame(CLOSE, &1000u16.to_be_bytes(), into);
}

fn frame(kind: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(0x80 | kind);
    match payload.len() {
        length @ 0..126 => into.push(length as u8),
        length @ 126..65536 => {
            into.push(126);
            into.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            into.push(127);
            into.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    into.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        frame.extend(payload.iter().zip([1u8, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn borders_do_not_matter() {
        let bytes = [masked(0x02, b"abc"), masked(0x89, b"!"), masked(0x80, b"defgh"), masked(0x88, b"")].concat();
        for step in 1..bytes.len() {
            let (mut frames, mut stream, mut came) = (Frames::default(), Vec::new(), Vec::new());
            for part in bytes.chunks(step) {
                came.extend(frames.feed(part, &mut stream).unwrap());
            }
            assert_eq!((&stream[..], came), (&b"abcdefgh"[..], vec![Came::Ping(b"!".to_vec()), Came::Close]));
        }
    }

    #[test]
    fn broken_rules_are_errors() {
        let refused = |bytes: &[u8]| Frames::default().feed(bytes, &mut Vec::new()).is_err();
        assert!(refused(&[0x82, 0x01, b'x']), "no mask");
        assert!(refused(&masked(0x81, b"text")));
        assert!(refused(&masked(0xC2, b"")), "reserved");
        assert!(refused(&masked(0x80, b"x")), "continues nothing");
        assert!(refused(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0]), "too long");
    }
}
