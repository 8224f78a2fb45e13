//! Messages as the cloud gets them: topics, properties, order, identities.

use serde_json::json;
use skerry_cloud::{Cloud, Command, Options, Tls};
use skerry_tests::{
    Device, Image, TESTER_ONLINE, TESTER_TO_CLOUD, all_there, cloud, numbered, stored, tell, to_cloud, wait_connected,
    wait_for, wait_stored,
};

fn device(cloud: &Cloud) -> Device {
    let mut device = Device::new(&to_cloud(cloud, "", TESTER_ONLINE));
    device.start();
    device
}

#[test]
fn a_message_arrives_with_its_properties_and_is_acknowledged() {
    let cloud = cloud(&["tester"]);
    let device = device(&cloud);
    wait_connected(&cloud, "d1/tester");
    let message = json!({
        "body": {"seq": 1, "t": 20.5},
        "properties": {"alert": "true", "sp ace": "a&b=c", "plus": "a+b", "uml": "ü/%", "empty": "", "null": null},
        "system": {"messageId": "id 1", "cid": "c/1", "contentType": "application/json", "contentEncoding": "utf-8"},
    });
    assert_eq!(device.send("tester", "out", &message)["outcome"], "delivered");
    let stored = cloud.telemetry();
    let arrived = &stored[0];
    assert_eq!(arrived.json().unwrap(), json!({"seq": 1, "t": 20.5}));
    let properties: Vec<(&str, Option<&str>)> =
        arrived.properties.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let mut expected = [
        ("alert", Some("true")),
        ("sp ace", Some("a&b=c")),
        ("plus", Some("a+b")),
        ("uml", Some("ü/%")),
        ("empty", Some("")),
        ("null", None),
    ];
    expected.sort();
    let mut properties = properties;
    properties.sort();
    assert_eq!(properties, expected);
    let system = |name: &str| arrived.system.get(name).cloned().flatten();
    assert_eq!(system("$.mid").as_deref(), Some("id 1"));
    assert_eq!(system("$.cid").as_deref(), Some("c/1"));
    assert_eq!(system("$.ct").as_deref(), Some("application/json"));
    assert_eq!(system("$.ce").as_deref(), Some("utf-8"));
    assert!(
        arrived.topic.starts_with("devices/d1/modules/tester/messages/events/") && arrived.qos == 1 && !arrived.dup
    );
    device.wait_upstream("tester", "delivered", |count| count == 1);
}

#[test]
fn online_nothing_is_written() {
    let cloud = cloud(&["tester"]);
    let mut device =
        Device::new(&to_cloud(&cloud, "", "[routes]\nup = \"FROM /messages/modules/tester/* INTO $upstream\"\n"));
    device.start();
    wait_connected(&cloud, "d1/tester");
    let mut sender = device.sender("tester", "out");
    sender.send(0..2_000);
    let (acknowledged, sent) = sender.end();
    assert_eq!(acknowledged, sent);
    all_there(&cloud, "d1/tester", &acknowledged);
    let queue = device.upstream_queue("tester").unwrap();
    assert_eq!((queue["delivered"].as_u64(), queue["stored"].as_u64()), (Some(2_000), Some(0)), "{queue}");
}

#[test]
fn each_module_is_itself_and_one_that_can_not_connect_holds_up_nobody() {
    let cloud = cloud(&["tester", "second"]);
    let routes = "[routes]\nup = \"FROM /messages/* INTO $upstream\"\n";
    tell(&cloud, Command::Connack { code: 5, identity: Some("d1/second".into()) });
    let mut device = Device::new(&to_cloud(&cloud, "", routes));
    device.start();
    device.send_all("second", "out", &[numbered(7)]);
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "delivered");
    let line = device.one_line("identity=d1/second status=disconnected");
    assert!(line.contains("does not accept d1/second") && line.contains("check the connection string"), "{line}");
    assert_eq!(cloud.telemetry().len(), 1);
    let uplink = device.uplink("second");
    assert!(
        uplink["connected"] == false && uplink["reason"].as_str().is_some_and(|r| r.contains("key is wrong")),
        "{uplink}"
    );
    tell(&cloud, Command::Connack { code: 0, identity: Some("d1/second".into()) });
    wait_stored(&cloud, "d1/second", 7);
}

#[test]
fn a_module_without_an_identity_waits_and_status_says_so() {
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "", "[routes]\nup = \"FROM /messages/* INTO $upstream\"\n"));
    device.start();
    device.send("other", "out", &numbered(1));
    let warnings = wait_for("a warning", || {
        let warnings = device.status()["warnings"].to_string();
        warnings.contains("[upstream.modules.other]").then_some(warnings)
    });
    assert!(warnings.contains("1 messages of other wait for the cloud"), "{warnings}");
}

