//! `identity list` and `identity remove`: who the modules are in the cloud.
//! Must never print a key; none comes over the control socket.

use std::io::{self, Write};

use serde_json::Value;

use super::{Outcome, ask, path};
use crate::app::cli::{IdentityList, IdentityRemove};
use crate::app::table::{cell, render};

pub fn list(args: &IdentityList) -> Outcome {
    let target = args.target();
    let path = if args.hub { "/identities?hub=true" } else { "/identities" };
    let answer = ask(&target.socket, "GET", path, Vec::new())?;
    let text = if target.json { format!("{answer}\n") } else { text(&answer) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(true)
}

pub fn remove(args: &IdentityRemove) -> Outcome {
    let target = args.target();
    let answer = ask(&target.socket, "DELETE", &path(&["identities", &args.module]), Vec::new())?;
    let text = if target.json { answer.to_string() } else { removed(&args.module, &answer) };
    writeln!(io::stdout(), "{text}")?;
    Ok(true)
}

fn text(identities: &Value) -> String {
    let Some(identities) = identities.as_array().filter(|identities| !identities.is_empty()) else {
        return "no identities\n".to_owned();
    };
    let columns = [
        ("MODULE", "/module"),
        ("IDENTITY", "/identity"),
        ("CLOUD", "/host"),
        ("SOURCE", "/source"),
        ("GENERATION", "/generationId"),
        ("IN HUB", "/inHub"),
        ("STATUS", "/status"),
        ("REASON", "/reason"),
    ];
    // Only where it was asked.
    let asked = identities.iter().any(|row| !row["inHub"].is_null());
    let shown: Vec<_> = columns.into_iter().filter(|(head, _)| asked || *head != "IN HUB").collect();
    let row = |row: &Value| shown.iter().map(|(_, at)| cell(row, at)).collect();
    let head: Vec<&str> = shown.iter().map(|(head, _)| *head).collect();
    render(&head, &identities.iter().map(row).collect::<Vec<_>>())
}

fn removed(module: &str, answer: &Value) -> String {
    let what = match answer["hub"].as_str() {
        Some("gone") => format!("{module} had no identity in the hub any more; it is forgotten here"),
        Some("replaced") => {
            format!("{module} is forgotten here; in the hub another identity of its name was made since, which stays")
        }
        _ => format!("the identity of {module} is removed"),
    };
    match answer["waiting"].as_u64() {
        Some(count) if count > 0 => format!(
            "{what}; {count} messages of it still wait: they go out if the module gets an identity again, and expire otherwise"
        ),
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_readable() {
        let row = json!({"module": "m", "identity": "d/m", "host": "h", "source": "registered", "generationId": "7",
            "status": "revoked", "reason": "it was removed in the hub", "runs": true});
        let text = text(&json!([row]));
        assert!(
            text.starts_with("MODULE") && text.contains("revoked") && text.contains("removed in the hub"),
            "{text}"
        );
        assert!(!text.contains("IN HUB"));
        let asked = super::text(&json!([{"module": "m", "inHub": "another"}]));
        assert!(asked.contains("IN HUB") && asked.contains("another"), "{asked}");
        assert_eq!(super::text(&json!([])), "no identities\n");
    }

    #[test]
    fn what_was_removed_is_said() {
        assert_eq!(removed("m", &json!({"hub": "removed", "waiting": 0})), "the identity of m is removed");
        assert!(removed("m", &json!({"hub": "replaced", "waiting": 3})).ends_with("expire otherwise"));
    }
}
