//! Module identities that are made with the device's connection string alone: once, kept, and never shown.

use std::os::unix::fs::PermissionsExt;

use skerry_cloud::{Cloud, Command, Options};
use skerry_tests::{Device, Image, all_there, numbered, tell, wait_connected, wait_for, wait_stored};

const ID: &str = "d1/scribe";

/// A cloud that knows the device and no module.
fn cloud() -> Cloud {
    Cloud::start(Options::new("d1", &[])).expect("the emulator")
}

fn config(cloud: &Cloud) -> String {
    let ready = cloud.ready();
    format!(
        "[provisioning]\nsource = \"manual\"\nconnection_string = \"{}\"\n[upstream]\naddress = \"{}\"\nca = \"{}\"\n\
         retry_max = \"1s\"\noperation_timeout = \"2s\"\n[modules.scribe]\nsettings = {{ forward = true }}\n\
         [store]\nflush_interval = \"20ms\"\n[routes]\n\
         one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n\
         up = 'FROM /messages/modules/scribe/* INTO $upstream'\n",
        ready.device.connection_string,
        ready.address,
        ready.ca_file.display()
    )
}

fn device(cloud: &Cloud) -> Device {
    let mut device = Device::new(&config(cloud));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device
}

#[test]
fn a_module_that_is_dropped_in_is_known_in_the_cloud_a_moment_later() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    let lines: Vec<_> = (0..50).map(numbered).collect();
    device.send_all("tester", "out", &lines);
    all_there(&cloud, ID, &(0..50).collect::<Vec<_>>());
    let key = device.path("state/keys/scribe.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // Made once: the next start needs no registry.
    device.stop();
    tell(&cloud, Command::RestStatus { status: 500, retry_after_s: None, count: None });
    device.start();
    device.send("tester", "out", &numbered(50));
    wait_stored(&cloud, ID, 50);
}

#[test]
fn while_the_registry_is_away_messages_wait_and_one_line_says_so() {
    let cloud = cloud();
    tell(&cloud, Command::RestStatus { status: 503, retry_after_s: Some(5), count: None });
    let device = device(&cloud);
    device.wait_running("scribe");
    device.send("tester", "out", &numbered(1));
    let line = device.one_line("identity module=scribe status=missing");
    assert!(line.contains("503") && line.contains("retry_in_ms=5000"), "{line}");
    let warnings = wait_for("a warning", || {
        let warnings = device.status()["warnings"].to_string();
        warnings.contains("scribe wait for the cloud").then_some(warnings)
    });
    assert!(warnings.contains("it has no identity"), "{warnings}");
    tell(&cloud, Command::RestStatus { status: 0, retry_after_s: None, count: None });
    wait_stored(&cloud, ID, 1);
}

/// A device has so many identities in the hub and no more: told, and made as soon as one goes.
#[test]
fn a_hub_that_is_full_is_told() {
    let cloud = cloud();
    (0..50).for_each(|n| tell(&cloud, Command::Make { identity: format!("d1/other{n}") }));
    let device = device(&cloud);
    let line = device.one_line("identity module=scribe status=missing");
    assert!(line.contains("as many module identities as the hub allows; remove some there"), "{line}");
    // The runtime's own two want a place as well.
    (0..3).for_each(|n| tell(&cloud, Command::Remove { identity: format!("d1/other{n}") }));
    wait_connected(&cloud, ID);
}

#[test]
fn a_wrong_key_of_the_device_is_told() {
    let cloud = cloud();
    let right = config(&cloud);
    let at = right.find("SharedAccessKey=").unwrap() + "SharedAccessKey=".len();
    let wrong = format!("{}{}{}", &right[..at], if &right[at..=at] == "A" { "B" } else { "A" }, &right[at + 1..]);
    let mut device = Device::new(&wrong);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    let line = device.one_line("identity module=scribe status=missing");
    assert!(line.contains("check the device's connection string"), "{line}");
}

#[test]
fn with_a_clock_in_1970() {
    let cloud = cloud();
    let mut device = Device::new(&config(&cloud));
    device.set_clock("1970-01-02 00:00:00");
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, ID);
}

#[test]
fn a_module_that_is_gone_still_has_its_messages_forwarded() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("scribe")["connected"] == false).then_some(()));
    device.send("tester", "out", &numbered(7));
    device.wait_upstream("scribe", "pending", |count| count == 1);
    device.stop();
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    device.start();
    tell(&cloud, Command::Heal);
    wait_stored(&cloud, ID, 7);
}

