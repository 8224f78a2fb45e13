//! `cargo xtask tidy`: the rules of the house that no compiler knows. Must never pass over a file silently: everything
//! that is Rust and committed, or about to be, is read.

mod floors;
mod ratchet;
mod shape;
mod source;
mod words;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cargo;
use ratchet::Ratchet;
use source::Source;

/// Folders that are somebody else's.
const NOT_OURS: &[&str] = &["target/", ".venv/"];
/// Text that people read.
const TEXT: &[&str] = &["rs", "toml", "md", "sh", "json", "txt", "service", "run", "in", "yml"];

/// One thing that is not as it should be.
pub struct Fault {
    pub rule: &'static str,
    pub path: String,
    pub line: usize,
    /// What of the file it is about, for the ratchet; empty: all of it.
    pub item: String,
    /// Of a thing that is too large; 0 for others.
    pub size: usize,
    pub text: String,
}

impl Fault {
    /// `at` counts from 0.
    fn new(rule: &'static str, source: &Source, at: usize, text: String) -> Fault {
        Fault::sized(rule, source, at, String::new(), 0, text)
    }

    fn sized(rule: &'static str, source: &Source, at: usize, item: String, size: usize, text: String) -> Fault {
        Fault { rule, path: source.path.clone(), line: at + 1, item, size, text }
    }
}

/// `true` when there is nothing to say.
pub fn run(tighten: bool) -> Result<bool, String> {
    let root = cargo::root();
    let sources = sources(&root)?;
    let mut faults = Vec::new();
    for source in &sources {
        words::machine_paths(source, &mut faults);
        if source.path.ends_with(".rs") {
            floors::check(source, &mut faults);
            shape::check(source, &mut faults);
            words::check(source, &mut faults);
        }
    }
    let file = root.join(ratchet::FILE);
    let ratchet = Ratchet::parse(&fs::read_to_string(&file).unwrap_or_default());
    if tighten {
        fs::write(&file, ratchet.tightened(&faults)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let (mut faults, loose) = ratchet.judge(faults);
    faults.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for Fault { rule, path, line, text, .. } in &faults {
        println!("{path}:{line}: {rule}: {text}");
    }
    if !tighten {
        loose.iter().for_each(|line| println!("{line}; write it down with `cargo xtask tidy --tighten`"));
    }
    let good = faults.is_empty() && (tighten || loose.is_empty());
    println!("{}", health(&sources));
    println!("tidy: {} files, {} faults", sources.len(), faults.len());
    Ok(good)
}

/// Committed files and new ones, but for what is ignored.
fn sources(root: &Path) -> Result<Vec<Source>, String> {
    let list =
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    let list = list.map_err(|e| format!("can't run git: {e}"))?;
    let paths = String::from_utf8_lossy(&list.stdout).into_owned();
    let ours = |path: &&str| {
        let extension = path.rsplit('.').next().unwrap_or_default();
        TEXT.contains(&extension) && !path.starts_with('.') && !NOT_OURS.iter().any(|folder| path.starts_with(folder))
    };
    let read = |path: &str| Some(Source::new(path, &fs::read_to_string(root.join(path)).ok()?));
    let sources: Vec<Source> = paths.lines().filter(ours).filter_map(read).collect();
    if sources.is_empty() { Err("git lists no files here".to_owned()) } else { Ok(sources) }
}

/// Deciding should outweigh doing.
fn health(sources: &[Source]) -> String {
    let lines = |floor: &str| -> usize {
        let prefix = format!("runtime/src/{floor}/");
        let of = sources.iter().filter(|source| source.path.starts_with(&prefix) && !source.is_test());
        of.map(Source::tests_at).sum()
    };
    let (logic, io, tasks) = (lines("logic"), lines("io"), lines("tasks"));
    let word = if logic > io + tasks { "more" } else { "NOT more" };
    format!("logic has {logic} lines, {word} than io and tasks together: {io} + {tasks} = {}", io + tasks)
}
