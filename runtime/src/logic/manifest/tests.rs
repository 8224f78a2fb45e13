//! Manifests as data: `tests/data/manifests`.

use serde_json::{Map, Value, json};

use super::{Reading, from_files, from_sections};
use crate::model::manifest::RestartPolicy;
use crate::model::reference::PullPolicy;

const BASE: &str = include_str!("../../../../tests/data/manifests/base.json");
const TUTORIAL: &str = include_str!("../../../../tests/data/manifests/tutorial.json");
const CASES: &str = include_str!("../../../../tests/data/manifests/cases.txt");
const LAYERS: &str = include_str!("../../../../tests/data/manifests/layers.txt");

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn long(line: &str) -> String {
    let (head, rest) = line.split_once(' ').expect("a word first");
    let path = match rest.split_at_checked(2) {
        Some(("A.", below)) => {
            format!("$edgeAgent.properties.desired.{}", below.replacen("S.", "modules.m1.settings.", 1))
        }
        Some(("H.", below)) => format!("$edgeHub.properties.desired.{below}"),
        Some(("A:", below)) => format!("$edgeAgent.properties.desired:{below}"),
        Some(("H:", below)) => format!("$edgeHub.properties.desired:{below}"),
        _ => rest.to_owned(),
    };
    format!("{head} {path}")
}

