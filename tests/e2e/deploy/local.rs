//! Manifests without a cloud: from the file beside the configuration, and from `skerry deploy`.

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Ran, manifest, module, numbered, wait_for};

const TO_A: &str = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/a/inputs/input1\")";

fn write(device: &Device, name: &str, content: &Value) -> String {
    let path = device.path(name);
    std::fs::write(&path, content.to_string()).expect("a manifest");
    path.display().to_string()
}

#[track_caller]
fn deploy(device: &Device, content: &Value) -> Ran {
    let file = write(device, "typed.json", content);
    let ran = device.skerry(&["deploy", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

fn device() -> Device {
    let device = Device::new("");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.drop_in("filter.so", &Image::of("filter"));
    device
}

#[track_caller]
fn wait_gone(device: &Device, name: &str) {
    wait_for(&format!("{name} is gone"), || device.module(name).is_null().then_some(()));
}

#[test]
fn the_file_beside_the_configuration_is_in_force_from_the_start() {
    let mut device = device();
    write(
        &device,
        "deployment.json",
        &manifest(json!({"a": module("scribe"), "b": module("scribe")}), json!({"r": TO_A})),
    );
    device.start();
    device.wait_running("a");
    device.wait_running("b");
    // Two instances of one image: an identity, a folder and a process each; what nobody names does not run.
    assert!(device.module("filter").is_null() && device.module("scribe").is_null());
    device.send("tester", "out", &numbered(1));
    device.wait_book("a", "it", |line| line["body"]["seq"] == 1);
    assert!(device.book("b").is_empty() && device.path("state/modules/b").is_dir());
    assert_eq!(device.status()["deployment"]["origin"], "file");
    // After a stop it is there again; when the file goes, so does what it said.
    device.stop();
    device.start();
    device.wait_running("b");
    device.stop();
    std::fs::remove_file(device.path("deployment.json")).unwrap();
    device.start();
    device.wait_running("filter");
    assert!(device.module("a").is_null());
}

#[test]
fn a_deployment_changes_only_what_it_changes() {
    let mut device = device();
    device.start();
    device.wait_running("scribe");
    deploy(&device, &manifest(json!({"a": module("scribe"), "b": module("filter")}), json!({"r": TO_A})));
    let (a, b) = (device.wait_running("a"), device.wait_running("b"));
    wait_gone(&device, "scribe");
    // One is another, one comes, one goes; the fourth has only another policy.
    let mut changed = module("filter");
    changed["env"] = json!({"GREETING": {"value": "hello"}});
    let mut policy = module("scribe");
    policy["restartPolicy"] = "never".into();
    let ran = deploy(&device, &manifest(json!({"a": policy, "b": changed, "c": module("scribe")}), json!({"r": TO_A})));
    assert!(ran.out.contains("change") && ran.out.contains("create"), "{ran:?}");
    device.wait_running("c");
    device.wait_after("b", b.generation);
    assert_eq!(device.running("a"), Some(a.clone()));
    deploy(&device, &manifest(json!({"a": policy}), json!({"r": TO_A})));
    wait_gone(&device, "b");
    wait_gone(&device, "c");
    assert_eq!(device.running("a"), Some(a));
    // Kept over a kill; withdrawn, the folder counts again.
    device.kill();
    device.start();
    device.wait_running("a");
    assert!(device.skerry(&["deploy", "--remove"]).out.contains("withdrawn"));
    device.wait_running("scribe");
    wait_gone(&device, "a");
}

#[test]
fn routes_are_those_of_the_manifest_while_it_is_in_force() {
    let mut device =
        Device::new("[routes]\nr = 'FROM /messages/* INTO BrokeredEndpoint(\"/modules/b/inputs/input1\")'\n");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    deploy(&device, &manifest(json!({"a": module("scribe"), "b": module("scribe")}), json!({"r": TO_A})));
    device.wait_running("a");
    device.wait_running("b");
    device.send("tester", "out", &numbered(1));
    device.wait_book("a", "it", |line| line["body"]["seq"] == 1);
    let routes = device.status()["routes"].clone();
    assert!(routes[0]["route"].as_str().unwrap().contains("/modules/a/"), "{routes}");
    device.skerry(&["deploy", "--remove"]);
    device.wait_running("scribe");
    let answer = device.send("tester", "out", &numbered(2));
    assert!(matches!(answer["outcome"].as_str(), Some("durable" | "delivered")), "{answer}");
    assert_eq!(device.book("a").len(), 1);
}

#[test]
fn one_that_is_stopped_is_there_and_does_not_run() {
    let mut device = device();
    device.start();
    let mut stopped = module("scribe");
    stopped["status"] = "stopped".into();
    deploy(&device, &manifest(json!({"a": stopped}), json!({})));
    wait_for("it is there", || (device.module("a")["status"] == "stopped").then_some(()));
    let ran = device.skerry(&["restart", "a"]);
    assert!(ran.err.contains("stopped by its manifest"), "{ran:?}");
    deploy(&device, &manifest(json!({"a": module("scribe")}), json!({})));
    let first = device.wait_running("a");
    deploy(&device, &manifest(json!({"a": stopped}), json!({})));
    wait_for("it stops", || (device.module("a")["status"] == "stopped").then_some(()));
    assert!(!skerry_tests::is_alive(first.pid));
}

#[test]
fn options_reach_the_process() {
    let mut device = device();
    device.start();
    let mut one = module("scribe");
    let options = json!({"Cmd": ["-v", "two words"], "WorkingDir": "inner", "Env": ["GREETING=hello"],
        "HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": 77, "Hard": 77}]}});
    one["settings"]["createOptions"] = options.to_string().into();
    deploy(&device, &manifest(json!({"a": one}), json!({})));
    let a = device.wait_running("a");
    let told = device.method("a", "where", &Value::Null)["payload"].clone();
    assert_eq!(told["arguments"], json!(["-v", "two words"]), "{told}");
    assert_eq!(told["greeting"], "hello");
    assert!(told["folder"].as_str().unwrap().ends_with("/modules/a/inner"), "{told}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", a.pid)).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 77 ")), "{limits}");
}

