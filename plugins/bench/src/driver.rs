//! The measurements: a thread that keeps a window of receipts, a ring of messages that go round, a sink that counts.
//! Must never grow with the number of messages beyond what a result needs.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_abi::{Context, Durability, Message, Receipt, Result, SendError};

use super::Settings;

/// Sends from a thread; reports when the last message is safe.
pub fn thread(cx: &Context, settings: Settings) -> Result {
    let Settings { count, bytes, window, noise, pause_ms, .. } = settings;
    let own = cx.clone();
    cx.spawn("driver", move || {
        let mut message = Message::new(vec![b'x'; bytes]);
        let pool = if noise { random(NOISE_BYTES + bytes) } else { Vec::new() };
        let mut receipts: VecDeque<Receipt> = VecDeque::with_capacity(window);
        let begin = Instant::now();
        for n in 0..count as usize {
            if noise {
                let at = n * bytes % NOISE_BYTES;
                message = Message::new(&pool[at..at + bytes]);
            }
            if receipts.len() >= window.max(1)
                && let Some(oldest) = receipts.pop_front()
            {
                oldest.wait()?;
            }
            // Noise is for the disk: the last one has no company to wait for there.
            let is_last = noise && n + 1 == count as usize;
            let durability = if is_last { Durability::Now } else { Durability::Batched };
            match own.send_with("ping", &message, durability) {
                Ok(receipt) => receipts.push_back(receipt),
                Err(SendError::Stopping) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms));
            }
        }
        for receipt in receipts {
            receipt.wait()?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        own.twin().report(&json!({"result": {
            "run": "thread", "count": count, "bytes": bytes, "window": window,
            "seconds": seconds, "messages_per_s": (count as f64 / seconds).round(),
        }}))?;
        Ok(())
    })?;
    Ok(())
}

/// Bytes after which noise repeats itself: several blocks of the store.
const NOISE_BYTES: usize = 1 << 20;

/// Bytes that no compression makes shorter: xorshift64.
fn random(bytes: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// Messages that go to an echo and come back, each time from a callback.
pub struct Ring {
    message: Message,
    window: usize,
    sent: u64,
    back: u64,
    count: u64,
    begin: Instant,
    /// When each message under way was sent; they come back in order.
    under_way: VecDeque<Instant>,
    trips_us: Vec<f32>,
}

impl Ring {
    pub fn start(cx: &Context, count: u64, bytes: usize, window: usize) -> Result<Ring> {
        let message = Message::new(vec![b'x'; bytes]);
        let begin = Instant::now();
        let trips_us = Vec::with_capacity(usize::try_from(count)?.min(TRIPS_MAX));
        let mut ring = Ring { message, window, sent: 0, back: 0, count, begin, under_way: VecDeque::new(), trips_us };
        while ring.sent < count.min(window.max(1) as u64) {
            ring.send(cx)?;
        }
        Ok(ring)
    }

    /// One has come back. The result, when it was the last.
    pub fn back(&mut self, cx: &Context) -> Result<Option<Value>> {
        self.back += 1;
        if let Some(sent) = self.under_way.pop_front()
            && self.trips_us.len() < TRIPS_MAX
        {
            self.trips_us.push(sent.elapsed().as_nanos() as f32 / 1_000.0);
        }
        if self.sent < self.count {
            self.send(cx)?;
        }
        Ok((self.back >= self.count).then(|| self.result()))
    }

    fn send(&mut self, cx: &Context) -> Result {
        self.under_way.push_back(Instant::now());
        cx.send("ping", &self.message)?;
        self.sent += 1;
        Ok(())
    }

    fn result(&mut self) -> Value {
        let seconds = self.begin.elapsed().as_secs_f64();
        self.trips_us.sort_unstable_by(f32::total_cmp);
        let at = |part: f64| self.trips_us.get((self.trips_us.len() as f64 * part) as usize).copied();
        json!({
            "run": if self.window == 1 { "one" } else { "loop" },
            "count": self.count, "bytes": self.message.body().len(), "window": self.window,
            "seconds": seconds, "messages_per_s": (self.count as f64 / seconds).round(),
            "p50_us": at(0.5), "p99_us": at(0.99),
        })
    }
}

/// Trips whose times are kept; 4 MB.
const TRIPS_MAX: usize = 1_000_000;

/// Counts what comes in.
#[derive(Default)]
pub struct Sink {
    count: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    /// At the last look, and as reported.
    seen: u64,
    reported: u64,
}

impl Sink {
    pub fn count(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Nothing has come since the last look, and this was not said before.
    pub fn has_come_to_rest(&mut self) -> bool {
        let rests = self.seen == self.count && self.reported != self.count;
        self.seen = self.count;
        if rests {
            self.reported = self.count;
        }
        rests
    }

    pub fn state(&self) -> Value {
        let seconds = self.first.zip(self.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let rate = if seconds > 0.0 { (self.count as f64 / seconds).round() } else { 0.0 };
        json!({"count": self.count, "bytes": self.bytes, "seconds": seconds, "messages_per_s": rate})
    }
}
