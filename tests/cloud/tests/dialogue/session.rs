//! What a well-behaved client sees, and what becomes of one that is not.

use std::io::{Read, Write};
use std::net::TcpStream;

use mqtt_proto::QoS;
use mqtt_proto::v3::{Connack, ConnectReturnCode, Packet, SubscribeReturnCode};
use serde_json::json;
use skerry_cloud::{Cloud, Command, Options, What};

use crate::client::{Client, DEADLINE, connect_packet, masked, token};

const DEVICE: &str = "Hannover01";
const MODULE: &str = "Hannover01/insight";

fn start() -> Cloud {
    Cloud::start(Options::new(DEVICE, &["insight"])).expect("an emulator")
}

fn accepted(session_present: bool) -> Packet {
    Connack::new(session_present, ConnectReturnCode::Accepted).into()
}

#[test]
fn telemetry_is_stored_and_acknowledged_in_order() {
    let cloud = start();
    let (mut client, connack) = Client::connect(&cloud, MODULE);
    assert_eq!(connack, accepted(false));
    let topic = "devices/Hannover01/modules/insight/messages/events/%24.on=out%201&$.ct=application%2Fjson&a=1%2B1&b/";
    for pid in 1..=3 {
        client.publish(pid, topic, format!("{{\"n\":{pid}}}"));
    }
    client.publish(0, "devices/Hannover01/modules/insight/messages/events", "\u{fe}");
    for pid in 1..=3u16 {
        assert_eq!(client.read().expect("a PUBACK"), Packet::Puback(pid.try_into().expect("an id")));
    }
    let stored = cloud.wait_until(DEADLINE, |cloud| Some(cloud.telemetry()).filter(|all| all.len() == 4));
    let stored = stored.expect("four messages");
    assert_eq!(stored[1].json(), Some(json!({"n": 2})));
    assert_eq!((stored[0].output(), stored[0].property("a")), (Some("out 1"), Some("1+1")));
    assert_eq!(stored[0].properties["b"], None);
    assert_eq!((stored[3].qos, stored[3].properties.len()), (0, 0));
    assert_eq!(cloud.stored()[MODULE].messages, 4);
    assert!(cloud.bytes()[MODULE].received > 500);
    let line = serde_json::to_value(cloud.wait(DEADLINE, |e| matches!(e.what, What::Telemetry(_)))).expect("JSON");
    assert_eq!((&line["event"], &line["body"]), (&json!("telemetry"), &json!({"n": 1})));
}