#[test]
fn a_dry_run_tells_all_and_does_nothing() {
    let mut device = device();
    device.start();
    let before = device.wait_running("scribe");
    let mut one = module("filter");
    one["settings"]["createOptions"] = json!({"Labels": {"a": "b"}, "Cmd": ["x"]}).to_string().into();
    let good = manifest(json!({"a": one, "b": module("nobody@1.0.0")}), json!({"r": TO_A}));
    let file = write(&device, "typed.json", &good);
    let ran = device.skerry(&["deploy", "--dry-run", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in [
        "createOptions.Labels",
        "only containers have labels",
        "createOptions.Cmd",
        "skerry itself is the edgeHub",
        "mcr.microsoft.com/azureiotedge-hub:1.5",
        "create",
        "remove",
        "fetch",
        "no file in the drop-in folders is a module named \"nobody\" of version 1.0.0",
    ] {
        assert!(ran.out.contains(part), "no {part:?} in {}", ran.out);
    }
    let file = write(
        &device,
        "typed.json",
        &serde_json::from_str(include_str!("../../data/manifests/tutorial.json")).unwrap(),
    );
    let ran = device.skerry(&["deploy", "--dry-run", &file]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("is a container image") && ran.out.contains("skerry itself is the edgeAgent"), "{ran:?}");
    // For real it is one sentence, and nothing changes.
    let ran = device.skerry(&["deploy", &file]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{ran:?}");
    assert!(
        ran.err.contains("$edgeAgent.properties.desired.modules.SimulatedTemperatureSensor.settings.image"),
        "{ran:?}"
    );
    assert_eq!(device.running("scribe"), Some(before));
    assert!(device.status()["deployment"].is_null());
}

#[test]
fn a_dry_run_tells_of_twins_and_needs_no_runtime() {
    let mut device = device();
    device.start();
    let mut one = module("filter");
    one["settings"]["createOptions"] = json!({"Cmd": ["x"]}).to_string().into();
    let good = manifest(json!({"a": one}), json!({"r": TO_A}));
    // A twin takes no such property; that is told as well.
    let mut bad = good.clone();
    bad["modulesContent"]["a"] = json!({"properties.desired": {"a.b": 1}});
    let file = write(&device, "typed.json", &bad);
    let ran = device.skerry(&["deploy", "--dry-run", &file]);
    assert!(ran.code == Some(1) && ran.out.contains("refused: a.properties.desired: "), "{ran:?}");
    // What everything in it means can be asked for where nothing runs.
    device.stop();
    let ran = device.skerry(&["deploy", "--dry-run", &file]);
    assert!(ran.code == Some(1) && ran.out.contains("refused: a.properties.desired: "), "{ran:?}");
    let file = write(&device, "typed.json", &good);
    let ran = device.skerry(&["deploy", "--dry-run", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("createOptions.Cmd") && ran.out.contains("what would be done is not known: "), "{ran:?}");
    let ran = device.skerry(&["deploy", &file]);
    assert!(ran.code == Some(1) && ran.err.contains("no skerry is running there"), "{ran:?}");
}

#[test]
fn what_is_wrong_with_a_file_is_told_where_it_is_typed() {
    let mut device = device();
    std::fs::write(device.path("deployment.json"), "{\"modulesContent\": ").unwrap();
    device.start();
    device.wait_running("scribe");
    let warnings = device.status()["warnings"].to_string();
    assert!(warnings.contains("deployment.json: not JSON: EOF"), "{warnings}");
    let ran = device.skerry(&["deploy", device.path("deployment.json").to_str().unwrap()]);
    assert!(ran.code == Some(2) && ran.err.contains("not JSON: EOF while parsing a value at line 1"), "{ran:?}");
    let ran = device.skerry(&["deploy", "/nowhere.json"]);
    assert!(ran.code == Some(2) && ran.err.contains("/nowhere.json can't be read"), "{ran:?}");
    let ran = device.skerry(&["deploy", "--remove"]);
    assert!(ran.code == Some(1) && ran.err.contains("no manifest is in force"), "{ran:?}");
}

#[test]
fn an_image_that_comes_later_is_taken_then() {
    let mut device = Device::new("");
    device.start();
    deploy(&device, &manifest(json!({"a": module("scribe")}), json!({})));
    let missing = wait_for("a warning", || {
        let warnings = device.status()["warnings"].to_string();
        warnings.contains("instance a: it has no image").then_some(warnings)
    });
    assert!(missing.contains("no file in the drop-in folders is a module named \\\"scribe\\\""), "{missing}");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("a");
    assert!(!device.status()["warnings"].to_string().contains("it has no image"));
    // A file of its own, by its path.
    std::fs::write(device.path("aside.so"), Image::of("filter").bytes()).unwrap();
    let by_path = module(&format!("file:{}", device.path("aside.so").display()));
    deploy(&device, &manifest(json!({"f": by_path}), json!({})));
    device.wait_running("f");
}

#[test]
fn lower_orders_start_first() {
    let mut device = device();
    device.start();
    let ordered = |image: &str, order: u32| {
        let mut module = module(image);
        module["startupOrder"] = order.into();
        module
    };
    let modules =
        json!({"a": ordered("scribe", 3), "b": ordered("scribe", 2), "c": ordered("scribe", 1), "d": module("scribe")});
    deploy(&device, &manifest(modules, json!({})));
    device.wait_running("d");
    let log = device.log();
    let at =
        |name: &str| log.find(&format!("instance={name}/1 status=running")).unwrap_or_else(|| panic!("{name} ran"));
    assert!(at("c") < at("b") && at("b") < at("a") && at("a") < at("d"), "{log}");
}
