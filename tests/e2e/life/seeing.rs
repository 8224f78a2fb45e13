//! What an operator sees: where a message is and why, what is counted, and what `skerry check` says of a device.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Ran, manifest, numbered, text, wait_for};

const ROUTES: &str = r#"[store]
flush_interval = "50ms"
[routes]
hot = 'FROM /messages/modules/tester/* WHERE level = "high" INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
all = 'FROM /messages/modules/tester/outputs/out INTO BrokeredEndpoint("/modules/ledger/inputs/input1")'
"#;

/// The newest traced message, as JSON.
fn traced(device: &Device, arguments: &[&str]) -> Vec<Value> {
    let ran = device.skerry(&[&["trace", "--json"], arguments].concat());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    ran.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[track_caller]
fn wait_state(device: &Device, id: &str, endpoint: &str, state: &str) -> Value {
    wait_for(&format!("{id} is {state} at {endpoint}; it is {:?}", traced(device, &["--id", id])), || {
        let found = traced(device, &["--id", id]).pop()?;
        let end = found["endpoints"].as_array()?.iter().find(|e| e["endpoint"] == *endpoint)?.clone();
        (end["state"] == *state).then_some(end)
    })
}

#[test]
fn a_message_can_be_followed() {
    let device = Device::started(ROUTES);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("scribe");
    let message =
        |id: &str, level: &str| json!({"body": {"t": 1}, "properties": {"level": level}, "system": {"messageId": id}});
    device.send("tester", "out", &message("one", "high"));
    wait_state(&device, "one", "modules/scribe/inputs/input1", "delivered");
    let stored = wait_state(&device, "one", "modules/ledger/inputs/input1", "stored");
    assert!(stored["at"].as_i64() >= traced(&device, &["--id", "one"])[0]["at"].as_i64(), "{stored}");
    device.send("tester", "out", &message("two", "low"));
    let two = &traced(&device, &["--id", "two"])[0];
    let of = |name: &str| two["routes"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone();
    assert_eq!((of("hot")["result"].as_str(), of("hot")["why"].as_str()), (Some("false"), Some("level is 'low'")));
    device.send("tester", "out", &numbered(3));
    let three = device.skerry(&["trace", "--limit", "1"]);
    for part in
        ["route hot undefined: the message has no application property level", "route all true", "stored on disk"]
    {
        assert!(three.out.contains(part), "{part}: {}", three.out);
    }
    device.send("tester", "elsewhere", &numbered(4));
    let four = &traced(&device, &["--source", "Tester", "--output", "elsewhere"])[0];
    assert_eq!(four["outcome"], "noRoute");
    assert_eq!((traced(&device, &[]).len(), traced(&device, &["--source", "nobody"]).len()), (4, 0));
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    wait_state(&device, "one", "modules/ledger/inputs/input1", "delivered");
    let wrong = device.skerry(&["trace", "--limit", "0"]);
    assert_eq!((wrong.code, wrong.err.contains("limit: expected a number")), (Some(1), true), "{wrong:?}");
}

fn metrics(device: &Device) -> String {
    let (status, kind, body) = text(&device.socket(), "/metrics").expect("an answer");
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    body
}

/// The value of the one sample whose line begins with `name` and holds all `labels`.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut found = page
        .lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label)));
    let (line, more) = (found.next()?, found.next());
    assert!(more.is_none(), "{name} {labels:?} is there twice:\n{page}");
    line.rsplit(' ').next()?.parse().ok()
}

