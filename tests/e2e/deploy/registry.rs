//! Modules from a registry, pushed as their authors do: with a manifest, by hand, signed, and when the registry is gone.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Registry, manifest, module, wait_for};

/// A manifest with one module of that image, and the registry's password.
fn content(registry: &Registry, image: &str) -> Value {
    let mut content = manifest(json!({"scribe": module(image)}), json!({}));
    content["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
        registry.credentials();
    content
}

#[track_caller]
fn deploy(device: &Device, registry: &Registry, image: &str) {
    let file = device.path("typed.json");
    std::fs::write(&file, content(registry, image).to_string()).expect("a manifest");
    let ran = device.skerry(&["deploy", &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[track_caller]
fn wait_version(device: &Device, version: &str) {
    wait_for(&format!("version {version} runs"), || device.running("scribe").filter(|i| i.version == version));
}

/// What the agent says is wrong with the module.
#[track_caller]
fn wait_problem(device: &Device, text: &str) {
    device.wait_log(text);
}

#[test]
fn a_manifest_brings_modules_and_needs_no_registry_afterwards() {
    let registry = Registry::start();
    registry.push(&Image::of("scribe"), None, "team/scribe:1");
    registry.push(&Image::of("scribe").with_version("0.9.0"), None, "team/scribe:2");
    let mut device = Device::started("[modules]\nautostart = false\n");
    let one = registry.reference("team/scribe:1");
    deploy(&device, &registry, &one);
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    let shown = device.skerry(&["images"]);
    assert!(shown.out.contains(&one) && shown.out.contains(" scribe "), "{shown:?}");
    // What can't be had leaves in place what runs.
    let before = device.running("scribe");
    deploy(&device, &registry, &registry.reference("team/scribe:9"));
    wait_problem(&device, "(404); check the reference");
    assert_eq!(device.running("scribe"), before);
    let two = registry.reference("team/scribe:2");
    let ran = device.skerry(&["pull", &two]);
    assert!(ran.code == Some(0) && ran.out.starts_with("scribe 0.9.0 sha256:"), "{ran:?}");
    deploy(&device, &registry, &two);
    wait_version(&device, "0.9.0");
    // The registry is gone, and the device starts anew.
    drop(registry);
    device.stop();
    device.start();
    wait_version(&device, "0.9.0");
    let ran = device.skerry(&["pull", &two]);
    assert!(
        ran.code == Some(0) && ran.out.contains("from the image store, since its source can't be asked"),
        "{ran:?}"
    );
    let ran = device.skerry(&["pull", "oci://127.0.0.1:9/nobody:1"]);
    assert!(ran.code == Some(1) && ran.err.contains("can't be reached"), "{ran:?}");
    let ran = device.skerry(&["pull", "team/scribe:1"]);
    assert!(ran.code == Some(1) && ran.err.contains("it names no registry"), "{ran:?}");
    assert!(!device.log().contains("secret"));
}

#[test]
fn only_what_is_signed_runs() {
    let registry = Registry::start();
    let device = Device::new("");
    let key = device.path("key").display().to_string();
    let ran = device.skerry(&["key", "new", &key]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let public = std::fs::read_to_string(device.path("key.pub")).expect("a public key").trim().to_owned();
    let file = device.path("scribe-to-sign.so");
    std::fs::write(&file, Image::of("scribe").bytes()).expect("an image");
    let ran = device.skerry(&["sign", "--key", &key, &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let signatures = std::fs::read_to_string(device.path("scribe-to-sign.so.sig")).expect("signatures");
    registry.push(&Image::of("scribe"), Some(&signatures), "scribe:signed");
    registry.push(&Image::of("scribe").with_version("0.9.0"), None, "scribe:plain");
    registry.push(&Image::of("scribe").with_version("0.8.0"), Some(&signatures), "scribe:forged");
    device.configure(&format!(
        "[modules]\nautostart = false\n[images]\ntrust_keys = [\"{public}\"]\n[restart]\nhealth_window = \"1s\"\n"
    ));
    let mut device = device;
    device.start();
    deploy(&device, &registry, &registry.reference("scribe:signed"));
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    device.wait_log("proved=true");
    let before = device.running("scribe");
    for name in ["scribe:plain", "scribe:forged"] {
        let reference = registry.reference(name);
        deploy(&device, &registry, &reference);
        wait_problem(&device, &format!("image={reference} pulled=false retry_in_s=10"));
        assert_eq!(device.running("scribe"), before, "{name}");
    }
    // What ran well goes on after a start, too.
    device.stop();
    device.start();
    wait_version(&device, env!("CARGO_PKG_VERSION"));
}
