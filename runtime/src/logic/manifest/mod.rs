//! Reads IoT Edge's deployment manifests: as a file of "set modules", with layers over it if need be, or from the twins of the agent
//! and the hub. A manifest is good as a whole or not at all, and everything in it is mapped, ignored or refused by name.
//! Must never fetch or look for anything: whether an image exists is not asked here.

mod agent;
mod create;
mod hub;
mod layers;
mod node;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::model::manifest::Manifest;
use node::{Findings, Node};
pub use node::{Note, Verdict};

/// What came of reading one.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Or the reason for none, as the agent reports it.
    pub manifest: Result<Manifest, Refusal>,
    /// What became of each thing, in the order of reading.
    pub notes: Vec<Note>,
}

/// Why a manifest is not taken, in the words and codes of IoT Edge's `lastDesiredStatus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400: its content; 412: its schema version; 417: there is nothing in it.
    pub code: u16,
    /// One sentence, with the JSON path.
    pub message: String,
}

/// The notes, for who shows them.
pub fn notes_json(notes: &[Note]) -> Value {
    notes.iter().map(|n| json!({"verdict": n.verdict.word(), "path": n.path, "text": n.text})).collect()
}

/// The desired sections that a file sets, by identity.
pub type Sections = Map<String, Value>;

/// A file of "set modules", and the layers that go over it, each as the JSON that it holds.
pub fn from_files(files: &[Value]) -> (Sections, Reading) {
    let findings = Findings::default();
    let sections = layers::stack(files, &findings);
    let reading = read(&sections, findings);
    (sections, reading)
}

/// The desired properties of `$edgeAgent` and `$edgeHub`.
pub fn from_twins(agent: &Map<String, Value>, hub: &Map<String, Value>) -> Reading {
    let mut sections = Sections::new();
    sections.insert(AGENT.to_owned(), Value::Object(agent.clone()));
    sections.insert(HUB.to_owned(), Value::Object(hub.clone()));
    read(&sections, Findings::default())
}

/// The same sections again, as they were stored.
pub fn from_sections(sections: &Sections) -> Reading {
    read(sections, Findings::default())
}

pub const AGENT: &str = "$edgeAgent";
pub const HUB: &str = "$edgeHub";

fn read(sections: &Sections, findings: Findings) -> Reading {
    let mut manifest = Manifest::default();
    for name in [AGENT, HUB] {
        let path = format!("{name}.properties.desired");
        match sections.get(name) {
            Some(Value::Object(section)) if !section.is_empty() => {
                let node = Node::new(&sections[name], path, &findings);
                if name == AGENT { agent::read(&node, &mut manifest) } else { hub::read(&node, &mut manifest) }
            }
            Some(Value::Object(_)) | None => findings.empty(&path),
            Some(_) => findings.refuse(&path, "expected an object"),
        }
    }
    for (name, section) in sections.iter().filter(|(name, _)| !name.starts_with('$')) {
        let path = format!("{name}.properties.desired");
        match section {
            Value::Object(section) => {
                findings.map(&path, "the desired properties of its twin");
                manifest.twins.insert(name.clone(), section.clone());
            }
            _ => findings.refuse(&path, "expected an object"),
        }
    }
    let (notes, refusal) = findings.into_parts();
    Reading { manifest: refusal.map_or(Ok(manifest), Err), notes }
}
