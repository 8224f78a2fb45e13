//! Whom the device trusts and who trusts the device: certificates, keys, names, clocks, proxies. In each case one line says
//! what is wrong and what to do, and nothing is lost.

use skerry_cloud::{Cloud, Command, Options, Wrong};
use skerry_tests::{
    Device, TESTER_ONLINE, TESTER_TO_CLOUD, cloud, numbered, tell, to_cloud, wait_connected, wait_stored,
};

const ID: &str = "d1/tester";

/// Waits for the line, then ends the fault and waits for the message.
fn check(cloud: &Cloud, device: &Device, line: &str, advice: &str, mend: Command) {
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "durable");
    let said = device.one_line(line);
    assert!(said.contains(advice), "{said}");
    assert!(cloud.telemetry().is_empty());
    tell(cloud, mend);
    wait_stored(cloud, ID, 1);
}

#[test]
fn a_certificate_that_is_not_the_clouds() {
    for (kind, line, advice) in [
        (Wrong::OtherCa, "is from nobody who is trusted here", "`ca` in [upstream]"),
        (Wrong::OtherHost, "the certificate is not that of", "check HostName"),
        (Wrong::Expired, "has expired", "check the clock"),
    ] {
        let cloud = cloud(&["tester"]);
        tell(&cloud, Command::WrongCertificate { kind: Some(kind) });
        let mut device = Device::new(&to_cloud(&cloud, "", TESTER_TO_CLOUD));
        device.start();
        check(&cloud, &device, line, advice, Command::WrongCertificate { kind: None });
    }
}

#[test]
fn a_wrong_key() {
    let cloud = cloud(&["tester"]);
    let right = to_cloud(&cloud, "", TESTER_TO_CLOUD);
    let at = right.find("SharedAccessKey=").unwrap() + "SharedAccessKey=".len();
    let wrong = format!("{}{}{}", &right[..at], if &right[at..=at] == "A" { "B" } else { "A" }, &right[at + 1..]);
    let mut device = Device::new(&wrong);
    device.start();
    device.send("tester", "out", &numbered(1));
    let line = device.one_line("the cloud does not accept d1/tester");
    assert!(line.contains("its key is wrong") && line.contains("check the connection string"), "{line}");
    assert!(!device.log().contains("SharedAccess"), "no key is logged");
    device.stop();
    device.configure(&right);
    device.start();
    wait_stored(&cloud, ID, 1);
}

#[test]
fn a_wrong_host_name() {
    let cloud = cloud(&["tester"]);
    let right = to_cloud(&cloud, "", TESTER_TO_CLOUD);
    let mut device = Device::new(&right.replace("HostName=skerry-test", "HostName=skerry-tset"));
    device.start();
    device.send("tester", "out", &numbered(1));
    let line = device.one_line("the certificate is not that of skerry-tset.azure-devices.net");
    assert!(line.contains("check HostName"), "{line}");
    device.stop();
    device.configure(&right);
    device.start();
    wait_stored(&cloud, ID, 1);
}

#[test]
fn a_name_that_nobody_knows() {
    let cloud = cloud(&["tester"]);
    let config = to_cloud(&cloud, "", TESTER_TO_CLOUD);
    let address = format!("address = \"{}\"\n", cloud.ready().address);
    let mut device = Device::new(&config.replace(&address, "address = \"no.such.host.invalid:443\"\n"));
    device.start();
    let line = device.one_line("the name no.such.host.invalid can't be looked up");
    assert!(line.contains("name server"), "{line}");
}

/// A device without a battery wakes up in 1970: certificates and tokens are judged at the time floor, and the cloud tells the time.
#[test]
fn a_clock_in_1970() {
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "", TESTER_ONLINE));
    device.set_clock("1970-01-02 00:00:00");
    device.start();
    wait_connected(&cloud, ID);
    assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "delivered");
    assert!(device.status()["time"].as_str().is_some_and(|t| t.starts_with("1970-01-02")), "the test tests nothing");
    wait_stored(&cloud, ID, 1);
}

/// The first start of a device has nothing but the date of its build to go by. Tokens that live shorter than that is ago
/// are good only because the cloud says the time before it is told one.
#[test]
fn a_clock_in_1970_and_a_token_that_only_the_clouds_time_makes_good() {
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "token_ttl = \"10s\"\n", TESTER_TO_CLOUD));
    device.set_clock("1970-01-02 00:00:00");
    device.start();
    wait_connected(&cloud, ID);
    device.wait_log("clock=behind cloud_says=");
    assert!(device.path("state/time-floor").exists(), "what was learned is kept over a restart");
}

