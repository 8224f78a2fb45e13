//! Faults that are there already and may only get fewer: `xtask/tidy-ratchet.txt`, one a line: rule, file, item, size.
//! Must never let a listed fault grow, nor keep a line that is too generous.

use std::collections::BTreeMap;

use super::Fault;

pub const FILE: &str = "xtask/tidy-ratchet.txt";

/// Rule, file and item.
type Key = (String, String, String);

pub struct Ratchet(BTreeMap<Key, usize>);

impl Ratchet {
    /// A line that is no entry is a comment.
    pub fn parse(text: &str) -> Ratchet {
        let entry = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [rule, file, item, size] = words.as_slice() else { return None };
            Some(((rule.to_string(), file.to_string(), item.trim_matches('-').to_string()), size.parse().ok()?))
        };
        Ratchet(text.lines().filter(|line| !line.starts_with('#')).filter_map(entry).collect())
    }

    /// What is left of the faults, and lines that have to be made smaller.
    pub fn judge(&self, faults: Vec<Fault>) -> (Vec<Fault>, Vec<String>) {
        let sizes = sizes(&faults);
        let excused = |fault: &Fault| {
            let key = key(fault);
            self.0.get(&key).is_some_and(|allowed| sizes[&key] <= *allowed)
        };
        let loose = self.0.iter().filter_map(|(key, allowed)| {
            let size = sizes.get(key).copied().unwrap_or(0);
            let (rule, file, item) = key;
            (size < *allowed).then(|| format!("{FILE}: {rule} {file} {item}: {allowed} is now {size}"))
        });
        let loose = loose.collect();
        (faults.into_iter().filter(|fault| !excused(fault)).collect(), loose)
    }

    /// The file again, with nothing that is too generous. Never with anything new.
    pub fn tightened(&self, faults: &[Fault]) -> String {
        let sizes = sizes(faults);
        let mut text =
            "# Faults that tidy knows of; they may only get fewer: `cargo xtask tidy --tighten`.\n".to_owned();
        for (key, allowed) in &self.0 {
            let size = sizes.get(key).copied().unwrap_or(0).min(*allowed);
            let item = if key.2.is_empty() { "-" } else { &key.2 };
            if size > 0 {
                text += &format!("{} {} {item} {size}\n", key.0, key.1);
            }
        }
        text
    }
}

fn key(fault: &Fault) -> Key {
    (fault.rule.to_owned(), fault.path.clone(), fault.item.clone())
}

/// The size of a thing that is too large; of the rest, how many there are.
fn sizes(faults: &[Fault]) -> BTreeMap<Key, usize> {
    let mut sizes: BTreeMap<Key, usize> = BTreeMap::new();
    for fault in faults {
        let size = sizes.entry(key(fault)).or_default();
        *size = if fault.size == 0 { *size + 1 } else { fault.size.max(*size) };
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(item: &str, size: usize) -> Fault {
        Fault { rule: "fn-lines", path: "a.rs".to_owned(), line: 1, item: item.to_owned(), size, text: String::new() }
    }

    #[test]
    fn a_listed_fault_may_only_shrink() {
        let ratchet = Ratchet::parse("# words\nfn-lines a.rs f 80\nfn-lines a.rs - 2\n");
        let check = |faults: Vec<Fault>, left: usize, loose: usize| {
            let (l, t) = ratchet.judge(faults);
            assert_eq!((l.len(), t.len()), (left, loose));
        };
        check(vec![fault("f", 80), fault("", 0), fault("", 0)], 0, 0);
        check(vec![fault("f", 81), fault("", 0), fault("", 0)], 1, 0);
        check(vec![fault("f", 79), fault("", 0), fault("", 0), fault("", 0)], 3, 1);
        assert!(ratchet.tightened(&[fault("f", 79)]).ends_with("fn-lines a.rs f 79\n"));
    }
}
