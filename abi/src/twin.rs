//! An instance's view of its twin: the desired section as it was last delivered, and the reported section
//! with its own patches applied. Must never take a patch that is no JSON object.

use serde::Serialize;
use serde_json::{Map, Value};

use abi_stable::std_types::RSlice;

use crate::{
    Error, Result,
    context::Context,
    raw::{Document, ask},
    receipt::Report,
};

/// The twin of an instance. From [`Context::twin`].
///
/// ```no_run
/// # use skerry_abi::*;
/// # fn example(cx: &Context) -> Result<()> {
/// cx.twin().report(&serde_json::json!({"calibrated": true}))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Twin<'a>(pub(crate) &'a Context);

impl Twin<'_> {
    /// The desired properties, also those that the settings do not know.
    pub fn desired(&self) -> Value {
        self.0.twin_state().desired.clone()
    }

    /// Version of the desired section.
    pub fn desired_version(&self) -> u64 {
        self.0.twin_state().desired_version
    }

    /// The reported properties: as they were at the start, with what this instance reported since.
    pub fn reported(&self) -> Value {
        self.0.twin_state().reported.clone()
    }

    /// Reports properties: a merge patch, in which null removes a property. The answer need not be waited for.
    ///
    /// # Errors
    /// The patch is no JSON object. What the runtime thinks of it stands in the answer.
    pub fn report(&self, patch: &impl Serialize) -> Result<Report> {
        let Value::Object(patch) = serde_json::to_value(patch)? else {
            return Err(Error::new("reported properties must be a JSON object"));
        };
        let text = serde_json::to_vec(&patch)?;
        // Under the lock, so that patches of two threads are merged in the order in which they are sent.
        let mut state = self.0.twin_state();
        merge(&mut state.reported, patch);
        let rid = self.0.host().ask(ask::REPORT, RSlice::from_slice(&text));
        drop(state);
        Ok(Report::new(self.0.clone(), rid))
    }
}

/// What the SDK remembers of the twin.
pub(crate) struct TwinState {
    pub(crate) desired_version: u64,
    pub(crate) desired: Value,
    pub(crate) reported: Value,
}

impl TwinState {
    pub(crate) fn new(reported: Document) -> TwinState {
        TwinState { desired_version: 0, desired: object(""), reported: object(&reported.json) }
    }

    pub(crate) fn set_desired(&mut self, version: u64, desired: &str) {
        self.desired_version = version;
        self.desired = object(desired);
    }
}

fn object(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => Value::Object(Map::new()),
    }
}

/// JSON merge patch.
pub(crate) fn merge(target: &mut Value, patch: Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                map.remove(&key);
            }
            Value::Object(inner) => merge(map.entry(key).or_insert(Value::Null), inner),
            value => {
                map.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, patch: &str, expected: &str) {
        let mut target = object(target);
        let Value::Object(patch) = object(patch) else { return };
        merge(&mut target, patch);
        assert_eq!(target.to_string(), expected);
    }

    #[test]
    fn patches_merge() {
        check(r#"{"a": 1}"#, r#"{"b": 2}"#, r#"{"a":1,"b":2}"#);
        check(r#"{"a": {"x": 1}}"#, r#"{"a": {"y": 2, "x": null}}"#, r#"{"a":{"y":2}}"#);
        check(r#"{"a": 1}"#, r#"{"a": {"y": 2}}"#, r#"{"a":{"y":2}}"#);
        check(r#"{"a": 1}"#, r#"{"a": null, "c": null}"#, "{}");
    }
}
