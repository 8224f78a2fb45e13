//! `$edgeAgent`: the modules, how each runs, and where their images come from.
//! Must never look at what a system module asks for: agent and hub are this program.

use serde_json::{Map, Value};

use super::create;
use super::node::Node;
use crate::model::config::instance_name_fault;
use crate::model::identity::Secret;
use crate::model::manifest::{Manifest, ModuleSpec, RestartPolicy, STARTUP_ORDER_DEFAULT};
use crate::model::reference::{PullPolicy, Reference, RegistryCredentials};

const MINOR_MAX: u32 = 1;
/// Pieces that one text may be cut into, because a twin's text is short.
const PIECES_MAX: usize = 100;
const PULL_POLICIES: [(&str, PullPolicy); 2] = [("on-create", PullPolicy::OnCreate), ("never", PullPolicy::Never)];
/// Publishes container images only.
const CONTAINERS_ONLY: &str = "mcr.microsoft.com/";

pub(super) fn read(root: &Node<'_>, manifest: &mut Manifest) {
    if schema_minor(root, MINOR_MAX).is_none() {
        return;
    }
    root.only(&["schemaVersion", "runtime", "systemModules", "modules", "integrity"]);
    if let Some(runtime) = root.required("runtime") {
        self::runtime(&runtime, manifest);
    }
    if let Some(system) = root.required("systemModules") {
        system_modules(&system);
    }
    for (name, node) in root.child("modules").iter().flat_map(Node::children) {
        if let Some(spec) = module(name, &node) {
            manifest.modules.insert(name.to_owned(), spec);
        }
    }
    if let Some(integrity) = root.child("integrity") {
        integrity.ignore("signatures of manifests are not checked; those of images are");
    }
}

/// The minor version of a schema 1.x that is known.
pub(super) fn schema_minor(root: &Node<'_>, minor_max: u32) -> Option<u32> {
    let path = format!("{}.schemaVersion", root.path);
    let known = || format!("expected \"1.0\" to \"1.{minor_max}\"");
    let Some(node) = root.child("schemaVersion") else {
        root.findings.refuse_schema(&path, &format!("it is missing; {}", known()));
        return None;
    };
    let text = node.value.as_str().unwrap_or_default();
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    let version = (parts.next().flatten(), parts.next().flatten(), parts.next().unwrap_or(Some(0)), parts.next());
    match version {
        (Some(1), Some(minor), Some(0), None) if minor <= minor_max => Some(minor),
        _ => {
            root.findings.refuse_schema(&path, &format!("{}, found {}", known(), node.value));
            None
        }
    }
}

fn runtime(node: &Node<'_>, manifest: &mut Manifest) {
    node.only(&["type", "settings"]);
    if let Some(kind) = node.required("type") {
        docker(&kind);
    }
    let Some(settings) = node.child("settings") else { return };
    settings.only(&["minDockerVersion", "loggingOptions", "registryCredentials"]);
    if let Some(version) = settings.child("minDockerVersion") {
        version.ignore("there is no container engine here");
    }
    if let Some(options) = settings.child("loggingOptions") {
        logging(&options);
    }
    for (name, node) in settings.child("registryCredentials").iter().flat_map(Node::children) {
        node.only(&["address", "username", "password"]);
        let part = |key| node.required(key).and_then(|part| part.text());
        let (Some(address), Some(username), Some(password)) = (part("address"), part("username"), part("password"))
        else {
            continue;
        };
        node.map(&format!("sent to {address} when an image is pulled from there"));
        let (address, username) = (address.to_owned(), username.to_owned());
        let password = Secret::new(password.as_bytes().to_vec());
        let _ = name;
        manifest.registries.push(RegistryCredentials { address, username, password });
    }
}

/// What a container engine would be told of logs, as JSON in a text.
fn logging(options: &Node<'_>) {
    match options.value {
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) if serde_json::from_str::<Map<String, Value>>(text).is_err() => {
            options.refuse("it must hold a JSON object, as a text");
        }
        Value::String(_) | Value::Object(_) => {
            options.ignore("how module logs are kept is the device's: [log] in config.toml")
        }
        _ => options.refuse("expected a text that holds JSON"),
    }
}

/// The only type that the schema knows. What runs is a process all the same.
fn docker(kind: &Node<'_>) {
    if kind.text().is_some_and(|text| text != "docker") {
        kind.refuse(&format!("expected \"docker\", the only type of the schema, found {}", kind.value));
    }
}

fn system_modules(node: &Node<'_>) {
    node.only(&["edgeAgent", "edgeHub"]);
    for name in ["edgeAgent", "edgeHub"] {
        let Some(module) = node.required(name) else { continue };
        if let Some(kind) = module.required("type") {
            docker(&kind);
        }
        let Some(settings) = module.required("settings") else { continue };
        if let Some(image) = settings.required("image").and_then(|image| image.text().map(str::to_owned)) {
            module.ignore(&format!("skerry itself is the {name}; the container image {image} is not needed"));
        }
    }
}