/// Every name of the field, but for bytes of the network by module: modules share the device's.
const NAMES: &str = "edgehub_gettwin_total edgehub_messages_received_total edgehub_messages_sent_total edgehub_reported_properties_total \
    edgehub_message_size_bytes edgehub_gettwin_duration_seconds edgehub_reported_properties_update_duration_seconds \
    edgehub_message_send_duration_seconds edgehub_message_process_duration_seconds edgehub_direct_methods_total \
    edgehub_direct_method_duration_seconds edgehub_queue_length edgehub_messages_dropped_total edgehub_messages_unack_total \
    edgehub_offline_count_total edgehub_offline_duration_seconds edgehub_operation_retry_total edgehub_client_connect_failed_total \
    edgehub_client_connect_success_total edgehub_client_disconnect_total edgehub_connected_clients \
    edgeAgent_total_time_running_correctly_seconds edgeAgent_total_time_expected_running_seconds edgeAgent_module_start_total \
    edgeAgent_module_stop_total edgeAgent_module_prepare_update_total edgeAgent_command_latency_seconds edgeAgent_iothub_syncs_total \
    edgeAgent_unsuccessful_iothub_syncs_total edgeAgent_deployment_time_seconds edgeagent_direct_method_invocations_count \
    edgeAgent_host_uptime_seconds edgeAgent_iotedged_uptime_seconds edgeAgent_available_disk_space_bytes \
    edgeAgent_total_disk_space_bytes edgeAgent_used_memory_bytes edgeAgent_total_memory_bytes edgeAgent_used_cpu_percent \
    edgeAgent_created_pids_total edgeAgent_total_disk_read_bytes edgeAgent_total_disk_write_bytes edgeAgent_metadata";

#[test]
fn what_is_counted_can_be_scraped() {
    let mut device = Device::started(ROUTES);
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.wait_running("ledger");
    for seq in 0..3 {
        assert_eq!(device.send("tester", "out", &numbered(seq))["outcome"], "delivered");
    }
    device.send("tester", "elsewhere", &numbered(3));
    assert_eq!(device.skerry(&["method", "$edgeAgent", "ping"]).code, Some(0));
    let page = metrics(&device);
    for name in NAMES.split_whitespace() {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name} is missing:\n{page}");
    }
    let check = |page: &str, name: &str, labels: &[&str], expected: f64| {
        assert_eq!(sample(page, name, labels), Some(expected), "{name} {labels:?}\n{page}");
    };
    check(
        &page,
        "edgehub_messages_received_total",
        &["route_output=\"out\"", "id=\"d1/tester\"", "edge_device=\"d1\""],
        3.0,
    );
    let sent = ["from=\"d1/tester\"", "to=\"d1/ledger\"", "to_route_input=\"input1\"", "priority=\"2000000000\""];
    check(&page, "edgehub_messages_sent_total", &sent, 3.0);
    check(&page, "edgehub_messages_dropped_total", &["reason=\"no_route\"", "from_route_output=\"elsewhere\""], 1.0);
    check(&page, "edgehub_message_size_bytes_count", &["id=\"d1/tester\""], 4.0);
    check(&page, "edgehub_queue_length", &["endpoint=\"modules/ledger/inputs/input1\""], 0.0);
    check(&page, "edgeAgent_module_start_total", &["module_name=\"ledger\""], 1.0);
    check(&page, "skerry_route_evaluations_total", &["route=\"hot\"", "result=\"undefined\""], 4.0);
    check(&page, "skerry_store_state", &["state=\"sound\""], 1.0);
    check(&page, "edgehub_message_send_duration_seconds_count", &["from=\"d1/tester\"", "to=\"d1/ledger\""], 3.0);
    check(&page, "edgehub_message_process_duration_seconds_count", &sent[..1], 3.0);
    check(&page, "edgehub_gettwin_total", &["source=\"edge_hub\"", "id=\"d1/ledger\""], 1.0);
    check(&page, "edgeagent_direct_method_invocations_count", &["method_name=\"ping\""], 1.0);
    check(&page, "edgeAgent_command_latency_seconds_count", &["command=\"start\""], 1.0);
    assert!(sample(&page, "edgeAgent_created_pids_total", &["module_name=\"ledger\""]) >= Some(1.0));
    assert!(sample(&page, "edgeAgent_used_memory_bytes", &["module_name=\"ledger\""]) > Some(100_000.0));
    assert!(
        page.lines().all(|line| line.starts_with("# ") || line.rsplit(' ').next().unwrap().parse::<f64>().is_ok()),
        "{page}"
    );
    // The ledger goes on where the runtime begins anew.
    assert!(device.stop().success());
    device.start();
    device.wait_running("ledger");
    device.send("tester", "out", &numbered(4));
    let page = metrics(&device);
    let ledger = ["endpoint=\"modules/ledger/inputs/input1\"", "term=\"delivered\""];
    check(&page, "skerry_ledger_messages_total", &ledger, 4.0);
    check(&page, "edgehub_messages_received_total", &["route_output=\"out\""], 1.0);
}

