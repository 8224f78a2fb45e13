//! One number for everything that happened in a world.
//! Must never depend on an address, a thread or a real clock.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub hash: u64,
    /// Each event is told, too.
    pub is_loud: bool,
}

impl Trace {
    /// For whoever looks into one seed: `SKERRY_SAY=1`.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            eprintln!("{}", what());
        }
    }

    pub fn note(&mut self, words: &[u64]) {
        for word in words {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.note(&[bytes.len() as u64, u64::from(crc32fast::hash(bytes))]);
    }
}
