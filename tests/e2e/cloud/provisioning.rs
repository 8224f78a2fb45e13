//! A device that knows only its registration: the provisioning service tells its hub, once, and again when the hub refuses it.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use skerry_cloud::{Cloud, Command, DpsOutcome, Options};
use skerry_tests::{Device, Image, all_there, numbered, tell, wait_connected, wait_for, wait_stored};

const ID: &str = "line-SN-0815/scribe";

fn cloud() -> Cloud {
    Cloud::start(Options::new("Hannover01", &[])).expect("the emulator")
}

/// One golden image: the group's key and a file with the serial number. The proxy leads to the service and to the hub by their names.
fn config(cloud: &Cloud, more: &str) -> String {
    let ready = cloud.ready();
    format!(
        "[provisioning]\nsource = \"dps\"\nid_scope = \"{}\"\nregistration_id = \"line-{{serial}}\"\nserial_file = \"serial\"\n\
         group_key_file = \"group.key\"\n{more}\n[upstream]\nproxy = \"http://{}\"\nca = \"{}\"\nretry_max = \"1s\"\n\
         operation_timeout = \"2s\"\n[modules.scribe]\nsettings = {{ forward = true }}\n[store]\nflush_interval = \"20ms\"\n[routes]\n\
         one = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")'\n\
         up = 'FROM /messages/modules/scribe/* INTO $upstream'\n",
        ready.dps.id_scope,
        ready.proxy,
        ready.ca_file.display()
    )
}

fn device(cloud: &Cloud) -> Device {
    let device = Device::new(&config(cloud, ""));
    let key = device.path("group.key");
    std::fs::write(&key, &cloud.ready().dps.group_key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(device.path("serial"), "SN-0815\n").unwrap();
    device.drop_in("scribe.so", &Image::of("scribe"));
    device
}

fn provisioning(device: &Device) -> Value {
    device.status()["provisioning"].clone()
}

#[test]
fn a_golden_image_comes_to_its_hub_and_never_asks_again() {
    let cloud = cloud();
    let mut device = device(&cloud);
    device.start();
    wait_connected(&cloud, ID);
    device.send("tester", "out", &numbered(0));
    wait_stored(&cloud, ID, 0);
    let found = provisioning(&device);
    assert_eq!(
        (found["registration"].as_str(), found["device"].as_str(), found["host"].as_str()),
        (Some("line-SN-0815"), Some("line-SN-0815"), Some(cloud.ready().host_name.as_str()))
    );
    let (config, state) = (device.path("config.toml"), device.path("state"));
    let [config, state] = [config, state].map(|path| path.display().to_string());
    let check = device.skerry(&["check", "--config", &config, "--state", &state, "--json"]);
    assert!(check.out.contains("line-SN-0815 in"), "{check:?}");
    // No later start needs the service or the registry.
    device.stop();
    tell(&cloud, Command::DpsStatus { status: 503, retry_after_s: None, count: None });
    tell(&cloud, Command::RestStatus { status: 503, retry_after_s: None, count: None });
    device.start();
    device.send("tester", "out", &numbered(1));
    wait_stored(&cloud, ID, 1);
}

#[test]
fn while_the_service_is_away_messages_wait_and_one_line_says_so() {
    let cloud = cloud();
    tell(&cloud, Command::DpsStatus { status: 503, retry_after_s: None, count: None });
    let mut device = device(&cloud);
    device.start();
    device.wait_running("scribe");
    device.send("tester", "out", &numbered(7));
    let line = device.one_line("provisioning registration=line-SN-0815 status=failed");
    assert!(line.contains("busy (503)"), "{line}");
    assert!(provisioning(&device)["reason"].as_str().is_some_and(|why| why.contains("503")));
    tell(&cloud, Command::DpsStatus { status: 0, retry_after_s: None, count: None });
    wait_stored(&cloud, ID, 7);
    assert_eq!(provisioning(&device)["reason"], Value::Null);
}

#[test]
fn a_refused_registration_says_what_to_do() {
    let cloud = cloud();
    tell(&cloud, Command::DpsOutcome { outcome: Some(DpsOutcome::Disabled) });
    let mut one = device(&cloud);
    one.start();
    assert!(one.one_line("status=failed").contains("enable it there"));
    // A key of another group.
    let mut other = device(&cloud);
    std::fs::write(other.path("group.key"), "b3RoZXIga2V5IG9mIGEgZ3JvdXA=").unwrap();
    other.start();
    let line = other.one_line("status=failed");
    assert!(line.contains("group_key the group's"), "{line}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let cloud = cloud();
    let device = device(&cloud);
    std::fs::set_permissions(device.path("group.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = device.skerry(&["run", "--check", "--config", &device.path("config.toml").display().to_string()]);
    assert!(ran.code == Some(2) && ran.err.contains("mode 0644") && ran.err.contains("chmod 600"), "{ran:?}");
}

#[test]
fn a_device_that_was_deleted_in_the_hub_is_assigned_again() {
    let cloud = cloud();
    let mut device = device(&cloud);
    device.start();
    wait_connected(&cloud, ID);
    device.send_all("tester", "out", &(0..20).map(numbered).collect::<Vec<_>>());
    wait_stored(&cloud, ID, 19);
    tell(&cloud, Command::Remove { identity: "line-SN-0815".into() });
    wait_for("disconnected", || (device.uplink("scribe")["connected"] == false).then_some(()));
    device.send_all("tester", "out", &(20..40).map(numbered).collect::<Vec<_>>());
    let line = device.wait_log("status=again");
    assert!(line.contains("refuses this device"), "{line}");
    wait_connected(&cloud, ID);
    all_there(&cloud, ID, &(0..40).collect::<Vec<_>>());
}

/// An enrolment of its own: the device's own key, named by the machine, and the enrolment says who the device is in the hub.
#[test]
fn a_device_with_an_enrolment_of_its_own_is_who_that_says() {
    let cloud = cloud();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name").trim().to_owned();
    let enrol = Command::Enrol { registration: host.clone(), device: Some("Pump7".into()), key: None };
    let key = cloud.command(enrol).expect("an enrolment")["key"].clone();
    let text = config(&cloud, "").replace("line-{serial}", "{hostname}").replace("serial_file = \"serial\"\n", "");
    let text = text.replace("group_key_file = \"group.key\"", "symmetric_key_file = \"device.key\"");
    let mut device = Device::new(&text);
    let file = device.path("device.key");
    std::fs::write(&file, key.as_str().expect("a key")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    wait_connected(&cloud, "Pump7/scribe");
    let found = provisioning(&device);
    assert_eq!((&found["registration"], &found["device"]), (&Value::from(host), &Value::from("Pump7")));
    // Away for good from now on, and never needed again.
    device.kill();
    tell(&cloud, Command::DpsStatus { status: 503, retry_after_s: None, count: None });
    device.start();
    device.send("tester", "out", &numbered(1));
    wait_stored(&cloud, "Pump7/scribe", 1);
}

/// A cold boot with a clock in 1970: the first answer of the service says the time.
#[test]
fn with_a_clock_in_1970() {
    let cloud = cloud();
    let mut device = device(&cloud);
    device.set_clock("1970-01-02 00:00:00");
    device.start();
    wait_connected(&cloud, ID);
}
