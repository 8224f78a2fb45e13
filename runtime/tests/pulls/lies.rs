//! What a registry may do wrong, each with its one sentence, and what it may do that has to be borne.
//! Must never take a file for good that is not the one that was asked for.

use std::sync::atomic::Ordering;

use serde_json::json;
use skerry_runtime::io::image::digest;

use crate::liar::{Asked, Liar, Reply};
use crate::place::{Place, entry, index, manifest, module};

/// A registry with one module under `filter:1`, whose blob is answered by `blob`.
fn registry(blob: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> (Liar, String) {
    let liar = Liar::start(move |asked, before| {
        if asked.target.contains("/manifests/") {
            Reply::new(200, manifest(module(), json!({"annotations": {"org.skerry.signature": "signed"}})))
        } else {
            blob(asked, before)
        }
    });
    let reference = format!("oci://{}/filter:1", liar.address);
    (liar, reference)
}

/// A server that answers everything with this.
#[track_caller]
fn all_fail(reply: Reply, kind: &str, text: &str) -> Liar {
    let liar = Liar::start(move |_, _| reply.clone());
    Place::new().fails(&format!("oci://{}/filter:1", liar.address), kind, text);
    let url = format!("http://{}/filter.so#sha256={}", liar.address, digest(module()));
    Place::new().fails(&url, kind, text);
    liar
}

#[test]
fn a_good_one_is_stored_with_its_signatures() {
    let (liar, reference) = registry(|asked, _| Reply::ranged(module(), asked));
    let place = Place::new();
    let pulled = place.pull(&reference).unwrap();
    assert_eq!((pulled.image.name.as_str(), pulled.image.digest), ("probe", digest(module())));
    assert_eq!(pulled.signatures.as_deref(), Some("signed"));
    assert_eq!(place.progress.done.load(Ordering::Relaxed), module().len() as u64);
    assert_eq!(place.progress.total.load(Ordering::Relaxed), module().len() as u64);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
    // What is there is not downloaded again.
    place.pull(&reference).unwrap();
    assert_eq!((liar.asked("/blobs/").len(), liar.asked("/manifests/").len()), (1, 2));
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let (liar, reference) = registry(|asked, before| Reply {
        cut_after: (before < 2).then_some(100_000),
        ..Reply::ranged(module(), asked)
    });
    let place = Place::new();
    place.pull(&reference).unwrap();
    let ranges: Vec<_> = liar.asked("/blobs/").into_iter().map(|a| a.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())]);
}

#[test]
fn also_after_the_runtime_ended() {
    let (liar, reference) = registry(|asked, _| Reply::ranged(module(), asked));
    let place = Place::new();
    std::fs::write(place.images.download_path(&digest(module())), &module()[..300_000]).unwrap();
    place.pull(&reference).unwrap();
    assert_eq!(liar.asked("/blobs/")[0].range.as_deref(), Some("bytes=300000-"));
}

#[test]
fn a_server_without_parts_begins_anew() {
    let (liar, reference) =
        registry(|_, before| Reply { cut_after: (before < 1).then_some(100_000), ..Reply::new(200, module()) });
    Place::new().pull(&reference).unwrap();
    assert_eq!(liar.asked("/blobs/").len(), 2);
}

#[test]
fn a_silent_server_is_given_up_or_borne() {
    let stalls = |after| Reply { stall_after: Some(after), ..Reply::new(200, vec![b' '; 100]) };
    let silent = all_fail(stalls(0), "away", "says nothing for 0.7 s");
    assert_eq!(silent.asked("/manifests/").len(), 1);
    let (_, reference) = registry(|asked, before| Reply {
        stall_after: (before == 0).then_some(5_000),
        ..Reply::ranged(module(), asked)
    });
    Place::new().pull(&reference).unwrap();
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let other = || [&module()[..module().len() - 1], &[7]].concat();
    let (_, reference) = registry(move |_, _| Reply::new(200, other()));
    let place = Place::new();
    place.fails(&reference, "refused", &format!("not sha256:{} as it should", digest(module())));
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
    // Longer than it says, and shorter for ever.
    let (_, reference) = registry(|_, _| Reply::new(200, [module(), b"more"].concat()));
    place.fails(&reference, "refused", "bytes or more");
    let (_, reference) = registry(|asked, _| Reply::ranged(&module()[..1000], &Asked { range: None, ..asked.clone() }));
    place.fails(&reference, "away", "broke off after 1000 of");
    let liar = Liar::start(|_, _| Reply::new(200, manifest(module(), json!({}))));
    let reference = format!("oci://{}/filter@sha256:{}", liar.address, digest(b"another"));
    place.fails(&reference, "refused", "it was changed on its way or where it lies");
    let told = format!("sha256:{}", digest(b"another"));
    let liar =
        Liar::start(move |_, _| Reply::new(200, manifest(module(), json!({}))).with("Docker-Content-Digest", &told));
    place.fails(&format!("oci://{}/filter:1", liar.address), "refused", "sends a manifest with the digest");
}

#[test]
fn a_good_digest_of_what_is_no_module() {
    let text = b"#!/bin/sh\n";
    let liar = Liar::start(move |_, _| Reply::new(200, text));
    let place = Place::new();
    place.fails(&format!("http://{}/x.so#sha256={}", liar.address, digest(text)), "refused", "not an ELF file");
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}

