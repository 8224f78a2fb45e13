//! One identity's twin as the cloud keeps it: desired and reported properties, each with a version, changed by merge
//! patches. Must never take over a part of a patch that breaks a rule.

use serde_json::{Map, Value, json};

const DEPTH_MAX: usize = 10;
const NAME_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 4096;
const SECTION_BYTES_MAX: usize = 32 * 1024;
const INTEGERS: std::ops::RangeInclusive<i64> = -4_503_599_627_370_496..=4_503_599_627_370_495;

#[derive(Clone, Debug)]
pub struct Twin {
    desired: Section,
    reported: Section,
}

#[derive(Clone, Debug)]
struct Section {
    properties: Map<String, Value>,
    version: u64,
}

impl Default for Twin {
    fn default() -> Twin {
        let empty = Section { properties: Map::new(), version: 1 };
        Twin { desired: empty.clone(), reported: empty }
    }
}

impl Twin {
    /// As the answer to a GET has it.
    pub fn view(&self) -> Value {
        json!({"desired": self.desired.view(), "reported": self.reported.view()})
    }

    /// The new version, and the notification's body.
    pub fn set_desired(&mut self, patch: Value) -> Result<(u64, Value), String> {
        let mut patch = self.desired.patch(patch)?;
        patch.insert("$version".to_owned(), json!(self.desired.version));
        Ok((self.desired.version, Value::Object(patch)))
    }

    /// The new version.
    pub fn set_reported(&mut self, patch: Value) -> Result<u64, String> {
        self.reported.patch(patch)?;
        Ok(self.reported.version)
    }
}

impl Section {
    fn view(&self) -> Value {
        let mut view = self.properties.clone();
        view.insert("$version".to_owned(), json!(self.version));
        Value::Object(view)
    }

    fn patch(&mut self, patch: Value) -> Result<Map<String, Value>, String> {
        let Value::Object(patch) = patch else { return Err("a patch is an object".to_owned()) };
        check_object(&patch, 0, true)?;
        let mut after = self.properties.clone();
        merge(&mut after, &patch);
        let bytes = size_of(&after);
        if bytes > SECTION_BYTES_MAX {
            return Err(format!("the section would have {bytes} bytes, at most {SECTION_BYTES_MAX}"));
        }
        self.properties = after;
        self.version += 1;
        Ok(patch)
    }
}

fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                into.remove(name);
            }
            Value::Object(inner) => {
                let below = into.entry(name.as_str()).or_insert(Value::Null);
                if !below.is_object() {
                    *below = Value::Object(Map::new());
                }
                if let Value::Object(below) = below {
                    merge(below, inner);
                }
            }
            other => {
                into.insert(name.clone(), other.clone());
            }
        }
    }
}

fn check_object(object: &Map<String, Value>, depth: usize, null_allowed: bool) -> Result<(), String> {
    for (name, value) in object {
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("a name has {} bytes, at most {NAME_BYTES_MAX}", name.len()));
        }
        if let Some(c) = name.chars().find(|c| c.is_control() || c.is_whitespace() || ".$#".contains(*c)) {
            return Err(format!("the name {name:?} holds {c:?}"));
        }
        check_value(name, value, depth + 1, null_allowed)?;
    }
    Ok(())
}

fn check_value(name: &str, value: &Value, depth: usize, null_allowed: bool) -> Result<(), String> {
    match value {
        Value::Object(_) | Value::Array(_) if depth > DEPTH_MAX => {
            Err(format!("`{name}` lies deeper than {DEPTH_MAX}"))
        }
        Value::Object(inner) => check_object(inner, depth, null_allowed),
        Value::Array(items) => items.iter().try_for_each(|item| check_value(name, item, depth + 1, false)),
        Value::Null if !null_allowed => Err(format!("`{name}`: null in an array")),
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            Err(format!("`{name}` has {} bytes, at most {TEXT_BYTES_MAX}", text.len()))
        }
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            let fits = number.as_i64().is_some_and(|number| INTEGERS.contains(&number));
            if fits { Ok(()) } else { Err(format!("`{name}`: {number} is no integer of 53 bits")) }
        }
        _ => Ok(()),
    }
}

/// Names and values, without structure.
fn size_of(object: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Object(inner) => size_of(inner),
            Value::Array(items) => items.iter().map(of).sum(),
            Value::String(text) => text.len(),
            Value::Number(_) => 8,
            Value::Bool(_) => 4,
            Value::Null => 0,
        }
    }
    object.iter().map(|(name, value)| name.len() + of(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reported section after these patches, or the word that is in the refusal.
    fn check(patches: &[Value], expected: Result<Value, &str>) {
        let mut twin = Twin::default();
        let came = patches.iter().map(|patch| twin.set_reported(patch.clone())).collect::<Result<Vec<_>, _>>();
        match (came, expected) {
            (Ok(_), Ok(expected)) => assert_eq!(twin.view()["reported"], expected),
            (Err(why), Err(word)) => assert!(why.contains(word), "{why}"),
            (came, expected) => panic!("{patches:?}: {came:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn patches_merge_and_null_deletes() {
        check(&[json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}})], Ok(json!({"a": {"c": 2}, "$version": 3})));
        check(&[json!({"a": 1}), json!({"a": {"b": {"c": null}}})], Ok(json!({"a": {"b": {}}, "$version": 3})));
        check(&[json!({"a": [1, {"b": 2}]}), json!({"a": [3]})], Ok(json!({"a": [3], "$version": 3})));
    }

    #[test]
    fn rules_are_kept() {
        check(&[json!([1])], Err("object"));
        check(&[json!({"a b": 1})], Err("holds"));
        check(&[json!({"$version": 1})], Err("holds"));
        check(&[json!({"a": [null]})], Err("null"));
        check(&[json!({"a": [{"b": null}]})], Err("null"));
        check(&[json!({"a": 4_503_599_627_370_496i64})], Err("53 bits"));
        check(&[json!({"a": u64::MAX})], Err("53 bits"));
        check(&[json!({"a": "x".repeat(4097)})], Err("4096"));
        check(&[json!({"x".repeat(1025): 1})], Err("1024"));
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({"a": inner}));
        check(
            &[nested(11)],
            Ok({
                let mut expected = nested(11);
                expected["$version"] = json!(2);
                expected
            }),
        );
        check(&[nested(12)], Err("deeper"));
        let much = || "x".repeat(4000);
        let big: Map<String, Value> = (0..9).map(|i| (format!("k{i}"), json!(much()))).collect();
        check(&[Value::Object(big)], Err("section"));
    }
}
