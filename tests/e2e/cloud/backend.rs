//! From a back end to a module and back: the official service SDK, unmodified, to the emulator, to skerry, to a module process.
//! Must never take a short cut: the SDK is told what to do, and the module answers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Options};
use skerry_tests::{DEADLINE, Device, Image, numbered, wait_connected, wait_for, wait_stored};

const ID: &str = "d1/scribe";

/// A script with the SDK; ends with its standard input.
struct Backend {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Backend {
    fn start(cloud: &Cloud) -> Backend {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let usual = here.join("../target/sdk-venv/bin/python");
        let python = std::env::var_os("SKERRY_SDK_PYTHON").map_or(usual, PathBuf::from);
        assert!(python.exists(), "the Python SDKs are not installed; `cargo xtask test` does it");
        let ready = cloud.ready();
        let mut command = Command::new(python);
        command.arg("-u").arg(here.join("cloud/sdk/backend.py"));
        for name in ["HTTPS_PROXY", "https_proxy"] {
            command.env(name, format!("http://{}", ready.proxy));
        }
        command.env("NO_PROXY", "").env("no_proxy", "").env("REQUESTS_CA_BUNDLE", &ready.ca_file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
        let (input, output) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        let mut backend = Backend { child, input, output: BufReader::new(output) };
        backend.write(&json!({"connection_string": ready.policy_connection_string}));
        backend
    }

    fn write(&mut self, line: &Value) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("the back end listens");
    }

    /// What it saw: `done` with a value, or `refused` with a status.
    #[track_caller]
    fn ask(&mut self, what: &str, args: Value) -> Value {
        self.write(&json!({"do": what, "args": args}));
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        let seen: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert_ne!(seen["saw"], "error", "the SDK is not content: {seen}");
        seen
    }

    #[track_caller]
    fn does(&mut self, what: &str, args: Value) -> Value {
        let seen = self.ask(what, args);
        assert_eq!(seen["saw"], "done", "{seen}");
        seen["value"].clone()
    }

    fn method(&mut self, name: &str, payload: Value) -> Value {
        let call = json!({"CloudToDeviceMethod": {"methodName": name, "payload": payload, "responseTimeoutInSeconds": 20,
            "connectTimeoutInSeconds": 5}});
        self.ask("invoke_device_module_method", json!(["d1", "scribe", call]))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> (Cloud, Device) {
    let cloud = Cloud::start(Options::new("d1", &[])).expect("the emulator");
    let ready = cloud.ready();
    let config = format!(
        "[provisioning]\nsource = \"manual\"\nconnection_string = \"{}\"\n[upstream]\naddress = \"{}\"\nca = \"{}\"\n\
         retry_max = \"1s\"\noperation_timeout = \"5s\"\n[routes]\n\
         one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n\
         up = 'FROM /messages/modules/scribe/* INTO $upstream'\n",
        ready.device.connection_string,
        ready.address,
        ready.ca_file.display()
    );
    let mut device = Device::new(&config);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, ID);
    (cloud, device)
}

#[test]
fn twins_methods_and_messages_go_there_and_back() {
    let (cloud, device) = start();
    let mut backend = Backend::start(&cloud);
    // The module's identity, as skerry made it.
    let module = backend.does("get_module", json!(["d1", "scribe"]));
    assert_eq!(module["connectionState"], "Connected", "{module}");
    // A desired property goes down, what the module reports comes up.
    let patch = json!({"Twin": {"properties": {"desired": {"forward": true}}}});
    let patched = backend.does("update_module_twin", json!(["d1", "scribe", patch, "*"]));
    assert_eq!(patched["properties"]["desired"]["forward"], true, "{patched}");
    let reported = wait_for("the module's report", || {
        let twin = backend.does("get_module_twin", json!(["d1", "scribe"]));
        (twin["properties"]["reported"]["forwards"] == true).then(|| twin["properties"]["reported"].clone())
    });
    assert!(reported["$version"].as_u64().is_some_and(|version| version > 1) && reported["$metadata"].is_object());
    // Telemetry of the module.
    device.send("tester", "out", &numbered(7));
    wait_stored(&cloud, ID, 7);
    // A method: the module's answer, its own status, and its absence.
    let echoed = backend.method("echo", json!({"a": [1, "ü"]}));
    assert_eq!(
        (&echoed["value"]["status"], &echoed["value"]["payload"]),
        (&json!(200), &json!({"a": [1, "ü"]})),
        "{echoed}"
    );
    assert_eq!(backend.method("busy", Value::Null)["value"]["status"], 409);
    assert_eq!(backend.method("nothing", Value::Null)["value"]["status"], 404);
    // An answer that the cloud would not take is replaced, and does not end the connection.
    assert_eq!(backend.method("large", Value::Null)["value"]["status"], 413);
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    wait_for("the module is gone", || device.status()["modules"].as_array().is_some_and(Vec::is_empty).then_some(()));
    let gone = backend.method("echo", Value::Null);
    assert_eq!(gone["value"]["status"], 404, "{gone}");
    assert!(cloud.wait_until(DEADLINE, |cloud| cloud.connections()[ID].is_open.then_some(())).is_some());
}
