//! Numbers that one seed decides, so that a failing run can be had again: SKERRY_SEED replays it.

/// xorshift64*.
pub struct Random(u64);

impl Random {
    /// Of `SKERRY_SEED`, or of `seed`; prints what it took, which shows when the test fails.
    pub fn new(seed: u64) -> Random {
        let asked = std::env::var("SKERRY_SEED").ok().and_then(|text| text.parse().ok());
        let seed = asked.unwrap_or(seed);
        println!("SKERRY_SEED={seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `end`, without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}
