//! A device's image store, a module to put into it, and the documents of a registry that lead to it.
//! Must never need a runtime: what is tried here is one errand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_runtime::io::clock::TimeFloor;
use skerry_runtime::io::download::Progress;
use skerry_runtime::io::fetch::Fault;
use skerry_runtime::io::image::{self, ROOT_SYMBOL, digest};
use skerry_runtime::io::images::Images;
use skerry_runtime::io::pull::{Errand, Pulled};
use skerry_runtime::logic::oci::{ARTIFACT_TYPE, LAYER_TYPE, platform_of};
use skerry_runtime::model::identity::Secret;
use skerry_runtime::model::reference::{Reference, RegistryCredentials};
use skerry_runtime::model::time::Wall;

pub struct Place {
    folder: PathBuf,
    _state: Option<tempfile::TempDir>,
    pub images: Images,
    pub credentials: Vec<RegistryCredentials>,
    pub progress: Arc<Progress>,
    patience: Duration,
}

impl Place {
    pub fn new() -> Place {
        let state = tempfile::tempdir().expect("a folder");
        Place::at(state.path()).keeping(state)
    }

    /// For a server that is real, and whose machine may be busy.
    pub fn patient() -> Place {
        Place { patience: Duration::from_secs(30), ..Place::new() }
    }

    /// With its state in that folder.
    pub fn at(folder: &Path) -> Place {
        let images = Images::open(folder, 64 << 20).expect("an image store");
        Place {
            folder: folder.to_owned(),
            _state: None,
            images,
            credentials: Vec::new(),
            progress: Arc::default(),
            patience: Duration::from_millis(700),
        }
    }

    fn keeping(self, state: tempfile::TempDir) -> Place {
        Place { _state: Some(state), ..self }
    }

    pub fn with_password(mut self, address: &str, username: &str, password: &str) -> Place {
        let (address, username) = (address.to_owned(), username.to_owned());
        let password = Secret::new(password.as_bytes().to_vec());
        self.credentials.push(RegistryCredentials { address, username, password });
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pull(&self, reference: &str) -> Result<Pulled, Fault> {
        let errand = Errand {
            reference: Reference::parse(reference).expect("a reference"),
            credentials: self.credentials.clone(),
            images: self.images.clone(),
            progress: Arc::clone(&self.progress),
            ca: None,
            proxy: None,
            patience: self.patience,
            floor: Arc::new(TimeFloor::new(Wall(0))),
        };
        errand.run()
    }

    /// Refused, or away for now, with this in the sentence; and nothing of it is kept under the name of an image.
    #[track_caller]
    pub fn fails(&self, reference: &str, kind: &str, text: &str) {
        let fault = self.pull(reference).expect_err("it must fail");
        let found = match &fault {
            Fault::Away(_) => "away",
            Fault::Refused(_) => "refused",
            Fault::Here(_) => "here",
        };
        assert_eq!(found, kind, "{fault:?}");
        assert!(fault.text().contains(text) && !fault.text().contains('\n'), "{fault:?}");
        assert!(self.images.digests().expect("a folder").is_empty());
    }

    /// What lies in the store and is no image.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder().join("images")).expect("a folder").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.ends_with(".so")).collect()
    }
}

/// A module for this machine, half a megabyte long.
pub fn module() -> &'static [u8] {
    static MODULE: OnceLock<Vec<u8>> = OnceLock::new();
    MODULE.get_or_init(|| {
        let description = r#"{"format":1,"name":"skerry-probe","version":"1.2.3","sdk_version":"0.1.0","abi_version":"1.0.0","declared":{}}"#;
        let folder = tempfile::tempdir().expect("a folder");
        let (source, library) = (folder.path().join("m.c"), folder.path().join("m.so"));
        let quoted = description.replace('"', "\\\"");
        let text = format!(
            "#include <stdlib.h>\nvoid *grab(void) {{ return malloc(1); }}\nint {ROOT_SYMBOL} = 1;\nconst char fill[500000] = {{1}};\n\
             __attribute__((section(\".skerry.module\"), used)) const char d[{}] = \"{quoted}\";\n",
            description.len()
        );
        std::fs::write(&source, text).expect("the source");
        let status = Command::new("cc").arg(&source).arg("-o").arg(&library).args(["-shared", "-fPIC"]).status();
        assert!(status.expect("a C compiler").success());
        std::fs::read(&library).expect("the library")
    })
}

/// The manifest of a module, as it is pushed.
pub fn manifest(module: &[u8], more: Value) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{}", digest(b"{}")), "size": 2},
        "layers": [{"mediaType": LAYER_TYPE, "digest": format!("sha256:{}", digest(module)), "size": module.len()}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        manifest[key] = value.clone();
    }
    manifest.to_string().into_bytes()
}

/// An entry of an index for this machine, with these features.
pub fn entry(manifest: &[u8], features: &[&str]) -> Value {
    let (architecture, _) = platform_of(image::device().machine).expect("a machine with a name");
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{}", digest(manifest)),
        "size": manifest.len(),
        "platform": {"os": "linux", "architecture": architecture, "os.features": features},
    })
}

pub fn index(entries: &[Value]) -> Vec<u8> {
    let kind = "application/vnd.oci.image.index.v1+json";
    json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string().into_bytes()
}
