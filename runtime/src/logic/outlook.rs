//! What becomes of messages that wait, at the present rate: how long the store holds what comes, and whether time to
//! live or quota is first to discard it. Must never promise: it goes by what was, and says so.

use super::units::{show_bytes, show_duration};
use std::time::Duration;

/// What the runtime knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Bytes of messages in an hour; `None` while it was measured for too short a time.
    pub received_per_hour: Option<u64>,
    pub quota: u64,
    pub stored: u64,
    /// Of the store's messages; `None`: for ever.
    pub ttl: Option<Duration>,
    /// Messages that wait for somebody who is not there.
    pub waiting: u64,
    /// Old messages make room for new ones when it is full.
    pub evicts: bool,
}

/// One sentence, and what to do if it is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    Unknown(String),
    Good(String),
    Loses { what: String, to_do: String },
}

/// "The store holds 31 h, TTL 2 h": which of the two discards first, and whether that is soon a matter of messages that wait.
pub fn outlook(present: &Present) -> Outlook {
    let Some(rate) = present.received_per_hour else {
        return Outlook::Unknown("skerry has not run long enough to know its rate".to_owned());
    };
    let ttl = present.ttl.map_or("no TTL".to_owned(), |ttl| format!("TTL {}", show_duration(ttl)));
    if rate == 0 {
        return Outlook::Good(format!("no messages come at present; {ttl}"));
    }
    let left = present.quota.saturating_sub(present.stored);
    let (holds, room) = (time_for(present.quota, rate), time_for(left, rate));
    let facts = format!("at the present {} an hour the store holds {}, {ttl}", show_bytes(rate), show_duration(holds));
    if present.waiting == 0 {
        return Outlook::Good(format!("{facts}; nothing waits for anybody who is away"));
    }
    let waiting = format!("{facts}; {} messages wait for somebody who is away", present.waiting);
    let full_first = present.ttl.is_none_or(|ttl| holds < ttl);
    if full_first {
        let then = if present.evicts { "the oldest are discarded" } else { "new ones are refused" };
        return Outlook::Loses {
            what: format!("{waiting}: the store is full in {}, and then {then}", show_duration(room)),
            to_do: "bring the consumer back, raise [store] quota, or give less important routes a shorter ttl"
                .to_owned(),
        };
    }
    Outlook::Loses {
        what: format!("{waiting}: what is older than the TTL is discarded, although there would be room for it"),
        to_do: "bring the consumer back, or raise [store] ttl or the ttl of the route".to_owned(),
    }
}

/// To the minute: more would pretend.
fn time_for(bytes: u64, per_hour: u64) -> Duration {
    let minutes = u128::from(bytes) * 60 / u128::from(per_hour.max(1));
    Duration::from_secs(u64::try_from(minutes).unwrap_or(u64::MAX).saturating_mul(60).min(60 * 60 * 24 * 36_500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_is_first_is_told() {
        let present = Present {
            received_per_hour: Some(1 << 20),
            quota: 31 << 20,
            stored: 1 << 20,
            ttl: Some(Duration::from_secs(7_200)),
            waiting: 5,
            evicts: false,
        };
        let check = |present: Present, expected: &str| {
            let text = match outlook(&present) {
                Outlook::Unknown(text) | Outlook::Good(text) => text,
                Outlook::Loses { what, .. } => what,
            };
            assert_eq!(text, expected);
        };
        let facts = "at the present 1MiB an hour the store holds 1d 7h, TTL 2h";
        let waits = "5 messages wait for somebody who is away";
        check(
            present,
            &format!("{facts}; {waits}: what is older than the TTL is discarded, although there would be room for it"),
        );
        check(Present { waiting: 0, ..present }, &format!("{facts}; nothing waits for anybody who is away"));
        let week = Present { ttl: Some(Duration::from_secs(604_800)), ..present };
        let facts = "at the present 1MiB an hour the store holds 1d 7h, TTL 7d";
        check(week, &format!("{facts}; {waits}: the store is full in 1d 6h, and then new ones are refused"));
        let ever = Present { ttl: None, evicts: true, stored: 99 << 20, ..present };
        let facts = "at the present 1MiB an hour the store holds 1d 7h, no TTL";
        check(ever, &format!("{facts}; {waits}: the store is full in 0s, and then the oldest are discarded"));
        check(Present { received_per_hour: Some(0), ..present }, "no messages come at present; TTL 2h");
        check(Present { received_per_hour: None, ..present }, "skerry has not run long enough to know its rate");
        assert!(matches!(outlook(&present), Outlook::Loses { .. }));
    }
}
