//! The provisioning side over HTTPS and over MQTT, and what becomes of those who are not enrolled.

use bytes::Bytes;
use mqtt_proto::QoS;
use mqtt_proto::v3::{Connack, Connect, ConnectReturnCode, Packet};
use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Options, What, sas};

use crate::client::{Client, DEADLINE};

fn start() -> (Cloud, String) {
    let cloud = Cloud::start(Options::new("Hannover01", &[])).expect("an emulator");
    let key = sas::derive_key(&cloud.ready().dps.group_key, "R1").expect("a key");
    (cloud, key)
}

fn command(cloud: &Cloud, json: Value) {
    cloud.command(Command::from_json(&json.to_string()).expect("a command")).expect("carried out");
}

fn token(cloud: &Cloud, registration: &str, key: &str, expiry: u64) -> String {
    let scope = &cloud.ready().dps.id_scope;
    sas::sign(&format!("{scope}/registrations/{registration}"), key, expiry).expect("a token") + "&skn=registration"
}

const LATER: u64 = 4_000_000_000;

#[test]
fn a_registration_over_https() {
    let (cloud, key) = start();
    let own = token(&cloud, "R1", &key, LATER);
    let base = format!("/{}/registrations/R1", cloud.ready().dps.id_scope);
    let register = format!("PUT {base}/register?api-version=2021-06-01");
    let body = r#"{"registrationId":"R1"}"#;
    let mut client = Client::dial(&cloud).expect("TLS");
    let (status, head, told) = client.request(&register, &own, body);
    assert!(status == 202 && head.contains("Retry-After: 1\r\n") && told["status"] == "assigning", "{head} {told}");
    let poll = |told: &Value| {
        let operation = told["operationId"].as_str().expect("an operation");
        format!("GET {base}/operations/{operation}?api-version=2021-06-01")
    };
    command(&cloud, json!({"command": "dps_outcome", "outcome": "assigning"}));
    assert_eq!(client.request(&poll(&told), &own, "").2["status"], "assigning");
    command(&cloud, json!({"command": "dps_outcome"}));
    command(&cloud, json!({"command": "dps_status", "status": 429, "retry_after_s": 5, "count": 1}));
    let (status, head, error) = client.request(&poll(&told), &own, "");
    assert!(status == 429 && head.contains("Retry-After: 5\r\n") && error["errorCode"] == 429_000, "{head} {error}");
    let (status, _, done) = client.request(&poll(&told), &own, "");
    let state = &done["registrationState"];
    assert_eq!((status, &done["status"], &state["deviceId"]), (200, &json!("assigned"), &json!("R1")));
    assert_eq!(
        (&state["assignedHub"], &state["substatus"]),
        (&json!(cloud.ready().host_name), &json!("initialAssignment"))
    );
    let (_, _, again) = client.request(&register, &own, body);
    let (_, _, again) = client.request(&poll(&again), &own, "");
    assert_eq!(again["registrationState"]["substatus"], "deviceDataMigrated");
    assert!(cloud.identity("R1").expect("made").connection_string.ends_with(&key));
    for (head, own, body, expected) in [
        (format!("PUT {base}/register"), &own, body, (400, 400_001)),
        (register.clone(), &own, "{}", (400, 400_004)),
        (register.clone(), &own, "nonsense", (400, 400_004)),
        (format!("POST {base}/register?api-version=1"), &own, body, (405, 405_000)),
        (format!("GET {base}/operations/x?api-version=1"), &own, "", (404, 404_202)),
        (register.clone(), &String::new(), body, (401, 401_002)),
        (register.clone(), &token(&cloud, "R1", &key, 1), body, (401, 401_002)),
        (register.clone(), &token(&cloud, "R2", &key, LATER), body, (401, 401_002)),
        (register.replace("/R1/", "/R2/"), &token(&cloud, "R2", &key, LATER), body, (401, 401_002)),
        ("PUT /0neOTHER/registrations/R1/register?api-version=1".to_owned(), &own, body, (401, 401_002)),
    ] {
        let (status, _, error) = client.request(&head, own, body);
        assert_eq!((status, error["errorCode"].as_u64()), (expected.0, Some(expected.1)), "{head}: {error}");
    }
    let refused =
        |what: &What| matches!(what, What::Registration { status, reason: Some(_), .. } if status == "refused");
    assert!(cloud.wait(DEADLINE, |event| refused(&event.what)).is_some());
}