/// The row of the module; `null` without one.
fn listed(device: &Device) -> serde_json::Value {
    let ran = device.skerry(&["identity", "list", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rows = ran.json();
    rows.as_array().into_iter().flatten().find(|row| row["module"] == "scribe").cloned().unwrap_or_default()
}

#[test]
fn identities_are_listed_without_keys_and_removed_with_care() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    let row = wait_for("connected", || {
        let row = listed(&device);
        (row["status"] == "connected").then_some(row)
    });
    assert_eq!((row["module"].as_str(), row["source"].as_str()), (Some("scribe"), Some("registered")));
    assert!(row["generationId"].as_str().is_some_and(|id| !id.is_empty()), "{row}");
    let key = std::fs::read(device.path("state/keys/scribe.key")).unwrap();
    let text = device.skerry(&["identity", "list"]).out + &row.to_string();
    assert!(!text.contains(&data_encoding::BASE64.encode(&key)), "{text}");
    // As the hub has it: also what was made there, and never what proves it.
    tell(&cloud, Command::Make { identity: "d1/orphan".into() });
    let ran = device.skerry(&["identity", "list", "--hub", "--json"]);
    let rows = ran.json();
    let in_hub = |module: &str| {
        let found = rows.as_array().into_iter().flatten().find(|row| row["module"] == module);
        found.map(|row| (row["inHub"].clone(), row["source"].clone()))
    };
    assert_eq!(in_hub("scribe"), Some(("yes".into(), "registered".into())));
    assert_eq!(in_hub("orphan"), Some(("yes".into(), "hub".into())));
    for id in [ID, "d1/orphan"] {
        let key =
            cloud.identity(id).expect("known").connection_string.rsplit_once("AccessKey=").expect("a key").1.to_owned();
        assert!(!ran.out.contains(&key), "{ran:?}");
    }
    assert!(device.skerry(&["identity", "list", "--hub"]).out.contains("IN HUB"));
    let remove = |device: &Device| device.skerry(&["identity", "remove", "scribe"]);
    let refused = remove(&device);
    assert!(refused.code == Some(1) && refused.err.contains("enabled = false"), "{refused:?}");
    let unknown = device.skerry(&["identity", "remove", "scribble"]);
    assert!(unknown.err.contains("did you mean \"scribe\"?"), "{unknown:?}");
    device.stop();
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    device.start();
    assert!(device.running("scribe").is_none());
    tell(&cloud, Command::RestStatus { status: 503, retry_after_s: None, count: None });
    let away = remove(&device);
    assert!(away.code == Some(1) && away.err.contains("nothing was removed"), "{away:?}");
    tell(&cloud, Command::RestStatus { status: 0, retry_after_s: None, count: None });
    let removed = remove(&device);
    assert_eq!((removed.code, removed.out.trim()), (Some(0), "the identity of scribe is removed"), "{removed:?}");
    assert!(!device.path("state/keys/scribe.key").exists());
    assert!(!cloud.connections().contains_key(ID));
    assert!(listed(&device).is_null());
    // A module that comes again is somebody new.
    device.drop_in("scribe.so", &Image::of("scribe"));
    wait_connected(&cloud, ID);
    let again = wait_for("listed", || Some(listed(&device)).filter(|row| row["generationId"].is_string()));
    assert_ne!(again["generationId"], row["generationId"]);
    device.stop();
}

#[test]
fn what_somebody_else_made_since_is_left_alone() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    device.stop();
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    tell(&cloud, Command::Remove { identity: ID.into() });
    tell(&cloud, Command::Make { identity: ID.into() });
    device.start();
    let removed = device.skerry(&["identity", "remove", "scribe"]);
    assert!(removed.code == Some(0) && removed.out.contains("which stays"), "{removed:?}");
    assert!(cloud.connections().contains_key(ID));
}

/// Messages of a revoked identity are held and told of, and go out when it is restored; they are not given to a new one by themselves.
#[test]
fn a_revoked_identity_is_told_and_its_messages_are_held() {
    let cloud = cloud();
    let device = device(&cloud);
    wait_connected(&cloud, ID);
    device.send("tester", "out", &numbered(0));
    wait_stored(&cloud, ID, 0);
    tell(&cloud, Command::Revoke { identity: ID.into() });
    let line = device.one_line("identity module=scribe status=revoked");
    assert!(line.contains("another key"), "{line}");
    device.send("tester", "out", &numbered(1));
    device.wait_upstream("scribe", "pending", |count| count == 1);
    let warnings = device.status()["warnings"].to_string();
    assert!(warnings.contains("1 messages of it are held"), "{warnings}");
    assert_eq!(listed(&device)["status"], "revoked");
    // It runs, and may have a new one since it was revoked.
    let removed = device.skerry(&["identity", "remove", "scribe"]);
    assert!(removed.code == Some(0) && removed.out.contains("1 messages of it still wait"), "{removed:?}");
    wait_stored(&cloud, ID, 1);
}

