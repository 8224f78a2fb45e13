//! Verbs for one module: `restart`, `twin get`, `twin set`, `method`. Must never send what is not
//! JSON: a typing error is told here, with its column, before anybody is asked.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::{Fault, Outcome, Target, ask, path};
use crate::app::cli::{CallMethod, Restart, TwinGet, TwinSet};
use crate::app::table::plain;
use crate::io::http::escape;

pub fn restart(args: &Restart) -> Outcome {
    let target = args.target();
    let answer = ask(&target.socket, "POST", &path(&["modules", &args.module, "restart"]), Vec::new())?;
    if target.json { show(&target, &answer) } else { say(&format!("{} is restarted", args.module)) }
}

pub fn twin_get(args: &TwinGet) -> Outcome {
    let target = args.target();
    show(&target, &ask(&target.socket, "GET", &path(&["modules", &args.module, "twin"]), Vec::new())?)
}

pub fn twin_set(args: &TwinSet) -> Outcome {
    let target = args.target();
    let patch = args.patch.clone().map_or_else(standard_input, Ok)?;
    let patch = typed_json("patch", &patch)?;
    if !patch.is_object() {
        return Err(Fault::Usage("the patch must be a JSON object: {\"name\": value}".to_owned()));
    }
    let answer = ask(&target.socket, "PATCH", &path(&["modules", &args.module, "twin"]), patch.to_string().into())?;
    show(&target, &answer)
}

/// The module's own status decides: from 400 on, the call has failed.
pub fn method(args: &CallMethod) -> Outcome {
    let target = args.target();
    let payload = args.payload.as_deref().map_or(Ok(Value::Null), |text| typed_json("payload", text))?;
    let mut at = path(&["modules", &args.module, "methods", &args.name]);
    if let Some(timeout) = &args.timeout {
        at.push_str(&format!("?timeout={}", escape(timeout)));
    }
    let answer = ask(&target.socket, "POST", &at, payload.to_string().into())?;
    let status = answer["status"].as_u64().unwrap_or(0);
    if target.json {
        show(&target, &answer)?;
    } else {
        let payload = answer.get("payload").or(answer.get("payloadBase64")).unwrap_or(&Value::Null);
        say(&format!("status {status}\n{payload:#}"))?;
    }
    Ok(status < 400)
}

fn show(target: &Target, answer: &Value) -> Outcome {
    say(&if target.json { answer.to_string() } else { format!("{answer:#}") })
}

fn say(text: &str) -> Outcome {
    writeln!(io::stdout(), "{text}")?;
    Ok(true)
}

fn typed_json(what: &str, text: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|e| Fault::Usage(format!("the {what} is not JSON: {e}: {}", plain(text))))
}

fn standard_input() -> Result<String, Fault> {
    if io::stdin().is_terminal() {
        return Err(Fault::Usage("no patch: give it as an argument, or through standard input".to_owned()));
    }
    Ok(io::read_to_string(io::stdin())?)
}
