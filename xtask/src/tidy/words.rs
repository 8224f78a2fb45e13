//! What is not written here: names that say nothing, things left undone, paths of one machine, `unsafe` out of its place.
//! Must never judge what stands in a comment or a literal by a rule that is meant for code.

use super::Fault;
use super::source::{Source, words};

/// Names that fit everything and so say nothing; whole or as a part of a type's name.
const NAMES: &[&str] =
    &["manager", "service", "handler", "helper", "util", "utils", "common", "context", "data", "info"];
/// Where such a name is the field's own word, or somebody else's.
const NAMES_ALLOWED: &[(&str, &str)] = &[
    ("abi/", "Context"), // the SDK's
    ("abi/", "context"),
    ("", "TaskContext"), // std's, renamed
];

/// `unsafe` is for these; each block says why it is sound.
const UNSAFE_HOMES: &[&str] = &[
    "abi/src/export.rs",
    "abi/src/raw.rs",
    "abi/tests/",
    "plugins/faulty/src/crash.rs",
    "runtime/examples/misbehave/",
    "runtime/src/host/",
    "runtime/src/io/code_pages.rs",
    "runtime/src/io/memory.rs",
    "runtime/src/io/peer.rs",
    "runtime/tests/module_host/",
    "tests/images/",
    "runtime/src/io/user.rs",
];

/// The kit's one loop that looks until a deadline, images that are slow on purpose, and a span in which nothing may happen.
const SLEEP_HOMES: &[&str] = &["tests/kit/lib.rs", "tests/images/", "abi/tests/idle.rs"];

/// In code, as written.
const UNDONE: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore"];

/// In any line of any text file. Written in two parts, so that this file does not hold them.
const MACHINE_PATHS: &[(&str, &str)] = &[("/ho", "me/"), ("/ro", "ot/"), ("/wo", "rk/"), ("/Us", "ers/")];

pub fn check(source: &Source, faults: &mut Vec<Fault>) {
    for (at, line) in source.code.iter().enumerate() {
        for word in UNDONE.iter().filter(|word| line.contains(*word)) {
            faults.push(Fault::new("undone", source, at, format!("`{word}`: finish it, or leave it out")));
        }
        if source.is_test() && !SLEEP_HOMES.iter().any(|home| source.path.starts_with(home)) && line.contains("sleep(")
        {
            let text = "a test waits for something that it can observe, with a deadline".to_owned();
            faults.push(Fault::new("sleep", source, at, text));
        }
        let is_unsafe = words(line).any(|(_, word)| word == "unsafe") && !line.contains("unsafe_code");
        if is_unsafe && !UNSAFE_HOMES.iter().any(|home| source.path.starts_with(home)) {
            faults.push(Fault::new("unsafe", source, at, format!("`unsafe` belongs to {}", UNSAFE_HOMES.join(", "))));
        }
        names(source, at, line, faults);
    }
    let file = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if NAMES.contains(&file) && !source.path.starts_with("abi/") {
        faults.push(Fault::new("name", source, 0, format!("`{file}` says nothing about what is in the file")));
    }
}

/// Names where they are declared.
fn names(source: &Source, at: usize, line: &str, faults: &mut Vec<Fault>) {
    const DECLARE: &[&str] = &["fn", "struct", "enum", "trait", "type", "mod", "let", "const", "static"];
    let mut before = "";
    for (_, word) in words(line) {
        let declared = DECLARE.contains(&before) || (before == "mut" && line.contains("let mut"));
        before = word;
        if !declared {
            continue;
        }
        let allowed = NAMES_ALLOWED.iter().any(|(place, name)| source.path.starts_with(place) && word == *name);
        let says_nothing = if word.starts_with(char::is_uppercase) {
            parts(word).iter().any(|part| NAMES.contains(&part.as_str()))
        } else {
            NAMES.contains(&word)
        };
        if says_nothing && !allowed {
            faults.push(Fault::new("name", source, at, format!("`{word}` says nothing about what it is")));
        }
    }
}

/// `StoreHandler` is store and handler.
fn parts(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for c in name.chars() {
        if c.is_uppercase() || parts.is_empty() {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend(c.to_lowercase());
        }
    }
    parts
}

/// For text of any kind.
pub fn machine_paths(source: &Source, faults: &mut Vec<Fault>) {
    for (at, line) in source.lines.iter().enumerate() {
        let found = MACHINE_PATHS.iter().map(|(a, b)| format!("{a}{b}")).find(|path| {
            line.match_indices(path.as_str())
                .any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric() || "._-~$}".contains(c)))
        });
        if let Some(path) = found {
            faults.push(Fault::new("machine-path", source, at, format!("`{path}…` is a path of one machine")));
        }
    }
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
    fn words_are_judged_where_they_are_code() {
        check("runtime/src/io/x.rs", "todo!(); // unsafe", &["undone"]);
        check("runtime/src/io/x.rs", "struct StoreHandler; let data = 1; log::info!(x);", &["name", "name"]);
        check("runtime/src/io/x.rs", "unsafe { f() }", &["unsafe"]);
        check("runtime/src/host/open.rs", "unsafe { f() }", &[]);
        check("tests/e2e/x.rs", "thread::sleep(SECOND);", &["sleep"]);
        check("runtime/src/io/helper.rs", "", &["name"]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let mut faults = Vec::new();
        let text = format!("see {}x/y and target{}x", "/ho\u{6d}e/", "/ho\u{6d}e/");
        machine_paths(&Source::new("README.md", &text), &mut faults);
        assert_eq!(faults.len(), 1);
    }
}
