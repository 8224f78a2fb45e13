//! Manifests from the cloud, which the official service SDK sets and looks at.

use std::io::Read;

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Event, Options, What};
use skerry_tests::{
    Backend, Device, Image, all_there, manifest, module, numbered, tell, wait_connected, wait_for, wait_stored,
};

const TO_A: &str = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/a/inputs/input1\")";

fn cloud() -> Cloud {
    Cloud::start(Options::new("d1", &[])).expect("the emulator")
}

fn device(cloud: &Cloud) -> Device {
    let ready = cloud.ready();
    let config = format!(
        "[provisioning]\nsource = \"manual\"\nconnection_string = \"{}\"\n[upstream]\naddress = \"{}\"\nca = \"{}\"\n\
         retry_max = \"1s\"\noperation_timeout = \"5s\"\n[limits]\nhang_after = \"2s\"\n\
         [restart]\nbackoff_base = \"50ms\"\nbackoff_max = \"200ms\"\nhealth_window = \"1s\"\n",
        ready.device.connection_string,
        ready.address,
        ready.ca_file.display()
    );
    let device = Device::new(&config);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device
}

/// The agent's reported section, once it fits.
#[track_caller]
fn reported(backend: &mut Backend, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = skerry_tests::wait_within(skerry_tests::DEADLINE, || {
        last = backend.reported("d1", "$edgeAgent");
        fits(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("not reported: {what}; it is {last:#}"))
}

fn runs(section: &Value, module: &str) -> bool {
    section["modules"][module]["runtimeStatus"] == "running"
}

#[test]
fn modules_come_change_and_go_as_the_cloud_says() {
    let cloud = cloud();
    let mut backend = Backend::of(&cloud);
    let mut device = device(&cloud);
    device.start();
    // Until the cloud says something, the device has its own ways.
    device.wait_running("scribe");
    reported(&mut backend, "no manifest", |s| s["lastDesiredStatus"]["code"] == 417 && runs(s, "scribe"));
    let mut one = module("scribe");
    one["version"] = "1.2".into();
    one["env"] = json!({"GREETING": {"value": "hello"}});
    one["settings"]["createOptions"] = json!({"Cmd": ["-v"]}).to_string().into();
    backend.set_modules("d1", &manifest(json!({"a": one, "b": module("scribe")}), json!({"r": TO_A})));
    device.wait_running("a");
    device.wait_running("b");
    let section =
        reported(&mut backend, "both run", |s| runs(s, "a") && runs(s, "b") && s["modules"]["scribe"].is_null());
    assert_eq!(section["lastDesiredStatus"], json!({"code": 200, "description": ""}), "{section:#}");
    assert_eq!((&section["lastDesiredVersion"], &section["schemaVersion"]), (&json!(2), &json!("1.0")));
    assert_eq!(section["systemModules"]["edgeHub"]["runtimeStatus"], "running");
    let a = &section["modules"]["a"];
    let expected = [
        ("version", json!("1.2")),
        ("status", json!("running")),
        ("restartPolicy", json!("always")),
        ("exitCode", json!(0)),
        ("restartCount", json!(0)),
        ("env", json!({"GREETING": {"value": "hello"}})),
        ("lastExitTimeUtc", json!("0001-01-01T00:00:00Z")),
    ];
    for (key, value) in expected {
        assert_eq!(a[key], value, "{key} in {a:#}");
    }
    assert_eq!(a["settings"]["createOptions"], "{\"Cmd\":[\"-v\"]}");
    assert_eq!(a["settings"]["imageHash"].as_str().map(str::len), Some(64));
    let hub = wait_for("the hub's clients", || {
        let hub = backend.reported("d1", "$edgeHub");
        (hub["clients"]["d1/a"]["status"] == "Connected").then_some(hub)
    });
    assert_eq!(hub["lastDesiredStatus"]["code"], 200, "{hub:#}");
    device.send("tester", "out", &numbered(1));
    device.wait_book("a", "it", |line| line["body"]["seq"] == 1);
    // One goes; the other is not touched.
    let before = device.running("a");
    backend.set_modules("d1", &manifest(json!({"a": one}), json!({"r": TO_A})));
    reported(&mut backend, "b is gone", |section| {
        section["modules"]["b"].is_null() && section["lastDesiredVersion"] == 3
    });
    assert_eq!(device.running("a"), before);
    only_its_end_is_told(&cloud, "b");
    // What is not good changes nothing, and says where.
    backend.set_modules("d1", &manifest(json!({"a": module("mcr.microsoft.com/x:1")}), json!({})));
    let section = reported(&mut backend, "a refusal", |section| section["lastDesiredStatus"]["code"] == 400);
    let why = section["lastDesiredStatus"]["description"].as_str().unwrap();
    assert!(why.starts_with("$edgeAgent.properties.desired.modules.a.settings.image: "), "{why}");
    assert_eq!(device.running("a"), before);
    stops_and_says_so(&mut device, &mut backend);
    // Cut off and started anew, the last good one is in force.
    tell(&cloud, Command::Cut);
    device.start();
    device.wait_running("a");
    assert_eq!(device.status()["deployment"]["origin"], "cloud");
    let ran = device.skerry(&["deploy", "--remove"]);
    assert!(ran.err.contains("the cloud's manifest is in force"), "{ran:?}");
}

/// What went up for a module that is gone was just that, and what differs for everybody; nothing of the others.
#[track_caller]
fn only_its_end_is_told(cloud: &Cloud, module: &str) {
    let its_end = |event: &Event| match &event.what {
        What::Twin { identity, patch, .. } => {
            identity == "d1/$edgeAgent" && patch["modules"].get(module) == Some(&Value::Null)
        }
        _ => false,
    };
    let event = cloud.wait(skerry_tests::DEADLINE, its_end).expect("a report");
    let What::Twin { patch, .. } = event.what else { unreachable!("chosen") };
    assert_eq!(patch["modules"], json!({module: null}), "{patch:#}");
    let known = ["modules", "lastDesiredVersion", "lastDesiredStatus"];
    assert!(patch.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{patch:#}");
}

/// The last word to the cloud: nobody looks after the modules any more.
#[track_caller]
fn stops_and_says_so(device: &mut Device, backend: &mut Backend) {
    device.stop();
    let section = backend.reported("d1", "$edgeAgent");
    assert_eq!(
        (&section["lastDesiredStatus"]["code"], &section["modules"]["a"]["runtimeStatus"]),
        (&json!(406), &json!("unknown"))
    );
    assert_eq!(section["modules"]["a"]["restartPolicy"], "always", "what else was told of it stays: {section:#}");
    assert_eq!(
        device.log().matches("instance=a/1 status=running").count(),
        1,
        "it was started again while all stopped"
    );
}

#[test]
fn an_update_that_fails_is_told_in_the_cloud() {
    let cloud = cloud();
    let mut backend = Backend::of(&cloud);
    let mut device = device(&cloud);
    device.start();
    backend.set_modules("d1", &manifest(json!({"a": module("scribe@0.1.0")}), json!({"r": TO_A})));
    device.wait_running("a");
    device.wait_log("instance=a/1 proved=true");
    device.drop_in("new.so", &Image::scribe_failing("start").with_version("0.9.0"));
    backend.set_modules("d1", &manifest(json!({"a": module("scribe@0.9.0")}), json!({"r": TO_A})));
    let section = reported(&mut backend, "the failure", |section| section["lastDesiredStatus"]["code"] == 500);
    let why = section["lastDesiredStatus"]["description"].as_str().unwrap();
    assert!(why.contains("a: scribe 0.9.0 was rejected and 0.1.0 runs again: killed by SIGABRT"), "{why}");
    let section = reported(&mut backend, "the old one", |section| runs(section, "a"));
    assert!(section["modules"]["a"]["statusDescription"].as_str().unwrap().contains("was rejected"), "{section:#}");
    assert_eq!(device.running("a").unwrap().version, "0.1.0");
    // Put right, all is well again.
    backend.set_modules("d1", &manifest(json!({"a": module("scribe@0.1.0")}), json!({"r": TO_A})));
    reported(&mut backend, "all is well", |section| {
        section["lastDesiredStatus"] == json!({"code": 200, "description": ""})
    });
}

#[test]
fn methods_of_the_agent_answer_as_in_the_field() {
    let cloud = cloud();
    let mut backend = Backend::of(&cloud);
    let mut device = device(&cloud);
    device.start();
    let first = device.wait_running("scribe");
    let agent = |backend: &mut Backend, name: &str, payload: Value| backend.method("d1", "$edgeAgent", name, &payload);
    let answer = agent(&mut backend, "ping", Value::Null);
    assert_eq!((answer["status"].as_u64(), &answer["payload"]), (Some(200), &Value::Null), "{answer}");
    let answer = agent(&mut backend, "restartModule", json!({"schemaVersion": "1.0", "id": "scribe"}));
    assert_eq!(answer["status"], 200, "{answer}");
    device.wait_after("scribe", first.generation);
    let answer = agent(&mut backend, "RestartModule", json!({"schemaVersion": "1.0", "id": "scrib"}));
    assert_eq!(answer, json!({"status": 400, "payload": {"message": "no module \"scrib\": did you mean \"scribe\"?"}}));
    let answer = agent(&mut backend, "Reboot", Value::Null);
    assert_eq!(answer["status"], 400, "{answer}");
    // A line of the module's own.
    device.method("scribe", "log", &json!("a line of its own"));
    device.wait_logged("scribe", "a line of its own");
    let ask = |encoding: &str| json!({"schemaVersion": "1.0", "items": [{"id": "scr.*", "filter": {"tail": 10, "regex": "its own"}}], "encoding": encoding});
    let answer = agent(&mut backend, "GetModuleLogs", ask("none"));
    let payload = &answer["payload"][0];
    assert_eq!(
        (&answer["status"], &payload["id"], &payload["payloadBytes"]),
        (&json!(200), &json!("scribe"), &Value::Null),
        "{answer}"
    );
    let text = payload["payload"].as_str().unwrap();
    assert!(text.starts_with("<6> ") && text.ends_with("a line of its own\n"), "{text:?}");
    let answer = agent(&mut backend, "GetModuleLogs", ask("gzip"));
    let packed = answer["payload"][0]["payloadBytes"].as_str().unwrap();
    let packed = data_encoding::BASE64.decode(packed.as_bytes()).unwrap();
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);
    // The runtime's own log is the agent's, as the field asks for it; and all are all.
    let mut own = json!({"schemaVersion": "1.0", "items": {"id": "edgeAgent"}, "contentType": "json"});
    let answer = agent(&mut backend, "GetModuleLogs", own.clone());
    let lines = answer["payload"][0]["payload"].as_str().unwrap();
    assert!(lines.contains("instance=scribe/1 status=running") && lines.contains("\"id\":\"edgeAgent\""), "{answer}");
    own["items"]["id"] = "all".into();
    let answer = agent(&mut backend, "GetModuleLogs", own);
    let ids: Vec<&Value> = answer["payload"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["edgeAgent", "scribe"], "{answer}");
    let answer = backend.method("d1", "$edgeHub", "nothing", &Value::Null);
    assert_eq!(answer["status"], 404, "{answer}");
    // The same without the cloud.
    assert_eq!(device.method("$edgeAgent", "ping", &Value::Null)["status"], 200);
    let twin = device.skerry(&["twin", "get", "$edgeAgent"]);
    assert!(twin.out.contains("systemModules"), "{twin:?}");
}

/// What a device knows of itself that it must know again, whatever happened in between.
fn remembered(device: &Device) -> Vec<(String, Value)> {
    let mut found = vec![("deployment".to_owned(), device.get("/deployment"))];
    for name in ["a", "b", "$edgeAgent", "$edgeHub"] {
        let desired = device.skerry(&["twin", "get", name, "--json"]).json()["desired"].clone();
        assert!(desired["$version"].as_u64() > Some(1), "{name}: {desired}");
        found.push((format!("twin of {name}"), desired));
    }
    let identities = device.skerry(&["identity", "list", "--json"]).json();
    for row in identities.as_array().expect("a list").iter().filter(|row| row["module"] != "scribe") {
        assert!(row["generationId"].as_str().is_some_and(|id| !id.is_empty()), "{row}");
        found.push((format!("identity of {}", row["module"]), row["generationId"].clone()));
    }
    assert_eq!(found.len(), 9, "{found:?}");
    found
}

/// The power comes back, and with it neither network nor cloud nor the time of day: modules, identities, twins, routes and stored messages are
/// all there, as the cloud once said, and go on. When the network is back, everything that waited goes out.
#[test]
fn a_cold_boot_in_1970_without_a_network_brings_back_what_the_cloud_once_said() {
    let cloud = cloud();
    let mut backend = Backend::of(&cloud);
    let mut device = device(&cloud);
    device.start();
    let routes = json!({
        "to_a": TO_A,
        "to_b": "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/input1\")",
        "up": {"route": "FROM /messages/modules/b/* INTO $upstream", "priority": 3, "timeToLiveSecs": 86_400},
    });
    let mut manifest = manifest(json!({"a": module("scribe"), "b": module("scribe")}), routes);
    manifest["modulesContent"]["a"] = json!({"properties.desired": {"forward": true, "kept": "by a"}});
    manifest["modulesContent"]["b"] = json!({"properties.desired": {"forward": true, "kept": "by b"}});
    backend.set_modules("d1", &manifest);
    for name in ["a", "b"] {
        device.wait_running(name);
        wait_connected(&cloud, &format!("d1/{name}"));
        wait_for("its desired properties", || (backend.reported("d1", name)["forwards"] == true).then_some(()));
    }
    device.send("tester", "out", &numbered(0));
    wait_stored(&cloud, "d1/b", 0);
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("b")["connected"] == false).then_some(()));
    device.send_all("tester", "out", &(1..30).map(numbered).collect::<Vec<_>>());
    device.wait_upstream("b", "stored", |count| count == 29);
    let before = remembered(&device);
    device.kill();
    device.set_clock("1970-01-01 00:00:10");
    device.set_network(false);
    device.start();
    device.wait_running("a");
    device.wait_running("b");
    assert!(device.status()["time"].as_str().is_some_and(|t| t.starts_with("1970-01-01")), "this test tests nothing");
    assert_eq!(remembered(&device), before);
    assert_eq!(device.status()["deployment"]["origin"], "cloud");
    device.wait_upstream("b", "pending", |count| count == 29);
    // The routes are those of the cloud, too: through both modules, and it waits for the cloud.
    device.send("tester", "out", &numbered(30));
    device.wait_book("b", "it", |line| line["body"]["seq"] == 30);
    device.wait_upstream("b", "pending", |count| count == 30);
    let [config, state] = ["config.toml", "state"].map(|file| device.path(file).display().to_string());
    let check = device.skerry(&["check", "--config", &config, "--state", &state]);
    assert!(check.out.contains("the clock says 1970-01-01") && check.out.contains("but it is at least"), "{check:?}");
    device.kill();
    device.set_network(true);
    device.start();
    tell(&cloud, Command::Heal);
    all_there(&cloud, "d1/b", &(0..=30).collect::<Vec<_>>());
}
