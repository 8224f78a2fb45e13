//! The provisioning client of the SDK for devices: from a registration and a key to a message in the hub.

use serde_json::json;
use skerry_cloud::{Cloud, Options, What, sas};

use crate::judge::{DEADLINE, Judge, command, happened, python};

fn start() -> (Cloud, Judge) {
    python();
    let cloud = Cloud::start(Options::new("Hannover01", &[])).expect("an emulator");
    let ready = cloud.ready();
    let mut judge = Judge::spawn("provision.py", &[]);
    judge.write(&json!({
        "host": ready.dps.host,
        "id_scope": ready.dps.id_scope,
        "proxy_host": ready.proxy.ip().to_string(),
        "proxy_port": ready.proxy.port(),
        "ca_file": ready.ca_file,
        "websockets": true,
    }));
    (cloud, judge)
}

#[test]
fn a_device_of_a_group_comes_to_its_hub() {
    let (cloud, mut judge) = start();
    let mut events = cloud.events();
    let key = sas::derive_key(&cloud.ready().dps.group_key, "serial-0815").expect("a key");
    for _ in 0..2 {
        judge.write(&json!({"registration": "serial-0815", "key": key}));
        let registered = judge.saw("registered", |_| true);
        assert_eq!((&registered["status"], &registered["device"]), (&json!("assigned"), &json!("serial-0815")));
        assert_eq!(registered["hub"], cloud.ready().host_name);
        judge.saw("sent", |_| true);
    }
    let to_dps = happened(&mut events, |what| matches!(what, What::Proxy { .. }));
    assert!(
        matches!(&to_dps, What::Proxy { target, .. } if target == "global.azure-devices-provisioning.net:443"),
        "{to_dps:?}"
    );
    happened(&mut events, |what| matches!(what, What::IdentityCreated { by, .. } if by == "dps"));
    let sent = cloud.wait_until(DEADLINE, |cloud| (cloud.telemetry().len() == 2).then(|| cloud.telemetry()));
    assert_eq!(sent.expect("two messages")[0].identity, "serial-0815");
    judge.end();
}

#[test]
fn an_enrolment_of_its_own_names_the_device() {
    let (cloud, mut judge) = start();
    let enrolled = command(&cloud, json!({"command": "enrol", "registration": "reg-1", "device": "Pump7"}));
    command(&cloud, json!({"command": "dps_status", "status": 429, "retry_after_s": 1, "count": 1}));
    judge.write(&json!({"registration": "reg-1", "key": enrolled["key"]}));
    assert_eq!(judge.saw("registered", |_| true)["device"], "Pump7");
    judge.saw("sent", |_| true);
    judge.end();
}

#[test]
fn registrations_fail_on_demand() {
    let (cloud, mut judge) = start();
    let mut events = cloud.events();
    let key = sas::derive_key(&cloud.ready().dps.group_key, "r1").expect("a key");
    let line = json!({"registration": "r1", "key": key});
    for (outcome, word) in [("disabled", "disabled"), ("unassigned", "unassigned"), ("failed", "failed")] {
        command(&cloud, json!({"command": "dps_outcome", "outcome": outcome}));
        judge.write(&line);
        let failed = judge.saw("failed", |_| true);
        assert!(failed["cause"].as_str().is_some_and(|cause| cause.contains(word)), "{failed}");
        happened(&mut events, |what| matches!(what, What::Registration { status, .. } if status == outcome));
    }
    command(&cloud, json!({"command": "dps_outcome"}));
    command(&cloud, json!({"command": "dps_status", "status": 401}));
    judge.write(&line);
    let failed = judge.saw("failed", |_| true);
    assert!(failed["cause"].as_str().is_some_and(|cause| cause.contains("401")), "{failed}");
    command(&cloud, json!({"command": "calm"}));
    judge.write(&json!({"registration": "r2", "key": key}));
    judge.saw("failed", |_| true);
    happened(
        &mut events,
        |what| matches!(what, What::Refused { reason, .. } if reason.contains("neither an enrolment `r2`")),
    );
    judge.write(&line);
    assert_eq!(judge.saw("registered", |_| true)["status"], "assigned");
    judge.end();
}
