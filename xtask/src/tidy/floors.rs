//! Who may know whom: the floors of the runtime, and the crates that belong to one room. Must never guess: a path is
//! judged by how it is written, and what the rules don't name is forbidden.

use super::Fault;
use super::source::{Source, words};

const RUNTIME: &str = "runtime/src/";

/// A room: files that begin with this (the longest match counts), and what they may name of this crate.
const ROOMS: &[(&str, &[&str])] = &[
    ("model/", &["model"]),
    ("logic/", &["model"]),
    // Siblings, each with its reason.
    ("logic/hub/", &["model", "logic::hub", "logic::routing", "logic::block"]), // accepts by route, hands out blocks
    ("logic/routing/", &["model", "logic::routing"]),
    ("logic/session/", &["model", "logic::session", "logic::mqtt", "logic::backoff"]), // with dialect and sas: one conversation
    ("logic/twin_sync", &["model", "logic::twin"]),                                    // keeps one equal to the cloud's
    ("logic/outlook.rs", &["model", "logic::units"]), // one sentence with sizes and times
    ("logic/registration.rs", &["model"]),
    ("logic/signature.rs", &["model", "logic::version"]), // a version that goes back
    ("logic/manifest/", &["model", "logic::manifest", "logic::routing", "logic::nearest", "logic::units"]), // judges routes, sizes and times
    ("logic/provisioning.rs", &["model", "logic::registration"]), // one shape of request for both
    ("logic/scope.rs", &["model", "logic::percent"]),             // reads what is percent-encoded
    ("logic/message_json.rs", &["model", "logic::nearest"]),      // says which key was meant
    ("io/", &["model", "io"]),
    ("io/store/", &["model", "io", "logic::block", "logic::hub"]), // carries the block codec and the hub's commits
    ("io/registry.rs", &["model", "io", "logic::oci"]),            // carries the documents of a registry
    ("tasks/", &["model", "logic", "io", "tasks"]),
    ("app/", &["model", "logic", "io", "tasks", "app"]),
    ("host/", &["model", "host", "io::order", "io::process", "io::status_page", "io::image"]),
];

/// Loops: each knows the shared rooms beside it (board, mailbox, port, world …), but no other loop.
const LOOPS: &[&str] = &["agent", "answers", "control", "identities", "instance", "storage", "upstream"];
/// Who starts or asks whom all the same.
const LOOPS_KNOWN: &[(&str, &str)] = &[
    ("agent", "instance"),       // starts one for each instance
    ("registry", "upstream"),    // starts one for each identity
    ("answers", "storage"),      // passes the question for sizes on
    ("port", "storage"),         // hands commits over
    ("metrics", "storage"),      // passes the question for sizes on
    ("views", "storage"),        // passes the question for sizes on
    ("dead_letters", "storage"), // passes the question for dead letters on
];

/// Words that a room must not hold at all, with the reason.
const FORBIDDEN: &[(&[&str], &[&str], &str)] = &[
    (
        &["runtime/src/model/", "runtime/src/logic/"],
        &["smol", "redb", "std::fs", "std::net", "std::os", "std::thread", "std::process", "async", "await"],
        "this floor decides; doing and waiting belong to io and tasks",
    ),
    (&["runtime/src/model/"], &["serde", "Serialize", "Deserialize"], "formats belong to the one file that owns them"),
];

/// Crates that live in one place, as written in a path or a `use`.
const HOMES: &[(&str, &[&str])] = &[
    ("abi_stable", &["abi/", "plugins/", "runtime/src/host/", "runtime/examples/"]),
    ("libloading", &["abi/", "plugins/", "runtime/src/host/"]),
    ("redb", &["runtime/src/io/store/"]),
    ("async_tungstenite", &["runtime/src/io/ws.rs", "tests/cloud/"]),
    ("futures_rustls", &["runtime/src/io/tls.rs", "runtime/src/io/tls_crypto.rs", "tests/cloud/"]),
    ("mqtt_proto", &["runtime/src/logic/mqtt.rs", "tests/cloud/"]),
    // Digests of images, keys, signatures and tokens.
    (
        "ring",
        &[
            "runtime/src/io/secret.rs",
            "runtime/src/io/image.rs",
            "runtime/src/io/images.rs",
            "runtime/src/io/download.rs",
            "runtime/src/io/signing.rs",
            "runtime/src/logic/sas.rs",
            "runtime/src/logic/signature.rs",
            "xtask/src/push.rs",
            "xtask/src/package/lone.rs",
            "tests/cloud/",
        ],
    ),
    ("hyper", &["runtime/src/io/http.rs", "runtime/src/io/rest.rs", "runtime/src/io/fetch.rs"]),
    ("landlock", &["runtime/src/host/confine.rs", "runtime/src/io/kernel.rs"]),
];

/// Who reads a clock: everybody else is given the time. Tests and tools aside.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "clock_gettime"];
const CLOCK_HOMES: &[&str] = &[
    "runtime/src/io/clock.rs",
    "runtime/build.rs",             // when it was built
    "runtime/src/tasks/control.rs", // what `10min ago` means to whoever asks
    "abi/src/pump/",                // the host's side of the heartbeat
    "abi/src/harness/",
    "abi/benches/",
    "plugins/",
    "runtime/examples/route_bench.rs", // measures
    "runtime/examples/store_bench.rs", // measures
    "xtask/",
];

