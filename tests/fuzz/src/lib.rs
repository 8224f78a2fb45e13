//! Inputs that nobody would write: good ones with bits turned, parts cut, doubled, swapped and mixed. A second a target in the
//! test; `FUZZ_SECONDS=3600` for an hour. Must be able to play every input again: a failure prints it, and its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;

/// Longest input, bytes.
const BYTES_MAX: usize = 4_096;
/// Values at which lengths and signs turn.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, b'%', b'"'];

/// Feeds `target` with changed copies of `good`, and with each as it is. What it finds wrong it tells by a panic.
pub fn fuzz(name: &str, good: &[&[u8]], mut target: impl FnMut(&[u8])) {
    let given = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if let Ok(input) = std::env::var("FUZZ_INPUT") {
        return target(&BASE64.decode(input.as_bytes()).expect("FUZZ_INPUT is base64"));
    }
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let mut random = Random(given("SKERRY_SEED").unwrap_or(fresh) | 1);
    let end = Instant::now() + Duration::from_secs(given("FUZZ_SECONDS").unwrap_or(1));
    let mut count = 0_u64;
    let mut kept: Vec<Vec<u8>> = good.iter().map(|bytes| bytes.to_vec()).collect();
    for input in kept.clone() {
        feed(name, &input, &mut target);
    }
    while Instant::now() < end {
        for _ in 0..256 {
            let input = random.change(&kept);
            feed(name, &input, &mut target);
            count += 1;
            // Now and then a changed one becomes the ground for others.
            if random.below(64) == 0 {
                let at = random.below(256);
                if kept.len() < 256 { kept.push(input) } else { kept[at.max(good.len())] = input }
            }
        }
    }
    println!("{name}: {count} inputs");
}

/// The same for targets that take a text.
pub fn fuzz_text(name: &str, good: &[&str], mut target: impl FnMut(&str)) {
    let good: Vec<&[u8]> = good.iter().map(|text| text.as_bytes()).collect();
    fuzz(name, &good, |bytes| target(&String::from_utf8_lossy(bytes)));
}

fn feed(name: &str, input: &[u8], target: &mut impl FnMut(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("{name}: play it again with FUZZ_INPUT={} and the name of the test", BASE64.encode(input));
    }
}

/// Small, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    fn change(&mut self, from: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = from.get(self.below(from.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(6) {
            self.change_once(&mut bytes, from);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>, from: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        let length = 1 + self.below(16);
        let end = (at + length).min(bytes.len());
        match self.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = EDGES[self.below(EDGES.len())],
            2 if !bytes.is_empty() => bytes[at] = self.draw() as u8,
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => bytes.insert(at, self.draw() as u8),
            6 => bytes.truncate(at),
            7 => {
                let other = from.get(self.below(from.len())).cloned().unwrap_or_default();
                let cut = self.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[cut..]);
            }
            _ => {
                let digits =
                    ["-1", "0", "65536", "4294967296", "18446744073709551616", "1e999", "null", "[[[[", "\u{0}", "%zz"];
                let put = digits[self.below(digits.len())].bytes();
                bytes.splice(at..at, put);
            }
        }
    }
}
