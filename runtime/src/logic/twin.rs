//! The twin of one identity: desired and reported properties, each with a version that counts its changes.
//! A patch is judged as a whole before anything is stored. Must never keep half a patch, and never a value that a cloud
//! would refuse later, when the sender can't be told any more.

use std::fmt;

use serde_json::{Map, Value};

/// Deepest object or array; the root is depth 0. The cloud's rule.
pub const TWIN_DEPTH_MAX: usize = 10;
/// Longest name of a property, UTF-8 bytes. The cloud's rule.
pub const TWIN_NAME_BYTES_MAX: usize = 1_024;
/// Longest text, and longest text of a real number, UTF-8 bytes. The cloud's rule.
pub const TWIN_TEXT_BYTES_MAX: usize = 4_096;
/// Integers outside are refused: the cloud keeps 52 bits and a sign.
pub const TWIN_INTEGER_MIN: i64 = -4_503_599_627_370_496;
pub const TWIN_INTEGER_MAX: i64 = 4_503_599_627_370_495;
/// Largest patch, and largest section after the merge, as compact JSON in bytes. The field's hub checks the patch
/// alone, the cloud the section: a section that could never be synchronised is refused at once.
pub const TWIN_SECTION_BYTES_MAX: usize = 32 * 1024;

/// Which rule a patch breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TwinRule {
    NotAnObject,
    Depth,
    NameLength { bytes: usize },
    NameCharacter { character: char },
    TextLength { bytes: usize },
    IntegerRange,
    NullInArray,
    PatchSize { bytes: usize },
    SectionSize { bytes: usize },
    ReservedName,
}

/// A refused patch. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinError {
    /// JSON path of the culprit, beginning with `$`.
    pub path: String,
    pub rule: TwinRule,
}

impl fmt::Display for TwinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.rule {
            TwinRule::NotAnObject => write!(f, "a patch must be a JSON object"),
            TwinRule::Depth => write!(f, "nested deeper than {TWIN_DEPTH_MAX} levels"),
            TwinRule::NameLength { bytes } => {
                write!(f, "a name of {bytes} bytes: the limit is {TWIN_NAME_BYTES_MAX}")
            }
            TwinRule::NameCharacter { character } => {
                write!(f, "a name with {character:?}: blanks, control characters, '.', '$' and '#' are not allowed")
            }
            TwinRule::TextLength { bytes } => {
                write!(f, "a value of {bytes} bytes: the limit is {TWIN_TEXT_BYTES_MAX}")
            }
            TwinRule::IntegerRange => {
                write!(f, "an integer outside {TWIN_INTEGER_MIN} to {TWIN_INTEGER_MAX}: send it as a text")
            }
            TwinRule::NullInArray => write!(f, "null deletes a property, and can't stand inside an array"),
            TwinRule::PatchSize { bytes } => {
                write!(f, "a patch of {bytes} bytes: the limit is {TWIN_SECTION_BYTES_MAX}")
            }
            TwinRule::SectionSize { bytes } => {
                write!(f, "the properties would have {bytes} bytes: the limit is {TWIN_SECTION_BYTES_MAX}")
            }
            TwinRule::ReservedName => write!(f, "this name is kept for the version and can't be set"),
        }
    }
}

impl std::error::Error for TwinError {}

/// See the head of this file. Versions begin at 1 with an empty section, as in the cloud.
#[derive(Clone, Debug, PartialEq)]
pub struct Twin {
    desired: Map<String, Value>,
    desired_version: u64,
    reported: Map<String, Value>,
    reported_version: u64,
}

impl Default for Twin {
    fn default() -> Twin {
        Twin { desired: Map::new(), desired_version: 1, reported: Map::new(), reported_version: 1 }
    }
}

impl Twin {
    pub fn new() -> Twin {
        Twin::default()
    }
    /// From storage or from the cloud; taken as it is.
    pub fn from_parts(
        desired: Map<String, Value>,
        desired_version: u64,
        reported: Map<String, Value>,
        reported_version: u64,
    ) -> Twin {
        Twin { desired, desired_version, reported, reported_version }
    }

    /// The reverse of `to_json`; `None` for anything else.
    pub fn from_json(mut value: Value) -> Option<Twin> {
        let mut section = |name: &str| -> Option<(Map<String, Value>, u64)> {
            let Value::Object(mut section) = value.get_mut(name)?.take() else { return None };
            let version = section.remove("$version")?.as_u64()?;
            Some((section, version))
        };
        let (desired, desired_version) = section("desired")?;
        let (reported, reported_version) = section("reported")?;
        Some(Twin::from_parts(desired, desired_version, reported, reported_version))
    }

