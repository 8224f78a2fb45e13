//! `dead-letters`: list, show, replay, purge.
//! Must never act on all of them unless that was said in so many words.

use std::io::{self, Write};

use crate::io::executor::Executor;
use serde_json::Value;

use super::{Fault, Outcome, Target, ask, next, open, path};
use crate::app::cli::{DeadList, DeadPurge, DeadReplay, DeadShow};
use crate::app::table::{bytes, cell, render, time};
use crate::io::http::{Upload, escape};

/// Rows of one table; more are printed as another, so that nothing is held back for long.
const ROWS: usize = 500;

pub fn list(args: &DeadList) -> Outcome {
    let target = args.target();
    let limit = args.limit.map(|limit| limit.to_string());
    let pairs = [("endpoint", args.endpoint.as_deref()), ("limit", limit.as_deref())];
    let at = format!("/dead-letters?{}", query(&pairs));
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, &target.socket, "GET", &at, Upload::Whole(Vec::new())).await?;
        let (mut out, mut rows, mut any) = (io::stdout(), Vec::new(), false);
        while let Some(line) = next(&mut response.body).await? {
            any = true;
            if target.json {
                writeln!(out, "{line}")?;
                continue;
            }
            rows.push(row(&line));
            if rows.len() == ROWS {
                out.write_all(render(&HEAD, &std::mem::take(&mut rows)).as_bytes())?;
            }
        }
        if !rows.is_empty() {
            out.write_all(render(&HEAD, &rows).as_bytes())?;
        } else if !any && !target.json {
            writeln!(out, "no dead letters")?;
        }
        Ok(true)
    }))
}

const HEAD: [&str; 7] = ["ID", "ENDPOINT", "FROM", "ACCEPTED", "REFUSED", "SIZE", "REASON"];

fn row(line: &Value) -> Vec<String> {
    let [id, endpoint, from, refusals] = ["/id", "/endpoint", "/from", "/refusals"].map(|at| cell(line, at));
    let reason = if line["unreadable"] == true { "it can't be read".to_owned() } else { cell(line, "/reason") };
    vec![id, endpoint, from, time(line, "/at"), refusals, bytes(line, "/bytes"), reason]
}

pub fn show(args: &DeadShow) -> Outcome {
    let target = args.target();
    let answer = ask(&target.socket, "GET", &path(&["dead-letters", &args.id]), Vec::new())?;
    let text = if target.json { answer.to_string() } else { format!("{answer:#}") };
    writeln!(io::stdout(), "{text}")?;
    Ok(true)
}

pub fn replay(args: &DeadReplay) -> Outcome {
    act(&args.target(), "replay", (&args.ids, args.endpoint.as_deref(), args.all))
}

pub fn purge(args: &DeadPurge) -> Outcome {
    act(&args.target(), "purge", (&args.ids, args.endpoint.as_deref(), args.all))
}

fn act(target: &Target, verb: &str, (ids, endpoint, all): (&[String], Option<&str>, bool)) -> Outcome {
    let given = usize::from(!ids.is_empty()) + usize::from(endpoint.is_some()) + usize::from(all);
    if given != 1 {
        return Err(Fault::Usage(format!(
            "which ones? skerry dead-letters {verb} ID..., or --endpoint ENDPOINT, or --all"
        )));
    }
    let ids = ids.iter().map(|id| ("id", Some(id.as_str())));
    let pairs: Vec<_> = ids.chain([("endpoint", endpoint), ("all", all.then_some("true"))]).collect();
    let answer = ask(&target.socket, "POST", &format!("/dead-letters/{verb}?{}", query(&pairs)), Vec::new())?;
    if target.json {
        writeln!(io::stdout(), "{answer}")?;
    } else {
        let done = answer.get("replayed").or(answer.get("purged")).and_then(Value::as_u64).unwrap_or(0);
        let (what, how) = if done == 1 { ("letter", "is") } else { ("letters", "are") };
        let end = if verb == "replay" { "back in their queues" } else { "gone" };
        let end = if done == 1 { end.replace("their queues", "its queue") } else { end.to_owned() };
        writeln!(io::stdout(), "{done} dead {what} {how} {end}")?;
    }
    Ok(true)
}

fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?)))).collect();
    pairs.join("&")
}