#[test]
fn a_client_that_breaks_a_rule_is_closed_with_the_reason() {
    let cloud = start();
    let mut events = cloud.events();
    let mut check = |reason: &str, act: &dyn Fn(&mut Client)| {
        let (mut client, _) = Client::connect(&cloud, DEVICE);
        act(&mut client);
        client.ended();
        let fits = |what: &What| matches!(what, What::Disconnected { reason: why, .. } if why.contains(reason));
        let mut seen = Vec::new();
        let found = events.find(DEADLINE, |event| {
            seen.push(format!("{:?}", event.what));
            fits(&event.what)
        });
        assert!(found.is_some(), "{reason}: {seen:#?}");
    };
    check("not the topic", &|c| c.publish(1, "devices/other/messages/events/", "x"));
    check("not the topic", &|c| c.publish(1, "devices/Hannover01/modules/insight/messages/events/", "x"));
    check("nothing can be published", &|c| c.publish(1, "a/b", "x"));
    check("badly escaped", &|c| c.publish(1, "devices/Hannover01/messages/events/a=%4", "x"));
    check("stands twice", &|c| c.publish(1, "devices/Hannover01/messages/events/a=1&a=2", "x"));
    check("the limit is", &|c| c.publish(1, "devices/Hannover01/messages/events/a=1", vec![0; 256 * 1024]));
    check("more than", &|c| c.send_bytes(&[0x32, 0xFF, 0xFF, 0xFF, 0x7F]));
    check("five bytes", &|c| c.send_bytes(&[0x32, 0x80, 0x80, 0x80, 0x80, 0x01]));
    check("shorter than", &|c| c.send_bytes(&[0x30, 3, 0, 9, b'x']));
    check("malformed", &|c| c.send_bytes(&[0x36, 3, 0, 1, b'x']));
    check("malformed", &|c| c.send_bytes(&[0x00, 0]));
    check("malformed", &|c| c.send_raw(&[0x82, 0x01, 0x00]));
    check("sends no", &|c| c.send(&Packet::Pingresp));
    check("QoS 2", &|c| {
        let mut bytes = vec![0x34, 32, 0, 27];
        bytes.extend(b"devices/Hannover01/messages/events/".iter().take(27));
        bytes.extend([0, 1, b'x']);
        c.send_bytes(&bytes);
    });
    check("a second CONNECT", &|c| {
        c.send(&connect_packet(&cloud, DEVICE, &token(&cloud, DEVICE, 60)).into());
    });
    check("said DISCONNECT", &|c| c.send(&Packet::Disconnect));
    check("closed the WebSocket", &|c| c.send_raw(&masked(0x88, &[3, 232])));
    let (_older, _) = Client::connect(&cloud, DEVICE);
    let (_newer, connack) = Client::connect(&cloud, DEVICE);
    assert_eq!(connack, accepted(true));
    let newer = |what: &What| matches!(what, What::Disconnected { reason, .. } if reason.contains("newer"));
    assert!(events.find(DEADLINE, |event| newer(&event.what)).is_some());
}

#[test]
fn only_the_right_password_opens() {
    let cloud = start();
    let check = |why: &str, connect: mqtt_proto::v3::Connect| {
        let mut events = cloud.events();
        let mut client = Client::dial(&cloud).expect("TLS");
        client.upgrade("/%24iothub/websocket?iothub-no-client-cert=true", "AMQP, MQTT").expect("HTTP");
        client.send(&connect.into());
        assert_eq!(client.read().ok(), Some(Connack::new(false, ConnectReturnCode::NotAuthorized).into()), "{why}");
        client.ended();
        let event = events.find(DEADLINE, |event| matches!(event.what, What::Refused { .. })).expect("refused");
        assert!(
            matches!(&event.what, What::Refused { reason, code: Some(5), .. } if reason.contains(why)),
            "{event:?}"
        );
    };
    let with = |identity: &str, password: &str| connect_packet(&cloud, identity, password);
    check("expired", with(DEVICE, &token(&cloud, DEVICE, -5)));
    check("is for", with(DEVICE, &token(&cloud, MODULE, 60)));
    check("is for", with(MODULE, &token(&cloud, DEVICE, 60)));
    check("no shared access signature", with(DEVICE, "sesame"));
    check("signature is wrong", with(DEVICE, &token(&cloud, DEVICE, 60).replace("&se=", "&se=1")));
    check("no identity", with("Hannover02", &token(&cloud, DEVICE, 60)));
    let mut other_id = with(DEVICE, &token(&cloud, DEVICE, 60));
    other_id.client_id = "hannover01".into();
    check("client id", other_id);
    let mut other_host = with(DEVICE, &token(&cloud, DEVICE, 60));
    other_host.username = Some("other.azure-devices.net/Hannover01/?api-version=2021-04-12".into());
    check("host", other_host);
    let mut no_version = with(DEVICE, &token(&cloud, DEVICE, 60));
    no_version.username = Some("skerry-test.azure-devices.net/Hannover01/".into());
    check("api-version", no_version);
}

