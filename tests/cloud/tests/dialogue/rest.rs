//! The REST interfaces as a device uses them for its modules, and what becomes of requests that are wrong.

use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Options, What, sas};

use crate::client::{Client, DEADLINE, connect_packet, policy_token, token};

const DEVICE: &str = "Hannover01";
const VERSION: &str = "api-version=2017-11-08-preview";

fn start() -> Cloud {
    let others = vec!["Hannover02".to_owned(), "Hannover02/pump".to_owned()];
    Cloud::start(Options { others, ..Options::new(DEVICE, &["insight"]) }).expect("an emulator")
}

fn command(cloud: &Cloud, json: Value) {
    cloud.command(Command::from_json(&json.to_string()).expect("a command")).expect("carried out");
}

/// On a connection of its own.
fn ask(cloud: &Cloud, head: &str, token: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = Client::dial(cloud).expect("TLS").request(head, token, body);
    (status, body)
}

#[track_caller]
fn refused((status, body): (u16, Value), expected: u16, code: &str) {
    let message = body["Message"].as_str().unwrap_or_default();
    assert!(status == expected && message.starts_with(&format!("ErrorCode:{code};")), "{status} {body}");
    assert!(body["ExceptionMessage"].as_str().is_some_and(|text| text.starts_with("Tracking ID:")), "{body}");
}