pub fn check(source: &Source, faults: &mut Vec<Fault>) {
    crates(source, faults);
    clocks(source, faults);
    let Some(inside) = source.path.strip_prefix(RUNTIME) else { return };
    forbidden(source, faults);
    let room = ROOMS.iter().filter(|(room, _)| inside.starts_with(room)).max_by_key(|(room, _)| room.len());
    let Some((_, allowed)) = room else { return };
    for (at, line) in source.code.iter().enumerate() {
        for path in crate_paths(line) {
            if !allowed.iter().any(|a| path == *a || path.starts_with(&format!("{a}::"))) {
                let text = format!("`crate::{path}` is not for this floor; it may know {}", allowed.join(", "));
                faults.push(Fault::new("floor", source, at, text));
            }
        }
    }
    if let Some(own) = inside.strip_prefix("tasks/") {
        loops(source, own.trim_end_matches(".rs"), faults);
    }
}

/// Every `crate::…`, two steps deep, with the braces of a `use` taken apart one level.
fn crate_paths(line: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let first: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        match rest[first.len()..].strip_prefix("::") {
            Some(more) if more.starts_with('{') => {
                let inner = more[1..].split('}').next().unwrap_or_default();
                let names = inner.split(',').map(|name| name.trim().split("::").next().unwrap_or_default());
                paths.extend(names.filter(|name| !name.is_empty()).map(|name| format!("{first}::{name}")));
            }
            Some(more) => {
                let second: String = more.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                paths.push(format!("{first}::{second}"));
            }
            None if first.is_empty() => {
                let inner = rest.trim_start_matches('{').split('}').next().unwrap_or_default();
                paths.extend(inner.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
            }
            None => paths.push(first),
        }
    }
    paths
}

fn loops(source: &Source, own: &str, faults: &mut Vec<Fault>) {
    for (at, line) in source.code.iter().enumerate() {
        let line = line.trim_start();
        let Some(used) = line.strip_prefix("use super::").or(line.strip_prefix("use crate::tasks::")) else { continue };
        for (_, name) in words(used.split("::").next().unwrap_or_default()) {
            let known = name == own || LOOPS_KNOWN.contains(&(own, name));
            if LOOPS.contains(&name) && !known {
                let text = format!("the loop `{name}` is not to be known here; what is shared stands beside the loops");
                faults.push(Fault::new("loop", source, at, text));
            }
        }
    }
}

fn forbidden(source: &Source, faults: &mut Vec<Fault>) {
    for (rooms, forbidden, why) in FORBIDDEN {
        if source.is_test() || !rooms.iter().any(|room| source.path.starts_with(room)) {
            continue;
        }
        for (at, line) in source.code[..source.tests_at()].iter().enumerate() {
            if let Some(word) = forbidden.iter().find(|word| holds(line, word)) {
                faults.push(Fault::new("floor", source, at, format!("`{word}`: {why}")));
            }
        }
    }
}

fn crates(source: &Source, faults: &mut Vec<Fault>) {
    for (at, line) in source.code.iter().enumerate() {
        for (name, homes) in HOMES {
            let written = line.match_indices(name).any(|(i, _)| {
                let before = line[..i].chars().next_back();
                let own_word = before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':' || c == '.'));
                own_word && line[i + name.len()..].starts_with("::")
            });
            if written && !homes.iter().any(|home| source.path.starts_with(home)) && !source.is_test() {
                faults.push(Fault::new("home", source, at, format!("`{name}` belongs to {}", homes.join(", "))));
            }
        }
    }
}

fn clocks(source: &Source, faults: &mut Vec<Fault>) {
    if source.is_test() || CLOCK_HOMES.iter().any(|home| source.path.starts_with(home)) {
        return;
    }
    for (at, line) in source.code[..source.tests_at()].iter().enumerate() {
        if let Some(clock) = CLOCKS.iter().find(|clock| line.contains(*clock)) {
            let text = format!("`{clock}`: time is an argument; clocks are read in {}", CLOCK_HOMES[0]);
            faults.push(Fault::new("clock", source, at, text));
        }
    }
}

/// As a word or path of its own.
fn holds(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expected: &[&str]) {
        let mut faults = Vec::new();
        super::check(&Source::new(path, text), &mut faults);
        let rules: Vec<&str> = faults.iter().map(|fault| fault.rule).collect();
        assert_eq!(rules, expected, "{path}: {text}");
    }

    #[test]
    fn a_floor_knows_only_those_below() {
        check("runtime/src/logic/twin.rs", "use crate::model::time::Mono;", &[]);
        check("runtime/src/logic/twin.rs", "use crate::logic::hub::Hub;", &["floor"]);
        check("runtime/src/logic/hub/mod.rs", "use crate::logic::{routing, twin};", &["floor"]);
        check("runtime/src/model/id.rs", "use crate::{logic, model};", &["floor"]);
        check("runtime/src/io/http.rs", "let x = crate::tasks::port::now();", &["floor"]);
        check("runtime/src/io/http.rs", "// crate::tasks", &[]);
        check("runtime/src/logic/hub/mod.rs", "async fn f() {}", &["floor"]);
        check("runtime/src/app/run.rs", "use crate::tasks::agent::Agent;", &[]);
    }

    #[test]
    fn loops_crates_and_clocks_have_their_places() {
        check("runtime/src/tasks/answers.rs", "use super::instance;", &["loop"]);
        check("runtime/src/tasks/agent.rs", "use super::instance;", &[]);
        check("runtime/src/tasks/port.rs", "use redb::Database;", &["home"]);
        check("runtime/src/tasks/port.rs", "string::from(x)", &[]);
        check("runtime/src/tasks/port.rs", "let now = Instant::now();", &["clock"]);
        check("plugins/window/src/lib.rs", "let now = Instant::now();", &[]);
    }
}
