//! `skerry deploy`: reads manifest files, and shows what became of everything in them.
//! Must never send what is not JSON: a typing error is told here, with its line and column.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Fault, Outcome, ask};
use crate::app::cli::Deploy;
use crate::app::table::{self, plain};
use crate::logic::manifest;
use crate::tasks::deployment;

/// Bad news when the manifest would be refused.
pub fn deploy(args: &Deploy) -> Outcome {
    let target = args.target();
    if args.remove {
        if !args.file.is_empty() || args.dry_run {
            return Err(Fault::Usage("--remove stands alone".to_owned()));
        }
        let answer = ask(&target.socket, "DELETE", "/deployment", Vec::new())?;
        let said = if target.json { answer.to_string() } else { "the manifest is withdrawn".to_owned() };
        writeln!(io::stdout(), "{said}")?;
        return Ok(true);
    }
    if args.file.is_empty() {
        return Err(Fault::Usage("name the manifest: skerry deploy FILE, or --remove".to_owned()));
    }
    let files = args.file.iter().map(|file| read(file)).collect::<Result<Vec<Value>, Fault>>()?;
    let at = if args.dry_run { "/deployment?dryRun=true" } else { "/deployment" };
    let answer = match ask(&target.socket, "POST", at, Value::Array(files.clone()).to_string().into()) {
        // What everything in it means can be said on any machine.
        Err(fault @ Fault::Unreachable { .. }) if args.dry_run => read_here(&files, &fault.to_string()),
        answer => answer?,
    };
    let refused = answer["refused"].as_str();
    if target.json {
        writeln!(io::stdout(), "{answer}")?;
    } else {
        io::stdout().write_all(shown(&answer, args.dry_run).as_bytes())?;
    }
    Ok(refused.is_none())
}

/// As a runtime would answer that had nothing to compare it with.
fn read_here(files: &[Value], why: &str) -> Value {
    let (_, reading) = manifest::from_files(files);
    let judged = reading.manifest.map_err(|refusal| refusal.message).and_then(|manifest| deployment::judge(&manifest));
    json!({"dryRun": true, "refused": judged.err(), "notes": manifest::notes_json(&reading.notes), "steps": [], "unknown": why})
}

fn read(file: &Path) -> Result<Value, Fault> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| Fault::Usage(format!("{shown} can't be read: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| Fault::Usage(format!("{shown}: not JSON: {error}")))
}

/// With a dry run all of it; otherwise what is not in force as it was written.
fn shown(answer: &Value, dry_run: bool) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    let notes = list("notes").into_iter().filter(|note| dry_run || note["verdict"] != "mapped");
    let rows: Vec<Vec<String>> =
        notes.map(|note| vec![text(&note["verdict"]), text(&note["path"]), text(&note["text"])]).collect();
    if !rows.is_empty() {
        out += &table::render(&["", "WHAT", "HERE"], &rows);
        out += "\n";
    }
    if let Some(refused) = answer["refused"].as_str() {
        return out + &format!("refused: {}\n", plain(refused));
    }
    let steps = list("steps");
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| vec![text(&step["step"]), text(&step["module"]), text(&step["image"]), text(&step["problem"])])
        .collect();
    if let Some(why) = answer["unknown"].as_str() {
        out += &format!("what would be done is not known: {}\n", plain(why));
    } else if rows.is_empty() {
        out += "nothing is to be done: all modules are as they are asked for\n";
    } else {
        out += &table::render(&["STEP", "MODULE", "IMAGE", "PROBLEM"], &rows);
    }
    out + if dry_run { "" } else { "the manifest is in force\n" }
}
