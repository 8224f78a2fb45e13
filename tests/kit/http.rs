//! A client of the control socket as small as can be, so that the product's own is not its only judge.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::DEADLINE;

/// One request with a JSON answer. `None`: nobody listens.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let (status, mut answer) = open(socket, method, path, body)?;
    let mut bytes = Vec::new();
    answer.read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok().map(|value| (status, value))
}

/// One answer that is no JSON: its status, its content type and its text.
pub fn text(socket: &Path, path: &str) -> Option<(u16, String, String)> {
    let (status, mut answer) = open(socket, "GET", path, "")?;
    let mut text = String::new();
    answer.read_to_string(&mut text).ok()?;
    Some((status, answer.kind, text))
}

/// The status, and the body as it comes.
pub(crate) fn open(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Body)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let length = body.len();
    // The server may have refused and gone already.
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: skerry\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    let mut stream = BufReader::new(stream);
    let status = line(&mut stream)?.split(' ').nth(1)?.parse().ok()?;
    let (mut chunked, mut kind) = (false, String::new());
    loop {
        let header = line(&mut stream)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-type: ") {
            kind = value.to_owned();
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    Some((status, Body { stream, kind, chunked, left: 0 }))
}

fn line(stream: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let count = stream.read_line(&mut line).ok()?;
    (count > 0).then(|| line.trim_end().to_owned())
}

/// What follows the headers, until the server closes.
pub(crate) struct Body {
    stream: BufReader<UnixStream>,
    kind: String,
    chunked: bool,
    /// Of the chunk.
    left: usize,
}

impl Body {
    pub(crate) fn socket(&self) -> &UnixStream {
        self.stream.get_ref()
    }
}

impl Read for Body {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if !self.chunked {
            return self.stream.read(bytes);
        }
        while self.left == 0 {
            let Some(size) = line(&mut self.stream) else { return Ok(0) };
            match usize::from_str_radix(&size, 16) {
                Ok(0) => return Ok(0),
                Ok(size) => self.left = size,
                // The line that ends a chunk.
                Err(_) if size.is_empty() => {}
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
        let most = bytes.len().min(self.left);
        let count = self.stream.read(&mut bytes[..most])?;
        self.left -= count;
        Ok(count)
    }
}