/// Also those that were under way when it was revoked: they are held until their time to live is over, counted then, and told of.
#[test]
fn messages_of_a_revoked_identity_expire_wherever_they_are() {
    let cloud = cloud();
    let up = "up = 'FROM /messages/modules/scribe/* INTO $upstream'";
    let short = "up = { route = 'FROM /messages/modules/scribe/* INTO $upstream', ttl = \"4s\" }";
    let mut device = Device::new(&config(&cloud).replace(up, short));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, ID);
    tell(&cloud, Command::NoPuback { on: true, identity: Some(ID.into()) });
    device.send("tester", "out", &numbered(0));
    wait_for("it is under way", || (device.uplink("scribe")["inFlight"] == 1).then_some(()));
    tell(&cloud, Command::Revoke { identity: ID.into() });
    device.one_line("identity module=scribe status=revoked");
    device.send("tester", "out", &numbered(1));
    device.wait_upstream("scribe", "expired", |count| count == 2);
    device.wait_upstream("scribe", "pending", |count| count == 0);
    assert_eq!(device.uplink("scribe")["inFlight"], 0);
    let queue = device.upstream_queue("scribe").expect("a queue");
    assert_eq!((&queue["accepted"], &queue["delivered"]), (&2.into(), &0.into()), "{queue}");
}

#[test]
fn a_key_file_that_others_can_read_is_not_used() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    device.stop();
    let key = device.path("state/keys/scribe.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    device.start();
    let line = device.wait_log("can't prove its identity");
    assert!(line.contains("0640") && line.contains("chmod 600"), "{line}");
}

/// A module that is gone has nothing to hear: its identity connects when messages of it wait, and hangs up after that. With the
/// setting, so does one that runs.
#[test]
fn connections_are_opened_on_need_and_closed_when_idle() {
    let cloud = cloud();
    let idle = config(&cloud).replace("retry_max", "idle_close = \"10s\"\nretry_max");
    let mut device = Device::new(&idle);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, ID);
    let idle = |device: &Device| {
        skerry_tests::wait_within(std::time::Duration::from_secs(30), || {
            let uplink = device.uplink("scribe");
            (uplink["idle"] == true && uplink["reason"].is_null()).then_some(())
        })
    };
    assert!(idle(&device).is_some(), "{}", device.uplink("scribe"));
    assert!(!cloud.connections()[ID].is_open);
    device.send("tester", "out", &numbered(1));
    wait_stored(&cloud, ID, 1);
    // Something to report is a need, too. The desired change of the meantime comes with it.
    assert!(idle(&device).is_some());
    tell(&cloud, Command::Desired { identity: ID.into(), patch: serde_json::json!({"forward": true, "x": 1}) });
    device.send("tester", "out", &numbered(2));
    wait_stored(&cloud, ID, 2);
    wait_for("the desired change", || {
        let twin = device.skerry(&["twin", "get", "scribe", "--json"]).json();
        (twin["desired"]["x"] == 1).then_some(())
    });
    device.stop();
    // Gone: what it reported is compared once, and then there is nothing to say.
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    let before = cloud.connections()[ID].accepted;
    device.start();
    wait_for("compared", || (cloud.connections()[ID].accepted == before + 1).then_some(()));
    assert!(idle(&device).is_some());
    assert_eq!(cloud.connections()[ID].accepted, before + 1);
}

/// No network, no cloud, a clock in 1970: everything that was is there again, and goes out when the cloud is back.
#[test]
fn a_cold_boot_without_anything_brings_back_everything() {
    let cloud = cloud();
    let mut device = device(&cloud);
    wait_connected(&cloud, ID);
    tell(&cloud, Command::Desired { identity: ID.into(), patch: serde_json::json!({"forward": true, "kept": "yes"}) });
    let twin = |device: &Device| device.skerry(&["twin", "get", "scribe", "--json"]).json();
    wait_for("the desired change", || (twin(&device)["desired"]["kept"] == "yes").then_some(()));
    tell(&cloud, Command::Cut);
    wait_for("the connection is gone", || (device.uplink("scribe")["connected"] == false).then_some(()));
    device.send_all("tester", "out", &(0..30).map(numbered).collect::<Vec<_>>());
    device.wait_upstream("scribe", "pending", |count| count == 30);
    let (before, identity) = (twin(&device), listed(&device)["generationId"].clone());
    device.kill();
    device.set_clock("1970-01-01 00:00:10");
    device.start();
    device.wait_running("scribe");
    assert_eq!(twin(&device)["desired"], before["desired"]);
    assert_eq!(listed(&device)["generationId"], identity);
    device.wait_upstream("scribe", "pending", |count| count == 30);
    device.send("tester", "out", &numbered(30));
    device.wait_upstream("scribe", "pending", |count| count == 31);
    tell(&cloud, Command::Heal);
    all_there(&cloud, ID, &(0..=30).collect::<Vec<_>>());
}
