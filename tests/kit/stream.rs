//! Lines as somebody else writes them, read by a thread, so that a test can wait for one with a deadline.

use std::io::{BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::{DEADLINE, http};

/// All lines so far, shared with who reads them.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Gathered>, Condvar)>);

#[derive(Default)]
struct Gathered {
    lines: Vec<String>,
    ended: usize,
}

impl Lines {
    /// Reads `from` to its end, in the background. May be called again for what comes after.
    pub fn read(&self, from: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                shared.0.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
                shared.1.notify_all();
            }
            shared.0.lock().unwrap_or_else(PoisonError::into_inner).ended += 1;
            shared.1.notify_all();
        });
    }

    /// Waits until `found` has something in all that was read. Panics at the deadline.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&[String]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut gathered = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = found(&gathered.lines) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail = gathered.lines.iter().rev().take(20).rev().cloned().collect::<Vec<_>>().join("\n");
                drop(gathered);
                panic!("not within {DEADLINE:?}: {what}; the last lines:\n{tail}");
            }
            gathered = self.0.1.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of what was given to `read` so far: so many times.
    pub fn wait_ended(&self, times: usize) {
        let end = Instant::now() + DEADLINE;
        let mut gathered = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while gathered.ended < times && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            gathered = self.0.1.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }
}

/// A watcher of messages, or of a log. What passes after it was made is seen.
pub struct Tap {
    socket: UnixStream,
    lines: Lines,
}

impl Tap {
    pub(crate) fn open(socket: &Path, path: &str) -> Tap {
        let (status, body) = http::open(socket, "GET", path, "").expect("somebody listens");
        assert_eq!(status, 200);
        let socket = body.socket().try_clone().expect("a descriptor");
        let lines = Lines::default();
        lines.read(body);
        Tap { socket, lines }
    }

    pub fn all(&self) -> Vec<Value> {
        self.lines.all().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a message that `fits`.
    #[track_caller]
    pub fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.lines.wait(what, |lines| {
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(|message| fits(message))
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
