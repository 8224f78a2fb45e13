//! One identity's twin as the cloud keeps it: desired and reported properties, each with a version, changed by merge
//! patches. Must never take over a part of a patch that breaks a rule.

use serde_json::{Map, Value, json};

const DEPTH_MAX: usize = 10;
const NAME_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 4096;
const SECTION_BYTES_MAX: usize = 32 * 1024;
const INTEGERS: std::ops::RangeInclusive<i64> = -4_503_599_627_370_496..=4_503_599_627_370_495;

const TAGS_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Debug)]
pub struct Twin {
    desired: Section,
    reported: Section,
    /// Only back ends see them.
    tags: Map<String, Value>,
    /// Of what back ends change, from 1.
    edition: u64,
}

#[derive(Clone, Debug)]
struct Section {
    properties: Map<String, Value>,
    /// When each of them changed, in the form of the cloud.
    metadata: Map<String, Value>,
    version: u64,
}

/// By a back end: parts that are `None` stay as they are.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub desired: Option<Value>,
    pub tags: Option<Value>,
    /// The whole, and not a patch.
    pub replaces: bool,
}

/// Of desired properties: what a client is told.
#[derive(Clone, Debug)]
pub struct Desired {
    pub version: u64,
    pub patch: Value,
    /// The patch with its version.
    pub body: Value,
}

impl Twin {
    /// `at` is now, in the form of the cloud.
    pub fn new(at: &str) -> Twin {
        let metadata = Map::from_iter([("$lastUpdated".to_owned(), json!(at))]);
        let empty = Section { properties: Map::new(), metadata, version: 1 };
        Twin { desired: empty.clone(), reported: empty, tags: Map::new(), edition: 1 }
    }

    /// As the answer to a client's GET has it.
    pub fn view(&self) -> Value {
        json!({"desired": self.desired.view(), "reported": self.reported.view()})
    }

    /// As a back end sees the two.
    pub fn properties(&self) -> Value {
        json!({"desired": self.desired.full_view(), "reported": self.reported.full_view()})
    }

    pub fn tags(&self) -> &Map<String, Value> {
        &self.tags
    }

    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// All of it or nothing; what the client is to hear.
    pub fn change(&mut self, change: Change, at: &str) -> Result<Option<Desired>, String> {
        let mut after = self.clone();
        after.edition += 1;
        if let Some(tags) = change.tags {
            let Value::Object(tags) = tags else { return Err("tags are an object".to_owned()) };
            check_object(&tags, 0, true)?;
            if change.replaces {
                after.tags.clear();
            }
            merge(&mut after.tags, &tags);
            let bytes = size_of(&after.tags);
            if bytes > TAGS_BYTES_MAX {
                return Err(format!("the tags would have {bytes} bytes, at most {TAGS_BYTES_MAX}"));
            }
        }
        let told = match change.desired {
            Some(desired) if change.replaces => Some(after.desired.replace(desired, at)?),
            Some(desired) => Some(after.desired.patch(desired, at, true)?),
            None => None,
        };
        let version = after.desired.version;
        *self = after;
        Ok(told.map(|patch| {
            let mut body = patch.clone();
            body.insert("$version".to_owned(), json!(version));
            Desired { version, patch: Value::Object(patch), body: Value::Object(body) }
        }))
    }

    /// The new version.
    pub fn set_reported(&mut self, patch: Value, at: &str) -> Result<u64, String> {
        self.reported.patch(patch, at, false)?;
        Ok(self.reported.version)
    }
}

impl Section {
    fn view(&self) -> Value {
        let mut view = self.properties.clone();
        view.insert("$version".to_owned(), json!(self.version));
        Value::Object(view)
    }

    fn full_view(&self) -> Value {
        let mut view = self.view();
        view["$metadata"] = Value::Object(self.metadata.clone());
        view
    }

    /// The patch. Only desired properties remember the version that changed them.
    fn patch(&mut self, patch: Value, at: &str, numbered: bool) -> Result<Map<String, Value>, String> {
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
        let mut mark = Map::from_iter([("$lastUpdated".to_owned(), json!(at))]);
        if numbered {
            mark.insert("$lastUpdatedVersion".to_owned(), json!(self.version));
        }
        stamp(&mut self.metadata, &patch, &mark);
        Ok(patch)
    }

