//! What to do so that what runs becomes what is wanted: a pure function, called again after every change.
//! Must never touch an instance that is as it should be.

use std::collections::BTreeMap;

/// What is asked for under one instance name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image.
    pub digest: String,
}

/// What there is under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub digest: String,
    /// It was told to end and has not yet.
    pub ending: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Start {
        name: String,
    },
    /// Put the instance on another image.
    Replace {
        name: String,
    },
    Stop {
        name: String,
    },
}

/// Ends come first, so that what is replaced never runs beside its successor.
pub fn plan(wanted: &BTreeMap<String, Wanted>, running: &BTreeMap<String, Running>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, now) in running {
        if !wanted.contains_key(name) && !now.ending {
            steps.push(Step::Stop { name: name.clone() });
        }
    }
    for (name, want) in wanted {
        match running.get(name) {
            None => steps.push(Step::Start { name: name.clone() }),
            // Its end makes the agent plan again.
            Some(now) if now.ending => {}
            Some(now) if now.digest != want.digest => steps.push(Step::Replace { name: name.clone() }),
            Some(_) => {}
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_touched() {
        let want = |d: &str| Wanted { digest: d.into() };
        let run = |d: &str, ending| Running { digest: d.into(), ending };
        let wanted = [("new", want("1")), ("same", want("1")), ("other", want("2")), ("back", want("1"))];
        let running = [
            ("same", run("1", false)),
            ("other", run("1", false)),
            ("gone", run("1", false)),
            ("back", run("1", true)),
            ("going", run("1", true)),
        ];
        let wanted = wanted.into_iter().map(|(n, w)| (n.to_owned(), w)).collect();
        let running = running.into_iter().map(|(n, r)| (n.to_owned(), r)).collect();
        assert_eq!(
            plan(&wanted, &running),
            [
                Step::Stop { name: "gone".into() },
                Step::Start { name: "new".into() },
                Step::Replace { name: "other".into() }
            ]
        );
    }
}
