//! `cargo xtask push`: the files of a module, one for each machine and C library, as one index in a registry. The way there is
//! skopeo's: tokens, TLS and mounts are its subject. Must never push a file that skerry would not take for a module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::{cargo, debian};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// As the runtime has them, in `logic::oci`; a test holds them together.
const ARTIFACT: &str = "application/vnd.skerry.module.v1";
const LAYER: &str = "application/vnd.skerry.module.library.v1";
const SIGNATURE: &str = "org.skerry.signature";
const TAG: &str = "pushed";

/// What was typed.
pub struct Wanted<'a> {
    /// A `.so`, or a folder of them.
    pub from: &'a Path,
    /// `HOST/NAME:TAG`, with or without `oci://`; absent when only a layout is made.
    pub to: Option<&'a str>,
    /// Where the OCI layout stays; otherwise it goes when it was pushed.
    pub layout: Option<&'a Path>,
    /// More arguments of `skopeo copy`, such as `--dest-creds=USER:PASSWORD`.
    pub more: &'a [String],
}

pub fn run(wanted: &Wanted<'_>) -> Result<(), String> {
    if wanted.to.is_none() && wanted.layout.is_none() {
        return Err("where to? cargo xtask push FILE.so HOST/NAME:TAG, or --layout FOLDER".to_owned());
    }
    let files = files(wanted.from)?;
    let skerry = cargo::build("dev", &["skerry-runtime"])?.join("skerry");
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let layout = wanted.layout.unwrap_or(temporary.path());
    let modules = files.iter().map(|file| inspect(&skerry, file)).collect::<Result<Vec<_>, _>>()?;
    one_module(&modules)?;
    let index = write(layout, &modules)?;
    println!("index sha256:{index}");
    for module in &modules {
        println!("  {} {}", shown(&module.about["platform"]), module.file.display());
    }
    match wanted.to {
        Some(reference) => copy(layout, reference, wanted.more),
        None => Ok(()),
    }
}

struct Module {
    file: PathBuf,
    bytes: Vec<u8>,
    /// As `skerry inspect --json` prints it.
    about: Value,
    signatures: Option<String>,
}

fn files(from: &Path) -> Result<Vec<PathBuf>, String> {
    let fault = |e: std::io::Error| format!("{}: {e}", from.display());
    if !fs::metadata(from).map_err(fault)?.is_dir() {
        return Ok(vec![from.to_owned()]);
    }
    let entries = fs::read_dir(from).map_err(fault)?.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "so")).collect();
    files.sort();
    if files.is_empty() { Err(format!("{}: there is no .so in it", from.display())) } else { Ok(files) }
}

fn inspect(skerry: &Path, file: &Path) -> Result<Module, String> {
    let ran = Command::new(skerry).arg("inspect").arg(file).arg("--json").output();
    let ran = ran.map_err(|e| format!("{}: {e}", skerry.display()))?;
    // One for another machine is told with an exit code too, but with all that is asked for.
    let about: Value = serde_json::from_slice(&ran.stdout)
        .map_err(|_| String::from_utf8_lossy(&ran.stderr).trim().trim_start_matches("skerry: ").to_owned())?;
    if !about["platform"].is_object() {
        return Err(format!("{}: registries have no name for the machine {}", file.display(), about["machine"]));
    }
    let bytes = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".sig");
    let signatures = fs::read_to_string(beside).ok();
    Ok(Module { file: file.to_owned(), bytes, about, signatures })
}

/// All of one name and version, each for another platform.
fn one_module(modules: &[Module]) -> Result<(), String> {
    for (at, module) in modules.iter().enumerate() {
        let first = &modules[0];
        for key in ["name", "version"] {
            if module.about[key] != first.about[key] {
                return Err(format!(
                    "{} has the {key} {}, but {} has {}; one index holds one module",
                    module.file.display(),
                    module.about[key],
                    first.file.display(),
                    first.about[key]
                ));
            }
        }
        if let Some(twin) = modules[..at].iter().find(|other| other.about["platform"] == module.about["platform"]) {
            let platform = shown(&module.about["platform"]);
            return Err(format!("{} and {} are both for {platform}", twin.file.display(), module.file.display()));
        }
    }
    Ok(())
}

fn shown(platform: &Value) -> String {
    let text = |key: &str| platform[key].as_str().map(str::to_owned);
    let parts = [text("os"), text("architecture"), text("variant")];
    let features: Vec<&str> =
        platform["os.features"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    format!("{} {}", parts.into_iter().flatten().collect::<Vec<_>>().join("/"), features.join("+"))
        .trim_end()
        .to_owned()
}

/// The OCI layout; the digest of the index.
fn write(layout: &Path, modules: &[Module]) -> Result<String, String> {
    let fault = |e: std::io::Error| format!("{}: {e}", layout.display());
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(fault)?;
    let blob = |kind: &str, bytes: &[u8]| {
        let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), bytes).map_err(fault)?;
        Ok::<_, String>(json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()}))
    };
    let empty = blob(EMPTY, b"{}")?;
    let mut manifests = Vec::new();
    for module in modules {
        let mut layer = blob(LAYER, &module.bytes)?;
        let name = module.about["name"].as_str().unwrap_or_default();
        layer["annotations"] = json!({"org.opencontainers.image.title": format!("{name}.so")});
        if let Some(text) = &module.signatures {
            layer["annotations"][SIGNATURE] = text.as_str().into();
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT, "config": empty, "layers": [layer],
            "annotations": {"org.opencontainers.image.title": name, "org.opencontainers.image.version": module.about["version"],
                            "org.opencontainers.image.description": module.about["description"]},
        });
        let mut entry = blob(MANIFEST, manifest.to_string().as_bytes())?;
        entry["platform"] = module.about["platform"].clone();
        manifests.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut entry = blob(INDEX, index.to_string().as_bytes())?;
    let hex = entry["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": TAG});
    let top = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), top.to_string()).map_err(fault)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).map_err(fault)?;
    Ok(hex)
}

fn copy(layout: &Path, reference: &str, more: &[String]) -> Result<(), String> {
    let reference = reference.strip_prefix("oci://").unwrap_or(reference);
    let run = || {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--all", "--preserve-digests"]).args(more);
        if reference.starts_with("127.0.0.1:") || reference.starts_with("localhost") {
            skopeo.arg("--dest-tls-verify=false");
        }
        skopeo.arg(format!("oci:{}:{TAG}", layout.display())).arg(format!("docker://{reference}"));
        skopeo.status()
    };
    let status = run().or_else(|_| {
        debian::install(&["skopeo"]);
        run()
    });
    match status {
        Ok(status) if status.success() => {
            println!("pushed; name it in a manifest as oci://{reference}");
            Ok(())
        }
        Ok(status) => Err(format!("skopeo could not push to {reference} ({status}); see above")),
        Err(error) => Err(format!("skopeo is not there ({error}); install it with: apt-get install skopeo")),
    }
}
