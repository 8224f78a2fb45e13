//! What to do so that what runs becomes what is wanted: a pure function, called again after every change.
//! Must never touch an instance that is as it should be.

use std::collections::{BTreeMap, BTreeSet};

/// What is asked for under one instance name. A version is everything that needs a new process when it changes: image and setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<V> {
    /// Absent: it can't run yet.
    pub version: Option<V>,
    /// Its image is not at hand; the version is then what runs until it is, if anything does.
    pub missing: bool,
    /// Otherwise it is there, and stopped.
    pub running: bool,
    /// Lower ones first.
    pub order: u32,
}

/// What there is under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present<V> {
    /// What it is, or was told to become.
    pub version: V,
    pub running: bool,
    pub order: u32,
    /// It is on its way to run; what comes after it waits.
    pub starting: bool,
    /// It was told to end and has not yet.
    pub ending: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// End it for good.
    Remove {
        name: String,
    },
    /// Get its image.
    Fetch {
        name: String,
    },
    /// Make the instance; it starts unless it is wanted stopped.
    Create {
        name: String,
    },
    /// Put it on another image or setup, which proves itself.
    Change {
        name: String,
    },
    Stop {
        name: String,
    },
    Start {
        name: String,
    },
}

/// The steps that can be taken now, in order. Those of a group wait until every instance of the groups before has come up, or has failed
/// to; what only ends or fetches waits for nobody. Neither does a group wait for an image that is not at hand.
pub fn plan<V: PartialEq>(wanted: &BTreeMap<String, Wanted<V>>, present: &BTreeMap<String, Present<V>>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut held = false;
    for group in groups(wanted, present) {
        // Ends come first, so that what is replaced never runs beside its successor.
        for (name, now) in present.iter().filter(|(name, now)| !wanted.contains_key(*name) && now.order == group) {
            if !now.ending {
                steps.push(Step::Remove { name: name.clone() });
            }
        }
        let mut coming = false;
        for (name, want) in wanted.iter().filter(|(_, want)| want.order == group) {
            let now = present.get(name);
            if want.missing {
                steps.push(Step::Fetch { name: name.clone() });
            }
            let step = one(name, want, now, held);
            let starts = step.is_some() || now.is_none_or(|now| now.starting || now.ending || !now.running);
            steps.extend(step);
            coming |= want.running && starts && (want.version.is_some() || now.is_some());
        }
        held |= coming;
    }
    steps
}

/// All steps there would be if each were carried out at once, in order.
pub fn foresee<V: PartialEq + Clone>(
    wanted: &BTreeMap<String, Wanted<V>>,
    mut present: BTreeMap<String, Present<V>>,
) -> Vec<Step> {
    let mut all = Vec::new();
    loop {
        // What is not at hand stays so.
        let (fetches, steps): (Vec<Step>, Vec<Step>) =
            plan(wanted, &present).into_iter().partition(|step| matches!(step, Step::Fetch { .. }));
        if steps.is_empty() {
            all.extend(fetches);
            return all;
        }
        for step in steps {
            carried_out(&step, wanted, &mut present);
            all.push(step);
        }
    }
}

/// What there is after a step.
fn carried_out<V: Clone>(
    step: &Step,
    wanted: &BTreeMap<String, Wanted<V>>,
    present: &mut BTreeMap<String, Present<V>>,
) {
    match step {
        Step::Remove { name } => drop(present.remove(name)),
        Step::Fetch { .. } => {}
        Step::Create { name } | Step::Change { name } | Step::Stop { name } | Step::Start { name } => {
            let before = present.get(name).map(|now| now.version.clone());
            let Some(want) = wanted.get(name) else { return };
            let takes = matches!(step, Step::Create { .. } | Step::Change { .. });
            let Some(version) = want.version.clone().filter(|_| takes).or(before) else { return };
            let now = Present { version, running: want.running, order: want.order, starting: false, ending: false };
            present.insert(name.clone(), now);
        }
    }
}

fn groups<V>(wanted: &BTreeMap<String, Wanted<V>>, present: &BTreeMap<String, Present<V>>) -> BTreeSet<u32> {
    let gone = present.iter().filter(|(name, _)| !wanted.contains_key(*name)).map(|(_, now)| now.order);
    wanted.values().map(|want| want.order).chain(gone).collect()
}

fn one<V: PartialEq>(name: &str, want: &Wanted<V>, now: Option<&Present<V>>, held: bool) -> Option<Step> {
    let name = name.to_owned();
    let Some(now) = now else {
        return (want.version.is_some() && !(held && want.running)).then_some(Step::Create { name });
    };
    // Its end makes the agent plan again.
    if now.ending {
        return None;
    }
    if now.running && !want.running {
        return Some(Step::Stop { name });
    }
    let differs = want.version.as_ref().is_some_and(|version| *version != now.version);
    match (differs, want.running && !now.running) {
        // What is stopped and stays so takes the new version without a start.
        (true, _) if !held || !want.running => Some(Step::Change { name }),
        (false, true) if !held => Some(Step::Start { name }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(words: &[&str], word: &str) -> bool {
        words.contains(&word)
    }

    fn order(words: &[&str]) -> u32 {
        let order = words.iter().find_map(|word| word.strip_prefix("order="));
        order.map_or(u32::MAX, |order| order.parse().expect("a number"))
    }

    fn shown(step: &Step) -> String {
        match step {
            Step::Remove { name } => format!("remove {name}"),
            Step::Fetch { name } => format!("fetch {name}"),
            Step::Create { name } => format!("create {name}"),
            Step::Change { name } => format!("change {name}"),
            Step::Stop { name } => format!("stop {name}"),
            Step::Start { name } => format!("start {name}"),
        }
    }

    #[test]
    fn steps_are_those_of_the_cases() {
        let cases = include_str!("../../../tests/data/plans.txt");
        let mut count = 0;
        for case in cases.split("=== ").skip(1) {
            let mut lines = case.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let title = lines.next().expect("a title");
            let (mut wanted, mut present, mut expected) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
            for line in lines {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[0] {
                    "want" => {
                        let version = Some(words[2].to_owned()).filter(|version| version != "?");
                        let (missing, running, order) = (version.is_none(), !flag(&words, "stopped"), order(&words));
                        wanted.insert(words[1].to_owned(), Wanted { version, missing, running, order });
                    }
                    "have" => {
                        let now = Present {
                            version: words[2].to_owned(),
                            running: !flag(&words, "stopped"),
                            order: order(&words),
                            starting: flag(&words, "starting"),
                            ending: flag(&words, "ending"),
                        };
                        present.insert(words[1].to_owned(), now);
                    }
                    _ => expected.push(line.to_owned()),
                }
            }
            let steps: Vec<String> = plan(&wanted, &present).iter().map(shown).collect();
            assert_eq!(steps, expected, "{title}");
            count += 1;
        }
        assert!(count >= 20, "{count}");
    }
}

#[cfg(test)]
#[path = "plan_simulation.rs"]
mod simulation;
