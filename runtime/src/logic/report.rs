//! What `$edgeAgent` and `$edgeHub` report, in IoT Edge's schema (spec edge-runtime 2).
//! Must never hold a password, nor anything that a twin can't.

use serde_json::{Map, Value, json};

use crate::model::manifest::ModuleSpec;
use crate::model::time::Wall;

/// Bytes of one text of a twin, with some room.
const TEXT_BYTES_MAX: usize = 4_000;
/// Bytes of the whole section, with some room: a twin's is 32 KiB.
const SECTION_BYTES_MAX: usize = 30_000;
/// What never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `lastDesiredVersion` and `lastDesiredStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub version: u64,
    pub code: u16,
    pub description: String,
}

/// What is the same for both.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    pub version: &'a str,
    pub architecture: &'a str,
    /// Of the kernel.
    pub kernel: &'a str,
    pub started: Wall,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct Module<'a> {
    pub name: &'a str,
    pub spec: &'a ModuleSpec,
    /// SHA-256 of the image that runs.
    pub image_hash: Option<&'a str>,
    /// In the words of IoT Edge; `unknown` when the agent does not run.
    pub runtime_status: &'a str,
    pub description: String,
    pub exit_code: i32,
    pub last_start: Option<Wall>,
    pub last_exit: Option<Wall>,
    pub restarts: u32,
    pub last_restart: Option<Wall>,
}

/// A client of the hub.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    pub module: &'a str,
    pub connected: bool,
    pub connected_at: Option<Wall>,
    pub disconnected_at: Option<Wall>,
}

/// The agent's section. With more modules than a twin can hold in full, each tells less.
pub fn agent(program: &Program<'_>, desired: &Desired, modules: &[Module<'_>]) -> Map<String, Value> {
    let mut section = Map::new();
    for detail in [Detail::Full, Detail::Status, Detail::Word] {
        section = agent_with(program, desired, modules, detail);
        if Value::Object(section.clone()).to_string().len() <= SECTION_BYTES_MAX {
            break;
        }
    }
    section
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Full,
    /// Without settings and environment.
    Status,
    /// The status alone.
    Word,
}

fn agent_with(program: &Program<'_>, desired: &Desired, modules: &[Module<'_>], detail: Detail) -> Map<String, Value> {
    let ours = |name: &str| {
        let mut ours = json!({
            "type": "docker", "runtimeStatus": "running", "statusDescription": "running", "exitCode": 0,
            "lastStartTimeUtc": program.started.to_rfc3339(), "lastExitTimeUtc": NEVER, "imagePullPolicy": "never",
            "settings": {"image": format!("skerry:{}", program.version), "imageHash": "", "createOptions": "{}"}, "env": {},
        });
        if name == "edgeHub" {
            ours["status"] = "running".into();
            ours["restartPolicy"] = "always".into();
            ours["restartCount"] = 0.into();
            ours["lastRestartTimeUtc"] = NEVER.into();
            ours["startupOrder"] = 0.into();
        }
        ours
    };
    let shown: Map<String, Value> = modules.iter().map(|module| (key(module.name), one(module, detail))).collect();
    let mut section = both(program, desired);
    section.insert(
        "runtime".to_owned(),
        json!({
            "type": "docker",
            "platform": {"os": "linux", "architecture": program.architecture, "version": program.kernel},
            "settings": {"minDockerVersion": "", "loggingOptions": ""},
        }),
    );
    section.insert("systemModules".to_owned(), json!({"edgeAgent": ours("edgeAgent"), "edgeHub": ours("edgeHub")}));
    section.insert("modules".to_owned(), Value::Object(shown));
    section
}

fn both(program: &Program<'_>, desired: &Desired) -> Map<String, Value> {
    let section = json!({
        "schemaVersion": "1.0",
        "version": {"version": format!("skerry {}", program.version), "build": "", "commit": ""},
        "lastDesiredVersion": desired.version,
        "lastDesiredStatus": {"code": desired.code, "description": cut(&desired.description)},
    });
    match section {
        Value::Object(section) => section,
        _ => Map::new(),
    }
}

fn one(module: &Module<'_>, detail: Detail) -> Value {
    let spec = module.spec;
    if detail == Detail::Word {
        return json!({"runtimeStatus": module.runtime_status});
    }
    let time = |at: Option<Wall>| at.map_or_else(|| NEVER.to_owned(), Wall::to_rfc3339);
    let mut shown = json!({
        "type": "docker",
        "status": if spec.running { "running" } else { "stopped" },
        "restartPolicy": spec.policy.word(),
        "startupOrder": spec.startup_order,
        "imagePullPolicy": match spec.pull {
            crate::model::reference::PullPolicy::OnCreate => "on-create",
            crate::model::reference::PullPolicy::Never => "never",
        },
        "runtimeStatus": module.runtime_status,
        "statusDescription": cut(&module.description),
        "exitCode": module.exit_code,
        "lastStartTimeUtc": time(module.last_start),
        "lastExitTimeUtc": time(module.last_exit),
        "restartCount": module.restarts,
        "lastRestartTimeUtc": time(module.last_restart),
        "settings": {"image": cut(&spec.image.to_string()), "imageHash": module.image_hash.unwrap_or_default()},
    });
    if let Some(version) = &spec.version {
        shown["version"] = cut(version).into();
    }
    if detail == Detail::Full {
        for (name, value) in spec.written.get("settings").and_then(Value::as_object).into_iter().flatten() {
            if let Some(text) = value.as_str().filter(|_| name.starts_with("createOptions")) {
                shown["settings"][name] = cut(text).into();
            }
        }
        if shown["settings"]["createOptions"].is_null() {
            shown["settings"]["createOptions"] = "{}".into();
        }
        let env = spec.written.get("env").and_then(Value::as_object).cloned().unwrap_or_default();
        let env: Map<String, Value> = env.into_iter().map(|(name, value)| (key(&name), value)).collect();
        shown["env"] = Value::Object(env);
    }
    shown
}