    /// The patch that makes the old into the new: clients know only patches.
    fn replace(&mut self, whole: Value, at: &str) -> Result<Map<String, Value>, String> {
        let Value::Object(whole) = whole else { return Err("desired properties are an object".to_owned()) };
        check_object(&whole, 0, true)?;
        self.patch(Value::Object(difference(&self.properties, &whole)), at, true)
    }
}

/// Nulls in `new` are absent there.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let gone = old.keys().filter(|name| new.get(*name).is_none_or(Value::is_null));
    let mut patch: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
        match (old.get(name), value) {
            (Some(before), _) if before == value => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                patch.insert(name.clone(), Value::Object(difference(before, after)));
            }
            _ => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    patch
}

/// Marks everything that the patch touches.
fn stamp(metadata: &mut Map<String, Value>, patch: &Map<String, Value>, mark: &Map<String, Value>) {
    metadata.extend(mark.clone());
    for (name, value) in patch {
        match value {
            Value::Null => drop(metadata.remove(name)),
            Value::Object(inner) => {
                let below = metadata.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(below) = below {
                    stamp(below, inner, mark);
                }
            }
            _ => drop(metadata.insert(name.clone(), Value::Object(mark.clone()))),
        }
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
        let mut twin = Twin::new("now");
        let came = patches.iter().map(|patch| twin.set_reported(patch.clone(), "then")).collect::<Result<Vec<_>, _>>();
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

    #[test]
    fn a_whole_becomes_the_patch_that_leads_to_it() {
        let mut twin = Twin::new("0");
        let whole = |desired: Value| Change { desired: Some(desired), replaces: true, ..Change::default() };
        twin.change(whole(json!({"a": {"b": 1, "c": 2}, "d": 3, "e": null})), "1").expect("taken");
        let told = twin.change(whole(json!({"a": {"b": 1, "f": {"g": 1}}, "d": {"h": 1}})), "2").expect("taken");
        let expected = json!({"a": {"c": null, "f": {"g": 1}}, "d": {"h": 1}});
        assert_eq!(told.as_ref().map(|told| (told.version, &told.patch)), Some((3, &expected)));
        assert_eq!(twin.view()["desired"], json!({"a": {"b": 1, "f": {"g": 1}}, "d": {"h": 1}, "$version": 3}));
        let metadata = &twin.properties()["desired"]["$metadata"];
        assert_eq!(metadata["a"]["b"], json!({"$lastUpdated": "1", "$lastUpdatedVersion": 2}));
        assert_eq!(metadata["a"]["f"]["g"], json!({"$lastUpdated": "2", "$lastUpdatedVersion": 3}));
        assert_eq!((&metadata["a"]["c"], &metadata["$lastUpdated"]), (&Value::Null, &json!("2")));
    }

    #[test]
    fn a_change_is_taken_over_as_a_whole() {
        let mut twin = Twin::new("0");
        let change =
            |tags: Value, desired: Value, replaces: bool| Change { desired: Some(desired), tags: Some(tags), replaces };
        twin.change(change(json!({"site": {"floor": 1}}), json!({"a": 1}), false), "1").expect("taken");
        assert!(twin.change(change(json!({"site": null}), json!({"a b": 1}), false), "2").is_err());
        assert!(
            twin.change(change(json!({"x": "x".repeat(4096), "y": "x".repeat(4096)}), json!({}), false), "2").is_err()
        );
        assert_eq!((Value::Object(twin.tags().clone()), twin.edition()), (json!({"site": {"floor": 1}}), 2));
        twin.change(change(json!({"site": {"room": 7}}), json!({}), false), "2").expect("taken");
        assert_eq!(Value::Object(twin.tags().clone()), json!({"site": {"floor": 1, "room": 7}}));
        twin.change(Change { tags: Some(json!({})), replaces: true, ..Change::default() }, "3").expect("taken");
        assert!(twin.tags().is_empty() && twin.view()["desired"]["a"] == 1);
    }
}
