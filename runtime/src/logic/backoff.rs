//! How long to wait before the cloud is dialled again: nearly at once the first time, then doubling up to a limit, each wait
//! spread at random so that a fleet does not come back as one. Must never wait less after more failures of a row.

use std::time::Duration;

use crate::model::time::Mono;

/// The fast first retry is spread over this: a dropped connection is usually back at once.
const FIRST: Duration = Duration::from_millis(250);
const BASE: Duration = Duration::from_secs(1);
/// First wait where the cloud does not know us: only somebody's work changes that, so there is no hurry.
const REFUSED_BASE: Duration = Duration::from_secs(10);

/// Longest wait that a server may ask for.
const ASKED_MAX: Duration = Duration::from_secs(600);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody was there, or the connection broke.
    Broken,
    /// The cloud has too much to do, and asks to wait so long; zero where it does not say.
    Busy { asked: Duration },
    /// The cloud answered, and does not want us.
    Refused,
}

/// One row of failures.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    max: Duration,
    random: u64,
}

impl Backoff {
    /// The same seed gives the same waits.
    pub fn new(max: Duration, seed: u64) -> Backoff {
        Backoff { failures: 0, max, random: seed | 1 }
    }

    /// A connection that held ends the row.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// When to try again.
    pub fn failed(&mut self, now: Mono, failure: Failure) -> Mono {
        let step = self.failures;
        self.failures = self.failures.saturating_add(1);
        let wait = match (failure, step) {
            (Failure::Broken, 0) => return now.plus(self.spread(FIRST).as_millis() as u64),
            (Failure::Broken, step) => doubled(BASE, step - 1),
            // Who is busy is not asked again at once.
            (Failure::Busy { .. }, step) => doubled(BASE, step),
            (Failure::Refused, step) => doubled(REFUSED_BASE, step),
        };
        let wait = wait.min(self.max);
        // Half of it is certain, half is luck.
        let own = wait / 2 + self.spread(wait / 2);
        let Failure::Busy { asked } = failure else { return now.after(own) };
        // All of what was asked for, and then not everybody at once.
        let asked = asked.min(ASKED_MAX);
        now.after(own.max(asked + self.spread(asked / 4)))
    }

    fn spread(&mut self, over: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let over = over.as_millis() as u64;
        Duration::from_millis(self.random % (over + 1))
    }
}

fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1u32.checked_shl(times.min(20)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_first_then_doubling_up_to_the_limit() {
        for seed in 1..200 {
            let mut backoff = Backoff::new(Duration::from_secs(30), seed);
            assert!(backoff.failed(Mono(0), Failure::Broken).0 <= 250);
            for (low, high) in
                [(500, 1_000), (1_000, 2_000), (2_000, 4_000), (4_000, 8_000), (8_000, 16_000), (15_000, 30_000)]
            {
                let wait = backoff.failed(Mono(0), Failure::Broken).0;
                assert!((low..=high).contains(&wait), "{wait}");
            }
            (0..100).for_each(|_| assert!(backoff.failed(Mono(0), Failure::Broken).0 <= 30_000));
            backoff.reset();
            assert!(backoff.failed(Mono(0), Failure::Broken).0 <= 250);
        }
    }

    #[test]
    fn who_is_busy_is_given_the_time_that_he_asks_for() {
        for seed in 1..200 {
            let mut backoff = Backoff::new(Duration::from_secs(60), seed);
            let mut busy = |asked| backoff.failed(Mono(0), Failure::Busy { asked: Duration::from_secs(asked) }).0;
            assert!((500..=1_000).contains(&busy(0)));
            assert!((8_000..=10_000).contains(&busy(8)));
            // Longer than our own limit, but not for ever.
            assert!((200_000..=250_000).contains(&busy(200)));
            assert!((600_000..=750_000).contains(&busy(1_000_000)));
        }
    }

    #[test]
    fn who_is_refused_does_not_hurry() {
        let mut backoff = Backoff::new(Duration::from_secs(300), 7);
        assert!((5_000..=10_000).contains(&backoff.failed(Mono(0), Failure::Refused).0));
    }
}
