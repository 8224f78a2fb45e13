//! Finds the known name that somebody probably meant: for unknown keys, modules and commands.
//! Must never suggest a name that shares next to nothing with what was typed.

/// The known name with the fewest typing errors between it and `typed`, if these are few for its length.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 3).max(1);
    let typed = typed.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&typed, &name.to_lowercase()), name))
        .filter(|(errors, name)| {
            let cut_short = typed.len() >= CUT_SHORT_MIN && name.to_lowercase().starts_with(&typed);
            (*errors <= allowed.max(name.len() / 4) && *errors < name.len()) || cut_short
        })
        .min_by_key(|(errors, _)| *errors)
        .map(|(_, name)| name)
}

/// Letters inserted, dropped, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(LENGTH_MAX).collect(), b.chars().take(LENGTH_MAX).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Characters of a name that are compared: names end at 128, and the work grows with the square.
const LENGTH_MAX: usize = 128;
/// Letters from which on the beginning of a name stands for it.
const CUT_SHORT_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(typed: &str, expected: Option<&str>) {
        let known = ["quota", "flush_interval", "ttl", "path", "memory", "at_quota"];
        assert_eq!(nearest(typed, known), expected, "{typed}");
    }

    #[test]
    fn typing_errors_are_seen_and_strangers_left_alone() {
        check("quotta", Some("quota"));
        check("qouta", Some("quota"));
        check("flushinterval", Some("flush_interval"));
        check("flush-intervall", Some("flush_interval"));
        check("TTL", Some("ttl"));
        check("tll", Some("ttl"));
        check("mem", Some("memory"));
        check("flush", Some("flush_interval"));
        check("x", None);
        check("", None);
        check("temperature", None);
    }
}