#[test]
fn without_any_identity_the_start_says_what_routes_are_for_nothing() {
    let device = Device::started("[routes]\nup = \"FROM /messages/* INTO $upstream\"\n");
    device.wait_log("but there is no cloud");
}

#[test]
fn a_chain_of_modules_ends_in_the_cloud() {
    let cloud = cloud(&["scribe"]);
    let rest = r#"[modules.scribe]
settings = { forward = true }
[routes]
one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
two = 'FROM /messages/modules/scribe/* INTO $upstream'
"#;
    let mut device = Device::new(&to_cloud(&cloud, "", rest));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("scribe");
    wait_connected(&cloud, "d1/scribe");
    let mut sender = device.sender("tester", "out");
    sender.send(0..300);
    let (acknowledged, sent) = sender.end();
    assert_eq!(acknowledged, sent);
    all_there(&cloud, "d1/scribe", &acknowledged);
}

#[test]
fn a_message_that_makes_the_cloud_close_goes_to_the_dead_letters() {
    use skerry_cloud::Trap;
    let cloud = cloud(&["tester"]);
    let device = device(&cloud);
    wait_connected(&cloud, "d1/tester");
    let trap = Trap { contains: Some("poison".into()), always: true, ..Trap::default() };
    tell(&cloud, Command::CloseOnPublish { trap, identity: None });
    let mut sender = device.sender("tester", "out");
    sender.send(0..20);
    sender.send_lines(&[json!({"body": {"text": "poison"}})]);
    sender.send_lines(&(20..40).map(numbered).collect::<Vec<_>>());
    wait_stored(&cloud, "d1/tester", 39);
    all_there(&cloud, "d1/tester", &(0..40).collect::<Vec<_>>());
    device.wait_upstream("tester", "deadLettered", |count| count == 1);
    device.wait_log("message=dead-lettered");
}

#[test]
fn two_devices_with_one_identity_are_told_apart_in_the_log() {
    let cloud = cloud(&["tester"]);
    let first = device(&cloud);
    wait_connected(&cloud, "d1/tester");
    let _second = device(&cloud);
    let line = first.wait_log("status=disconnected");
    assert!(line.contains("the cloud closed the connection"), "{line}");
}

#[test]
fn the_largest_message_gets_there_and_one_that_no_topic_can_hold_holds_up_nobody() {
    let cloud = cloud(&["tester"]);
    let device = device(&cloud);
    wait_connected(&cloud, "d1/tester");
    let large = "x".repeat(256 * 1024 - 200);
    assert_eq!(device.send("tester", "out", &json!({"body": {"seq": 1, "large": large}}))["outcome"], "delivered");
    // Each of these characters takes three in a topic, which ends at 64 KiB.
    let wide = json!({"body": {"seq": 2}, "properties": {"wide": "/".repeat(30_000)}});
    assert_eq!(device.send("tester", "out", &wide)["outcome"], "deadLettered");
    assert_eq!(device.send("tester", "out", &numbered(3))["outcome"], "delivered");
    device.wait_log("message=dead-lettered");
    assert_eq!(skerry_tests::stored(&cloud, "d1/tester"), [1, 3]);
}

#[test]
fn both_versions_of_tls_are_spoken() {
    for tls in [Tls::Only12, Tls::Only13] {
        let cloud = Cloud::start(Options { tls, ..Options::new("d1", &["tester"]) }).expect("the emulator");
        let mut device = Device::new(&to_cloud(&cloud, "", TESTER_TO_CLOUD));
        device.start();
        device.send("tester", "out", &numbered(1));
        wait_stored(&cloud, "d1/tester", 1);
    }
}

/// What is urgent does not wait behind what gathered, also when it came last.
#[test]
fn after_an_outage_the_urgent_goes_before_the_backlog() {
    let cloud = cloud(&["tester"]);
    let routes = "[store]\nflush_interval = \"20ms\"\n[routes]\n\
         alerts = { route = 'FROM /messages/modules/tester/outputs/alerts INTO $upstream', priority = 0 }\n\
         rest = 'FROM /messages/modules/tester/outputs/out INTO $upstream'\n";
    let mut device = Device::new(&to_cloud(&cloud, "", routes));
    device.start();
    wait_connected(&cloud, "d1/tester");
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("tester")["connected"] == false).then_some(()));
    device.send_all("tester", "out", &(0..2_000).map(numbered).collect::<Vec<_>>());
    device.send("tester", "alerts", &numbered(9_999));
    tell(&cloud, Command::Heal);
    wait_stored(&cloud, "d1/tester", 1_999);
    let arrived = stored(&cloud, "d1/tester");
    let urgent = arrived.iter().position(|seq| *seq == 9_999).expect("the alert");
    // At most what was in the window by then is in front of it.
    assert!(urgent <= 128, "{urgent}");
    let rest: Vec<u64> = arrived.into_iter().filter(|seq| *seq != 9_999).collect();
    assert!(rest.is_sorted());
}
