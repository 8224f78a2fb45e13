//! The ledger: what each source was promised against what the cloud has, number by number. Must never count a message as
//! delivered that the cloud has not stored, nor excuse one that its source was told is safe.

use std::collections::{BTreeMap, BTreeSet};

use super::watch::{Arrived, Cover, Number, Seen};

/// Of what came twice, the first may have come so long before the kill: what settles is on disk long before that.
const BEFORE_KILL_MS: i64 = 10_000;
/// And so long after it: what the killed one had just passed on is still on its way.
const AFTER_KILL_MS: i64 = 3_000;

/// What the filter did with readings from a moment on.
#[derive(Clone, Copy)]
pub struct Rule {
    pub from_ms: i64,
    pub field: usize,
    /// While a setting is changed a reading may meet the old one or the new one.
    pub threshold: Option<f64>,
}

/// One source's line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What it was acknowledged for.
    pub sent: usize,
    /// Of these, in the cloud.
    pub delivered: usize,
    pub lost: Vec<Number>,
    /// Came again marked as a duplicate; came again after a kill; came again for no reason.
    pub marked: usize,
    pub by_kill: usize,
    pub unexplained: Vec<Number>,
    /// In the cloud beyond what the source had been told is safe, when it was killed.
    pub beyond: usize,
}

impl Account {
    pub fn duplicates(&self) -> usize {
        self.marked + self.by_kill + self.unexplained.len()
    }
}

/// A source that numbers from 1 without a gap: everything up to what it was acknowledged for, life by life.
pub fn numbered(promised: Option<&BTreeMap<u64, u64>>) -> BTreeSet<Number> {
    promised.into_iter().flatten().flat_map(|(epoch, safe)| (1..=*safe).map(|seq| (*epoch, seq))).collect()
}

/// The filter: every acknowledged reading that its rule lets through, or whose alert the hub took. A reading is only
/// acknowledged once all that was made of it is safe.
pub fn passed(seen: &Seen, rules: &[Rule], acknowledged: &BTreeSet<Number>) -> BTreeSet<Number> {
    let by_rule = |number: &Number| {
        let reading = seen.readings.get(number)?;
        let rule = rules.iter().rev().find(|rule| rule.from_ms <= reading.at_ms)?;
        Some(reading.values[rule.field]? > rule.threshold?)
    };
    let passed = |number: &&Number| by_rule(number) == Some(true) || seen.alerts.contains(number);
    acknowledged.iter().filter(passed).copied().collect()
}

/// `kills` are times, ms since 1970.
pub fn account(sent: &BTreeSet<Number>, arrived: Option<&Arrived>, kills: &[i64]) -> Account {
    let none = Arrived::default();
    let numbers = &arrived.unwrap_or(&none).numbers;
    let lost: Vec<Number> = sent.iter().filter(|number| !numbers.contains_key(number)).copied().collect();
    let delivered = sent.len() - lost.len();
    let mut account =
        Account { sent: sent.len(), delivered, lost, beyond: numbers.len() - delivered, ..Account::default() };
    for (number, arrival) in numbers {
        let around = |kill: &i64| (kill - BEFORE_KILL_MS..=kill + AFTER_KILL_MS).contains(&arrival.first_ms);
        for (at_ms, dup) in &arrival.again {
            if *dup {
                account.marked += 1;
            } else if kills.iter().any(|kill| around(kill) && at_ms >= kill) {
                account.by_kill += 1;
            } else {
                account.unexplained.push(*number);
            }
        }
    }
    account
}

