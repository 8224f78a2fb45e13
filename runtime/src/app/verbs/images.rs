//! `skerry pull` and `skerry images`: brings an image into the store, and shows what is there.
//! Must never draw on a terminal that is none.

use std::io::{self, IsTerminal, Write};

use crate::io::executor::Executor;
use serde_json::Value;

use super::{Fault, Outcome, Target, ask, next, open};
use crate::app::cli_images::Pull;
use crate::app::table::{bytes, cell, plain, render};
use crate::io::http::{Upload, escape};

/// Characters of the bar.
const BAR: u64 = 30;

pub fn pull(args: &Pull) -> Outcome {
    let target = args.target();
    let at = format!("/images?reference={}", escape(&args.reference));
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, &target.socket, "POST", &at, Upload::Whole(Vec::new())).await?;
        let drawn = !target.json && io::stderr().is_terminal();
        while let Some(line) = next(&mut response.body).await? {
            if target.json {
                writeln!(io::stdout(), "{line}")?;
            } else if drawn {
                write!(io::stderr(), "\r\x1b[K{}", bar(&line))?;
            }
            if let Some(error) = line["error"].as_str() {
                return if target.json { Ok(false) } else { Err(Fault::Broken(plain(error))) };
            }
            if line["image"].is_object() {
                if !target.json {
                    writeln!(io::stdout(), "{}", pulled(&line))?;
                }
                return Ok(true);
            }
        }
        Err(Fault::Broken("the runtime ended before the image was there; pull again, and it goes on".to_owned()))
    }))
}

/// One line of a terminal.
fn bar(line: &Value) -> String {
    if line["waiting"] == true {
        return "waiting for another pull from there".to_owned();
    }
    match (line["bytes"].as_u64(), line["total"].as_u64()) {
        (Some(done), Some(total)) if total > 0 => {
            let full = (done.min(total) * BAR / total) as usize;
            let bar = "=".repeat(full) + &" ".repeat(BAR as usize - full);
            format!("[{bar}] {} of {}", bytes(line, "/bytes"), bytes(line, "/total"))
        }
        (Some(done), _) if done > 0 => bytes(line, "/bytes"),
        (Some(_), _) => "asking for it".to_owned(),
        // The end is told on a line of its own.
        _ => String::new(),
    }
}

fn pulled(line: &Value) -> String {
    let of = |at: &str| cell(line, at);
    let mut text = format!(
        "{} {} {} {}",
        of("/image/name"),
        of("/image/version"),
        of("/image/digest"),
        bytes(line, "/image/bytes")
    );
    if let Some(why) = line["stale"].as_str() {
        text.push_str(&format!("\nfrom the image store, since its source can't be asked: {}", plain(why)));
    }
    if let Some(remark) = line["remark"].as_str() {
        text.push_str(&format!("\n{}", plain(remark)));
    }
    text
}

pub fn list(target: &Target) -> Outcome {
    let answer = ask(&target.socket, "GET", "/images", Vec::new())?;
    let text = if target.json { format!("{answer}\n") } else { table(&answer) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(true)
}

fn table(answer: &Value) -> String {
    let join = |value: &Value| {
        let texts: Vec<String> = value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(plain)).collect();
        if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
    };
    let rows: Vec<Vec<String>> = answer["images"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|image| {
            // As long as people compare.
            let digest: String = cell(image, "/digest").chars().take("sha256:0123456789ab".len()).collect();
            vec![digest, bytes(image, "/bytes"), join(&image["modules"]), join(&image["references"])]
        })
        .collect();
    let mut text =
        if rows.is_empty() { String::new() } else { render(&["DIGEST", "SIZE", "MODULES", "REFERENCES"], &rows) };
    for pulling in answer["pulling"].as_array().into_iter().flatten() {
        text.push_str(&format!("pulling {}: {}\n", cell(pulling, "/reference"), bar(pulling)));
    }
    text + &format!("{} of {}\n", bytes(answer, "/bytes"), bytes(answer, "/limit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bar_grows() {
        let shown = |bytes: u64, total: Option<u64>| bar(&json!({"bytes": bytes, "total": total}));
        assert!(shown(512, Some(1024)).starts_with("[===============               ] "), "{}", shown(512, Some(1024)));
        assert!(shown(1024, Some(1024)).starts_with(&format!("[{}]", "=".repeat(30))));
        assert_eq!(shown(0, None), "asking for it");
        assert_eq!(bar(&json!({"waiting": true})), "waiting for another pull from there");
        assert_eq!(bar(&json!({"error": "x"})), "");
    }
}