    pub fn desired(&self) -> &Map<String, Value> {
        &self.desired
    }
    pub fn desired_version(&self) -> u64 {
        self.desired_version
    }
    pub fn reported(&self) -> &Map<String, Value> {
        &self.reported
    }
    pub fn reported_version(&self) -> u64 {
        self.reported_version
    }

    /// Merges a patch into the desired properties; gives the new version.
    pub fn apply_desired(&mut self, patch: &Value) -> Result<u64, TwinError> {
        let merged = judged(&self.desired, patch)?;
        self.desired = merged;
        self.desired_version = self.desired_version.saturating_add(1);
        Ok(self.desired_version)
    }

    /// Merges a patch into the reported properties; gives the new version.
    pub fn apply_reported(&mut self, patch: &Value) -> Result<u64, TwinError> {
        let merged = judged(&self.reported, patch)?;
        self.reported = merged;
        self.reported_version = self.reported_version.saturating_add(1);
        Ok(self.reported_version)
    }

    /// Merges a desired patch that the cloud sent, under its version. False, and nothing merged, when it does not follow
    /// on: then the whole twin has to be asked for. Not judged: the cloud did, and counts sizes in its own way.
    pub fn follow_desired(&mut self, patch: &Map<String, Value>, version: u64) -> bool {
        if self.desired_version.checked_add(1) != Some(version) {
            return false;
        }
        merge(&mut self.desired, patch);
        self.desired_version = version;
        true
    }

    /// Puts a whole desired section from the cloud in the place of the old one; not judged, as in `follow_desired`.
    pub fn adopt_desired(&mut self, section: Map<String, Value>, version: u64) {
        self.desired = section;
        self.desired_version = version;
    }

    /// Of an instance that has lost its own, from the cloud; not judged, as above.
    pub fn adopt_reported(&mut self, section: Map<String, Value>) {
        self.reported = section;
    }

    /// `{"desired":{…,"$version":n},"reported":{…,"$version":n}}`, as a module gets it.
    pub fn to_json(&self) -> Value {
        let section = |properties: &Map<String, Value>, version: u64| {
            let mut section = properties.clone();
            section.insert("$version".to_owned(), version.into());
            Value::Object(section)
        };
        let mut twin = Map::new();
        twin.insert("desired".to_owned(), section(&self.desired, self.desired_version));
        twin.insert("reported".to_owned(), section(&self.reported, self.reported_version));
        Value::Object(twin)
    }
}

