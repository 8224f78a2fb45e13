//! The ledger: what was sent against what arrived, number by number. Must never count a message as delivered that the
//! recorder has not written down, nor excuse one that its sender was promised.

use std::collections::{BTreeMap, BTreeSet};

use super::watch::{Number, Seen};

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
    /// What the hub answered for, or what arrived.
    pub sent: usize,
    pub delivered: usize,
    pub duplicates: usize,
    pub lost: Vec<Number>,
    /// Under way when the runtime was killed, never answered for, and gone.
    pub unanswered: usize,
}

/// The recorder's file: how often each number arrived, by source.
pub fn read(record: &str) -> BTreeMap<String, BTreeMap<Number, usize>> {
    let mut arrived: BTreeMap<String, BTreeMap<Number, usize>> = BTreeMap::new();
    for line in record.lines() {
        let mut words = line.split(' ');
        let (source, epoch, seq) = (words.next(), words.next(), words.next());
        let number = epoch.and_then(|w| w.parse().ok()).zip(seq.and_then(|w| w.parse().ok()));
        if let Some((source, number)) = source.zip(number) {
            *arrived.entry(source.to_owned()).or_default().entry(number).or_default() += 1;
        }
    }
    arrived
}

/// Of the source: its numbers have no gaps, so the highest one tells how many there are.
pub fn readings(seen: &Seen, arrived: &BTreeMap<Number, usize>) -> Account {
    let mut expected = BTreeSet::new();
    let epochs: BTreeSet<u64> = seen.epochs.keys().copied().chain(arrived.keys().map(|(epoch, _)| *epoch)).collect();
    for epoch in epochs {
        let tapped = seen.epochs.get(&epoch).and_then(|e| e.readings.keys().next_back().copied());
        let recorded = arrived.range((epoch, 0)..=(epoch, u64::MAX)).next_back().map(|((_, seq), _)| *seq);
        expected.extend((1..=tapped.max(recorded).unwrap_or(0)).map(|seq| (epoch, seq)));
    }
    account(seen, &expected, arrived)
}

/// Of the filter: every alert that was seen, and every reading that its rule lets through, seen or not.
pub fn alerts(seen: &Seen, rules: &[Rule], arrived: &BTreeMap<Number, usize>) -> Account {
    let mut expected: BTreeSet<Number> = seen.alerts.iter().copied().chain(arrived.keys().copied()).collect();
    for (epoch, readings) in &seen.epochs {
        for (seq, reading) in &readings.readings {
            let rule = rules.iter().rev().find(|rule| rule.from_ms <= reading.at_ms);
            let passes =
                rule.is_some_and(|rule| rule.threshold.zip(reading.values[rule.field]).is_some_and(|(t, v)| v > t));
            if passes {
                expected.insert((*epoch, *seq));
            }
        }
    }
    account(seen, &expected, arrived)
}

/// Of the window: which alerts its aggregates stand for. An aggregate tells how many it has of a range, so what is
/// missing in a range is counted at its end.
pub fn summed_up(seen: &Seen, alerts: &BTreeMap<Number, usize>) -> Account {
    let mut covered: BTreeMap<Number, usize> = BTreeMap::new();
    let mut twice = 0;
    for cover in &seen.covers {
        let range = alerts.range((cover.epoch, cover.first)..=(cover.epoch, cover.last));
        let numbers: Vec<Number> = range.map(|(number, _)| *number).collect();
        numbers.iter().take(cover.count).for_each(|number| *covered.entry(*number).or_default() += 1);
        twice += cover.count.saturating_sub(numbers.len());
    }
    let mut account = account(seen, &alerts.keys().copied().collect(), &covered);
    account.duplicates += twice;
    account
}

