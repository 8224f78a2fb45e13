//! As much of an MQTT 3.1.1 client as QoS 1 needs, blocking and batched: many packets a write, many a read.
//! Must never be the slower side of what it measures: no copy or system call a packet where one a batch will do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A broker that says nothing for this long has hung.
const SILENCE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    /// Packets to be written.
    out: Vec<u8>,
    /// Bytes read; the first `start` of them are used up.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    next_id: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Publish { id: u16, bytes: usize },
    Acknowledged(u16),
    Other(u8),
}

impl Client {
    pub fn connect(port: u16, name: &str) -> Result<Client, String> {
        Client::connect_with(port, name, 2)
    }

    /// In the session of that name, which the broker keeps while the client is away.
    pub fn back(port: u16, name: &str) -> Result<Client, String> {
        Client::connect_with(port, name, 0)
    }

    fn connect_with(port: u16, name: &str, flags: u8) -> Result<Client, String> {
        let fault = |e: std::io::Error| format!("MQTT client {name}: {e}");
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(fault)?;
        stream.set_nodelay(true).map_err(fault)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(fault)?;
        let buffer = vec![0; 1 << 18];
        let mut client = Client { stream, out: Vec::new(), buffer, start: 0, end: 0, next_id: 0 };
        // Protocol 3.1.1, no keep-alive.
        client.packet(0x10, &[b"\0\x04MQTT\x04", &[flags, 0, 0], &text(name)]);
        client.flush()?;
        match client.read()? {
            Packet::Other(0x20) => Ok(client),
            other => Err(format!("MQTT client {name}: {other:?} instead of CONNACK")),
        }
    }

    pub fn subscribe(&mut self, topic: &str) -> Result<(), String> {
        self.packet(0x82, &[&[0, 1], &text(topic), &[1]]);
        self.flush()?;
        match self.read()? {
            Packet::Other(0x90) => Ok(()),
            other => Err(format!("MQTT: {other:?} instead of SUBACK")),
        }
    }

    /// QoS 1; written by the next `flush`.
    pub fn publish(&mut self, topic: &str, body: &[u8]) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let id = self.next_id;
        self.packet(0x32, &[&text(topic), &id.to_be_bytes(), body]);
        id
    }

    /// Written by the next `flush`.
    pub fn acknowledge(&mut self, id: u16) {
        self.packet(0x40, &[&id.to_be_bytes()]);
    }

    pub fn flush(&mut self) -> Result<(), String> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).map_err(|e| format!("MQTT write: {e}"))?;
            self.out.clear();
        }
        Ok(())
    }

    /// The next packet; waits for it.
    pub fn read(&mut self) -> Result<Packet, String> {
        loop {
            if let Some(packet) = self.read_buffered() {
                return Ok(packet);
            }
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err("MQTT: the broker closed the connection".to_owned()),
                Ok(bytes) => self.end += bytes,
                Err(error) => return Err(format!("MQTT read: {error}")),
            }
        }
    }

    /// The next packet that is there already.
    pub fn read_buffered(&mut self) -> Option<Packet> {
        let (packet, bytes) = decode(&self.buffer[self.start..self.end])?;
        self.start += bytes;
        Some(packet)
    }

    fn packet(&mut self, first: u8, parts: &[&[u8]]) {
        self.out.push(first);
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        while left >= 128 {
            self.out.push(left as u8 | 128);
            left >>= 7;
        }
        self.out.push(left as u8);
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
    }
}

/// A packet and its length, once all of it is there.
fn decode(bytes: &[u8]) -> Option<(Packet, usize)> {
    let first = *bytes.first()?;
    let (mut left, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        left |= usize::from(byte & 127) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
    }
    let body = bytes.get(at..at + left)?;
    let number = |at: usize| body.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let packet = match first >> 4 {
        3 => {
            let topic = usize::from(number(0));
            Packet::Publish { id: number(2 + topic), bytes: left.saturating_sub(4 + topic) }
        }
        4 => Packet::Acknowledged(number(0)),
        _ => Packet::Other(first),
    };
    Some((packet, at + left))
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_when_whole() {
        let mut publish = vec![0x32, 0x85, 0x02, 0, 1, b't', 0, 9];
        publish.extend([b'x'; 256]);
        assert_eq!(decode(&publish), Some((Packet::Publish { id: 9, bytes: 256 }, 264)));
        assert_eq!(decode(&publish[..263]), None);
        assert_eq!(decode(&[0x40, 2, 1, 2, 0]), Some((Packet::Acknowledged(0x102), 4)));
        assert_eq!(decode(&[0x20, 2, 0, 0]), Some((Packet::Other(0x20), 4)));
        assert_eq!(decode(&[0x40]), None);
    }
}