fn module(name: &str, node: &Node<'_>) -> Option<ModuleSpec> {
    if ["edgeAgent", "edgeHub"].contains(&name) {
        node.refuse("this name is reserved; system modules stand under systemModules");
        return None;
    }
    if let Some(fault) = instance_name_fault(name) {
        node.refuse(&format!("{name:?} can't be a module's name: expected {fault}"));
        return None;
    }
    node.object()?;
    node.only(&["type", "version", "status", "restartPolicy", "startupOrder", "imagePullPolicy", "env", "settings"]);
    if let Some(kind) = node.required("type") {
        docker(&kind);
    }
    let status = node.child("status").map(|status| status.word(&[("running", true), ("stopped", false)]));
    let policy = node.child("restartPolicy").map(|policy| policy.word(&RestartPolicy::WORDS));
    let order = node.child("startupOrder").map(|order| order.whole(0..=u64::from(STARTUP_ORDER_DEFAULT)));
    let pull = node.child("imagePullPolicy").map(|pull| pull.word(&PULL_POLICIES));
    let version = node.child("version").and_then(|version| version.text());
    let settings = node.required("settings")?;
    settings.object()?;
    settings_keys(&settings);
    let image = settings.required("image").and_then(|_| reference(&settings));
    let mut setup = match pieces(&settings, "createOptions") {
        Some(options) if !options.trim().is_empty() => {
            create::read(&options, &format!("{}.createOptions", settings.path), node.findings)
        }
        _ => Default::default(),
    };
    for (key, value) in node.child("env").iter().flat_map(Node::children) {
        if let Some(text) = env(key, &value) {
            setup.env.insert(key.to_owned(), text);
        }
    }
    Some(ModuleSpec {
        image: image?,
        version: version.map(str::to_owned),
        running: status.flatten().unwrap_or(true),
        policy: policy.flatten().unwrap_or(RestartPolicy::OnUnhealthy),
        startup_order: order.flatten().map_or(STARTUP_ORDER_DEFAULT, |order| order as u32),
        pull: pull.flatten().unwrap_or(PullPolicy::OnCreate),
        setup,
        written: written(node, &settings),
    })
}

/// `settings` and `env`, for the report.
fn written(node: &Node<'_>, settings: &Node<'_>) -> Map<String, Value> {
    let env = node.child("env").map_or_else(|| Value::Object(Map::new()), |env| env.value.clone());
    [("settings".to_owned(), settings.value.clone()), ("env".to_owned(), env)].into_iter().collect()
}

fn settings_keys(settings: &Node<'_>) {
    for (key, child) in settings.children() {
        let piece = |name: &str| key.strip_prefix(name).is_some_and(|n| n.len() == 2 && n.parse::<u8>().is_ok());
        if !["image", "createOptions", "digest"].contains(&key) && !piece("image") && !piece("createOptions") {
            child.ignore("not a key that is known here");
        }
    }
}

/// A text, or its pieces `NAME`, `NAME01`, `NAME02` … put together.
fn pieces(settings: &Node<'_>, name: &str) -> Option<String> {
    let first = settings.child(name)?;
    // Tools let people write it as what it is.
    if name == "createOptions" && first.value.is_object() {
        return Some(first.value.to_string());
    }
    let mut whole = first.text()?.to_owned();
    let key = |number: usize| format!("{name}{number:02}");
    let mut number = 1;
    while let Some(piece) = settings.child(&key(number)) {
        whole.push_str(piece.text()?);
        number += 1;
    }
    if let Some(later) = (number + 1..PIECES_MAX).find_map(|later| settings.child(&key(later))) {
        later.refuse(&format!("the piece {} before it is missing", key(number)));
        return None;
    }
    Some(whole)
}

fn reference(settings: &Node<'_>) -> Option<Reference> {
    let node = settings.child("image")?;
    let text = pieces(settings, "image")?;
    if text.strip_prefix("oci://").unwrap_or(&text).starts_with(CONTAINERS_ONLY) {
        node.refuse(&format!(
            "{text} is a container image, and a module here is a shared library: build it from the same source with the SDK (cargo xtask new), \
             put the .so into the modules folder or push it to a registry, and name that here"
        ));
        return None;
    }
    let pinned = |reference: Reference| match settings.child("digest").filter(|digest| digest.value != "") {
        None => Some(reference),
        Some(digest) => match reference.pinned(digest.text()?) {
            Ok(pinned) => {
                digest.map("the image is this one and no other");
                Some(pinned)
            }
            Err(why) => {
                digest.refuse(&why);
                None
            }
        },
    };
    match Reference::parse(&text) {
        Ok(reference) => {
            node.map(match &reference {
                Reference::Named(_) => "a file of the drop-in folders",
                Reference::File(_) => "a file of this device",
                Reference::Https(_) => "fetched, and compared with its digest",
                Reference::Oci(_) => "pulled from its registry; a container image there is refused",
            });
            pinned(reference)
        }
        Err(why) => {
            node.refuse(&why);
            None
        }
    }
}

fn env(key: &str, node: &Node<'_>) -> Option<String> {
    if key.is_empty() || key.contains(['=', '\0']) || key.starts_with("LD_") {
        node.refuse("this variable may not be set for a module");
        return None;
    }
    let inner = if node.value.is_object() {
        node.required("value")?
    } else {
        Node::new(node.value, node.path.clone(), node.findings)
    };
    match inner.value {
        Value::String(text) if !text.contains('\0') => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => {
            inner.refuse("expected {\"value\": a text, number or boolean}");
            None
        }
    }
}