/// Hours apart, and nobody is in 1970: a token is made for the time that the cloud says, and one that is ahead of the cloud's is good there.
#[test]
fn a_clock_that_is_hours_off() {
    for skew_s in [3 * 3_600, -3 * 3_600] {
        let cloud = cloud(&["tester"]);
        tell(&cloud, Command::Clock { skew_s });
        let mut device = Device::new(&to_cloud(&cloud, "", TESTER_ONLINE));
        device.start();
        wait_connected(&cloud, ID);
        assert_eq!(device.send("tester", "out", &numbered(1))["outcome"], "delivered");
        wait_stored(&cloud, ID, 1);
        assert!(!device.log().contains("does not accept"), "{skew_s}: a token was made for another time");
        assert_eq!(device.log().contains("clock=behind cloud_says="), skew_s > 0);
    }
}

#[test]
fn through_a_proxy() {
    let cloud = cloud(&["tester"]);
    let proxy = cloud.ready().proxy;
    // Whatever the address, the proxy leads to the cloud.
    let config = to_cloud(&cloud, &format!("proxy = \"http://{proxy}\"\n"), TESTER_TO_CLOUD);
    let address = format!("address = \"{}\"\n", cloud.ready().address);
    let mut device = Device::new(&config.replace(&address, ""));
    tell(&cloud, Command::DenyProxy { on: true });
    device.start();
    check(
        &cloud,
        &device,
        "refuses to connect to skerry-test.azure-devices.net:443 with 403",
        "allow it there",
        Command::DenyProxy { on: false },
    );
}

#[test]
fn through_a_proxy_that_wants_a_password() {
    let login = Some(("user".to_owned(), "pass word".to_owned()));
    let cloud = Cloud::start(Options { proxy_login: login, ..Options::new("d1", &["tester"]) }).unwrap();
    let proxy = cloud.ready().proxy;
    let wrong = to_cloud(&cloud, &format!("proxy = \"http://user:verboten@{proxy}\"\n"), TESTER_TO_CLOUD);
    let mut device = Device::new(&wrong);
    device.start();
    device.send("tester", "out", &numbered(1));
    let line = device.one_line("wants a name and a password");
    assert!(!line.contains("verboten"), "{line}");
    device.stop();
    device.configure(&wrong.replace("user:verboten", "user:pass word"));
    device.start();
    wait_stored(&cloud, ID, 1);
}

#[test]
fn a_proxy_that_is_not_there() {
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "proxy = \"http://127.0.0.1:9\"\n", TESTER_TO_CLOUD));
    device.start();
    let line = device.one_line("the proxy 127.0.0.1:9 can't be reached");
    assert!(line.contains("check network and firewall"), "{line}");
}

#[test]
fn keys_in_files_are_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let cloud = cloud(&["tester"]);
    let inline = to_cloud(&cloud, "", TESTER_TO_CLOUD);
    let string = cloud.ready().modules[0].connection_string.clone();
    let config =
        inline.replace(&format!("connection_string = \"{string}\""), "connection_string_file = \"tester.key\"");
    let mut device = Device::new(&config);
    let file = device.path("tester.key");
    std::fs::write(&file, format!("{string}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = device.start_refused();
    assert!(refused.err.contains("chmod 600"), "{refused:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    device.start();
    wait_connected(&cloud, ID);
    // In the configuration itself a key that others can read is warned of.
    device.stop();
    device.configure(&inline);
    device.start();
    device.wait_log("holds a key and others can read it");
}

#[test]
fn mistakes_in_the_configuration_are_refused_with_a_line() {
    let cloud = cloud(&["tester"]);
    let config = to_cloud(&cloud, "", "");
    let ca = cloud.ready().ca_file.display().to_string();
    for (wrong, part) in [
        (config.replace(&ca, "/nowhere/ca.pem"), "[upstream] ca: /nowhere/ca.pem"),
        (config.replace("DeviceId=d1", "DeviceId=d2"), "is for device \"d2\""),
        (config.replace("modules.tester", "modules.teste"), "ModuleId is \"tester\""),
    ] {
        let refused = Device::new(&wrong).start_refused();
        assert!(refused.err.contains(part) && !refused.err.contains("SharedAccessKey="), "{part}: {refused:?}");
    }
}