/// JSON merge patch: objects merge, null deletes, everything else replaces.
pub fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) => {
                let slot = target.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    merge(slot, inner);
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

/// The patch that leads from one section to another.
pub fn difference(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in to {
        match (from.get(name), new) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(name.clone(), Value::Object(difference(old, new)));
            }
            _ => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
    patch
}

/// Checks every rule without storing anything.
pub fn validate(patch: &Value) -> Result<(), TwinError> {
    let Value::Object(root) = patch else {
        return Err(TwinError { path: "$".to_owned(), rule: TwinRule::NotAnObject });
    };
    let mut path = Path(vec!["$".to_owned()]);
    object(root, &mut path, 0, false)?;
    let bytes = size(root);
    if bytes > TWIN_SECTION_BYTES_MAX {
        return Err(path.broken(TwinRule::PatchSize { bytes }));
    }
    Ok(())
}

fn judged(section: &Map<String, Value>, patch: &Value) -> Result<Map<String, Value>, TwinError> {
    validate(patch)?;
    let mut merged = section.clone();
    if let Value::Object(patch) = patch {
        merge(&mut merged, patch);
    }
    // Deeper than the patch alone it can't become: an object of the patch lies where it lay.
    let bytes = size(&merged);
    if bytes > TWIN_SECTION_BYTES_MAX {
        // A section that was too large before (from the cloud, or an older version) may still shrink.
        if bytes >= size(section) {
            return Err(TwinError { path: "$".to_owned(), rule: TwinRule::SectionSize { bytes } });
        }
    }
    Ok(merged)
}

fn size(section: &Map<String, Value>) -> usize {
    // Writing a map of plain values to a string can't fail; if it did, the section would count as too large.
    serde_json::to_string(section).map_or(usize::MAX, |text| text.len())
}

/// Where the walk stands; only joined when something is wrong.
struct Path(Vec<String>);

impl Path {
    fn broken(&self, rule: TwinRule) -> TwinError {
        TwinError { path: self.0.concat(), rule }
    }
}

fn object(map: &Map<String, Value>, path: &mut Path, depth: usize, in_array: bool) -> Result<(), TwinError> {
    if depth > TWIN_DEPTH_MAX {
        return Err(path.broken(TwinRule::Depth));
    }
    for (key, value) in map {
        path.0.push(format!(".{}", key.chars().take(64).collect::<String>()));
        name(key, path, depth)?;
        if in_array && value.is_null() {
            return Err(path.broken(TwinRule::NullInArray));
        }
        any(value, path, depth, in_array)?;
        path.0.pop();
    }
    Ok(())
}

fn name(key: &str, path: &Path, depth: usize) -> Result<(), TwinError> {
    if key.len() > TWIN_NAME_BYTES_MAX {
        return Err(path.broken(TwinRule::NameLength { bytes: key.len() }));
    }
    if depth == 0 && (key == "$version" || key == "$metadata") {
        return Err(path.broken(TwinRule::ReservedName));
    }
    let refused = |c: &char| c.is_control() || c.is_whitespace() || matches!(c, '.' | '$' | '#');
    match key.chars().find(refused) {
        Some(character) => Err(path.broken(TwinRule::NameCharacter { character })),
        None => Ok(()),
    }
}

fn any(value: &Value, path: &mut Path, depth: usize, in_array: bool) -> Result<(), TwinError> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(text) => length(text.len(), path),
        Value::Number(number) if number.is_f64() => length(number.to_string().len(), path),
        Value::Number(number) => match number.as_i64() {
            Some(n) if (TWIN_INTEGER_MIN..=TWIN_INTEGER_MAX).contains(&n) => Ok(()),
            _ => Err(path.broken(TwinRule::IntegerRange)),
        },
        Value::Object(map) => object(map, path, depth + 1, in_array),
        Value::Array(elements) => array(elements, path, depth + 1),
    }
}

fn array(elements: &[Value], path: &mut Path, depth: usize) -> Result<(), TwinError> {
    if depth > TWIN_DEPTH_MAX {
        return Err(path.broken(TwinRule::Depth));
    }
    for (index, element) in elements.iter().enumerate() {
        path.0.push(format!("[{index}]"));
        if element.is_null() {
            return Err(path.broken(TwinRule::NullInArray));
        }
        any(element, path, depth, true)?;
        path.0.pop();
    }
    Ok(())
}