#[test]
fn mqtt_without_web_socket_and_through_the_proxy() {
    let options = Options { proxy_login: Some(("me".into(), "secret".into())), ..Options::new(DEVICE, &[]) };
    let cloud = Cloud::start(options).expect("an emulator");
    let dial = |login: &str| {
        let mut tcp = TcpStream::connect(cloud.ready().proxy).expect("the proxy");
        write!(tcp, "CONNECT hub.example:8883 HTTP/1.1\r\nHost: hub.example\r\n{login}\r\n").expect("a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        (tcp, String::from_utf8_lossy(&head).into_owned())
    };
    assert!(dial("").1.starts_with("HTTP/1.1 407 "));
    let (tcp, head) = dial("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut client = Client::over(tcp, &cloud).expect("TLS");
    // Packets need not come in one piece.
    let connect: Packet = connect_packet(&cloud, DEVICE, &token(&cloud, DEVICE, 60)).into();
    for byte in connect.encode().expect("a packet").as_ref() {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.read().expect("a CONNACK"), accepted(false));
    let proxy = |what: &What| matches!(what, What::Proxy { target, status: 200 } if target == "hub.example:8883");
    assert!(cloud.wait(DEADLINE, |event| proxy(&event.what)).is_some());
}

#[test]
fn http_answers() {
    let cloud = start();
    let mut client = Client::dial(&cloud).expect("TLS");
    let head = client.upgrade("/$iothub/websocket", "MQTT").expect("HTTP");
    // The example of RFC 6455.
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("Sec-WebSocket-Protocol: mqtt\r\n") && head.contains("Date: "), "{head}");
    for (target, protocol, status) in
        [("/", "mqtt", 404), ("/$iothub/websocket", "AMQPWSB10", 400), ("/devices/x/y?api-version=1", "mqtt", 404)]
    {
        let head = Client::dial(&cloud).expect("TLS").upgrade(target, protocol).expect("HTTP");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
    }
}

#[test]
fn a_twin_is_read_reported_and_desired() {
    let cloud = start();
    let (mut client, _) = Client::connect(&cloud, MODULE);
    let granted = |packet: Packet| match packet {
        Packet::Suback(suback) => suback.topics,
        other => panic!("{other:?}"),
    };
    assert_eq!(granted(client.subscribe("$iothub/twin/res/#", QoS::Level2)), [SubscribeReturnCode::MaxLevel1]);
    assert_eq!(granted(client.subscribe("a/#", QoS::Level0)), [SubscribeReturnCode::Failure]);
    client.subscribe("$iothub/twin/PATCH/properties/desired/#", QoS::Level0);
    client.publish(0, "$iothub/twin/GET/?$rid=4f", " ");
    let (topic, body) = client.read_publish();
    assert_eq!(
        (topic.as_str(), body.as_str()),
        ("$iothub/twin/res/200/?$rid=4f", r#"{"desired":{"$version":1},"reported":{"$version":1}}"#)
    );
    client.publish(0, "$iothub/twin/PATCH/properties/reported/?$rid=5", r#"{"a":{"b":1}}"#);
    assert_eq!(client.read_publish(), ("$iothub/twin/res/204/?$rid=5&$version=2".to_owned(), String::new()));
    client.publish(0, "$iothub/twin/PATCH/properties/reported/?$rid=6", r#"{"a b":1}"#);
    let (topic, body) = client.read_publish();
    assert!(topic.starts_with("$iothub/twin/res/400/?$rid=6") && body.contains("errorCode"), "{topic} {body}");
    cloud.command(Command::TwinStatus { status: 429, identity: None }).expect("carried out");
    client.publish(0, "$iothub/twin/GET/?$rid=7", "");
    assert_eq!(client.read_publish().0, "$iothub/twin/res/429/?$rid=7");
    cloud.command(Command::Calm).expect("carried out");
    let desired = Command::Desired { identity: MODULE.into(), patch: json!({"threshold": 25}) };
    assert_eq!(cloud.command(desired), Ok(json!({"version": 2})));
    let (topic, body) = client.read_publish();
    assert_eq!(topic, "$iothub/twin/PATCH/properties/desired/?$version=2");
    assert_eq!(body, r#"{"$version":2,"threshold":25}"#);
    let expected = json!({"desired": {"threshold": 25, "$version": 2}, "reported": {"a": {"b": 1}, "$version": 2}});
    assert_eq!(cloud.twin(MODULE), expected);
}

#[test]
fn methods_and_messages_from_the_cloud() {
    let cloud = start();
    let call = |timeout_s: f64| {
        let (identity, name) = (MODULE.to_owned(), "reboot".to_owned());
        let command = Command::Method { identity, name, payload: json!({"in": 1}), timeout_s: Some(timeout_s) };
        cloud.command(command).expect("a call")["rid"].as_str().expect("a number").to_owned()
    };
    let outcome = |rid: &str| {
        let fits = |what: &What| matches!(what, What::Method { rid: of, .. } if of == rid);
        match cloud.wait(DEADLINE, |event| fits(&event.what)).expect("an outcome").what {
            What::Method { status, payload, .. } => (status, payload),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(outcome(&call(9.0)).0, 404);
    let (mut client, _) = Client::connect(&cloud, MODULE);
    client.subscribe("$iothub/methods/POST/#", QoS::Level0);
    let rid = call(9.0);
    assert_eq!(client.read_publish(), (format!("$iothub/methods/POST/reboot/?$rid={rid}"), r#"{"in":1}"#.to_owned()));
    client.publish(0, &format!("$iothub/methods/res/207/?$rid={rid}"), r#"{"out":2}"#);
    assert_eq!(outcome(&rid), (207, json!({"out": 2})));
    assert_eq!(outcome(&call(0.05)).0, 504);
    client.read_publish();
    let input = |n: u32| Command::Input {
        identity: MODULE.into(),
        input: "in1".into(),
        body: json!({"n": n}),
        properties: Default::default(),
    };
    cloud.command(input(1)).expect("taken");
    client.subscribe("devices/Hannover01/modules/insight/#", QoS::Level1);
    assert_eq!(client.read_publish().0, "devices/Hannover01/modules/insight/inputs/in1/");
    drop(client);
    // It was not acknowledged, and so comes again.
    let (mut client, _) = Client::connect(&cloud, MODULE);
    cloud.command(input(2)).expect("taken");
    client.subscribe("devices/Hannover01/modules/insight/inputs/#", QoS::Level1);
    assert_eq!(client.read_publish().1, r#"{"n":1}"#);
    assert_eq!(client.read_publish().1, r#"{"n":2}"#);
    client.send(&Packet::Puback(1u16.try_into().expect("an id")));
    assert!(cloud.wait(DEADLINE, |event| matches!(event.what, What::Delivered { count: 1, .. })).is_some());
}

#[test]
fn a_session_remembers_messages_to_the_device_only() {
    let cloud = start();
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    client.subscribe("devices/Hannover01/messages/devicebound/#", QoS::Level1);
    client.subscribe("$iothub/methods/POST/#", QoS::Level0);
    client.send(&Packet::Disconnect);
    client.ended();
    let (mut client, connack) = Client::connect(&cloud, DEVICE);
    assert_eq!(connack, accepted(true));
    let properties = [("a".to_owned(), "1/2".to_owned())].into();
    cloud.command(Command::C2d { identity: DEVICE.into(), body: json!("hello"), properties }).expect("taken");
    let (topic, body) = client.read_publish();
    assert_eq!(
        topic,
        "devices/Hannover01/messages/devicebound/%24.to=%2Fdevices%2FHannover01%2Fmessages%2FdeviceBound&a=1%2F2"
    );
    assert_eq!(body, "hello");
    let command = Command::Method { identity: DEVICE.into(), name: "x".into(), payload: json!({}), timeout_s: None };
    cloud.command(command).expect("a call");
    assert!(cloud.wait(DEADLINE, |event| matches!(event.what, What::Method { status: 404, .. })).is_some());
}
