//! A real registry, Debian's `docker-registry`, with modules pushed by a real tool, `skopeo`. Must never be skipped: without them
//! the tests fail and say what to install.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use skerry_runtime::io::image::digest;

use crate::place::{Place, entry, index, manifest, module};

struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// With a password where `protected`: device, secret.
    fn start(protected: bool) -> Registry {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("its number").to_string();
        drop(free);
        let users = folder.path().join("users");
        std::fs::write(&users, "device:$2b$04$iheyamfsuu5p9RDM3Y7QMetUZHgQC8anh24bjrLWvoxWuAR/4pr/q\n")
            .expect("a file");
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n{}",
            folder.path().join("store").display(),
            if protected { auth.as_str() } else { "" }
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).expect("a configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker-registry; install it with: apt-get install docker-registry");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening on")), "docker-registry does not listen");
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Registry { child, address, _folder: folder }
    }

    /// What is in the layout under `tag`, with everything that an index names.
    fn push(&self, layout: &Path, tag: &str, name: &str) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--all", "--quiet", "--dest-tls-verify=false", "--dest-creds=device:secret"]);
        skopeo.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{}/{name}", self.address));
        let ran = skopeo.output().expect("skopeo; install it with: apt-get install skopeo");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An OCI layout: these blobs, and these tags for some of them.
fn layout(blobs: &[&[u8]], tags: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("blobs/sha256");
    std::fs::create_dir_all(&place).expect("a folder");
    for blob in blobs.iter().copied().chain(tags.iter().map(|(_, blob)| *blob)) {
        std::fs::write(place.join(digest(blob)), blob).expect("a blob");
    }
    let manifests = tags.iter().map(|(tag, blob)| {
        let kind = serde_json::from_slice::<Value>(blob).expect("JSON")["mediaType"].clone();
        json!({"mediaType": kind, "digest": format!("sha256:{}", digest(blob)), "size": blob.len(),
               "annotations": {"org.opencontainers.image.ref.name": tag}})
    });
    let index = json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()});
    std::fs::write(folder.path().join("index.json"), index.to_string()).expect("the index");
    std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the version");
    folder
}

#[test]
fn a_module_and_an_index_of_modules() {
    let registry = Registry::start(false);
    let (signed, plain) = (json!({"annotations": {"org.skerry.signature": "signed"}}), json!({}));
    let other = [module(), b"x"].concat();
    let (one, two) = (manifest(module(), signed), manifest(&other, plain));
    let both = index(&[entry(&two, &["musl"]), entry(&one, &["glibc"])]);
    let layout = layout(&[module(), &other, b"{}", &one, &two], &[("one", &one), ("both", &both)]);
    registry.push(layout.path(), "one", "filter:1");
    registry.push(layout.path(), "both", "team/filter:2");
    for name in ["filter:1".to_owned(), "team/filter:2".to_owned(), format!("team/filter@sha256:{}", digest(&both))] {
        let place = Place::patient();
        let pulled = place.pull(&registry.reference(&name)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(pulled.image.digest, digest(module()), "{name}");
        assert_eq!(pulled.signatures.as_deref(), Some("signed"));
        let stored = std::fs::read(place.images.path(&pulled.image.digest)).unwrap();
        assert!(stored == module());
    }
    let place = Place::patient();
    place.fails(&registry.reference("filter:3"), "refused", "(404); check the reference");
    place.fails(&registry.reference("nobody:1"), "refused", "(404); check the reference");
    // A download that broke off goes on with a real server too.
    std::fs::write(place.images.download_path(&digest(module())), &module()[..12_345]).unwrap();
    place.pull(&registry.reference("filter:1")).unwrap();
}

#[test]
fn a_password_is_wanted() {
    let registry = Registry::start(true);
    let one = manifest(module(), json!({}));
    let layout = layout(&[module(), b"{}"], &[("one", &one)]);
    registry.push(layout.path(), "one", "filter:1");
    let reference = registry.reference("filter:1");
    Place::patient().fails(&reference, "refused", "give it credentials that may read it");
    let wrong = Place::patient().with_password(&registry.address, "device", "wrong");
    wrong.fails(&reference, "refused", "give it credentials that may read it");
    Place::patient().with_password(&registry.address, "device", "secret").pull(&reference).unwrap();
}

#[test]
fn a_container_image_is_refused() {
    let registry = Registry::start(false);
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let container = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", digest(config)), "size": config.len()},
        "layers": [],
    });
    let container = container.to_string().into_bytes();
    let layout = layout(&[config], &[("c", &container)]);
    registry.push(layout.path(), "c", "container:1");
    Place::patient().fails(
        &registry.reference("container:1"),
        "refused",
        "it is a container image, which skerry does not run",
    );
}
