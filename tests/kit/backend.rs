//! A back end of the cloud: a script with the official service SDK of Python in a process of its own, which is the judge of what arrives there.
//! Must never set or read a twin by any other way.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use skerry_cloud::Cloud;

/// Ends with its input.
pub struct Backend {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Backend {
    pub fn of(cloud: &Cloud) -> Backend {
        let ready = cloud.ready();
        let proxy = format!("http://{}", ready.proxy);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud/sdk/backend.py");
        let mut command = Command::new(python());
        command.arg("-u").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("HTTPS_PROXY", &proxy).env("https_proxy", &proxy).env("NO_PROXY", "").env("no_proxy", "");
        let mut child = command.env("REQUESTS_CA_BUNDLE", &ready.ca_file).spawn().expect("python");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("its output")));
        let mut backend = Backend { child, input, output };
        backend.write(&json!({"connection_string": ready.policy_connection_string}));
        backend
    }

    /// Calls a function of the SDK: what it saw, `done` with a value or `refused` with a status.
    #[track_caller]
    pub fn ask(&mut self, name: &str, args: &Value) -> Value {
        self.write(&json!({"do": name, "args": args}));
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        let seen: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert_ne!(seen["saw"], "error", "the SDK is not content: {seen}");
        seen
    }

    /// The same where nothing is to be refused; its value.
    #[track_caller]
    pub fn call(&mut self, name: &str, args: &Value) -> Value {
        let seen = self.ask(name, args);
        assert_eq!(seen["saw"], "done", "{seen}");
        seen["value"].clone()
    }

    /// What "set modules" does in the portal.
    pub fn set_modules(&mut self, device: &str, manifest: &Value) {
        self.call("apply_configuration_on_edge_device", &json!([device, {"ConfigurationContent": manifest}]));
    }

    pub fn reported(&mut self, device: &str, module: &str) -> Value {
        self.call("get_module_twin", &json!([device, module]))["properties"]["reported"].clone()
    }

    /// Status and payload of a direct method.
    pub fn method(&mut self, device: &str, module: &str, name: &str, payload: &Value) -> Value {
        let method = json!({"methodName": name, "payload": payload, "connectTimeoutInSeconds": 30});
        self.call("invoke_device_module_method", &json!([device, module, {"CloudToDeviceMethod": method}]))
    }

    fn write(&mut self, line: &Value) {
        let input = self.input.as_mut().expect("its input");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("it listens");
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From `SKERRY_SDK_PYTHON`, which `cargo xtask test` sets, or where that puts it.
fn python() -> PathBuf {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sdk-venv/bin/python");
    let python = std::env::var_os("SKERRY_SDK_PYTHON").map_or(usual, PathBuf::from);
    assert!(python.exists(), "the Python SDKs are not installed; `cargo xtask test` does it");
    python
}
