//! The peer with streams: Redis over a Unix socket, commands pipelined and replies read in batches. Kept in memory only, or with
//! every write synced before it is answered. Nothing is trimmed while a run lasts, so that it has no work but the messages.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{cargo, debian, interrupt};

pub const IN_MEMORY: &str = "redis streams, in memory";
pub const SYNCED: &str = "redis streams, appendfsync always";
/// Entries that a consumer reads at once.
const BATCH: &str = "512";
/// A server that says nothing for this long has hung.
const SILENCE: Duration = Duration::from_secs(20);

pub struct Redis {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Redis {
    /// `synced`: an append-only file, and no answer before its sync.
    pub fn start(synced: bool) -> Result<Redis, String> {
        install()?;
        let fault = |e: std::io::Error| format!("can't start redis: {e}");
        // Beside the target folder: /tmp may be memory.
        let folder = tempfile::Builder::new().prefix("redis-").tempdir_in(cargo::target_folder()).map_err(fault)?;
        let socket = folder.path().join("redis.sock");
        let config = format!(
            "port 0\nunixsocket {}\ndir {}\nsave \"\"\nappendonly {}\nappendfsync always\nauto-aof-rewrite-percentage 0\n\
             stream-node-max-bytes 0\nstream-node-max-entries 512\n",
            socket.display(),
            folder.path().display(),
            if synced { "yes" } else { "no" },
        );
        let file = folder.path().join("redis.conf");
        fs::write(&file, config).map_err(fault)?;
        let mut command = Command::new("redis-server");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(fault)?;
        let redis = Redis { child, socket, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(5);
        while UnixStream::connect(&redis.socket).is_err() {
            interrupt::check()?;
            if Instant::now() > deadline {
                return Err("redis does not listen".to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    /// Bytes that it caused to be written to the disk, so far.
    pub fn written_bytes(&self) -> Result<f64, String> {
        super::ours::written_bytes(self.child.id() as i32)
    }

    /// Messages a second from a producer with `window` unanswered ones to `groups` consumers that acknowledge each.
    pub fn hop(&self, count: u64, bytes: usize, window: u64, groups: usize) -> Result<f64, String> {
        let mut client = self.client()?;
        client.ask(&[b"DEL", b"s"])?;
        let mut consumers = Vec::new();
        for n in 0..groups {
            let group = format!("g{n}");
            client.ask(&[b"XGROUP", b"CREATE", b"s", group.as_bytes(), b"$", b"MKSTREAM"])?;
            let mut consumer = self.client()?;
            consumers.push(thread::spawn(move || consume(&mut consumer, &group, count)));
        }
        let begin = Instant::now();
        client.produce(count, bytes, window)?;
        for consumer in consumers {
            consumer.join().map_err(|_| "a consumer panicked")??;
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Messages a second to nobody: answered means kept as the server keeps it.
    pub fn store(&self, count: u64, bytes: usize, window: u64) -> Result<f64, String> {
        let mut client = self.client()?;
        client.ask(&[b"DEL", b"s"])?;
        let begin = Instant::now();
        client.produce(count, bytes, window)?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    fn client(&self) -> Result<Client, String> {
        let stream = UnixStream::connect(&self.socket).map_err(|e| format!("redis: {e}"))?;
        stream.set_read_timeout(Some(SILENCE)).map_err(|e| format!("redis: {e}"))?;
        Ok(Client { stream, out: Vec::new(), buffer: vec![0; 1 << 20], start: 0, end: 0 })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn consume(client: &mut Client, group: &str, count: u64) -> Result<(), String> {
    let mut done = 0;
    let group = group.as_bytes();
    let mut ids: Vec<Vec<u8>> = Vec::new();
    while done < count {
        // What was read is acknowledged in the write that asks for more.
        if !ids.is_empty() {
            let mut command: Vec<&[u8]> = vec![b"XACK", b"s", group];
            command.extend(ids.iter().map(Vec::as_slice));
            client.push(&command);
        }
        client.push(&[
            b"XREADGROUP",
            b"GROUP",
            group,
            b"c",
            b"COUNT",
            BATCH.as_bytes(),
            b"BLOCK",
            b"1000",
            b"STREAMS",
            b"s",
            b">",
        ]);
        client.flush()?;
        if !ids.is_empty() {
            client.read(|_| ())?;
        }
        ids.clear();
        // The stream's name, then for each entry its id, its field and its value.
        client.read(|parts| ids.extend(parts.iter().skip(1).step_by(3).map(|id| id.to_vec())))?;
        done += ids.len() as u64;
    }
    let mut command: Vec<&[u8]> = vec![b"XACK", b"s", group];
    command.extend(ids.iter().map(Vec::as_slice));
    client.ask(&command)
}

struct Client {
    stream: UnixStream,
    out: Vec<u8>,
    /// Bytes read; the first `start` of them are used up.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Client {
    fn produce(&mut self, count: u64, bytes: usize, window: u64) -> Result<(), String> {
        let body = vec![b'x'; bytes];
        let mut command = Vec::new();
        encode(&mut command, &[b"XADD", b"s", b"*", b"b", &body]);
        let (mut sent, mut safe) = (0, 0);
        while safe < count {
            while sent < count && sent - safe < window {
                self.out.extend_from_slice(&command);
                sent += 1;
            }
            self.flush()?;
            self.read(|_| ())?;
            safe += 1;
            while self.read_buffered(|_| ())? {
                safe += 1;
            }
        }
        Ok(())
    }

    /// One command and its answer, which is not looked at.
    fn ask(&mut self, parts: &[&[u8]]) -> Result<(), String> {
        self.push(parts);
        self.flush()?;
        self.read(|_| ())
    }

    /// Written by the next `flush`.
    fn push(&mut self, parts: &[&[u8]]) {
        encode(&mut self.out, parts);
    }

    fn flush(&mut self) -> Result<(), String> {
        self.stream.write_all(&self.out).map_err(|e| format!("redis write: {e}"))?;
        self.out.clear();
        Ok(())
    }

    /// The next reply; waits for it.
    fn read(&mut self, mut take: impl FnMut(&[&[u8]])) -> Result<(), String> {
        while !self.read_buffered(&mut take)? {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.end == self.buffer.len() {
                self.buffer.resize(2 * self.end, 0);
            }
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err("redis closed the connection".to_owned()),
                Ok(bytes) => self.end += bytes,
                Err(error) => return Err(format!("redis read: {error}")),
            }
        }
        Ok(())
    }

    /// The next reply, if all of it is there already.
    fn read_buffered(&mut self, mut take: impl FnMut(&[&[u8]])) -> Result<bool, String> {
        let mut texts = Vec::new();
        let Some(bytes) = decode(&self.buffer[self.start..self.end], &mut texts)? else { return Ok(false) };
        take(&texts);
        self.start += bytes;
        Ok(true)
    }
}

fn encode(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// The length of a whole reply, and its texts in their order, whatever lists they stand in.
fn decode<'a>(bytes: &'a [u8], texts: &mut Vec<&'a [u8]>) -> Result<Option<usize>, String> {
    let (mut at, mut left) = (0, 1_i64);
    while left > 0 {
        left -= 1;
        let Some(end) = bytes[at..].iter().position(|b| *b == b'\n') else { return Ok(None) };
        let line = &bytes[at..at + end];
        at += end + 1;
        let (kind, rest) = line.split_first().ok_or("redis: an empty line")?;
        let text = std::str::from_utf8(rest).unwrap_or_default().trim_end();
        let number = || text.parse::<i64>().map_err(|_| format!("redis: not a number: {text:?}"));
        match kind {
            b'-' => return Err(format!("redis: {text}")),
            b'*' => left += number()?.max(0),
            b'$' => {
                let Ok(length) = usize::try_from(number()?) else { continue };
                let Some(part) = bytes.get(at..at + length + 2) else { return Ok(None) };
                texts.push(&part[..length]);
                at += length + 2;
            }
            _ => {}
        }
    }
    Ok(Some(at))
}

fn install() -> Result<(), String> {
    let there = || {
        let version =
            Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    if there() {
        return Ok(());
    }
    debian::install(&["redis-server"]);
    if there() {
        Ok(())
    } else {
        Err("redis-server is missing; install it with: apt-get install redis-server".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_when_whole() {
        let reply = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nb\r\n$2\r\nxy\r\n:1\r\n";
        let mut texts = Vec::new();
        assert_eq!(decode(reply, &mut texts), Ok(Some(reply.len() - 4)));
        assert_eq!(texts, [b"s".as_slice(), b"1-0", b"b", b"xy"]);
        for cut in 0..reply.len() - 4 {
            assert_eq!(decode(&reply[..cut], &mut Vec::new()), Ok(None), "{cut}");
        }
        assert_eq!(decode(b"*-1\r\n", &mut Vec::new()), Ok(Some(5)));
        assert_eq!(decode(b"-ERR no\r\n", &mut Vec::new()), Err("redis: ERR no".to_owned()));
    }
}