fn check(device: &Device) -> Ran {
    let (config, modules, state) = (device.path("config.toml"), device.path("modules"), device.path("state"));
    let paths = [&config, &modules, &state].map(|path| path.to_str().expect("a path").to_owned());
    device.skerry(&[
        "check",
        "--json",
        "--device",
        "d1",
        "--config",
        &paths[0],
        "--modules",
        &paths[1],
        "--state",
        &paths[2],
    ])
}

/// Result and text of one check; the worst, if there are several.
fn found(ran: &Ran, id: &str) -> (String, String) {
    let report = ran.json();
    let all = report["checks"].as_array().expect("checks").iter().filter(|c| c["id"] == *id);
    let rank = |c: &&Value| ["success", "skipped", "warning", "error"].iter().position(|r| c["result"] == **r);
    let worst = all.max_by_key(rank).unwrap_or_else(|| panic!("no {id}: {report}"));
    let text = |key: &str| worst[key].as_str().unwrap_or_default().to_owned();
    (text("result"), text("what"))
}

#[track_caller]
fn expect(ran: &Ran, id: &str, result: &str, part: &str) {
    let (got, what) = found(ran, id);
    assert!(got == result && what.contains(part), "{id}: {got}, {what:?}; expected {result}, {part:?}\n{}", ran.out);
}

#[test]
fn a_device_is_looked_over_before_and_while_it_runs() {
    let mut device = Device::new(ROUTES);
    let before = check(&device);
    assert_eq!(before.code, Some(0), "{}", before.out);
    expect(&before, "control-socket", "success", "no skerry is running");
    expect(&before, "state-folder", "success", "will be made");
    expect(&before, "store", "success", "will be made");
    expect(&before, "routes-match", "skipped", "needs a module");
    expect(&before, "outlook", "skipped", "needs a running skerry");
    assert!(!device.path("state").exists(), "a look makes nothing");

    device.start();
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_running("scribe");
    let running = check(&device);
    assert_eq!(running.code, Some(0), "{}", running.out);
    expect(&running, "control-socket", "success", "answers at");
    expect(&running, "store", "success", "open in the running skerry");
    expect(&running, "routes-match", "warning", "no module \"");
    expect(&running, "routes-upstream", "success", "no route leads");
    expect(&running, "outlook", "skipped", "long enough");
    // Of routes that a manifest has put aside nothing is said.
    let file = device.path("manifest.json");
    fs::write(&file, manifest(json!({}), json!({})).to_string()).expect("a file");
    assert_eq!(device.skerry(&["deploy", file.to_str().expect("a path")]).code, Some(0));
    for id in ["routes", "routes-match", "routes-upstream"] {
        expect(&check(&device), id, "skipped", "manifest in force (from: operator)");
    }
    assert_eq!(device.skerry(&["deploy", "--remove"]).code, Some(0));
    expect(&check(&device), "routes-match", "warning", "no module \"");
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "durable", "the look disturbed it");
    let config = device.path("config.toml");
    let other = device.skerry(&[
        "check",
        "--json",
        "--config",
        config.to_str().expect("a path"),
        "--state",
        "/var/tmp/nowhere",
    ]);
    expect(&other, "control-socket", "warning", "and /var/tmp/nowhere is looked at");

    device.stop();
    fs::set_permissions(device.path("state"), fs::Permissions::from_mode(0o777)).expect("a mode");
    fs::write(device.path("state/store/store.redb"), "rubbish").expect("a file");
    fs::write(device.path("modules/odd.so"), "rubbish").expect("a file");
    let bad = check(&device);
    assert_eq!(bad.code, Some(1), "{}", bad.out);
    expect(&bad, "state-folder", "error", "0777");
    expect(&bad, "store", "error", "is no store");
    expect(&bad, "module-images", "warning", "odd.so");
}

#[test]
fn a_wrong_configuration_is_an_error_as_run_prints_it() {
    let device = Device::new("[stor]\n");
    let ran = check(&device);
    assert_eq!(ran.code, Some(1));
    expect(&ran, "configuration", "error", "config.toml:1: unknown key `stor`: did you mean `store`?");
    expect(&ran, "store", "skipped", "needs a configuration");
    expect(&ran, "kernel-pidfd", "success", "work");
    let text = device.skerry(&["check", "--config", "/nowhere/at/all.toml"]);
    assert!(text.out.contains("cannot be read") && text.out.contains(" 1 errors, "), "{}", text.out);
}
