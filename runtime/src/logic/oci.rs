//! The documents of an OCI registry: which manifest of an index is for this device, which blob of a manifest is the module, and
//! what a registry asks for before it answers. Must never take a container image for a module.

use serde::Deserialize;
use std::collections::BTreeMap;

use crate::model::image::{Device, Libc, Machine};

/// What a module's manifest calls itself (`artifactType`), and its one layer, which is the `.so` as it is.
pub const ARTIFACT_TYPE: &str = "application/vnd.skerry.module.v1";
pub const LAYER_TYPE: &str = "application/vnd.skerry.module.library.v1";
/// Annotation with the text of the module's `.sig` file, on the manifest or its layer.
pub const SIGNATURE: &str = "org.skerry.signature";
const TITLE: &str = "org.opencontainers.image.title";

/// What is understood, in the order of preference.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                          application/vnd.docker.distribution.manifest.list.v2+json, \
                          application/vnd.docker.distribution.manifest.v2+json";

/// What a reference led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Another manifest is to be asked for: the one for this device. Its digest, lower-case hex.
    Manifest(String),
    Module(Module),
}

/// A module's `.so` in a registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Of the file, lower-case hex.
    pub sha256: String,
    pub bytes: u64,
    pub signatures: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(default, rename = "os.features")]
    features: Vec<String>,
}

/// Reads a manifest or an index. `nested`: it was named by an index, and must not be one itself. The error is the end of a sentence
/// that begins with the reference.
pub fn read(bytes: &[u8], device: &Device, nested: bool) -> Result<Found, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| format!("its manifest makes no sense ({e})"))?;
    if document.schema_version != 2 {
        return Err("its manifest is of an older kind (schema 1); push it again with a newer tool".to_owned());
    }
    match &document.manifests {
        Some(_) if nested => Err("its index holds another index; push it with one level".to_owned()),
        Some(manifests) => choose(manifests, device).map(Found::Manifest),
        None => module(&document).map(Found::Module),
    }
}

fn module(document: &Document) -> Result<Module, String> {
    let layers = document.layers.as_deref().unwrap_or_default();
    let of_type: Vec<&Descriptor> = layers.iter().filter(|layer| layer.media_type == LAYER_TYPE).collect();
    // As general tools push a file.
    let titled = |layer: &&Descriptor| layer.annotations.get(TITLE).is_some_and(|title| title.ends_with(".so"));
    let found: Vec<&Descriptor> = if of_type.is_empty() { layers.iter().filter(titled).collect() } else { of_type };
    let config = document.config.as_ref().map_or("", |config| config.media_type.as_str());
    let container =
        matches!(config, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json");
    match found.as_slice() {
        [layer] => Ok(Module {
            sha256: hex(&layer.digest)?,
            bytes: layer.size,
            signatures: layer.annotations.get(SIGNATURE).or(document.annotations.get(SIGNATURE)).cloned(),
        }),
        [] if container => Err(
            "it is a container image, which skerry does not run; build the module as a library (cargo xtask new NAME), push its .so (cargo \
             xtask push NAME.so REFERENCE), and name that in the manifest"
                .to_owned(),
        ),
        [] => Err(format!(
            "it is no module: none of its {} layers is of the type {LAYER_TYPE} (artifact type {}); push a .so with cargo xtask push",
            layers.len(),
            document.artifact_type.as_deref().unwrap_or("none")
        )),
        several => Err(format!("it holds {} modules, of which one is to be run; push each under a name of its own", several.len())),
    }
}

/// The best of those that this device can run: made for its C library before made for any.
fn choose(manifests: &[Descriptor], device: &Device) -> Result<String, String> {
    let rated = |manifest: &&Descriptor| manifest.platform.as_ref().and_then(|platform| rate(platform, device));
    let best = manifests.iter().filter(|m| rated(m).is_some()).max_by_key(rated);
    if let Some(best) = best {
        return hex(&best.digest);
    }
    // What attests to an image is no image of its own.
    let real = |platform: &&Platform| platform.os != "unknown";
    let offered: Vec<String> = manifests.iter().filter_map(|m| m.platform.as_ref()).filter(real).map(shown).collect();
    let libc = match (device.glibc.is_some(), device.musl) {
        (true, true) => "glibc or musl",
        (true, false) => "glibc",
        (false, true) => "musl",
        (false, false) => "no C library",
    };
    Err(format!(
        "there is none for this device (linux/{}, {libc}) in it, only for: {}; push one for it",
        platform_of(device.machine)
            .map_or_else(|| device.machine.to_string(), |(architecture, variant)| join(architecture, variant)),
        if offered.is_empty() { "nobody in particular".to_owned() } else { offered.join(", ") }
    ))
}

/// Higher is better; `None`: it can't run here.
fn rate(platform: &Platform, device: &Device) -> Option<u8> {
    let (architecture, variant) = platform_of(device.machine)?;
    if platform.os != "linux" || platform.architecture != architecture {
        return None;
    }
    if let (Some(theirs), Some(ours)) = (platform.variant.as_deref().filter(|v| !v.is_empty()), variant)
        && theirs != ours
    {
        return None;
    }
    let has = |feature: &str| platform.features.iter().any(|f| f == feature);
    // The system's own library before the other one, and what says nothing in between: most likely it is for both.
    match (has("glibc"), has("musl")) {
        (true, _) if device.glibc.is_some() => Some(2),
        (_, true) if device.musl => Some(if device.glibc.is_none() { 2 } else { 0 }),
        (false, false) => Some(1),
        _ => None,
    }
}

fn shown(platform: &Platform) -> String {
    let of = join(&platform.architecture, platform.variant.as_deref());
    let features = platform.features.join("+");
    format!("{}/{of}{}{features}", platform.os, if features.is_empty() { "" } else { " " })
}

fn join(architecture: &str, variant: Option<&str>) -> String {
    variant.map_or_else(|| architecture.to_owned(), |variant| format!("{architecture}/{variant}"))
}

/// How a registry calls a machine: Go's word, and the variant where there are several.
pub fn platform_of(machine: Machine) -> Option<(&'static str, Option<&'static str>)> {
    Some(match machine.to_string().as_str() {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8")),
        "armv7" => ("arm", Some("v7")),
        "i686" => ("386", None),
        "riscv64" => ("riscv64", None),
        "loongarch64" => ("loong64", None),
        "mips" => ("mips", None),
        "mipsel" => ("mipsle", None),
        "powerpc64le" => ("ppc64le", None),
        "s390x" => ("s390x", None),
        _ => return None,
    })
}

/// What stands in `os.features` for the C library that a module was linked to.
pub fn libc_feature(libc: Libc) -> Option<&'static str> {
    match libc {
        Libc::Glibc => Some("glibc"),
        Libc::Musl => Some("musl"),
        Libc::Any => None,
    }
}

fn hex(digest: &str) -> Result<String, String> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| crate::model::reference::is_digest(hex));
    hex.map(str::to_ascii_lowercase).ok_or_else(|| format!("its manifest names a digest that is none: {digest:?}"))
}

/// What a registry wants before it answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from there.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads a `WWW-Authenticate` header. `None`: a scheme that is not known.
pub fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    let realm = parameters.remove("realm")?;
    Some(Challenge::Bearer { realm, service: parameters.remove("service"), scope: parameters.remove("scope") })
}

/// `key="value", key=value`: a comma within quotes ends nothing.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(key, value.trim().to_owned());
        rest = left;
    }
    found
}

/// The token in the answer of a token server.
pub fn token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;
