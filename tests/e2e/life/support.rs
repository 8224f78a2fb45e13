//! `skerry support-bundle`: everything that explains a fault is in it, and no secret is, wherever it stood.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use skerry_tests::{Device, Image, manifest, module, numbered};

/// Everything that must not be seen: keys in base64, passwords, and what stands under the name of a secret. The last two are in comments.
const SECRETS: [&str; 12] = [
    "ZGV2aWNlIGtleSBvZiB0aGUgdGVzdA==",
    "bW9kdWxlIGtleSBvZiB0aGUgdGVzdA==",
    "proxy-pass-1",
    "registry-pass-2",
    "registry-pass-3",
    "env-value-4",
    "manifest-pass-5",
    "manifest-env-6",
    "options-env-7",
    "twin-key-8",
    "b2xkIGtleSBvZiB0aGUgdGVzdCBoZXJl",
    "b2xkZXIga2V5IG9mIHRoZSB0ZXN0IQ==",
];

fn config() -> String {
    format!(
        "[provisioning]\nsource = \"manual\"\n\
         connection_string = \"HostName=hub.invalid;DeviceId=d1;SharedAccessKey={}\" # was {}\n\
         # connection_string = \"HostName=hub.invalid;DeviceId=d1;SharedAccessKey={}\"\n\
         [upstream]\naddress = \"127.0.0.1:9\"\nproxy = \"http://me:{}@127.0.0.1:9\"\n\
         [upstream.modules.other]\nconnection_string_file = \"other.key\"\n\
         [images.registries.\"reg.invalid:5000\"]\nusername = \"device\"\npassword = \"{}\"\n\
         [images.registries.\"reg.invalid:5001\"]\nusername = \"device\"\npassword_file = \"reg.key\"\n\
         [modules.scribe]\nenv = {{ API_KEY = \"{}\" }}\n[log]\nmodules = \"disk\"\n",
        SECRETS[0], SECRETS[10], SECRETS[11], SECRETS[2], SECRETS[3], SECRETS[5]
    )
}

