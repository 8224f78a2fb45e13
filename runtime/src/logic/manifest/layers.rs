//! A base manifest and the layers over it become one desired section an identity, as IoT Hub's service makes it of layered deployments.
//! Must never take a layer without a base: what a dotted path leads into has to be there.

use serde_json::{Map, Value};

use super::node::Findings;
use super::{AGENT, Sections};

const DESIRED: &str = "properties.desired";

/// Later files go over earlier ones.
pub(super) fn stack(files: &[Value], findings: &Findings) -> Sections {
    let mut sections = Sections::new();
    for file in files {
        let Some(file) = file.as_object() else {
            findings.refuse("$", "expected an object with \"modulesContent\"");
            continue;
        };
        // Both forms are about: what the service takes, and the content alone.
        let content = file.get("modulesContent").or(file.get("content").and_then(|c| c.get("modulesContent")));
        let content = content.map_or(Some(file), Value::as_object);
        let Some(content) = content else {
            findings.refuse("modulesContent", "expected an object");
            continue;
        };
        if !content.contains_key(AGENT) && !sections.contains_key(AGENT) && content.keys().all(|k| !k.starts_with('$'))
        {
            findings
                .refuse("$", "this is no manifest: expected \"modulesContent\" with \"$edgeAgent\" and \"$edgeHub\"");
            continue;
        }
        for (identity, value) in content {
            one(&mut sections, identity, value, findings);
        }
    }
    sections
}

fn one(sections: &mut Sections, identity: &str, value: &Value, findings: &Findings) {
    if identity.starts_with('$') && ![AGENT, super::HUB].contains(&identity) {
        findings.refuse(identity, "there is no such system module; they are $edgeAgent and $edgeHub");
        return;
    }
    let Some(keys) = value.as_object() else {
        findings.refuse(identity, "expected an object with \"properties.desired\"");
        return;
    };
    // The whole section first, wherever it stands in the file.
    if let Some(whole) = keys.get(DESIRED) {
        sections.insert(identity.to_owned(), whole.clone());
    }
    for (key, value) in keys.iter().filter(|(key, _)| *key != DESIRED) {
        let path = format!("{identity}.{key}");
        let Some(below) = key.strip_prefix("properties.desired.") else {
            findings.refuse(&path, "expected \"properties.desired\", or in a layer \"properties.desired.PATH\"");
            continue;
        };
        match sections.get_mut(identity) {
            Some(section) => put(section, below, value, &path, findings),
            None if identity.starts_with('$') => {
                findings.refuse(
                    &path,
                    "this is a layer, and goes over a base that sets \"properties.desired\" as a whole: name the base first, then the layers",
                );
            }
            None => {
                let section = sections.entry(identity.to_owned()).or_insert_with(|| Value::Object(Map::new()));
                put(section, below, value, &path, findings);
            }
        }
    }
}

/// Sets what a dotted path leads to; objects on the way are made.
fn put(section: &mut Value, below: &str, value: &Value, path: &str, findings: &Findings) {
    let mut at = section;
    let mut steps = below.split('.').peekable();
    while let Some(step) = steps.next() {
        if step.is_empty() {
            return findings.refuse(path, "a name is missing between two dots");
        }
        let Some(object) = at.as_object_mut() else {
            return findings.refuse(path, &format!("{step:?} lies in something that is no object"));
        };
        if steps.peek().is_none() {
            if value.is_null() {
                object.remove(step);
            } else {
                object.insert(step.to_owned(), value.clone());
            }
            return;
        }
        at = object.entry(step).or_insert_with(|| Value::Object(Map::new()));
    }
}
