//! The SDK for back ends, which always dials port 443 of the hub's name: its environment leads it through the proxy, and has
//! it trust the emulator's authority.

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Options, What};

use crate::judge::{Judge, USUAL, command, happened, python};

const DEVICE: &str = "Hannover01";
const MODULE: &str = "Hannover01/insight";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn start() -> Cloud {
    python();
    let others = vec!["Hannover02".to_owned(), "Hannover02/pump".to_owned()];
    Cloud::start(Options { others, ..Options::new(DEVICE, &["insight"]) }).expect("an emulator")
}

fn backend(cloud: &Cloud) -> Judge {
    let ready = cloud.ready();
    let mut judge = Judge::spawn(
        "backend.py",
        &[
            ("HTTPS_PROXY", format!("http://{}", ready.proxy)),
            ("https_proxy", format!("http://{}", ready.proxy)),
            ("NO_PROXY", String::new()),
            ("no_proxy", String::new()),
            ("REQUESTS_CA_BUNDLE", ready.ca_file.display().to_string()),
        ],
    );
    judge.write(&json!({"connection_string": ready.policy_connection_string}));
    judge
}

#[track_caller]
fn does(judge: &mut Judge, what: &str, args: Value) -> Value {
    judge.write(&json!({"do": what, "args": args}));
    judge.saw("done", |seen| seen["what"] == what)["value"].clone()
}

/// The status, and the cloud's word for it.
#[track_caller]
fn refuses(judge: &mut Judge, what: &str, args: Value, status: u16, word: &str) {
    judge.write(&json!({"do": what, "args": args}));
    let refused = judge.saw("refused", |seen| seen["what"] == what);
    let body: Value = serde_json::from_str(refused["body"].as_str().unwrap_or_default()).expect("JSON");
    assert_eq!(refused["status"], status, "{refused}");
    assert!(body["Message"].as_str().is_some_and(|message| message.contains(word)), "{refused}");
}