fn private(device: &Device, name: &str, text: &str) {
    let path = device.path(name);
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

fn device() -> Device {
    let device = Device::new(&config());
    private(&device, "config.toml", &config());
    let string = format!("HostName=hub.invalid;DeviceId=d1;ModuleId=other;SharedAccessKey={}", SECRETS[1]);
    private(&device, "other.key", &string);
    private(&device, "reg.key", SECRETS[4]);
    let mut scribe = module("scribe");
    scribe["env"] = json!({"B_TOKEN": {"value": SECRETS[7]}});
    scribe["settings"]["createOptions"] = json!({"Env": [format!("C_PASSWORD={}", SECRETS[8])]}).to_string().into();
    let mut content = manifest(json!({"scribe": scribe, "faulty": module("faulty")}), json!({}));
    content["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
        json!({"own": {"address": "reg.invalid:5002", "username": "u", "password": SECRETS[6]}});
    content["modulesContent"]["scribe"] = json!({"properties.desired": {"apiKey": SECRETS[9], "start": "well"}});
    private(&device, "deployment.json", &content.to_string());
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("faulty.so", &Image::of("faulty"));
    device
}

/// Makes one and takes it apart: its files by name, without the folder.
#[track_caller]
fn bundle(device: &Device, name: &str, more: &[&str]) -> (BTreeMap<String, String>, Value) {
    let path = device.path(name);
    let (config, state) = (device.path("config.toml"), device.path("state"));
    let (config, state, output) =
        (config.display().to_string(), state.display().to_string(), path.display().to_string());
    let arguments = ["support-bundle", "--json", "-o", &output, "--config", &config, "--state", &state];
    let ran = device.skerry(&[&arguments[..], more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(std::fs::metadata(&path).expect("an archive").permissions().mode() & 0o777, 0o600);
    let file = std::fs::File::open(&path).expect("an archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("files") {
        let mut entry = entry.expect("a file");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let (folder, name) = name.split_once('/').expect("a folder around everything");
        assert!(folder.starts_with("skerry-"), "{folder}");
        let name = name.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        files.insert(name, text);
    }
    for (name, text) in &files {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} stands in {name}: {text}");
        }
    }
    (files, ran.json())
}

fn json_of(files: &BTreeMap<String, String>, name: &str) -> Value {
    let text = files.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", files.keys()));
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
}

#[test]
fn what_runs_is_in_it_and_no_secret() {
    let mut device = device();
    device.start();
    device.wait_running("scribe");
    device.wait_running("faulty");
    // Secrets get into logs, too, and a crash report repeats the log.
    for secret in SECRETS {
        device.method("scribe", "log", &json!(format!("shaped like one, password={secret}")));
    }
    // Those of comments are nowhere else, and nobody knows them.
    for secret in &SECRETS[..10] {
        device.method("scribe", "log", &json!(format!("alone: {secret}")));
    }
    device.wait_logged("scribe", "alone: twin-key-8");
    device.method("faulty", "segfault", &Value::Null);
    device.wait_log("crash_report=");
    device.send("tester", "out", &numbered(1));
    let (files, told) = bundle(&device, "one.tar.gz", &[]);
    assert_eq!(told["missing"], json!([]), "{told}");
    assert_eq!(told["files"].as_u64(), Some(files.len() as u64));
    assert_eq!(json_of(&files, "about.json")["running"], true);
    let config = &files["config.toml"];
    for part in [
        "[upstream.modules.other]",
        "connection_string_file = \"other.key\"",
        "connection_string = \"(not shown)\"",
        "env = \"(not shown)\"",
    ] {
        assert!(config.contains(part), "no {part:?} in {config}");
    }
    let deployed = json_of(&files, "deployment.json");
    let agent = &deployed["modulesContent"]["$edgeAgent"]["properties.desired"];
    assert_eq!(agent["modules"]["scribe"]["settings"]["image"], "scribe", "{deployed:#}");
    assert_eq!(agent["modules"]["scribe"]["env"], json!({"B_TOKEN": {"value": "(not shown)"}}));
    assert!(files.contains_key("deployment-file.json"));
    assert_eq!(json_of(&files, "status.json")["device"], "d1");
    assert_eq!(json_of(&files, "ledger.json")["noRoute"], 1);
    let twin = json_of(&files, "twins/scribe.json");
    assert_eq!(
        (&twin["desired"]["apiKey"], &twin["desired"]["start"]),
        (&json!("(not shown)"), &json!("well")),
        "{twin}"
    );
    assert!(json_of(&files, "twins/$edgeAgent.json")["reported"]["systemModules"].is_object());
    assert!(files["logs/scribe.log"].contains("alone: (not shown)\n"), "{}", files["logs/scribe.log"]);
    assert!(files["logs/skerry.log"].contains("instance=scribe/1 status=running"), "{}", files["logs/skerry.log"]);
    assert!(files["crashes/faulty/00000001.txt"].contains("killed by SIGSEGV"));
    assert!(json_of(&files, "check.json")["checks"].as_array().is_some_and(|checks| checks.len() > 10));
    assert!(files["check.txt"].contains("configuration") && files["metrics.txt"].contains("edgehub_"));
    assert!(files["files.txt"].contains("state/images/"), "{}", files["files.txt"]);
    assert!(json_of(&files, "images.json")["images"].is_array());
    // Never over another file.
    let output = device.path("one.tar.gz").display().to_string();
    let ran = device.skerry(&["support-bundle", "-o", &output]);
    assert!(ran.code == Some(2) && ran.err.contains("is there already"), "{ran:?}");
}

#[test]
fn what_does_not_run_is_in_it_as_far_as_it_can_be_read() {
    let mut device = device();
    device.start();
    device.wait_running("scribe");
    device.method("scribe", "log", &json!(format!("alone: {}", SECRETS[3])));
    device.wait_logged("scribe", "alone: ");
    device.method("faulty", "abort", &Value::Null);
    device.wait_log("crash_report=");
    device.stop();
    let (files, told) = bundle(&device, "one.tar.gz", &[]);
    assert_eq!(json_of(&files, "about.json")["running"], false);
    assert!(files["logs/scribe.log"].contains("alone: (not shown)\n"), "{}", files["logs/scribe.log"]);
    assert!(files["crashes/faulty/00000001.txt"].contains("killed by SIGABRT"));
    assert!(files["check.txt"].contains("no skerry is running"), "{}", files["check.txt"]);
    let missing = told["missing"].as_array().expect("a list");
    let told = |name: &str| {
        missing
            .iter()
            .any(|m| m["file"] == name && m["why"].as_str().is_some_and(|w| w.contains("no skerry is running there")))
    };
    assert!(told("status.json") && told("metrics.txt"), "{missing:?}");
    // What the store keeps is read from it.
    assert_eq!(json_of(&files, "twins/scribe.json")["desired"]["start"], "well");
    assert_eq!(json_of(&files, "deployment.json")["origin"], "file");
    let queues = json_of(&files, "ledger.json")["queues"].clone();
    assert!(queues.is_array(), "{queues}");
    assert_eq!(json_of(&files, "contents.json")["missing"].as_array(), Some(missing));
    // A configuration that can't be read is the fault that somebody looks for.
    private(&device, "config.toml", &format!("{}[upsteam]\nx = \"\n", config()));
    let (files, _) = bundle(&device, "two.tar.gz", &[]);
    assert!(files["config.toml"].contains("[upsteam]"), "{}", files["config.toml"]);
    assert!(files["check.txt"].contains("not TOML"), "{}", files["check.txt"]);
    assert!(files.contains_key("crashes/faulty/00000001.txt"));
}