fn length(bytes: usize, path: &Path) -> Result<(), TwinError> {
    if bytes > TWIN_TEXT_BYTES_MAX { Err(path.broken(TwinRule::TextLength { bytes })) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }))
    }

    #[test]
    fn patches_merge_and_versions_count() {
        let mut twin = Twin::new();
        assert_eq!(twin.to_json(), json!({ "desired": { "$version": 1 }, "reported": { "$version": 1 } }));
        assert_eq!(twin.apply_reported(&json!({ "a": { "b": 1, "c": 2 }, "d": [1, { "e": true }] })), Ok(2));
        assert_eq!(twin.apply_reported(&json!({ "a": { "b": null, "x": "y" }, "gone": null })), Ok(3));
        assert_eq!(twin.apply_reported(&json!({ "d": { "now": "object", "no": null } })), Ok(4));
        assert_eq!(
            *twin.reported(),
            *json!({ "a": { "c": 2, "x": "y" }, "d": { "now": "object" } }).as_object().unwrap()
        );
        assert_eq!(twin.desired_version(), 1);
        assert_eq!(twin.apply_desired(&json!({})), Ok(2));
    }

    #[test]
    fn the_clouds_patches_must_follow_on() {
        let mut twin = Twin::new();
        let patch = json!({ "a": 1, "old": null });
        assert!(!twin.follow_desired(patch.as_object().unwrap(), 3));
        assert_eq!(twin, Twin::new());
        assert!(twin.follow_desired(patch.as_object().unwrap(), 2));
        twin.adopt_desired(json!({ "b": 2 }).as_object().unwrap().clone(), 9);
        assert_eq!(twin.to_json()["desired"], json!({ "b": 2, "$version": 9 }));
    }

    /// A refused patch changes nothing, and the error names path and rule.
    #[track_caller]
    fn check(patch: Value, path: &str, part: &str) {
        let mut twin = Twin::new();
        twin.apply_reported(&json!({ "kept": 1 })).unwrap();
        let before = twin.clone();
        let error = twin.apply_reported(&patch).unwrap_err();
        assert_eq!(error.path, path, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(twin, before);
    }

    #[test]
    fn every_rule_is_named() {
        let long = "n".repeat(1_025);
        check(json!([1]), "$", "JSON object");
        check(nested(11), "$.a.a.a.a.a.a.a.a.a.a.a", "10 levels");
        check(json!({ (long): 1 }), &format!("$.{}", "n".repeat(64)), "1025 bytes");
        check(json!({ "a": { "b c": 1 } }), "$.a.b c", "' '");
        check(json!({ "a.b": 1 }), "$.a.b", "'.'");
        check(json!({ "a$": 1 }), "$.a$", "'$'");
        check(json!({ "#": 1 }), "$.#", "'#'");
        check(json!({ "a\u{7}": 1 }), "$.a\u{7}", "control");
        check(json!({ "a\u{a0}": 1 }), "$.a\u{a0}", "blanks");
        check(json!({ "$version": 5 }), "$.$version", "kept for the version");
        check(json!({ "a": "x".repeat(4_097) }), "$.a", "4097 bytes");
        check(json!({ "a": ["é".repeat(2_049)] }), "$.a[0]", "4098 bytes");
        check(json!({ "a": 4_503_599_627_370_496_i64 }), "$.a", "outside");
        check(json!({ "a": -4_503_599_627_370_497_i64 }), "$.a", "outside");
        check(json!({ "a": u64::MAX }), "$.a", "outside");
        check(json!({ "a": [1, null] }), "$.a[1]", "inside an array");
        check(json!({ "a": [[null]] }), "$.a[0][0]", "inside an array");
        check(json!({ "a": [{ "b": { "c": null } }] }), "$.a[0].b.c", "inside an array");
        let wide: Map<String, Value> = (0..9).map(|i| (format!("k{i}"), json!("x".repeat(4_000)))).collect();
        check(Value::Object(wide), "$", "a patch of");
    }

    #[test]
    fn limits_themselves_are_allowed() {
        let mut twin = Twin::new();
        twin.apply_reported(&nested(10)).unwrap();
        twin.apply_reported(&json!({ ("n".repeat(1_024)): "x".repeat(4_096), "": 1, "é": 1.5e300, "never": null }))
            .unwrap();
        twin.apply_reported(&json!({ "a": TWIN_INTEGER_MIN, "b": TWIN_INTEGER_MAX, "c": [], "d": {} })).unwrap();
    }

    #[test]
    fn the_merged_section_is_limited_too() {
        let mut twin = Twin::new();
        let part = |name: &str| json!({ (name): vec!["x".repeat(4_000); 4] });
        twin.apply_desired(&part("a")).unwrap();
        twin.apply_desired(&part("b")).unwrap();
        let before = twin.clone();
        let error = twin.apply_desired(&part("c")).unwrap_err();
        assert!(matches!(error.rule, TwinRule::SectionSize { bytes } if bytes > TWIN_SECTION_BYTES_MAX), "{error}");
        assert_eq!(twin, before);
        twin.apply_desired(&json!({ "a": null })).unwrap();
        twin.apply_desired(&part("c")).unwrap();
    }

    #[test]
    fn a_section_that_was_too_large_may_shrink() {
        let large: Map<String, Value> = (0..20).map(|i| (format!("k{i}"), json!("x".repeat(4_000)))).collect();
        let mut twin = Twin::from_parts(large, 7, Map::new(), 1);
        assert!(twin.apply_desired(&json!({ "one": 1 })).is_err());
        assert_eq!(twin.apply_desired(&json!({ "k0": null })), Ok(8));
    }

    #[test]
    fn difference_leads_from_one_section_to_another() {
        let from = json!({ "a": 1, "b": { "c": 1, "d": [1] }, "e": 5 });
        let to = json!({ "a": 2, "b": { "c": 1, "d": [2], "n": {} }, "f": "x" });
        let (from, to) = (from.as_object().unwrap(), to.as_object().unwrap());
        let patch = difference(from, to);
        assert_eq!(Value::Object(patch.clone()), json!({ "a": 2, "b": { "d": [2], "n": {} }, "e": null, "f": "x" }));
        let mut merged = from.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, *to);
    }
}