#[test]
fn modules_are_made_found_changed_and_removed() {
    let cloud = start();
    let mut events = cloud.events();
    let mut judge = backend(&cloud);
    let made = does(&mut judge, "create_module_with_sas", json!([DEVICE, "valve", "me", KEY, KEY]));
    assert_eq!((&made["moduleId"], &made["managedBy"]), (&json!("valve"), &json!("me")));
    assert_eq!(made["authentication"]["symmetricKey"]["primaryKey"], KEY);
    assert!(made["generationId"].as_str().is_some_and(|id| id.len() == 18), "{made}");
    let by = |what: &What| matches!(what, What::IdentityCreated { identity, by, .. } if identity == "Hannover01/valve" && by == "iothubowner");
    happened(&mut events, by);
    let created = happened(&mut cloud.events_from(0), |what| matches!(what, What::Proxy { .. }));
    assert!(matches!(&created, What::Proxy { target, .. } if target.ends_with(":443")), "{created:?}");
    refuses(&mut judge, "create_module_with_sas", json!([DEVICE, "valve", "me", KEY, KEY]), 409, "ModuleAlreadyExists");
    // The hub makes keys for those who give none.
    let own = does(&mut judge, "create_module_with_sas", json!([DEVICE, "own", null, null, null]));
    let key = own["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("a key");
    assert!(cloud.identity("Hannover01/own").expect("known").connection_string.ends_with(key));
    let etag = made["etag"].clone();
    let args = json!([DEVICE, "valve", "you", etag, KEY, KEY]);
    assert_eq!(does(&mut judge, "update_module_with_sas", args.clone())["managedBy"], "you");
    refuses(&mut judge, "update_module_with_sas", args, 412, "PreconditionFailed");
    let listed = does(&mut judge, "get_modules", json!([DEVICE]));
    let names: Vec<&Value> = listed.as_array().expect("a list").iter().map(|module| &module["moduleId"]).collect();
    assert_eq!(names, ["insight", "own", "valve"]);
    does(&mut judge, "delete_module", json!([DEVICE, "valve"]));
    happened(&mut events, |what| matches!(what, What::IdentityDeleted { .. }));
    refuses(&mut judge, "get_module", json!([DEVICE, "valve"]), 404, "ErrorCode:ModuleNotFound");
    refuses(&mut judge, "get_module", json!(["Nowhere", "valve"]), 404, "ErrorCode:DeviceNotFound;Nowhere");
    let again = does(&mut judge, "create_module_with_sas", json!([DEVICE, "valve", "me", KEY, KEY]));
    assert_ne!(again["generationId"], made["generationId"]);
    judge.end();
}

#[test]
fn devices_are_made_disabled_counted_and_removed() {
    let cloud = start();
    let mut events = cloud.events();
    let mut judge = backend(&cloud);
    let made = does(&mut judge, "create_device_with_sas", json!(["Bremen01", KEY, KEY, "enabled", true]));
    assert_eq!((&made["capabilities"]["iotEdge"], &made["status"]), (&json!(true), &json!("enabled")));
    assert!(made["deviceScope"].as_str().is_some_and(|scope| scope.starts_with("ms-azure-iot-edge://Bremen01-")));
    assert_eq!(does(&mut judge, "get_modules", json!(["Bremen01"])).as_array().map(Vec::len), Some(2));
    let counts = does(&mut judge, "get_device_registry_statistics", json!([]));
    assert_eq!((&counts["totalDeviceCount"], &counts["disabledDeviceCount"]), (&json!(3), &json!(0)));
    let mut device = Judge::start(&cloud, "Bremen01", &USUAL);
    assert_eq!(does(&mut judge, "get_service_statistics", json!([]))["connectedDeviceCount"], 1);
    assert_eq!(does(&mut judge, "get_device", json!(["Bremen01"]))["connectionState"], "Connected");
    let off = does(
        &mut judge,
        "update_device_with_sas",
        json!(["Bremen01", made["etag"], KEY, KEY, "disabled", true, "lost"]),
    );
    assert_eq!((&off["status"], &off["statusReason"]), (&json!("disabled"), &json!("lost")));
    device.saw("connection", |line| line["connected"] == false);
    let refused = |what: &What| matches!(what, What::Refused { reason, .. } if reason.contains("is disabled"));
    happened(&mut events, refused);
    // For the SDK a refusal is the end.
    device.end();
    does(&mut judge, "update_device_with_sas", json!(["Bremen01", null, KEY, KEY, "enabled", true]));
    Judge::start(&cloud, "Bremen01", &USUAL).end();
    does(&mut judge, "delete_device", json!(["Bremen01"]));
    refuses(&mut judge, "get_device", json!(["Bremen01"]), 404, "ErrorCode:DeviceNotFound;Bremen01");
    let devices = does(&mut judge, "get_devices", json!([]));
    assert_eq!(devices.as_array().map(Vec::len), Some(2));
    judge.end();
}

#[test]
fn twins_are_read_patched_and_replaced() {
    let cloud = start();
    let mut judge = backend(&cloud);
    let mut module = Judge::start(&cloud, MODULE, &USUAL);
    module.act(json!({"do": "report", "patch": {"state": "on"}}));
    let twin = does(&mut judge, "get_module_twin", json!([DEVICE, "insight"]));
    assert_eq!(
        (&twin["properties"]["reported"]["state"], &twin["connectionState"]),
        (&json!("on"), &json!("Connected"))
    );
    assert!(twin["properties"]["reported"]["$metadata"]["state"]["$lastUpdated"].is_string(), "{twin}");
    let patch = json!({"Twin": {"tags": {"site": {"floor": 3}}, "properties": {"desired": {"a": {"b": 1, "c": 2}}}}});
    let patched = does(&mut judge, "update_module_twin", json!([DEVICE, "insight", patch, twin["etag"]]));
    assert_eq!(
        (&patched["tags"]["site"]["floor"], &patched["properties"]["desired"]["$version"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(patched["properties"]["desired"]["$metadata"]["a"]["b"]["$lastUpdatedVersion"], 2);
    assert_eq!(module.saw("desired", |_| true)["patch"], json!({"a": {"b": 1, "c": 2}, "$version": 2}));
    let stale = json!([DEVICE, "insight", {"Twin": {"tags": {}}}, twin["etag"]]);
    refuses(&mut judge, "update_module_twin", stale, 412, "PreconditionFailed");
    let bad = json!([DEVICE, "insight", {"Twin": {"properties": {"desired": {"a b": 1}}}}]);
    refuses(&mut judge, "update_module_twin", bad, 400, "ArgumentInvalid");
    // What was read can be written back, changed.
    let mut whole = patched;
    whole["properties"]["desired"]["a"] = json!({"b": 1});
    let replaced = does(&mut judge, "replace_module_twin", json!([DEVICE, "insight", {"Twin": whole}]));
    assert_eq!(replaced["properties"]["desired"]["a"], json!({"b": 1}));
    assert_eq!(module.saw("desired", |_| true)["patch"], json!({"a": {"c": null}, "$version": 3}));
    module.end();
    does(&mut judge, "update_twin", json!(["Hannover02", {"Twin": {"tags": {"floor": 2}}}]));
    let find = |judge: &mut Judge, query: &str| {
        let found = does(judge, "query_iot_hub", json!([{"QuerySpecification": {"query": query}}, null, 10]));
        let of =
            |twin: &Value| (twin["deviceId"].as_str().map(str::to_owned), twin["moduleId"].as_str().map(str::to_owned));
        found["items"].as_array().expect("a list").iter().map(of).collect::<Vec<_>>()
    };
    let device = |name: &str| (Some(name.to_owned()), None);
    assert_eq!(find(&mut judge, "SELECT * FROM devices"), [device(DEVICE), device("Hannover02")]);
    assert_eq!(find(&mut judge, "SELECT * FROM devices WHERE deviceId = 'Hannover01'"), [device(DEVICE)]);
    assert_eq!(find(&mut judge, "SELECT * FROM devices WHERE tags.floor = 2"), [device("Hannover02")]);
    let pump = (Some("Hannover02".to_owned()), Some("pump".to_owned()));
    assert_eq!(find(&mut judge, "SELECT * FROM devices.modules WHERE deviceId = 'Hannover02'"), [pump]);
    let query = json!({"QuerySpecification": {"query": "SELECT * FROM devices"}});
    let page = does(&mut judge, "query_iot_hub", json!([query, null, 1]));
    let next = does(&mut judge, "query_iot_hub", json!([query, page["continuation"], 1]));
    assert_eq!((&next["items"][0]["deviceId"], &next["continuation"]), (&json!("Hannover02"), &Value::Null));
    refuses(
        &mut judge,
        "query_iot_hub",
        json!([{"QuerySpecification": {"query": "SELECT x"}}]),
        400,
        "ArgumentInvalid",
    );
    judge.end();
}

#[test]
fn methods_are_called() {
    let cloud = start();
    let mut judge = backend(&cloud);
    let call = |name: &str| json!({"CloudToDeviceMethod": {"methodName": name, "payload": {"in": 1}, "responseTimeoutInSeconds": 5}});
    refuses(
        &mut judge,
        "invoke_device_module_method",
        json!([DEVICE, "insight", call("x")]),
        404,
        "\"errorCode\":404103",
    );
    refuses(&mut judge, "invoke_device_module_method", json!([DEVICE, "nobody", call("x")]), 404, "ModuleNotFound");
    // It comes while it is waited for.
    let waiting =
        json!({"methodName": "early", "payload": 7, "connectTimeoutInSeconds": 30, "responseTimeoutInSeconds": 5});
    judge.write(
        &json!({"do": "invoke_device_module_method", "args": [DEVICE, "insight", {"CloudToDeviceMethod": waiting}]}),
    );
    let mut module = Judge::start(&cloud, MODULE, &USUAL);
    let answered = judge.saw("done", |_| true);
    assert_eq!(answered["value"], json!({"status": 207, "payload": {"heard": 7}}));
    let answered = does(&mut judge, "invoke_device_module_method", json!([DEVICE, "insight", call("reboot")]));
    assert_eq!(answered, json!({"status": 207, "payload": {"heard": {"in": 1}}}));
    let asked = module.saw("method", |line| line["name"] == "reboot");
    assert_eq!(asked["payload"], json!({"in": 1}));
    command(&cloud, json!({"command": "stall", "identity": MODULE}));
    refuses(
        &mut judge,
        "invoke_device_module_method",
        json!([DEVICE, "insight", call("x")]),
        504,
        "\"errorCode\":504101",
    );
    command(&cloud, json!({"command": "calm"}));
    module.end();
    let mut device = Judge::start(&cloud, DEVICE, &USUAL);
    // The SDK subscribes to methods after it is connected.
    let call = json!({"CloudToDeviceMethod": {"methodName": "x", "connectTimeoutInSeconds": 30}});
    assert_eq!(does(&mut judge, "invoke_device_method", json!([DEVICE, call]))["status"], 207);
    device.saw("method", |_| true);
    device.end();
    judge.end();
}

#[test]
fn a_deployment_sets_modules() {
    let cloud = start();
    let mut events = cloud.events();
    let mut judge = backend(&cloud);
    let mut module = Judge::start(&cloud, MODULE, &USUAL);
    let content = |desired: Value| {
        json!([DEVICE, {"ConfigurationContent": {"modulesContent": {
            "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1"}},
            "insight": {"properties.desired": desired},
        }}}])
    };
    does(&mut judge, "apply_configuration_on_edge_device", content(json!({"threshold": 1, "b": 2})));
    assert_eq!(module.saw("desired", |_| true)["patch"], json!({"threshold": 1, "b": 2, "$version": 2}));
    does(&mut judge, "apply_configuration_on_edge_device", content(json!({"threshold": 2})));
    assert_eq!(module.saw("desired", |_| true)["patch"], json!({"threshold": 2, "b": null, "$version": 3}));
    let agent = does(&mut judge, "get_module", json!([DEVICE, "$edgeAgent"]));
    assert_eq!((&agent["managedBy"], &agent["authentication"]["type"]), (&json!("IotEdge"), &json!("none")));
    let twin = does(&mut judge, "get_module_twin", json!([DEVICE, "$edgeAgent"]));
    assert_eq!(twin["properties"]["desired"]["schemaVersion"], "1.1");
    happened(&mut events, |what| matches!(what, What::Configured { modules, .. } if modules.len() == 2));
    refuses(&mut judge, "apply_configuration_on_edge_device", content(json!({"a b": 1})), 400, "insight");
    assert_eq!(cloud.twin(MODULE)["desired"], json!({"threshold": 2, "$version": 3}));
    module.end();
    judge.end();
}

#[test]
fn faults_reach_the_back_end() {
    let cloud = start();
    let mut judge = backend(&cloud);
    command(&cloud, json!({"command": "rest_status", "status": 403}));
    refuses(&mut judge, "get_device", json!([DEVICE]), 403, "IotHubQuotaExceeded");
    command(&cloud, json!({"command": "rest_status", "status": 0}));
    // The SDK tries these again by itself.
    command(&cloud, json!({"command": "rest_status", "status": 503, "count": 2}));
    assert_eq!(does(&mut judge, "get_device", json!([DEVICE]))["deviceId"], DEVICE);
    command(&cloud, json!({"command": "rest_status", "status": 429, "retry_after_s": 1, "count": 1}));
    assert_eq!(does(&mut judge, "get_device", json!([DEVICE]))["deviceId"], DEVICE);
    command(&cloud, json!({"command": "date", "skew_s": -86400}));
    assert_eq!(does(&mut judge, "get_device", json!([DEVICE]))["deviceId"], DEVICE);
    judge.end();
}
