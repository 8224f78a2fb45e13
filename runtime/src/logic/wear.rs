//! How much is written and how much comes in, over the last day and the last hour: marks once in a while, and differences
//! between them. Must never look at a clock, nor grow.

use std::collections::VecDeque;

use crate::model::time::{Mono, Wall};

/// Between two marks, ms.
pub const MARK_EVERY_MS: u64 = 600_000;
/// A day and one.
const MARKS_MAX: usize = 145;
/// What was measured for less says nothing about a day.
const MEASURED_MS_MIN: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Both counts since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Bytes that the process had written to disk.
    pub written: u64,
    /// Bytes of messages that were sent to the hub.
    pub received: u64,
}

pub struct Wear {
    marks: VecDeque<(Mono, Sums)>,
    /// Day since 1970 (UTC), and what had been written when it began, or when the process started.
    day: (i64, u64),
}

impl Wear {
    pub fn new(mono: Mono, wall: Wall) -> Wear {
        Wear { marks: VecDeque::from([(mono, Sums::default())]), day: (day(wall), 0) }
    }

    /// To be called at least every [`MARK_EVERY_MS`]; more often does no harm.
    pub fn mark(&mut self, mono: Mono, wall: Wall, sums: Sums) {
        // A clock that jumps begins a day as well; then it is a day of what came since.
        if self.day.0 != day(wall) {
            self.day = (day(wall), sums.written);
        }
        if self.marks.back().is_some_and(|(last, _)| mono.since(*last) >= MARK_EVERY_MS) {
            self.marks.push_back((mono, sums));
            if self.marks.len() > MARKS_MAX {
                self.marks.pop_front();
            }
        }
    }

    pub fn written_today(&self, sums: Sums) -> u64 {
        sums.written.saturating_sub(self.day.1)
    }

    /// Bytes written in a day at the rate of the last 24 h, or of all the time since the start if that is less. `None`
    /// while that is too short to say.
    pub fn written_per_day(&self, now: Mono, sums: Sums) -> Option<u64> {
        let (ms, then) = self.since(now, DAY_MS)?;
        Some(scaled(sums.written.saturating_sub(then.written), DAY_MS, ms))
    }

    /// Bytes of messages in an hour, at the rate of the last hour.
    pub fn received_per_hour(&self, now: Mono, sums: Sums) -> Option<u64> {
        let (ms, then) = self.since(now, HOUR_MS)?;
        Some(scaled(sums.received.saturating_sub(then.received), HOUR_MS, ms))
    }

    /// The newest mark that is that old, or the oldest there is.
    fn since(&self, now: Mono, ms: u64) -> Option<(u64, Sums)> {
        let old_enough = self.marks.iter().rev().find(|(at, _)| now.since(*at) >= ms);
        let (at, sums) = old_enough.or(self.marks.front())?;
        let ms = now.since(*at);
        (ms >= MEASURED_MS_MIN).then_some((ms, *sums))
    }
}

fn day(wall: Wall) -> i64 {
    wall.0.div_euclid(DAY_MS as i64)
}

fn scaled(bytes: u64, to_ms: u64, of_ms: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(to_ms) / u128::from(of_ms.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(written: u64, received: u64) -> Sums {
        Sums { written, received }
    }

    #[test]
    fn a_day_begins_at_midnight_and_a_rate_needs_a_minute() {
        let mut wear = Wear::new(Mono(5_000), Wall(DAY_MS as i64 * 10 - 30_000));
        assert_eq!(wear.written_today(sums(70, 0)), 70);
        assert_eq!(wear.written_per_day(Mono(64_999), sums(70, 0)), None);
        assert_eq!(wear.written_per_day(Mono(65_000), sums(60, 0)), Some(60 * 24 * 60));
        wear.mark(Mono(65_000), Wall(DAY_MS as i64 * 10 + 30_000), sums(100, 0));
        assert_eq!(wear.written_today(sums(130, 0)), 30);
    }

    #[test]
    fn rates_are_of_the_last_hour_and_the_last_day() {
        let mut wear = Wear::new(Mono(0), Wall(0));
        // A lot in the first two days, then a byte of each in ten minutes.
        for step in 1..=6 * 24 * 4 {
            let total = if step <= 288 { 1_000 * step } else { 287_712 + step };
            wear.mark(Mono(step * MARK_EVERY_MS), Wall(0), sums(total, total));
        }
        let (end, last) = (Mono(6 * 24 * 4 * MARK_EVERY_MS), sums(288_288, 288_288));
        assert_eq!((wear.written_per_day(end, last), wear.received_per_hour(end, last)), (Some(144), Some(6)));
        assert_eq!(wear.marks.len(), MARKS_MAX);
        assert_eq!(wear.written_per_day(end, sums(0, 0)), Some(0));
    }
}