/// Alerts that no aggregate in the cloud stands for. An aggregate tells how many it has of a range, so what is missing
/// in a range is taken to be at its end.
pub fn not_summed_up(alerts: &BTreeSet<Number>, covers: &[Cover]) -> Vec<Number> {
    let mut missing = alerts.clone();
    for cover in covers {
        let range = alerts.range((cover.epoch, cover.first)..=(cover.epoch, cover.last));
        for number in range.take(cover.count) {
            missing.remove(number);
        }
    }
    missing.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::watch::{Arrival, Reading};
    use super::*;

    fn arrived(numbers: &[(Number, &[(i64, bool)])]) -> Arrived {
        let arrival = |again: &&[(i64, bool)]| Arrival { first_ms: 20_000, again: again.to_vec() };
        Arrived { numbers: numbers.iter().map(|(n, again)| (*n, arrival(again))).collect(), ..Arrived::default() }
    }

    #[test]
    fn only_what_was_promised_can_be_lost() {
        let sent = numbered(Some(&[(7, 3), (8, 1)].into()));
        assert_eq!(sent.len(), 4);
        let check = |there: &[Number], delivered, lost: &[Number], beyond| {
            let there: Vec<(Number, &[(i64, bool)])> = there.iter().map(|n| (*n, &[][..])).collect();
            let expected = Account { sent: 4, delivered, lost: lost.to_vec(), beyond, ..Account::default() };
            assert_eq!(account(&sent, Some(&arrived(&there)), &[]), expected);
        };
        check(&[(7, 1), (7, 2), (7, 3), (8, 1)], 4, &[], 0);
        check(&[(7, 1), (7, 2), (7, 3), (7, 4), (8, 1)], 4, &[], 1);
        check(&[(7, 1), (7, 3), (7, 4)], 2, &[(7, 2), (8, 1)], 1);
        assert_eq!(account(&sent, None, &[]).lost.len(), 4);
    }

    #[test]
    fn a_duplicate_is_marked_or_has_a_kill_behind_it() {
        let there = arrived(&[((7, 1), &[(20_500, true), (26_000, false)]), ((7, 2), &[(24_000, false)])]);
        let check = |kill, by_kill, unexplained: &[Number]| {
            let account = account(&BTreeSet::new(), Some(&there), &[kill]);
            assert_eq!((account.marked, account.by_kill, account.duplicates()), (1, by_kill, 3));
            assert_eq!(account.unexplained, unexplained, "{kill}");
        };
        check(21_000, 2, &[]);
        check(25_000, 1, &[(7, 2)]);
        check(16_000, 0, &[(7, 1), (7, 2)]);
        check(31_000, 0, &[(7, 1), (7, 2)]);
    }

    #[test]
    fn a_reading_beyond_the_threshold_must_have_passed() {
        let reading = |seq: u64| ((7, seq), Reading { at_ms: seq as i64, values: [Some(seq as f64), None] });
        let seen =
            Seen { readings: (1..=5).map(reading).collect(), alerts: [(7, 1), (7, 9)].into(), ..Seen::default() };
        let rules =
            [Rule { from_ms: 0, field: 0, threshold: None }, Rule { from_ms: 2, field: 0, threshold: Some(2.5) }];
        let acknowledged = numbered(Some(&[(7, 4)].into()));
        assert_eq!(passed(&seen, &rules, &acknowledged), [(7, 1), (7, 3), (7, 4)].into());
    }

    #[test]
    fn an_aggregate_stands_for_what_its_range_holds() {
        let alerts: BTreeSet<Number> = [(7, 1), (7, 2), (7, 4), (8, 1), (8, 2)].into();
        let check = |covers: &[(u64, u64, u64, usize)], missing: &[Number]| {
            let cover = |(epoch, first, last, count): &(u64, u64, u64, usize)| Cover {
                epoch: *epoch,
                first: *first,
                last: *last,
                count: *count,
            };
            let covers: Vec<Cover> = covers.iter().map(cover).collect();
            assert_eq!(not_summed_up(&alerts, &covers), missing);
        };
        check(&[(7, 1, 4, 3), (8, 1, 2, 2)], &[]);
        check(&[(7, 1, 2, 2), (7, 2, 2, 1), (8, 1, 2, 2)], &[(7, 4)]);
        check(&[(7, 1, 4, 3), (8, 1, 2, 1)], &[(8, 2)]);
    }
}
