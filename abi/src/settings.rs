//! Fits desired properties to a module's `Settings`, and holds `settings.json` equal to their defaults.
//! Must never let a value through that does not fit its type: the old settings stay instead.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::description::{Declared, Setting};

/// Settings of a module that has none.
///
/// ```
/// use skerry_abi::{Context, Message, Module, NoSettings, Result};
/// struct Quiet;
/// impl Module for Quiet {
///     type Settings = NoSettings;
///     fn start(_: &Context, _: NoSettings) -> Result<Self> {
///         Ok(Quiet)
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct NoSettings {}

/// Desired properties that fit, and the keys among them that nobody reads.
pub(crate) struct Fitted<S> {
    pub(crate) settings: S,
    pub(crate) unknown: Vec<String>,
}

/// `desired` is the whole desired section. Keys that begin with `$` are the cloud's own.
pub(crate) fn fit<S>(desired: &str, declared: &Declared) -> Result<Fitted<S>, String>
where
    S: Serialize + DeserializeOwned + Default,
{
    let desired: Map<String, Value> =
        serde_json::from_str(desired).map_err(|error| format!("desired properties are not a JSON object: {error}"))?;
    let desired: Map<String, Value> =
        desired.into_iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null()).collect();
    let settings = serde_json::from_value(Value::Object(desired.clone()))
        .map_err(|error| name_the_key::<S>(&desired).unwrap_or_else(|| error.to_string()))?;
    let known = serde_json::to_value(S::default()).unwrap_or_default();
    let mut unknown = Vec::new();
    collect_unknown("", &desired, &known, &declared.settings, &mut unknown);
    Ok(Fitted { settings, unknown })
}

/// serde says what is wrong but not where: one key at a time, over the defaults, finds it.
fn name_the_key<S: DeserializeOwned>(desired: &Map<String, Value>) -> Option<String> {
    desired.iter().find_map(|(key, value)| {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        serde_json::from_value::<S>(alone).err().map(|error| format!("{key}: {error}"))
    })
}

fn collect_unknown(
    prefix: &str,
    desired: &Map<String, Value>,
    known: &Value,
    declared: &BTreeMap<String, Setting>,
    unknown: &mut Vec<String>,
) {
    for (key, value) in desired {
        let path = format!("{prefix}{key}");
        match (known.get(key), value) {
            // An empty object is a map of the author's: its keys are free.
            (Some(Value::Object(inner)), Value::Object(value)) if !inner.is_empty() => {
                collect_unknown(&format!("{path}."), value, &Value::Object(inner.clone()), &BTreeMap::new(), unknown);
            }
            (Some(_), _) => {}
            // A field that is left out of the defaults may still be declared.
            (None, _) if declared.contains_key(key) => {}
            (None, _) => unknown.push(path),
        }
    }
}

/// For the test that `export_module!` generates: keys and values of `settings.json` against `Settings::default()`.
#[doc(hidden)]
pub fn check_defaults<S: Serialize + Default>(declared: &Declared) -> Result<(), String> {
    let defaults = match serde_json::to_value(S::default()) {
        Ok(Value::Object(defaults)) => defaults,
        Ok(Value::Null) => Map::new(),
        Ok(_) => return Err("Settings must be a struct with named fields".to_owned()),
        Err(error) => return Err(format!("Settings::default() can't be written as JSON: {error}")),
    };
    for (key, value) in &defaults {
        match declared.settings.get(key) {
            None => return Err(format!("settings.json lacks the setting {key:?}, whose default is {value}")),
            Some(setting) if !same(&setting.default, value) => {
                return Err(format!(
                    "settings.json gives {key:?} the default {}, the code has {value}",
                    setting.default
                ));
            }
            Some(_) => {}
        }
    }
    match declared.settings.iter().find(|(key, setting)| !defaults.contains_key(*key) && !setting.default.is_null()) {
        Some((key, _)) => Err(format!("settings.json has the setting {key:?}, which Settings has not")),
        None => Ok(()),
    }
}

/// Equal values, where 25 is 25.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize, serde::Serialize)]
    #[serde(default)]
    struct Settings {
        threshold: f64,
        limits: Limits,
        labels: BTreeMap<String, String>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
    #[serde(default)]
    struct Limits {
        low: i32,
    }

    impl Default for Settings {
        fn default() -> Settings {
            Settings { threshold: 25.0, limits: Limits::default(), labels: BTreeMap::new() }
        }
    }

    fn check(desired: &str, expected: Result<(f64, &[&str]), &str>) {
        match (fit::<Settings>(desired, &Declared::default()), expected) {
            (Ok(fitted), Ok((threshold, unknown))) => {
                assert_eq!(fitted.settings.threshold, threshold, "{desired}");
                assert_eq!(fitted.unknown, unknown, "{desired}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{desired}: {error}"),
            (Ok(_), Err(part)) => panic!("{desired} fits, expected {part}"),
            (Err(error), Ok(_)) => panic!("{desired}: {error}"),
        }
    }

    #[test]
    fn desired_properties_fit_or_are_refused() {
        check("{}", Ok((25.0, &[])));
        check(r#"{"threshold": 3, "$version": 7, "$metadata": {}}"#, Ok((3.0, &[])));
        check(r#"{"threshold": null}"#, Ok((25.0, &[])));
        check(r#"{"treshold": 3}"#, Ok((25.0, &["treshold"])));
        check(r#"{"limits": {"low": 1, "hihg": 2}, "labels": {"free": "x"}}"#, Ok((25.0, &["limits.hihg"])));
        check(r#"{"labels": {}, "threshold": "warm"}"#, Err("threshold: invalid type: string \"warm\""));
        check(r#"{"limits": {"low": 1.5}}"#, Err("limits: "));
        check("[]", Err("not a JSON object"));
    }

    #[test]
    fn settings_json_is_held_to_the_defaults() {
        let declared = |text: &str| serde_json::from_str::<Declared>(text).unwrap();
        let all = r#"{"settings": {"threshold": {"default": 25}, "limits": {"default": {"low": 0}}, "labels": {"default": {}}}}"#;
        assert_eq!(check_defaults::<Settings>(&declared(all)), Ok(()));
        assert!(
            check_defaults::<Settings>(&declared(&all.replace("25", "26"))).unwrap_err().contains("the code has 25.0")
        );
        assert!(check_defaults::<Settings>(&declared(&all.replace("threshold", "t"))).unwrap_err().contains("lacks"));
        assert!(check_defaults::<NoSettings>(&declared(all)).unwrap_err().contains("which Settings has not"));
    }
}