fn account(seen: &Seen, expected: &BTreeSet<Number>, arrived: &BTreeMap<Number, usize>) -> Account {
    let last_epoch = expected.last().map_or(0, |(epoch, _)| *epoch);
    let mut account = Account { delivered: arrived.len(), ..Account::default() };
    account.duplicates = arrived.values().sum::<usize>() - arrived.len();
    for number in expected.iter().filter(|number| !arrived.contains_key(number)) {
        let (epoch, seq) = *number;
        let safe = seen.epochs.get(&epoch).map_or(0, |e| e.safe);
        let later_ones_arrived = arrived.range(*number..=(epoch, u64::MAX)).next().is_some();
        // In the last epoch everything came to rest, so everything was answered for.
        if epoch == last_epoch || seq <= safe || later_ones_arrived {
            account.lost.push(*number);
        } else {
            account.unanswered += 1;
        }
    }
    account.sent = account.delivered + account.lost.len();
    account
}

#[cfg(test)]
mod tests {
    use super::super::watch::{Cover, Epoch, Reading};
    use super::*;

    /// Epoch 7 was cut when 3 of its 5 were safe; epoch 8 came to rest.
    fn seen() -> Seen {
        let epoch = |count: u64, safe| {
            let reading = |seq: u64| (seq, Reading { at_ms: seq as i64, values: [Some(seq as f64), None] });
            Epoch { readings: (1..=count).map(reading).collect(), safe }
        };
        Seen { epochs: [(7, epoch(5, 3)), (8, epoch(2, 0))].into(), ..Seen::default() }
    }

    fn check(record: &str, sent: usize, duplicates: usize, lost: &[Number], unanswered: usize) {
        let arrived = read(record);
        let account = readings(&seen(), arrived.get("a").unwrap_or(&BTreeMap::new()));
        let expected = Account { sent, delivered: sent - lost.len(), duplicates, lost: lost.to_vec(), unanswered };
        assert_eq!(account, expected, "{record:?}");
    }

    #[test]
    fn only_what_nobody_was_promised_is_excused() {
        let last = "a 8 1\na 8 2\n";
        check(&format!("a 7 1\na 7 2\na 7 3\na 7 4\na 7 5\n{last}"), 7, 0, &[], 0);
        check(&format!("a 7 1\na 7 2\na 7 3\na 7 3\nb 7 4\n{last}"), 5, 1, &[], 2);
        check(&format!("a 7 1\na 7 2\n{last}"), 5, 0, &[(7, 3)], 2);
        check(&format!("a 7 1\na 7 2\na 7 3\na 7 5\n{last}"), 7, 0, &[(7, 4)], 0);
        check("a 7 1\na 7 2\na 7 3\na 8 1\n", 5, 0, &[(8, 2)], 2);
    }

    #[test]
    fn a_reading_beyond_the_threshold_must_have_passed() {
        let rules =
            [Rule { from_ms: 0, field: 0, threshold: None }, Rule { from_ms: 2, field: 0, threshold: Some(1.5) }];
        let arrived = read("filter 7 2\n");
        let account = alerts(&seen(), &rules, &arrived["filter"]);
        assert_eq!((account.delivered, account.lost, account.unanswered), (1, vec![(7, 3), (8, 2)], 2));
    }

    #[test]
    fn a_window_stands_for_what_its_range_holds() {
        let alerts = read("f 7 1\nf 7 2\nf 7 4\nf 8 1\nf 8 2\n").remove("f").unwrap();
        let cover = |epoch, first, last, count| Cover { epoch, first, last, count };
        let check = |covers: Vec<Cover>, expected: Account| {
            assert_eq!(summed_up(&Seen { covers, ..seen() }, &alerts), expected);
        };
        let all = Account { sent: 5, delivered: 5, ..Account::default() };
        check(vec![cover(7, 1, 4, 3), cover(8, 1, 2, 2)], all);
        let twice = Account { sent: 4, delivered: 4, duplicates: 1, unanswered: 1, ..Account::default() };
        check(vec![cover(7, 1, 2, 2), cover(7, 2, 2, 1), cover(8, 1, 2, 2)], twice);
        let lost = Account { sent: 5, delivered: 4, lost: vec![(8, 2)], ..Account::default() };
        check(vec![cover(7, 1, 4, 3), cover(8, 1, 2, 1)], lost);
    }
}