#[test]
fn every_refusal_has_its_sentence() {
    all_fail(Reply::new(404, ""), "refused", "(404); check the reference");
    all_fail(Reply::new(401, ""), "refused", "give it credentials that may read it, in [images.registries]");
    all_fail(Reply::new(500, ""), "away", "(500); trying");
    all_fail(Reply::new(418, ""), "refused", "answers 418");
    let busy = all_fail(Reply::new(429, "").with("Retry-After", "120"), "away", "wants to be left alone for 120 s");
    assert_eq!(busy.asked("/manifests/").len(), 1);
    all_fail(Reply::new(302, "").with("Location", "/again"), "refused", "sends in circles");
    all_fail(Reply::new(307, "").with("Location", "http://192.0.2.1/x"), "refused", "without encryption");
    all_fail(Reply::new(302, ""), "refused", "without saying where");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Place::new().fails(&format!("oci://{nobody}/filter:1"), "away", "can't be reached");
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let (liar, reference) = registry(|asked, before| match before {
        0 => Reply::new(429, "").with("Retry-After", "1"),
        _ => Reply::ranged(module(), asked),
    });
    Place::new().pull(&reference).unwrap();
    assert_eq!(liar.asked("/blobs/").len(), 2);
}

#[test]
fn credentials_stay_with_the_registry() {
    let storage = Liar::start(|asked, _| Reply::ranged(module(), asked));
    let there = format!("http://{}/blobs/x", storage.address);
    let (liar, reference) = registry(move |asked, _| match &asked.authorization {
        None => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        Some(_) => Reply::new(307, "").with("Location", &there),
    });
    let place = Place::new().with_password(&liar.address, "device", "secret");
    place.pull(&reference).unwrap();
    let shown: Vec<_> = liar.asked("/blobs/").into_iter().map(|a| a.authorization).collect();
    assert_eq!(shown, [None, Some("Basic ZGV2aWNlOnNlY3JldA==".into())]);
    assert_eq!(storage.asked("/blobs/")[0].authorization, None);
}

#[test]
fn a_token_is_asked_for_where_the_registry_says() {
    let tokens = Liar::start(|asked, _| match &asked.authorization {
        Some(basic) if basic == "Basic ZGV2aWNlOnNlY3JldA==" => Reply::new(200, r#"{"access_token": "t0"}"#),
        _ => Reply::new(401, ""),
    });
    let challenge = format!(r#"Bearer realm="http://{}/token",service="s s""#, tokens.address);
    let liar = Liar::start(move |asked, _| match asked.authorization.as_deref() {
        Some("Bearer t0") if asked.target.contains("/manifests/") => Reply::new(200, manifest(module(), json!({}))),
        Some("Bearer t0") => Reply::ranged(module(), asked),
        _ => Reply::new(401, "").with("WWW-Authenticate", &challenge),
    });
    let reference = format!("oci://{}/team/filter:1", liar.address);
    Place::new().with_password(&liar.address, "device", "secret").pull(&reference).unwrap();
    assert_eq!(tokens.asked("/token").len(), 1);
    assert_eq!(tokens.asked("/token")[0].target, "/token?service=s%20s&scope=repository:team%2Ffilter:pull");
    // Another registry's password is shown to nobody.
    let stranger = Place::new().with_password("other:5000", "device", "secret");
    stranger.fails(&reference, "refused", "refuses a token for oci://");
    assert_eq!(tokens.asked("/token")[1].authorization, None);
}

#[test]
fn an_index_is_followed_one_level_deep() {
    let inner = || manifest(module(), json!({}));
    let liar = Liar::start(move |asked, _| match asked.target.rsplit('/').next() {
        Some("1") => Reply::new(200, index(&[entry(b"musl", &["musl"]), entry(&inner(), &["glibc"])])),
        Some("2") => Reply::new(200, index(&[entry(&index(&[]), &[])])),
        Some(name) if name.ends_with(&digest(&inner())) => Reply::new(200, inner()),
        Some(name) if name.ends_with(&digest(&index(&[]))) => Reply::new(200, index(&[])),
        _ => Reply::ranged(module(), asked),
    });
    let place = Place::new();
    place.fails(&format!("oci://{}/filter:2", liar.address), "refused", "its index holds another index");
    place.pull(&format!("oci://{}/filter:1", liar.address)).unwrap();
}

/// Tried in a process of its own, which has a small disk of its own.
#[test]
fn a_full_disk_is_said_and_given_back() {
    const DISK: &str = "SKERRY_SMALL_DISK";
    let (_liar, reference) = registry(|asked, _| Reply::ranged(module(), asked));
    if let Some(disk) = std::env::var_os(DISK) {
        let place = Place::at(std::path::Path::new(&disk));
        place.fails(&reference, "here", "the disk of the state folder is full");
        assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("unshare");
    child.args(["--mount", "sh", "-c", r#"mount -t tmpfs -o size=200k none "$0" && exec "$@""#]).arg(folder.path());
    child.arg(std::env::current_exe().unwrap()).args(["--exact", "lies::a_full_disk_is_said_and_given_back"]);
    let ran = child.env(DISK, folder.path()).output().expect("unshare; run this as root");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}
