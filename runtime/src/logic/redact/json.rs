//! Secrets of JSON: by the names of members, and inside of texts that hold JSON themselves.
//! Must never leave out a member: only its value goes.

use serde_json::{Map, Value};

use super::{HIDDEN, Redactor, is_environment, is_secret};

pub(super) fn redact(value: &Value, redactor: &mut Redactor) -> Value {
    match value {
        Value::Object(members) => object(members, redactor),
        Value::Array(items) => items.iter().map(|item| redact(item, redactor)).collect(),
        Value::String(text) => redactor.text(text).into(),
        other => other.clone(),
    }
}

fn object(members: &Map<String, Value>, redactor: &mut Redactor) -> Value {
    let mut shown = Map::new();
    for (name, value) in members {
        let value = match value {
            value if is_secret(name) => hidden(value, redactor, true),
            Value::Array(lines) if is_environment(name) => lines.iter().map(|line| variable(line, redactor)).collect(),
            Value::Object(variables) if is_environment(name) => {
                let one =
                    |(name, value): (&String, &Value)| (redactor.text(name), hidden(value, redactor, is_secret(name)));
                variables.iter().map(one).collect()
            }
            value if is_environment(name) => hidden(value, redactor, false),
            Value::String(text) if name.starts_with("createOptions") => options(text, redactor),
            value => redact(value, redactor),
        };
        shown.insert(redactor.text(name), value);
    }
    Value::Object(shown)
}

/// Every leaf of it; what is not there, or says nothing, may be seen to do so. With `learn` it is looked for elsewhere, too.
fn hidden(value: &Value, redactor: &mut Redactor, learn: bool) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (redactor.text(name), hidden(value, redactor, learn))).collect()
        }
        Value::Array(items) => items.iter().map(|item| hidden(item, redactor, learn)).collect(),
        Value::Null => Value::Null,
        Value::String(text) if text.is_empty() => "".into(),
        Value::String(text) if learn => {
            redactor.know_text(text);
            HIDDEN.into()
        }
        _ => HIDDEN.into(),
    }
}

/// `KEY=VALUE`, as container engines have it.
fn variable(line: &Value, redactor: &mut Redactor) -> Value {
    let Some((key, value)) = line.as_str().and_then(|line| line.split_once('=')) else {
        return hidden(line, redactor, false);
    };
    if is_secret(key) {
        redactor.know_text(value);
    }
    format!("{}={HIDDEN}", redactor.text(key)).into()
}

/// JSON as a text. A piece of one can't be judged.
fn options(text: &str, redactor: &mut Redactor) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => redact(&value, redactor).to_string().into(),
        Err(_) if text.trim().is_empty() => text.into(),
        Err(_) => HIDDEN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_secrets_go() {
        let mut redactor = Redactor::default();
        redactor.know(b"hunter2");
        let content = json!({
            "registryCredentials": {"own": {"address": "reg:5000", "username": "u", "password": "p"}},
            "env": {"A": {"value": "long enough"}, "A_TOKEN": {"value": "t0ken"}, "B": {"value": 5}, "C": {"value": ""}},
            "settings": {"image": "filter", "createOptions": "{\"Env\":[\"A=b=c\",\"D\"],\"Cmd\":[\"--token=t\",\"-v\"]}",
                "createOptions01": "{\"Env"},
            "threshold": 5, "apiKey": {"value": "k", "n": 1}, "said": ["hunter2 it is", null], "password": null,
        });
        let expected = json!({
            "registryCredentials": {"own": {"address": "reg:5000", "username": "u", "password": HIDDEN}},
            "env": {"A": {"value": HIDDEN}, "A_TOKEN": {"value": HIDDEN}, "B": {"value": HIDDEN}, "C": {"value": ""}},
            "settings": {"image": "filter",
                "createOptions": format!("{{\"Env\":[\"A={HIDDEN}\",\"{HIDDEN}\"],\"Cmd\":[\"--token={HIDDEN}\",\"-v\"]}}"),
                "createOptions01": HIDDEN},
            "threshold": 5, "apiKey": {"value": HIDDEN, "n": HIDDEN}, "said": [format!("{HIDDEN} it is"), null], "password": null,
        });
        let shown = redact(&content, &mut redactor);
        let options =
            |v: &Value| serde_json::from_str::<Value>(v["settings"]["createOptions"].as_str().unwrap()).unwrap();
        assert_eq!(options(&shown), options(&expected));
        let without = |mut v: Value| {
            v["settings"]["createOptions"].take();
            v
        };
        assert_eq!(without(shown), without(expected));
        // What stood under the name of a secret is one wherever it stands.
        assert_eq!(redactor.text("t0ken, p, long enough"), format!("{HIDDEN}, p, long enough"));
    }
}