fn connect(cloud: &Cloud, registration: &str, password: &str) -> (Client, Packet) {
    let mut connect = Connect::new(registration.into(), 60);
    let scope = &cloud.ready().dps.id_scope;
    let user = format!("{scope}/registrations/{registration}/api-version=2019-03-31&ClientVersion=test");
    connect.username = Some(user.as_str().into());
    connect.password = Some(Bytes::copy_from_slice(password.as_bytes()));
    let mut client = Client::dial(cloud).expect("TLS");
    client.upgrade("/$iothub/websocket", "mqtt").expect("HTTP");
    client.send(&connect.into());
    let packet = client.read().expect("a CONNACK");
    (client, packet)
}

#[test]
fn a_registration_over_mqtt() {
    let (cloud, key) = start();
    let (mut client, connack) = connect(&cloud, "R1", &token(&cloud, "R1", &key, LATER));
    assert_eq!(connack, Connack::new(false, ConnectReturnCode::Accepted).into());
    let Packet::Suback(refused) = client.subscribe("devices/R1/messages/devicebound/#", QoS::Level1) else {
        panic!("a SUBACK")
    };
    assert_eq!(refused.topics, [mqtt_proto::v3::SubscribeReturnCode::Failure]);
    client.subscribe("$dps/registrations/res/#", QoS::Level0);
    client.publish(0, "$dps/registrations/PUT/iotdps-register/?$rid=1", r#"{"registrationId":"R1"}"#);
    let (topic, body) = client.read_publish();
    assert_eq!(topic, "$dps/registrations/res/202/?$rid=1&retry-after=1");
    let told: Value = serde_json::from_str(&body).expect("JSON");
    let operation = told["operationId"].as_str().expect("an operation");
    let poll = format!("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={operation}");
    client.publish(0, &poll, "");
    let (topic, body) = client.read_publish();
    assert!(topic == "$dps/registrations/res/200/?$rid=2" && body.contains(r#""deviceId":"R1""#), "{topic} {body}");
    client.publish(0, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=3&operationId=x", "");
    assert!(client.read_publish().0.starts_with("$dps/registrations/res/404/"));
    client.publish(0, "devices/R1/messages/events/", "x");
    client.ended();
    let ended = |what: &What| matches!(what, What::Disconnected { reason, .. } if reason.contains("nothing can be"));
    assert!(cloud.wait(DEADLINE, |event| ended(&event.what)).is_some());
}

#[test]
fn only_the_enrolled_come_in_over_mqtt() {
    let (cloud, key) = start();
    let check = |why: &str, registration: &str, password: &str| {
        let mut events = cloud.events();
        let (mut client, connack) = connect(&cloud, registration, password);
        assert_eq!(connack, Connack::new(false, ConnectReturnCode::NotAuthorized).into(), "{why}");
        client.ended();
        let refused = |what: &What| matches!(what, What::Refused { reason, .. } if reason.contains(why));
        assert!(events.find(DEADLINE, |event| refused(&event.what)).is_some(), "{why}");
    };
    check("neither an enrolment `R2`", "R2", &token(&cloud, "R2", &key, LATER));
    check("has expired", "R1", &token(&cloud, "R1", &key, 1));
    check("is for", "R1", &token(&cloud, "R2", &key, LATER));
    check("no shared access signature", "R1", "");
    check("is no id", "R 1", &token(&cloud, "R 1", &key, LATER));
}