fn judge(name: &str, reading: &Reading, expected: &[&str]) {
    let notes: Vec<String> = reading.notes.iter().map(ToString::to_string).collect();
    for (at, line) in expected.iter().enumerate() {
        match (at, *line) {
            (0, "good") => assert!(reading.manifest.is_ok(), "{name}: {:?}", reading.manifest),
            (0, line) => {
                let refusal = reading.manifest.as_ref().err().unwrap_or_else(|| panic!("{name}: it is good"));
                let said = format!("{} {}", refusal.code, refusal.message);
                assert!(said.starts_with(&long(line)), "{name}: {said}");
            }
            (_, line) => {
                let line = long(line);
                assert!(notes.iter().any(|note| note.starts_with(&line)), "{name}: no {line:?} in {notes:#?}");
            }
        }
    }
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => drop(target.remove(key)),
            (Some(Value::Object(target)), Value::Object(patch)) => merge(target, patch),
            _ => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

fn cases(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    text.split("=== ").skip(1).map(|case| {
        let mut lines = case.lines().map(str::trim).filter(|line| !line.is_empty());
        (lines.next().expect("a name"), lines.collect())
    })
}

#[test]
fn manifests_are_taken_whole_or_refused_by_name() {
    let (base, reading) = from_files(&[json_of(BASE)]);
    assert!(reading.manifest.is_ok());
    let mut count = 0;
    for (name, lines) in cases(CASES) {
        let mut sections = base.clone();
        // Null removes, also where a patch brings it.
        merge(&mut sections, json_of(lines[0]).as_object().expect("a patch"));
        judge(name, &from_sections(&sections), &lines[1..]);
        count += 1;
    }
    assert!(count > 50, "{count}");
}

#[test]
fn layers_go_over_their_base() {
    for (name, lines) in cases(LAYERS) {
        let layers = lines.iter().take_while(|line| line.starts_with('{')).count();
        let files: Vec<Value> = [BASE].iter().chain(&lines[..layers]).map(|text| json_of(text)).collect();
        judge(name, &from_files(&files).1, &lines[layers..]);
    }
    let alone = json!({"modulesContent": {"$edgeAgent": {"properties.desired.modules.m2": {}}}});
    let (_, reading) = from_files(&[alone]);
    assert!(reading.manifest.unwrap_err().message.contains("name the base first"));
}

#[test]
fn the_vendors_tutorial_says_what_to_do() {
    let (_, reading) = from_files(&[json_of(TUTORIAL)]);
    let refusal = reading.manifest.as_ref().unwrap_err();
    let path = "$edgeAgent.properties.desired.modules.SimulatedTemperatureSensor.settings.image";
    assert!(refusal.message.starts_with(&format!("{path}: mcr.microsoft.com/")), "{refusal:?}");
    assert!(refusal.message.contains("build it from the same source with the SDK"), "{refusal:?}");
    let refused = reading.notes.iter().filter(|note| note.verdict == super::Verdict::Refused).count();
    assert_eq!(refused, 1, "{:#?}", reading.notes);
    // With a module in the place of the container it is good.
    let (_, reading) = from_files(&[json_of(
        &TUTORIAL.replace("mcr.microsoft.com/azureiotedge-simulated-temperature-sensor:1.5", "sysinfo"),
    )]);
    let manifest = reading.manifest.expect("good");
    assert_eq!(
        manifest.twins["SimulatedTemperatureSensor"],
        *json!({"SendData": true, "SendInterval": 5}).as_object().unwrap()
    );
    assert_eq!(manifest.routes.len(), 1);
}

#[test]
fn what_is_written_arrives() {
    let (mut sections, _) = from_files(&[json_of(BASE)]);
    let options = json!({"Cmd": ["a", "b c"], "Env": ["X=from options", "Y=y"], "WorkingDir": "w",
        "HostConfig": {"Memory": 33554432, "PidsLimit": 9, "Ulimits": [{"Name": "nofile", "Soft": 20, "Hard": 30}],
            "Devices": [{"PathOnHost": "/dev/null"}], "Binds": ["/srv:/srv", "/etc:/etc:ro"]},
        "skerry": {"hangAfter": "5s", "healthWindow": 7}});
    let module = json!({"type": "docker", "status": "stopped", "restartPolicy": "never", "startupOrder": 3, "version": "v",
        "imagePullPolicy": "never", "env": {"X": {"value": "wins"}, "N": {"value": 1.5}},
        "settings": {"image": "fil", "image01": "ter", "createOptions": options.to_string()}});
    sections["$edgeAgent"]["modules"] = json!({"m": module});
    sections["$edgeHub"]["routes"] =
        json!({"r": {"route": "FROM /* INTO $upstream", "priority": 3, "timeToLiveSecs": 9}});
    let manifest = from_sections(&sections).manifest.expect("good");
    let spec = &manifest.modules["m"];
    assert_eq!(spec.image.to_string(), "filter");
    assert_eq!((spec.running, spec.policy, spec.startup_order), (false, RestartPolicy::Never, 3));
    assert_eq!((spec.pull, spec.version.as_deref()), (PullPolicy::Never, Some("v")));
    assert_eq!(spec.setup.arguments, ["a", "b c"]);
    let env: Map<String, Value> = spec.setup.env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    assert_eq!(Value::Object(env), json!({"X": "wins", "Y": "y", "N": "1.5"}));
    let limits = (spec.setup.memory_bytes_max, spec.setup.processes_max, spec.setup.files_max);
    assert_eq!(limits, (Some(33_554_432), Some(9), Some(30)));
    assert_eq!(spec.setup.hang_after.map(|t| t.as_secs()), Some(5));
    assert_eq!(spec.setup.health_window.map(|t| t.as_secs()), Some(7));
    assert_eq!(spec.setup.writable, [std::path::PathBuf::from("/srv")]);
    assert_eq!(spec.setup.devices, [std::path::PathBuf::from("/dev/null")]);
    let digest = "0123456789abcdef".repeat(4);
    let pinned = json!({"image": "reg.example/filter:1.2", "digest": format!("sha256:{}", digest.to_uppercase())});
    sections["$edgeAgent"]["modules"]["m"]["settings"] = pinned;
    let pinned = from_sections(&sections).manifest.expect("good").modules["m"].image.to_string();
    assert_eq!(pinned, format!("oci://reg.example/filter@sha256:{digest}"));
    let route = &manifest.routes[0];
    assert_eq!((route.priority, route.ttl_secs), (Some(3), Some(9)));
    assert_eq!(manifest.ttl.map(|ttl| ttl.as_secs()), Some(7_200));
}
