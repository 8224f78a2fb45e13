//! A registry on the loopback interface, Debian's, for a device to pull from. Must never be without a password: a test that
//! needs none is not how it is in the field.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::{Image, built, wait_for};

/// Of `device`, with the password `secret`.
const USERS: &str = "device:$2b$04$iheyamfsuu5p9RDM3Y7QMetUZHgQC8anh24bjrLWvoxWuAR/4pr/q\n";

pub struct Registry {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Registry {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("its number").to_string();
        drop(free);
        let (users, store) = (folder.path().join("users"), folder.path().join("store"));
        std::fs::write(&users, USERS).expect("a file");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            store.display(),
            users.display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).expect("a configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry; install it with: apt-get install docker-registry");
        let registry = Registry { child, address, folder };
        wait_for("a registry that listens", || TcpStream::connect(&registry.address).ok());
        registry
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// As a manifest has them.
    pub fn credentials(&self) -> Value {
        json!({"here": {"address": self.address, "username": "device", "password": "secret"}})
    }

    /// With `cargo xtask push`, and the signatures if there are any.
    #[track_caller]
    pub fn push(&self, image: &Image, signatures: Option<&str>, name: &str) {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let file = folder.path().join("module.so");
        std::fs::write(&file, image.bytes()).expect("an image");
        if let Some(text) = signatures {
            std::fs::write(folder.path().join("module.so.sig"), text).expect("its signatures");
        }
        self.push_from(folder.path(), name);
    }

    #[track_caller]
    fn push_from(&self, folder: &Path, name: &str) {
        let mut push = Command::new(built::xtask());
        push.arg("push").arg(folder).arg(self.reference(name)).args(["--skopeo", "--dest-creds=device:secret"]);
        let ran = push.stdin(Stdio::null()).output().expect("xtask");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