/// The hub's section.
pub fn hub(program: &Program<'_>, desired: &Desired, device: &str, clients: &[Client<'_>]) -> Map<String, Value> {
    let mut section = both(program, desired);
    let shown: Map<String, Value> = clients
        .iter()
        .map(|client| {
            let mut shown = json!({"status": if client.connected { "Connected" } else { "Disconnected" }});
            if let Some(at) = client.connected_at {
                shown["lastConnectedTimeUtc"] = at.to_rfc3339().into();
            }
            if let Some(at) = client.disconnected_at {
                shown["lastDisconnectedTimeUtc"] = at.to_rfc3339().into();
            }
            (key(&format!("{device}/{}", client.module)), shown)
        })
        .collect();
    section.insert("clients".to_owned(), Value::Object(shown));
    section
}

/// A name as a twin can hold it.
fn key(name: &str) -> String {
    let mut key = String::new();
    for c in name.chars() {
        if c.is_control() || c.is_whitespace() || matches!(c, '.' | '$' | '#' | '%') {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| key.push_str(&format!("%{byte:02X}")));
        } else {
            key.push(c);
        }
    }
    key
}

fn cut(text: &str) -> String {
    match text.char_indices().map(|(at, c)| at + c.len_utf8()).find(|end| *end > TEXT_BYTES_MAX) {
        Some(_) => {
            text.char_indices().take_while(|(at, _)| *at < TEXT_BYTES_MAX - 8).map(|(_, c)| c).chain(['…']).collect()
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ImageRef;
    use crate::model::manifest::{RestartPolicy, SetupSpec};
    use crate::model::reference::{PullPolicy, Reference};

    fn spec() -> ModuleSpec {
        let written = json!({"settings": {"image": "filter", "createOptions": "{\"a\":", "createOptions01": "1}", "digest": "x"},
            "env": {"A": {"value": 1}, "B.C": {"value": "x"}}});
        ModuleSpec {
            image: Reference::Named(ImageRef { name: "filter".into(), version: None }),
            version: Some("1.0".into()),
            running: true,
            policy: RestartPolicy::OnUnhealthy,
            startup_order: 7,
            pull: PullPolicy::Never,
            setup: SetupSpec::default(),
            written: written.as_object().cloned().unwrap_or_default(),
        }
    }

    fn module<'a>(name: &'a str, spec: &'a ModuleSpec) -> Module<'a> {
        Module {
            name,
            spec,
            image_hash: Some("abc"),
            runtime_status: "backoff",
            description: "killed by SIGKILL".into(),
            exit_code: 137,
            last_start: Some(Wall(0)),
            last_exit: None,
            restarts: 2,
            last_restart: Some(Wall(1_000)),
        }
    }

    const PROGRAM: Program<'static> =
        Program { version: "0.1.0", architecture: "x86_64", kernel: "6.1", started: Wall(0) };

    #[test]
    fn the_agents_section_has_the_fields_of_the_field() {
        let spec = spec();
        let desired = Desired { version: 7, code: 200, description: String::new() };
        let section = Value::Object(agent(&PROGRAM, &desired, &[module("m.1", &spec)]));
        assert_eq!(section["lastDesiredVersion"], 7);
        assert_eq!(section["lastDesiredStatus"], json!({"code": 200, "description": ""}));
        assert_eq!(section["runtime"]["platform"]["os"], "linux");
        assert_eq!(section["systemModules"]["edgeHub"]["runtimeStatus"], "running");
        let expected = json!({"type": "docker", "status": "running", "restartPolicy": "on-unhealthy", "startupOrder": 7,
            "imagePullPolicy": "never", "version": "1.0", "runtimeStatus": "backoff", "statusDescription": "killed by SIGKILL",
            "exitCode": 137, "lastStartTimeUtc": "1970-01-01T00:00:00.000Z", "lastExitTimeUtc": NEVER, "restartCount": 2,
            "lastRestartTimeUtc": "1970-01-01T00:00:01.000Z", "env": {"A": {"value": 1}, "B%2EC": {"value": "x"}},
            "settings": {"image": "filter", "imageHash": "abc", "createOptions": "{\"a\":", "createOptions01": "1}"}});
        assert_eq!(section["modules"]["m%2E1"], expected);
    }

    #[test]
    fn many_modules_tell_less_each() {
        let spec = spec();
        for count in [10, 60, 100, 400] {
            let names: Vec<String> = (0..count).map(|n| format!("module-{n}")).collect();
            let modules: Vec<Module<'_>> = names.iter().map(|name| module(name, &spec)).collect();
            let section = agent(&PROGRAM, &Desired::default(), &modules);
            assert_eq!(section["modules"].as_object().map(Map::len), Some(count));
            assert!(Value::Object(section).to_string().len() <= SECTION_BYTES_MAX, "{count}");
        }
    }

    #[test]
    fn the_hub_knows_its_clients() {
        let client = Client { module: "m", connected: true, connected_at: Some(Wall(0)), disconnected_at: None };
        let section = hub(&PROGRAM, &Desired::default(), "d", &[client]);
        let expected = json!({"d/m": {"status": "Connected", "lastConnectedTimeUtc": "1970-01-01T00:00:00.000Z"}});
        assert_eq!(section["clients"], expected);
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "ä".repeat(5_000);
        assert!(cut(&long).len() <= TEXT_BYTES_MAX && cut(&long).ends_with('…'));
        assert_eq!(cut("short"), "short");
    }
}