/// As an identity daemon does it: made without keys, which come with the second request, since they depend on the first.
#[test]
fn a_device_makes_its_modules() {
    let cloud = start();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let own = |cloud: &Cloud| {
        // Some make the audience lower-case, and sign what they sent.
        let known = cloud.identity(DEVICE).expect("known").connection_string;
        let key = known.split(";SharedAccessKey=").nth(1).expect("a key").to_owned();
        sas::sign(&format!("{}/devices/hannover01", cloud.ready().host_name), &key, 4_000_000_000).expect("a token")
    };
    let own = own(&cloud);
    let mut client = Client::dial(&cloud).expect("TLS");
    let path = format!("/devices/{DEVICE}/modules/%24valve?{VERSION}");
    let body = json!({"moduleId": "$valve", "deviceId": DEVICE, "managedBy": null}).to_string();
    // All of it on one connection.
    let (status, head, made) = client.request(&format!("PUT {path}"), &own, &body);
    assert!(status == 200 && head.contains("ETag: \""), "{head} {made}");
    let generation = made["generationId"].as_str().expect("a generation").to_owned();
    assert!(made["authentication"]["symmetricKey"]["primaryKey"].is_string(), "{made}");
    assert_eq!(client.request(&format!("PUT {path}"), &own, &body).0, 409);
    let keys = json!({"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}});
    let body = json!({"moduleId": "$valve", "deviceId": DEVICE, "authentication": keys}).to_string();
    let update = format!("PUT {path} HTTP/1.1\r\nIf-Match: *\r\nX-Rest:");
    let (status, _, updated) = client.request(&update, &own, &body);
    assert_eq!((status, updated["generationId"].as_str()), (200, Some(generation.as_str())));
    let (_, _, listed) = client.request(&format!("GET /devices/{DEVICE}/modules?{VERSION}"), &own, "");
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let mut mqtt = Client::dial(&cloud).expect("TLS");
    let password = token(&cloud, "Hannover01/$valve", 60);
    mqtt.send(&connect_packet(&cloud, "Hannover01/$valve", &password).into());
    assert!(matches!(mqtt.read(), Ok(mqtt_proto::v3::Packet::Connack(_))));
    // Deleting ends its connection.
    let delete = format!("DELETE {path} HTTP/1.1\r\nIf-Match: *\r\nX-Rest:");
    assert_eq!(client.request(&delete, &own, "").0, 204);
    mqtt.ended();
    refused(ask(&cloud, &format!("GET {path}"), &own, ""), 404, "ModuleNotFound");
    let by = |what: &What| matches!(what, What::IdentityDeleted { by, .. } if by == "device");
    assert!(cloud.wait(DEADLINE, |event| by(&event.what)).is_some());
    assert_eq!(cloud.twin("Hannover01/$valve"), Value::Null);
    // Connections that only spoke HTTP are no refused clients.
    command(&cloud, json!({"command": "cut"}));
    assert!(cloud.wait(DEADLINE / 100, |event| matches!(event.what, What::Refused { .. })).is_none());
}

#[test]
fn only_the_right_token_opens() {
    let cloud = start();
    let host = cloud.ready().host_name.clone();
    let modules = format!("GET /devices/{DEVICE}/modules?{VERSION}");
    let check = |head: &str, token: &str, expected: u16| {
        let (status, body) = ask(&cloud, head, token, "");
        assert_eq!(status, expected, "{head} {token}: {body}");
        if expected == 401 {
            refused((status, body), 401, "IotHubUnauthorizedAccess");
        }
    };
    let own = token(&cloud, DEVICE, 60);
    check(&modules, &own, 200);
    check(&modules, &policy_token(&cloud, &host, 60), 200);
    check(&modules, &policy_token(&cloud, &format!("{host}/devices"), 60), 200);
    for wrong in [
        String::new(),
        "sesame".to_owned(),
        token(&cloud, DEVICE, -5),
        token(&cloud, "Hannover02", 60),
        token(&cloud, "Hannover01/insight", 60),
        own.replace("&se=", "&se=1"),
        policy_token(&cloud, &host, -5),
        policy_token(&cloud, "other.azure-devices.net", 60),
        policy_token(&cloud, &format!("{host}/devices/Hannover02"), 60),
        policy_token(&cloud, &format!("{host}/dev"), 60),
        policy_token(&cloud, &host, 60).replace("iothubowner", "guest"),
        policy_token(&cloud, &host, 60).replace("&se=", "&se=1"),
    ] {
        check(&modules, &wrong, 401);
    }
    // A device is not a back end.
    for head in ["GET /devices?", "GET /twins/Hannover01?", "POST /twins/Hannover01/methods?", "POST /devices/query?"] {
        check(&format!("{head}{VERSION}"), &own, 401);
    }
    check(&format!("GET /devices/{DEVICE}?{VERSION}"), &own, 200);
    check(&format!("DELETE /devices/{DEVICE}?{VERSION}"), &own, 401);
    command(&cloud, json!({"command": "disable", "identity": DEVICE}));
    check(&modules, &own, 401);
    command(&cloud, json!({"command": "enable", "identity": DEVICE}));
    check(&modules, &own, 200);
    command(&cloud, json!({"command": "revoke", "identity": DEVICE}));
    check(&modules, &own, 401);
}

#[test]
fn requests_that_are_wrong_are_refused_with_the_reason() {
    let cloud = start();
    let all = policy_token(&cloud, &cloud.ready().host_name, 60);
    let check = |head: &str, body: &str, status: u16, code: &str| refused(ask(&cloud, head, &all, body), status, code);
    let device = format!("/devices/{DEVICE}");
    check("GET /devices/Hannover01", "", 400, "InvalidProtocolVersion");
    check("GET /devices/Hannover01?api-version=2016-11-14", "", 400, "InvalidProtocolVersion");
    check(&format!("GET /devices/Nowhere/modules?{VERSION}"), "", 404, "DeviceNotFound");
    check(&format!("PUT /devices/Nowhere/modules/m?{VERSION}"), "{}", 404, "DeviceNotFound");
    check(&format!("POST {device}?{VERSION}"), "{}", 405, "InvalidOperation");
    check(&format!("PUT {device}/modules/m?{VERSION}"), "{", 400, "ArgumentInvalid");
    check(&format!("PUT {device}/modules/m%20m?{VERSION}"), "{}", 400, "ArgumentInvalid");
    check(&format!("PUT {device}/modules/m?{VERSION}"), r#"{"moduleId":"n"}"#, 400, "ArgumentInvalid");
    check(&format!("DELETE {device}/modules/insight?{VERSION}"), "", 400, "ArgumentInvalid");
    check(&format!("PATCH /twins/Hannover01?{VERSION}"), r#"{"tags":[1]}"#, 400, "ArgumentInvalid");
    check(&format!("PATCH /twins/Hannover01?{VERSION}"), r#"{"properties":1}"#, 400, "ArgumentInvalid");
    check(&format!("POST {device}/applyConfigurationContent?{VERSION}"), "{}", 400, "ArgumentInvalid");
    let deep = "[".repeat(100_000);
    check(&format!("PATCH /twins/Hannover01?{VERSION}"), &deep, 400, "ArgumentInvalid");
    check(&format!("POST /twins/Hannover01/methods?{VERSION}"), r#"{"methodName":""}"#, 400, "ArgumentInvalid");
    // Before its body is read.
    let raw = |text: &str| {
        let mut client = Client::dial(&cloud).expect("TLS");
        client.send_raw(text.as_bytes());
        let (status, _, body) = client.response();
        client.ended();
        (status, body)
    };
    refused(raw("PUT /devices/x HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"), 413, "MessageTooLarge");
    refused(raw("PUT /devices/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400, "ArgumentInvalid");
    refused(raw("PUT /devices/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 411, "LengthRequired");
    assert_eq!(raw("nonsense\r\n\r\n").0, 400);
    assert_eq!(raw("GET /devices/x HTTP/1.0\r\n\r\n").0, 401);
}

#[test]
fn limits_hold() {
    let cloud = start();
    let all = policy_token(&cloud, &cloud.ready().host_name, 600);
    let mut client = Client::dial(&cloud).expect("TLS");
    for n in 1..50 {
        assert_eq!(client.request(&format!("PUT /devices/{DEVICE}/modules/m{n}?{VERSION}"), &all, "{}").0, 200);
    }
    let more = ask(&cloud, &format!("PUT /devices/{DEVICE}/modules/more?{VERSION}"), &all, "{}");
    refused(more, 413, "TooManyModulesOnDevice");
    // Those of a deployment have no keys yet.
    let deployed = r#"{"modulesContent":{"late":{"properties.desired":{}}}}"#;
    let configure = "/devices/Hannover02/applyConfigurationContent";
    assert_eq!(client.request(&format!("POST {configure}?{VERSION}"), &all, deployed).0, 204);
    let mut late = Client::dial(&cloud).expect("TLS");
    let password = token(&cloud, "Hannover02/late", 60);
    late.send(&connect_packet(&cloud, "Hannover02/late", &password).into());
    late.ended();
    let refused_late = |what: &What| matches!(what, What::Refused { reason, .. } if reason.contains("has no key"));
    assert!(cloud.wait(DEADLINE, |event| refused_late(&event.what)).is_some());
    let deployment = r#"{"modulesContent":{"more":{"properties.desired":{}}}}"#;
    let more = ask(&cloud, &format!("POST /devices/{DEVICE}/applyConfigurationContent?{VERSION}"), &all, deployment);
    refused(more, 413, "TooManyModulesOnDevice");
}

#[test]
fn faults_of_rest_are_counted() {
    let cloud = start();
    let own = token(&cloud, DEVICE, 60);
    let modules = format!("GET /devices/{DEVICE}/modules?{VERSION}");
    command(&cloud, json!({"command": "rest_status", "status": 429, "retry_after_s": 7, "count": 2}));
    let mut client = Client::dial(&cloud).expect("TLS");
    for expected in [429, 429, 200] {
        let (status, head, _) = client.request(&modules, &own, "");
        assert_eq!((status, head.contains("Retry-After: 7\r\n")), (expected, expected == 429));
    }
    command(&cloud, json!({"command": "rest_status", "status": 500}));
    refused(ask(&cloud, &modules, &own, ""), 500, "ServerError");
    // WebSockets have a fault of their own.
    let head = Client::dial(&cloud).expect("TLS").upgrade("/$iothub/websocket", "mqtt").expect("HTTP");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    command(&cloud, json!({"command": "calm"}));
    command(&cloud, json!({"command": "date", "skew_s": -86_400}));
    let (status, head, _) = client.request(&modules, &own, "");
    assert!(status == 200 && head.contains("Date: "), "{head}");
    let wrong = Command::from_json(r#"{"command":"rest_status","status":200}"#).expect("a command");
    assert!(cloud.command(wrong).is_err());
    let http = |what: &What| matches!(what, What::Http { path, status: 500 } if path.starts_with("/devices/"));
    assert!(cloud.wait(DEADLINE, |event| http(&event.what)).is_some());
}

#[test]
fn a_call_is_answered_once() {
    let cloud = start();
    let (mut module, _) = Client::connect(&cloud, "Hannover01/insight");
    module.subscribe("$iothub/methods/POST/#", mqtt_proto::QoS::Level0);
    let all = policy_token(&cloud, &cloud.ready().host_name, 60);
    let head = format!("POST /twins/{DEVICE}/modules/insight/methods?{VERSION}");
    let body = r#"{"methodName":"reboot","payload":""}"#;
    let mut caller = Client::dial(&cloud).expect("TLS");
    let length = body.len();
    caller.send_raw(
        format!("{head} HTTP/1.1\r\nAuthorization: {all}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
    );
    let (topic, payload) = module.read_publish();
    assert_eq!(payload, r#""""#);
    let rid = topic.split("$rid=").nth(1).expect("a number").to_owned();
    module.publish(0, &format!("$iothub/methods/res/200/?$rid={rid}"), "no JSON");
    let (status, _, body) = caller.response();
    assert_eq!((status, body), (200, json!({"status": 200, "payload": null})));
    // The answer comes once.
    module.publish(1, &format!("$iothub/methods/res/200/?$rid={rid}"), "{}");
    assert!(matches!(module.read(), Ok(mqtt_proto::v3::Packet::Puback(_))));
}
