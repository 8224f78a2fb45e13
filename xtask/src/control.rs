//! A client of the control socket: HTTP/1.1 over a Unix socket with plain blocking reads, as a script would do it.
//! Must never wait without an end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take; beyond it something is broken.
const ANSWER_WAIT: Duration = Duration::from_secs(35);

/// An answer that is text.
pub fn text(socket: &Path, path: &str) -> Result<String, String> {
    let (_, bytes) = whole(socket, "GET", path, None)?;
    String::from_utf8(bytes).map_err(|e| format!("GET {path}: {e}"))
}

fn whole(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>), String> {
    let (status, mut reader) = open(socket, method, path, body)?;
    let mut bytes = Vec::new();
    while reader.chunk(&mut bytes)? {}
    Ok((status, bytes))
}

/// The JSON of the answer, or the message of the refusal.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let (status, bytes) = whole(socket, method, path, body)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| format!("{method} {path}: no JSON: {e}"))?;
    if status >= 300 {
        let message = value.pointer("/error/message").and_then(Value::as_str).unwrap_or("no message");
        return Err(format!("{method} {path}: {status}: {message}"));
    }
    Ok(value)
}

/// Lines that come until the other side ends.
pub struct Lines {
    reader: Reader,
    rest: Vec<u8>,
}

pub fn lines(socket: &Path, path: &str) -> Result<Lines, String> {
    let (status, reader) = open(socket, "GET", path, None)?;
    if status >= 300 {
        return Err(format!("GET {path}: {status}"));
    }
    let unlimited = reader.stream.get_ref().set_read_timeout(None);
    unlimited.map_err(|e| e.to_string())?;
    Ok(Lines { reader, rest: Vec::new() })
}

impl Iterator for Lines {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            if !self.reader.chunk(&mut self.rest).ok()? {
                return None;
            }
        }
    }
}

fn open(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Reader), String> {
    let fault = |e: std::io::Error| format!("{method} {path}: {e}");
    let stream = UnixStream::connect(socket).map_err(fault)?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(fault)?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: skerry\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    (&stream).write_all(head.as_bytes()).map_err(fault)?;
    let mut reader = Reader { stream: BufReader::new(stream), left: Left::UntilClosed };
    let status = reader.head().map_err(|e| format!("{method} {path}: {e}"))?;
    Ok((status, reader))
}

struct Reader {
    stream: BufReader<UnixStream>,
    left: Left,
}

/// How the rest of a body is measured.
enum Left {
    Bytes(u64),
    Chunks,
    UntilClosed,
}

impl Reader {
    fn head(&mut self) -> Result<u16, String> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return status.ok_or_else(|| format!("not HTTP: {first:?}"));
            }
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("content-length", bytes)) => {
                    self.left = Left::Bytes(bytes.parse().map_err(|_| format!("content-length {bytes:?}"))?);
                }
                Some(("transfer-encoding", "chunked")) => self.left = Left::Chunks,
                _ => {}
            }
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Appends what comes next; `false` at the end.
    fn chunk(&mut self, to: &mut Vec<u8>) -> Result<bool, String> {
        let read = match self.left {
            Left::UntilClosed => self.stream.read_to_end(to),
            Left::Bytes(bytes) => (&mut self.stream).take(bytes).read_to_end(to),
            Left::Chunks => {
                let line = self.line()?;
                let bytes = u64::from_str_radix(&line, 16).map_err(|_| format!("chunk of {line:?} bytes"))?;
                let read = (&mut self.stream).take(bytes).read_to_end(to);
                self.line()?;
                return read.map(|_| bytes > 0).map_err(|e| e.to_string());
            }
        };
        self.left = Left::Bytes(0);
        read.map(|bytes| bytes > 0).map_err(|e| e.to_string())
    }
}
