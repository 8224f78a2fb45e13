//! Manifests and challenges as registries and tools write them. Must never need a registry.

use serde_json::{Value, json};

use super::*;
use crate::model::image::{GlibcVersion, Machine};

fn digest(n: u8) -> String {
    format!("{n:064x}")
}

fn descriptor(n: u8, kind: &str) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", digest(n)), "size": n})
}

fn device(glibc: bool) -> Device {
    let machine = Machine { number: 62, bits: 64, big_endian: false };
    Device { machine, glibc: glibc.then_some(GlibcVersion { major: 2, minor: 36 }), musl: !glibc }
}

#[track_caller]
fn check(document: &Value, glibc: bool, expected: &str) {
    let found = match read(document.to_string().as_bytes(), &device(glibc), false) {
        Ok(Found::Manifest(digest)) => format!("manifest {}", digest.trim_start_matches('0')),
        Ok(Found::Module(m)) => {
            format!(
                "module {} {} {}",
                m.sha256.trim_start_matches('0'),
                m.bytes,
                m.signatures.as_deref().unwrap_or("-")
            )
        }
        Err(error) => error,
    };
    assert!(found.contains(expected), "{document}: {found}");
}

/// `amd64 glibc`, `arm/v7`.
fn index(platforms: &[&str]) -> Value {
    let manifests = (1..).zip(platforms).map(|(n, text)| {
        let (of, features) = text.split_once(' ').unwrap_or((text, ""));
        let (architecture, variant) = of.split_once('/').map_or((of, None), |(a, v)| (a, Some(v)));
        let mut entry = descriptor(n, "application/vnd.oci.image.manifest.v1+json");
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        if let Some(variant) = variant {
            entry["platform"]["variant"] = variant.into();
        }
        if !features.is_empty() {
            entry["platform"]["os.features"] = json!([features]);
        }
        entry
    });
    json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()})
}

#[test]
fn an_index_leads_to_the_manifest_for_this_device() {
    check(&index(&["arm64/v8", "amd64", "arm/v7"]), true, "manifest 2");
    check(&index(&["amd64 musl", "amd64 glibc", "amd64"]), true, "manifest 2");
    check(&index(&["amd64 glibc", "amd64", "amd64 musl"]), false, "manifest 3");
    check(&index(&["amd64 glibc", "amd64"]), false, "manifest 2");
    check(
        &index(&["amd64 glibc"]),
        false,
        "none for this device (linux/amd64, musl) in it, only for: linux/amd64 glibc",
    );
    check(&index(&["arm64/v8", "arm/v7 musl"]), true, "only for: linux/arm64/v8, linux/arm/v7 musl");
    check(&index(&[]), true, "only for: nobody in particular");
}

#[test]
fn a_manifest_leads_to_the_module() {
    let config = descriptor(9, "application/vnd.oci.empty.v1+json");
    let layer = descriptor(1, LAYER_TYPE);
    let with =
        |layers: Value| json!({"schemaVersion": 2, "artifactType": ARTIFACT_TYPE, "config": config, "layers": layers});
    check(&with(json!([layer])), true, "module 1 1 -");
    let mut signed = with(json!([layer]));
    signed["annotations"] = json!({"org.skerry.signature": "text"});
    check(&signed, true, "module 1 1 text");
    check(&with(json!([layer, descriptor(2, "application/x-readme")])), true, "module 1 1 -");
    // As `oras push` makes it.
    let mut titled = descriptor(3, "application/vnd.oci.image.layer.v1.tar");
    titled["annotations"] = json!({"org.opencontainers.image.title": "filter.so"});
    check(&with(json!([titled])), true, "module 3 3 -");
    check(&with(json!([layer, descriptor(2, LAYER_TYPE)])), true, "it holds 2 modules");
    check(&with(json!([])), true, "it is no module: none of its 0 layers");
    let mut bad = layer.clone();
    bad["digest"] = "sha512:1".into();
    check(&with(json!([bad])), true, "a digest that is none");
}

#[test]
fn a_container_image_is_refused_with_what_to_do() {
    let layers = json!([descriptor(1, "application/vnd.docker.image.rootfs.diff.tar.gzip")]);
    for config in ["application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"] {
        let image = json!({"schemaVersion": 2, "config": descriptor(2, config), "layers": layers});
        check(&image, true, "it is a container image, which skerry does not run; build the module as a library");
    }
    check(&json!({"schemaVersion": 1}), true, "of an older kind");
    check(&json!([]), true, "makes no sense");
    let nested = read(index(&["amd64"]).to_string().as_bytes(), &device(true), true).unwrap_err();
    assert!(nested.contains("holds another index"));
}

#[test]
fn challenges_are_understood() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
    };
    for (text, expected) in [
        ("Basic realm=\"x\"", Some(Challenge::Basic)),
        ("basic", Some(Challenge::Basic)),
        (
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
        ),
        (r#"bearer realm="https://x/t" , service=y"#, bearer("https://x/t", Some("y"), None)),
        ("Bearer service=\"x\"", None),
        ("Negotiate", None),
        ("", None),
    ] {
        assert_eq!(challenge(text), expected, "{text}");
    }
    assert_eq!(token(br#"{"token": "a", "access_token": "b"}"#).as_deref(), Some("a"));
    assert_eq!(token(br#"{"access_token": "b"}"#).as_deref(), Some("b"));
    assert_eq!(token(b"{}"), None);
}
